//! A GPU language's kernels, compiled by the host's C++ compiler, behind a pipe.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::{env, path::Path};

/// A GPU language: its kernels, and the folder of its shim here.
pub struct Language {
    pub name: &'static str,
    pub kernels: &'static str,
}

/// Bytes of a tensor; `skip` is by how many bytes its start misses an aligned address.
pub struct Buffer<'a> {
    pub skip: usize,
    pub bytes: &'a [u8],
}

impl<'a> Buffer<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { skip: 0, bytes }
    }
}

/// A running driver: see `driver.cpp`.
pub struct Driver {
    child: Child,
    _program: tempfile::TempDir,
}

impl Driver {
    /// None where there is no C++ compiler, which continuous integration takes for a failure.
    pub fn new(language: &Language) -> Option<Self> {
        let Some(compiler) = compiler() else {
            assert!(env::var_os("CI").is_none(), "no C++ compiler: set CXX");
            eprintln!(
                "skipped: the emulation of {} needs a C++ compiler, set CXX",
                language.name
            );
            return None;
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("tests/emulation");
        let program = tempfile::tempdir().unwrap();
        let path = program.path().join("driver");
        let output = Command::new(&compiler)
            .args([
                "-std=c++17",
                "-O1",
                "-g",
                "-w",
                "-rdynamic",
                "-ffp-contract=off",
            ])
            .args(["-fsanitize=address,alignment", "-fno-sanitize-recover=all"])
            .arg(format!(
                "-DKERNELS=\"{}\"",
                root.join(language.kernels).display()
            ))
            .arg("-I")
            .arg(folder.join(language.name))
            .arg(folder.join("driver.cpp"))
            .arg("-o")
            .arg(&path)
            .arg("-ldl")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler} fails:\n{errors}");
        let child = Command::new(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let _program = program;
        Some(Self { child, _program })
    }

    /// Runs a kernel over `grid`, blocks and their threads, on the input and the gradient, which changes the output
    /// and the scratch buffer.
    pub fn launch(
        &mut self,
        function: &str,
        grid: [u32; 2],
        params: &[u8],
        [input, grad]: [&Buffer; 2],
        [output, scratch]: [&mut [u8]; 2],
    ) {
        let mut request = Vec::new();
        put(&mut request, &Buffer::new(function.as_bytes()));
        for n in grid {
            request.extend(u64::from(n).to_ne_bytes());
        }
        for buffer in [
            &Buffer::new(params),
            input,
            grad,
            &Buffer::new(output),
            &Buffer::new(scratch),
        ] {
            put(&mut request, buffer);
        }
        let sent = self.child.stdin.as_mut().unwrap().write_all(&request);
        let stdout = self.child.stdout.as_mut().unwrap();
        let answered = sent
            .and_then(|()| self.child.stdin.as_mut().unwrap().flush())
            .and_then(|()| stdout.read_exact(output))
            .and_then(|()| stdout.read_exact(scratch));
        assert!(answered.is_ok(), "{function} crashed: see above");
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.child.stdin.take();
        let _ = self.child.wait();
    }
}

fn put(request: &mut Vec<u8>, buffer: &Buffer) {
    request.extend((buffer.skip as u64).to_ne_bytes());
    request.extend((buffer.bytes.len() as u64).to_ne_bytes());
    request.extend(buffer.bytes);
}

fn compiler() -> Option<String> {
    let named = env::var("CXX").ok().into_iter();
    let usual = ["g++", "clang++", "c++"].map(String::from);
    named.chain(usual).find(|name| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    })
}
