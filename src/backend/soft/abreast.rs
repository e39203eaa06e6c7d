//! A band of planes whose cells lie side by side, as with channels last: a vector holds a cell of each plane, so that
//! nothing is turned before the windows' outputs are.
//!
//! The bits are those of [`Band::pool`](super::band::Band::pool): the same shifts, and sums in the same order.

use super::aligned::Aligned;
use super::along::Held;
use super::band::{Cells, Way};
use super::down::finite_or_zero;
use super::element::Element;
use super::simd::Real;
use super::special::SIDE;
use super::sums::GROUP;
use super::view::View;
use super::weigh::{load, sampled, store, Ahead, By, Columns, Factor, Rows};
use crate::geometry::{Axis, Geometry};
use pulp::{Simd, WithSimd};
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// The outputs of a band's windows, and the space to make them in; reused from band to band.
#[derive(Default)]
pub struct Abreast<T: Element> {
    gathered: Vec<T>,
    widened: Vec<T::Compute>,
    /// Sums down the columns of a row of windows.
    columns: [Aligned<T::Compute>; 2],
    /// Those that it shares with the next row.
    carried: [Aligned<T::Compute>; 2],
    rows: Rows,
    /// Window after window, a cell of each plane.
    means: Aligned<T::Compute>,
    /// The same, plane after plane.
    pub outputs: Aligned<T::Compute>,
}

/// The work on a band.
pub struct Pool<'a, 'b, T: Element> {
    pub abreast: &'a mut Abreast<T>,
    pub input: View<'b, T>,
    pub geometry: &'a Geometry,
    pub beta: f64,
    /// As many as a vector has lanes.
    pub planes: Range<usize>,
    pub cells: &'a Cells,
    /// Rows and columns of the windows.
    pub windows: [&'a Range<usize>; 2],
}

/// Whether bands of these cells are pooled so; vectors of fewer lanes take too little of a cache line.
#[inline(always)]
pub fn serves<S: Simd, T: Element>(cells: &Cells) -> bool {
    cells.way == Way::Direct && T::Compute::lanes::<S>() >= 4
}

/// Cells with one of each plane after the other.
struct Stack<'s, C> {
    x: &'s [C],
    ahead: Ahead,
    /// From a row to the next, and from a column.
    steps: [usize; 2],
}

impl<T: Element> WithSimd for Pool<'_, '_, T> {
    /// Bits of the planes whose windows all hold.
    type Output = u32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u32 {
        let [_, height, width] = &self.geometry.axes;
        let (cells, [rows, columns]) = (self.cells, self.windows);
        let Abreast {
            gathered,
            widened,
            columns: sums,
            carried,
            rows: run,
            means,
            outputs,
        } = self.abreast;
        let lanes = T::Compute::lanes::<S>();
        let stack = stack(simd, self.input, &self.planes, cells, (gathered, widened));
        let mut held = Held::new(simd);
        let shift = stack.shift(simd, cells, self.beta);
        let scale = T::Compute::from_f64(self.beta * LOG2_E);
        let by = By::new(simd, shift, scale, Factor::Activation);
        let across = cells.columns.len() * lanes;
        for sums in sums.iter_mut().chain(carried.iter_mut()) {
            sums.grow(across);
        }
        let windows = rows.len() * columns.len();
        means.grow(windows * lanes);
        for (o, means) in rows.clone().zip(means.chunks_mut(columns.len() * lanes)) {
            let first = height.window(o).start;
            run.find(height, (o, rows), (first, stack.steps[0]));
            run.count = 1;
            let start = (first - cells.rows.start) * stack.steps[0];
            let down = Columns {
                by,
                x: &stack.x[start..],
                ahead: stack.ahead.skip(start),
                steps: (0, 0),
                pace: stack.steps[1],
                width: across,
            };
            let [es, exs] = &mut *sums;
            let [carried_es, carried_exs] = &mut *carried;
            down.sum(simd, run, [es, exs], [carried_es, carried_exs]);
            let first = cells.columns.start;
            along_row(simd, width, (columns, first), [es, exs], (means, &mut held));
        }
        outputs.grow(windows * lanes);
        turn(simd, means, windows, outputs);
        held.lanes()
    }
}

/// The band's activations, where they lie if they need not be widened.
#[inline(always)]
fn stack<'s, S: Simd, T: Element>(
    simd: S,
    input: View<'s, T>,
    planes: &Range<usize>,
    cells: &Cells,
    (gathered, widened): (&'s mut Vec<T>, &'s mut Vec<T::Compute>),
) -> Stack<'s, T::Compute> {
    let plane = input.plane(planes.start);
    let (rows, columns) = (&cells.rows, &cells.columns);
    let (span, steps) = plane.lattice(cells.depths.start, rows, columns, planes.len());
    if size_of::<T>() == size_of::<T::Compute>() {
        return Stack {
            ahead: Ahead::of(span),
            x: T::widen(simd, span, widened),
            steps,
        };
    }
    gathered.clear();
    for row in 0..rows.len() {
        for column in 0..columns.len() {
            let cell = row * steps[0] + column * steps[1];
            gathered.extend_from_slice(&span[cell..cell + planes.len()]);
        }
    }
    Stack {
        ahead: Ahead::of(gathered),
        x: T::widen(simd, gathered, widened),
        steps: [columns.len() * planes.len(), planes.len()],
    }
}

impl<C: Real> Stack<'_, C> {
    /// The largest activation of each plane's sample.
    #[inline(always)]
    fn shift<S: Simd>(&self, simd: S, cells: &Cells, beta: f64) -> C::V<S> {
        let width = cells.columns.len();
        let sign = C::splat(simd, C::from_f64(1f64.copysign(beta)));
        let mut most = C::splat(simd, C::NEG_INFINITY);
        for cell in sampled(cells.rows.len() * width) {
            let cell = cell / width * self.steps[0] + cell % width * self.steps[1];
            let x = load::<S, C>(self.x, cell);
            most = C::max(simd, C::vmul(simd, x, sign), most);
        }
        let mut shifts = [C::default(); GROUP];
        store::<S, C>(&mut shifts, 0, C::vmul(simd, most, sign));
        for shift in &mut shifts {
            *shift = finite_or_zero(*shift);
        }
        load::<S, C>(&shifts, 0)
    }
}

/// The means of a row of windows, from the sums down their columns, which begin at column `first`.
#[inline(always)]
fn along_row<S: Simd, C: Real>(
    simd: S,
    width: &Axis,
    (columns, first): (&Range<usize>, usize),
    [es, exs]: [&[C]; 2],
    (means, held): (&mut [C], &mut Held<S, C>),
) {
    let zero = C::splat(simd, C::default());
    let lanes = C::lanes::<S>();
    for (o, mean) in columns.clone().zip(C::vectors_mut::<S>(means)) {
        let window = width.window(o);
        let mut taps = (window.start - first..window.end - first).map(|tap| tap * lanes);
        // Where the bands of contiguous planes add zeros, a sum of negative zeros becomes a positive one.
        let bare = window.len() == width.kernel && matches!(width.kernel, 2 | 3);
        let (mut e, mut ex) = match taps.next() {
            Some(tap) if bare => (load::<S, C>(es, tap), load::<S, C>(exs, tap)),
            Some(tap) => (
                C::vadd(simd, zero, load::<S, C>(es, tap)),
                C::vadd(simd, zero, load::<S, C>(exs, tap)),
            ),
            None => (zero, zero),
        };
        for tap in taps {
            e = C::vadd(simd, e, load::<S, C>(es, tap));
            ex = C::vadd(simd, ex, load::<S, C>(exs, tap));
        }
        *mean = C::ratio(simd, ex, e);
        held.see(simd, e, *mean);
    }
}

/// The means of so many windows, plane after plane.
#[inline(always)]
fn turn<S: Simd, C: Real>(simd: S, means: &[C], windows: usize, outputs: &mut [C]) {
    if turn_squares(simd, means, windows, outputs).is_some() {
        return;
    }
    let lanes = C::lanes::<S>();
    for (window, means) in means.chunks_exact(lanes).take(windows).enumerate() {
        for (lane, mean) in means.iter().enumerate() {
            outputs[lane * windows + window] = *mean;
        }
    }
}

/// [`turn`] where there are squares, and instructions for them.
#[inline(always)]
fn turn_squares<S: Simd, C: Real>(
    simd: S,
    means: &[C],
    windows: usize,
    outputs: &mut [C],
) -> Option<()> {
    let last = windows.checked_sub(SIDE)?;
    if C::lanes::<S>() != SIDE {
        return None;
    }
    for window in (0..windows).step_by(SIDE) {
        let window = window.min(last);
        let from = (&means[window * SIDE..], SIDE);
        C::turn(simd, from, (&mut outputs[window..], windows))?;
    }
    Some(())
}
