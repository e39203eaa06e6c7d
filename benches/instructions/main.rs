//! Runs one kernel on fixed input, on this thread, for `bench/instructions.py` to count its instructions.

use anyhow::{bail, Result};
use candle_core::{DType, Device, Module, Tensor};
use candle_softpool::{Gradient, SoftPool2d};
use std::hint::black_box;

/// Kernel, stride, padding; whether the backward pass is counted too.
const WINDOWS: [(usize, usize, usize, bool); 5] = [
    (2, 2, 0, true),
    (3, 2, 0, true),
    (7, 3, 0, false),
    (3, 1, 1, true),
    (13, 1, 6, false),
];

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

struct Case {
    name: String,
    pool: SoftPool2d,
    dtype: DType,
    backward: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DTYPES {
        for (kernel, stride, padding, backward) in WINDOWS {
            let pool = SoftPool2d::new(kernel).stride(stride).padding(padding);
            let mut push = |pass: &str, pool, backward| {
                let name = format!("{pass} {kernel}/{stride} p{padding} {}", dtype.as_str());
                cases.push(Case {
                    name,
                    pool,
                    dtype,
                    backward,
                });
            };
            push("forward", pool, false);
            if backward {
                push("paper", pool, true);
                push("exact", pool.gradient(Gradient::Exact), true);
            }
        }
    }
    cases
}

/// Without an argument the names of the kernels. With one that kernel, once to warm up, and then as often as a second
/// argument says, or once: callgrind counts `softpool_counted` alone.
fn main() -> Result<()> {
    // Cargo passes --bench.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let Some(name) = args.next() else {
        cases().iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    };
    let Some(case) = cases().into_iter().find(|case| case.name == name) else {
        bail!("no kernel {name:?}");
    };
    let calls: u32 = args.next().map_or(Ok(1), |calls| calls.parse())?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build_global()?;
    println!("{}", instruction_set());
    let shape = (1, 8, 56, 56);
    let cells = 8 * 56 * 56;
    let xs: Vec<f32> = (0..cells).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
    let xs = Tensor::from_vec(xs, shape, &Device::Cpu)?.to_dtype(case.dtype)?;
    let grad = case.pool.forward(&xs)?.ones_like()?;
    let run = || match case.backward {
        true => black_box(case.pool.backward(&xs, &grad)),
        false => black_box(case.pool.forward(&xs)),
    };
    run()?;
    for _ in 0..calls {
        softpool_counted(&|| run().map(|_| ()))?;
    }
    Ok(())
}

/// The one that the kernels run on here.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return "AVX-512";
    } else if is_x86_feature_detected!("avx2") {
        return "AVX2";
    }
    if cfg!(target_arch = "aarch64") {
        "NEON"
    } else if cfg!(all(target_arch = "wasm32", target_feature = "simd128")) {
        "WebAssembly SIMD"
    } else {
        "none"
    }
}

/// What callgrind counts, callees included.
#[inline(never)]
#[no_mangle]
extern "Rust" fn softpool_counted(
    work: &dyn Fn() -> candle_core::Result<()>,
) -> candle_core::Result<()> {
    black_box(work)()
}
