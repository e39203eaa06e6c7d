//! Every instruction set does lane by lane what the trait says, with NaN, infinities and both zeros too.

use super::*;

/// No two numbers alike, and those that are not numbers.
const NUMBERS: [f64; 48] = {
    let mut numbers = [0.0; 48];
    let mut i = 0;
    while i < 48 {
        // From −6 to 5.75.
        numbers[i] = (i * 29 % 48) as f64 / 4.0 - 6.0;
        i += 1;
    }
    numbers[5] = f64::NAN;
    numbers[11] = f64::INFINITY;
    numbers[17] = f64::NEG_INFINITY;
    numbers[23] = -0.0;
    numbers[24] = -f64::NAN;
    numbers
};

/// Runs a function of vectors on every instruction set, in f32 and f64.
macro_rules! on_every_set {
    (|$vector:ident, $real:ident| $body:block) => {{
        struct Checks;

        impl Kernel for Checks {
            type Output = ();

            fn run<I: InstructionSet>(self) {
                check::<f32, I::F32>();
                check::<f64, I::F64>();
            }
        }

        fn check<$real: Real, $vector: Vector<Real = $real>>() $body

        for arch in Arch::available() {
            println!("{arch:?}");
            arch.run(Checks);
        }
    }};
}

fn numbers<C: Real>() -> Vec<C> {
    NUMBERS.into_iter().map(C::from_f64).collect()
}

fn lanes<V: Vector>(v: V) -> Vec<V::Real> {
    let mut lanes = vec![V::Real::default(); V::LANES];
    v.store(&mut lanes);
    lanes
}

/// Equal to the bit, but for which NaN it is.
fn assert_same<C: Real>(what: &str, found: &[C], expected: &[C]) {
    let bits = |c: &C| match c.to_f64() {
        c if c.is_nan() => None,
        c => Some(c.to_bits()),
    };
    let (found_bits, expected_bits): (Vec<_>, Vec<_>) = (
        found.iter().map(bits).collect(),
        expected.iter().map(bits).collect(),
    );
    assert_eq!(
        found_bits, expected_bits,
        "{what}: {found:?}, not {expected:?}"
    );
}

/// A function of two vectors against the same of two numbers, each number beside each.
fn compare<V: Vector>(
    what: &str,
    of_vectors: impl Fn(V, V) -> V,
    of_numbers: impl Fn(V::Real, V::Real) -> V::Real,
) {
    let numbers = numbers::<V::Real>();
    for a in numbers.chunks_exact(V::LANES) {
        for &b in &numbers {
            let found = of_vectors(V::load(a), V::splat(b));
            let expected: Vec<_> = a.iter().map(|&a| of_numbers(a, b)).collect();
            assert_same(what, &lanes(found), &expected);
        }
    }
}

#[test]
fn arithmetic_is_that_of_its_lanes() {
    on_every_set!(|V, C| {
        compare::<V>("add", V::add, C::add);
        compare::<V>("sub", V::sub, C::sub);
        compare::<V>("mul", V::mul, C::mul);
        compare::<V>("div", V::div, C::div);
        // Exact in either rounding.
        compare::<V>(
            "mul_add",
            |a, b| a.mul_add(b, V::splat(C::from_f64(3.0))),
            |a, b| a.mul_add(b, C::from_f64(3.0)),
        );
        compare::<V>("sqrt", |a, _| a.sqrt(), |a, _| a.sqrt());
    });
}

#[test]
fn a_maximum_with_nan_is_the_second_number() {
    on_every_set!(|V, C| {
        compare::<V>("max", V::max, |a, b| if a > b { a } else { b });
    });
}

#[test]
fn comparisons_select_lanes() {
    on_every_set!(|V, C| {
        let choose = |yes: bool, a: C, b: C| if yes { a } else { b };
        compare::<V>(
            "greater",
            |a, b| V::select(a.greater(b), a, b),
            |a, b| choose(a > b, a, b),
        );
        compare::<V>(
            "equal",
            |a, b| V::select(a.equal(b), V::one(), a),
            |a, b| choose(a == b, C::from_f64(1.0), a),
        );
        let zero = C::default();
        compare::<V>(
            "or",
            |a, b| V::select(V::or(a.greater(b), a.equal(b)), a, b),
            |a, b| choose(a >= b, a, b),
        );
        compare::<V>(
            "and",
            |a, b| V::select(V::and(a.greater(b), a.greater(V::zero())), a, b),
            |a, b| choose(a > b && a > zero, a, b),
        );
        compare::<V>(
            "finite",
            |a, _| V::select(a.finite(), a, V::zero()),
            |a, _| choose(a.to_f64().is_finite(), a, zero),
        );
    });
}

#[test]
fn all_means_every_lane() {
    on_every_set!(|V, C| {
        assert!(V::all(V::below(V::LANES)) && V::all(V::from(0)));
        for lane in 0..V::LANES {
            assert!(!V::all(V::below(lane)), "without lane {lane}");
            let others = V::or(V::below(lane), V::from(lane + 1));
            assert!(!V::all(others), "without lane {lane}");
            assert!(V::all_below(V::below(lane), lane) && V::all_below(others, lane));
            assert!(!V::all_below(others, lane + 1), "without lane {lane}");
        }
        assert!(V::all_below(V::below(V::LANES), V::LANES + 1));
    });
}

#[test]
fn absolute_values_and_powers_of_two() {
    on_every_set!(|V, C| {
        let abs = |a: C| C::from_f64(a.to_f64().abs());
        compare::<V>("abs", |a, _| a.abs(), |a, _| abs(a));
        for exponent in [-126.0, -3.0, 0.0, 1.0, 127.0] {
            let rounded = C::from_f64(exponent).add(C::EXP2_ROUND);
            let found = lanes(V::splat(rounded).power_of_two());
            assert_same("2^n", &found, &vec![C::from_f64(exponent.exp2()); V::LANES]);
        }
    });
}

#[test]
fn exponentials_are_within_two_units() {
    on_every_set!(|V, C| {
        for x in (0..1000).map(|i| f64::from(i) * -0.113) {
            let found = lanes(V::splat(C::from_f64(x)).exp2())[0].to_f64();
            let expected = C::from_f64(x).to_f64().exp2();
            let unit = if size_of::<C>() == 4 {
                f64::from(f32::EPSILON)
            } else {
                f64::EPSILON
            };
            assert!(
                (found / expected - 1.0).abs() <= 2.0 * unit,
                "2^{x}: {found}"
            );
        }
        assert_same(
            "2^−∞",
            &lanes(V::splat(C::NEG_INFINITY).exp2()),
            &vec![C::default(); V::LANES],
        );
        assert!(lanes(V::splat(C::NAN).exp2())
            .iter()
            .all(|c| c.to_f64().is_nan()));
    });
}

#[test]
fn split_deals_lanes_out_and_interleave_takes_them_back() {
    on_every_set!(|V, C| {
        fn deal<V: Vector, const N: usize>() {
            let cells = numbers::<V::Real>();
            let vectors: [V; N] = std::array::from_fn(|i| V::load(&cells[i * V::LANES..]));
            let phases = V::split(vectors);
            for (first, phase) in phases.iter().enumerate() {
                let expected: Vec<_> = cells
                    .iter()
                    .skip(first)
                    .step_by(N)
                    .take(V::LANES)
                    .copied()
                    .collect();
                assert_same(&format!("{first} of {N}"), &lanes(*phase), &expected);
            }
            for (i, v) in V::interleave(phases).iter().enumerate() {
                let expected = &cells[i * V::LANES..][..V::LANES];
                assert_same(&format!("vector {i} of {N}"), &lanes(*v), expected);
            }
        }
        deal::<V, 1>();
        deal::<V, 2>();
        deal::<V, 3>();
    });
}

/// All of them, and in f32 the numbers half way between two, whose neighbours are even and odd, and what is beside those.
#[test]
fn halves_are_read_exactly_and_rounded_to_even() {
    on_every_set!(|V, C| {
        for first in (0..=u16::MAX).step_by(V::LANES) {
            let bits: Vec<_> = (0..V::LANES as u16).map(|i| first + i).collect();
            let halves: Vec<_> = bits.iter().map(|&bits| f16::from_bits(bits)).collect();
            let expected: Vec<_> = halves.iter().map(|x| C::from_f32(x.to_f32())).collect();
            assert_same("f16", &lanes(V::load_f16(&halves)), &expected);
            let halves: Vec<_> = bits.iter().map(|&bits| bf16::from_bits(bits)).collect();
            let expected: Vec<_> = halves.iter().map(|x| C::from_f32(x.to_f32())).collect();
            assert_same("bf16", &lanes(V::load_bf16(&halves)), &expected);
        }
        let number = |half: bool, bits: u16, off: i32| {
            let (number, middle) = match half {
                true => (f16::from_bits(bits).to_f32(), 0x1000),
                false => (f32::from_bits(u32::from(bits) << 16), 0x8000),
            };
            f32::from_bits(number.to_bits().wrapping_add_signed(middle + off))
        };
        for bits in (0..=u16::MAX).step_by(7) {
            for off in [-1, 0, 1] {
                let x = number(true, bits, off);
                let (found, expected) = (V::splat(C::from_f32(x)).to_f16()[0], f16::from_f32(x));
                assert!(
                    found == expected || found.is_nan() && expected.is_nan(),
                    "{x} in f16: {found}"
                );
                let x = number(false, bits, off);
                let (found, expected) = (V::splat(C::from_f32(x)).to_bf16()[0], bf16::from_f32(x));
                assert!(
                    found == expected || found.is_nan() && expected.is_nan(),
                    "{x} in bf16: {found}"
                );
            }
        }
    });
}
