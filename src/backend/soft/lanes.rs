//! Rows of windows side by side in the lanes of vectors.
//!
//! A window's taps in a row lie `stride` columns from the next window's, so a row is split into `stride` phases:
//! tap `k` of window `o` is lane `o + k / stride` of phase `k % stride`, and a vector holds the same tap of
//! neighbouring windows. Adaptive windows, which have no fixed stride, get a phase for every tap.

use super::simd::Real;
use crate::geometry::Axis;
use std::ops::Range;

/// How the columns of an axis lie in lanes.
#[derive(Clone, Copy)]
pub struct Lanes {
    axis: Axis,
    /// Vectors' worth of lanes that a row is split into.
    pub phases: usize,
    /// Lanes that windows reach beyond their own.
    pub extra: usize,
}

impl Lanes {
    pub fn new(axis: Axis) -> Self {
        let (phases, extra) = match axis.adaptive {
            true => (axis.kernel, 0),
            false => (
                axis.kernel.min(axis.stride),
                (axis.kernel - 1) / axis.stride,
            ),
        };
        Self {
            axis,
            phases,
            extra,
        }
    }

    /// The kernel and the stride.
    pub fn window(&self) -> (usize, usize) {
        (self.axis.kernel, self.axis.stride)
    }

    /// The phase of a tap, and how many lanes it lies from its window's.
    pub fn tap(&self, k: usize) -> (usize, usize) {
        match self.axis.adaptive {
            true => (k, 0),
            false => (k % self.axis.stride, k / self.axis.stride),
        }
    }

    /// The columns that the windows of a block hold.
    pub fn columns(&self, windows: &Range<usize>) -> Range<usize> {
        self.axis.window(windows.start).start..self.axis.window(windows.end - 1).end
    }

    /// Column of the first lane of a phase, counted from the left padding's start.
    fn first(&self, window: usize, phase: usize) -> usize {
        window * self.axis.stride + phase
    }

    /// The lanes, out of `lanes`, whose column is one of `columns`.
    fn inside(&self, first: usize, columns: &Range<usize>, lanes: usize) -> Range<usize> {
        let before = |column: usize| {
            (column + self.axis.padding)
                .saturating_sub(first)
                .div_ceil(self.axis.stride)
                .min(lanes)
        };
        before(columns.start)..before(columns.end)
    }

    /// Fills the lanes of a phase, for windows from `window` on, from a row's `columns`, times `sign`.
    ///
    /// Lanes that have no such column get −∞, which takes no part.
    #[inline(always)]
    pub fn split<C: Real>(
        &self,
        (row, columns): (&[C], &Range<usize>),
        sign: C,
        (window, phase): (usize, usize),
        lanes: &mut [C],
    ) {
        if self.axis.adaptive {
            for (o, lane) in (window..).zip(lanes) {
                let cells = self.axis.window(o);
                let column = cells.start + phase;
                *lane = match column < cells.end {
                    true => row[column - columns.start] * sign,
                    false => C::NEG_INFINITY,
                };
            }
            return;
        }
        let first = self.first(window, phase);
        let inside = self.inside(first, columns, lanes.len());
        lanes[..inside.start].fill(C::NEG_INFINITY);
        lanes[inside.end..].fill(C::NEG_INFINITY);
        if inside.is_empty() {
            return;
        }
        let start = first + inside.start * self.axis.stride - self.axis.padding - columns.start;
        let (lanes, cells) = (&mut lanes[inside], &row[start..]);
        match self.axis.stride {
            1 => take::<1, C>(cells, sign, lanes),
            2 => take::<2, C>(cells, sign, lanes),
            3 => take::<3, C>(cells, sign, lanes),
            4 => take::<4, C>(cells, sign, lanes),
            stride => {
                for (lane, cell) in lanes.iter_mut().zip(cells.iter().step_by(stride)) {
                    *lane = *cell * sign;
                }
            }
        }
    }

    /// Adds the lanes of a phase, for windows from `window` on, to the columns of a row: what [`Lanes::split`] took.
    #[inline(always)]
    pub fn merge<C: Real>(
        &self,
        lanes: &[C],
        (window, phase): (usize, usize),
        (row, columns): (&mut [C], &Range<usize>),
    ) {
        if self.axis.adaptive {
            for (o, lane) in (window..self.axis.output).zip(lanes) {
                let cells = self.axis.window(o);
                let column = cells.start + phase;
                if column < cells.end && columns.contains(&column) {
                    row[column - columns.start] = row[column - columns.start] + *lane;
                }
            }
            return;
        }
        let first = self.first(window, phase);
        let inside = self.inside(first, columns, lanes.len());
        if inside.is_empty() {
            return;
        }
        let start = first + inside.start * self.axis.stride - self.axis.padding - columns.start;
        let (lanes, cells) = (&lanes[inside], &mut row[start..]);
        match self.axis.stride {
            1 => put::<1, C>(lanes, cells),
            2 => put::<2, C>(lanes, cells),
            3 => put::<3, C>(lanes, cells),
            4 => put::<4, C>(lanes, cells),
            stride => {
                for (lane, cell) in lanes.iter().zip(cells.iter_mut().step_by(stride)) {
                    *cell = *lane;
                }
            }
        }
    }
}

/// Every `STRIDE`th cell into a lane of its own; the stride is a constant for the compiler to vectorise.
#[inline(always)]
fn take<const STRIDE: usize, C: Real>(cells: &[C], sign: C, lanes: &mut [C]) {
    let whole = lanes.len().min(cells.len() / STRIDE);
    let (head, tail) = lanes.split_at_mut(whole);
    for (lane, cell) in head.iter_mut().zip(cells.chunks_exact(STRIDE)) {
        *lane = cell[0] * sign;
    }
    for (lane, cell) in tail.iter_mut().zip(cells[whole * STRIDE..].chunks(STRIDE)) {
        *lane = cell[0] * sign;
    }
}

/// The inverse of [`take`].
#[inline(always)]
fn put<const STRIDE: usize, C: Real>(lanes: &[C], cells: &mut [C]) {
    for (lane, cell) in lanes.iter().zip(cells.chunks_mut(STRIDE)) {
        cell[0] = *lane;
    }
}
