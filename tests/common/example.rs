//! The examples as programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Cargo builds the examples with the tests, beside them: `target/debug/deps/this`, `target/debug/examples/name`.
pub fn example(name: &str) -> Command {
    let mut path = std::env::current_exe().expect("the test's own path");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !path.is_file() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--example", name])
            .status();
        assert!(built.expect("cargo runs").success() && path.is_file());
    }
    let mut command = Command::new(path);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON of each line of standard output.
pub fn lines(output: &Output) -> Vec<serde_json::Value> {
    let text = text(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

pub fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
