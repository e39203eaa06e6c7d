//! The pooling methods and their definitions in float64.

use crate::common::{values, Pool, Windows};
use arbitrary::Arbitrary;
use candle_core::{bail, Module, Result, Tensor};
use candle_softpool::{AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, Lip, LpPool, MaxPool};

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Method {
    Soft,
    Max,
    Avg,
    /// The power, less one.
    Lp(Power),
    /// SoftPool's windows, weighted by the logits that [`logits`] makes.
    Lip,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Power {
    One,
    Two,
    Three,
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

/// Logits of any sign that differ from cell to cell, without a gradient.
fn logits(xs: &Tensor) -> Result<Tensor> {
    let cells = xs.elem_count();
    let values: Vec<f64> = (0..cells)
        .map(|i| ((i * 37 + 11) % 23) as f64 / 4.0 - 2.0)
        .collect();
    Tensor::from_vec(values, xs.shape(), xs.device())?.to_dtype(xs.dtype())
}

impl Method {
    /// Whether the layer exists for these windows.
    pub fn knows(self, windows: Windows) -> bool {
        match windows {
            Windows::Sliding { .. } => true,
            Windows::Adaptive(_) => matches!(self, Self::Soft | Self::Max | Self::Avg),
        }
    }

    pub fn forward(self, pool: &Pool, xs: &Tensor) -> Result<Tensor> {
        match (self, pool.rank) {
            (Self::Soft, _) => pool.forward(xs),
            (_, 1) => self.forward_rank::<1>(pool.windows, xs),
            (_, 2) => self.forward_rank::<2>(pool.windows, xs),
            _ => self.forward_rank::<3>(pool.windows, xs),
        }
    }

    fn forward_rank<const D: usize>(self, windows: Windows, xs: &Tensor) -> Result<Tensor> {
        let last = |size: [usize; 3]| -> [usize; D] { std::array::from_fn(|d| size[3 - D + d]) };
        let (kernel, stride, padding, ceil_mode) = match windows {
            Windows::Sliding {
                kernel,
                stride,
                padding,
                ceil_mode,
            } => (last(kernel), last(stride), last(padding), ceil_mode),
            Windows::Adaptive(output) => {
                return match self {
                    Self::Max => AdaptiveMaxPool::new(last(output)).forward(xs),
                    Self::Avg => AdaptiveAvgPool::new(last(output)).forward(xs),
                    _ => bail!("{self:?} has no adaptive windows"),
                }
            }
        };
        macro_rules! windows {
            ($layer:expr) => {
                $layer.stride(stride).padding(padding).ceil_mode(ceil_mode)
            };
        }
        match self {
            Self::Soft => bail!("SoftPool has a layer of the tests' own"),
            Self::Max => windows!(MaxPool::new(kernel)).forward(xs),
            Self::Avg => windows!(AvgPool::new(kernel))
                .count_include_pad(false)
                .forward(xs),
            Self::Lp(power) => windows!(LpPool::new(power.value().into(), kernel))
                .count_include_pad(false)
                .forward(xs),
            Self::Lip => windows!(Lip::new(kernel)).forward_with(xs, &logits(xs)?),
        }
    }

    /// Asserts that output and gradient are the definition's, within the arithmetic's error.
    pub fn assert_agrees(
        self,
        pool: &Pool,
        xs: &Tensor,
        grad: &Tensor,
        ys: &Tensor,
        dx: Option<&Tensor>,
    ) {
        let logits = values(&logits(xs).unwrap()).unwrap();
        let wanted = pool.definition_by(xs, grad, |cells, window| match self {
            Self::Soft => pool.window(window),
            Self::Max => maximum(window),
            Self::Avg => weighted(window, &vec![1.0; window.len()]),
            Self::Lp(power) => power_average(window, power.value()),
            Self::Lip => {
                let weights: Vec<f64> = cells.iter().map(|&i| logits[i].exp()).collect();
                weighted(window, &weights)
            }
        });
        let wanted = wanted.unwrap();
        assert_eq!(ys.dims(), pool.output_shape(xs.dims()), "{self:?} {pool:?}");
        pool.assert_rounded(
            "output",
            ys,
            &wanted.output,
            &wanted.output_scale,
            pool.nan_to_num,
        );
        if let Some(dx) = dx {
            pool.assert_rounded(
                "gradient",
                dx,
                &wanted.gradient,
                &wanted.gradient_scale,
                false,
            );
        }
    }
}

/// The gradient goes to the first of the maxima.
fn maximum(window: &[f64]) -> (f64, Vec<f64>) {
    let mut place = 0;
    for (i, x) in window.iter().enumerate() {
        if *x > window[place] {
            place = i;
        }
    }
    let slope = |i| f64::from(u8::from(i == place));
    (window[place], (0..window.len()).map(slope).collect())
}

fn weighted(window: &[f64], weights: &[f64]) -> (f64, Vec<f64>) {
    let total: f64 = weights.iter().sum();
    let slopes: Vec<f64> = weights.iter().map(|w| w / total).collect();
    (window.iter().zip(&slopes).map(|(x, w)| x * w).sum(), slopes)
}

fn power_average(window: &[f64], p: i32) -> (f64, Vec<f64>) {
    let n = window.len() as f64;
    let y = (window.iter().map(|x| x.abs().powi(p)).sum::<f64>() / n).powf(1.0 / f64::from(p));
    let slope = |x: &f64| match *x == 0.0 {
        true => 0.0,
        false => x.signum() * (x.abs() / y).powi(p - 1) / n,
    };
    (y, window.iter().map(slope).collect())
}
