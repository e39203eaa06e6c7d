//! The examples as programs.
#![allow(dead_code)] // Each test file uses its part.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The example that these tests run; each test binary has one.
pub fn example(name: &str) -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(PROGRAM.get_or_init(|| program(name)));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// Built as this test is, `target/debug/deps/this`, and beside it: `target/debug/examples/name`.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("target/debug");
    // Tests that are named one by one are built without the examples, which may then be missing, or older than their source.
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--locked", "--example", name]);
        // What Cargo tells a test of its own package would have dependencies built anew, which watch these names for theirs.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_MANIFEST_")
                || text.starts_with("CARGO_PKG_")
                || text == "OUT_DIR"
            {
                build.env_remove(&name);
            }
        }
        let status = build.args(as_built(folder)).status();
        assert!(status.expect("cargo runs").success());
    }
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    folder.join("examples").join(file)
}

/// The target, profile and features that Cargo built into a folder: `target/debug`, or `target/x86_64-unknown-linux-gnu/debug`.
fn as_built(folder: &Path) -> Vec<String> {
    let name = |path: &Path| path.file_name().expect("a name").display().to_string();
    let profile = match name(folder) {
        name if name == "debug" => "dev".to_string(),
        name => name,
    };
    let above = folder.parent().expect("target");
    let mut args = vec!["--profile".to_string(), profile];
    // A triple begins with the architecture.
    let target = match name(above) {
        triple if triple.starts_with(&format!("{}-", std::env::consts::ARCH)) => {
            args.extend(["--target".to_string(), triple]);
            above.parent().expect("target")
        }
        _ => above,
    };
    args.extend(["--target-dir".to_string(), target.display().to_string()]);
    let features = [
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ];
    for (feature, on) in features {
        if on {
            args.extend(["--features".to_string(), feature.to_string()]);
        }
    }
    args
}

/// Runs a program whose standard output nobody reads.
pub fn unread(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the example runs");
    drop(child.stdout.take());
    child.wait_with_output().expect("it ends")
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

/// `stored` with the EXIF data that tell viewers to turn it.
pub fn jpeg(stored: &image::DynamicImage, orientation: u8) -> Vec<u8> {
    let mut jpeg = std::io::Cursor::new(vec![]);
    let format = image::ImageFormat::Jpeg;
    stored.write_to(&mut jpeg, format).expect("a JPEG");
    let jpeg = jpeg.into_inner();
    // Big-endian, one entry: tag 0x0112, one short.
    let entry = [1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0];
    let exif = [b"Exif\0\0MM\0*\0\0\0\x08\0\x01", &entry[..], &[0; 4]].concat();
    let segment = [&[0xff, 0xe1, 0, exif.len() as u8 + 2], &exif[..]].concat();
    [&jpeg[..2], &segment, &jpeg[2..]].concat()
}
