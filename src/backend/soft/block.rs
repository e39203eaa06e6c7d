//! A block of windows: the same row of windows of one plane or more, side by side in lanes.

use super::element::Element;
use super::lanes::Lanes;
use super::simd::Real;
use super::view::View;
use crate::backend::{Gradient, Weighting};
use crate::geometry::Geometry;
use pulp::Simd;
use std::f64::consts::{LN_2, LOG2_E};
use std::ops::Range;

/// β as the kernels use it.
#[derive(Clone, Copy)]
pub struct Temperature<C> {
    /// Times the activations: −1 for a negative β, so that the largest always weighs most.
    pub sign: C,
    /// `|β|·log₂e`, which makes the exponential one of base two.
    scale: C,
    /// From the exponent's scale back to the activation's.
    unscale: C,
}

impl<C: Real> Temperature<C> {
    /// For |β| within [`Temperature::covers`].
    pub fn new(beta: f64) -> Self {
        Self {
            sign: C::from_f64(1f64.copysign(beta)),
            scale: C::from_f64(beta.abs() * LOG2_E),
            unscale: C::from_f64(LN_2 / beta.abs()),
        }
    }

    /// Whether the scale and its reciprocal are normal numbers.
    pub fn covers(beta: f64) -> bool {
        (C::SMALLEST_BETA..1.0 / C::SMALLEST_BETA).contains(&beta.abs())
    }
}

/// Which windows a block holds.
#[derive(Clone)]
pub struct Windows {
    pub planes: Range<usize>,
    /// Depth and row of the windows.
    pub row: [usize; 2],
    pub columns: Range<usize>,
}

/// A block's activations and what its windows make of them; reused from block to block.
#[derive(Default)]
pub struct Block<T: Element> {
    gathered: Vec<T>,
    widened: Vec<T::Compute>,
    /// Phase after phase of row after row, `pitch` lanes each.
    cells: Vec<T::Compute>,
    pub pitch: usize,
    /// Depth and row of the activations.
    pub rows: Vec<[usize; 2]>,
    /// Where the lanes of every tap begin in `cells`.
    taps: Vec<usize>,
    /// Lanes of a plane.
    pub segment: usize,
    /// Lanes of all windows, rounded up to whole vectors.
    pub lanes: usize,
    /// The largest activation of each window, times the sign of β.
    pub peak: Vec<T::Compute>,
    /// `Σe` of each window, with `e = exp(|β|·(x − peak))`.
    pub total: Vec<T::Compute>,
    /// `Σe·t / Σe` of each window, with `e = 2^t`.
    pub mean: Vec<T::Compute>,
}

impl<T: Element> Block<T> {
    /// Reads the windows' cells.
    #[inline(always)]
    pub fn load<S: Simd>(
        &mut self,
        simd: S,
        input: View<'_, T>,
        geometry: &Geometry,
        windows: &Windows,
        sign: T::Compute,
    ) {
        let lanes = Lanes::new(geometry.axes[2]);
        let columns = lanes.columns(&windows.columns);
        let [depths, heights] = [0, 1].map(|a| geometry.axes[a].window(windows.row[a]));
        self.rows.clear();
        self.rows
            .extend(depths.flat_map(|d| heights.clone().map(move |h| [d, h])));
        self.segment = windows.columns.len() + lanes.extra;
        let width = T::Compute::lanes::<S>();
        self.lanes = (windows.planes.len() * self.segment).next_multiple_of(width);
        self.pitch = self.lanes + lanes.extra;
        grow(&mut self.cells, self.rows.len() * lanes.phases * self.pitch);
        for (position, plane) in windows.planes.clone().enumerate() {
            let plane = input.plane(plane);
            for (row, &[d, h]) in self.rows.iter().enumerate() {
                let cells = plane.cells(d, h, &columns, &mut self.gathered);
                let cells = T::widen(simd, cells, &mut self.widened);
                for phase in 0..lanes.phases {
                    let start = (row * lanes.phases + phase) * self.pitch + position * self.segment;
                    let segment = &mut self.cells[start..start + self.segment];
                    let at = (windows.columns.start, phase);
                    lanes.split((cells, &columns), sign, at, segment);
                }
            }
        }
        self.taps.clear();
        for row in 0..self.rows.len() {
            for k in 0..geometry.axes[2].kernel {
                let (phase, shift) = lanes.tap(k);
                self.taps
                    .push((row * lanes.phases + phase) * self.pitch + shift);
            }
        }
    }

    /// Sums over the windows: `peak`, `total` and `mean`.
    #[inline(always)]
    pub fn sum<S: Simd>(&mut self, simd: S, temperature: Temperature<T::Compute>) {
        for sums in [&mut self.peak, &mut self.total, &mut self.mean] {
            grow(sums, self.lanes);
        }
        let scale = T::Compute::splat(simd, temperature.scale);
        let floor = T::Compute::splat(simd, T::Compute::EXP2_ZERO);
        let zero = T::Compute::splat(simd, T::Compute::default());
        let lowest = T::Compute::splat(simd, T::Compute::NEG_INFINITY);
        let sums = vectors::<S, _>(&mut self.peak, self.lanes)
            .iter_mut()
            .zip(vectors::<S, _>(&mut self.total, self.lanes))
            .zip(vectors::<S, _>(&mut self.mean, self.lanes));
        let width = T::Compute::lanes::<S>();
        for (i, ((peak, total), mean)) in sums.enumerate() {
            let mut m = lowest;
            for &tap in &self.taps {
                let x = vector::<S, _>(&self.cells, tap + i * width);
                m = T::Compute::max(simd, m, x);
            }
            let (mut sum, mut below) = (zero, zero);
            for &tap in &self.taps {
                let x = vector::<S, _>(&self.cells, tap + i * width);
                let t = T::Compute::vmul(simd, scale, T::Compute::vsub(simd, x, m));
                let t = T::Compute::at_least(simd, floor, t);
                let e = T::Compute::exp2(simd, t);
                sum = T::Compute::vadd(simd, sum, e);
                below = T::Compute::mul_add(simd, e, t, below);
            }
            *peak = m;
            *total = sum;
            *mean = T::Compute::vdiv(simd, below, sum);
        }
    }

    /// The windows' outputs, in place of their `mean`.
    #[inline(always)]
    pub fn outputs<S: Simd>(&mut self, simd: S, temperature: Temperature<T::Compute>) {
        let sign = T::Compute::splat(simd, temperature.sign);
        let unscale = T::Compute::splat(simd, temperature.unscale);
        let peaks = vectors::<S, _>(&mut self.peak, self.lanes).iter();
        let means = vectors::<S, _>(&mut self.mean, self.lanes).iter_mut();
        for (mean, peak) in means.zip(peaks) {
            let y = T::Compute::mul_add(simd, *mean, unscale, *peak);
            *mean = T::Compute::vmul(simd, y, sign);
        }
    }

    /// Adds to `lanes`, those of the tap `tap` in the accumulator, what its windows pass on to their cells.
    ///
    /// `share` is the incoming gradient over `total`; where it is zero, as in lanes without a window, nothing is added.
    #[inline(always)]
    pub fn spread<S: Simd>(
        &self,
        simd: S,
        weighting: (Temperature<T::Compute>, Gradient),
        share: &[T::Compute],
        tap: usize,
        lanes: &mut [T::Compute],
    ) {
        let (temperature, gradient) = weighting;
        let scale = T::Compute::splat(simd, temperature.scale);
        let floor = T::Compute::splat(simd, T::Compute::EXP2_ZERO);
        let one = T::Compute::splat(simd, T::Compute::from_f64(1.0));
        let ln_2 = T::Compute::splat(simd, T::Compute::from_f64(LN_2));
        let cells = &self.cells[self.taps[tap]..][..self.lanes];
        let windows = T::Compute::vectors::<S>(&self.peak)
            .iter()
            .zip(T::Compute::vectors::<S>(&self.mean))
            .zip(T::Compute::vectors::<S>(share));
        let cells = T::Compute::vectors::<S>(cells).iter();
        let lanes = T::Compute::vectors_mut::<S>(lanes).iter_mut();
        for ((lane, x), ((m, mean), share)) in lanes.zip(cells).zip(windows) {
            let t = T::Compute::vmul(simd, scale, T::Compute::vsub(simd, *x, *m));
            let t = T::Compute::at_least(simd, floor, t);
            let mut part = T::Compute::vmul(simd, T::Compute::exp2(simd, t), *share);
            if gradient == Gradient::Exact {
                let above = T::Compute::vsub(simd, t, *mean);
                let slope = T::Compute::mul_add(simd, above, ln_2, one);
                part = T::Compute::vmul(simd, part, slope);
            }
            let part = T::Compute::zero_where_zero(simd, *share, part);
            *lane = T::Compute::vadd(simd, *lane, part);
        }
    }
}

/// Whether the vectorised kernels take these windows and this temperature; else one window at a time is left.
pub fn covers<C: Real>(geometry: &Geometry, weighting: Weighting) -> bool {
    let [d, h, w] = geometry.axes;
    let rows = d.kernel.min(d.input).saturating_mul(h.kernel.min(h.input));
    let taps = rows.saturating_mul(w.kernel);
    taps <= LARGEST_WINDOW && Temperature::<C>::covers(weighting.beta)
}

/// Taps of the largest window whose block still fits a core's cache.
const LARGEST_WINDOW: usize = 4096;

/// Windows to a row of a block, so that its cells fit a core's nearest cache.
pub fn width(geometry: &Geometry) -> usize {
    let [d, h, w] = geometry.axes;
    let rows = d.kernel.min(d.input) * h.kernel.min(h.input) * Lanes::new(w).phases;
    (BLOCK_CELLS / rows).clamp(16, 1024)
}

const BLOCK_CELLS: usize = 8192;

/// At least `len` cells.
pub fn grow<C: Copy + Default>(cells: &mut Vec<C>, len: usize) {
    if cells.len() < len {
        cells.resize(len, C::default());
    }
}

#[inline(always)]
fn vector<S: Simd, C: Real>(cells: &[C], start: usize) -> C::V<S> {
    C::vectors::<S>(&cells[start..start + C::lanes::<S>()])[0]
}

#[inline(always)]
fn vectors<S: Simd, C: Real>(cells: &mut [C], lanes: usize) -> &mut [C::V<S>] {
    C::vectors_mut::<S>(&mut cells[..lanes])
}
