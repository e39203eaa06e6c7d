//! A band of window rows whose activations share one shift, so that each is exponentiated once however many windows
//! hold it; the sums go down the columns first, then along the rows.
//!
//! The shift is the largest of a [`sample`] of the activations; where weights far above it overflow, or far below it
//! underflow, the largest of all. Windows far below that lose their weights, too: [`Band::sums_hold`] tells, and
//! [`super::block`] then takes each by its own largest activation.

use super::aligned::Aligned;
use super::element::Element;
use super::groups::{Group, SumGroups};
use super::lanes::Lanes;
use super::simd::{all_finite, Real};
use super::sums::{lanes_of, sum, taps, GROUP};
use super::view::{Plane, View};
use super::weigh::{exponentiate, largest, load, sample, store, Ahead, By, Columns, Factor, Rows};
use crate::geometry::{Axis, Geometry};
use pulp::{Simd, WithSimd};
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// The sums of a band's windows, and the space to make them in; reused from band to band.
#[derive(Default)]
pub struct Band<T: Element> {
    pub gathered: Vec<T>,
    pub widened: Vec<T::Compute>,
    /// Activations of several depths, where they cannot be read in place.
    pub stacked: Vec<T::Compute>,
    /// `e = exp(β·(x − shift))` and `e` times [`Factor`] of the activations, plane after plane, row after row.
    pub cells: [Aligned<T::Compute>; 2],
    /// Their sums down the windows' columns.
    pub columns: [Aligned<T::Compute>; 2],
    /// The same, split into phases.
    phases: [Aligned<T::Compute>; 2],
    /// The ends of rows of activations, a vector each.
    pub tail: Aligned<T::Compute>,
    rows: Rows,
    tail_rows: Rows,
    pub group: Group,
    pub tail_group: Group,
    /// `Σe` of each window.
    pub total: Aligned<T::Compute>,
    /// The mean of [`Factor`] in each window, weighted by `e`.
    pub output: Aligned<T::Compute>,
    /// Whether the sums of all windows hold.
    pub all_hold: bool,
    pub area: Area,
    /// Whether the shift of a plane is the largest of all its activations, not of a [`sample`].
    exact: Vec<bool>,
    /// Where the cells of a sum lie.
    taps: Vec<usize>,
    /// Lanes from a row to the next.
    pub pitch: usize,
    /// Rows of a plane, and from a row of windows to the next: the rows between hold no windows.
    height: usize,
    step: usize,
}

/// Where the activations of a band lie.
#[derive(Clone, Default)]
pub struct Area {
    pub depths: Range<usize>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// Padded cells before a row of activations.
    pub left: usize,
    /// Cells of a row with its padding, whole strides.
    pub padded: usize,
}

/// The sizes of a band.
pub struct Shape {
    /// Activations: rows of a plane, and cells of a row.
    height: usize,
    pub width: usize,
    /// Rows of windows of a plane.
    pub rows: usize,
    /// Padded cells before a row of activations.
    pub left: usize,
    /// Cells of a row with its padding, whole strides.
    pub padded: usize,
}

/// Cells of a band, in activations: what stays in a core's nearest cache with its sums.
const BAND_CELLS: usize = 1 << 11;

/// Windows to a row of a band.
const BAND_COLUMNS: usize = 1024;

/// Where windows lie further apart, bands would weigh too many cells that are in none.
pub const LARGEST_STRIDE: usize = 64;

/// A total from here down may have lost weights that count.
const LEAST_TOTAL: f64 = 1e-18;
/// A total from here up may have weights that do not hold.
const MOST_TOTAL: f64 = 1e30;

/// The bands that a tile is cut into: planes, rows of windows and columns of windows at a time.
pub fn sizes(geometry: &Geometry) -> [usize; 3] {
    let [depth, height, width] = geometry.axes;
    let columns = (4 * BAND_CELLS / width.stride.min(LARGEST_STRIDE))
        .min(BAND_COLUMNS)
        .min(width.output);
    let cells = (columns * width.stride + width.kernel).min(width.input);
    let in_rows = (BAND_CELLS / cells).max(1) / depth.kernel.min(depth.input);
    // Rows above and below that other bands exponentiate again must stay few.
    let rows = (in_rows.saturating_sub(height.kernel) / height.stride + 1)
        .max(height.kernel.min(height.input).div_ceil(height.stride) * 2)
        .min(height.output);
    let planes = (BAND_CELLS / (cells * height.input * depth.kernel.min(depth.input))).max(1);
    [planes, rows, columns]
}

/// Whether bands serve these windows.
pub fn covers(geometry: &Geometry) -> bool {
    let [d, h, w] = geometry.axes;
    let width = w.input.min(2 * BAND_COLUMNS);
    let groups = || (h.kernel - 1) / h.stride;
    ![d, h, w].iter().any(|axis| axis.adaptive)
        && w.kernel <= BAND_COLUMNS
        && (w.stride <= LARGEST_STRIDE || w.output == 1)
        && d.kernel.min(d.input) * h.kernel.min(h.input) * width <= 1 << 16
        && groups().saturating_mul(width) <= 1 << 16
}

impl<T: Element> Band<T> {
    /// The sums and outputs of the windows in `planes`, at depth `d`, in `rows` and `columns`; false if an activation
    /// is not finite, but for [`Factor::Activation`], whose sums tell.
    #[inline(always)]
    pub fn pool<S: Simd>(
        &mut self,
        simd: S,
        (input, geometry): (View<'_, T>, &Geometry),
        (beta, factor): (f64, Factor),
        planes: &Range<usize>,
        (d, rows, columns): (usize, &Range<usize>, &Range<usize>),
    ) -> bool {
        let [_, height, width] = &geometry.axes;
        let lanes = Lanes::new(*width);
        let cells = Cells::of(geometry, factor, (d, rows, columns));
        let Cells { direct, flat, .. } = cells;
        // Sets with shorter vectors have too few of them: sums would go to memory and back.
        let vector = T::Compute::lanes::<S>() * size_of::<T::Compute>();
        let grouped = cells.grouped && vector >= 64;
        let first = columns.start * width.stride;
        let left = width.padding.saturating_sub(first);
        let needed = (columns.len() - 1) * width.stride + width.kernel;
        let shape = Shape {
            height: cells.rows.len(),
            width: cells.columns.len(),
            rows: match flat {
                true => cells.rows.len(),
                false => rows.len(),
            },
            left,
            padded: (left + cells.columns.len())
                .max(needed)
                .next_multiple_of(width.stride),
        };
        self.pitch = shape.padded / width.stride;
        self.height = shape.rows;
        self.step = match flat {
            true => height.stride,
            false => 1,
        };
        self.area = Area {
            depths: cells.depths.clone(),
            rows: cells.rows.clone(),
            columns: cells.columns.clone(),
            left,
            padded: shape.padded,
        };
        let slack = (GROUP + lanes.extra) * width.stride.max(2);
        let padded = planes.len() * shape.rows * shape.padded;
        for sums in &mut self.columns {
            sums.grow(padded + slack);
        }
        let of_plane = cells.depths.len() * shape.height * shape.width;
        let kept = match (direct, flat, grouped) {
            (true, ..) => shape.width,
            (_, true, _) => planes.len() * of_plane + height.kernel * shape.width,
            (.., true) => height.kernel / height.stride * (shape.width + GROUP),
            _ => planes.len() * of_plane,
        };
        for sums in &mut self.cells {
            sums.grow(kept + slack);
        }
        self.exact.clear();
        self.exact
            .resize(planes.len(), factor != Factor::Activation);
        for first in [true, false] {
            if first && factor != Factor::Activation {
                continue;
            }
            let mut finite = true;
            if flat {
                simd.vectorize(Flat {
                    band: &mut *self,
                    input,
                    planes: planes.clone(),
                    cells: &cells,
                    height,
                    beta,
                    first,
                });
            }
            let others = match flat {
                true => 0..0,
                false => planes.clone(),
            };
            for (position, plane) in others.enumerate() {
                let plane = input.plane(plane);
                let few = first || !self.exact[position];
                if direct {
                    simd.vectorize(WeighColumns {
                        band: &mut *self,
                        plane,
                        shape: &shape,
                        cells: &cells,
                        beta,
                        height: *height,
                        rows: rows.clone(),
                        position,
                        few,
                    });
                    continue;
                }
                if grouped {
                    simd.vectorize(SumGroups {
                        band: &mut *self,
                        plane,
                        shape: &shape,
                        cells: &cells,
                        beta,
                        height: *height,
                        rows: rows.clone(),
                        position,
                        few,
                    });
                    continue;
                }
                let start = position * of_plane;
                let how = (beta, factor, few);
                finite &= match factor {
                    Factor::Activation => simd.vectorize(Exponentiate {
                        band: &mut *self,
                        plane,
                        cells: &cells,
                        how: (beta, few),
                        start,
                    }),
                    _ => self.exponentiate(simd, plane, &cells, how, start),
                };
                self.sum_columns(simd, &shape, (height, rows), &cells, (position, factor));
            }
            if !finite {
                continue;
            }
            // Functions of their own, so that unoptimised builds need no large stack.
            simd.vectorize(SumRows {
                band: self,
                lanes: &lanes,
                factor,
                windows: padded / width.stride,
                used: [planes.len(), rows.len(), columns.len()],
            });
            if self.all_hold || !first {
                return true;
            }
            self.doubt(rows.len(), columns.len());
        }
        false
    }

    /// Has the largest activation of all sought for planes whose windows do not hold; for no others, so that what a
    /// plane gives depends on itself alone.
    #[cold]
    fn doubt(&mut self, rows: usize, columns: usize) {
        for plane in 0..self.exact.len() {
            self.exact[plane] = !(0..rows)
                .map(|row| self.lanes(plane, row, columns))
                .all(|lanes| hold(&self.total[lanes.clone()], &self.output[lanes]));
        }
    }

    /// Those of a row of windows, by its plane in the band.
    #[inline(always)]
    pub fn lanes(&self, plane: usize, row: usize, columns: usize) -> Range<usize> {
        let start = (plane * self.height + row * self.step) * self.pitch;
        start..start + columns
    }

    /// Whether the windows of so many rows and columns lie side by side, plane after plane.
    #[inline(always)]
    pub fn is_dense(&self, rows: usize, columns: usize) -> bool {
        (self.height, self.pitch) == (rows, columns)
    }

    /// Fills `cells` from `start` on, shifted by the largest activation, of a [`sample`] if a `few` will do; false if a
    /// cell is not finite, but for [`Factor::Activation`], whose sums tell.
    #[inline(always)]
    fn exponentiate<S: Simd>(
        &mut self,
        simd: S,
        plane: Plane<'_, T>,
        cells: &Cells,
        (beta, factor, few): (f64, Factor, bool),
        start: usize,
    ) -> bool {
        let (rows, columns) = (&cells.rows, &cells.columns);
        let of_depth = rows.len() * columns.len();
        let sign = T::Compute::from_f64(1f64.copysign(beta));
        let scale = T::Compute::from_f64(beta * LOG2_E);
        let [es, exs] = &mut self.cells;
        let middle = cells.depths.start + cells.depths.len() / 2;
        let depths = match few {
            true => middle..middle + 1,
            false => cells.depths.clone(),
        };
        let mut shift = T::Compute::NEG_INFINITY;
        for d in depths {
            let cells_of_depth = plane.block(simd, d, rows, columns, &mut self.gathered);
            let x = T::widen(simd, cells_of_depth, &mut self.widened);
            let largest = largest::<S, _>(simd, sample(x, few), sign);
            if largest > shift {
                shift = largest;
            }
            if cells.depths.len() == 1 && all_finite(&[shift]) {
                return exponentiate(
                    simd,
                    (x, Ahead::of(cells_of_depth)),
                    (shift * sign, scale, factor),
                    &mut es[start..],
                    &mut exs[start..],
                );
            }
        }
        if !all_finite(&[shift]) && factor != Factor::Activation {
            return false;
        }
        let shift = finite_or_zero(shift) * sign;
        let mut finite = true;
        for (position, d) in cells.depths.clone().enumerate() {
            let cells_of_depth = plane.block(simd, d, rows, columns, &mut self.gathered);
            let x = T::widen(simd, cells_of_depth, &mut self.widened);
            let start = start + position * of_depth;
            finite &= exponentiate(
                simd,
                (x, Ahead::of(cells_of_depth)),
                (shift, scale, factor),
                &mut es[start..],
                &mut exs[start..],
            );
        }
        finite
    }

    /// Sums down the columns of the windows of a plane, the row's padding around them.
    #[inline(always)]
    fn sum_columns<S: Simd>(
        &mut self,
        simd: S,
        shape: &Shape,
        (height, rows): (&Axis, &Range<usize>),
        cells: &Cells,
        (position, factor): (usize, Factor),
    ) {
        let &Shape {
            height: h,
            width: w,
            ..
        } = shape;
        let of_depth = h * w;
        let depths = cells.depths.len();
        let whole = w.next_multiple_of(T::Compute::lanes::<S>());
        for (row, o) in rows.clone().enumerate() {
            let window = height.window(o);
            let taps = window.start - cells.rows.start..window.end - cells.rows.start;
            self.taps.clear();
            for d in position * depths..(position + 1) * depths {
                let row = |tap| d * of_depth + tap * w;
                self.taps.extend(taps.clone().map(row));
            }
            let out = (position * shape.rows + row) * shape.padded;
            for (sums, cells) in self.columns[..factor.sums()].iter_mut().zip(&self.cells) {
                clear(&mut sums[out..out + shape.left]);
                let sums = &mut sums[out + shape.left..];
                sum::<S, _>(simd, cells, &self.taps, &mut sums[..whole]);
                clear(&mut sums[w..shape.padded - shape.left]);
            }
        }
    }

    /// Whether the windows whose lanes these are kept all weights that count, and are finite.
    #[inline(always)]
    pub fn sums_hold(&self, lanes: Range<usize>) -> bool {
        self.all_hold || hold(&self.total[lanes.clone()], &self.output[lanes])
    }
}

/// Zeros in a row's padding; mostly there is none, and nothing to call.
#[inline(always)]
pub fn clear<C: Copy + Default>(cells: &mut [C]) {
    if !cells.is_empty() {
        cells.fill(C::default());
    }
}

/// [`Band::exponentiate`] by [`Factor::Activation`].
struct Exponentiate<'a, T: Element> {
    band: &'a mut Band<T>,
    plane: Plane<'a, T>,
    cells: &'a Cells,
    how: (f64, bool),
    start: usize,
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
struct Flat<'a, 'b, T: Element> {
    band: &'a mut Band<T>,
    input: View<'b, T>,
    planes: Range<usize>,
    cells: &'a Cells,
    height: &'a Axis,
    beta: f64,
    /// Whether no shift has been tried yet.
    first: bool,
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

/// [`Band::exponentiate`] and [`Band::sum_columns`] at once, where [`Rows::cover`]; no weights are kept but shared ones.
struct WeighColumns<'a, T: Element> {
    band: &'a mut Band<T>,
    plane: Plane<'a, T>,
    shape: &'a Shape,
    cells: &'a Cells,
    beta: f64,
    height: Axis,
    /// Of windows.
    rows: Range<usize>,
    /// Of the plane in the band.
    position: usize,
    /// Whether the largest of a few activations will do for a shift.
    few: bool,
}

impl<T: Element> WithSimd for WeighColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            band,
            plane,
            shape,
            cells,
            beta,
            height,
            rows,
            position,
            few,
        } = self;
        let d = cells.depths.start;
        let gathered = plane.block(simd, d, &cells.rows, &cells.columns, &mut band.gathered);
        let ahead = Ahead::of(gathered);
        let x = T::widen(simd, gathered, &mut band.widened);
        let sign = T::Compute::from_f64(1f64.copysign(beta));
        let shift = finite_or_zero(largest::<S, _>(simd, sample(x, few), sign) * sign);
        let scale = T::Compute::from_f64(beta * LOG2_E);
        let by = By::new(
            simd,
            T::Compute::splat(simd, shift),
            scale,
            Factor::Activation,
        );
        let vector = T::Compute::lanes::<S>();
        let (w, padded) = (shape.width, shape.padded);
        let [es, exs] = &mut band.columns;
        let [carried_es, carried_exs] = &mut band.cells;
        let mut o = rows.start;
        while o < rows.end {
            let window = height.window(o);
            band.rows.find(&height, (o, &rows), (window.start, w));
            let out = (position * shape.rows + o - rows.start) * padded;
            let start = (window.start - cells.rows.start) * w;
            let x = &x[start..];
            let step = height.stride.saturating_mul(w);
            // Vectors may reach into the next row of activations; where there is none, the last is copied.
            let whole = w.next_multiple_of(vector);
            let reach = |rows: usize| (rows - 1) * step + (window.len() - 1) * w + whole <= x.len();
            let mut run = &mut band.rows;
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
                    band.tail.grow(window.len() * vector);
                    copy_ends(
                        &x[..window.len() * w],
                        w,
                        part.start,
                        &mut band.tail,
                        vector,
                    );
                    run = &mut band.tail_rows;
                    run.find(&height, (o, &rows), (window.start, vector));
                    run.count = 1;
                }
                let x = match copied {
                    true => &band.tail[..],
                    false => &x[part.start..],
                };
                let columns = Columns {
                    by,
                    x,
                    ahead: ahead.skip(start + part.start),
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

/// What rows of `width` cells have from column `start` on, a vector each.
#[inline(always)]
pub fn copy_ends<C: Copy>(rows: &[C], width: usize, start: usize, ends: &mut [C], vector: usize) {
    let ends = ends.chunks_exact_mut(vector);
    for (row, end) in rows.chunks_exact(width).zip(ends) {
        end[..width - start].copy_from_slice(&row[start..]);
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

/// Sums along the rows: `total` and `output`.
struct SumRows<'a, T: Element> {
    band: &'a mut Band<T>,
    lanes: &'a Lanes,
    factor: Factor,
    /// Of all rows, those between them included.
    windows: usize,
    /// Planes, rows and columns of the windows that are wanted.
    used: [usize; 3],
}

impl<T: Element> WithSimd for SumRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            band,
            lanes,
            factor,
            windows,
            used: [planes, rows, columns],
        } = self;
        let whole = windows.next_multiple_of(GROUP);
        band.total.grow(whole);
        band.output.grow(whole);
        taps(lanes, whole, &mut band.taps);
        // Lanes beyond the windows hold, too.
        let stride = lanes.window().1;
        band.columns[0][windows * stride..whole * stride].fill(T::Compute::from_f64(1.0));
        band.columns[1][windows * stride..whole * stride].fill(T::Compute::default());
        let totals = &mut band.total[..whole];
        let outputs = &mut band.output[..whole];
        let [es, exs] = &band.columns;
        let in_pairs = match (factor, lanes.window()) {
            (Factor::None, _) => None,
            (_, (2, 2)) => means_of_pairs::<S, _, 2>(simd, [es, exs], [totals, outputs]),
            (_, (3, 2)) => means_of_pairs::<S, _, 3>(simd, [es, exs], [totals, outputs]),
            _ => None,
        };
        let [phases, other_phases] = &mut band.phases;
        let all = match in_pairs {
            Some(all) => all,
            None => {
                let cells = lanes_of(simd, es, lanes, whole, phases);
                if factor == Factor::None {
                    sum::<S, _>(simd, cells, &band.taps, totals);
                    return;
                }
                let other_cells = lanes_of(simd, exs, lanes, whole, other_phases);
                means::<S, _>(simd, [cells, other_cells], &band.taps, [totals, outputs])
            }
        };
        band.all_hold = all;
        if !all {
            // Lanes between and beyond the windows may not hold where all windows do.
            band.all_hold = true;
            for (plane, row) in (0..planes).flat_map(|p| (0..rows).map(move |row| (p, row))) {
                let lanes = band.lanes(plane, row, columns);
                band.all_hold &= hold(&band.total[lanes.clone()], &band.output[lanes]);
            }
        }
    }
}

/// Whether the totals kept all weights that count, and the means are finite.
#[inline(always)]
fn hold<C: Real>(totals: &[C], means: &[C]) -> bool {
    let [least, most] = [LEAST_TOTAL, MOST_TOTAL].map(C::from_f64);
    let kept = |total: &C| (*total > least) as u8 & (*total < most) as u8;
    totals.iter().map(kept).fold(1, |all, v| all & v) == 1 && all_finite(means)
}

/// The totals of windows, whole vectors, and the other sums over them; whether all [`hold`].
#[inline(always)]
fn means<S: Simd, C: Real>(
    simd: S,
    cells: [&[C]; 2],
    taps: &[usize],
    windows: [&mut [C]; 2],
) -> bool {
    // Counts that the compiler knows, for the common windows.
    match *taps {
        [a, b] => means_of(simd, cells, [a, b], windows),
        [a, b, c] => means_of(simd, cells, [a, b, c], windows),
        _ => means_of_any(simd, cells, taps, windows),
    }
}

/// [`means`] of any taps.
#[inline(always)]
fn means_of_any<S: Simd, C: Real>(
    simd: S,
    [es, exs]: [&[C]; 2],
    taps: &[usize],
    [totals, means]: [&mut [C]; 2],
) -> bool {
    let mut held = Held::<S, C>::new(simd);
    let zero = C::splat(simd, C::default());
    let windows = C::vectors_mut::<S>(totals)
        .iter_mut()
        .zip(C::vectors_mut::<S>(means));
    for (i, (total, mean)) in windows.enumerate() {
        let at = i * C::lanes::<S>();
        let (mut e, mut ex) = (zero, zero);
        for tap in taps {
            e = C::vadd(simd, e, load::<S, C>(es, tap + at));
            ex = C::vadd(simd, ex, load::<S, C>(exs, tap + at));
        }
        *total = e;
        *mean = C::ratio(simd, ex, e);
        held.see(simd, *total, *mean);
    }
    held.all(simd)
}

/// [`means`] of two or three columns, two from window to window, where the instruction set tells [`Real::halves`].
#[inline(always)]
fn means_of_pairs<S: Simd, C: Real, const KERNEL: usize>(
    simd: S,
    columns: [&[C]; 2],
    [totals, means]: [&mut [C]; 2],
) -> Option<bool> {
    let mut held = Held::<S, C>::new(simd);
    let windows = C::vectors_mut::<S>(totals)
        .iter_mut()
        .zip(C::vectors_mut::<S>(means));
    for (i, (total, mean)) in windows.enumerate() {
        let at = 2 * i * C::lanes::<S>();
        *total = sum_of_pairs::<S, C, KERNEL>(simd, columns[0], at)?;
        let sum = sum_of_pairs::<S, C, KERNEL>(simd, columns[1], at)?;
        *mean = C::ratio(simd, sum, *total);
        held.see(simd, *total, *mean);
    }
    Some(held.all(simd))
}

/// The sums of a vector of windows whose first column is this one.
#[inline(always)]
fn sum_of_pairs<S: Simd, C: Real, const KERNEL: usize>(
    simd: S,
    columns: &[C],
    first: usize,
) -> Option<C::V<S>> {
    let [even, odd] = C::halves(simd, pair::<S, C>(columns, first))?;
    let sum = C::vadd(simd, even, odd);
    if KERNEL == 2 {
        return Some(sum);
    }
    let [next, _] = C::halves(simd, pair::<S, C>(columns, first + 2))?;
    Some(C::vadd(simd, sum, next))
}

/// Two vectors that follow each other.
#[inline(always)]
fn pair<S: Simd, C: Real>(cells: &[C], start: usize) -> [C::V<S>; 2] {
    [
        load::<S, C>(cells, start),
        load::<S, C>(cells, start + C::lanes::<S>()),
    ]
}

/// [`means`] of so many taps at once.
#[inline(always)]
fn means_of<S: Simd, C: Real, const N: usize>(
    simd: S,
    [es, exs]: [&[C]; 2],
    taps: [usize; N],
    [totals, means]: [&mut [C]; 2],
) -> bool {
    let mut held = Held::<S, C>::new(simd);
    let windows = C::vectors_mut::<S>(totals)
        .iter_mut()
        .zip(C::vectors_mut::<S>(means));
    for (i, (total, mean)) in windows.enumerate() {
        let at = i * C::lanes::<S>();
        let mut e = load::<S, C>(es, taps[0] + at);
        let mut ex = load::<S, C>(exs, taps[0] + at);
        for tap in &taps[1..] {
            e = C::vadd(simd, e, load::<S, C>(es, tap + at));
            ex = C::vadd(simd, ex, load::<S, C>(exs, tap + at));
        }
        *total = e;
        *mean = C::ratio(simd, ex, e);
        held.see(simd, *total, *mean);
    }
    held.all(simd)
}

/// Whether windows [`hold`], a vector at a time.
pub struct Held<S: Simd, C: Real> {
    /// The least total, negated.
    low: C::V<S>,
    high: C::V<S>,
    /// Turns into NaN with the first mean that is not finite.
    nothing: C::V<S>,
}

impl<S: Simd, C: Real> Held<S, C> {
    #[inline(always)]
    pub fn new(simd: S) -> Self {
        let lowest = C::splat(simd, C::NEG_INFINITY);
        Self {
            low: lowest,
            high: lowest,
            nothing: C::splat(simd, C::default()),
        }
    }

    #[inline(always)]
    pub fn see(&mut self, simd: S, total: C::V<S>, mean: C::V<S>) {
        let zero = C::splat(simd, C::default());
        self.low = C::max(simd, C::vsub(simd, zero, total), self.low);
        self.high = C::max(simd, total, self.high);
        self.nothing = C::mul_add(simd, mean, zero, self.nothing);
    }

    #[inline(always)]
    fn all(self, simd: S) -> bool {
        C::largest(simd, self.low) < C::from_f64(-LEAST_TOTAL)
            && C::largest(simd, self.high) < C::from_f64(MOST_TOTAL)
            && C::sum(simd, self.nothing) == C::default()
    }

    /// Whether those of a lane do, a bit each.
    #[inline(always)]
    pub fn lanes(&self) -> u32 {
        let mut lanes = [[C::default(); GROUP]; 3];
        for (lanes, vector) in lanes.iter_mut().zip([self.low, self.high, self.nothing]) {
            store::<S, C>(lanes, 0, vector);
        }
        let [low, high, nothing] = lanes;
        (0..C::lanes::<S>())
            .filter(|&lane| {
                low[lane] < C::from_f64(-LEAST_TOTAL)
                    && high[lane] < C::from_f64(MOST_TOTAL)
                    && nothing[lane] == C::default()
            })
            .fold(0, |bits, lane| bits | 1 << lane)
    }
}

/// The activations of a band.
pub struct Cells {
    pub depths: Range<usize>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// Whether [`WeighColumns`] serves.
    pub direct: bool,
    /// Whether [`Flat`] serves.
    flat: bool,
    /// Whether [`SumGroups`] serves where there are vectors enough.
    grouped: bool,
}

/// Whether every window has all of its cells.
fn only_whole(axis: &Axis) -> bool {
    let room = axis.input.checked_sub(axis.kernel);
    axis.padding == 0 && room.is_some_and(|room| (axis.output - 1) * axis.stride <= room)
}

/// Rows up to this many cells are not worth a vector of their own.
const SHORT: usize = 8;

impl Cells {
    /// Those of the windows at depth `d`, in `rows` and `columns`.
    #[inline(always)]
    pub fn of(
        geometry: &Geometry,
        factor: Factor,
        (d, rows, columns): (usize, &Range<usize>, &Range<usize>),
    ) -> Self {
        let [depth, height, width] = &geometry.axes;
        let mut cells = Self {
            depths: depth.window(d),
            rows: height.window(rows.start).start..height.window(rows.end - 1).end,
            columns: Lanes::new(*width).columns(columns),
            direct: false,
            flat: false,
            grouped: false,
        };
        cells.flat = factor == Factor::Activation
            && cells.depths.len() == 1
            && width.input <= SHORT
            && width.input.is_multiple_of(width.stride)
            && [height, width].iter().all(|axis| only_whole(axis))
            && (rows.len(), columns.len()) == (height.output, width.output);
        if cells.flat {
            cells.rows = 0..height.input;
            cells.columns = 0..width.input;
            return cells;
        }
        cells.direct = factor == Factor::Activation
            && cells.depths.len() == 1
            && (Rows::cover(height) || rows.len() == 1);
        // Groups of one row save nothing.
        cells.grouped = factor == Factor::Activation
            && !cells.direct
            && (cells.depths.len() > 1 || height.stride > 1);
        let beyond = width.input - cells.columns.end;
        if cells.direct && cells.columns.start == 0 && beyond < width.stride {
            // Whole rows lie side by side, so that nothing is gathered.
            cells.columns.end = width.input;
        }
        cells
    }
}
