//! Windows as a tensor axis, from candle operations: they run and differentiate on every device.

use crate::geometry::{Axis, Geometry};
use candle_core::{bail, DType, Device, Result, Tensor};

/// The windows of a tensor laid side by side.
pub(crate) struct Unfolded {
    /// `(…, outputs…, cells)`: the cells of every window; where it has none, any other cell of the input.
    pub cells: Tensor,
    /// `(outputs…, cells)` in u8: 1 where the window has a cell, 0 in padding; `None` where all have.
    pub present: Option<Tensor>,
}

impl Unfolded {
    /// The cells, with `fill` in padding.
    pub fn filled(&self, fill: f64) -> Result<Tensor> {
        match &self.present {
            None => Ok(self.cells.clone()),
            Some(present) => select(present, &self.cells, fill),
        }
    }
}

/// `xs` where `mask` is not zero, `fill` elsewhere.
pub(crate) fn select(mask: &Tensor, xs: &Tensor, fill: f64) -> Result<Tensor> {
    let fill = Tensor::full(fill, (), &Device::Cpu)?
        .to_dtype(xs.dtype())?
        .to_device(xs.device())?;
    mask.broadcast_as(xs.shape())?
        .where_cond(xs, &fill.broadcast_as(xs.shape())?)
}

/// Lays the windows of `xs`, of shape `(N, C, spatial…)` or `(C, spatial…)`, along a last axis.
pub(crate) fn unfold(xs: &Tensor, geometry: &Geometry) -> Result<Unfolded> {
    let lead = xs.rank() - geometry.rank;
    let axes = &geometry.axes[3 - geometry.rank..];
    let taps = axes.iter().map(Taps::of).collect::<Result<Vec<_>>>()?;

    let mut cells = xs.contiguous()?;
    let mut shape = xs.dims()[..lead].to_vec();
    for (d, taps) in taps.iter().enumerate() {
        let index = Tensor::new(taps.index.as_slice(), xs.device())?;
        cells = cells.index_select(&index, lead + d)?;
        shape.extend([taps.outputs, taps.count]);
    }
    let outputs_then_taps: Vec<usize> = (0..lead)
        .chain((lead..shape.len()).step_by(2))
        .chain((lead + 1..shape.len()).step_by(2))
        .collect();
    let mut merged = xs.dims()[..lead].to_vec();
    merged.extend(taps.iter().map(|taps| taps.outputs));
    merged.push(taps.iter().map(|taps| taps.count).product());
    let cells = cells
        .reshape(shape)?
        .permute(outputs_then_taps)?
        .reshape(merged.as_slice())?;

    let present = match taps.iter().any(|taps| taps.present.contains(&0)) {
        false => None,
        true => Some(present(&taps, xs.device())?.reshape(&merged[lead..])?),
    };
    Ok(Unfolded { cells, present })
}

/// Which input cell each window takes along one dimension, and whether it is one of its own.
struct Taps {
    outputs: usize,
    count: usize,
    index: Vec<u32>,
    present: Vec<u8>,
}

impl Taps {
    fn of(axis: &Axis) -> Result<Self> {
        let most = axis.input.max(axis.output);
        if u32::try_from(most).is_err() {
            bail!("SoftPool: composed operations index less than 2^32 cells and windows a dimension, got {most}");
        }
        let count = (0..axis.output)
            .map(|o| axis.window(o).len())
            .max()
            .unwrap_or(0);
        let windows = (0..axis.output).map(|o| axis.window(o));
        let (index, present) = windows
            .flat_map(|window| {
                (0..count).map(move |tap| {
                    let cell = (window.start + tap).min(window.end - 1);
                    (cell as u32, u8::from(tap < window.len()))
                })
            })
            .unzip();
        Ok(Self {
            outputs: axis.output,
            count,
            index,
            present,
        })
    }
}

/// The outer product of the dimensions' masks, outputs first.
fn present(taps: &[Taps], device: &Device) -> Result<Tensor> {
    let mut all = Tensor::ones((1, 1), DType::U8, device)?;
    for taps in taps {
        let (outputs, cells) = all.dims2()?;
        let mask = Tensor::from_slice(&taps.present, (1, taps.outputs, 1, taps.count), device)?;
        all = all
            .reshape((outputs, 1, cells, 1))?
            .broadcast_mul(&mask)?
            .reshape((outputs * taps.outputs, cells * taps.count))?;
    }
    Ok(all)
}
