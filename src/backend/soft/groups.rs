//! Sums down the columns of windows that overlap: rows of activations are summed in groups of a stride, and a window is
//! some whole groups and the first rows of one more. No weight is kept, and each is made once a band.

use super::aligned::Aligned;
use super::band::Cells;
use super::down::{clear, copy_ends, Sums, Weigh};
use super::element::Load;
use super::simd::Real;
use super::stack::Stack;
use super::weigh::{load, store, By, Columns};
use crate::geometry::Axis;
use pulp::Simd;
use std::ops::Range;

/// The sums of a plane's windows.
pub type SumGroups<'a, T> = Weigh<'a, T, true>;

/// Rows of activations, by where their cells begin.
#[derive(Default)]
pub struct Group {
    /// Those that are in the window that ends with this group.
    first: Vec<usize>,
    /// Those that are in later windows only.
    rest: Vec<usize>,
}

/// Sums of whole groups, as many as a window has, a row of lanes each.
struct Ring<'a, C> {
    sums: &'a mut [Aligned<C>; 2],
    slots: usize,
    pitch: usize,
}

impl<C: Real> Sums<'_, C> {
    /// Group after group.
    #[inline(always)]
    pub fn by_groups<S: Simd, E: Load<C>>(
        self,
        simd: S,
        (stack, by): (&Stack<'_, E>, By<C::V<S>>),
        tail: &mut Aligned<E>,
    ) {
        let [group, tail_group] = self.group;
        let [es, exs] = self.columns;
        let windows = self.windows;
        let (shape, height, rows) = (windows.shape, windows.height, windows.rows);
        let vector = C::lanes::<S>();
        let columns = Columns {
            by,
            x: stack.x,
            ahead: stack.ahead,
            steps: (0, 0),
            pace: vector,
            width: shape.width.next_multiple_of(vector),
        };
        let mut ring = Ring {
            sums: self.kept,
            slots: (height.kernel - 1) / height.stride,
            pitch: columns.width,
        };
        let slots = ring.slots;
        for row in rows.start..rows.end + slots {
            group.find(&height, row, windows.cells, stack, slots);
            let window = row.checked_sub(slots).filter(|o| rows.contains(o));
            if slots == 0 || row + 1 == rows.end + slots {
                // There are no later windows.
                group.rest.clear();
            }
            let out = window.map(|o| windows.start(o));
            let mut sums = out.map(|out| {
                let start = out + shape.left;
                [&mut es[start..], &mut exs[start..]]
            });
            let fits = group.reach() + columns.width <= stack.x.len();
            let whole = match fits {
                true => columns.width,
                false => shape.width / vector * vector,
            };
            ring.sum(simd, (&columns, 0), group, (row, 0..whole), &mut sums);
            if whole < columns.width {
                // Vectors would reach beyond the activations: their ends are copied.
                tail_group.copy(group, (stack.x, whole), (shape.width, vector), tail);
                let columns = Columns {
                    x: &tail[..],
                    ..columns
                };
                ring.sum(
                    simd,
                    (&columns, whole),
                    tail_group,
                    (row, whole..columns.width),
                    &mut sums,
                );
            }
            if let Some(out) = out {
                for sums in [&mut *es, &mut *exs] {
                    let row = &mut sums[out..out + shape.padded];
                    clear(&mut row[..shape.left]);
                    clear(&mut row[shape.left + shape.width..]);
                }
            }
        }
    }
}

impl Group {
    /// The rows of a group, and those of them that the window so many groups before it ends with.
    #[inline(always)]
    fn find<E>(
        &mut self,
        height: &Axis,
        group: usize,
        cells: &Cells,
        stack: &Stack<'_, E>,
        before: usize,
    ) {
        let start = group.saturating_mul(height.stride);
        let middle = start.saturating_add(height.kernel - before * height.stride);
        // Rows of padding, and rows in none of the band's windows, take no part.
        let there = |rows: Range<usize>| {
            let from = cells.rows.start.saturating_add(height.padding);
            let end = rows.end.saturating_sub(from).min(cells.rows.len());
            rows.start.saturating_sub(from).min(end)..end
        };
        for (starts, rows) in [
            (&mut self.first, there(start..middle)),
            (
                &mut self.rest,
                there(middle..start.saturating_add(height.stride)),
            ),
        ] {
            starts.clear();
            for depth in 0..stack.depths {
                let depth = depth * stack.steps[0];
                starts.extend(rows.clone().map(|row| depth + row * stack.steps[1]));
            }
        }
    }

    /// Where the last row begins.
    #[inline(always)]
    fn reach(&self) -> usize {
        let rows = self.first.iter().chain(&self.rest);
        rows.max().copied().unwrap_or(0)
    }

    /// The ends of rows of another group, from column `start` on, a vector each in `ends`.
    #[inline(always)]
    fn copy<E: Copy + Default>(
        &mut self,
        group: &Self,
        (x, start): (&[E], usize),
        (width, vector): (usize, usize),
        ends: &mut Aligned<E>,
    ) {
        ends.grow((group.first.len() + group.rest.len()) * vector);
        let mut next = 0;
        for (copies, rows) in [
            (&mut self.first, &group.first),
            (&mut self.rest, &group.rest),
        ] {
            copies.clear();
            for row in rows {
                let row = std::iter::once(&x[*row..row + width]);
                copy_ends(row, start..width, &mut ends[next..next + vector], vector);
                copies.push(next);
                next += vector;
            }
        }
    }
}

impl<C: Real> Ring<'_, C> {
    /// Sums the columns of a group from `at` on, whole vectors: those of the window that ends with it, if `sums` are
    /// given, and its own in place of the eldest. `x` begins at column `first`.
    #[inline(always)]
    fn sum<S: Simd, E: Load<C>>(
        &mut self,
        simd: S,
        (columns, first): (&Columns<'_, S, C, E>, usize),
        group: &Group,
        (row, at): (usize, Range<usize>),
        sums: &mut Option<[&mut [C]; 2]>,
    ) {
        let zero = C::splat(simd, C::default());
        let [ring_es, ring_exs] = &mut *self.sums;
        let own = match self.slots {
            0 => 0,
            slots => row % slots * self.pitch,
        };
        for at in at.step_by(C::lanes::<S>()) {
            let mut sum = (zero, zero);
            for row in &group.first {
                sum = columns.add(simd, sum, row + at - first);
            }
            let (mut e, mut ex) = sum;
            for row in &group.rest {
                sum = columns.add(simd, sum, row + at - first);
            }
            if let Some([es, exs]) = sums {
                for slot in 0..self.slots {
                    e = C::vadd(simd, e, load::<S, C>(ring_es, slot * self.pitch + at));
                    ex = C::vadd(simd, ex, load::<S, C>(ring_exs, slot * self.pitch + at));
                }
                store::<S, C>(es, at, e);
                store::<S, C>(exs, at, ex);
            }
            if self.slots > 0 {
                store::<S, C>(ring_es, own + at, sum.0);
                store::<S, C>(ring_exs, own + at, sum.1);
            }
        }
    }
}
