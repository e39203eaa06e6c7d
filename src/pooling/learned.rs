//! SoftPool with a temperature that is learned.

use super::compute_dtype;
use super::lip::weigh;
use super::soft::SoftPool;
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
        let mut shape = vec![1; D + 1];
        shape[0] = count;
        // Logits in the dtype of the arithmetic: rounded to half precision, large ones would lose what tells cells apart.
        let wide = xs.to_dtype(compute_dtype(layer, xs)?)?;
        let beta = self.beta.to_dtype(wide.dtype())?.reshape(shape)?;
        weigh(layer, &geometry, &wide, &wide.broadcast_mul(&beta)?)?.to_dtype(xs.dtype())
    }
}
