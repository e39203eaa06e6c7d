//! The backends, twins of each other: each has `forward` and `backward` over slices or buffers and a geometry.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "metal")]
pub mod metal;
pub mod params;
pub mod plan;

/// What a kernel is told besides the geometry.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighting {
    /// Logits are `beta` times the activations; finite.
    pub beta: f64,
    /// Replace NaN by zero and infinities by the dtype's largest finite values, as `torch.nan_to_num` does.
    pub nan_to_num: bool,
}

/// Which derivative the backward pass computes.
///
/// For a window with softmax weights `w`, output `y` and incoming gradient `g`, summed over the windows that hold
/// the input cell `i`:
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gradient {
    /// `Σ g·w_i`: the weights are taken as constants, as the paper (section 3.3) and its CUDA op do.
    #[default]
    Paper,
    /// `Σ g·w_i·(1 + β·(x_i − y))`: the derivative of the forward pass.
    Exact,
}
