//! Stochastic pooling.

use super::random::Draws;
use super::{compute_dtype, sliding_methods, Sliding};
use crate::backend::Method;
use crate::geometry::{Geometry, IntoSize};
use crate::op::{places, Pool};
use crate::unfold::select;
use candle_core::{bail, CpuStorage, CustomOp1, Layout, ModuleT, Result, Shape, Tensor, D as Dim};
use rand_chacha::{rand_core::RngCore, ChaCha8Rng};
use rayon::prelude::*;
use std::f32::consts::LN_2;

/// Stochastic pooling over `D` dimensions, a candle [`ModuleT`] (Zeiler and Fergus, "Stochastic pooling for
/// regularization of deep convolutional neural networks", ICLR 2013, [arXiv 1301.3557](https://arxiv.org/abs/1301.3557)).
///
/// With probabilities `p_i = x_i / Σ x` in each window, training draws one cell, `y = x_l` with `l ~ p`, and its
/// gradient goes to that cell; evaluation gives the expectation `y = Σ p_i·x_i`, with the exact derivative.
/// The paper has activations that are not negative: negative ones have probability 0 here, and in a window without a
/// positive one all cells are equally likely.
///
/// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
/// - Output: the same with each spatial size `n` turned into `floor((n + 2·padding − kernel)/stride) + 1`.
///
/// Equal seeds give equal sequences of training passes; a clone goes on from where the original is. Without a seed every
/// layer draws for itself: the first that the program makes has seed 0, the next one 1, and so on.
///
/// ```
/// use candle_core::{Device, ModuleT, Tensor};
/// use candle_softpool::StochasticPool1d;
///
/// let xs = Tensor::new(&[[[1f32, 3., 0., 5.]]], &Device::Cpu)?;
/// let pool = StochasticPool1d::new(2).seed(7);
/// assert_eq!(xs.apply_t(&pool, false)?.to_vec3::<f32>()?, [[[2.5, 5.0]]]);
/// let drawn = xs.apply_t(&pool, true)?.to_vec3::<f32>()?;
/// assert!([1.0, 3.0].contains(&drawn[0][0][0]) && drawn[0][0][1] == 5.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// `forward_t` gives an error that names the layer, the value and what is allowed for: a kernel, stride or spatial size
/// of 0, a kernel larger than the padded input, a padding of more than half the kernel, an input of another rank or dtype.
#[derive(Clone, Debug)]
pub struct StochasticPool<const D: usize> {
    windows: Sliding<D>,
    draws: Draws,
}

/// [`StochasticPool`] of `(N, C, L)`.
pub type StochasticPool1d = StochasticPool<1>;
/// [`StochasticPool`] of `(N, C, H, W)`.
pub type StochasticPool2d = StochasticPool<2>;
/// [`StochasticPool`] of `(N, C, D, H, W)`.
pub type StochasticPool3d = StochasticPool<3>;

impl<const D: usize> StochasticPool<D> {
    const NAME: &'static str = ["StochasticPool1d", "StochasticPool2d", "StochasticPool3d"][D - 1];

    /// Windows of this size, side by side: the stride is the kernel. The seed is one that no layer before had.
    pub fn new(kernel: impl IntoSize<D>) -> Self {
        Self {
            windows: Sliding::new(kernel),
            draws: Draws::of_one_layer(),
        }
    }

    /// The seed of the training passes; starts their sequence anew.
    pub fn seed(mut self, seed: u64) -> Self {
        self.draws = Draws::new(seed);
        self
    }

    sliding_methods!("They are never drawn and have no weight.");

    /// Evaluation: [`ModuleT::forward_t`] with `train` false.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward_t(xs, false)
    }
}

impl<const D: usize> ModuleT for StochasticPool<D> {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        match train {
            true => drawn(&geometry, xs, &self.draws),
            false => Pool::new(geometry, Method::Weighted).apply(xs),
        }
    }
}

/// A cell of each window, drawn by its activation: the first to arrive if cells come at rates of their activations.
///
/// Windows that share cells share those cells' times of arrival; each draws with the right odds.
fn drawn(geometry: &Geometry, xs: &Tensor, draws: &Draws) -> Result<Tensor> {
    let output = geometry.output_shape(xs.shape());
    if output.elem_count() == 0 {
        return Pool::new(*geometry, Method::Maximum).apply(xs);
    }
    let race = Race(draws.next_pass());
    let keys = match xs.device().is_cpu() {
        true => xs.contiguous()?.apply_op1_no_bwd(&race)?,
        false => race.keys(&xs.detach())?,
    };
    let places = places(&keys, geometry)?;
    let lead = xs.rank() - geometry.rank;
    let planes: usize = xs.dims()[..lead].iter().product();
    xs.reshape((planes, geometry.input_cells()))?
        .contiguous()?
        .gather(
            &places.reshape((planes, geometry.output_cells()))?,
            Dim::Minus1,
        )?
        .reshape(output)
}

/// The rate of cells that are not positive: nothing beside one that is.
const LEAST_RATE: f64 = 1e-30;

/// What rates are multiplied by, lest the quotients of large ones overflow: no less, lest those of the least be subnormal.
const SCALE: f64 = 1.0 / 65_536.0;

/// Cells whose times are drawn together.
const DRAWN: usize = 1 << 12;

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

/// Activations divided by exponential variates, one a cell: the largest key of a window arrives first.
struct Race(ChaCha8Rng);

impl Race {
    /// The keys of contiguous cells, by their rates. Every cell has a number of its own, whichever thread draws it.
    fn of<T: Copy + Sync, K: Clone + Default + Send>(
        &self,
        cells: &[T],
        key: impl Fn(T, f32) -> K + Sync,
    ) -> Vec<K> {
        let mut keys = vec![K::default(); cells.len()];
        let parts = keys.par_chunks_mut(DRAWN).zip(cells.par_chunks(DRAWN));
        parts.enumerate().for_each(|(part, (keys, cells))| {
            let mut rng = self.0.clone();
            rng.set_word_pos((part * DRAWN) as u128);
            let mut words = [[0; 4]; DRAWN];
            rng.fill_bytes(words[..cells.len()].as_flattened_mut());
            for ((to, &cell), word) in keys.iter_mut().zip(cells).zip(words) {
                *to = key(cell, time(u32::from_le_bytes(word)));
            }
        });
        keys
    }

    /// The same by candle's operations, on any device.
    fn keys(&self, xs: &Tensor) -> Result<Tensor> {
        let dtype = compute_dtype("stochastic pooling", xs)?;
        let wide = xs.to_dtype(dtype)?;
        // Not `relu`, which would turn NaN into 0.
        let rates = select(&wide.le(0.0)?.eq(0u8)?, &wide, 0.0)?;
        let cells = vec![(); xs.elem_count()];
        let times = Tensor::from_vec(self.of(&cells, |(), time| time), xs.shape(), xs.device())?;
        ((rates + LEAST_RATE)? * SCALE)?.div(&times.to_dtype(dtype)?)
    }
}

impl CustomOp1 for Race {
    fn name(&self) -> &'static str {
        "stochastic-race"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("stochastic pooling: expected contiguous cells");
        };
        // NaN stays, being no smaller than 0.
        let wide = |x: f64, time: f32| {
            let rate = if x <= 0.0 { 0.0 } else { x };
            (rate + LEAST_RATE) * SCALE / f64::from(time)
        };
        let narrow = |x: f32, time: f32| {
            let rate = if x <= 0.0 { 0.0 } else { x };
            (rate + LEAST_RATE as f32) * SCALE as f32 / time
        };
        let keys = match input {
            CpuStorage::F64(x) => CpuStorage::F64(self.of(&x[start..end], wide)),
            CpuStorage::F32(x) => CpuStorage::F32(self.of(&x[start..end], narrow)),
            CpuStorage::F16(x) => {
                CpuStorage::F32(self.of(&x[start..end], |x, time| narrow(x.to_f32(), time)))
            }
            CpuStorage::BF16(x) => {
                CpuStorage::F32(self.of(&x[start..end], |x, time| narrow(x.to_f32(), time)))
            }
            _ => bail!("stochastic pooling: expected an input of dtype f16, bf16, f32 or f64"),
        };
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
