//! SoftPool (Stergiou, Poppe, Kalliatakis, ICCV 2021, [arXiv 2101.00440](https://arxiv.org/abs/2101.00440)):
//! each window's output is its softmax-weighted sum.

use super::compute_dtype;
use crate::backend::{Gradient, Method, Weighting};
use crate::geometry::{Geometry, IntoSize, Windows};
use crate::op::Pool;
use crate::unfold::{select, unfold};
use candle_core::{bail, DType, Module, Result, Tensor, D as Dim};

/// How the pooled values are computed; the result is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Implementation {
    /// One custom op a pass, with kernels of its own on the CPU, CUDA and Metal.
    #[default]
    Fused,
    /// Ordinary candle tensor operations: slower, with the windows laid out in memory, on any device.
    /// Serves to compare timings and results.
    Composed,
}

/// SoftPool over `D` dimensions, a candle [`Module`]: `y = Σ softmax(β·x)·x` in each window.
///
/// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
/// - Output: the same with each spatial size `n` turned into `floor((n + 2·padding − kernel)/stride) + 1`; with
///   [`Self::ceil_mode`] `ceil` in place of `floor`, less a last window that would start in the padding behind.
///
/// A size is an integer, a tuple or an array, outermost dimension first: `2`, `(3, 2)` (height 3, width 2), `[3, 2]`.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use candle_softpool::{Gradient, SoftPool2d};
///
/// let pool = SoftPool2d::new(3).stride(2).padding(1).gradient(Gradient::Exact);
/// let xs = Tensor::randn(0f32, 1., (8, 64, 112, 112), &Device::Cpu)?;
/// let ys = xs.apply(&pool)?;
/// assert_eq!(ys.dims(), [8, 64, 56, 56]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Values that are not finite
///
/// A NaN makes the output of its windows NaN; `+inf` makes it `+inf`; `−inf` takes no part unless its whole window
/// is `−inf`, which gives `−inf`. With a negative β, `+inf` and `−inf` change places. [`Self::nan_to_num`] replaces
/// such outputs. A window whose output is not finite has no derivative: it gives NaN to its cells' gradients,
/// or nothing with `nan_to_num`, where its output is a constant.
///
/// # Errors
///
/// `forward` gives an error that names the layer, the value and what is allowed for: a kernel, stride or spatial size
/// of 0, a kernel larger than the padded input (in ceil mode, larger by a stride or more), a padding of more than half
/// the kernel, a β that is not finite, an input of another rank or dtype.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftPool<const D: usize> {
    kernel: [usize; D],
    stride: [usize; D],
    padding: [usize; D],
    ceil_mode: bool,
    settings: Settings,
}

/// [`SoftPool`] of `(N, C, L)`, such as time series.
pub type SoftPool1d = SoftPool<1>;
/// [`SoftPool`] of `(N, C, H, W)`, such as images.
pub type SoftPool2d = SoftPool<2>;
/// [`SoftPool`] of `(N, C, D, H, W)`, such as videos and volumes.
pub type SoftPool3d = SoftPool<3>;

/// What SoftPool and its adaptive form have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Settings {
    beta: f64,
    gradient: Gradient,
    nan_to_num: bool,
    implementation: Implementation,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            beta: 1.0,
            gradient: Gradient::default(),
            nan_to_num: false,
            implementation: Implementation::default(),
        }
    }
}

/// The builder methods that [`SoftPool`] and [`AdaptiveSoftPool`] share.
macro_rules! settings_methods {
    () => {
        /// The inverse temperature β of the weights `exp(β·x)`, 1 by default.
        /// Towards 0 the layer becomes average pooling, towards infinity max pooling; below 0 the lowest weighs most.
        pub fn beta(mut self, beta: f64) -> Self {
            self.settings.beta = beta;
            self
        }

        /// Which derivative the backward pass computes, [`Gradient::Paper`] by default.
        pub fn gradient(mut self, gradient: Gradient) -> Self {
            self.settings.gradient = gradient;
            self
        }

        /// Whether outputs that are not finite are replaced as by `torch.nan_to_num`: NaN by 0, infinities by the
        /// dtype's largest and smallest finite values. Not by default.
        pub fn nan_to_num(mut self, nan_to_num: bool) -> Self {
            self.settings.nan_to_num = nan_to_num;
            self
        }

        /// Whether one fused kernel or candle's tensor operations compute it, [`Implementation::Fused`] by default.
        pub fn implementation(mut self, implementation: Implementation) -> Self {
            self.settings.implementation = implementation;
            self
        }
    };
}

impl<const D: usize> SoftPool<D> {
    pub(super) const NAME: &'static str = ["SoftPool1d", "SoftPool2d", "SoftPool3d"][D - 1];

    /// Windows of this size, side by side: the stride is the kernel.
    pub fn new(kernel: impl IntoSize<D>) -> Self {
        let kernel = kernel.into_size();
        Self {
            kernel,
            stride: kernel,
            padding: [0; D],
            ceil_mode: false,
            settings: Settings::default(),
        }
    }

    /// Cells from a window's start to the next one's, the kernel by default.
    pub fn stride(mut self, stride: impl IntoSize<D>) -> Self {
        self.stride = stride.into_size();
        self
    }

    /// Cells added on both sides, 0 by default, at most half the kernel.
    /// They take no part, neither in the weights nor in the sum (`count_include_pad = false`).
    pub fn padding(mut self, padding: impl IntoSize<D>) -> Self {
        self.padding = padding.into_size();
        self
    }

    /// Whether a last window may hang over the end, as in PyTorch: not by default.
    /// One that would start in the right padding is dropped.
    pub fn ceil_mode(mut self, ceil_mode: bool) -> Self {
        self.ceil_mode = ceil_mode;
        self
    }

    settings_methods!();
}

impl<const D: usize> SoftPool<D> {
    fn windows(&self) -> Windows<D> {
        Windows::Sliding {
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            ceil_mode: self.ceil_mode,
        }
    }

    /// The windows of an input, and the input's dtype checked.
    pub(super) fn geometry(&self, xs: &Tensor) -> Result<Geometry> {
        let geometry = Geometry::new(Self::NAME, &self.windows(), xs.dims())?;
        compute_dtype(Self::NAME, xs)?;
        Ok(geometry)
    }

    /// The gradient of `xs` from that of the output, of the output's shape and dtype: the fused backward kernel alone.
    ///
    /// For a training step by hand: candle's autograd adds each gradient to a tensor of zeros, which costs more than the
    /// kernel does.
    ///
    /// ```
    /// use candle_core::{Device, Module, Tensor};
    /// use candle_softpool::SoftPool2d;
    ///
    /// let pool = SoftPool2d::new(2);
    /// let xs = Tensor::randn(0f32, 1., (1, 3, 8, 8), &Device::Cpu)?;
    /// let grad = xs.apply(&pool)?.ones_like()?;
    /// assert_eq!(pool.backward(&xs, &grad)?.dims(), [1, 3, 8, 8]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `forward`, and a `grad` of another shape or dtype than the output.
    pub fn backward(&self, xs: &Tensor, grad: &Tensor) -> Result<Tensor> {
        check_beta(Self::NAME, self.settings.beta)?;
        let geometry = self.geometry(xs)?;
        let output = geometry.output_shape(xs.shape());
        if grad.shape() != &output || grad.dtype() != xs.dtype() {
            bail!(
                "{}: gradient of shape {:?} and dtype {:?}, expected those of the output: {:?}, {:?}",
                Self::NAME,
                grad.dims(),
                grad.dtype(),
                output.dims(),
                xs.dtype()
            );
        }
        self.settings.op(geometry).backward(xs, grad)
    }
}

impl<const D: usize> Module for SoftPool<D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        pool(Self::NAME, &self.windows(), &self.settings, xs)
    }
}

/// SoftPool to an output of a given size, with PyTorch's adaptive windows: output `o` of `m` over `n` cells pools
/// `floor(o·n/m)..ceil((o + 1)·n/m)`. Size 1 is global pooling.
///
/// Shapes, dtypes, values that are not finite and errors are those of [`SoftPool`]; an output size of 0 is an error.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use candle_softpool::AdaptiveSoftPool2d;
///
/// let xs = Tensor::randn(0f32, 1., (8, 64, 7, 9), &Device::Cpu)?;
/// assert_eq!(xs.apply(&AdaptiveSoftPool2d::new((3, 1)))?.dims(), [8, 64, 3, 1]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveSoftPool<const D: usize> {
    output: [usize; D],
    settings: Settings,
}

/// [`AdaptiveSoftPool`] of `(N, C, L)`.
pub type AdaptiveSoftPool1d = AdaptiveSoftPool<1>;
/// [`AdaptiveSoftPool`] of `(N, C, H, W)`.
pub type AdaptiveSoftPool2d = AdaptiveSoftPool<2>;
/// [`AdaptiveSoftPool`] of `(N, C, D, H, W)`.
pub type AdaptiveSoftPool3d = AdaptiveSoftPool<3>;

impl<const D: usize> AdaptiveSoftPool<D> {
    const NAME: &'static str = [
        "AdaptiveSoftPool1d",
        "AdaptiveSoftPool2d",
        "AdaptiveSoftPool3d",
    ][D - 1];

    /// An output of this size, whatever the input's.
    pub fn new(output: impl IntoSize<D>) -> Self {
        Self {
            output: output.into_size(),
            settings: Settings::default(),
        }
    }

    settings_methods!();
}

impl<const D: usize> Module for AdaptiveSoftPool<D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let windows = Windows::Adaptive {
            output: self.output,
        };
        pool(Self::NAME, &windows, &self.settings, xs)
    }
}

impl Settings {
    fn op(&self, geometry: Geometry) -> Pool {
        let &Self {
            beta,
            nan_to_num,
            gradient,
            ..
        } = self;
        let method = Method::SoftPool(Weighting { beta, nan_to_num });
        Pool {
            geometry,
            method,
            gradient,
        }
    }
}

fn check_beta(layer: &str, beta: f64) -> Result<()> {
    if !beta.is_finite() {
        bail!("{layer}: beta is {beta}, expected a finite number");
    }
    Ok(())
}

fn pool<const D: usize>(
    layer: &str,
    windows: &Windows<D>,
    settings: &Settings,
    xs: &Tensor,
) -> Result<Tensor> {
    let &Settings {
        beta,
        gradient,
        nan_to_num,
        implementation,
    } = settings;
    check_beta(layer, beta)?;
    let geometry = Geometry::new(layer, windows, xs.dims())?;
    let wide = compute_dtype(layer, xs)?;
    match implementation {
        Implementation::Fused => settings.op(geometry).apply(xs),
        // Nothing to pool, but a gradient of nothing: candle's operations launch kernels for it, which CUDA refuses.
        Implementation::Composed if xs.elem_count() == 0 => settings.op(geometry).apply(xs),
        Implementation::Composed => {
            // Rounded to the input's dtype first: what is infinite there must be replaced there.
            let ys =
                composed(&xs.to_dtype(wide)?, &geometry, beta, gradient)?.to_dtype(xs.dtype())?;
            match nan_to_num {
                true => finite(&ys),
                false => Ok(ys),
            }
        }
    }
}

/// The formula in candle operations.
fn composed(xs: &Tensor, geometry: &Geometry, beta: f64, gradient: Gradient) -> Result<Tensor> {
    if beta < 0.0 {
        // Pooling for the lowest is pooling for the highest of the mirrored activations.
        return composed(&xs.neg()?, geometry, -beta, gradient)?.neg();
    }
    // Any β that large takes the maximum; one that is infinite in the dtype would make 0·∞ of the maximum itself.
    let beta = match xs.dtype() {
        DType::F32 => beta.min(f32::MAX.into()),
        _ => beta,
    };
    let windows = unfold(xs, geometry)?;
    let peak = windows
        .filled(f64::NEG_INFINITY)?
        .max_keepdim(Dim::Minus1)?
        .detach();
    // Infinite cells are left out here and decide the output below; NaN is not infinite and stays.
    let cells = windows.filled(f64::INFINITY)?;
    let finite = cells.abs()?.ne(f64::INFINITY)?;
    let infinite = peak.abs()?.eq(f64::INFINITY)?;
    let shift = select(&finite, &cells, f64::NEG_INFINITY)?
        .max_keepdim(Dim::Minus1)?
        .detach();
    let shift = select(&shift.abs()?.ne(f64::INFINITY)?, &shift, 0.0)?;
    let cells = select(&finite, &cells, 0.0)?;

    // Halves, whose difference does not overflow.
    let halves = (&cells * 0.5)?.broadcast_sub(&(shift * 0.5)?)?;
    let weights = ((halves * beta)? * 2.0)?.exp()?;
    let weights = select(&finite, &weights, 0.0)?;
    let total = weights.sum_keepdim(Dim::Minus1)?;
    // A window with no finite cell has no weights: 0/1 rather than 0/0.
    let total = select(&total.ne(0.0)?, &total, 1.0)?;
    let weights = weights.broadcast_div(&total)?;
    let weights = match gradient {
        Gradient::Paper => weights.detach(),
        Gradient::Exact => weights,
    };
    let ys = (weights * cells)?.sum(Dim::Minus1)?;
    ys + select(&infinite, &peak, 0.0)?.squeeze(Dim::Minus1)?
}

/// `torch.nan_to_num`.
fn finite(ys: &Tensor) -> Result<Tensor> {
    let max = match ys.dtype() {
        DType::F16 => half::f16::MAX.to_f64(),
        DType::BF16 => half::bf16::MAX.to_f64(),
        DType::F32 => f32::MAX.into(),
        _ => f64::MAX,
    };
    select(&ys.eq(ys)?, ys, 0.0)?.clamp(-max, max)
}

/// SoftPool of `(N, C, L)` or `(C, L)` with windows side by side; see [`SoftPool`].
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let xs = Tensor::new(&[[[1f32, 1., 0., 4.]]], &Device::Cpu)?;
/// let ys = candle_softpool::soft_pool1d(&xs, 2)?.flatten_all()?.to_vec1::<f32>()?;
/// assert_eq!(ys[0], 1.0);
/// assert!((ys[1] - 4.0 / (1.0 + (-4f32).exp())).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn soft_pool1d(xs: &Tensor, kernel: impl IntoSize<1>) -> Result<Tensor> {
    SoftPool1d::new(kernel).forward(xs)
}

/// SoftPool of `(N, C, L)` or `(C, L)`; see [`SoftPool`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 1, 9), DType::F32, &Device::Cpu)?;
/// assert_eq!(candle_softpool::soft_pool1d_with_stride(&xs, 3, 2)?.dims(), [1, 1, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn soft_pool1d_with_stride(
    xs: &Tensor,
    kernel: impl IntoSize<1>,
    stride: impl IntoSize<1>,
) -> Result<Tensor> {
    SoftPool1d::new(kernel).stride(stride).forward(xs)
}

/// SoftPool of `(N, C, H, W)` or `(C, H, W)` with windows side by side, in the place of
/// [`Tensor::max_pool2d`]; see [`SoftPool`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// assert_eq!(candle_softpool::soft_pool2d(&xs, 2)?.dims(), [1, 3, 4, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn soft_pool2d(xs: &Tensor, kernel: impl IntoSize<2>) -> Result<Tensor> {
    SoftPool2d::new(kernel).forward(xs)
}

/// SoftPool of `(N, C, H, W)` or `(C, H, W)`, in the place of [`Tensor::max_pool2d_with_stride`]; see [`SoftPool`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 3, 9, 8), DType::F32, &Device::Cpu)?;
/// assert_eq!(candle_softpool::soft_pool2d_with_stride(&xs, (3, 2), 2)?.dims(), [1, 3, 4, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn soft_pool2d_with_stride(
    xs: &Tensor,
    kernel: impl IntoSize<2>,
    stride: impl IntoSize<2>,
) -> Result<Tensor> {
    SoftPool2d::new(kernel).stride(stride).forward(xs)
}

/// SoftPool of `(N, C, D, H, W)` or `(C, D, H, W)` with windows side by side; see [`SoftPool`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 3, 4, 8, 8), DType::F32, &Device::Cpu)?;
/// assert_eq!(candle_softpool::soft_pool3d(&xs, (1, 2, 2))?.dims(), [1, 3, 4, 4, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn soft_pool3d(xs: &Tensor, kernel: impl IntoSize<3>) -> Result<Tensor> {
    SoftPool3d::new(kernel).forward(xs)
}

/// SoftPool of `(N, C, D, H, W)` or `(C, D, H, W)`; see [`SoftPool`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 3, 4, 8, 8), DType::F32, &Device::Cpu)?;
/// let ys = candle_softpool::soft_pool3d_with_stride(&xs, (4, 2, 2), 2)?;
/// assert_eq!(ys.dims(), [1, 3, 1, 4, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn soft_pool3d_with_stride(
    xs: &Tensor,
    kernel: impl IntoSize<3>,
    stride: impl IntoSize<3>,
) -> Result<Tensor> {
    SoftPool3d::new(kernel).stride(stride).forward(xs)
}
