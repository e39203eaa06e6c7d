//! The CPU backend: whole planes and bands of rows in parallel, vectorised for the machine at run time.

mod direct;
mod element;
mod simd;
mod view;

pub use element::Element;
pub use view::View;

use super::{Gradient, Weighting};
use crate::geometry::Geometry;
use candle_core::Result;

/// SoftPool of every plane of `input`, contiguous.
pub fn forward<T: Element>(
    input: View<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
) -> Result<Vec<T>> {
    let mut output = allocate(input.planes(), geometry.output_cells())?;
    for (plane, out) in output.chunks_exact_mut(geometry.output_cells()).enumerate() {
        direct::forward_plane(input.plane(plane), geometry, weighting, out);
    }
    Ok(output)
}

/// The gradient of the input of [`forward`], contiguous, from that of its output.
pub fn backward<T: Element>(
    input: View<'_, T>,
    grad: View<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
    gradient: Gradient,
) -> Result<Vec<T>> {
    let mut output = allocate(input.planes(), geometry.input_cells())?;
    for (plane, out) in output.chunks_exact_mut(geometry.input_cells()).enumerate() {
        direct::backward_plane(
            input.plane(plane),
            grad.plane(plane),
            geometry,
            weighting,
            gradient,
            out,
        );
    }
    Ok(output)
}

/// Zeros for every plane, or an error where there is no memory for them.
fn allocate<T: Element>(planes: usize, cells: usize) -> Result<Vec<T>> {
    let mut output = Vec::new();
    match planes
        .checked_mul(cells)
        .map(|n| output.try_reserve_exact(n).map(|()| n))
    {
        Some(Ok(n)) => output.resize(n, T::default()),
        _ => candle_core::bail!("SoftPool: no memory for {planes} planes of {cells} cells"),
    }
    Ok(output)
}
