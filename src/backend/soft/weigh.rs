//! The weights of activations under one shift: `e = 2^t` with `t = scale·(x − shift)`.

use super::element::Load;
use super::simd::Real;
use crate::geometry::Axis;
use pulp::Simd;
use std::ops::Range;

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

impl Factor {
    /// How many sums a band makes.
    #[inline(always)]
    pub fn sums(self) -> usize {
        match self {
            Factor::None => 1,
            _ => 2,
        }
    }
}

/// All activations of a band, or if `few` will do some out of its first half, which was read ahead: their largest
/// mostly lies near that of all.
#[inline(always)]
pub fn sample<C>(x: &[C], few: bool) -> &[C] {
    if !few {
        return x;
    }
    &x[sampled(x.len())]
}

/// Which of so many activations are a sample.
#[inline(always)]
pub fn sampled(cells: usize) -> Range<usize> {
    let start = cells.saturating_sub(SAMPLE) / 4;
    start..cells.min(start + SAMPLE)
}

/// Activations of a sample.
const SAMPLE: usize = 128;

/// The largest of `x` times `sign`; NaN may be lost.
#[inline(always)]
pub fn largest<S: Simd, C: Real, E: Load<C>>(simd: S, x: &[E], sign: C) -> C {
    let vector = C::lanes::<S>();
    let zero = C::splat(simd, C::default());
    let mut all = [C::splat(simd, C::NEG_INFINITY); 4];
    let fours = x.len() / (4 * vector);
    if sign > C::default() {
        for four in 0..fours {
            for (i, m) in all.iter_mut().enumerate() {
                *m = C::max(simd, E::load(simd, x, (4 * four + i) * vector), *m);
            }
        }
    } else {
        for four in 0..fours {
            for (i, m) in all.iter_mut().enumerate() {
                let x = E::load(simd, x, (4 * four + i) * vector);
                *m = C::max(simd, C::vsub(simd, zero, x), *m);
            }
        }
    }
    let [a, b, c, d] = all;
    let mut m = C::largest(simd, C::max(simd, C::max(simd, a, b), C::max(simd, c, d)));
    for x in &x[fours * 4 * vector..] {
        let x = x.computed() * sign;
        if x > m {
            m = x;
        }
    }
    m
}

/// `e = 2^(scale·(x − shift))` and `e` times `factor`; the last vector may write beyond the last of `x`.
///
/// False if an `x` is not finite, but for [`Factor::Activation`], whose sums tell.
#[inline(always)]
pub fn exponentiate<S: Simd, C: Real>(
    simd: S,
    (x, ahead): (&[C], Ahead),
    (shift, scale, factor): (C, C, Factor),
    es: &mut [C],
    efs: &mut [C],
) -> bool {
    let by = By::new(simd, C::splat(simd, shift), scale, factor);
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
        ahead.read(i * C::lanes::<S>());
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

/// Rows of windows that are alike, by where the cells of the first one's rows begin.
#[derive(Default)]
pub struct Rows {
    /// Those that are not in the windows before.
    pub own: Vec<usize>,
    /// Those that are in the windows after, too, and in none before.
    pub shared: Vec<usize>,
    /// Whether the windows before have shared some.
    pub carried: bool,
    /// Rows of windows.
    pub count: usize,
}

impl Rows {
    /// The windows at `o`, one of `windows`, and those alike after it; their cells begin `pitch` apart from row
    /// `first` on.
    #[inline(always)]
    pub fn find(
        &mut self,
        height: &Axis,
        (o, windows): (usize, &Range<usize>),
        (first, pitch): (usize, usize),
    ) {
        let window = height.window(o);
        let before = match o == windows.start {
            true => window.start,
            false => height.window(o - 1).end.max(window.start),
        };
        let after = match o + 1 == windows.end {
            true => window.end,
            false => height.window(o + 1).start.min(window.end),
        };
        self.carried = before > window.start;
        self.own.clear();
        self.own
            .extend((before..after).map(|row| (row - first) * pitch));
        self.shared.clear();
        self.shared
            .extend((after..window.end).map(|row| (row - first) * pitch));
        let alike = Self::alike(height, windows);
        self.count = match alike.contains(&o) {
            true => alike.end - o,
            false => 1,
        };
    }

    /// Those of `windows` that are whole, and share rows with others both before and after if any does.
    fn alike(height: &Axis, windows: &Range<usize>) -> Range<usize> {
        let shared = usize::from(height.kernel > height.stride);
        let whole = match (height.input + height.padding).checked_sub(height.kernel) {
            Some(last) => height.padding.div_ceil(height.stride)..last / height.stride + 1,
            None => 0..0,
        };
        whole.start.max(windows.start + shared)..whole.end.min(windows.end - shared)
    }

    /// Whether a row is in no more than two rows of windows.
    pub fn cover(height: &Axis) -> bool {
        height.kernel <= height.stride.saturating_mul(2) && height.padding <= height.stride
    }
}

/// `e = 2^(scale·(x − shift))` and `e·x`, summed down columns.
pub struct Columns<'a, S: Simd, C: Real, E = C> {
    pub by: By<C::V<S>>,
    pub x: &'a [E],
    pub ahead: Ahead,
    /// From a row of windows to the next: cells of `x`, and of the sums.
    pub steps: (usize, usize),
    /// From a vector of activations to the next.
    pub pace: usize,
    /// Cells of a row of sums, whole vectors.
    pub width: usize,
}

impl<S: Simd, C: Real, E: Load<C>> Columns<'_, S, C, E> {
    /// The sums of [`Rows`]; `carry` has those of shared rows alone from one row of windows to the next.
    #[inline(always)]
    pub fn sum(&self, simd: S, rows: &Rows, sums: [&mut [C]; 2], carry: [&mut [C]; 2]) {
        let count = rows.count;
        // Counts that the compiler knows, for the common windows.
        match (&rows.own[..], &rows.shared[..], rows.carried) {
            (&[a, b], [], false) => self.sum_of(simd, (&[a, b], &[], false), count, sums, carry),
            (&[a], &[b], true) => self.sum_of(simd, (&[a], &[b], true), count, sums, carry),
            (own, shared, carried) => self.sum_of(simd, (own, shared, carried), count, sums, carry),
        }
    }

    #[inline(always)]
    fn sum_of(
        &self,
        simd: S,
        (own, shared, carried): (&[usize], &[usize], bool),
        count: usize,
        [es, exs]: [&mut [C]; 2],
        [carried_es, carried_exs]: [&mut [C]; 2],
    ) {
        let zero = C::splat(simd, C::default());
        for row in 0..count {
            let from = row * self.steps.0;
            let to = row * self.steps.1;
            let sums = C::vectors_mut::<S>(&mut es[to..to + self.width])
                .iter_mut()
                .zip(C::vectors_mut::<S>(&mut exs[to..to + self.width]));
            let carry = C::vectors_mut::<S>(&mut carried_es[..self.width])
                .iter_mut()
                .zip(C::vectors_mut::<S>(&mut carried_exs[..self.width]));
            for (i, ((e, ex), (carried_e, carried_ex))) in sums.zip(carry).enumerate() {
                let at = from + i * self.pace;
                let (mut sum, own) = match (carried, own) {
                    (false, [first, rest @ ..]) => (self.weigh(simd, first + at), rest),
                    (false, []) => ((zero, zero), own),
                    (true, _) => ((*carried_e, *carried_ex), own),
                };
                for row in own {
                    sum = self.add(simd, sum, row + at);
                }
                if let [first, rest @ ..] = shared {
                    let mut of_shared = self.weigh(simd, first + at);
                    for row in rest {
                        of_shared = self.add(simd, of_shared, row + at);
                    }
                    sum.0 = C::vadd(simd, sum.0, of_shared.0);
                    sum.1 = C::vadd(simd, sum.1, of_shared.1);
                    (*carried_e, *carried_ex) = of_shared;
                }
                (*e, *ex) = sum;
            }
        }
    }

    /// `sum` with the weights of the vector of activations that begins at a cell.
    #[inline(always)]
    pub fn add(&self, simd: S, (e, ex): (C::V<S>, C::V<S>), cell: usize) -> (C::V<S>, C::V<S>) {
        let (weight, product) = self.weigh(simd, cell);
        (C::vadd(simd, e, weight), C::vadd(simd, ex, product))
    }

    /// The weights of the vector of activations that begins at a cell, and their products.
    #[inline(always)]
    fn weigh(&self, simd: S, cell: usize) -> (C::V<S>, C::V<S>) {
        self.ahead.read(cell);
        weigh::<S, C>(simd, E::load(simd, self.x, cell), self.by)
    }
}

/// How activations are weighed: `e = 2^(scale·(x − shift))`.
#[derive(Clone, Copy)]
pub struct By<V> {
    shift: V,
    scale: V,
    /// `−scale·shift`; what is rounded away of it changes all weights alike.
    offset: V,
    factor: Factor,
}

impl<V: Copy> By<V> {
    /// A shift for each lane.
    #[inline(always)]
    pub fn new<S: Simd, C: Real<V<S> = V>>(simd: S, shift: V, scale: C, factor: Factor) -> Self {
        let zero = C::splat(simd, C::default());
        let scale = C::splat(simd, scale);
        Self {
            shift,
            scale,
            offset: C::vsub(simd, zero, C::vmul(simd, scale, shift)),
            factor,
        }
    }
}

/// `e` and `e` times the factor.
#[inline(always)]
fn weigh<S: Simd, C: Real>(simd: S, x: C::V<S>, by: By<C::V<S>>) -> (C::V<S>, C::V<S>) {
    let above = C::vsub(simd, x, by.shift);
    if by.factor == Factor::Activation {
        let e = match C::exp2_at(simd, x, by.scale, by.offset) {
            Some(e) => e,
            None => C::exp2_of(simd, above, by.scale),
        };
        return (e, C::vmul(simd, e, x));
    }
    let t = C::vmul(simd, by.scale, above);
    let t = C::max(simd, C::splat(simd, C::EXP2_ZERO), t);
    let e = C::exp2(simd, t);
    (e, C::vmul(simd, e, t))
}

/// Cells of a band, where they lie in the input: while one is weighed, another is read that comes later.
#[derive(Clone, Copy)]
pub struct Ahead {
    cells: *const u8,
    size: usize,
}

/// Bytes from the one to the other: half a band of f32, the best of those tried from 2 to 16 KiB.
const DISTANCE: usize = 4096;

impl Ahead {
    #[inline(always)]
    pub fn of<T>(cells: &[T]) -> Self {
        Self {
            cells: cells.as_ptr().cast(),
            size: size_of::<T>(),
        }
    }

    /// Those without so many of the first.
    #[inline(always)]
    pub fn skip(self, cells: usize) -> Self {
        Self {
            cells: self.cells.wrapping_add(cells * self.size),
            ..self
        }
    }

    /// Has the line ahead of this cell read while there is other work.
    #[inline(always)]
    fn read(self, cell: usize) {
        let address = self.skip(cell).cells.wrapping_add(DISTANCE);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that the program sees and never faults.
        unsafe {
            use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }
}

/// The vector that begins at a cell.
#[inline(always)]
pub fn load<S: Simd, C: Real>(cells: &[C], start: usize) -> C::V<S> {
    C::vectors::<S>(&cells[start..start + C::lanes::<S>()])[0]
}

/// Writes the vector that begins at a cell.
#[inline(always)]
pub fn store<S: Simd, C: Real>(cells: &mut [C], start: usize, vector: C::V<S>) {
    C::vectors_mut::<S>(&mut cells[start..start + C::lanes::<S>()])[0] = vector;
}
