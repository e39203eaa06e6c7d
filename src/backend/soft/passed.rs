//! What the windows of a band pass on to their activations, from its sums: along the rows first, then down the columns.
//!
//! With `e = 2^t` and a window's `s = g/Σe`, the gradient of an activation is `e·Σs` over its windows as in the
//! paper, exactly `Σ e·s·(1 + ln2·(t − mean)) = e·Σ(s − a·mean) + e·t·Σa` with `a = ln2·s`.

use super::aligned::Aligned;
use super::band::Band;
use super::element::Element;
use super::lanes::Lanes;
use super::parts::Part;
use super::simd::{all_finite, Real};
use super::sums::sum;
use super::view::View;
use super::weigh::Factor;
use crate::backend::Gradient;
use crate::geometry::Geometry;
use pulp::Simd;
use std::f64::consts::LN_2;
use std::ops::Range;

/// Space for a band; reused from band to band.
#[derive(Default)]
pub struct Passed<T: Element> {
    band: Band<T>,
    gathered: Vec<T>,
    widened: Vec<T::Compute>,
    /// `s − a·mean`, or `s` alone, and `a` of each window, lanes without a window at zero.
    shares: [Aligned<T::Compute>; 2],
    /// Their sums over the windows of each column, phase by phase.
    phases: Aligned<T::Compute>,
    /// The same, phases brought together.
    columns: [Aligned<T::Compute>; 2],
    /// Their sums over the windows of each row of activations.
    rows: [Aligned<T::Compute>; 2],
    offsets: Vec<usize>,
    /// A part's gradient, where windows of several depths add to it.
    sums: Aligned<T::Compute>,
}

/// The least total of a window whose weights are exact enough; `t` loses digits the further it lies from zero.
fn least_total(gradient: Gradient) -> f64 {
    match gradient {
        Gradient::Paper => 1e-18,
        Gradient::Exact => 1e-4,
    }
}

/// Shares up to this part of the largest finite value have finite sums.
const LARGEST_SHARE: f64 = 1e-8;

impl<T: Element> Passed<T> {
    /// The gradient of a part; false if the sums do not hold.
    #[inline(always)]
    pub fn fill<S: Simd>(
        &mut self,
        simd: S,
        of: (View<'_, T>, View<'_, T>, &Geometry),
        (beta, gradient): (f64, Gradient),
        part: &Part,
        output: &mut [T],
    ) -> bool {
        match gradient {
            Gradient::Paper => self.fill_by(simd, of, (beta, Factor::None), part, output),
            Gradient::Exact => self.fill_by(simd, of, (beta, Factor::Exponent), part, output),
        }
    }

    #[inline(always)]
    fn fill_by<S: Simd>(
        &mut self,
        simd: S,
        of: (View<'_, T>, View<'_, T>, &Geometry),
        how: (f64, Factor),
        part: &Part,
        output: &mut [T],
    ) -> bool {
        let Some([depths, rows, columns]) = part.windows(of.2) else {
            output.fill(T::default());
            return true;
        };
        // Windows of one depth after the other add to the same cells.
        let several = of.2.axes[0].kernel > 1;
        if several {
            self.sums.grow(output.len());
            self.sums[..output.len()].fill(T::Compute::default());
        }
        for d in depths {
            if !self.pool(simd, of, how, part, (d, &rows, &columns)) {
                return false;
            }
            self.pass(simd, of.2, how.1, (part, rows.start, rows.len()), output);
        }
        if several {
            T::narrow(simd, &self.sums[..output.len()], output);
        }
        true
    }

    /// The sums of windows of one depth, and what they pass on along the rows; false if the sums do not hold.
    #[inline(always)]
    fn pool<S: Simd>(
        &mut self,
        simd: S,
        (input, grad, geometry): (View<'_, T>, View<'_, T>, &Geometry),
        how: (f64, Factor),
        part: &Part,
        windows: (usize, &Range<usize>, &Range<usize>),
    ) -> bool {
        let width = &geometry.axes[2];
        let lanes = Lanes::new(*width);
        let holds = self
            .band
            .pool(simd, (input, geometry), how, &part.planes, windows)
            && self.share(simd, grad, how.1, (&lanes, &part.planes), windows);
        if holds {
            self.along_rows(
                simd,
                how.1,
                (&lanes, width.kernel, width.stride),
                part.planes.len() * windows.1.len(),
            );
        }
        holds
    }

    /// Passes on down the columns, from so many rows of windows: to the output, or to `sums` if there are more depths.
    #[inline(always)]
    fn pass<S: Simd>(
        &mut self,
        simd: S,
        geometry: &Geometry,
        factor: Factor,
        (part, first, windows): (&Part, usize, usize),
        output: &mut [T],
    ) {
        let [depth, height, _] = &geometry.axes;
        let several = depth.kernel > 1;
        let area = self.band.area.clone();
        let across = part.columns.len();
        let left = part
            .columns
            .start
            .max(area.columns.start)
            .min(part.columns.end);
        let right = part.columns.end.min(area.columns.end).max(left);
        let (before, after) = (left - part.columns.start, right - part.columns.start);
        let column = left - area.columns.start;
        let depths = part.depths.start.max(area.depths.start)..part.depths.end.min(area.depths.end);
        for (position, d) in
            (0..part.planes.len()).flat_map(|p| depths.clone().map(move |d| (p, d)))
        {
            let of_part = position * part.depths.len() + d - part.depths.start;
            let of_area = position * area.depths.len() + d - area.depths.start;
            for (r, h) in part.rows.clone().enumerate() {
                let out = (of_part * part.rows.len() + r) * across;
                let out = out..out + across;
                let of = height.windows_of(h);
                if of.is_empty() || left == right {
                    if !several {
                        output[out].fill(T::default());
                    }
                    continue;
                }
                self.offsets.clear();
                for o in of {
                    let row = position * windows + o - first;
                    self.offsets.push(row * area.padded + area.left + column);
                }
                let row = of_area * area.rows.len() + h - area.rows.start;
                let cell = row * area.columns.len() + column;
                self.down_columns(simd, factor, cell, right - left);
                let dx = &self.rows[0][..right - left];
                if several {
                    for (sum, dx) in self.sums[out][before..after].iter_mut().zip(dx) {
                        *sum = *sum + *dx;
                    }
                } else {
                    let out = &mut output[out];
                    out[..before].fill(T::default());
                    T::narrow(simd, dx, &mut out[before..after]);
                    out[after..].fill(T::default());
                }
            }
        }
    }

    /// Fills `shares`; false if one is not finite or its window lost weights that count.
    #[inline(always)]
    fn share<S: Simd>(
        &mut self,
        simd: S,
        grad: View<'_, T>,
        factor: Factor,
        (lanes, planes): (&Lanes, &Range<usize>),
        (d, rows, columns): (usize, &Range<usize>, &Range<usize>),
    ) -> bool {
        let exact = factor != Factor::None;
        let least = T::Compute::from_f64(least_total(match exact {
            true => Gradient::Exact,
            false => Gradient::Paper,
        }));
        let most = T::Compute::from_f64(-T::Compute::LOWEST.to_f64() * LARGEST_SHARE);
        let lowest = T::Compute::default() - most;
        let ln_2 = T::Compute::from_f64(LN_2);
        let (pitch, n) = (self.band.pitch, columns.len());
        let all = planes.len() * rows.len() * pitch;
        let slack = 2 * T::Compute::lanes::<S>();
        for shares in &mut self.shares {
            shares.grow(lanes.extra + all + slack);
            shares[..lanes.extra].fill(T::Compute::default());
        }
        let [shares, slopes] = &mut self.shares;
        let mut hold = 1;
        for (p, plane) in planes.clone().enumerate() {
            let plane = grad.plane(plane);
            for (r, h) in rows.clone().enumerate() {
                let at = (p * rows.len() + r) * pitch;
                let g = plane.cells(d, h, columns, &mut self.gathered);
                let g = T::widen(simd, g, &mut self.widened);
                let totals = &self.band.total[at..at + n];
                let row = &mut shares[lanes.extra + at..][..pitch];
                row[n..].fill(T::Compute::default());
                for ((s, g), total) in row[..n].iter_mut().zip(g).zip(totals) {
                    *s = *g / *total;
                    hold &= ((*total > least) & (lowest..=most).contains(s)) as u32;
                }
                if exact {
                    let means = &self.band.output[at..at + n];
                    let slopes = &mut slopes[lanes.extra + at..][..pitch];
                    slopes[n..].fill(T::Compute::default());
                    for ((s, a), mean) in row[..n].iter_mut().zip(slopes).zip(means) {
                        *a = *s * ln_2;
                        *s = *s - *a * *mean;
                    }
                    hold &= all_finite(&row[..n]) as u32;
                }
            }
        }
        hold == 1
    }

    /// Sums the shares of each column's windows, for so many rows of windows: `columns`.
    #[inline(always)]
    fn along_rows<S: Simd>(
        &mut self,
        simd: S,
        factor: Factor,
        (lanes, kernel, stride): (&Lanes, usize, usize),
        rows: usize,
    ) {
        let vector = T::Compute::lanes::<S>();
        let count = rows * self.band.pitch;
        let whole = count.next_multiple_of(vector);
        let sums = if factor == Factor::None { 1 } else { 2 };
        for (shares, columns) in self.shares[..sums].iter().zip(&mut self.columns) {
            columns.grow(whole * stride + 2 * vector);
            if stride == 1 {
                self.offsets.clear();
                self.offsets.extend((0..kernel).map(|k| lanes.extra - k));
                sum::<S, _>(simd, shares, &self.offsets, &mut columns[..whole]);
                continue;
            }
            let together = &mut columns[..count * stride];
            if lanes.extra == 0 && kernel == stride {
                let shares = &shares[..count];
                match stride {
                    2 => interleave::<2, _>([shares; 2], together),
                    3 => interleave::<3, _>([shares; 3], together),
                    _ => {
                        for (cells, share) in together.chunks_exact_mut(stride).zip(shares) {
                            cells.fill(*share);
                        }
                    }
                }
                continue;
            }
            self.phases.grow(whole * stride);
            for phase in 0..stride {
                let sums = &mut self.phases[phase * whole..][..whole];
                if phase >= kernel {
                    sums.fill(T::Compute::default());
                    continue;
                }
                self.offsets.clear();
                let taps = (kernel - phase).div_ceil(stride);
                self.offsets.extend((0..taps).map(|k| lanes.extra - k));
                sum::<S, _>(simd, shares, &self.offsets, sums);
            }
            let phases = &self.phases[..];
            match stride {
                2 => interleave::<2, _>([0, 1].map(|p| &phases[p * whole..][..count]), together),
                3 => interleave::<3, _>([0, 1, 2].map(|p| &phases[p * whole..][..count]), together),
                _ => {
                    for phase in 0..stride {
                        let sums = &phases[phase * whole..][..count];
                        let cells = together[phase..].iter_mut().step_by(stride);
                        for (cell, sum) in cells.zip(sums) {
                            *cell = *sum;
                        }
                    }
                }
            }
        }
    }

    /// Sums the windows of each activation, those at `offsets` in `columns`, and weighs them: a row of the gradient, the
    /// first of `rows`.
    #[inline(always)]
    fn down_columns<S: Simd>(&mut self, simd: S, factor: Factor, cell: usize, len: usize) {
        let whole = len.next_multiple_of(T::Compute::lanes::<S>());
        let [es, ets] = &self.band.cells;
        let es = &es[cell..cell + whole];
        for rows in &mut self.rows {
            rows.grow(whole);
        }
        let [dx, slopes] = &mut self.rows;
        let dx = &mut dx[..whole];
        match *self.offsets {
            [one] => weigh::<S, _>(simd, &self.columns[0][one..one + whole], es, dx),
            [a, b] => {
                let [a, b] = [a, b].map(|at| &self.columns[0][at..at + whole]);
                weigh_two::<S, _>(simd, [a, b], es, dx);
            }
            _ => {
                sum::<S, _>(simd, &self.columns[0], &self.offsets, dx);
                scale::<S, _>(simd, es, dx);
            }
        }
        if factor != Factor::None {
            let ets = &ets[cell..cell + whole];
            let slopes = match *self.offsets {
                [one] => &self.columns[1][one..one + whole],
                _ => {
                    let slopes = &mut slopes[..whole];
                    sum::<S, _>(simd, &self.columns[1], &self.offsets, slopes);
                    slopes
                }
            };
            add_product::<S, _>(simd, slopes, ets, dx);
        }
    }
}

/// `a·b`
#[inline(always)]
fn weigh<S: Simd, C: Real>(simd: S, a: &[C], b: &[C], product: &mut [C]) {
    let factors = C::vectors::<S>(a).iter().zip(C::vectors::<S>(b));
    for (product, (a, b)) in C::vectors_mut::<S>(product).iter_mut().zip(factors) {
        *product = C::vmul(simd, *a, *b);
    }
}

/// `(a₀ + a₁)·b`
#[inline(always)]
fn weigh_two<S: Simd, C: Real>(simd: S, a: [&[C]; 2], b: &[C], product: &mut [C]) {
    let [first, second] = a.map(|a| C::vectors::<S>(a));
    let factors = first.iter().zip(second).zip(C::vectors::<S>(b));
    for (product, ((first, second), b)) in C::vectors_mut::<S>(product).iter_mut().zip(factors) {
        *product = C::vmul(simd, C::vadd(simd, *first, *second), *b);
    }
}

/// `product` times `a`
#[inline(always)]
fn scale<S: Simd, C: Real>(simd: S, a: &[C], product: &mut [C]) {
    let products = C::vectors_mut::<S>(product).iter_mut();
    for (product, a) in products.zip(C::vectors::<S>(a)) {
        *product = C::vmul(simd, *product, *a);
    }
}

/// `sum` plus `a·b`
#[inline(always)]
fn add_product<S: Simd, C: Real>(simd: S, a: &[C], b: &[C], sum: &mut [C]) {
    let factors = C::vectors::<S>(a).iter().zip(C::vectors::<S>(b));
    for (sum, (a, b)) in C::vectors_mut::<S>(sum).iter_mut().zip(factors) {
        *sum = C::mul_add(simd, *a, *b, *sum);
    }
}

/// One cell of every phase after the other; the count is a constant for the compiler to vectorise.
#[inline(always)]
fn interleave<const PHASES: usize, C: Real>(phases: [&[C]; PHASES], cells: &mut [C]) {
    let count = phases[0].len();
    let phases = phases.map(|phase| &phase[..count]);
    for (i, cells) in cells.chunks_exact_mut(PHASES).take(count).enumerate() {
        for (cell, phase) in cells.iter_mut().zip(&phases) {
            *cell = phase[i];
        }
    }
}
