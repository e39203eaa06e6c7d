//! Vectors: what the kernels ask of an instruction set, with portable defaults that each set overrides where it has better.

mod arch;
mod portable;
pub use arch::Arch;
pub use portable::{Portable, Single};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[macro_use]
mod intrinsics;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(target_arch = "x86_64")]
pub mod x86;

#[cfg(test)]
mod tests;

use half::{bf16, f16};
use std::fmt::Debug;

/// The most lanes that a vector has, in any type.
pub const MOST_LANES: usize = 16;

/// Has the cache fetch the cell at this place, which may lie behind the last: nothing that a program sees is read.
#[inline(always)]
pub fn prefetch<C>(cells: &[C], at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it never faults.
    unsafe {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch::<_MM_HINT_T0>(cells.as_ptr().wrapping_add(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (cells, at);
}

/// The dtype of the arithmetic: f32 or f64.
pub trait Real: Copy + Default + PartialOrd + Debug + Send + Sync + 'static {
    /// The vector of an instruction set.
    type Vector<I: InstructionSet>: Vector<Real = Self>;

    const INFINITY: Self;
    /// From 1 to the next number.
    const EPSILON: Self;
    /// The largest finite number.
    const MAX: Self;
    const NEG_INFINITY: Self;
    const NAN: Self;
    /// What `exp2` takes for 0: the exponent of a zero in the bits of a number.
    const EXP2_ZERO: Self;
    /// A number so large that its lowest bit is 1, and that holds the exponent of 2^t in its lowest bits when t is added.
    const EXP2_ROUND: Self;
    /// A polynomial for 2^f with f from −1/2 to 1/2, the highest coefficient first.
    const EXP2: &'static [Self];
    /// A total of weights below this may have lost some that count, or digits: exponents far from 0 have fewer behind the
    /// point.
    const LEAST_TOTAL: Self;
    /// Terms up to this have finite sums and products.
    const MOST_TERM: Self;
    /// 0, 1, 2 and so on: constants in memory, which is read sooner than they are made.
    const INDICES: &'static [Self; MOST_LANES];

    fn from_f64(v: f64) -> Self;
    fn to_f64(self) -> f64;
    /// What is one thing in f32 and another in f64.
    #[inline(always)]
    fn either<T>(in_f32: T, in_f64: T) -> T {
        match Self::MAX.to_f64() > f32::MAX.into() {
            true => in_f64,
            false => in_f32,
        }
    }
    fn from_f32(v: f32) -> Self;
    fn to_f32(self) -> f32;
    /// The number whose bits are those of `self`, moved up until its lowest bits are the exponent's.
    fn power_of_two(self) -> Self;
    fn mul_add(self, b: Self, c: Self) -> Self;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    fn sqrt(self) -> Self;
}

macro_rules! real {
    ($t:ident, $vector:ident, $mantissa:literal, $zero:expr, $round:expr, $least:expr, $most:expr, [$($c:expr),+]) => {
        impl Real for $t {
            type Vector<I: InstructionSet> = I::$vector;

            const INFINITY: Self = $t::INFINITY;
            const EPSILON: Self = $t::EPSILON;
            const MAX: Self = $t::MAX;
            const NEG_INFINITY: Self = $t::NEG_INFINITY;
            const NAN: Self = $t::NAN;
            const EXP2_ZERO: Self = $zero;
            const EXP2_ROUND: Self = $round;
            const EXP2: &'static [Self] = &[$($c),+];
            const LEAST_TOTAL: Self = $least;
            const MOST_TERM: Self = $most;
            const INDICES: &'static [Self; MOST_LANES] = &[
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
            ];

            #[inline(always)]
            fn from_f64(v: f64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn from_f32(v: f32) -> Self {
                $t::from(v)
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn power_of_two(self) -> Self {
                $t::from_bits(self.to_bits() << $mantissa)
            }
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                // Without instructions for it, a fused product would be a call.
                self * b + c
            }
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                self + b
            }
            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                self - b
            }
            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                self * b
            }
            #[inline(always)]
            fn div(self, b: Self) -> Self {
                self / b
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
        }
    };
}

// Remez, relative error 7.5e-8.
real!(
    f32,
    F32,
    23,
    -127.0,
    12_583_039.0,
    5.960_464_5e-8,
    1e30,
    [
        0.001_327_647_2,
        0.009_675_541,
        0.055_507_13,
        0.240_221_2,
        0.693_146_94,
        1.000_000_1
    ]
);
// Taylor, (ln 2)^n/n!: the first term left out is 4e-18.
real!(
    f64,
    F64,
    52,
    -1023.0,
    6_755_399_441_056_767.0,
    1e-150,
    1e290,
    [
        1.369_148_885_390_412_8e-12,
        2.567_843_599_348_820_5e-11,
        4.445_538_271_870_811e-10,
        7.054_911_620_801_123e-9,
        1.017_808_600_923_97e-7,
        1.321_548_679_014_431e-6,
        1.525_273_380_405_984e-5,
        1.540_353_039_338_161e-4,
        1.333_355_814_642_844_3e-3,
        9.618_129_107_628_477e-3,
        5.550_410_866_482_158e-2,
        2.402_265_069_591_007e-1,
        std::f64::consts::LN_2,
        1.0
    ]
);

/// Some lanes of one [`Real`], with arithmetic lane by lane.
///
/// Comparisons with NaN are false. [`Vector::max`] is `if a > b { a } else { b }` on every instruction set, so where one
/// is NaN it is `b`.
pub trait Vector: Copy {
    type Real: Real;
    /// A truth value a lane.
    type Mask: Copy;

    const LANES: usize;

    fn splat(v: Self::Real) -> Self;
    /// The first [`Vector::LANES`] cells.
    fn load(cells: &[Self::Real]) -> Self;
    /// Over the first [`Vector::LANES`] cells.
    fn store(self, cells: &mut [Self::Real]);
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    /// `self·b + c`, rounded once where the instruction set can.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// `if self > b { self } else { b }`.
    fn max(self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    /// [`Real::power_of_two`].
    fn power_of_two(self) -> Self;
    fn greater(self, b: Self) -> Self::Mask;
    fn equal(self, b: Self) -> Self::Mask;
    fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn or(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    fn all(mask: Self::Mask) -> bool;

    /// 0, 1, 2 and so on.
    #[inline(always)]
    fn iota() -> Self {
        Self::load(Self::Real::INDICES)
    }

    #[inline(always)]
    fn zero() -> Self {
        Self::splat(Self::Real::default())
    }

    #[inline(always)]
    fn one() -> Self {
        Self::splat(Self::Real::from_f64(1.0))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.max(Self::zero().sub(self))
    }

    /// Which lanes are neither infinite nor NaN.
    #[inline(always)]
    fn finite(self) -> Self::Mask {
        Self::splat(Self::Real::INFINITY).greater(self.abs())
    }

    /// The first lanes, so many.
    #[inline(always)]
    fn below(count: usize) -> Self::Mask {
        Self::splat(Self::Real::from_f64(count as f64)).greater(Self::iota())
    }

    /// The lanes from this one on.
    #[inline(always)]
    fn from(lane: usize) -> Self::Mask {
        Self::iota().greater(Self::splat(Self::Real::from_f64(lane as f64 - 0.5)))
    }

    /// Whether the first lanes, so many, are all in the mask.
    #[inline(always)]
    fn all_below(mask: Self::Mask, count: usize) -> bool {
        match count < Self::LANES {
            true => Self::all(Self::or(mask, Self::from(count))),
            false => Self::all(mask),
        }
    }

    /// `2^self` for what is not above 0, within two units in the last place; 0 from [`Real::EXP2_ZERO`] down,
    /// NaN or infinite where `self` is NaN or +∞.
    #[inline(always)]
    fn exp2(self) -> Self {
        let t = Self::splat(Self::Real::EXP2_ZERO).max(self);
        let round = Self::splat(Self::Real::EXP2_ROUND);
        let rounded = t.add(round);
        let f = t.sub(rounded.sub(round));
        let mut p = Self::splat(Self::Real::EXP2[0]);
        for &c in &Self::Real::EXP2[1..] {
            p = p.mul_add(f, Self::splat(c));
        }
        p.mul(rounded.power_of_two())
    }

    /// `self / b` within two units in the last place, for a `b` whose reciprocal is a normal number.
    #[inline(always)]
    fn quotient(self, b: Self) -> Self {
        self.div(b)
    }

    /// Every `N`th lane of `N` vectors that follow each other: from the first on, from the second on, and so on.
    #[inline(always)]
    fn split<const N: usize>(vectors: [Self; N]) -> [Self; N] {
        split_in_memory(vectors)
    }

    /// The inverse of [`Vector::split`].
    #[inline(always)]
    fn interleave<const N: usize>(phases: [Self; N]) -> [Self; N] {
        interleave_in_memory(phases)
    }

    /// The lanes, joined two and two, halves first.
    #[inline(always)]
    fn reduce(self, join: impl Fn(Self::Real, Self::Real) -> Self::Real) -> Self::Real {
        let mut lanes = [Self::Real::default(); MOST_LANES];
        self.store(&mut lanes);
        let mut half = Self::LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] = join(lanes[i], lanes[i + half]);
            }
            half /= 2;
        }
        lanes[0]
    }

    /// The first cells; where there are fewer than lanes, the others repeat the first.
    #[inline(always)]
    fn load_part(cells: &[Self::Real]) -> Self {
        if cells.len() >= Self::LANES {
            return Self::load(cells);
        }
        let mut lanes = [cells[0]; MOST_LANES];
        lanes[..cells.len()].copy_from_slice(cells);
        Self::load(&lanes)
    }

    /// The values of f16 cells.
    #[inline(always)]
    fn load_f16(cells: &[f16]) -> Self {
        let mut lanes = [Self::Real::default(); MOST_LANES];
        for (lane, cell) in lanes.iter_mut().zip(&cells[..Self::LANES]) {
            *lane = Self::Real::from_f32(cell.to_f32());
        }
        Self::load(&lanes)
    }

    /// The values of bf16 cells.
    #[inline(always)]
    fn load_bf16(cells: &[bf16]) -> Self {
        let mut lanes = [Self::Real::default(); MOST_LANES];
        for (lane, cell) in lanes.iter_mut().zip(&cells[..Self::LANES]) {
            *lane = Self::Real::from_f32(f32::from_bits(u32::from(cell.to_bits()) << 16));
        }
        Self::load(&lanes)
    }

    /// Rounded to f16, to nearest, ties to even.
    #[inline(always)]
    fn to_f16(self) -> [f16; MOST_LANES] {
        let mut lanes = [Self::Real::default(); MOST_LANES];
        self.store(&mut lanes);
        lanes.map(|lane| f16::from_f32(lane.to_f32()))
    }

    /// Rounded to bf16, to nearest, ties to even.
    #[inline(always)]
    fn to_bf16(self) -> [bf16; MOST_LANES] {
        let mut lanes = [Self::Real::default(); MOST_LANES];
        self.store(&mut lanes);
        lanes.map(|lane| {
            let bits = lane.to_f32().to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            // Rounding could carry a NaN's payload into another number.
            let quiet = bits >> 16 | 0x40;
            let nan = bits & 0x7fff_ffff > 0x7f80_0000;
            bf16::from_bits(if nan { quiet } else { rounded } as u16)
        })
    }
}

/// [`Vector::split`] where there are no instructions for it.
#[inline(always)]
fn split_in_memory<V: Vector, const N: usize>(vectors: [V; N]) -> [V; N] {
    let mut cells = [V::Real::default(); 3 * MOST_LANES];
    for (i, v) in vectors.iter().enumerate() {
        v.store(&mut cells[i * V::LANES..]);
    }
    let mut phases = vectors;
    for (first, phase) in phases.iter_mut().enumerate() {
        let mut lanes = [V::Real::default(); MOST_LANES];
        for (i, lane) in lanes[..V::LANES].iter_mut().enumerate() {
            *lane = cells[i * N + first];
        }
        *phase = V::load(&lanes);
    }
    phases
}

/// [`Vector::interleave`] where there are no instructions for it.
#[inline(always)]
fn interleave_in_memory<V: Vector, const N: usize>(phases: [V; N]) -> [V; N] {
    let mut cells = [V::Real::default(); 3 * MOST_LANES];
    for (first, phase) in phases.iter().enumerate() {
        let mut lanes = [V::Real::default(); MOST_LANES];
        phase.store(&mut lanes);
        for (i, lane) in lanes[..V::LANES].iter().enumerate() {
            cells[i * N + first] = *lane;
        }
    }
    let mut vectors = phases;
    for (i, v) in vectors.iter_mut().enumerate() {
        *v = V::load(&cells[i * V::LANES..]);
    }
    vectors
}

/// The vectors of an instruction set.
pub trait InstructionSet: Send + Sync + 'static {
    type F32: Vector<Real = f32>;
    type F64: Vector<Real = f64>;

    /// Runs a kernel compiled for this set, as a function of its own.
    ///
    /// # Safety
    ///
    /// The machine must have the set.
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;
}

/// What runs on any instruction set.
pub trait Kernel {
    type Output;

    /// To be inlined whole, so that it is compiled for the set.
    fn run<I: InstructionSet>(self) -> Self::Output;
}
