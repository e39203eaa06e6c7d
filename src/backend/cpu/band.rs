//! A band of window rows whose activations share one shift, so that each is exponentiated once however many windows
//! hold it; the sums go down the columns first, then along the rows.
//!
//! Windows far below the band's largest activation lose their weights to underflow; [`Band::sums_hold`] tells, and
//! [`super::block`] then takes each by its own largest activation.

use super::aligned::Aligned;
use super::element::Element;
use super::lanes::Lanes;
use super::simd::Real;
use super::view::View;
use crate::geometry::{Axis, Geometry};
use pulp::Simd;
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// The sums of a band's windows, and the space to make them in; reused from band to band.
#[derive(Default)]
pub struct Band<T: Element> {
    gathered: Vec<T>,
    widened: Vec<T::Compute>,
    /// `e = exp(β·(x − shift))` and `e` times [`Factor`] of the activations, plane after plane, row after row.
    pub cells: [Aligned<T::Compute>; 2],
    /// Their sums down the windows' columns.
    columns: [Aligned<T::Compute>; 2],
    /// The same, split into phases.
    phases: [Aligned<T::Compute>; 2],
    /// `Σe` of each window.
    pub total: Aligned<T::Compute>,
    /// The mean of [`Factor`] in each window, weighted by `e`.
    pub output: Aligned<T::Compute>,
    pub area: Area,
    /// Where the cells of a sum lie.
    taps: Vec<usize>,
    /// Lanes from a row of windows to the next.
    pub pitch: usize,
}

/// What a band sums besides the weights `e`: these times its factor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    /// `x`, whose mean is the output.
    Activation,
    /// `t`, with `e = 2^t`.
    Exponent,
    /// Nothing besides.
    None,
}

/// Where the activations of a band lie.
#[derive(Clone, Default)]
pub struct Area {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// Padded cells before a row of activations.
    pub left: usize,
    /// Cells of a row with its padding, whole strides.
    pub padded: usize,
}

/// The sizes of a band.
struct Shape {
    /// Activations: rows of a plane, and cells of a row.
    height: usize,
    width: usize,
    /// Rows of windows of a plane.
    rows: usize,
    /// Padded cells before a row of activations.
    left: usize,
    /// Cells of a row with its padding, whole strides.
    padded: usize,
}

/// Cells of a band, in activations: what stays in a core's nearest cache with its sums.
const BAND_CELLS: usize = 1 << 10;

/// Windows to a row of a band.
const BAND_COLUMNS: usize = 1024;

/// A total from here down may have lost weights that count.
const LEAST_TOTAL: f64 = 1e-18;

/// The bands that a tile is cut into: planes, rows of windows and columns of windows at a time.
pub fn sizes(geometry: &Geometry) -> [usize; 3] {
    let [depth, height, width] = geometry.axes;
    let columns = BAND_COLUMNS.min(width.output);
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
    ![d, h, w].iter().any(|axis| axis.adaptive)
        && w.kernel <= BAND_COLUMNS
        && d.kernel.min(d.input) * h.kernel.min(h.input) * w.input.min(2 * BAND_COLUMNS) <= 1 << 16
}

impl<T: Element> Band<T> {
    /// The sums and outputs of the windows in `planes`, at depth `d`, in `rows` and `columns`; false if their shift
    /// is not finite.
    #[inline(always)]
    pub fn pool<S: Simd>(
        &mut self,
        simd: S,
        (input, geometry): (View<'_, T>, &Geometry),
        (beta, factor): (f64, Factor),
        planes: &Range<usize>,
        (d, rows, columns): (usize, &Range<usize>, &Range<usize>),
    ) -> bool {
        let [depth, height, width] = &geometry.axes;
        let lanes = Lanes::new(*width);
        let cells = Cells {
            depths: depth.window(d),
            rows: height.window(rows.start).start..height.window(rows.end - 1).end,
            columns: lanes.columns(columns),
        };
        let first = columns.start * width.stride;
        let left = width.padding.saturating_sub(first);
        let needed = (columns.len() - 1) * width.stride + width.kernel;
        let shape = Shape {
            height: cells.rows.len(),
            width: cells.columns.len(),
            rows: rows.len(),
            left,
            padded: (left + cells.columns.len())
                .max(needed)
                .next_multiple_of(width.stride),
        };
        self.pitch = shape.padded / width.stride;
        self.area = Area {
            rows: cells.rows.clone(),
            columns: cells.columns.clone(),
            left,
            padded: shape.padded,
        };
        let slack = 2 * T::Compute::lanes::<S>() + lanes.extra;
        let of_plane = cells.depths.len() * shape.height * shape.width;
        for sums in &mut self.cells {
            sums.grow(planes.len() * of_plane + slack);
        }
        let padded = planes.len() * shape.rows * shape.padded;
        for sums in &mut self.columns {
            sums.grow(padded + slack);
        }
        for (position, plane) in planes.clone().enumerate() {
            let plane = input.plane(plane);
            if !self.exponentiate(simd, plane, &cells, (beta, factor), position * of_plane) {
                return false;
            }
            self.sum_columns(simd, &shape, (height, rows), &cells, (position, factor));
        }
        self.sum_rows(simd, &lanes, (width, factor), padded / width.stride);
        true
    }

    /// Fills `cells` from `start` on; false if the shift is not finite, or, but for [`Factor::Activation`], a cell.
    #[inline(always)]
    fn exponentiate<S: Simd>(
        &mut self,
        simd: S,
        plane: super::view::Plane<'_, T>,
        cells: &Cells,
        (beta, factor): (f64, Factor),
        start: usize,
    ) -> bool {
        let (rows, columns) = (&cells.rows, &cells.columns);
        let of_depth = rows.len() * columns.len();
        let sign = T::Compute::from_f64(1f64.copysign(beta));
        let scale = T::Compute::from_f64(beta * LOG2_E);
        let [es, exs] = &mut self.cells;
        let mut shift = T::Compute::NEG_INFINITY;
        for d in cells.depths.clone() {
            let cells_of_depth = plane.block(d, rows, columns, &mut self.gathered);
            let x = T::widen(cells_of_depth, &mut self.widened);
            let largest = largest::<S, _>(simd, x, sign);
            if largest > shift {
                shift = largest;
            }
            if cells.depths.len() == 1 && super::simd::all_finite(&[shift]) {
                return exponentiate(
                    simd,
                    (x, ahead(cells_of_depth)),
                    (shift * sign, scale, factor),
                    &mut es[start..],
                    &mut exs[start..],
                );
            }
        }
        if !super::simd::all_finite(&[shift]) {
            return false;
        }
        let mut finite = true;
        for (position, d) in cells.depths.clone().enumerate() {
            let cells_of_depth = plane.block(d, rows, columns, &mut self.gathered);
            let x = T::widen(cells_of_depth, &mut self.widened);
            let start = start + position * of_depth;
            finite &= exponentiate(
                simd,
                (x, ahead(cells_of_depth)),
                (shift * sign, scale, factor),
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
                sums[out..out + shape.left].fill(T::Compute::default());
                let sums = &mut sums[out + shape.left..];
                sum::<S, _>(simd, cells, &self.taps, &mut sums[..whole]);
                sums[w..shape.padded - shape.left].fill(T::Compute::default());
            }
        }
    }

    /// Sums along the rows: `total` and `output`.
    #[inline(always)]
    fn sum_rows<S: Simd>(
        &mut self,
        simd: S,
        lanes: &Lanes,
        (width, factor): (&Axis, Factor),
        windows: usize,
    ) {
        let vector = T::Compute::lanes::<S>();
        let whole = windows.next_multiple_of(vector);
        self.total.grow(whole);
        self.output.grow(whole);
        // Lanes beyond the last window read on, into what is left of other bands or zeros.
        let of_phase = whole + lanes.extra;
        if width.stride > 1 {
            for (phases, columns) in self.phases[..factor.sums()].iter_mut().zip(&self.columns) {
                phases.grow(width.stride * of_phase);
                match width.stride {
                    2 => split::<2, _>(columns, windows, of_phase, phases),
                    3 => split::<3, _>(columns, windows, of_phase, phases),
                    stride => {
                        for phase in 0..lanes.phases {
                            let phases = &mut phases[phase * of_phase..][..windows];
                            let cells = columns[phase..].iter().step_by(stride);
                            for (lane, cell) in phases.iter_mut().zip(cells) {
                                *lane = *cell;
                            }
                        }
                    }
                }
            }
        }
        let [es, exs] = match width.stride {
            1 => &self.columns,
            _ => &self.phases,
        };
        self.taps.clear();
        self.taps.extend((0..width.kernel).map(|k| {
            let (phase, shift) = lanes.tap(k);
            phase * of_phase + shift
        }));
        sum::<S, _>(simd, es, &self.taps, &mut self.total[..whole]);
        if factor == Factor::None {
            return;
        }
        sum::<S, _>(simd, exs, &self.taps, &mut self.output[..whole]);
        let totals = T::Compute::vectors::<S>(&self.total[..whole]);
        let outputs = T::Compute::vectors_mut::<S>(&mut self.output[..whole]);
        for (output, total) in outputs.iter_mut().zip(totals) {
            *output = T::Compute::vdiv(simd, *output, *total);
        }
    }

    /// Whether the windows whose lanes these are kept all weights that count, and are finite.
    #[inline(always)]
    pub fn sums_hold(&self, lanes: Range<usize>) -> bool {
        let least = T::Compute::from_f64(LEAST_TOTAL);
        let kept = |total: &T::Compute| (*total > least) as u8;
        self.total[lanes.clone()]
            .iter()
            .map(kept)
            .fold(1, |all, v| all & v)
            == 1
            && super::simd::all_finite(&self.output[lanes])
    }
}

impl Factor {
    /// How many sums a band makes.
    #[inline(always)]
    fn sums(self) -> usize {
        match self {
            Factor::None => 1,
            _ => 2,
        }
    }
}

/// The activations of a band.
struct Cells {
    depths: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// The largest of `x` times `sign`; NaN may be lost.
#[inline(always)]
fn largest<S: Simd, C: Real>(simd: S, x: &[C], sign: C) -> C {
    let vectors = C::vectors::<S>(x);
    let zero = C::splat(simd, C::default());
    let mut all = [C::splat(simd, C::NEG_INFINITY); 4];
    let mut four = vectors.chunks_exact(4);
    if sign > C::default() {
        for x in &mut four {
            for (m, x) in all.iter_mut().zip(x) {
                *m = C::max(simd, *x, *m);
            }
        }
    } else {
        for x in &mut four {
            for (m, x) in all.iter_mut().zip(x) {
                *m = C::max(simd, C::vsub(simd, zero, *x), *m);
            }
        }
    }
    let [a, b, c, d] = all;
    let mut m = C::largest(simd, C::max(simd, C::max(simd, a, b), C::max(simd, c, d)));
    for x in &x[vectors.len() / 4 * 4 * C::lanes::<S>()..] {
        if *x * sign > m {
            m = *x * sign;
        }
    }
    m
}

/// `e = 2^(scale·(x − shift))` and `e` times `factor`; the last vector may write beyond the last of `x`.
///
/// False if an `x` is not finite, but for [`Factor::Activation`], whose sums tell.
#[inline(always)]
fn exponentiate<S: Simd, C: Real>(
    simd: S,
    (x, next): (&[C], *const u8),
    (shift, scale, factor): (C, C, Factor),
    es: &mut [C],
    efs: &mut [C],
) -> bool {
    let by = (C::splat(simd, shift), C::splat(simd, scale), factor);
    let zero = C::splat(simd, C::default());
    // Turns into NaN with the first cell that is not finite.
    let mut nothing = zero;
    let whole = x.len() / C::lanes::<S>() * C::lanes::<S>();
    if whole < x.len() {
        es[whole..whole + C::lanes::<S>()].fill(shift);
        es[whole..x.len()].copy_from_slice(&x[whole..]);
        let x = load::<S, _>(es, whole);
        let (e, ef) = weigh::<S, C>(simd, x, by);
        nothing = C::mul_add(simd, x, zero, nothing);
        C::vectors_mut::<S>(&mut es[whole..])[0] = e;
        if factor != Factor::None {
            C::vectors_mut::<S>(&mut efs[whole..])[0] = ef;
        }
    }
    let sums = C::vectors_mut::<S>(es)
        .iter_mut()
        .zip(C::vectors_mut::<S>(efs));
    for (i, ((e, ef), x)) in sums.zip(C::vectors::<S>(x)).enumerate() {
        prefetch(next.wrapping_add(i * size_of::<C::V<S>>()));
        let (weight, product) = weigh::<S, C>(simd, *x, by);
        *e = weight;
        if factor != Factor::None {
            *ef = product;
        }
        if factor != Factor::Activation {
            nothing = C::mul_add(simd, *x, zero, nothing);
        }
    }
    factor == Factor::Activation || C::sum(simd, nothing) == C::default()
}

/// `e = 2^(scale·(x − shift))` and `e` times `factor`.
#[inline(always)]
fn weigh<S: Simd, C: Real>(
    simd: S,
    x: C::V<S>,
    (shift, scale, factor): (C::V<S>, C::V<S>, Factor),
) -> (C::V<S>, C::V<S>) {
    let t = C::vmul(simd, scale, C::vsub(simd, x, shift));
    let t = C::max(simd, C::splat(simd, C::EXP2_ZERO), t);
    let e = C::exp2(simd, t);
    let by = match factor {
        Factor::Activation => x,
        _ => t,
    };
    (e, C::vmul(simd, e, by))
}

/// Where the band after these cells begins, if all lie side by side.
fn ahead<T>(cells: &[T]) -> *const u8 {
    cells.as_ptr_range().end.cast()
}

/// Has the line at this address read while there is other work; any address will do.
#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees and never faults.
    unsafe {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Sums of the cells that lie these offsets away, in their order.
#[inline(always)]
pub fn sum<S: Simd, C: Real>(simd: S, cells: &[C], offsets: &[usize], sums: &mut [C]) {
    let (first, rest) = offsets.split_at(offsets.len().min(4));
    match *first {
        [a] => sum_of::<S, C, 1>(simd, cells, [a], sums, false),
        [a, b] => sum_of::<S, C, 2>(simd, cells, [a, b], sums, false),
        [a, b, c] => sum_of::<S, C, 3>(simd, cells, [a, b, c], sums, false),
        [a, b, c, d] => sum_of::<S, C, 4>(simd, cells, [a, b, c, d], sums, false),
        _ => {}
    }
    let mut four = rest.chunks_exact(4);
    for offsets in &mut four {
        let offsets = [0, 1, 2, 3].map(|i| offsets[i]);
        sum_of::<S, C, 4>(simd, cells, offsets, sums, true);
    }
    for &offset in four.remainder() {
        sum_of::<S, C, 1>(simd, cells, [offset], sums, true);
    }
}

/// One pass of [`sum`], added to the `sums` if there is something to `add` to.
#[inline(always)]
fn sum_of<S: Simd, C: Real, const N: usize>(
    simd: S,
    cells: &[C],
    offsets: [usize; N],
    sums: &mut [C],
    add: bool,
) {
    let len = sums.len();
    let sums = C::vectors_mut::<S>(sums);
    let count = sums.len();
    let rows = offsets.map(|offset| &C::vectors::<S>(&cells[offset..offset + len])[..count]);
    for (i, sum) in sums.iter_mut().enumerate() {
        let mut s = match add {
            true => C::vadd(simd, *sum, rows[0][i]),
            false => rows[0][i],
        };
        for row in &rows[1..] {
            s = C::vadd(simd, s, row[i]);
        }
        *sum = s;
    }
}

/// The cells in turn into phases of so many lanes, which begin `pitch` apart; no cell is left out, as the compiler
/// vectorises nothing less.
#[inline(always)]
fn split<const PHASES: usize, C: Real>(cells: &[C], lanes: usize, pitch: usize, phases: &mut [C]) {
    let mut rest = phases;
    let mut phases: [&mut [C]; PHASES] = std::array::from_fn(|_| {
        let (phase, after) = std::mem::take(&mut rest).split_at_mut(pitch);
        rest = after;
        &mut phase[..lanes]
    });
    for (lane, cells) in cells.as_chunks::<PHASES>().0[..lanes].iter().enumerate() {
        for (phase, cell) in phases.iter_mut().zip(cells) {
            phase[lane] = *cell;
        }
    }
}

#[inline(always)]
pub fn load<S: Simd, C: Real>(cells: &[C], start: usize) -> C::V<S> {
    C::vectors::<S>(&cells[start..start + C::lanes::<S>()])[0]
}
