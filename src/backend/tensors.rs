//! The tensors that a GPU's backend is given, on whichever device.

use super::params::Layouts;
use candle_core::backend::BackendStorage;
use candle_core::{DType, Layout};

/// A tensor on a device whose storages are `S`.
pub type Cells<'a, S> = (&'a S, &'a Layout);

/// The tensors of a pass.
pub struct Tensors<'a, S> {
    /// The activations.
    pub x: Cells<'a, S>,
    /// Their logits, if the method has some.
    pub logits: Option<Cells<'a, S>>,
    /// The gradient of the output, in a backward pass.
    pub grad: Option<Cells<'a, S>>,
}

impl<S> Clone for Tensors<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Tensors<'_, S> {}

impl<'a, S: BackendStorage> Tensors<'a, S> {
    /// Of the activations alone.
    pub fn new(x: &'a S, layout: &'a Layout) -> Self {
        Self {
            x: (x, layout),
            logits: None,
            grad: None,
        }
    }

    /// The same with logits.
    pub fn with_logits(self, logits: &'a S, layout: &'a Layout) -> Self {
        Self {
            logits: Some((logits, layout)),
            ..self
        }
    }

    /// The same with the gradient of the output.
    pub fn with_grad(self, grad: &'a S, layout: &'a Layout) -> Self {
        Self {
            grad: Some((grad, layout)),
            ..self
        }
    }

    /// The device that they are on.
    pub fn device(&self) -> &'a S::Device {
        self.x.0.device()
    }

    /// The dtype of the activations.
    pub fn dtype(&self) -> DType {
        self.x.0.dtype()
    }

    /// The dtype of each that there is.
    pub fn dtypes(&self) -> Vec<DType> {
        let all = [Some(self.x), self.logits, self.grad];
        let all = all.into_iter().flatten();
        all.map(|(storage, _)| storage.dtype()).collect()
    }

    /// How they lie in memory.
    pub fn layouts(&self) -> Layouts<'a> {
        Layouts {
            input: self.x.1,
            logits: self.logits.map(|cells| cells.1),
            grad: self.grad.map(|cells| cells.1),
        }
    }

    /// Activations, logits, gradient, as kernels take them: what a pass lacks, they have no use for.
    pub fn arguments(&self) -> [Cells<'a, S>; 3] {
        [
            self.x,
            self.logits.unwrap_or(self.x),
            self.grad.unwrap_or(self.x),
        ]
    }
}
