//! Sums down the columns of windows that overlap: rows of activations are summed in groups of a stride, and a window is
//! some whole groups and the first rows of one more. No weight is kept, and each is made once a band.

use super::aligned::Aligned;
use super::band::{Band, Cells, Shape};
use super::down::{clear, copy_ends, Work};
use super::element::{Element, Load};
use super::simd::Real;
use super::stack::{self, Stack};
use super::weigh::{load, store, By, Columns};
use crate::geometry::Axis;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// The sums of a plane's windows.
pub struct SumGroups<'a, T: Element>(pub Work<'a, T>);

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
    sums: [&'a mut Aligned<C>; 2],
    slots: usize,
    pitch: usize,
}

impl<T: Element> WithSimd for SumGroups<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Work {
            band,
            plane,
            shape,
            cells,
            beta,
            height,
            rows: windows,
            position,
            few,
        } = self.0;
        let Band {
            gathered,
            widened,
            stacked,
            bare,
            columns,
            cells: ring,
            tail,
            bare_tail,
            group,
            tail_group,
            ..
        } = band;
        let mut grouped = Grouped {
            shape,
            cells,
            height,
            windows,
            position,
            sums: columns,
            ring,
            group,
            tail_group,
        };
        match T::loads(simd) {
            true => {
                let stack = stack::bare(simd, plane, cells, (gathered, bare));
                grouped.fill(simd, &stack, stack.by(simd, beta, few), bare_tail);
            }
            false => {
                let stack = stack::widened(simd, plane, cells, (gathered, widened, stacked));
                grouped.fill(simd, &stack, stack.by(simd, beta, few), tail);
            }
        }
    }
}

/// [`SumGroups`] without the activations.
struct Grouped<'a, C> {
    shape: &'a Shape,
    cells: &'a Cells,
    height: Axis,
    windows: Range<usize>,
    /// Of the plane in the band.
    position: usize,
    sums: &'a mut [Aligned<C>; 2],
    ring: &'a mut [Aligned<C>; 2],
    group: &'a mut Group,
    tail_group: &'a mut Group,
}

impl<C: Real> Grouped<'_, C> {
    #[inline(always)]
    fn fill<S: Simd, E: Load<C>>(
        &mut self,
        simd: S,
        stack: &Stack<'_, E>,
        by: By<C::V<S>>,
        tail: &mut Aligned<E>,
    ) {
        let Self {
            shape,
            cells,
            height,
            windows,
            position,
            sums: [es, exs],
            ring: [ring_es, ring_exs],
            group,
            tail_group,
        } = self;
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
            sums: [ring_es, ring_exs],
            slots: (height.kernel - 1) / height.stride,
            pitch: columns.width,
        };
        let slots = ring.slots;
        for row in windows.start..windows.end + slots {
            group.find(height, row, cells, stack, slots);
            let window = row.checked_sub(slots).filter(|o| windows.contains(o));
            if slots == 0 || row + 1 == windows.end + slots {
                // There are no later windows.
                group.rest.clear();
            }
            let out = window.map(|o| (*position * shape.rows + o - windows.start) * shape.padded);
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
        let [ring_es, ring_exs] = &mut self.sums;
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
