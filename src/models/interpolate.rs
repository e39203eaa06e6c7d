//! Bilinear interpolation with a gradient, which candle's has not.

use candle_core::{Result, Tensor};

/// `(N, C, h, w)` to `(N, C, height, width)`, as PyTorch does without aligning corners.
///
/// Rows grow last: they are copied whole.
pub(super) fn bilinear2d(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    linear(&linear(xs, 3, width)?, 2, height)
}

fn linear(xs: &Tensor, dim: usize, size: usize) -> Result<Tensor> {
    let from = xs.dim(dim)?;
    if from == size {
        return Ok(xs.clone());
    }
    let places = (0..size).map(|i| {
        let place = (i as f64 + 0.5) * (from as f64 / size as f64) - 0.5;
        place.clamp(0.0, (from - 1) as f64)
    });
    let (mut before, mut after, mut parts) = (vec![], vec![], vec![]);
    for place in places {
        let first = place.floor();
        before.push(first as u32);
        after.push((first as u32 + 1).min(from as u32 - 1));
        parts.push(place - first);
    }
    let device = xs.device();
    let mut shape = vec![1; xs.rank()];
    shape[dim] = size;
    let parts = Tensor::from_vec(parts, shape, &candle_core::Device::Cpu)?
        .to_dtype(xs.dtype())?
        .to_device(device)?;
    let before = xs.index_select(&Tensor::new(before, device)?, dim)?;
    let after = xs.index_select(&Tensor::new(after, device)?, dim)?;
    (after - &before)?.broadcast_mul(&parts)? + before
}
