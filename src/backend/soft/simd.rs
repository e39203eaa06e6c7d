//! Vectors of the compute dtypes, f32 and f64, and their base-two exponential.

use super::element::Load;
use super::special;
use pulp::bytemuck::{cast, cast_slice_mut};
use pulp::Simd;

/// A dtype that is computed in, with its vectors on the instruction set `S`.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + 'static
    + std::ops::Add<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Div<Output = Self>
    + Load<Self>
{
    /// A vector of as many lanes as the instruction set has.
    type V<S: Simd>: Copy;

    /// Takes no part in a maximum; its weight is zero.
    const NEG_INFINITY: Self;
    /// The lowest finite value.
    const LOWEST: Self;
    /// Exponents from here down make [`Real::exp2`] zero.
    const EXP2_ZERO: Self;
    /// Added to a number, rounds it to an integer, which then stands in the lowest bits.
    const ROUND: Self;
    /// Below this |β| the exponent's scale is not a normal number with a normal reciprocal.
    const SMALLEST_BETA: f64;

    /// Lanes of a vector.
    fn lanes<S: Simd>() -> usize;
    /// The whole vectors that `cells` hold.
    fn vectors<S: Simd>(cells: &[Self]) -> &[Self::V<S>];
    /// The whole vectors that `cells` hold.
    fn vectors_mut<S: Simd>(cells: &mut [Self]) -> &mut [Self::V<S>];
    /// One value in every lane.
    fn splat<S: Simd>(simd: S, v: Self) -> Self::V<S>;
    /// `a + b`
    fn vadd<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `a − b`
    fn vsub<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `a·b`
    fn vmul<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `a / b`
    fn vdiv<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `a / b`, to two units in the last place where that is faster, for a `b` whose reciprocal is a normal number.
    fn ratio<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `2^(scale·x + offset)`, where the instruction set scales by powers of two; the exponent is rounded once.
    ///
    /// 0 far below, infinite far above.
    fn exp2_at<S: Simd>(
        simd: S,
        x: Self::V<S>,
        scale: Self::V<S>,
        offset: Self::V<S>,
    ) -> Option<Self::V<S>>;
    /// The even lanes of two vectors that follow each other, and the odd ones, where there are instructions for that.
    fn halves<S: Simd>(simd: S, ab: [Self::V<S>; 2]) -> Option<[Self::V<S>; 2]>;
    /// Of three vectors that follow each other, every third lane, from the first three on, likewise.
    fn thirds<S: Simd>(simd: S, abc: [Self::V<S>; 3]) -> Option<[Self::V<S>; 3]>;
    /// [`super::special::turn`], where there are instructions for that.
    fn turn<S: Simd>(simd: S, from: (&[Self], usize), to: (&mut [Self], usize)) -> Option<()>;
    /// `a·b + c`, fused where that is fast
    fn mul_add<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>, c: Self::V<S>) -> Self::V<S>;
    /// The larger; either where one is NaN.
    fn max<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// The smaller; either where one is NaN.
    fn min<S: Simd>(simd: S, a: Self::V<S>, b: Self::V<S>) -> Self::V<S>;
    /// `v`, but `floor` where `v` is less; NaN stays.
    fn at_least<S: Simd>(simd: S, floor: Self::V<S>, v: Self::V<S>) -> Self::V<S>;
    /// `v`, but zero where `scale` is zero.
    fn zero_where_zero<S: Simd>(simd: S, scale: Self::V<S>, v: Self::V<S>) -> Self::V<S>;
    /// `2^f` for `f` from −1/2 to 1/2, times the power of two whose biased exponent stands in the lowest bits of `power`.
    fn scaled<S: Simd>(simd: S, f: Self::V<S>, power: Self::V<S>) -> Self::V<S>;
    /// The sum of the lanes.
    fn sum<S: Simd>(simd: S, v: Self::V<S>) -> Self;
    /// The largest of the lanes; any of them where one is NaN.
    fn largest<S: Simd>(simd: S, v: Self::V<S>) -> Self;
    /// The nearest value.
    fn from_f64(v: f64) -> Self;
    /// The same value.
    fn to_f64(self) -> f64;

    /// `2^t` for `t` from [`Real::EXP2_ZERO`] to 0, with a relative error of less than two units in the last place.
    #[inline(always)]
    fn exp2<S: Simd>(simd: S, t: Self::V<S>) -> Self::V<S> {
        let round = Self::splat(simd, Self::ROUND - Self::EXP2_ZERO);
        let rounded = Self::vadd(simd, t, round);
        let f = Self::vsub(simd, t, Self::vsub(simd, rounded, round));
        Self::scaled(simd, f, rounded)
    }

    /// `2^(scale·u)`, as exact as [`Real::exp2`] of the product; 0 or NaN far below, a large number or NaN far above.
    #[inline(always)]
    fn exp2_of<S: Simd>(simd: S, u: Self::V<S>, scale: Self::V<S>) -> Self::V<S> {
        let zero = Self::splat(simd, Self::ROUND);
        let round = Self::splat(simd, Self::ROUND - Self::EXP2_ZERO);
        let most = Self::splat(simd, Self::ROUND - Self::EXP2_ZERO - Self::EXP2_ZERO);
        let rounded = Self::min(simd, most, Self::mul_add(simd, u, scale, round));
        let f = Self::mul_add(simd, u, scale, Self::vsub(simd, round, rounded));
        Self::scaled(simd, f, Self::max(simd, zero, rounded))
    }
}

/// Whether no value is infinite or NaN; without a branch a value, so that it is vectorised.
#[inline(always)]
pub fn all_finite<T: Real>(values: &[T]) -> bool {
    let finite = |&v: &T| (T::LOWEST..=T::default() - T::LOWEST).contains(&v) as u8;
    values.iter().map(finite).fold(1, |all, v| all & v) == 1
}

/// Horner's rule, the highest coefficient first.
macro_rules! horner {
    ($real:ty, $simd:ident, $f:ident, $highest:expr $(, $c:expr)+) => {{
        let p = <$real as Real>::splat($simd, $highest);
        $(let p = <$real as Real>::mul_add($simd, p, $f, <$real as Real>::splat($simd, $c));)+
        p
    }};
}

/// [`Real::scaled`]
#[inline(always)]
fn scaled_f32<S: Simd>(simd: S, f: S::f32s, power: S::f32s) -> S::f32s {
    let power = simd.wrapping_dyn_shl_u32s(cast(power), simd.splat_u32s(23));
    // Remez, relative error 7.5e-8.
    let p = horner!(
        f32,
        simd,
        f,
        0.001_327_647_2,
        0.009_675_541,
        0.055_507_13,
        0.240_221_2,
        0.693_146_94,
        1.000_000_1
    );
    simd.mul_f32s(p, cast(power))
}

/// [`Real::scaled`]
#[inline(always)]
fn scaled_f64<S: Simd>(simd: S, f: S::f64s, power: S::f64s) -> S::f64s {
    let mut power: S::u64s = cast(power);
    for bits in cast_slice_mut::<_, u64>(std::slice::from_mut(&mut power)) {
        *bits <<= 52;
    }
    // Taylor, (ln 2)^n/n!: the first term left out is 4e-18.
    let p = horner!(
        f64,
        simd,
        f,
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
    );
    simd.mul_f64s(p, cast(power))
}

/// [`Real::ratio`]
#[inline(always)]
fn no_ratio<S: Simd, V>(_simd: S, _a: V, _b: V) -> Option<V> {
    None
}

/// [`Real::exp2_at`]
#[inline(always)]
fn no_exp2_at<S: Simd, V>(_simd: S, _x: V, _scale: V, _offset: V) -> Option<V> {
    None
}

/// [`Real::halves`], [`Real::thirds`]
#[inline(always)]
fn none<S: Simd, V, const N: usize>(_simd: S, _vectors: [V; N]) -> Option<[V; N]> {
    None
}

/// [`Real::turn`]
#[inline(always)]
fn no_turn<S: Simd, C>(_simd: S, _from: (&[C], usize), _to: (&mut [C], usize)) -> Option<()> {
    None
}

macro_rules! real {
    ($t:ident, $v:ident, $lanes:ident, $smallest_beta:expr, $zero:expr, $round:expr, $scaled:ident, $ratio:path, $exp2_at:path, $halves:path, $thirds:path, $turn:path,
     $as_simd:ident, $as_mut_simd:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $mul_add:ident,
     $max:ident, $min:ident, $less:ident, $select:ident, $equal:ident, $sum:ident, $largest:ident) => {
        impl Real for $t {
            type V<S: Simd> = S::$v;

            const NEG_INFINITY: Self = <$t>::NEG_INFINITY;
            const LOWEST: Self = $t::MIN;
            const EXP2_ZERO: Self = $zero;
            const ROUND: Self = $round;
            const SMALLEST_BETA: f64 = $smallest_beta;

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
            #[inline(always)]
            fn vectors<S: Simd>(cells: &[Self]) -> &[S::$v] {
                S::$as_simd(cells).0
            }
            #[inline(always)]
            fn vectors_mut<S: Simd>(cells: &mut [Self]) -> &mut [S::$v] {
                S::$as_mut_simd(cells).0
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, v: Self) -> S::$v {
                simd.$splat(v)
            }
            #[inline(always)]
            fn vadd<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn vsub<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn vmul<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn vdiv<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$div(a, b)
            }
            #[inline(always)]
            fn ratio<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                match $ratio(simd, a, b) {
                    Some(ratio) => ratio,
                    None => simd.$div(a, b),
                }
            }
            #[inline(always)]
            fn exp2_at<S: Simd>(simd: S, x: S::$v, scale: S::$v, offset: S::$v) -> Option<S::$v> {
                $exp2_at(simd, x, scale, offset)
            }
            #[inline(always)]
            fn halves<S: Simd>(simd: S, ab: [S::$v; 2]) -> Option<[S::$v; 2]> {
                $halves(simd, ab)
            }
            #[inline(always)]
            fn thirds<S: Simd>(simd: S, abc: [S::$v; 3]) -> Option<[S::$v; 3]> {
                $thirds(simd, abc)
            }
            #[inline(always)]
            fn turn<S: Simd>(
                simd: S,
                from: (&[Self], usize),
                to: (&mut [Self], usize),
            ) -> Option<()> {
                $turn(simd, from, to)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$v, b: S::$v, c: S::$v) -> S::$v {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn max<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$max(a, b)
            }
            #[inline(always)]
            fn min<S: Simd>(simd: S, a: S::$v, b: S::$v) -> S::$v {
                simd.$min(a, b)
            }
            #[inline(always)]
            fn at_least<S: Simd>(simd: S, floor: S::$v, v: S::$v) -> S::$v {
                simd.$select(simd.$less(v, floor), floor, v)
            }
            #[inline(always)]
            fn zero_where_zero<S: Simd>(simd: S, scale: S::$v, v: S::$v) -> S::$v {
                let zero = simd.$splat(0.0);
                simd.$select(simd.$equal(scale, zero), zero, v)
            }
            #[inline(always)]
            fn scaled<S: Simd>(simd: S, f: S::$v, power: S::$v) -> S::$v {
                $scaled(simd, f, power)
            }
            #[inline(always)]
            fn sum<S: Simd>(simd: S, v: S::$v) -> Self {
                simd.$sum(v)
            }
            #[inline(always)]
            fn largest<S: Simd>(simd: S, v: S::$v) -> Self {
                simd.$largest(v)
            }
            #[inline(always)]
            fn from_f64(v: f64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
        }
    };
}

real!(
    f32,
    f32s,
    F32_LANES,
    1e-30,
    -127.0,
    12_582_912.0,
    scaled_f32,
    special::ratio,
    special::exp2_at,
    special::halves,
    special::thirds,
    special::turn,
    as_simd_f32s,
    as_mut_simd_f32s,
    splat_f32s,
    add_f32s,
    sub_f32s,
    mul_f32s,
    div_f32s,
    mul_add_e_f32s,
    max_f32s,
    min_f32s,
    less_than_f32s,
    select_f32s,
    equal_f32s,
    reduce_sum_f32s,
    reduce_max_f32s
);

real!(
    f64,
    f64s,
    F64_LANES,
    1e-290,
    -1023.0,
    6_755_399_441_055_744.0,
    scaled_f64,
    no_ratio,
    no_exp2_at,
    none,
    none,
    no_turn,
    as_simd_f64s,
    as_mut_simd_f64s,
    splat_f64s,
    add_f64s,
    sub_f64s,
    mul_f64s,
    div_f64s,
    mul_add_e_f64s,
    max_f64s,
    min_f64s,
    less_than_f64s,
    select_f64s,
    equal_f64s,
    reduce_sum_f64s,
    reduce_max_f64s
);

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::WithSimd;

    struct Worst<T>(std::marker::PhantomData<T>);

    /// The largest relative errors of `exp2`, of `exp2_of` as far below zero, and as far above.
    impl<T: Real> WithSimd for Worst<T> {
        type Output = [f64; 3];

        /// Over a grid of the normal range.
        fn with_simd<S: Simd>(self, simd: S) -> [f64; 3] {
            let lowest = T::EXP2_ZERO.to_f64() + 1.0;
            let mut cells: Vec<T> = (0..=64_000)
                .map(|i| T::from_f64(lowest * f64::from(i) / 64_000.0))
                .collect();
            cells.resize(cells.len().next_multiple_of(T::lanes::<S>()), T::default());
            let exponents = cells.clone();
            [None, Some(1.0), Some(-1.0)].map(|scale| {
                cells.copy_from_slice(&exponents);
                for v in T::vectors_mut::<S>(&mut cells) {
                    *v = match scale {
                        None => T::exp2(simd, *v),
                        Some(scale) => T::exp2_of(simd, *v, T::splat(simd, T::from_f64(scale))),
                    };
                }
                let errors = exponents.iter().zip(&cells);
                let exact = |t: f64| 2f64.powf(t * scale.unwrap_or(1.0));
                errors
                    .map(|(t, e)| (e.to_f64() / exact(t.to_f64()) - 1.0).abs())
                    .fold(0.0, |a: f64, b| if b > a { b } else { a })
            })
        }
    }

    fn worst<T: Real>() -> Vec<f64> {
        let worst = || Worst::<T>(std::marker::PhantomData);
        [
            pulp::Arch::new().dispatch(worst()),
            worst().with_simd(pulp::Scalar::new()),
        ]
        .concat()
    }

    #[test]
    fn exp2_is_accurate() {
        for e in worst::<f32>() {
            assert!(e < 2.4e-7, "{e}");
        }
        for e in worst::<f64>() {
            assert!(e < 4.5e-16, "{e}");
        }
    }

    #[test]
    fn exp2_underflows_to_zero() {
        let simd = pulp::Scalar::new();
        assert_eq!(<f32 as Real>::exp2(simd, f32::EXP2_ZERO), 0.0);
        assert_eq!(<f64 as Real>::exp2(simd, f64::EXP2_ZERO), 0.0);
        assert_eq!(<f32 as Real>::exp2(simd, 0.0), f32::from_bits(0x3f80_0001));
        assert_eq!(<f64 as Real>::exp2(simd, 0.0), 1.0);
    }

    #[test]
    fn exp2_of_far_values_is_zero_or_too_large_to_go_unseen() {
        fn check<T: Real>(far: [f64; 3]) {
            let simd = pulp::Scalar::new();
            for t in far {
                let e = |t: f64| Far(T::from_f64(t)).with_simd(simd).to_f64();
                assert!(e(-t) == 0.0, "2^-{t}: {}", e(-t));
                assert!(e(t) >= 1e38 || e(t).is_nan(), "2^{t}: {}", e(t));
            }
        }
        check::<f32>([128.0, 1e4, 1e7]);
        check::<f64>([1024.0, 1e6, 1e15]);
        let simd = pulp::Scalar::new();
        for t in [1e9, 1e20, f32::MAX, f32::INFINITY, f32::NAN] {
            let [above, below] = [t, -t].map(|t| Far(t).with_simd(simd));
            assert!(above >= 1e38 || above.is_nan(), "2^{t}: {above}");
            assert!(below <= 0.0 || below.is_nan(), "2^-{t}: {below}");
        }
    }

    struct Far<T>(T);

    impl<T: Real> WithSimd for Far<T> {
        type Output = T;

        fn with_simd<S: Simd>(self, simd: S) -> T {
            let one = T::splat(simd, T::from_f64(1.0));
            T::largest(simd, T::exp2_of(simd, T::splat(simd, self.0), one))
        }
    }
}
