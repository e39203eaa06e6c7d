//! SoftPool alone on the CPU, by kernels that were tuned for it before there was an engine for every method.
//!
//! [`super::cpu`] pools everything else, and what [`serves_forward`] and [`serves_backward`] leave: windows of more cells
//! than a block holds, sizes that do not divide, temperatures near 0 or infinity. These kernels go once the engine takes no
//! more time at the windows that they are for.

mod abreast;
mod aligned;
mod along;
mod backward;
mod band;
mod block;
mod direct;
mod down;
mod element;
mod forward;
mod groups;
mod lanes;
mod parts;
mod passed;
mod simd;
mod special;
mod stack;
mod sums;
mod tiles;
mod view;
mod weigh;

#[cfg(test)]
mod tests;

pub use element::Element;
pub use view::View;

use super::{Gradient, Weighting};
use crate::geometry::Geometry;
use backward::{Backward, Pass};
use candle_core::{Error, Result};
use forward::Forward;
use pulp::Arch;
use tiles::{Tile, Tiling};

/// The most cells of an output tile: few enough to balance threads, enough to pay for handing them out.
const FORWARD_TILE: usize = 16 << 10;
/// The most cells of an input tile, whose sums a core's second cache holds.
const BACKWARD_TILE: usize = 32 << 10;

/// The work on one tile.
struct Job<'a, T, S, P = ()> {
    input: View<'a, T>,
    geometry: &'a Geometry,
    weighting: Weighting,
    /// What else the pass needs.
    pass: P,
    /// Rows and columns between which no band goes on: the ends of tiles of contiguous planes.
    cut: [usize; 2],
    scratch: &'a mut S,
    tile: &'a Tile,
    output: &'a mut [T],
}

/// Whether these kernels are the fast ones for a forward pass.
pub fn serves_forward<T: Element>(geometry: &Geometry, weighting: Weighting) -> bool {
    let geometry = &settled(geometry);
    block::covers::<T::Compute>(geometry, weighting) && band::covers(geometry)
}

/// Whether these kernels are the fast ones for a backward pass.
pub fn serves_backward<T: Element>(geometry: &Geometry, weighting: Weighting) -> bool {
    let geometry = &settled(geometry);
    block::covers::<T::Compute>(geometry, weighting) && parts::covers(geometry)
}

/// SoftPool of every plane of `input`, contiguous.
pub fn forward<T: Element>(
    input: View<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
) -> Result<Vec<T>> {
    forward_on(Arch::new(), input, geometry, weighting)
}

fn forward_on<T: Element>(
    arch: Arch,
    input: View<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
) -> Result<Vec<T>> {
    let geometry = &settled(geometry);
    let tiling = Tiling {
        planes: input.planes(),
        rows: geometry.axes[0].output * geometry.axes[1].output,
        columns: geometry.axes[2].output,
        most: FORWARD_TILE,
        least_rows: 1,
        together: together(&input),
        work: input.planes().saturating_mul(geometry.input_cells()),
    };
    let vectorised = block::covers::<T::Compute>(geometry, weighting);
    let of = (input, geometry, weighting, ());
    fill(tiling, of, |job: Forward<'_, T>| match vectorised {
        true => arch.dispatch(job),
        false => job.direct(),
    })
}

/// Planes that are best read together, for those that lie side by side: a few cache lines, if all threads have enough
/// to do then. Outputs do not depend on it.
fn together<T: Element>(input: &View<'_, T>) -> usize {
    let share = input.planes() / (2 * rayon::current_num_threads());
    match input.channels_abreast() {
        Some(view::TOGETHER..) => {
            share.clamp(view::TOGETHER, 4 * view::TOGETHER) / view::TOGETHER * view::TOGETHER
        }
        Some(channels) => share.clamp(1, channels),
        None => 1,
    }
}

/// The gradient of the input of `forward`, contiguous, from that of its output.
pub fn backward<T: Element>(
    input: View<'_, T>,
    grad: View<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
    gradient: Gradient,
) -> Result<Vec<T>> {
    backward_on(Arch::new(), input, grad, geometry, (weighting, gradient))
}

fn backward_on<T: Element>(
    arch: Arch,
    input: View<'_, T>,
    grad: View<'_, T>,
    geometry: &Geometry,
    (weighting, gradient): (Weighting, Gradient),
) -> Result<Vec<T>> {
    let geometry = &settled(geometry);
    let tiling = Tiling {
        planes: input.planes(),
        rows: geometry.axes[0].input * geometry.axes[1].input,
        columns: geometry.axes[2].input,
        most: backward_tile(geometry),
        together: match parts::covers(geometry) {
            true => together(&input),
            false => 1,
        },
        least_rows: 4 * geometry.axes[1].kernel.min(geometry.axes[1].input),
        work: input.planes().saturating_mul(geometry.input_cells()),
    };
    let vectorised = block::covers::<T::Compute>(geometry, weighting);
    let of = (input, geometry, weighting, Pass { grad, gradient });
    fill(tiling, of, |job: Backward<'_, '_, T>| match vectorised {
        true => arch.dispatch(job),
        false => job.direct(),
    })
}

/// The most cells of an input tile: whole depths, where windows have several.
fn backward_tile(geometry: &Geometry) -> usize {
    let [depth, height, width] = geometry.axes;
    match height.input * width.input {
        cells @ 1..=BACKWARD_TILE if depth.kernel > 1 => BACKWARD_TILE.next_multiple_of(cells),
        _ => BACKWARD_TILE,
    }
}

/// The same windows; the stride of a single one, which leads nowhere, is no longer so far that sums overflow.
fn settled(geometry: &Geometry) -> Geometry {
    let mut geometry = *geometry;
    for axis in &mut geometry.axes {
        if axis.output == 1 {
            axis.stride = axis.kernel;
        }
    }
    geometry
}

/// The cells that `work` fills, tile by tile.
fn fill<'a, T: Element, S: Default, P: Copy + Send + Sync>(
    tiling: Tiling,
    (input, geometry, weighting, pass): (View<'a, T>, &'a Geometry, Weighting, P),
    work: impl Fn(Job<'_, T, S, P>) + Send + Sync,
) -> Result<Vec<T>> {
    let cut = tiling.alone();
    let output = tiling.run(|scratch, tile, output| {
        work(Job {
            input,
            geometry,
            weighting,
            pass,
            cut,
            scratch,
            tile,
            output,
        })
    });
    output.ok_or_else(|| no_memory(&tiling))
}

fn no_memory(tiling: &Tiling) -> Error {
    let planes = tiling.planes;
    let cells = tiling.rows as u128 * tiling.columns as u128;
    Error::Msg(format!(
        "SoftPool: no memory for {planes} planes of {cells} cells"
    ))
}
