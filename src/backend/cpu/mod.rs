//! The CPU backend: bands of cells on all threads, by the best instruction set that the machine has.
//!
//! `docs/kernels.md` tells the algorithm on a page. One engine serves every pooling method, which is a `rule`;
//! `plan` makes every choice; `columns` and `rows` do the work forward, `spread` on the way back, `direct` both in
//! registers where windows lie side by side, `whole` both for planes of one window each, and `again` both for windows far
//! below their band. To read it, begin with `rule`, `view` and `tiles`.

mod again;
mod aligned;
mod backward;
mod columns;
mod direct;
mod element;
mod forward;
mod gather;
mod kernels;
mod pieces;
mod plan;
mod race;
mod rows;
mod rule;
mod rules;
mod spread;
#[cfg(test)]
mod tests;
mod tiles;
mod turn;
mod vector;
mod view;
mod whole;
mod window;

pub use element::Element;
pub use gather::{gather, scatter};
pub use kernels::Poolable;
pub use race::{keys, times, LEAST_RATE, SCALE};
pub use view::View;

use super::{Gradient, Method, Weighting};
use crate::geometry::Geometry;
use backward::Backward;
use candle_core::{Error, Layout, Result};
use forward::Pooling;
use kernels::{Compile, Kernels};
use plan::{Direction, Plan};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use rules::{Average, ExactSoftPool, Largest, Maximum, Power, Softmax, Weighted};
use tiles::Tiling;
use vector::Arch;

/// The tensors of a forward pass.
#[derive(Clone, Copy)]
pub struct Input<'a, T> {
    pub x: View<'a, T>,
    /// Of the same shape; only [`Method::Logits`] has some.
    pub logits: Option<View<'a, T>>,
}

impl<'a, T> From<View<'a, T>> for Input<'a, T> {
    fn from(x: View<'a, T>) -> Self {
        Self { x, logits: None }
    }
}

impl<T: Element> Input<'_, T> {
    /// [`View::in_one_row`] of both.
    fn in_one_row(self, sizes: [usize; 3]) -> Option<Self> {
        let logits = match self.logits {
            Some(logits) => Some(logits.in_one_row(sizes)?),
            None => None,
        };
        let x = self.x.in_one_row(sizes)?;
        Some(Self { x, logits })
    }
}

/// The outputs of every plane, contiguous.
pub fn forward<T: Poolable>(
    input: Input<'_, T>,
    geometry: &Geometry,
    method: Method,
) -> Result<Vec<T>> {
    forward_on(Arch::best(), input, geometry, method)
}

fn forward_on<T: Poolable>(
    arch: Arch,
    input: Input<'_, T>,
    geometry: &Geometry,
    method: Method,
) -> Result<Vec<T>> {
    pool(arch, compiled(arch, method, None), input, geometry)
}

/// The gradient of the activations from that of the outputs, contiguous, and behind it that of the logits if the method has some.
pub fn backward<T: Poolable>(
    input: Input<'_, T>,
    grad: View<'_, T>,
    geometry: &Geometry,
    method: Method,
    gradient: Gradient,
) -> Result<Vec<T>> {
    backward_on(Arch::best(), input, grad, geometry, method, gradient)
}

fn backward_on<T: Poolable>(
    arch: Arch,
    input: Input<'_, T>,
    grad: View<'_, T>,
    geometry: &Geometry,
    method: Method,
    gradient: Gradient,
) -> Result<Vec<T>> {
    let kernels = compiled(arch, method, Some(gradient));
    differentiate(arch, kernels, input, grad, geometry)
}

/// The rule of a method for its outputs, or for these gradients, compiled for an instruction set.
fn compiled<C: Compile>(
    arch: Arch,
    method: Method,
    gradient: Option<Gradient>,
) -> Box<dyn Kernels<C>> {
    match method {
        Method::SoftPool(Weighting { beta, nan_to_num }) => {
            let rule = Softmax::<false> { beta, nan_to_num };
            match gradient {
                Some(Gradient::Exact) => C::compile(arch, ExactSoftPool(rule)),
                _ => C::compile(arch, rule),
            }
        }
        Method::Logits => {
            let (beta, nan_to_num) = (1.0, false);
            C::compile(arch, Softmax::<true> { beta, nan_to_num })
        }
        Method::Average { count_include_pad } => C::compile(arch, Average { count_include_pad }),
        Method::Power {
            p,
            sum,
            count_include_pad,
        } => {
            let rule = Power {
                p,
                sum,
                count_include_pad,
            };
            C::compile(arch, rule)
        }
        Method::Weighted => C::compile(arch, Weighted),
        Method::Maximum => match gradient {
            None => C::compile(arch, Maximum),
            Some(_) => C::compile(arch, Largest),
        },
    }
}

/// The index in its plane of the largest activation of each window: the first of several, and a NaN before any.
///
/// Planes have less than 2^32 cells.
pub fn places<T: Poolable>(x: View<'_, T>, geometry: &Geometry) -> Result<Vec<u32>> {
    let (input, geometry) = &settle(x.into(), geometry);
    let arch = Arch::best();
    let kernels = T::Compute::compile(arch, Largest);
    // One plane after the other, so that bands are those of single planes, too.
    let pooling = Pooling {
        unit: 1,
        plan: Plan::forward(geometry),
        ..pooling(arch, kernels, *input, geometry, Direction::Forward)
    };
    let sizes = geometry.axes.map(|axis| axis.output);
    let tiling = tiling(&x, geometry, sizes, pooling.plan);
    // SAFETY: `places` writes one for every window of its bands.
    let output = unsafe {
        tiling.run(false, |scratch, bands, [output, _]| {
            pooling.places(scratch, bands, output)
        })
    };
    output.ok_or_else(|| no_memory(&tiling))
}

/// A cell of each window of contiguous planes, drawn by its activation; some planes at a time.
///
/// Planes have less than 2^32 cells.
pub fn draw<T>(cells: &[T], geometry: &Geometry, rng: &ChaCha8Rng) -> Result<Vec<T>>
where
    T: Poolable<Compute: Poolable>,
{
    let [input, output] = [geometry.input_cells(), geometry.output_cells()];
    let planes = (plan::RACE_CELLS / input).max(1);
    let sizes = &geometry.axes[3 - geometry.rank..];
    let sizes: Vec<_> = sizes.iter().map(|axis| axis.input).collect();
    let mut ys = vec![T::default(); cells.len() / input * output];
    let parts = cells
        .par_chunks(planes * input)
        .zip(ys.par_chunks_mut(planes * output));
    let done: Result<()> =
        parts
            .enumerate()
            .try_for_each_init(Vec::new, |keys, (part, (cells, ys))| {
                keys.resize(cells.len(), T::Compute::default());
                race::write_keys(part * planes * input, cells, keys, rng);
                let layout = Layout::contiguous([&[cells.len() / input], &sizes[..]].concat());
                let places = places(View::new(keys, &layout, geometry.rank), geometry)?;
                let drawn = ys.chunks_mut(output).zip(places.chunks(output));
                for (cells, (ys, places)) in cells.chunks(input).zip(drawn) {
                    for (y, &place) in ys.iter_mut().zip(places) {
                        *y = cells[place as usize];
                    }
                }
                Ok(())
            });
    done?;
    Ok(ys)
}

/// A rule on these tensors.
fn pooling<'a, T: Poolable>(
    arch: Arch,
    kernels: Box<dyn Kernels<T::Compute>>,
    input: Input<'a, T>,
    geometry: &'a Geometry,
    direction: Direction,
) -> Pooling<'a, T> {
    let (x, z) = (input.x, input.logits.unwrap_or(input.x));
    let unit = plan::unit(geometry, x.planes(), direction);
    let plan = match direction {
        Direction::Forward => Plan::forward(geometry),
        Direction::Backward => Plan::backward(geometry),
    };
    let plan = Plan {
        planes: plan.planes.next_multiple_of(unit),
        ..plan
    };
    Pooling {
        arch,
        traits: kernels.traits(),
        kernels,
        x,
        z,
        geometry,
        plan,
        unit,
        turned: false,
    }
}

/// Whether planes lie abreast, and there are enough of them for half the threads: turning them takes all threads longer.
fn lie_abreast<T: Element>(pooling: &Pooling<'_, T>) -> bool {
    let enough = 2 * pooling.x.planes() >= plan::ABREAST * rayon::current_num_threads();
    pooling.are_abreast() && enough
}

/// The bands of this plan, of planes of these sizes.
fn tiling<T>(x: &View<'_, T>, geometry: &Geometry, sizes: [usize; 3], plan: Plan) -> Tiling {
    Tiling {
        planes: x.planes(),
        sizes,
        plan,
        work: x.planes().saturating_mul(plan::cells(geometry)),
        keep: plan::cells(geometry) <= plan::KEPT_CELLS,
    }
}

fn pool<T: Poolable>(
    arch: Arch,
    kernels: Box<dyn Kernels<T::Compute>>,
    input: Input<'_, T>,
    geometry: &Geometry,
) -> Result<Vec<T>> {
    let (input, geometry) = &settle(input, geometry);
    let mut pooling = pooling(arch, kernels, *input, geometry, Direction::Forward);
    // Parts of rows that are cut have shifts of their own, which whole ones abreast would not have.
    let cut = pooling.plan.columns < geometry.axes[2].output;
    if lie_abreast(&pooling) && plan::may_be_abreast(geometry) && !cut {
        pooling.unit = plan::ABREAST;
    }
    let sizes = geometry.axes.map(|axis| axis.output);
    let plan = match pooling.unit {
        1 => pooling.plan,
        _ => pooling.plan.of_whole_planes(sizes),
    };
    let tiling = tiling(&input.x, geometry, sizes, plan);
    // SAFETY: `forward` writes an output for every window of its bands.
    let output = unsafe {
        tiling.run(false, |scratch, bands, [output, _]| {
            pooling.forward(scratch, bands, output)
        })
    };
    output.ok_or_else(|| no_memory(&tiling))
}

fn differentiate<T: Poolable>(
    arch: Arch,
    kernels: Box<dyn Kernels<T::Compute>>,
    input: Input<'_, T>,
    grad: View<'_, T>,
    geometry: &Geometry,
) -> Result<Vec<T>> {
    let (input, geometry) = &settle(input, geometry);
    let mut backward = Backward {
        pooling: pooling(arch, kernels, *input, geometry, Direction::Backward),
        grad,
    };
    let plan = backward.pooling.plan;
    // Abreast, the gradients of so many planes would not stay in a cache.
    let [depth, _, width] = &geometry.axes;
    let turned = backward.pooling.unit == 1
        && (depth.input, plan.columns) == (1, width.input)
        && lie_abreast(&backward.pooling);
    backward.pooling.turned = turned;
    let sizes = geometry.axes.map(|axis| axis.input);
    let plan = match backward.pooling.unit {
        1 if !turned => plan.of_whole_depths(sizes),
        _ => plan.of_whole_planes(sizes),
    };
    let tiling = tiling(&input.x, geometry, sizes, plan);
    // SAFETY: `run` writes a gradient for every cell of its bands.
    let output = unsafe {
        tiling.run(backward.pooling.traits.logits, |scratch, bands, output| {
            backward.run(scratch, bands, output)
        })
    };
    output.ok_or_else(|| no_memory(&tiling))
}

/// The same windows; the stride of a single one, which leads nowhere, is no longer so far that sums overflow. Planes that
/// are one window each have all their cells in one row, where they lie so: nothing depends on their shape.
fn settle<'a, T: Element>(input: Input<'a, T>, geometry: &Geometry) -> (Input<'a, T>, Geometry) {
    let mut geometry = *geometry;
    for axis in &mut geometry.axes {
        if axis.output == 1 {
            axis.stride = axis.kernel;
        }
    }
    if plan::is_whole(&geometry) {
        if let Some(input) = input.in_one_row(geometry.axes.map(|axis| axis.input)) {
            return (input, geometry.in_one_row());
        }
    }
    (input, geometry)
}

fn no_memory(tiling: &Tiling) -> Error {
    let planes = tiling.planes;
    let cells: u128 = tiling.sizes.iter().map(|&size| size as u128).product();
    Error::Msg(format!(
        "pooling: no memory for {planes} planes of {cells} cells"
    ))
}
