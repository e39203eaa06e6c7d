//! SoftPool, softmax-weighted pooling, as a fused [candle](https://github.com/huggingface/candle) op in one, two and
//! three dimensions, and the pooling methods it is compared with.
//!
//! For a window R, SoftPool (Stergiou, Poppe, Kalliatakis, ICCV 2021, [arXiv 2101.00440](https://arxiv.org/abs/2101.00440))
//! computes `w_i = exp(β·x_i) / Σ_j exp(β·x_j)` and `y = Σ_i w_i·x_i`.
//!
//! ```
//! use candle_core::{Device, Module, Tensor};
//! use candle_softpool::{soft_pool2d, SoftPool2d};
//!
//! let xs = Tensor::randn(0f32, 1., (1, 64, 112, 112), &Device::Cpu)?;
//! let ys = soft_pool2d(&xs, 2)?;
//! assert_eq!(ys.dims(), [1, 64, 56, 56]);
//!
//! let pool = SoftPool2d::new(3).stride(2).padding(1);
//! assert_eq!(ys.apply(&pool)?.dims(), [1, 64, 28, 28]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! - [`SoftPool`], [`AdaptiveSoftPool`], and functions such as [`soft_pool2d`]; [`Gradient`] says what the backward pass
//!   computes; [`SoftPool::learned`] makes β a variable.
//! - [`AvgPool`], [`MaxPool`], [`LpPool`], [`StochasticPool`], [`S3Pool`], [`Lip`]; [`Pooling`] is any of them by name.
//! - [`models`]: networks with a choice of pooling, and reading their weights.
//!
//! On the CPU work is shared among rayon's threads (`RAYON_NUM_THREADS`), and a result has the same bits whatever their
//! number. The features `cuda` and `metal`, off by default, add kernels for those devices of candle; none of them has run
//! on a GPU yet.
//!
//! A debug build of a program pools more than 100 times slower unless its `Cargo.toml` has
//!
//! ```toml
//! [profile.dev.package."*"]
//! opt-level = 3
//! ```
#![deny(missing_docs)]

// For this crate's own tests of the kernels. What the documentation hides is no public API: it may change in any release.
#[doc(hidden)]
pub mod backend;
#[doc(hidden)]
pub mod geometry;
pub mod models;
mod op;
mod pooling;
mod unfold;

/// Pages whose Rust is compiled and run as tests; a block that is not Rust needs its language.
#[cfg(doctest)]
mod pages {
    macro_rules! pages {
        ($($page:ident $file:literal,)+) => {$(
            #[doc = include_str!($file)]
            struct $page;
        )+};
    }
    pages! {
        Readme "../README.md",
        Gpus "../docs/gpus.md",
        Kernels "../docs/kernels.md",
        Limits "../docs/limits.md",
        Methods "../docs/methods.md",
        Networks "../docs/networks.md",
        Platforms "../docs/platforms.md",
        Porting "../docs/porting.md",
        Scale "../docs/scale.md",
        Speed "../docs/speed.md",
        Usage "../docs/usage.md",
    }
}

pub use backend::Gradient;
pub use geometry::IntoSize;
pub use pooling::adaptive::{
    AdaptiveAvgPool, AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d, AdaptiveMaxPool,
    AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d,
};
pub use pooling::average::{AvgPool, AvgPool1d, AvgPool2d, AvgPool3d};
pub use pooling::choice::{Pooling, Pooling1d, Pooling2d, Pooling3d, PoolingMethod};
pub use pooling::learned::LearnedSoftPool;
pub use pooling::lip::{
    softmax_pool1d, softmax_pool1d_with_stride, softmax_pool2d, softmax_pool2d_with_stride,
    softmax_pool3d, softmax_pool3d_with_stride, Lip, Lip1d, Lip2d, Lip3d,
};
pub use pooling::max::{MaxPool, MaxPool1d, MaxPool2d, MaxPool3d};
pub use pooling::power::{LpPool, LpPool1d, LpPool2d, LpPool3d};
pub use pooling::s3::{S3Pool, S3Pool1d, S3Pool2d, S3Pool3d};
pub use pooling::soft::{
    soft_pool1d, soft_pool1d_with_stride, soft_pool2d, soft_pool2d_with_stride, soft_pool3d,
    soft_pool3d_with_stride, AdaptiveSoftPool, AdaptiveSoftPool1d, AdaptiveSoftPool2d,
    AdaptiveSoftPool3d, Implementation, SoftPool, SoftPool1d, SoftPool2d, SoftPool3d,
};
pub use pooling::stochastic::{
    StochasticPool, StochasticPool1d, StochasticPool2d, StochasticPool3d,
};
