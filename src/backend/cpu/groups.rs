//! Sums down the columns of windows that overlap: rows of activations are summed in groups of a stride, and a window is
//! some whole groups and the first rows of one more. No weight is kept, and each is made once a band.

use super::aligned::Aligned;
use super::band::{clear, copy_ends, finite_or_zero, Band, Cells, Shape};
use super::element::Element;
use super::simd::Real;
use super::view::Plane;
use super::weigh::{largest, load, sample, store, Ahead, By, Columns, Factor};
use crate::geometry::Axis;
use pulp::{Simd, WithSimd};
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// The sums of a plane's windows.
pub struct SumGroups<'a, T: Element> {
    pub band: &'a mut Band<T>,
    pub plane: Plane<'a, T>,
    pub shape: &'a Shape,
    pub cells: &'a Cells,
    pub beta: f64,
    pub height: Axis,
    /// Of windows.
    pub rows: Range<usize>,
    /// Of the plane in the band.
    pub position: usize,
    /// Whether the largest of a few activations will do for a shift.
    pub few: bool,
}

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

/// The activations of a band, and where they lie.
#[derive(Clone, Copy)]
struct Stack<'a, C> {
    x: &'a [C],
    ahead: Ahead,
    depths: usize,
    /// Cells from a depth to the next, and from a row.
    steps: [usize; 2],
    width: usize,
}

impl<T: Element> WithSimd for SumGroups<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, cells, .. } = self;
        let Band {
            gathered,
            widened,
            stacked,
            columns: [es, exs],
            cells: [ring_es, ring_exs],
            tail,
            group,
            tail_group,
            ..
        } = self.band;
        let stack = stack(simd, self.plane, cells, (gathered, widened, stacked));
        let sign = T::Compute::from_f64(1f64.copysign(self.beta));
        let largest = stack.largest(simd, cells.rows.len(), self.few, sign);
        let shift = T::Compute::splat(simd, finite_or_zero(largest * sign));
        let scale = T::Compute::from_f64(self.beta * LOG2_E);
        let vector = T::Compute::lanes::<S>();
        let columns = Columns {
            by: By::new(simd, shift, scale, Factor::Activation),
            x: stack.x,
            ahead: stack.ahead,
            steps: (0, 0),
            pace: vector,
            width: shape.width.next_multiple_of(vector),
        };
        let mut ring = Ring {
            sums: [ring_es, ring_exs],
            slots: (self.height.kernel - 1) / self.height.stride,
            pitch: columns.width,
        };
        let slots = ring.slots;
        for row in self.rows.start..self.rows.end + slots {
            group.find(&self.height, row, cells, &stack, slots);
            let window = row.checked_sub(slots).filter(|o| self.rows.contains(o));
            if slots == 0 || row + 1 == self.rows.end + slots {
                // There are no later windows.
                group.rest.clear();
            }
            let out =
                window.map(|o| (self.position * shape.rows + o - self.rows.start) * shape.padded);
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

/// A band's activations, where they lie if rows of all depths can be read there, or else brought together.
#[inline(always)]
fn stack<'s, S: Simd, T: Element>(
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
    let width = columns.len();
    let of_depth = rows.len() * width;
    let depths_len = depths.len();
    if depths_len == 1 {
        let block = plane.block(simd, depths.start, rows, columns, gathered);
        return Stack {
            ahead: Ahead::of(block),
            x: T::widen(simd, block, widened),
            depths: 1,
            steps: [of_depth, width],
            width,
        };
    }
    let in_place = size_of::<T>() == size_of::<T::Compute>();
    if let Some((span, steps)) = plane.span(depths, rows, columns).filter(|_| in_place) {
        return Stack {
            ahead: Ahead::of(span),
            x: T::widen(simd, span, widened),
            depths: depths_len,
            steps,
            width,
        };
    }
    stacked.clear();
    for d in depths.clone() {
        let block = plane.block(simd, d, rows, columns, gathered);
        stacked.extend_from_slice(T::widen(simd, block, widened));
    }
    Stack {
        ahead: Ahead::of(stacked),
        x: stacked,
        depths: depths_len,
        steps: [of_depth, width],
        width,
    }
}

impl<C: Real> Stack<'_, C> {
    /// The largest activation times `sign`, of so many rows, or if a `few` will do of a [`sample`]; wherever they lie.
    #[inline(always)]
    fn largest<S: Simd>(&self, simd: S, rows: usize, few: bool, sign: C) -> C {
        if self.depths == 1 {
            return largest::<S, _>(simd, sample(self.x, few), sign);
        }
        let (depths, rows) = match few {
            true => (self.depths / 2..self.depths / 2 + 1, rows / 4..rows / 4 + 1),
            false => (0..self.depths, 0..rows),
        };
        let mut most = C::NEG_INFINITY;
        for depth in depths {
            for row in rows.clone() {
                let start = depth * self.steps[0] + row * self.steps[1];
                let largest = largest::<S, _>(simd, &self.x[start..start + self.width], sign);
                if largest > most {
                    most = largest;
                }
            }
        }
        most
    }
}

impl Group {
    /// The rows of a group, and those of them that the window so many groups before it ends with.
    #[inline(always)]
    fn find<C>(
        &mut self,
        height: &Axis,
        group: usize,
        cells: &Cells,
        stack: &Stack<'_, C>,
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
    fn copy<C: Real>(
        &mut self,
        group: &Self,
        (x, start): (&[C], usize),
        (width, vector): (usize, usize),
        ends: &mut Aligned<C>,
    ) {
        ends.grow((group.first.len() + group.rest.len()) * vector);
        let mut next = 0;
        for (copies, rows) in [
            (&mut self.first, &group.first),
            (&mut self.rest, &group.rest),
        ] {
            copies.clear();
            for row in rows {
                let row = &x[*row..row + width];
                copy_ends(row, width, start, &mut ends[next..next + vector], vector);
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
    fn sum<S: Simd>(
        &mut self,
        simd: S,
        (columns, first): (&Columns<'_, S, C>, usize),
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
