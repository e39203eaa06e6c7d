//! Some cells of every plane, the same of all: what S3 pooling keeps in training.

use super::{contiguous, storage};
use crate::backend::cpu;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// The cells with these indices of `(planes, cells)`, each at most once.
pub(crate) fn gather(xs: &Tensor, indices: &[u32]) -> Result<Tensor> {
    if !xs.device().is_cpu() {
        return xs.index_select(&Tensor::new(indices, xs.device())?, 1);
    }
    xs.contiguous()?.apply_op1(Gather {
        cells: xs.dims2()?.1,
        indices: indices.into(),
    })
}

#[derive(Clone)]
struct Gather {
    /// Of a plane.
    cells: usize,
    indices: Arc<[u32]>,
}

/// Puts gradients where the cells were; the others' are zero.
struct Scatter(Gather);

impl CustomOp1 for Gather {
    fn name(&self) -> &'static str {
        "pool-gather"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self { cells, indices } = self;
        let kept = dispatch!(
            (input),
            cpu::gather(&input[contiguous(layout)?], *cells, indices)
        );
        Ok((kept, (layout.dims()[0], indices.len()).into()))
    }

    fn bwd(&self, _xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scatter = Scatter(self.clone());
        grad.contiguous()?.apply_op1_no_bwd(&scatter).map(Some)
    }
}

impl CustomOp1 for Scatter {
    fn name(&self) -> &'static str {
        "pool-scatter"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self(Gather { cells, indices }) = self;
        let grads = dispatch!(
            (grad),
            cpu::scatter(&grad[contiguous(layout)?], *cells, indices)
        );
        Ok((grads, (layout.dims()[0], *cells).into()))
    }
}
