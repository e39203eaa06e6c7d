//! Down the columns: cells are lifted and summed over the depths and rows of their windows.
//!
//! Rows are cut wherever a window begins or ends. Every such piece is summed once, into a line as long as a row of
//! activations with its padding; the sums of a row of windows are those of some pieces that follow each other.

use super::plan::{is_ranged, Span};
use super::rule::{Cell, Join, Rule};
use super::vector::{InstructionSet, Kernel, Real, Vector};
use super::view::Patch;
use std::collections::VecDeque;
use std::ops::Range;

/// Rows that the same windows have, one after the other.
#[derive(Default, Debug)]
pub struct Pieces {
    /// Rows of the patch.
    pub rows: Vec<Range<usize>>,
    /// The pieces of each window.
    pub windows: Vec<Range<usize>>,
}

impl Pieces {
    /// The pieces of these windows.
    pub fn cut(&mut self, span: &Span) {
        let first = span.cells.start;
        self.rows.clear();
        self.windows.clear();
        if span.axis.disjoint() && !is_ranged(&span.axis) {
            for (i, o) in span.windows.clone().enumerate() {
                let window = span.axis.window(o);
                self.rows.push(window.start - first..window.end - first);
                self.windows.push(i..i + 1);
            }
            return;
        }
        // Both ends of windows go up with the rows: `open` are those that have begun and not ended.
        let mut begin = span.axis.window(span.windows.start);
        let mut ends: VecDeque<usize> = VecDeque::new();
        let mut next = span.windows.start;
        let mut row = begin.start;
        loop {
            while next < span.windows.end && begin.start <= row {
                self.windows.push(self.rows.len()..usize::MAX);
                ends.push_back(begin.end);
                next += 1;
                if next < span.windows.end {
                    begin = span.axis.window(next);
                }
            }
            let Some(&end) = ends.front() else {
                if next == span.windows.end {
                    return;
                }
                // No window has the rows between.
                row = begin.start;
                continue;
            };
            let stop = if next < span.windows.end {
                end.min(begin.start)
            } else {
                end
            };
            self.rows.push(row - first..stop - first);
            row = stop;
            while ends.front() == Some(&row) {
                let closed = self.windows.len() - ends.len();
                self.windows[closed].end = self.rows.len();
                ends.pop_front();
            }
        }
    }

    /// Whether every window is a piece by itself.
    pub fn are_windows(&self) -> bool {
        self.rows.len() == self.windows.len() && self.windows.iter().all(|pieces| pieces.len() == 1)
    }
}

/// The sums of pieces: the cells of a plane in, lines out.
pub struct Columns<'a, C> {
    pub x: Patch<'a, C>,
    pub z: Patch<'a, C>,
    /// The largest logit.
    pub shift: C,
    pub pieces: &'a [Range<usize>],
    /// From a line to the next, and cells of a line before the first column.
    pub pitch: usize,
    pub before: usize,
    pub lines: [&'a mut [C]; 2],
    /// Scratch.
    pub rows: &'a mut Vec<Row>,
}

/// Where a row of cells begins.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    x: usize,
    z: usize,
    /// Cells before it in its patch, in row-major order.
    place: usize,
}

/// [`Columns`] by a rule.
pub struct Lift<'a, C, R>(pub Columns<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for Lift<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        let Self(
            Columns {
                x,
                z,
                shift,
                pieces,
                pitch,
                before,
                lines: [to_a, to_b],
                rows,
            },
            rule,
        ) = self;
        let lanes = C::Vector::<I>::LANES;
        let [depths, height, width] = x.sizes;
        rows.clear();
        for row in 0..height {
            for depth in 0..depths {
                let place = (depth * height + row) * width;
                rows.push(Row {
                    x: x.at(depth, row),
                    z: z.at(depth, row),
                    place,
                });
            }
        }
        // Checked once for all: every vector begins in a row, and ends in it or within `lanes` of its first cell.
        let reach = width.max(lanes);
        let of_lines = pieces.len().saturating_sub(1) * pitch + before + reach;
        assert!(rows
            .iter()
            .all(|row| row.x + reach <= x.cells.len() && row.z + reach <= z.cells.len()));
        assert!(pieces
            .iter()
            .all(|piece| piece.start < piece.end && piece.end <= height));
        assert!(of_lines <= to_a.len() && of_lines <= to_b.len());
        let shift = C::Vector::<I>::splat(shift);
        for at in (0..width).step_by(lanes) {
            // The last vector reaches back over cells of the one before, if there is one.
            let start = at.min(width.saturating_sub(lanes));
            let mut to = before + start;
            for piece in pieces {
                // SAFETY: as asserted above.
                unsafe {
                    let lift = |row: &Row| (row.x + start, row.z + start, row.place + start);
                    let rows = rows.get_unchecked(piece.start * depths..piece.end * depths);
                    let mut sums = lift_row::<C, C::Vector<I>, R>(
                        rule,
                        [x.cells, z.cells],
                        lift(&rows[0]),
                        shift,
                    );
                    for row in &rows[1..] {
                        let more = lift_row::<C, C::Vector<I>, R>(
                            rule,
                            [x.cells, z.cells],
                            lift(row),
                            shift,
                        );
                        sums = R::Join::join(sums, more);
                    }
                    sums[0].store(to_a.get_unchecked_mut(to..to + lanes));
                    sums[1].store(to_b.get_unchecked_mut(to..to + lanes));
                }
                to += pitch;
            }
        }
    }
}

/// What a vector of cells adds, whose first activation, logit and place are these.
///
/// # Safety
///
/// There must be as many cells as lanes from there on.
#[inline(always)]
unsafe fn lift_row<C: Real, V: Vector<Real = C>, R: Rule>(
    rule: R,
    [x, z]: [&[C]; 2],
    (of_x, of_z, place): (usize, usize, usize),
    shift: V,
) -> [V; 2] {
    // SAFETY: the caller knows that there are so many.
    let x = V::load(unsafe { x.get_unchecked(of_x..of_x + V::LANES) });
    let z = match R::LOGITS {
        // SAFETY: as above.
        true => V::load(unsafe { z.get_unchecked(of_z..of_z + V::LANES) }),
        false => x,
    };
    let place = match R::PLACES {
        true => V::iota().add(V::splat(C::from_f64(place as f64))),
        false => V::zero(),
    };
    rule.lift(Cell { x, z, shift, place })
}

/// Lines of windows from lines of pieces.
pub struct Gather<'a, C> {
    pub pieces: [&'a [C]; 2],
    pub of: &'a Pieces,
    pub pitch: usize,
    pub lines: [&'a mut [C]; 2],
}

/// [`Gather`] by a way to join.
pub struct GatherBy<'a, C, J>(pub Gather<'a, C>, pub J);

impl<C: Real, J: Join> Kernel for GatherBy<'_, C, J> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        let Gather {
            pieces: [a, b],
            of,
            pitch,
            lines: [to_a, to_b],
        } = self.0;
        let lanes = C::Vector::<I>::LANES;
        // Checked once for all: vectors end with their line or within `lanes` of it.
        let reach = |lines: usize| lines * pitch + lanes;
        assert!(of.windows.iter().all(|pieces| pieces.end <= of.rows.len()));
        assert!(reach(of.rows.len()) <= a.len() && reach(of.rows.len()) <= b.len());
        assert!(reach(of.windows.len()) <= to_a.len() && reach(of.windows.len()) <= to_b.len());
        for (line, pieces) in of.windows.iter().enumerate() {
            for at in (0..pitch).step_by(lanes) {
                let mut from = pieces.start * pitch + at;
                let to = line * pitch + at;
                // SAFETY: as asserted above.
                unsafe {
                    let mut sums = load::<C::Vector<I>>([a, b], from);
                    for _ in 1..pieces.len() {
                        from += pitch;
                        sums = J::join(sums, load([a, b], from));
                    }
                    // What is written behind the line is the next one's, which comes later.
                    sums[0].store(to_a.get_unchecked_mut(to..to + lanes));
                    sums[1].store(to_b.get_unchecked_mut(to..to + lanes));
                }
            }
        }
    }
}

/// # Safety
///
/// There must be as many cells as lanes from there on.
#[inline(always)]
unsafe fn load<V: Vector>([a, b]: [&[V::Real]; 2], at: usize) -> [V; 2] {
    // SAFETY: the caller knows that there are so many.
    unsafe {
        [
            V::load(a.get_unchecked(at..at + V::LANES)),
            V::load(b.get_unchecked(at..at + V::LANES)),
        ]
    }
}
