//! Fused and composed are the same function: both are the definition, over random geometries, in every dtype, in
//! values and in both gradients.

mod common;

use candle_core::{DType, Module, Result};
use candle_softpool::{Implementation, SoftPool2d};
use common::{any_case, dtypes, randn, tensor, values, Case};
use proptest::prelude::*;

/// How far apart the two may be, as a part of the scale: each has half of it.
fn apart(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        DType::F32 => 4e-6,
        _ => 2e-12,
    }
}

#[track_caller]
fn assert_equal_within(
    what: &str,
    case: &Case,
    a: &[f64],
    b: &[f64],
    limit: impl Fn(usize) -> f64,
) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        let same = a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= limit(i);
        assert!(same, "{what} {i} of {case:?}: fused {a:e}, composed {b:e}");
    }
}

fn check(case: &Case, dtype: DType, x: &[f64], seed: u64) -> Result<()> {
    let xs = tensor(x, case.shape.as_slice(), dtype)?;
    let grad = randn(seed, 1.0, case.pool.output_shape(&case.shape), dtype)?;
    let (ys, dx) = case.pool.run(&xs, &grad)?;
    let (ys2, dx2) = case.pool.composed().run(&xs, &grad)?;
    let definition = case.pool.definition(&xs, &grad)?;
    // Composed takes its exact gradient as a difference of terms as large as β·x.
    let scale = definition
        .output_scale
        .iter()
        .fold(1.0, |a: f64, b| a.max(*b));
    let terms = 1.0 + (case.pool.beta * scale).abs();
    let apart = apart(dtype);
    assert_equal_within("output", case, &values(&ys)?, &values(&ys2)?, |i| {
        apart * definition.output_scale[i].max(1e-30)
    });
    assert_equal_within("gradient", case, &values(&dx)?, &values(&dx2)?, |i| {
        apart * terms * definition.gradient_scale[i].max(1e-30)
    });
    Ok(())
}

proptest! {
    #![proptest_config(common::cases(100))]

    #[test]
    fn fused_is_composed(case in any_case(), seed: u64, scale in 0.1f64..4.0) {
        let x: Vec<f64> = common::normal(seed, case.cells()).iter().map(|v| v * scale).collect();
        for dtype in dtypes() {
            check(&case, dtype, &x, seed).unwrap();
        }
    }

    #[test]
    fn fused_is_composed_where_values_are_not_finite(case in any_case(), seed: u64, nan_to_num: bool) {
        let mut case = case;
        case.pool.nan_to_num = nan_to_num;
        let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
        let x: Vec<f64> = common::normal(seed, case.cells())
            .iter()
            .zip(common::normal(!seed, case.cells()))
            .map(|(x, chance)| if chance > 1.3 { special[(x.abs() * 1e3) as usize % 4] } else { *x })
            .collect();
        for dtype in dtypes() {
            let xs = tensor(&x, case.shape.as_slice(), dtype).unwrap();
            let ys = case.pool.output_shape(&case.shape);
            let grad = randn(seed, 1.0, ys, dtype).unwrap();
            let (ys, _) = case.pool.run(&xs, &grad).unwrap();
            let (ys2, _) = case.pool.composed().run(&xs, &grad).unwrap();
            let definition = case.pool.definition(&xs, &grad).unwrap();
            assert_equal_within("output", &case, &values(&ys).unwrap(), &values(&ys2).unwrap(), |i| {
                apart(dtype) * definition.output_scale[i].max(1e-30)
            });
        }
    }
}

/// The last columns of a wide row are a piece of their own, a few windows only.
#[test]
fn wide_rows_end_in_a_short_piece() -> Result<()> {
    let xs = randn(7, 1.0, (12, 6, 2060), DType::F32)?;
    let fused = SoftPool2d::new(2).forward(&xs)?;
    let composed = SoftPool2d::new(2)
        .implementation(Implementation::Composed)
        .forward(&xs)?;
    for (i, (a, b)) in values(&fused)?.iter().zip(values(&composed)?).enumerate() {
        assert!((a - b).abs() < 1e-5, "{i}: {a} and {b}");
    }
    Ok(())
}
