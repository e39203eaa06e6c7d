//! Stochastic pooling.

use super::max::check_places;
use super::random::Draws;
use super::{sliding_methods, Sliding};
use crate::backend::Method;
use crate::geometry::IntoSize;
use crate::op::{Pool, Race};
use candle_core::{ModuleT, Result, Tensor};

/// Stochastic pooling over `D` dimensions, a candle [`ModuleT`] (Zeiler and Fergus, "Stochastic pooling for
/// regularization of deep convolutional neural networks", ICLR 2013, [arXiv 1301.3557](https://arxiv.org/abs/1301.3557)).
///
/// With probabilities `p_i = x_i / Σ x` in each window, training draws one cell, `y = x_l` with `l ~ p`, and its
/// gradient goes to that cell; evaluation gives the expectation `y = Σ p_i·x_i`, with the exact derivative.
/// The paper has activations that are not negative: negative ones have probability 0 here, and in a window without a
/// positive one all cells are equally likely.
///
/// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
/// - Output: the same with each spatial size `n` turned into `floor((n + 2·padding − kernel)/stride) + 1`;
///   [`Self::ceil_mode`] rounds up.
///
/// Equal seeds give equal sequences of training passes; a clone goes on from where the original is. Without a seed every
/// layer draws for itself: the first that the program makes has the seed `u64::MAX`, the next one less, and so on.
///
/// ```
/// use candle_core::{Device, ModuleT, Tensor};
/// use candle_softpool::StochasticPool1d;
///
/// let xs = Tensor::new(&[[[1f32, 3., 0., 5.]]], &Device::Cpu)?;
/// let pool = StochasticPool1d::new(2).seed(7);
/// assert_eq!(xs.apply_t(&pool, false)?.to_vec3::<f32>()?, [[[2.5, 5.0]]]);
/// let drawn = xs.apply_t(&pool, true)?.to_vec3::<f32>()?;
/// assert!([1.0, 3.0].contains(&drawn[0][0][0]) && drawn[0][0][1] == 5.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// `forward_t` gives an error that names the layer, the value and what is allowed for: a kernel, stride or spatial size
/// of 0, a kernel larger than the padded input (in ceil mode, larger by a stride or more), a padding of more than half
/// the kernel, an input of another rank or dtype; in training a plane of 2^32 cells or more.
#[derive(Clone, Debug)]
pub struct StochasticPool<const D: usize> {
    windows: Sliding<D>,
    draws: Draws,
}

/// [`StochasticPool`] of `(N, C, L)`.
pub type StochasticPool1d = StochasticPool<1>;
/// [`StochasticPool`] of `(N, C, H, W)`.
pub type StochasticPool2d = StochasticPool<2>;
/// [`StochasticPool`] of `(N, C, D, H, W)`.
pub type StochasticPool3d = StochasticPool<3>;

impl<const D: usize> StochasticPool<D> {
    const NAME: &'static str = ["StochasticPool1d", "StochasticPool2d", "StochasticPool3d"][D - 1];

    /// Windows of this size, side by side: the stride is the kernel. The seed is one that no layer before had.
    pub fn new(kernel: impl IntoSize<D>) -> Self {
        Self {
            windows: Sliding::new(kernel),
            draws: Draws::of_one_layer(),
        }
    }

    /// The seed of the training passes; starts their sequence anew.
    pub fn seed(mut self, seed: u64) -> Self {
        self.draws = Draws::new(seed);
        self
    }

    sliding_methods!("They are never drawn and have no weight.");

    /// Evaluation: [`ModuleT::forward_t`] with `train` false.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward_t(xs, false)
    }
}

impl<const D: usize> ModuleT for StochasticPool<D> {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        if !train {
            return Pool::new(geometry, Method::Weighted).apply(xs);
        }
        if let Some(ys) = Pool::of_nothing(geometry, xs) {
            return ys;
        }
        check_places(Self::NAME, &geometry, xs)?;
        let rng = self.draws.next_pass();
        Race { geometry, rng }.apply(xs)
    }
}
