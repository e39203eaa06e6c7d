//! Average and max pooling to an output of a given size.

use super::compute_dtype;
use super::max::max_pool;
use crate::backend::Method;
use crate::geometry::{Geometry, IntoSize, Windows};
use crate::op::Pool;
use candle_core::{Module, Result, Tensor};

macro_rules! adaptive_layer {
    ($(#[$doc:meta])* $name:ident, $one:ident, $two:ident, $three:ident, |$layer:ident, $geometry:ident, $xs:ident| $pool:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<const D: usize> {
            output: [usize; D],
        }

        #[doc = concat!("[`", stringify!($name), "`] of `(N, C, L)`.")]
        pub type $one = $name<1>;
        #[doc = concat!("[`", stringify!($name), "`] of `(N, C, H, W)`.")]
        pub type $two = $name<2>;
        #[doc = concat!("[`", stringify!($name), "`] of `(N, C, D, H, W)`.")]
        pub type $three = $name<3>;

        impl<const D: usize> $name<D> {
            const NAME: &'static str = [stringify!($one), stringify!($two), stringify!($three)][D - 1];

            /// An output of this size, whatever the input's.
            pub fn new(output: impl IntoSize<D>) -> Self {
                Self { output: output.into_size() }
            }
        }

        impl<const D: usize> Module for $name<D> {
            fn forward(&self, $xs: &Tensor) -> Result<Tensor> {
                let ($layer, output) = (Self::NAME, self.output);
                let $geometry = Geometry::new($layer, &Windows::Adaptive { output }, $xs.dims())?;
                let _ = compute_dtype($layer, $xs)?;
                $pool
            }
        }
    };
}

adaptive_layer!(
    /// Average pooling to an output of a given size, with PyTorch's adaptive windows: output `o` of `m` over `n` cells pools
    /// `floor(o·n/m)..ceil((o + 1)·n/m)`. Size 1 is global pooling. Differentiable at every window.
    ///
    /// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
    /// - Output: the same with the spatial sizes given.
    ///
    /// ```
    /// use candle_core::{Device, Module, Tensor};
    /// use candle_softpool::AdaptiveAvgPool2d;
    ///
    /// let xs = Tensor::randn(0f32, 1., (8, 64, 7, 9), &Device::Cpu)?;
    /// assert_eq!(xs.apply(&AdaptiveAvgPool2d::new((3, 1)))?.dims(), [8, 64, 3, 1]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `forward` gives an error that names the layer, the value and what is allowed for: an output size or a spatial size
    /// of 0, an input of another rank or dtype.
    AdaptiveAvgPool, AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d,
    |layer, geometry, xs| Pool::new(geometry, Method::Average { count_include_pad: false }).apply(xs)
);

adaptive_layer!(
    /// Max pooling to an output of a given size, with PyTorch's adaptive windows: output `o` of `m` over `n` cells pools
    /// `floor(o·n/m)..ceil((o + 1)·n/m)`. Size 1 is global pooling. Ties, NaN and gradients are those of
    /// [`MaxPool`](crate::MaxPool).
    ///
    /// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
    /// - Output: the same with the spatial sizes given.
    ///
    /// ```
    /// use candle_core::{Device, Module, Tensor};
    /// use candle_softpool::AdaptiveMaxPool2d;
    ///
    /// let xs = Tensor::randn(0f32, 1., (8, 64, 7, 9), &Device::Cpu)?;
    /// assert_eq!(xs.apply(&AdaptiveMaxPool2d::new((3, 1)))?.dims(), [8, 64, 3, 1]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `forward` gives an error that names the layer, the value and what is allowed for: an output size or a spatial size
    /// of 0, an input of another rank or dtype, a plane of 2^32 cells or more.
    AdaptiveMaxPool, AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d,
    |layer, geometry, xs| max_pool(layer, &geometry, xs)
);
