//! Average pooling, differentiable at every window.

use super::{sliding_methods, Sliding};
use crate::backend::Method;
use crate::geometry::IntoSize;
use crate::op::Pool;
use candle_core::{Module, Result, Tensor};

/// Average pooling over `D` dimensions, a candle [`Module`]: `y = Σ x / n` over each window's `n` cells.
///
/// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
/// - Output: the same with each spatial size `n` turned into `floor((n + 2·padding − kernel)/stride) + 1`;
///   [`Self::ceil_mode`] rounds up.
///
/// Unlike candle's own `avg_pool2d` it pads, and has a gradient where windows overlap. f16 and bf16 are summed in f32.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use candle_softpool::AvgPool2d;
///
/// let pool = AvgPool2d::new(3).stride(2).padding(1);
/// let xs = Tensor::randn(0f32, 1., (8, 64, 112, 112), &Device::Cpu)?;
/// assert_eq!(xs.apply(&pool)?.dims(), [8, 64, 56, 56]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// `forward` gives an error that names the layer, the value and what is allowed for: a kernel, stride or spatial size
/// of 0, a kernel larger than the padded input (in ceil mode, larger by a stride or more), a padding of more than half
/// the kernel, an input of another rank or dtype.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AvgPool<const D: usize> {
    windows: Sliding<D>,
    count_include_pad: bool,
}

/// [`AvgPool`] of `(N, C, L)`.
pub type AvgPool1d = AvgPool<1>;
/// [`AvgPool`] of `(N, C, H, W)`.
pub type AvgPool2d = AvgPool<2>;
/// [`AvgPool`] of `(N, C, D, H, W)`.
pub type AvgPool3d = AvgPool<3>;

impl<const D: usize> AvgPool<D> {
    const NAME: &'static str = ["AvgPool1d", "AvgPool2d", "AvgPool3d"][D - 1];

    /// Windows of this size, side by side: the stride is the kernel.
    pub fn new(kernel: impl IntoSize<D>) -> Self {
        Self {
            windows: Sliding::new(kernel),
            count_include_pad: true,
        }
    }

    /// Whether padded cells count in the divisor: by default they do, as in PyTorch.
    /// What a window of `ceil_mode` has beyond the padding never counts.
    pub fn count_include_pad(mut self, count_include_pad: bool) -> Self {
        self.count_include_pad = count_include_pad;
        self
    }

    sliding_methods!(
        "They are zeros, counted in the divisor or not: see [`Self::count_include_pad`]."
    );
}

impl<const D: usize> Module for AvgPool<D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        let count_include_pad = self.count_include_pad;
        Pool::new(geometry, Method::Average { count_include_pad }).apply(xs)
    }
}
