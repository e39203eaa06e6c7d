//! A cell of each window, drawn by its activation: the first to arrive if cells come at rates of their activations.
//!
//! Windows that share cells share those cells' times of arrival; each draws with the right odds.

use super::kernels::Poolable;
use super::vector::Real;
use rand_chacha::{rand_core::RngCore, ChaCha8Rng};
use rayon::prelude::*;
use std::f32::consts::LN_2;

/// The rate of cells that are not positive: nothing beside one that is.
pub const LEAST_RATE: f64 = 1e-30;

/// What rates are multiplied by, lest the quotients of large ones overflow: no less, lest those of the least be subnormal.
pub const SCALE: f64 = 1.0 / 65_536.0;

/// Cells whose times are drawn together.
const DRAWN: usize = 1 << 12;

/// What cells are compared by: a cell's rate divided by its time of arrival at rate 1, largest for the first to arrive.
pub fn keys<T: Poolable>(cells: &[T], rng: &ChaCha8Rng) -> Vec<T::Compute> {
    let mut keys = vec![T::Compute::default(); cells.len()];
    write_keys(0, cells, &mut keys, rng);
    keys
}

/// The times of arrival at rate 1 of so many cells.
pub fn times(count: usize, rng: &ChaCha8Rng) -> Vec<f32> {
    let mut times = vec![0.0; count];
    race(0, &vec![(); count], &mut times, rng, |(), time| time);
    times
}

/// The keys of some of the cells, the number of the first given.
pub fn write_keys<T: Poolable>(first: usize, cells: &[T], to: &mut [T::Compute], rng: &ChaCha8Rng) {
    race(first, cells, to, rng, |x, time| {
        // Made here, not caught, since constants leave the loop free for vectors.
        let [zero, least, scale] = [0.0, LEAST_RATE, SCALE].map(T::Compute::from_f64);
        let x = x.widen();
        // NaN stays, being no smaller than 0.
        let rate = if x <= zero { zero } else { x };
        rate.add(least).mul(scale).div(T::Compute::from_f32(time))
    });
}

/// What becomes of cells and of their times, the number of the first cell given. Every cell has a time of its own,
/// whichever thread draws it.
fn race<T: Copy + Sync, K: Send>(
    first: usize,
    cells: &[T],
    to: &mut [K],
    rng: &ChaCha8Rng,
    of: impl Fn(T, f32) -> K + Sync,
) {
    let parts = to.par_chunks_mut(DRAWN).zip(cells.par_chunks(DRAWN));
    parts.enumerate().for_each(|(part, (to, cells))| {
        let mut rng = rng.clone();
        rng.set_word_pos((first + part * DRAWN) as u128);
        let mut words = [[0; 4]; DRAWN];
        rng.fill_bytes(words[..cells.len()].as_flattened_mut());
        for ((to, &cell), word) in to.iter_mut().zip(cells).zip(words) {
            *to = of(cell, time(u32::from_le_bytes(word)));
        }
    });
}

/// The time of arrival at rate 1, an exponential variate: `−ln(1 − v)` of a uniform `v`.
///
/// To a millionth of its value, however small it is: the first to arrive are what counts.
/// With `1 − v = 2^e·(1 + f)`, that is `−e·ln 2 − 2·artanh(f/(2 + f))`; without branches, so that it is vectorised.
#[inline]
fn time(random: u32) -> f32 {
    const UNIT: f32 = 1.0 / (1u32 << 31) as f32;
    // Of 31 bits: vectors have no instruction that makes floats of 32.
    let [v, rest] = [random, !random].map(|bits| ((bits >> 1) as i32 as f32 + 0.5) * UNIT);
    // f is from −1/4 to 1/2.
    let exponent = (rest.to_bits() as i32 - 0.75f32.to_bits() as i32) >> 23;
    let mantissa = f32::from_bits((rest.to_bits() as i32 - (exponent << 23)) as u32);
    // Near 1, `1 − v` has lost what v has.
    let f = if exponent == 0 { -v } else { mantissa - 1.0 };
    let s = f / (2.0 + f);
    let square = s * s;
    let series = 1.0 + square * (1.0 / 3.0 + square * (1.0 / 5.0 + square * (1.0 / 7.0)));
    -(exponent as f32 * LN_2 + 2.0 * s * series)
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_logarithms() {
        let near_ends = (0..4096).flat_map(|i| [i, u32::MAX - i]);
        let between = (0..u32::MAX).step_by(1_000_003);
        for random in near_ends.chain(between) {
            let v = (f64::from(random >> 1) + 0.5) / f64::from(1u32 << 31);
            let expected = -(-v).ln_1p();
            let error = f64::from(time(random)) / expected - 1.0;
            assert!(error.abs() < 1e-6, "{random}: {error:e}");
        }
    }
}
