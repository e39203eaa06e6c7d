//! The backends, twins of each other: each has `forward` and `backward` over slices or buffers and a geometry.

pub mod cpu;

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "metal")]
pub mod metal;
pub mod metal_source;
pub mod params;
pub mod plan;
pub mod tensors;

/// What a kernel is told besides the geometry.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighting {
    /// Logits are `beta` times the activations; finite.
    pub beta: f64,
    /// Replace NaN by zero and infinities by the dtype's largest finite values, as `torch.nan_to_num` does.
    pub nan_to_num: bool,
}

/// A pooling method, as backends are told of it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// `Σ softmax(β·x)·x`.
    SoftPool(Weighting),
    /// `Σ softmax(z)·x` with logits `z` of their own.
    Logits,
    /// `Σx / n`.
    Average {
        /// Whether padded cells are zeros that count.
        count_include_pad: bool,
    },
    /// `(Σ|x|^p / n)^(1/p)`.
    Power {
        /// Above 0.
        p: f64,
        /// Without the `n`.
        sum: bool,
        /// Whether padded cells are zeros that count.
        count_include_pad: bool,
    },
    /// `Σ w·x / Σ w` with the positive activations as weights.
    Weighted,
    /// The largest activation; the gradient goes to the first of them.
    Maximum,
}

/// Which derivative the backward pass computes; the forward pass is the same.
///
/// [`Self::Paper`] is that of SoftPool as published, and so fits weights that were trained with it. [`Self::Exact`] is what
/// finite differences and autograd of the formula give: take it where the gradient itself is of interest.
///
/// For a window with softmax weights `w`, output `y` and incoming gradient `g`, summed over the windows that hold
/// the input cell `i`:
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gradient {
    /// `Σ g·w_i`: the weights are taken as constants, as the paper (section 3.3) and its CUDA op do.
    #[default]
    Paper,
    /// `Σ g·w_i·(1 + β·(x_i − y))`: the derivative of the forward pass.
    Exact,
}
