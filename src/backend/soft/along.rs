//! Sums along the rows of a band: the totals and means of its windows.

use super::band::Band;
use super::element::Element;
use super::lanes::Lanes;
use super::simd::{all_finite, Real};
use super::sums::{lanes_of, sum, taps, GROUP};
use super::weigh::{load, store, Factor};
use pulp::{Simd, WithSimd};

/// A total from here down may have lost weights that count.
const LEAST_TOTAL: f64 = 1e-18;
/// A total from here up may have weights that do not hold.
const MOST_TOTAL: f64 = 1e30;

/// Sums along the rows: `total` and `output`.
pub struct SumRows<'a, T: Element> {
    pub band: &'a mut Band<T>,
    pub lanes: &'a Lanes,
    pub factor: Factor,
    /// Of all rows, those between them included.
    pub windows: usize,
    /// Planes, rows and columns of the windows that are wanted.
    pub used: [usize; 3],
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
pub fn hold<C: Real>(totals: &[C], means: &[C]) -> bool {
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
