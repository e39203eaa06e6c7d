//! Some cells of every plane, the same of all: what S3 pooling keeps in training.

use super::contiguous;
use crate::backend::cpu::Element;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Cells that a thread has to do with before others share in its planes.
const A_THREAD: usize = 1 << 14;

/// The cells with these indices of `(planes, cells)`, each at most once.
pub fn keep(xs: &Tensor, indices: &[u32]) -> Result<Tensor> {
    if !xs.device().is_cpu() {
        return xs.index_select(&Tensor::new(indices, xs.device())?, 1);
    }
    xs.apply_op1(Kept {
        of_plane: xs.dims2()?.1,
        indices: indices.into(),
    })
}

#[derive(Clone)]
struct Kept {
    of_plane: usize,
    indices: Arc<[u32]>,
}

/// Puts gradients where the cells were; the others' are zero.
struct Backward(Kept);

impl Kept {
    fn forward<T: Element>(&self, cells: &[T]) -> Vec<T> {
        self.by_planes(cells, self.of_plane, self.indices.len(), |cells, ys| {
            for (y, &index) in ys.iter_mut().zip(&*self.indices) {
                *y = cells[index as usize];
            }
        })
    }

    fn backward<T: Element>(&self, grads: &[T]) -> Vec<T> {
        self.by_planes(grads, self.indices.len(), self.of_plane, |grads, cells| {
            for (&grad, &index) in grads.iter().zip(&*self.indices) {
                cells[index as usize] = grad;
            }
        })
    }

    /// What becomes of planes of so many cells; of zeros where nothing else does.
    fn by_planes<T: Element>(
        &self,
        planes: &[T],
        from: usize,
        to: usize,
        turn: impl Fn(&[T], &mut [T]) + Sync,
    ) -> Vec<T> {
        let mut result = vec![T::default(); planes.len() / from * to];
        planes
            .par_chunks(from)
            .zip(result.par_chunks_mut(to))
            .with_min_len(A_THREAD.div_ceil(from))
            .for_each(|(plane, result)| turn(plane, result));
        result
    }
}

impl CustomOp1 for Kept {
    fn name(&self) -> &'static str {
        "kept-cells"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ys = contiguous!(layout, input, F16 => F16, BF16 => BF16, F32 => F32, F64 => F64, |cells| {
            self.forward(cells)
        });
        Ok((ys, (layout.dims()[0], self.indices.len()).into()))
    }

    fn bwd(&self, _xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let backward = Backward(self.clone());
        grad.contiguous()?.apply_op1_no_bwd(&backward).map(Some)
    }
}

impl CustomOp1 for Backward {
    fn name(&self) -> &'static str {
        "kept-cells-backward"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self(kept) = self;
        let cells = contiguous!(layout, grad, F16 => F16, BF16 => BF16, F32 => F32, F64 => F64, |grads| {
            kept.backward(grads)
        });
        Ok((cells, (layout.dims()[0], kept.of_plane).into()))
    }
}
