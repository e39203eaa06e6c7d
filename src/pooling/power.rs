//! Power-average pooling.

use super::{sliding_methods, Sliding};
use crate::backend::Method;
use crate::geometry::IntoSize;
use crate::op::Pool;
use candle_core::{bail, Module, Result, Tensor};

/// The root of a lower power would magnify f32's rounding more than a hundred times.
const LEAST_POWER: f64 = 0.01;

/// Power-average (Lp) pooling over `D` dimensions, a candle [`Module`]: `y = (Σ |x|^p / n)^(1/p)` over each window's
/// `n` cells, or without the division with [`Self::sum`].
///
/// The "power average pooling" of Estrach, Szlam and LeCun, "Signal recovery from pooling representations" (ICML 2014,
/// [arXiv 1311.4025](https://arxiv.org/abs/1311.4025)) and, with a learned p, Gulcehre et al., ECML 2014
/// ([arXiv 1311.1780](https://arxiv.org/abs/1311.1780)): p = 1 averages magnitudes, p → ∞ takes the largest.
/// The sum form is `torch.nn.LPPool2d`, but for its sign: torch takes `x^p`, which is the same for activations that
/// are not negative or for an even p, and NaN or negative otherwise. With p = 1 torch gives zeros a slope of 1; here they
/// have none. And in ceil mode a window that hangs over the end sums the cells that it has; torch multiplies their mean by
/// the cells of a whole window.
///
/// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
/// - Output: the same with each spatial size `n` turned into `floor((n + 2·padding − kernel)/stride) + 1`;
///   [`Self::ceil_mode`] rounds up. It is not negative.
///
/// f16 and bf16 are computed in f32. Windows whose powers overflow or vanish are taken relative to their largest magnitude.
/// A window of zeros has no derivative, it gives 0 as in PyTorch.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use candle_softpool::LpPool1d;
///
/// let xs = Tensor::new(&[[[3f32, 4., 0., 5.]]], &Device::Cpu)?;
/// let ys = xs.apply(&LpPool1d::new(2.0, 2).sum(true))?;
/// assert_eq!(ys.to_vec3::<f32>()?, [[[5.0, 5.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// `forward` gives an error that names the layer, the value and what is allowed for: a p that is not finite or
/// below 0.01, a kernel, stride or spatial size of 0, a kernel larger than the padded input (in ceil mode, larger by a
/// stride or more), a padding of more than half the kernel, an input of another rank or dtype.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LpPool<const D: usize> {
    p: f64,
    windows: Sliding<D>,
    sum: bool,
    count_include_pad: bool,
}

/// [`LpPool`] of `(N, C, L)`.
pub type LpPool1d = LpPool<1>;
/// [`LpPool`] of `(N, C, H, W)`.
pub type LpPool2d = LpPool<2>;
/// [`LpPool`] of `(N, C, D, H, W)`.
pub type LpPool3d = LpPool<3>;

impl<const D: usize> LpPool<D> {
    const NAME: &'static str = ["LpPool1d", "LpPool2d", "LpPool3d"][D - 1];

    /// The power `p` and windows of this size, side by side: the stride is the kernel.
    pub fn new(p: f64, kernel: impl IntoSize<D>) -> Self {
        Self {
            p,
            windows: Sliding::new(kernel),
            sum: false,
            count_include_pad: true,
        }
    }

    /// Whether powers are summed, as `torch.nn.LPPool2d` does, rather than averaged, the default.
    pub fn sum(mut self, sum: bool) -> Self {
        self.sum = sum;
        self
    }

    /// Whether padded cells count in the average's divisor: by default they do. The sum form has no divisor.
    pub fn count_include_pad(mut self, count_include_pad: bool) -> Self {
        self.count_include_pad = count_include_pad;
        self
    }

    sliding_methods!(
        "They are zeros, counted in the average or not: see [`Self::count_include_pad`]."
    );
}

impl<const D: usize> Module for LpPool<D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let p = self.p;
        if !(p.is_finite() && p >= LEAST_POWER) {
            bail!(
                "{}: p is {p}, expected a finite number from {LEAST_POWER} on",
                Self::NAME
            );
        }
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        let &Self {
            sum,
            count_include_pad,
            ..
        } = self;
        let method = Method::Power {
            p,
            sum,
            count_include_pad,
        };
        Pool::new(geometry, method).apply(xs)
    }
}
