//! The pooling layers, a file each.

pub mod adaptive;
pub mod average;
pub mod choice;
pub mod learned;
pub mod lip;
pub mod max;
pub mod power;
mod random;
pub mod s3;
pub mod soft;
pub mod stochastic;

use crate::geometry::{Geometry, IntoSize, Windows};
use candle_core::{bail, DType, Result, Tensor};

/// Windows of one size at regular steps, as the builders collect them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sliding<const D: usize> {
    pub kernel: [usize; D],
    pub stride: [usize; D],
    pub padding: [usize; D],
    pub ceil_mode: bool,
}

impl<const D: usize> Sliding<D> {
    /// Windows side by side.
    pub fn new(kernel: impl IntoSize<D>) -> Self {
        let kernel = kernel.into_size();
        Self {
            kernel,
            stride: kernel,
            padding: [0; D],
            ceil_mode: false,
        }
    }

    /// The windows of an input, and the input's dtype checked.
    pub fn geometry(&self, layer: &str, xs: &Tensor) -> Result<Geometry> {
        let &Self {
            kernel,
            stride,
            padding,
            ceil_mode,
        } = self;
        let windows = Windows::Sliding {
            kernel,
            stride,
            padding,
            ceil_mode,
        };
        let geometry = Geometry::new(layer, &windows, xs.dims())?;
        compute_dtype(layer, xs)?;
        Ok(geometry)
    }
}

/// The dtype that sums are taken in: f64 for f64, f32 for the others.
pub(crate) fn compute_dtype(layer: &str, xs: &Tensor) -> Result<DType> {
    match xs.dtype() {
        DType::F64 => Ok(DType::F64),
        DType::F16 | DType::BF16 | DType::F32 => Ok(DType::F32),
        dtype => bail!("{layer}: input of dtype {dtype:?}, expected F16, BF16, F32 or F64"),
    }
}

/// The builder methods of a layer with a field `windows: Sliding<D>`.
macro_rules! sliding_methods {
    ($padding:literal) => {
        /// Cells from a window's start to the next one's, the kernel by default.
        pub fn stride(mut self, stride: impl crate::geometry::IntoSize<D>) -> Self {
            self.windows.stride = stride.into_size();
            self
        }

        /// Cells added on both sides, 0 by default, at most half the kernel.
        #[doc = $padding]
        pub fn padding(mut self, padding: impl crate::geometry::IntoSize<D>) -> Self {
            self.windows.padding = padding.into_size();
            self
        }

        /// Whether a last window may hang over the end, as in PyTorch: not by default.
        /// One that would start in the right padding is dropped.
        pub fn ceil_mode(mut self, ceil_mode: bool) -> Self {
            self.windows.ceil_mode = ceil_mode;
            self
        }
    };
}
pub(crate) use sliding_methods;
