//! Vectors as arrays, for machines without an instruction set of their own here; the compiler makes of them what it can.

use super::{InstructionSet, Kernel, Real, Vector};

pub struct Portable;

impl InstructionSet for Portable {
    type F32 = Array<f32, 4>;
    type F64 = Array<f64, 2>;

    #[inline(never)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Self>()
    }
}

#[derive(Clone, Copy)]
pub struct Array<C, const N: usize>([C; N]);

impl<C: Real, const N: usize> Array<C, N> {
    #[inline(always)]
    fn map(self, f: impl Fn(C) -> C) -> Self {
        Self(self.0.map(f))
    }

    #[inline(always)]
    fn zip<O>(self, b: Self, f: impl Fn(C, C) -> O) -> [O; N] {
        std::array::from_fn(|i| f(self.0[i], b.0[i]))
    }
}

impl<C: Real, const N: usize> Vector for Array<C, N> {
    type Real = C;
    type Mask = [bool; N];

    const LANES: usize = N;

    #[inline(always)]
    fn splat(v: C) -> Self {
        Self([v; N])
    }
    #[inline(always)]
    fn load(cells: &[C]) -> Self {
        let cells = &cells[..N];
        Self(std::array::from_fn(|i| cells[i]))
    }
    #[inline(always)]
    fn store(self, cells: &mut [C]) {
        cells[..N].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self(self.zip(b, C::add))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self(self.zip(b, C::sub))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self(self.zip(b, C::mul))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        Self(self.zip(b, C::div))
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        Self(self.zip(b, |a, b| if a > b { a } else { b }))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(C::sqrt)
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        self.map(C::power_of_two)
    }
    #[inline(always)]
    fn greater(self, b: Self) -> [bool; N] {
        self.zip(b, |a, b| a > b)
    }
    #[inline(always)]
    fn equal(self, b: Self) -> [bool; N] {
        self.zip(b, |a, b| a == b)
    }
    #[inline(always)]
    fn and(a: [bool; N], b: [bool; N]) -> [bool; N] {
        std::array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(a: [bool; N], b: [bool; N]) -> [bool; N] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn select(mask: [bool; N], yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| {
            if mask[i] {
                yes.0[i]
            } else {
                no.0[i]
            }
        }))
    }
    #[inline(always)]
    fn all(mask: [bool; N]) -> bool {
        mask.iter().all(|lane| *lane)
    }
}

/// One lane: arithmetic on single numbers, said once for both.
pub type Single<C> = Array<C, 1>;

impl<C: Real> Single<C> {
    #[inline(always)]
    pub fn lane(self) -> C {
        self.0[0]
    }
}
