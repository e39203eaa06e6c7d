//! Sums down the columns of a band's windows, but for those by [groups](super::groups).

use super::aligned::Aligned;
use super::band::{Band, Cells, Shape};
use super::element::{Element, Load};
use super::simd::{all_finite, Real};
use super::stack::{self, Stack};
use super::sums::sum;
use super::view::{Plane, View};
use super::weigh::{By, Columns, Factor, Rows};
use crate::geometry::Axis;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Zeros in a row's padding; mostly there is none, and nothing to call.
#[inline(always)]
pub fn clear<C: Copy + Default>(cells: &mut [C]) {
    if !cells.is_empty() {
        cells.fill(C::default());
    }
}

/// [`Band::exponentiate`] by [`Factor::Activation`].
pub struct Exponentiate<'a, T: Element> {
    pub band: &'a mut Band<T>,
    pub plane: Plane<'a, T>,
    pub cells: &'a Cells,
    pub how: (f64, bool),
    pub start: usize,
}

impl<T: Element> WithSimd for Exponentiate<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let how = (self.how.0, Factor::Activation, self.how.1);
        self.band
            .exponentiate(simd, self.plane, self.cells, how, self.start)
    }
}

/// [`Band::exponentiate`] of whole planes and the sums down their columns, from every row on and as if each plane were
/// a single row: rows that are shorter than a vector cost more one by one.
pub struct Flat<'a, 'b, T: Element> {
    pub band: &'a mut Band<T>,
    pub input: View<'b, T>,
    pub planes: Range<usize>,
    pub cells: &'a Cells,
    pub height: &'a Axis,
    pub beta: f64,
    /// Whether no shift has been tried yet.
    pub first: bool,
}

impl<T: Element> WithSimd for Flat<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { band, cells, .. } = self;
        let width = cells.columns.len();
        let of_plane = cells.rows.len() * width;
        let how = (self.beta, Factor::Activation);
        for (position, plane) in self.planes.clone().enumerate() {
            let few = self.first || !band.exact[position];
            let how = (how.0, how.1, few);
            band.exponentiate(
                simd,
                self.input.plane(plane),
                cells,
                how,
                position * of_plane,
            );
        }
        // Windows that reach beyond the last plane are not wanted, but hold.
        let len = self.planes.len() * of_plane;
        let beyond = len..len + (self.height.kernel - 1) * width;
        band.cells[0][beyond.clone()].fill(T::Compute::from_f64(1.0));
        band.cells[1][beyond].fill(T::Compute::default());
        band.taps.clear();
        band.taps
            .extend((0..self.height.kernel).map(|row| row * width));
        let whole = len.next_multiple_of(T::Compute::lanes::<S>());
        for (sums, cells) in band.columns.iter_mut().zip(&band.cells) {
            sum::<S, _>(simd, cells, &band.taps, &mut sums[..whole]);
        }
    }
}

/// What the sums down the columns of a plane's windows are made from.
pub struct Work<'a, T: Element> {
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

/// [`Band::exponentiate`] and [`Band::sum_columns`] at once, where [`Rows::cover`]; no weights are kept but shared ones.
pub struct WeighColumns<'a, T: Element>(pub Work<'a, T>);

impl<T: Element> WithSimd for WeighColumns<'_, T> {
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
            rows,
            position,
            few,
        } = self.0;
        let Band {
            gathered,
            widened,
            stacked,
            bare,
            columns,
            cells: carried,
            rows: of_windows,
            tail,
            bare_tail,
            tail_rows,
            ..
        } = band;
        let mut weighed = Weighed {
            shape,
            cells,
            height,
            rows,
            position,
            sums: columns,
            carried,
            of_windows,
            tail_rows,
        };
        match T::loads(simd) {
            true => {
                let stack = stack::bare(simd, plane, cells, (gathered, bare));
                weighed.fill(simd, &stack, stack.by(simd, beta, few), bare_tail);
            }
            false => {
                let stack = stack::widened(simd, plane, cells, (gathered, widened, stacked));
                weighed.fill(simd, &stack, stack.by(simd, beta, few), tail);
            }
        }
    }
}

/// [`WeighColumns`] without the activations.
struct Weighed<'a, C> {
    shape: &'a Shape,
    cells: &'a Cells,
    height: Axis,
    /// Of windows.
    rows: Range<usize>,
    /// Of the plane in the band.
    position: usize,
    sums: &'a mut [Aligned<C>; 2],
    carried: &'a mut [Aligned<C>; 2],
    of_windows: &'a mut Rows,
    tail_rows: &'a mut Rows,
}

impl<C: Real> Weighed<'_, C> {
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
            rows,
            position,
            sums: [es, exs],
            carried: [carried_es, carried_exs],
            of_windows,
            tail_rows,
        } = self;
        let vector = C::lanes::<S>();
        let (w, padded) = (shape.width, shape.padded);
        let pitch = stack.steps[1];
        let mut o = rows.start;
        while o < rows.end {
            let window = height.window(o);
            of_windows.find(height, (o, rows), (window.start, pitch));
            let out = (*position * shape.rows + o - rows.start) * padded;
            let start = (window.start - cells.rows.start) * pitch;
            let x = &stack.x[start..];
            let step = height.stride.saturating_mul(pitch);
            // Vectors may reach into the next row of activations; where there is none, the last is copied.
            let whole = w.next_multiple_of(vector);
            let reach =
                |rows: usize| (rows - 1) * step + (window.len() - 1) * pitch + whole <= x.len();
            let mut run = &mut **of_windows;
            while run.count > 1 && !reach(run.count) {
                run.count -= 1;
            }
            let fits = reach(run.count);
            let parts = match fits {
                true => [(0..whole, false), (0..0, false)],
                false => [
                    (0..w / vector * vector, false),
                    (w / vector * vector..whole, true),
                ],
            };
            let count = run.count;
            for (part, copied) in parts {
                if part.is_empty() {
                    continue;
                }
                if copied {
                    tail.grow(window.len() * vector);
                    let of_window = (0..window.len()).map(|row| &x[row * pitch..][..w]);
                    copy_ends(of_window, part.start..w, tail, vector);
                    run = &mut **tail_rows;
                    run.find(height, (o, rows), (window.start, vector));
                    run.count = 1;
                }
                let x = match copied {
                    true => &tail[..],
                    false => &x[part.start..],
                };
                let columns = Columns {
                    by,
                    x,
                    ahead: stack.ahead.skip(start + part.start),
                    steps: (step, padded),
                    pace: vector,
                    width: part.len(),
                };
                let carry = [
                    &mut carried_es[part.start..],
                    &mut carried_exs[part.start..],
                ];
                let to = out + shape.left + part.start;
                let sums = [&mut es[to..], &mut exs[to..]];
                columns.sum(simd, run, sums, carry);
            }
            clear_padding(&mut es[out..], shape, count);
            clear_padding(&mut exs[out..], shape, count);
            o += count;
        }
    }
}

/// A shift; any will do where an activation is infinite, as its windows do not hold.
#[inline(always)]
pub fn finite_or_zero<C: Real>(shift: C) -> C {
    match all_finite(&[shift]) {
        true => shift,
        false => C::default(),
    }
}

/// What rows have in these columns, a vector each.
#[inline(always)]
pub fn copy_ends<'a, C: Copy + 'a>(
    rows: impl Iterator<Item = &'a [C]>,
    columns: Range<usize>,
    ends: &mut [C],
    vector: usize,
) {
    for (row, end) in rows.zip(ends.chunks_exact_mut(vector)) {
        end[..columns.len()].copy_from_slice(&row[columns.clone()]);
    }
}

/// Zeros in the padding of so many rows.
#[inline(always)]
fn clear_padding<C: Copy + Default>(sums: &mut [C], shape: &Shape, rows: usize) {
    let right = shape.left + shape.width;
    if shape.left == 0 && right == shape.padded {
        return;
    }
    for row in sums.chunks_exact_mut(shape.padded).take(rows) {
        clear(&mut row[..shape.left]);
        clear(&mut row[right..]);
    }
}
