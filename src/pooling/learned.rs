//! SoftPool with a temperature that is learned.

use super::compute_dtype;
use super::lip::weigh;
use super::soft::SoftPool;
use crate::op::Pool;
use candle_core::{bail, Module, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// [`SoftPool`] with an inverse temperature β that is learned, one for all channels or one each: a candle [`Module`] with
/// one tensor, `beta`, begun at 1.
///
/// Gradients are exact, of the activations and of β: `∂y/∂β = Σ w·x² − y²`. The other settings are those of the layer that
/// [`SoftPool::learned`] was called on, its windows; its own β, gradient and `nan_to_num` have no part.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use candle_softpool::SoftPool2d;
///
/// let vars = VarMap::new();
/// let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
/// let pool = SoftPool2d::new(2).learned(16, vb.pp("pool"))?;
/// let xs = Tensor::randn(0f32, 1., (2, 16, 28, 28), &Device::Cpu)?;
/// assert_eq!(xs.apply(&pool)?.dims(), [2, 16, 14, 14]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// The output has the input's dtype, whatever that of β.
///
/// # Errors
///
/// Those of [`SoftPool`], and an input with another number of channels than β has, where that is not 1.
#[derive(Clone, Debug)]
pub struct LearnedSoftPool<const D: usize> {
    pool: SoftPool<D>,
    beta: Tensor,
}

impl<const D: usize> SoftPool<D> {
    /// With a β that is learned, for so many channels or with 1 for all: tensor `beta` of `vb`, of shape `(channels)`.
    ///
    /// # Errors
    ///
    /// 0 channels, and `vb`'s: a tensor that it lacks or holds in another shape.
    pub fn learned(self, channels: usize, vb: VarBuilder) -> Result<LearnedSoftPool<D>> {
        if channels == 0 {
            bail!("{}: 0 channels, expected at least 1", Self::NAME);
        }
        let beta = vb.get_with_hints(channels, "beta", Init::Const(1.0))?;
        Ok(LearnedSoftPool { pool: self, beta })
    }
}

impl<const D: usize> LearnedSoftPool<D> {
    /// The inverse temperatures, of shape `(channels)` or `(1)`.
    pub fn beta(&self) -> &Tensor {
        &self.beta
    }
}

impl<const D: usize> Module for LearnedSoftPool<D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let layer = SoftPool::<D>::NAME;
        let geometry = self.pool.geometry(xs)?;
        let channels = xs.dims()[xs.rank() - D - 1];
        let count = self.beta.elem_count();
        if count != 1 && count != channels {
            bail!(
                "{layer}: input of shape {:?} has {channels} channels, expected {count} as the learned beta",
                xs.dims()
            );
        }
        if let Some(ys) = Pool::of_nothing(geometry, xs) {
            return ys;
        }
        let mut shape = vec![1; D + 1];
        shape[0] = count;
        // Logits in the dtype of the arithmetic: rounded to half precision, large ones would lose what tells cells apart.
        let wide = xs.to_dtype(compute_dtype(layer, xs)?)?;
        let beta = self.beta.to_dtype(wide.dtype())?.reshape(shape)?;
        let offset = offset::<D>(&wide)?;
        let differences = wide.broadcast_sub(&offset)?;
        // Infinite ones would have no logit where β is 0, and their gradient's product with them would be NaN.
        let far = differences.abs()?.gt(FAR)?;
        // Not all of them clamped: on GPUs that would hide NaN.
        let near = far.where_cond(&differences.clamp(-FAR, FAR)?, &differences)?;
        let ys = weigh(layer, &geometry, &differences, &near.broadcast_mul(&beta)?)?;
        ys.broadcast_add(&offset)?.to_dtype(xs.dtype())
    }
}

/// Activations that differ by more weigh all or nothing.
const FAR: f64 = 1e30;

/// What all activations of each plane have in common: the one closest to 0, or 0 where they have both signs.
///
/// Softmax pooling moves with its input, while gradients of logits are small differences of products that grow with it.
/// Without this offset they are exact however large it is, and a difference from it has lost no digits.
fn offset<const D: usize>(xs: &Tensor) -> Result<Tensor> {
    let xs = xs.detach();
    let (mut lowest, mut highest) = (xs.clone(), xs);
    for dim in lowest.rank() - D..lowest.rank() {
        (lowest, highest) = (lowest.min_keepdim(dim)?, highest.max_keepdim(dim)?);
    }
    let closest = (lowest.relu()? - highest.neg()?.relu()?)?;
    // Neither infinite nor NaN.
    let finite = closest.abs()?.lt(f64::INFINITY)?;
    finite.where_cond(&closest, &closest.zeros_like()?)
}
