//! Bilinear interpolation with a gradient, which candle's has not.

use candle_core::{Device, Result, Tensor};
use std::ops::Range;

/// One axis of a map that grows to an image's, of both of which a part may do.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// Cells of the whole map.
    pub cells: usize,
    /// Pixels of the whole image.
    pub pixels: usize,
    /// The first cell that is there.
    pub first: usize,
    /// The pixels wanted.
    pub wanted: Range<usize>,
}

/// `(N, C, h, w)` to `(N, C, H, W)`, the pixels wanted, as PyTorch does without aligning corners.
///
/// Rows grow last: they are copied whole.
pub(super) fn bilinear2d(xs: &Tensor, [rows, columns]: &[Axis; 2]) -> Result<Tensor> {
    linear(&linear(xs, 3, columns)?, 2, rows)
}

fn linear(xs: &Tensor, dim: usize, axis: &Axis) -> Result<Tensor> {
    let last = |cells: usize| (cells - 1) as f64;
    let there = xs.dim(dim)?;
    let ratio = axis.cells as f64 / axis.pixels as f64;
    let places = axis.wanted.clone().map(|pixel| {
        let place = ((pixel as f64 + 0.5) * ratio - 0.5).clamp(0.0, last(axis.cells));
        (place - axis.first as f64).clamp(0.0, last(there))
    });
    let (mut before, mut after, mut parts) = (vec![], vec![], vec![]);
    for place in places {
        let first = place.floor();
        before.push(first as u32);
        after.push((first as u32 + 1).min(there as u32 - 1));
        parts.push(place - first);
    }
    let device = xs.device();
    let mut shape = vec![1; xs.rank()];
    shape[dim] = parts.len();
    let parts = Tensor::from_vec(parts, shape, &Device::Cpu)?
        .to_dtype(xs.dtype())?
        .to_device(device)?;
    let before = xs.index_select(&Tensor::new(before, device)?, dim)?;
    let after = xs.index_select(&Tensor::new(after, device)?, dim)?;
    (after - &before)?.broadcast_mul(&parts)? + before
}
