//! What the benchmarks share: a clock, an account of memory, medians.

pub mod memory;

use candle_core::{Device, Error, Result, Tensor};
use std::hint::black_box;
use std::time::{Duration, Instant};

#[global_allocator]
static MEMORY: memory::Counter = memory::Counter::new();

/// Seconds of one call of `f`, whose results are new tensors, until the device is done; they are freed after that.
pub fn once(device: &Device, f: impl Fn() -> Result<Vec<Tensor>>) -> Result<f64> {
    device.synchronize()?;
    let start = Instant::now();
    let results = black_box(f()?);
    device.synchronize()?;
    let seconds = start.elapsed().as_secs_f64();
    drop(results);
    Ok(seconds)
}

/// The median of as many calls as so many seconds hold, at least one.
pub fn repeated(device: &Device, seconds: f64, f: impl Fn() -> Result<Vec<Tensor>>) -> Result<f64> {
    let start = Instant::now();
    let mut calls = vec![once(device, &f)?];
    while start.elapsed().as_secs_f64() < seconds {
        calls.push(once(device, &f)?);
    }
    Ok(median(calls).unwrap_or(f64::NAN))
}

/// The most bytes that a call allocates on the host at once beyond those of its results. It runs on threads that are new,
/// so that the scratch memory counts that threads keep for their next call.
pub fn extra_memory(f: impl Fn() -> Result<Vec<Tensor>> + Sync) -> Result<usize> {
    let threads = rayon::ThreadPoolBuilder::new()
        .num_threads(rayon::current_num_threads())
        .build()
        .map_err(Error::wrap)?;
    threads.install(|| {
        wake();
        let before = MEMORY.start();
        let results = black_box(f()?);
        let bytes: usize = results
            .iter()
            .map(|t| t.elem_count() * t.dtype().size_in_bytes())
            .sum();
        Ok(MEMORY.peak().saturating_sub(before + bytes))
    })
}

const WAKING: Duration = Duration::from_millis(5);

/// Keeps all threads busy for long enough that each has a processor of its own, and touches no memory.
pub fn wake() {
    let start = Instant::now();
    rayon::broadcast(|_| while start.elapsed() < WAKING {});
}

/// The middle value, `None` of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
