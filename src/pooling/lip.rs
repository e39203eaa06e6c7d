//! Local importance pooling.

use super::{compute_dtype, sliding_methods, Sliding};
use crate::backend::Method;
use crate::geometry::{Geometry, IntoSize};
use crate::op::Pool;
use candle_core::{bail, DType, Module, Result, Tensor, D as Dim};
use candle_nn::{Init, VarBuilder};
use std::fmt;
use std::sync::Arc;

/// Local importance pooling over `D` dimensions (Gao, Wang, Wu, "LIP: local importance-based pooling", ICCV 2019,
/// [arXiv 1908.04156](https://arxiv.org/abs/1908.04156)): `y = Σ softmax(z)·x` in each window, with logits `z = G(x)`.
///
/// [`Self::learned`] gives it the paper's simplified logit module, which makes it a candle [`Module`]:
/// `G(x) = 12·sigmoid(instance_norm(conv(x)))`, the convolution over 3 cells a dimension, without bias, begun at zero,
/// so that an untrained layer is average pooling. [`Self::forward_with`] takes logits of any origin; with `z = x` the
/// layer is SoftPool.
///
/// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
/// - Output: the same with each spatial size `n` turned into `floor((n + 2·padding − kernel)/stride) + 1`;
///   [`Self::ceil_mode`] rounds up.
///
/// Gradients are exact, for the values and for the logits. f16 and bf16 are computed in f32.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use candle_softpool::Lip2d;
///
/// let vars = VarMap::new();
/// let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
/// let pool = Lip2d::new(3).stride(2).padding(1).learned(16, vb.pp("pool"))?;
/// let xs = Tensor::randn(0f32, 1., (2, 16, 28, 28), &Device::Cpu)?;
/// assert_eq!(xs.apply(&pool)?.dims(), [2, 16, 14, 14]);
///
/// let importance = xs.sqr()?;
/// assert_eq!(Lip2d::new(2).forward_with(&xs, &importance)?.dims(), [2, 16, 14, 14]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// An error that names the layer, the value and what is allowed for: `forward` without a logit module, another number
/// of channels than it was built for, logits of another shape, a kernel, stride or spatial size of 0, a kernel larger
/// than the padded input, a padding of more than half the kernel, an input of another rank or dtype.
#[derive(Clone, Debug)]
pub struct Lip<const D: usize> {
    windows: Sliding<D>,
    logits: Option<Logits<D>>,
}

/// Where a layer's logits come from.
#[derive(Clone)]
enum Logits<const D: usize> {
    Learned(LogitModule<D>),
    Of(Arc<dyn Module + Send + Sync>),
}

impl<const D: usize> fmt::Debug for Logits<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Learned(module) => module.fmt(f),
            Self::Of(_) => f.write_str("a module of the user's"),
        }
    }
}

/// [`Lip`] of `(N, C, L)`.
pub type Lip1d = Lip<1>;
/// [`Lip`] of `(N, C, H, W)`.
pub type Lip2d = Lip<2>;
/// [`Lip`] of `(N, C, D, H, W)`.
pub type Lip3d = Lip<3>;

impl<const D: usize> Lip<D> {
    const NAME: &'static str = ["Lip1d", "Lip2d", "Lip3d"][D - 1];

    /// Windows of this size, side by side: the stride is the kernel. There is no logit module yet.
    pub fn new(kernel: impl IntoSize<D>) -> Self {
        Self {
            windows: Sliding::new(kernel),
            logits: None,
        }
    }

    /// With the paper's logit module, its variables named as in the authors' checkpoints: `logit.conv.weight`
    /// `(C, C, 3…)`, `logit.bn.weight` and `logit.bn.bias` `(C)`.
    ///
    /// # Errors
    ///
    /// 0 channels, and `vb`'s: a tensor that it lacks or holds in another shape.
    pub fn learned(mut self, channels: usize, vb: VarBuilder) -> Result<Self> {
        if channels == 0 {
            bail!("{}: 0 channels, expected at least 1", Self::NAME);
        }
        let module = LogitModule::new(channels, vb.pp("logit"))?;
        self.logits = Some(Logits::Learned(module));
        Ok(self)
    }

    /// With logits that a module gives of the input, of its shape or of a single channel for all.
    ///
    /// A linear map begun at twice the identity is Enformer's attention pooling.
    ///
    /// ```
    /// use candle_core::{Device, Module, Tensor};
    /// use candle_softpool::Lip2d;
    ///
    /// let pool = Lip2d::new(2).logits(candle_nn::func(|xs| xs * 2.0));
    /// let xs = Tensor::randn(0f32, 1., (2, 16, 28, 28), &Device::Cpu)?;
    /// assert_eq!(xs.apply(&pool)?.dims(), [2, 16, 14, 14]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn logits(mut self, module: impl Module + Send + Sync + 'static) -> Self {
        self.logits = Some(Logits::Of(Arc::new(module)));
        self
    }

    sliding_methods!("They take no part, neither in the weights nor in the sum.");

    /// Pools `xs` with these logits, of its shape or with a single channel for all. A logit of −∞ masks its cell;
    /// a window whose logits are all −∞ is NaN, and so are the gradients of its cells.
    ///
    /// Logits may have another dtype out of f16, bf16, f32 and f64 than `xs`; the output has that of `xs`.
    ///
    /// # Errors
    ///
    /// Those of [`Lip`], logits of another dtype than these four among them.
    pub fn forward_with(&self, xs: &Tensor, logits: &Tensor) -> Result<Tensor> {
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        let channels = xs.rank() - D - 1;
        let mut shared = xs.dims().to_vec();
        shared[channels] = 1;
        if logits.dims() != xs.dims() && logits.dims() != shared {
            bail!(
                "{}: logits of shape {:?}, expected that of the input, {:?}, or {shared:?}",
                Self::NAME,
                logits.dims(),
                xs.dims()
            );
        }
        compute_dtype(Self::NAME, logits)?;
        weigh(Self::NAME, &geometry, xs, logits)
    }
}

impl<const D: usize> Module for Lip<D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let module = match &self.logits {
            Some(Logits::Learned(module)) => module,
            Some(Logits::Of(module)) => return self.forward_with(xs, &module.forward(xs)?),
            None => bail!(
                "{}: has no logit module: give it one with `learned(channels, vb)` or `logits(module)`, or logits with `forward_with`",
                Self::NAME
            ),
        };
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        let channels = xs.dims()[xs.rank() - D - 1];
        if channels != module.channels {
            bail!(
                "{}: input of shape {:?} has {channels} channels, expected {}",
                Self::NAME,
                xs.dims(),
                module.channels
            );
        }
        if let Some(ys) = Pool::of_nothing(geometry, xs) {
            return ys;
        }
        let wide = xs.to_dtype(compute_dtype(Self::NAME, xs)?)?;
        let logits = module.forward(&wide)?;
        weigh(Self::NAME, &geometry, &wide, &logits)?.to_dtype(xs.dtype())
    }
}

/// `Σ softmax(z)·x` in every window, with logits of the input's shape or of one channel for all, in any two dtypes.
pub(crate) fn weigh(
    layer: &str,
    geometry: &Geometry,
    xs: &Tensor,
    logits: &Tensor,
) -> Result<Tensor> {
    let pool = Pool::new(*geometry, Method::Logits);
    let of_all = |logits: &Tensor| match logits.shape() == xs.shape() {
        true => Ok(logits.clone()),
        false => logits.broadcast_as(xs.shape()),
    };
    // candle sums the gradient of what is broadcast in its dtype: in half precision it would soon stand still.
    let summed = logits.shape() != xs.shape() && logits.track_op();
    let dtypes = (compute_dtype(layer, xs)?, compute_dtype(layer, logits)?);
    if xs.dtype() == logits.dtype() && !(summed && dtypes.1 != logits.dtype()) {
        return pool.apply_with(xs, &of_all(logits)?);
    }
    if let Some(ys) = Pool::of_nothing(*geometry, xs) {
        return ys;
    }
    let dtype = match dtypes {
        (DType::F32, DType::F32) => DType::F32,
        _ => DType::F64,
    };
    let (wide, logits) = (xs.to_dtype(dtype)?, logits.to_dtype(dtype)?);
    let ys = pool.apply_with(&wide, &of_all(&logits)?)?;
    ys.to_dtype(xs.dtype())
}

/// `12·sigmoid(instance_norm(conv(x)))`: the authors' "simplified LIP".
#[derive(Clone, Debug)]
struct LogitModule<const D: usize> {
    channels: usize,
    /// `(C, C, 3…)`, as it is stored: a copy in another order would miss what training changes.
    conv: Tensor,
    scale: Tensor,
    bias: Tensor,
}

impl<const D: usize> LogitModule<D> {
    /// Logits stay below this, so that no cell outweighs another by more than `e^12`.
    const GATE: f64 = 12.0;
    /// PyTorch's default for instance normalisation.
    const EPSILON: f64 = 1e-5;

    fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        let mut shape = vec![channels, channels];
        shape.extend([3; D]);
        let conv = vb.get_with_hints(shape, "conv.weight", Init::Const(0.0))?;
        Ok(Self {
            channels,
            conv,
            scale: vb.get_with_hints(channels, "bn.weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(channels, "bn.bias", Init::Const(0.0))?,
        })
    }

    /// Convolution with padding one, to `(N, C, cells)`.
    fn convolve(&self, xs: &Tensor) -> Result<Tensor> {
        let conv = self.conv.to_dtype(xs.dtype())?;
        let first = xs.rank() - D;
        let batched = match xs.rank() == D + 1 {
            true => xs.unsqueeze(0)?,
            false => xs.clone(),
        };
        let maps = match D {
            1 => batched.contiguous()?.conv1d(&conv, 1, 1, 1, 1)?,
            2 => batched.contiguous()?.conv2d(&conv, 1, 1, 1, 1)?,
            _ => return Self::convolve_by_taps(xs, &conv, first),
        };
        maps.flatten_from(2)
    }

    /// A matrix product a tap: candle has no convolution in three dimensions.
    fn convolve_by_taps(xs: &Tensor, conv: &Tensor, first: usize) -> Result<Tensor> {
        let channels = conv.dim(0)?;
        let sizes = &xs.dims()[first..];
        let mut padded = xs.clone();
        for d in 0..D {
            padded = padded.pad_with_zeros(first + d, 1, 1)?;
        }
        let batch: usize = xs.dims()[..first - 1].iter().product();
        let taps = conv.flatten_from(2)?.permute((2, 0, 1))?;
        let mut sum: Option<Tensor> = None;
        for tap in 0..3usize.pow(D as u32) {
            let mut cells = padded.clone();
            for (d, &size) in sizes.iter().enumerate() {
                let offset = tap / 3usize.pow((D - 1 - d) as u32) % 3;
                cells = cells.narrow(first + d, offset, size)?;
            }
            let cells = cells.reshape((batch, channels, ()))?;
            let part = taps.get(tap)?.broadcast_matmul(&cells)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
        sum.map_or_else(|| bail!("a convolution needs a tap"), Ok)
    }
}

impl<const D: usize> Module for LogitModule<D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let maps = self.convolve(xs)?;
        let maps = maps.broadcast_sub(&maps.mean_keepdim(Dim::Minus1)?)?;
        let variance = maps.sqr()?.mean_keepdim(Dim::Minus1)?;
        let maps = maps.broadcast_div(&(variance + Self::EPSILON)?.sqrt()?)?;
        let column = |xs: &Tensor, dtype: DType| xs.to_dtype(dtype)?.reshape((self.channels, 1));
        let maps = maps
            .broadcast_mul(&column(&self.scale, xs.dtype())?)?
            .broadcast_add(&column(&self.bias, xs.dtype())?)?;
        (candle_nn::ops::sigmoid(&maps)? * Self::GATE)?.reshape(xs.shape())
    }
}

/// Softmax pooling of `(N, C, L)` or `(C, L)` with logits of their own: `y = Σ softmax(z)·x` in windows side by side; see [`Lip`].
///
/// Logits have the input's shape, or one channel for all; −∞ masks a cell. Gradients are exact, for both.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 2, 8), DType::F32, &Device::Cpu)?;
/// let logits = xs.ones_like()?;
/// assert_eq!(candle_softpool::softmax_pool1d(&xs, &logits, 2)?.dims(), [1, 2, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn softmax_pool1d(xs: &Tensor, logits: &Tensor, kernel: impl IntoSize<1>) -> Result<Tensor> {
    Lip1d::new(kernel).forward_with(xs, logits)
}

/// [`softmax_pool1d`] with a stride of its own.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 2, 8), DType::F32, &Device::Cpu)?;
/// assert_eq!(candle_softpool::softmax_pool1d_with_stride(&xs, &xs, 3, 1)?.dims(), [1, 2, 6]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn softmax_pool1d_with_stride(
    xs: &Tensor,
    logits: &Tensor,
    kernel: impl IntoSize<1>,
    stride: impl IntoSize<1>,
) -> Result<Tensor> {
    Lip1d::new(kernel).stride(stride).forward_with(xs, logits)
}

/// Softmax pooling of `(N, C, H, W)` or `(C, H, W)` with logits of their own: `y = Σ softmax(z)·x` in windows side by side; see [`Lip`].
///
/// Logits have the input's shape, or one channel for all; −∞ masks a cell. Gradients are exact, for both.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 2, 8, 6), DType::F32, &Device::Cpu)?;
/// let logits = xs.ones_like()?;
/// assert_eq!(candle_softpool::softmax_pool2d(&xs, &logits, 2)?.dims(), [1, 2, 4, 3]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn softmax_pool2d(xs: &Tensor, logits: &Tensor, kernel: impl IntoSize<2>) -> Result<Tensor> {
    Lip2d::new(kernel).forward_with(xs, logits)
}

/// [`softmax_pool2d`] with a stride of its own.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 2, 8, 6), DType::F32, &Device::Cpu)?;
/// assert_eq!(candle_softpool::softmax_pool2d_with_stride(&xs, &xs, 3, 1)?.dims(), [1, 2, 6, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn softmax_pool2d_with_stride(
    xs: &Tensor,
    logits: &Tensor,
    kernel: impl IntoSize<2>,
    stride: impl IntoSize<2>,
) -> Result<Tensor> {
    Lip2d::new(kernel).stride(stride).forward_with(xs, logits)
}

/// Softmax pooling of `(N, C, D, H, W)` or `(C, D, H, W)` with logits of their own: `y = Σ softmax(z)·x` in windows side by side; see [`Lip`].
///
/// Logits have the input's shape, or one channel for all; −∞ masks a cell. Gradients are exact, for both.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 2, 4, 8, 6), DType::F32, &Device::Cpu)?;
/// let logits = xs.ones_like()?;
/// assert_eq!(candle_softpool::softmax_pool3d(&xs, &logits, 2)?.dims(), [1, 2, 2, 4, 3]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn softmax_pool3d(xs: &Tensor, logits: &Tensor, kernel: impl IntoSize<3>) -> Result<Tensor> {
    Lip3d::new(kernel).forward_with(xs, logits)
}

/// [`softmax_pool3d`] with a stride of its own.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
///
/// let xs = Tensor::zeros((1, 2, 4, 8, 6), DType::F32, &Device::Cpu)?;
/// assert_eq!(candle_softpool::softmax_pool3d_with_stride(&xs, &xs, 3, 1)?.dims(), [1, 2, 2, 6, 4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn softmax_pool3d_with_stride(
    xs: &Tensor,
    logits: &Tensor,
    kernel: impl IntoSize<3>,
    stride: impl IntoSize<3>,
) -> Result<Tensor> {
    Lip3d::new(kernel).stride(stride).forward_with(xs, logits)
}
