//! Metal's kernels, compiled by the host's C++ compiler, behind a pipe.

use candle_core::DType;
use candle_softpool::backend::metal_source;
use candle_softpool::backend::plan::Rule;
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, path::Path};

/// What a kernel is launched over: blocks, their threads and the bytes that those share.
#[derive(Clone, Copy)]
pub struct Grid {
    pub blocks: u32,
    pub threads: u32,
    pub shared: usize,
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
    /// With the kernels of these rules and dtypes: each module by itself, as devices compile them.
    ///
    /// None where there is no C++ compiler, which continuous integration takes for a failure.
    pub fn new(rules: &[Rule], dtypes: &[DType]) -> Option<Self> {
        let Some(compiler) = compiler() else {
            assert!(env::var_os("CI").is_none(), "no C++ compiler: set CXX");
            eprintln!("skipped: the emulation of Metal needs a C++ compiler, set CXX");
            return None;
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulation");
        let program = tempfile::tempdir().unwrap();
        let mut sources = vec![(folder.join("driver.cpp"), "c++17")];
        for (&dtype, index) in dtypes.iter().flat_map(|d| [(d, "u32"), (d, "u64")]) {
            for &rule in rules {
                let name = format!("{}_{}_{index}.cpp", rule.name(), dtype.as_str());
                let path = program.path().join(name);
                std::fs::write(&path, metal_source::module(rule, dtype, index)).unwrap();
                // Metal 3.0 is a C++14.
                sources.push((path, "c++14"));
            }
        }
        let object = |i: usize| program.path().join(format!("{i}.o"));
        let next = AtomicUsize::new(0);
        let compile = || {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let (source, standard) = sources.get(i)?;
            let compiler = Command::new(&compiler)
                .arg(format!("-std={standard}"))
                .args(["-c", "-O1", "-g", "-w", "-ffp-contract=off", SANITIZER])
                .args(["-fno-sanitize-recover=all", "-I"])
                .args([&folder.join("metal"), Path::new("-o"), &object(i), source])
                .output();
            succeeded(compiler.unwrap());
            Some(())
        };
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| while compile().is_some() {});
            }
        });
        let objects = (0..sources.len()).map(object);
        let path = program.path().join("driver");
        let linker = Command::new(&compiler)
            .args(["-rdynamic", SANITIZER, "-o"])
            .arg(&path)
            .args(objects)
            .arg("-ldl")
            .output();
        succeeded(linker.unwrap());
        let child = Command::new(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let _program = program;
        Some(Self { child, _program })
    }

    /// Runs a kernel on input, logits and gradient, which changes the output and the scratch buffer.
    pub fn launch(
        &mut self,
        function: &str,
        grid: Grid,
        params: &[u8],
        inputs: &[Buffer; 3],
        [output, scratch]: [&mut [u8]; 2],
    ) {
        let mut request = Vec::new();
        put(&mut request, &Buffer::new(function.as_bytes()));
        for n in [grid.blocks as usize, grid.threads as usize, grid.shared] {
            request.extend((n as u64).to_ne_bytes());
        }
        let [input, logits, grad] = inputs;
        for buffer in [
            &Buffer::new(params),
            input,
            logits,
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

const SANITIZER: &str = "-fsanitize=address,alignment";

fn succeeded(output: Output) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the compiler fails:\n{errors}");
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
