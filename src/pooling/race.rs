//! A cell of each window, drawn by its activation: the first to arrive if cells come at rates of their activations.
//!
//! Windows that share cells share those cells' times of arrival; each draws with the right odds.

use super::{compute_dtype, contiguous};
use crate::backend::cpu::{self, Poolable, Real, View};
use crate::backend::Method;
use crate::geometry::Geometry;
use crate::op::{places, Pool};
use crate::unfold::select;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, D as Dim};
use rand_chacha::{rand_core::RngCore, ChaCha8Rng};
use rayon::prelude::*;
use std::f32::consts::LN_2;

/// The rate of cells that are not positive: nothing beside one that is.
const LEAST_RATE: f64 = 1e-30;

/// What rates are multiplied by, lest the quotients of large ones overflow: no less, lest those of the least be subnormal.
const SCALE: f64 = 1.0 / 65_536.0;

/// Cells whose times are drawn together.
const DRAWN: usize = 1 << 12;

/// Cells whose keys are kept: they stay in a core's cache.
const KEPT: usize = 1 << 16;

/// The draws of a pass. A cell's key is its rate divided by its time of arrival at rate 1: a window's largest arrives first.
#[derive(Clone)]
pub struct Race {
    geometry: Geometry,
    rng: ChaCha8Rng,
}

/// The keys of all cells, in the dtype that they are computed in.
struct Keys(Race);

impl Race {
    pub fn new(geometry: Geometry, rng: ChaCha8Rng) -> Self {
        Self { geometry, rng }
    }

    /// The cells drawn; the gradient of each goes to where it came from.
    pub fn apply(self, xs: &Tensor) -> Result<Tensor> {
        if xs.device().is_cpu() {
            return xs.contiguous()?.apply_op1(self);
        }
        let places = places(&self.keys(&xs.detach())?, &self.geometry)?;
        let lead = xs.rank() - self.geometry.rank;
        let planes: usize = xs.dims()[..lead].iter().product();
        // In the dtype of the arithmetic, since the gradients of windows that draw one cell are added up.
        xs.to_dtype(compute_dtype("stochastic pooling", xs)?)?
            .reshape((planes, self.geometry.input_cells()))?
            .contiguous()?
            .gather(
                &places.reshape((planes, self.geometry.output_cells()))?,
                Dim::Minus1,
            )?
            .reshape(self.geometry.output_shape(xs.shape()))?
            .to_dtype(xs.dtype())
    }

    /// The keys of all cells, by candle's operations, on any device.
    fn keys(&self, xs: &Tensor) -> Result<Tensor> {
        let dtype = compute_dtype("stochastic pooling", xs)?;
        let wide = xs.to_dtype(dtype)?;
        // Not `relu`, which would turn NaN into 0.
        let rates = select(&wide.le(0.0)?.eq(0u8)?, &wide, 0.0)?;
        let cells = vec![(); xs.elem_count()];
        let mut times = vec![0f32; cells.len()];
        self.draw(0, &cells, &mut times, |(), time| time);
        let times = Tensor::from_vec(times, xs.shape(), xs.device())?;
        ((rates + LEAST_RATE)? * SCALE)?.div(&times.to_dtype(dtype)?)
    }

    /// What becomes of cells and of their times, the number of the first cell given. Every cell has a time of its own,
    /// whichever thread draws it.
    fn draw<T: Copy + Sync, K: Send>(
        &self,
        first: usize,
        cells: &[T],
        to: &mut [K],
        of: impl Fn(T, f32) -> K + Sync,
    ) {
        let parts = to.par_chunks_mut(DRAWN).zip(cells.par_chunks(DRAWN));
        parts.enumerate().for_each(|(part, (to, cells))| {
            let mut rng = self.rng.clone();
            rng.set_word_pos((first + part * DRAWN) as u128);
            let mut words = [[0; 4]; DRAWN];
            rng.fill_bytes(words[..cells.len()].as_flattened_mut());
            for ((to, &cell), word) in to.iter_mut().zip(cells).zip(words) {
                *to = of(cell, time(u32::from_le_bytes(word)));
            }
        });
    }

    /// The keys of some of the cells, contiguous, the number of the first given.
    fn draw_keys<T: Poolable>(&self, first: usize, cells: &[T], to: &mut [T::Compute]) {
        self.draw(first, cells, to, |x, time| {
            // Made here, not caught, since constants leave the loop free for vectors.
            let [zero, least, scale] = [0.0, LEAST_RATE, SCALE].map(T::Compute::from_f64);
            let x = x.widen();
            // NaN stays, being no smaller than 0.
            let rate = if x <= zero { zero } else { x };
            rate.add(least).mul(scale).div(T::Compute::from_f32(time))
        });
    }

    fn all_keys<T: Poolable>(&self, cells: &[T]) -> Vec<T::Compute> {
        let mut keys = vec![T::Compute::default(); cells.len()];
        self.draw_keys(0, cells, &mut keys);
        keys
    }

    /// The cells drawn, some planes at a time.
    fn run<T>(&self, cells: &[T]) -> Result<Vec<T>>
    where
        T: Poolable<Compute: Poolable>,
    {
        let geometry = &self.geometry;
        let [input, output] = [geometry.input_cells(), geometry.output_cells()];
        let planes = (KEPT / input).max(1);
        let sizes = &geometry.axes[3 - geometry.rank..];
        let sizes: Vec<_> = sizes.iter().map(|axis| axis.input).collect();
        let mut ys = vec![T::default(); cells.len() / input * output];
        let parts = cells
            .par_chunks(planes * input)
            .zip(ys.par_chunks_mut(planes * output));
        let done: Result<()> =
            parts
                .enumerate()
                .try_for_each_init(Vec::new, |keys, (part, (cells, ys))| {
                    keys.resize(cells.len(), T::Compute::default());
                    self.draw_keys(part * planes * input, cells, keys);
                    let layout = Layout::contiguous([&[cells.len() / input], &sizes[..]].concat());
                    let places = cpu::places(View::new(keys, &layout, geometry.rank), geometry)?;
                    let drawn = ys.chunks_mut(output).zip(places.chunks(output));
                    for (cells, (ys, places)) in cells.chunks(input).zip(drawn) {
                        for (y, &place) in ys.iter_mut().zip(places) {
                            *y = cells[place as usize];
                        }
                    }
                    Ok(())
                });
        done?;
        Ok(ys)
    }
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

impl CustomOp1 for Race {
    fn name(&self) -> &'static str {
        "stochastic-pool"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ys = contiguous!(layout, input, F16 => F16, BF16 => BF16, F32 => F32, F64 => F64, |cells| {
            self.run(cells)?
        });
        Ok((ys, self.geometry.output_shape(layout.shape())))
    }

    /// That of the largest keys, which are drawn again: to keep them would take as much memory as the activations.
    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let keys = xs.contiguous()?.apply_op1_no_bwd(&Keys(self.clone()))?;
        Pool::new(self.geometry, Method::Maximum)
            .backward(&keys, &grad.to_dtype(keys.dtype())?)?
            .to_dtype(xs.dtype())
            .map(Some)
    }
}

impl CustomOp1 for Keys {
    fn name(&self) -> &'static str {
        "stochastic-pool-keys"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let keys = contiguous!(layout, input, F16 => F32, BF16 => F32, F32 => F32, F64 => F64, |cells| {
            self.0.all_keys(cells)
        });
        Ok((keys, layout.shape().clone()))
    }
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
