//! Sums down the columns of a band's windows, but for those by [groups](super::groups).

use super::aligned::Aligned;
use super::band::{Band, Cells, Shape};
use super::element::{Element, Load};
use super::groups::Group;
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

/// The windows of a plane in a band.
#[derive(Clone, Copy)]
pub struct Windows<'a> {
    pub shape: &'a Shape,
    pub cells: &'a Cells,
    pub height: Axis,
    pub rows: &'a Range<usize>,
    /// Of the plane in the band.
    pub position: usize,
}

impl Windows<'_> {
    /// Where the sums of a row of windows begin, its padding included.
    #[inline(always)]
    pub fn start(&self, row: usize) -> usize {
        (self.position * self.shape.rows + row - self.rows.start) * self.shape.padded
    }
}

/// What the sums down the columns of a plane's windows are made from.
pub struct Work<'a, T: Element> {
    pub band: &'a mut Band<T>,
    pub plane: Plane<'a, T>,
    pub windows: Windows<'a>,
    pub beta: f64,
    /// Whether the largest of a few activations will do for a shift.
    pub few: bool,
}

/// The sums from the activations, row after row of windows or group after group.
pub struct Weigh<'a, T: Element, const GROUPS: bool> {
    pub work: Work<'a, T>,
}

/// [`Band::exponentiate`] and [`Band::sum_columns`] at once, where [`Rows::cover`]; no weights are kept but shared ones.
pub type WeighColumns<'a, T> = Weigh<'a, T, false>;

impl<T: Element, const GROUPS: bool> WithSimd for Weigh<'_, T, GROUPS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Work {
            band,
            plane,
            windows,
            beta,
            few,
        } = self.work;
        let Band {
            gathered,
            widened,
            stacked,
            bare,
            columns,
            cells: kept,
            rows,
            group,
            tail,
            bare_tail,
            ..
        } = band;
        let cells = windows.cells;
        let sums = Sums {
            windows,
            columns,
            kept,
            rows,
            group,
        };
        match T::loads(simd) {
            true => {
                let stack = stack::bare(simd, plane, cells, (gathered, bare));
                let by = stack.by(simd, beta, few);
                sums.fill::<S, _, GROUPS>(simd, (&stack, by), bare_tail);
            }
            false => {
                let stack = stack::widened(simd, plane, cells, (gathered, widened, stacked));
                let by = stack.by(simd, beta, few);
                sums.fill::<S, _, GROUPS>(simd, (&stack, by), tail);
            }
        }
    }
}

/// [`Weigh`] without the activations.
pub struct Sums<'a, C> {
    pub windows: Windows<'a>,
    pub columns: &'a mut [Aligned<C>; 2],
    /// Those that later windows need, too.
    pub kept: &'a mut [Aligned<C>; 2],
    /// The latter of rows' ends.
    pub rows: &'a mut [Rows; 2],
    pub group: &'a mut [Group; 2],
}

impl<C: Real> Sums<'_, C> {
    #[inline(always)]
    fn fill<S: Simd, E: Load<C>, const GROUPS: bool>(
        self,
        simd: S,
        of: (&Stack<'_, E>, By<C::V<S>>),
        tail: &mut Aligned<E>,
    ) {
        match GROUPS {
            true => self.by_groups(simd, of, tail),
            false => self.by_rows(simd, of, tail),
        }
    }

    /// Row of windows after row of windows.
    #[inline(always)]
    fn by_rows<S: Simd, E: Load<C>>(
        self,
        simd: S,
        (stack, by): (&Stack<'_, E>, By<C::V<S>>),
        tail: &mut Aligned<E>,
    ) {
        let windows = self.windows;
        let (shape, height, rows) = (windows.shape, windows.height, windows.rows);
        let [es, exs] = self.columns;
        let [carried_es, carried_exs] = self.kept;
        let [of_windows, tail_rows] = self.rows;
        let vector = C::lanes::<S>();
        let (w, padded) = (shape.width, shape.padded);
        let pitch = stack.steps[1];
        let mut o = rows.start;
        while o < rows.end {
            let window = height.window(o);
            of_windows.find(&height, (o, rows), (window.start, pitch));
            let out = windows.start(o);
            let start = (window.start - windows.cells.rows.start) * pitch;
            let x = &stack.x[start..];
            let step = height.stride.saturating_mul(pitch);
            // Vectors may reach into the next row of activations; where there is none, the last is copied.
            let whole = w.next_multiple_of(vector);
            let reach =
                |rows: usize| (rows - 1) * step + (window.len() - 1) * pitch + whole <= x.len();
            let mut run = &mut *of_windows;
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
                    run = &mut *tail_rows;
                    run.find(&height, (o, rows), (window.start, vector));
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
