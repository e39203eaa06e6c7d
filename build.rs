//! Compiles `cuda/softpool.cu`, with the headers in `kernels`, to PTX, under the feature `cuda` only.

use std::env;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

const SOURCE: &str = "cuda/softpool.cu";
const HEADERS: &str = "kernels";
/// A module has the kernels of a rule, a dtype and an index.
const RULES: [&str; 6] = [
    "softpool", "softmax", "average", "power", "weighted", "maximum",
];
const DTYPES: [&str; 4] = ["f16", "bf16", "f32", "f64"];
const INDICES: [&str; 2] = ["u32", "u64"];
/// PTX runs on GPUs of its own compute capability and all later ones; CUDA 12 and 13 both know this one.
const DEFAULT_CAPABILITY: &str = "75";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        println!("cargo::rerun-if-changed={SOURCE}");
        println!("cargo::rerun-if-changed={HEADERS}");
        for name in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "CUDA_PATH", "NVCC"] {
            println!("cargo::rerun-if-env-changed={name}");
        }
        let capability = capability();
        println!("cargo::rustc-env=SOFTPOOL_COMPUTE_CAPABILITY={capability}");
        if let Err(reason) = compile(&capability) {
            println!("cargo::error={reason}");
        }
    }
}

/// Writes the PTX of every module, and `modules.rs`: a slice of their names and texts.
fn compile(capability: &str) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let nvcc = nvcc();
    let modules: Vec<Module> = RULES
        .into_iter()
        .flat_map(|rule| DTYPES.map(|dtype| (rule, dtype)))
        .flat_map(|(rule, dtype)| INDICES.map(|index| Module { rule, dtype, index }))
        .collect();
    let next = AtomicUsize::new(0);
    let compile_some = || -> Result<(), String> {
        while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
            compile_module(&nvcc, capability, module, &out)?;
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let compilers: Vec<_> = (0..threads).map(|_| scope.spawn(compile_some)).collect();
        compilers
            .into_iter()
            .try_for_each(|compiler| compiler.join().expect("a compiler's thread"))
    })?;
    let entries: String = modules
        .iter()
        .map(|module| {
            let name = module.name();
            format!("(\"{name}\", include_str!(\"{name}.ptx\")),\n")
        })
        .collect();
    std::fs::write(out.join("modules.rs"), format!("&[\n{entries}]\n"))
        .map_err(|e| format!("{}: {e}", out.display()))
}

struct Module {
    rule: &'static str,
    dtype: &'static str,
    index: &'static str,
}

impl Module {
    fn name(&self) -> String {
        let Self { rule, dtype, index } = self;
        format!("{rule}_{dtype}_{index}")
    }
}

fn compile_module(
    nvcc: &Path,
    capability: &str,
    module: &Module,
    out: &Path,
) -> Result<(), String> {
    let output = Command::new(nvcc)
        // A module uses only some of the functions.
        .args(["-std=c++17", "-O3", "-ptx", "-diag-suppress", "177"])
        .arg(format!("-arch=compute_{capability}"))
        .arg(format!("-DMODULE_RULE={}", module.rule))
        .arg(format!("-DMODULE_DTYPE={}", module.dtype))
        .arg(format!("-DMODULE_INDEX={}", module.index))
        .arg("-o")
        .arg(out.join(format!("{}.ptx", module.name())))
        .arg(SOURCE)
        .output()
        .map_err(|e| {
            let nvcc = nvcc.display();
            format!("the feature `cuda` needs NVIDIA's compiler, but {nvcc} does not start ({e}): install the CUDA toolkit and set CUDA_HOME, NVCC or PATH")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let messages = [output.stdout, output.stderr].concat();
    let messages = String::from_utf8_lossy(&messages).replace('\n', " | ");
    Err(format!(
        "{} cannot compile {SOURCE} for compute capability {capability} (CUDA_COMPUTE_CAP sets another): {messages}",
        nvcc.display()
    ))
}

/// The first that starts, looked for where candle's kernels look: `NVCC`, the path, `CUDA_HOME`, `CUDA_PATH`.
fn nvcc() -> PathBuf {
    let of_home = |name| env::var_os(name).map(|home| PathBuf::from(home).join("bin/nvcc"));
    let named = env::var_os("NVCC").map(PathBuf::from);
    let starts = |nvcc: &PathBuf| Command::new(nvcc).arg("--version").output().is_ok();
    [
        named,
        Some("nvcc".into()),
        of_home("CUDA_HOME"),
        of_home("CUDA_PATH"),
    ]
    .into_iter()
    .flatten()
    .find(starts)
    .unwrap_or("nvcc".into())
}

/// Digits such as 90, from `CUDA_COMPUTE_CAP` (90, 9.0 or 90a), or that of this machine's first GPU.
fn capability() -> String {
    let named = env::var("CUDA_COMPUTE_CAP").ok();
    let found = named.or_else(|| {
        let query = ["--query-gpu=compute_cap", "--format=csv,noheader"];
        let output = Command::new("nvidia-smi").args(query).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.lines().next()?.to_owned())
    });
    let digits = found.map(|text| {
        text.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    });
    digits
        .filter(|digits| digits.len() >= 2)
        .unwrap_or(DEFAULT_CAPABILITY.into())
}
