//! The activations of a band, of one depth or several.

use super::band::Cells;
use super::down::finite_or_zero;
use super::element::Element;
use super::simd::Real;
use super::view::Plane;
use super::weigh::{largest, sampled, Ahead, By, Factor};
use pulp::Simd;
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// Activations, and where they lie.
#[derive(Clone, Copy)]
pub struct Stack<'a, C> {
    pub x: &'a [C],
    pub ahead: Ahead,
    pub depths: usize,
    rows: usize,
    width: usize,
    /// Cells from a depth to the next, and from a row.
    pub steps: [usize; 2],
}

/// A band's activations, where they lie if all of them can be read there, or else brought together.
#[inline(always)]
pub fn stack<'s, S: Simd, T: Element>(
    simd: S,
    plane: Plane<'s, T>,
    cells: &Cells,
    (gathered, widened, stacked): (
        &'s mut Vec<T>,
        &'s mut Vec<T::Compute>,
        &'s mut Vec<T::Compute>,
    ),
) -> Stack<'s, T::Compute> {
    let Cells {
        depths,
        rows,
        columns,
        ..
    } = cells;
    let of = |x: &'s [T::Compute], ahead, steps| Stack {
        x,
        ahead,
        depths: depths.len(),
        rows: rows.len(),
        width: columns.len(),
        steps,
    };
    let in_place = size_of::<T>() == size_of::<T::Compute>();
    if let Some((span, steps)) = plane.span(depths, rows, columns).filter(|_| in_place) {
        return of(T::widen(simd, span, widened), Ahead::of(span), steps);
    }
    let steps = [rows.len() * columns.len(), columns.len()];
    if depths.len() == 1 {
        let block = plane.block(simd, depths.start, rows, columns, gathered);
        return of(T::widen(simd, block, widened), Ahead::of(block), steps);
    }
    stacked.clear();
    for d in depths.clone() {
        let block = plane.block(simd, d, rows, columns, gathered);
        stacked.extend_from_slice(T::widen(simd, block, widened));
    }
    of(stacked, Ahead::of(stacked), steps)
}

impl<C: Real> Stack<'_, C> {
    /// How its activations are weighed, by a shift from all of them, or if a `few` will do from a sample.
    #[inline(always)]
    pub fn by<S: Simd>(&self, simd: S, beta: f64, few: bool) -> By<C::V<S>> {
        let sign = C::from_f64(1f64.copysign(beta));
        let shift = finite_or_zero(self.largest(simd, few, sign) * sign);
        let scale = C::from_f64(beta * LOG2_E);
        By::new(simd, C::splat(simd, shift), scale, Factor::Activation)
    }

    /// The largest activation times `sign`; which are a sample does not depend on where they lie.
    #[inline(always)]
    fn largest<S: Simd>(&self, simd: S, few: bool, sign: C) -> C {
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
            return largest::<S, _>(simd, &self.x[sample], sign);
        }
        // Rows that the sample begins and ends in.
        let mut most = C::NEG_INFINITY;
        for row in sample.start / self.width..(sample.end - 1) / self.width + 1 {
            let first = row * self.width;
            let columns = sample.start.max(first) - first..(sample.end - first).min(self.width);
            let start = row * self.steps[1];
            let cells = &self.x[start + columns.start..start + columns.end];
            most = larger(most, largest::<S, _>(simd, cells, sign));
        }
        most
    }

    /// The largest in these rows of these depths.
    #[inline(always)]
    fn largest_of<S: Simd>(&self, simd: S, depths: Range<usize>, rows: Range<usize>, sign: C) -> C {
        let mut most = C::NEG_INFINITY;
        for depth in depths {
            for row in rows.clone() {
                let start = depth * self.steps[0] + row * self.steps[1];
                let row = &self.x[start..start + self.width];
                most = larger(most, largest::<S, _>(simd, row, sign));
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
