//! Max pooling, differentiable at every window.

use super::{sliding_methods, Sliding};
use crate::backend::Method;
use crate::geometry::{Geometry, IntoSize};
use crate::op::{places, Pool};
use candle_core::{bail, Module, Result, Tensor};

/// Max pooling over `D` dimensions, a candle [`Module`]: `y = max x` in each window.
///
/// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
/// - Output: the same with each spatial size `n` turned into `floor((n + 2·padding − kernel)/stride) + 1`;
///   [`Self::ceil_mode`] rounds up.
///
/// Unlike candle's own `max_pool2d` it pads, has a gradient where windows overlap, and gives a window's gradient to one
/// cell alone: to the first of its maxima in row-major order, as PyTorch does on the CPU.
/// A NaN makes the output of its windows NaN.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use candle_softpool::MaxPool2d;
///
/// let pool = MaxPool2d::new(3).stride(2).padding(1);
/// let xs = Tensor::randn(0f32, 1., (8, 64, 112, 112), &Device::Cpu)?;
/// assert_eq!(xs.apply(&pool)?.dims(), [8, 64, 56, 56]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// `forward` gives an error that names the layer, the value and what is allowed for: a kernel, stride or spatial size
/// of 0, a kernel larger than the padded input (in ceil mode, larger by a stride or more), a padding of more than half
/// the kernel, an input of another rank or dtype, a plane of 2^32 cells or more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxPool<const D: usize> {
    windows: Sliding<D>,
}

/// [`MaxPool`] of `(N, C, L)`.
pub type MaxPool1d = MaxPool<1>;
/// [`MaxPool`] of `(N, C, H, W)`.
pub type MaxPool2d = MaxPool<2>;
/// [`MaxPool`] of `(N, C, D, H, W)`.
pub type MaxPool3d = MaxPool<3>;

impl<const D: usize> MaxPool<D> {
    const NAME: &'static str = ["MaxPool1d", "MaxPool2d", "MaxPool3d"][D - 1];

    /// Windows of this size, side by side: the stride is the kernel.
    pub fn new(kernel: impl IntoSize<D>) -> Self {
        Self {
            windows: Sliding::new(kernel),
        }
    }

    sliding_methods!("They are `−inf`: never the maximum.");

    /// The maxima, and where they are: indices into their input's plane in row-major order, in u32.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_softpool::MaxPool1d;
    ///
    /// let xs = Tensor::new(&[[[1f32, 5., 2., 7.]]], &Device::Cpu)?;
    /// let (ys, places) = MaxPool1d::new(2).forward_with_indices(&xs)?;
    /// assert_eq!(ys.to_vec3::<f32>()?, [[[5.0, 7.0]]]);
    /// assert_eq!(places.to_vec3::<u32>()?, [[[1, 3]]]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `forward`.
    pub fn forward_with_indices(&self, xs: &Tensor) -> Result<(Tensor, Tensor)> {
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        Ok((max_pool(Self::NAME, &geometry, xs)?, places(xs, &geometry)?))
    }
}

impl<const D: usize> Module for MaxPool<D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        max_pool(Self::NAME, &geometry, xs)
    }
}

/// The maximum of every window, whose gradient goes where the value came from.
pub(crate) fn max_pool(layer: &str, geometry: &Geometry, xs: &Tensor) -> Result<Tensor> {
    check_places(layer, geometry, xs)?;
    Pool::new(*geometry, Method::Maximum).apply(xs)
}

/// An error where a cell's place in its plane is no u32.
pub(crate) fn check_places(layer: &str, geometry: &Geometry, xs: &Tensor) -> Result<()> {
    match u32::try_from(geometry.input_cells()) {
        Ok(_) => Ok(()),
        Err(_) => bail!(
            "{layer}: input of shape {:?} has planes of 2^32 cells or more",
            xs.dims()
        ),
    }
}
