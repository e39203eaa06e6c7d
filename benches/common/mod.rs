//! What the benchmarks share: a clock, an account of memory, medians.

pub mod memory;

use candle_core::{Device, Result, Tensor};
use std::hint::black_box;
use std::time::Instant;

#[global_allocator]
static MEMORY: memory::Counter = memory::Counter::new();

/// Seconds that a measurement takes at least: the first of several short runs finds caches cold and threads asleep.
const LEAST_SECONDS: f64 = 5e-3;

/// What one run took.
#[derive(Clone, Copy)]
pub struct Sample {
    pub seconds: f64,
    /// The peak of the bytes allocated on the host beyond those of the inputs and the results.
    pub extra: usize,
}

/// Runs `f`, whose results are new tensors, until the device is done with it; if that is short, the mean of several runs.
pub fn timed(device: &Device, f: impl Fn() -> Result<Vec<Tensor>>) -> Result<Sample> {
    device.synchronize()?;
    let before = MEMORY.start();
    let start = Instant::now();
    let results = black_box(f()?);
    device.synchronize()?;
    let mut seconds = start.elapsed().as_secs_f64();
    let bytes: usize = results
        .iter()
        .map(|t| t.elem_count() * t.dtype().size_in_bytes())
        .sum();
    let extra = MEMORY.peak().saturating_sub(before + bytes);
    drop(results);
    if seconds < LEAST_SECONDS {
        let runs = (LEAST_SECONDS / seconds).ceil();
        let start = Instant::now();
        for _ in 0..runs as usize {
            black_box(f()?);
        }
        device.synchronize()?;
        seconds = start.elapsed().as_secs_f64() / runs;
    }
    Ok(Sample { seconds, extra })
}

/// The middle value, `None` of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
