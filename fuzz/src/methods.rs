//! The pooling methods and their definitions in float64.

use crate::common::{self, values, Pool, Windows};
use crate::layout::Layout;
use arbitrary::Arbitrary;
use candle_core::{bail, Module, Result, Tensor};
use candle_softpool::{
    AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, Lip, LpPool, MaxPool, StochasticPool,
};
use std::cell::RefCell;

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Method {
    Soft,
    /// With its indices, but for adaptive windows.
    Max,
    Avg {
        count_include_pad: bool,
    },
    Lp {
        power: Power,
        form: Form,
    },
    /// SoftPool's windows, weighted by logits of their own.
    Lip(Logits),
    /// In evaluation.
    Stochastic,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Power {
    One,
    Two,
    Three,
}

/// What the powers of a window are divided by.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Form {
    Cells,
    CellsAndPadding,
    One,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Logits {
    /// One channel for all.
    shared: bool,
    /// About one in three is −∞.
    masked: bool,
    /// Far enough apart for weights that vanish.
    far: bool,
    /// The input's if none.
    pub layout: Option<Layout>,
}

impl Power {
    fn value(self) -> i32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

impl Logits {
    pub fn shape(self, xs: &[usize], channels: usize) -> Vec<usize> {
        let mut shape = xs.to_vec();
        if self.shared {
            shape[channels] = 1;
        }
        shape
    }

    pub fn values(self, seed: u64, count: usize) -> Vec<f64> {
        let scale = if self.far { 60.0 } else { 2.0 };
        let mut values = common::normal(seed, count);
        if self.masked {
            let chance = common::normal(!seed, count);
            let masked = values.iter_mut().zip(chance).filter(|(_, c)| c.abs() > 1.0);
            masked.for_each(|(v, _)| *v = f64::NEG_INFINITY);
        }
        values.iter_mut().for_each(|v| *v *= scale);
        values
    }
}

/// What comes out of a pooling: gradients of the input, and of the logits if there are any.
pub struct Found {
    pub ys: Tensor,
    pub places: Option<Tensor>,
    pub dx: Tensor,
    pub dz: Option<Tensor>,
}

impl Method {
    /// Whether the layer exists for these windows.
    pub fn knows(self, windows: Windows) -> bool {
        match windows {
            Windows::Sliding { .. } => true,
            Windows::Adaptive(_) => matches!(self, Self::Soft | Self::Max | Self::Avg { .. }),
        }
    }

    /// Whether its definition here is of activations such as this one too. LIP's is where the logit is −∞.
    pub fn defines(self, x: f64, logit: Option<f64>) -> bool {
        let any = matches!(self, Self::Soft | Self::Max | Self::Avg { .. });
        any || x.is_finite() || logit == Some(f64::NEG_INFINITY)
    }

    /// The output, and where maxima are.
    pub fn forward(
        self,
        pool: &Pool,
        xs: &Tensor,
        logits: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        match (self, pool.rank) {
            (Self::Soft, _) => Ok((pool.forward(xs)?, None)),
            (_, 1) => self.forward_rank::<1>(pool.windows, xs, logits),
            (_, 2) => self.forward_rank::<2>(pool.windows, xs, logits),
            _ => self.forward_rank::<3>(pool.windows, xs, logits),
        }
    }

    fn forward_rank<const D: usize>(
        self,
        windows: Windows,
        xs: &Tensor,
        logits: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let last = |size: [usize; 3]| -> [usize; D] { std::array::from_fn(|d| size[3 - D + d]) };
        let (kernel, stride, padding, ceil_mode) = match windows {
            Windows::Sliding {
                kernel,
                stride,
                padding,
                ceil_mode,
            } => (last(kernel), last(stride), last(padding), ceil_mode),
            Windows::Adaptive(output) => {
                let ys = match self {
                    Self::Max => AdaptiveMaxPool::new(last(output)).forward(xs),
                    Self::Avg { .. } => AdaptiveAvgPool::new(last(output)).forward(xs),
                    _ => bail!("{self:?} has no adaptive windows"),
                };
                return Ok((ys?, None));
            }
        };
        macro_rules! windows {
            ($layer:expr) => {
                $layer.stride(stride).padding(padding).ceil_mode(ceil_mode)
            };
        }
        let ys = match (self, logits) {
            (Self::Max, _) => {
                let pool = windows!(MaxPool::new(kernel));
                let (ys, places) = pool.forward_with_indices(xs)?;
                return Ok((ys, Some(places)));
            }
            (Self::Avg { count_include_pad }, _) => windows!(AvgPool::new(kernel))
                .count_include_pad(count_include_pad)
                .forward(xs),
            (Self::Lp { power, form }, _) => windows!(LpPool::new(power.value().into(), kernel))
                .sum(matches!(form, Form::One))
                .count_include_pad(matches!(form, Form::CellsAndPadding))
                .forward(xs),
            (Self::Lip(_), Some(logits)) => windows!(Lip::new(kernel)).forward_with(xs, logits),
            (Self::Stochastic, _) => windows!(StochasticPool::new(kernel)).forward(xs),
            _ => bail!("{self:?} is pooled elsewhere, or lacks logits"),
        };
        Ok((ys?, None))
    }

    /// Asserts that all that was found is the definition's, within the arithmetic's error; what is not finite there is
    /// the same infinity, or NaN.
    pub fn assert_agrees(
        self,
        pool: &Pool,
        xs: &Tensor,
        logits: Option<&Tensor>,
        grad: &Tensor,
        found: &Found,
    ) {
        let lead = xs.rank() - pool.rank;
        let plane: usize = xs.dims()[lead..].iter().product();
        let output = pool.output_shape(xs.dims());
        let padded = Padded::of(pool, &xs.dims()[lead..], &output[lead..]);
        let g = values(grad).unwrap();
        let z = logits.map(|z| values(z).unwrap()).unwrap_or_default();
        // Where there is one channel for all, the cells of all of them share a logit.
        let cells_of_logits = xs.dims()[lead - 1] * plane;
        let place_of_logit = |i: usize| match z.len() == xs.elem_count() {
            true => i,
            false => i / cells_of_logits * plane + i % plane,
        };
        let beside = RefCell::new(Beside::new(z.len()));
        let wanted = pool.definition_by(xs, grad, |cells, window| {
            let beside = &mut *beside.borrow_mut();
            let n = match self {
                Self::Avg {
                    count_include_pad: true,
                }
                | Self::Lp {
                    form: Form::CellsAndPadding,
                    ..
                } => padded.cells(beside.outputs),
                Self::Lp {
                    form: Form::One, ..
                } => 1.0,
                _ => window.len() as f64,
            };
            let g = g[beside.outputs];
            beside.outputs += 1;
            match self {
                Self::Soft => pool.window(window),
                Self::Max => {
                    let (place, of_window) = maximum(window);
                    beside.places.push((cells[place] % plane) as f64);
                    of_window
                }
                Self::Avg { .. } => (window.iter().sum::<f64>() / n, vec![1.0 / n; window.len()]),
                Self::Lp { power, .. } => power_average(window, power.value(), n),
                Self::Lip(_) => {
                    let places: Vec<usize> = cells.iter().map(|&i| place_of_logit(i)).collect();
                    let logits: Vec<f64> = places.iter().map(|&i| z[i]).collect();
                    let (y, weights) = softmax(window, &logits);
                    beside.add_logits(&places, window, &weights, y, g);
                    (y, weights)
                }
                Self::Stochastic => expectation(window),
            }
        });
        let (mut wanted, beside) = (wanted.unwrap(), beside.into_inner());
        if let Self::Lp { .. } = self {
            // A sum of powers is exact by its own size, which is larger than that of its cells.
            let sizes = wanted.output_scale.iter_mut().zip(&wanted.output);
            sizes.for_each(|(scale, y)| *scale = scale.max(*y));
        }
        assert_eq!(found.ys.dims(), output, "{self:?} {pool:?}");
        let assert = |what, found: &Tensor, wanted: &[f64], scale: &[f64], nan_to_num| {
            pool.assert_rounded(what, found, wanted, scale, nan_to_num)
        };
        let (y, y_scale) = (&wanted.output, &wanted.output_scale);
        assert("output", &found.ys, y, y_scale, pool.nan_to_num);
        // One exact gradient in some million is 2.1e-6 of its scale off: docs/limits.md.
        let dx_scale: Vec<f64> = wanted.gradient_scale.iter().map(|s| 1.5 * s).collect();
        assert("gradient", &found.dx, &wanted.gradient, &dx_scale, false);
        if let Some(places) = &found.places {
            assert_eq!(values(places).unwrap(), beside.places, "places of {pool:?}");
        }
        if let Some(dz) = &found.dz {
            let (wanted, scale) = (&beside.dz, &beside.dz_scale);
            assert("gradient of the logits", dz, wanted, scale, false);
        }
    }
}

/// What definitions give beside outputs and gradients.
struct Beside {
    /// Windows so far.
    outputs: usize,
    places: Vec<f64>,
    dz: Vec<f64>,
    /// What a window may give to one of its logits at most, added up.
    dz_scale: Vec<f64>,
}

impl Beside {
    fn new(logits: usize) -> Self {
        Self {
            outputs: 0,
            places: vec![],
            dz: vec![0.0; logits],
            dz_scale: vec![0.0; logits],
        }
    }

    fn add_logits(&mut self, places: &[usize], window: &[f64], weights: &[f64], y: f64, g: f64) {
        let heaviest = weights.iter().fold(0.0, |a: f64, w| a.max(*w));
        let counts = window.iter().zip(weights).filter(|(_, w)| **w > 0.0);
        let most = heaviest * counts.fold(0.0, |a: f64, (x, _)| a.max(x.abs()));
        for ((&i, x), &w) in places.iter().zip(window).zip(weights) {
            self.dz[i] += if w == 0.0 { 0.0 } else { g * w * (x - y) };
            self.dz_scale[i] += (g * most).abs();
        }
    }
}

/// How many cells windows have of the padded input.
struct Padded {
    /// By dimension and window.
    lengths: Vec<Vec<usize>>,
}

impl Padded {
    fn of(pool: &Pool, input: &[usize], output: &[usize]) -> Self {
        let length = |d: usize, o: usize| match pool.windows {
            Windows::Sliding {
                kernel,
                stride,
                padding,
                ..
            } => {
                let at = 3 - pool.rank + d;
                let start = o * stride[at];
                (start + kernel[at]).min(input[d] + 2 * padding[at]) - start
            }
            Windows::Adaptive(_) => {
                (o * input[d] / output[d]..((o + 1) * input[d]).div_ceil(output[d])).len()
            }
        };
        let lengths = |d: usize| (0..output[d]).map(|o| length(d, o)).collect();
        Self {
            lengths: (0..output.len()).map(lengths).collect(),
        }
    }

    fn cells(&self, mut output: usize) -> f64 {
        let mut cells = 1;
        for lengths in self.lengths.iter().rev() {
            cells *= lengths[output % lengths.len()];
            output /= lengths.len();
        }
        cells as f64
    }
}

/// The place of the first of the maxima, or of the first NaN, and that its gradient goes there.
fn maximum(window: &[f64]) -> (usize, (f64, Vec<f64>)) {
    let mut place = 0;
    for (i, x) in window.iter().enumerate() {
        if *x > window[place] || x.is_nan() && !window[place].is_nan() {
            place = i;
        }
    }
    let slope = |i| f64::from(u8::from(i == place));
    let slopes = (0..window.len()).map(slope).collect();
    (place, (window[place], slopes))
}

/// A cell without a weight takes no part, whatever it is; where all logits are −∞ there is no output.
fn softmax(window: &[f64], logits: &[f64]) -> (f64, Vec<f64>) {
    let peak = logits.iter().fold(f64::NEG_INFINITY, |a, z| a.max(*z));
    if peak == f64::NEG_INFINITY {
        return (f64::NAN, vec![f64::NAN; window.len()]);
    }
    let weights: Vec<f64> = logits.iter().map(|z| (z - peak).exp()).collect();
    let total: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|w| w / total).collect();
    let counts = window.iter().zip(&weights).filter(|(_, w)| **w > 0.0);
    (counts.map(|(x, w)| x * w).sum(), weights)
}

/// The root of the powers' sum over `n`.
fn power_average(window: &[f64], p: i32, n: f64) -> (f64, Vec<f64>) {
    let y = (window.iter().map(|x| x.abs().powi(p)).sum::<f64>() / n).powf(1.0 / f64::from(p));
    let slope = |x: &f64| match *x == 0.0 {
        true => 0.0,
        false => x.signum() * (x.abs() / y).powi(p - 1) / n,
    };
    (y, window.iter().map(slope).collect())
}

/// Positive cells weigh as much as they are; without one all weigh the same.
fn expectation(window: &[f64]) -> (f64, Vec<f64>) {
    let positive = || window.iter().filter(|x| **x > 0.0);
    let total: f64 = positive().sum();
    if total == 0.0 {
        let n = window.len() as f64;
        return (window.iter().sum::<f64>() / n, vec![1.0 / n; window.len()]);
    }
    let y = positive().map(|x| x * x).sum::<f64>() / total;
    let slope = |x: &f64| if *x > 0.0 { (2.0 * x - y) / total } else { 0.0 };
    (y, window.iter().map(slope).collect())
}
