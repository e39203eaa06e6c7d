//! The activations of a band, of one depth or several.

use super::band::Cells;
use super::down::finite_or_zero;
use super::element::{Element, Load};
use super::simd::Real;
use super::view::Plane;
use super::weigh::{largest, sampled, Ahead, By, Factor};
use pulp::Simd;
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// Activations, and where they lie.
#[derive(Clone, Copy)]
pub struct Stack<'a, E> {
    pub x: &'a [E],
    pub ahead: Ahead,
    pub depths: usize,
    rows: usize,
    width: usize,
    /// Cells from a depth to the next, and from a row.
    pub steps: [usize; 2],
}

impl<'s, E> Stack<'s, E> {
    #[inline(always)]
    fn new<A>(x: &'s [E], of: &[A], cells: &Cells, steps: [usize; 2]) -> Self {
        Self {
            x,
            ahead: Ahead::of(of),
            depths: cells.depths.len(),
            rows: cells.rows.len(),
            width: cells.columns.len(),
            steps,
        }
    }
}

/// From a depth of these cells to the next and from a row, where they lie side by side.
fn steps(cells: &Cells) -> [usize; 2] {
    [cells.rows.len() * cells.columns.len(), cells.columns.len()]
}

/// A band's activations for sets that [load](Load::loads) them, where they lie if all of them can be read there, or else
/// brought together.
#[inline(always)]
pub fn bare<'s, S: Simd, T: Element>(
    simd: S,
    plane: Plane<'s, T>,
    cells: &Cells,
    (gathered, stacked): (&'s mut Vec<T>, &'s mut Vec<T>),
) -> Stack<'s, T> {
    let (rows, columns) = (&cells.rows, &cells.columns);
    if let Some((span, steps)) = plane.span(&cells.depths, rows, columns) {
        return Stack::new(span, span, cells, steps);
    }
    if cells.depths.len() == 1 {
        let block = plane.block(simd, cells.depths.start, rows, columns, gathered);
        return Stack::new(block, block, cells, steps(cells));
    }
    stacked.clear();
    for d in cells.depths.clone() {
        stacked.extend_from_slice(plane.block(simd, d, rows, columns, gathered));
    }
    Stack::new(stacked, stacked, cells, steps(cells))
}

/// The same for other sets: brought together and widened.
#[inline(always)]
pub fn widened<'s, S: Simd, T: Element>(
    simd: S,
    plane: Plane<'s, T>,
    cells: &Cells,
    (gathered, widened, stacked): (
        &'s mut Vec<T>,
        &'s mut Vec<T::Compute>,
        &'s mut Vec<T::Compute>,
    ),
) -> Stack<'s, T::Compute> {
    let (rows, columns) = (&cells.rows, &cells.columns);
    if cells.depths.len() == 1 {
        let block = plane.block(simd, cells.depths.start, rows, columns, gathered);
        return Stack::new(T::widen(simd, block, widened), block, cells, steps(cells));
    }
    stacked.clear();
    for d in cells.depths.clone() {
        let block = plane.block(simd, d, rows, columns, gathered);
        stacked.extend_from_slice(T::widen(simd, block, widened));
    }
    Stack::new(stacked, stacked, cells, steps(cells))
}

impl<E> Stack<'_, E> {
    /// How its activations are weighed, by a shift from all of them, or if a `few` will do from a sample.
    #[inline(always)]
    pub fn by<S: Simd, C: Real>(&self, simd: S, beta: f64, few: bool) -> By<C::V<S>>
    where
        E: Load<C>,
    {
        let sign = C::from_f64(1f64.copysign(beta));
        let shift = finite_or_zero(self.largest(simd, few, sign) * sign);
        let scale = C::from_f64(beta * LOG2_E);
        By::new(simd, C::splat(simd, shift), scale, Factor::Activation)
    }

    /// The largest activation times `sign`; which are a sample does not depend on where they lie.
    #[inline(always)]
    fn largest<S: Simd, C: Real>(&self, simd: S, few: bool, sign: C) -> C
    where
        E: Load<C>,
    {
        if self.depths > 1 {
            let (depths, rows) = match few {
                true => {
                    let (depth, row) = (self.depths / 2, self.rows / 4);
                    (depth..depth + 1, row..row + 1)
                }
                false => (0..self.depths, 0..self.rows),
            };
            return self.largest_of(simd, depths, rows, sign);
        }
        let sample = match few {
            true => sampled(self.rows * self.width),
            false => 0..self.rows * self.width,
        };
        if self.rows == 1 || self.steps[1] == self.width {
            return largest::<S, _, _>(simd, &self.x[sample], sign);
        }
        // Rows that the sample begins and ends in.
        let mut most = C::NEG_INFINITY;
        for row in sample.start / self.width..(sample.end - 1) / self.width + 1 {
            let first = row * self.width;
            let columns = sample.start.max(first) - first..(sample.end - first).min(self.width);
            let start = row * self.steps[1];
            let cells = &self.x[start + columns.start..start + columns.end];
            most = larger(most, largest::<S, _, _>(simd, cells, sign));
        }
        most
    }

    /// The largest in these rows of these depths.
    #[inline(always)]
    fn largest_of<S: Simd, C: Real>(
        &self,
        simd: S,
        depths: Range<usize>,
        rows: Range<usize>,
        sign: C,
    ) -> C
    where
        E: Load<C>,
    {
        let mut most = C::NEG_INFINITY;
        for depth in depths {
            for row in rows.clone() {
                let start = depth * self.steps[0] + row * self.steps[1];
                let row = &self.x[start..start + self.width];
                most = larger(most, largest::<S, _, _>(simd, row, sign));
            }
        }
        most
    }
}

/// The larger; the former where the latter is NaN.
#[inline(always)]
fn larger<C: Real>(a: C, b: C) -> C {
    match b > a {
        true => b,
        false => a,
    }
}
