//! Values that are not finite: what they do to their own windows, in values and gradients, and to no others.

mod common;

use candle_core::{DType, Result};
use candle_softpool::Gradient;
use common::{any_case, dtypes, largest, normal, randn, tensor, values, Pool};
use proptest::prelude::*;

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

/// Output and gradient of windows of three cells, given ones as the outputs' gradient.
fn run(pool: Pool, x: &[f64], dtype: DType) -> Result<(Vec<f64>, Vec<f64>)> {
    let xs = tensor(x, (1, x.len()), dtype)?;
    let grad = tensor(&vec![1.0; x.len() / 3], (1, x.len() / 3), dtype)?;
    let (ys, dx) = pool.run(&xs, &grad)?;
    Ok((values(&ys)?, values(&dx)?))
}

/// Equal, or both NaN.
#[track_caller]
fn assert_equal(found: &[f64], wanted: &[f64]) {
    let same = |(a, b): (&f64, &f64)| a == b || a.is_nan() && b.is_nan();
    assert!(
        found.len() == wanted.len() && found.iter().zip(wanted).all(same),
        "{found:?} is not {wanted:?}"
    );
}

fn every_layer() -> Vec<Pool> {
    let pool = Pool::sliding(1, 3, 3, 0);
    [pool, pool.gradient(Gradient::Exact)]
        .into_iter()
        .flat_map(|pool| [pool, pool.composed()])
        .collect()
}

#[test]
fn each_decides_its_own_window() -> Result<()> {
    // Two equal cells of one window have a weight of one half each, whatever the dtype.
    let x = [
        [NAN, 1.0, 2.0],
        [5.0, 5.0, -INF],
        [INF, 1.0, -INF],
        [-INF, -INF, -INF],
        [INF, NAN, -INF],
        [-INF, 7.0, -INF],
    ]
    .concat();
    for dtype in dtypes() {
        for pool in every_layer() {
            let (ys, _) = run(pool, &x, dtype)?;
            assert_equal(&ys, &[NAN, 5.0, INF, -INF, NAN, 7.0]);
            let (ys, _) = run(pool.nan_to_num(true), &x, dtype)?;
            let max = largest(dtype);
            assert_equal(&ys, &[0.0, 5.0, max, -max, 0.0, 7.0]);
        }
    }
    Ok(())
}

#[test]
fn a_negative_beta_swaps_the_infinities() -> Result<()> {
    let x = [
        [5.0, 5.0, INF],
        [INF, 1.0, -INF],
        [INF, INF, INF],
        [NAN, 1.0, INF],
    ]
    .concat();
    for dtype in dtypes() {
        for pool in every_layer() {
            let (ys, _) = run(pool.beta(-1.0), &x, dtype)?;
            assert_equal(&ys, &[5.0, -INF, INF, NAN]);
        }
    }
    Ok(())
}

#[test]
fn with_beta_zero_only_finite_cells_are_averaged() -> Result<()> {
    let x = [[4.0, 8.0, -INF], [INF, 1.0, 1.0], [-INF, -INF, -INF]].concat();
    for dtype in dtypes() {
        for pool in every_layer() {
            let (ys, _) = run(pool.beta(0.0), &x, dtype)?;
            assert_equal(&ys, &[6.0, INF, -INF]);
        }
    }
    Ok(())
}

#[test]
fn a_window_without_a_finite_output_has_no_derivative() -> Result<()> {
    let x = [
        [NAN, 1.0, 2.0],
        [5.0, 5.0, -INF],
        [INF, 1.0, -INF],
        [-INF, -INF, -INF],
        [3.0, -INF, 3.0],
    ]
    .concat();
    let pool = Pool::sliding(1, 3, 3, 0);
    for dtype in dtypes() {
        for pool in [pool, pool.gradient(Gradient::Exact)] {
            let (_, dx) = run(pool, &x, dtype)?;
            let none = [NAN; 3];
            let wanted = [none, [0.5, 0.5, 0.0], none, none, [0.5, 0.0, 0.5]];
            assert_equal(&dx, &wanted.concat());
            let (_, dx) = run(pool.nan_to_num(true), &x, dtype)?;
            let none = [0.0; 3];
            let wanted = [none, [0.5, 0.5, 0.0], none, none, [0.5, 0.0, 0.5]];
            assert_equal(&dx, &wanted.concat());
        }
    }
    Ok(())
}

/// One bad cell anywhere: windows without it, and cells of no window with it, keep their values.
#[test]
fn neighbours_are_untouched() -> Result<()> {
    let pool = Pool::sliding(2, 3, 2, 1);
    let (h, w) = (7, 41);
    for dtype in dtypes() {
        let slack = match dtype {
            DType::F32 | DType::F64 => 4e-6,
            _ => 1e-2,
        };
        for gradient in [Gradient::Paper, Gradient::Exact] {
            let pool = pool.gradient(gradient);
            let x = normal(1, h * w);
            let grad = randn(2, 1.0, (1, 4, 21), dtype)?;
            let (ys, dx) = pool.run(&tensor(&x, (1, h, w), dtype)?, &grad)?;
            let (ys, dx) = (values(&ys)?, values(&dx)?);
            for (bad, at) in [(NAN, 0), (INF, 3 * w + 17), (NAN, h * w - 1), (-INF, 2 * w)] {
                let mut x = x.clone();
                x[at] = bad;
                let (ys2, dx2) = pool.run(&tensor(&x, (1, h, w), dtype)?, &grad)?;
                let (ys2, dx2) = (values(&ys2)?, values(&dx2)?);
                let near = |a: usize, b: usize, reach: usize| a.abs_diff(b) <= reach;
                for (i, (y, y2)) in ys.iter().zip(&ys2).enumerate() {
                    let holds = near(i / 21 * 2, at / w, 1) && near(i % 21 * 2, at % w, 1);
                    // Cells nearby may be recomputed in another way; what matters is their value.
                    let same = (y - y2).abs() <= slack * y.abs().max(1e-2);
                    assert!(holds || same, "{dtype:?}, {bad} at {at}: output {i}");
                    assert!(!holds || bad == -INF || !y2.is_finite(), "output {i}");
                }
                for (i, (d, d2)) in dx.iter().zip(&dx2).enumerate() {
                    let shares = near(i / w, at / w, 2) && near(i % w, at % w, 2);
                    let same = (d - d2).abs() <= 1e-2 * d.abs().max(1e-2);
                    assert!(shares || same, "{dtype:?}, {bad} at {at}: gradient {i}");
                }
            }
        }
    }
    Ok(())
}

/// A NaN, an infinity or a zero in the outputs' gradient stays with the cells of its window.
#[test]
fn incoming_gradients_stay_in_their_windows() -> Result<()> {
    for dtype in dtypes() {
        for gradient in [Gradient::Paper, Gradient::Exact] {
            let pool = Pool::sliding(1, 2, 2, 0).gradient(gradient);
            let xs = tensor(&[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0], (1, 8), dtype)?;
            let grad = tensor(&[NAN, 1.0, INF, 0.0], (1, 4), dtype)?;
            let (_, dx) = pool.run(&xs, &grad)?;
            let expected = [NAN, NAN, 0.5, 0.5, INF, INF, 0.0, 0.0];
            for (i, (d, e)) in values(&dx)?.into_iter().zip(expected).enumerate() {
                let same = d == e || d.is_nan() && e.is_nan();
                assert!(
                    same || (d - e).abs() < 1e-6,
                    "{dtype:?}: {d} at {i}, not {e}"
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(common::cases(100))]

    /// Values and gradients of any geometry are the definition's, wherever such values are.
    #[test]
    fn any_geometry(case in any_case(), seed: u64, nan_to_num: bool) {
        let special = [NAN, INF, -INF, -INF];
        let chance = normal(!seed, case.cells());
        let x: Vec<f64> = normal(seed, case.cells())
            .iter()
            .zip(chance)
            .map(|(x, chance)| if chance > 1.3 { special[(x.abs() * 1e3) as usize % 4] } else { *x })
            .collect();
        let pool = case.pool.nan_to_num(nan_to_num);
        for dtype in dtypes() {
            let xs = tensor(&x, case.shape.as_slice(), dtype).unwrap();
            let grad = randn(seed, 1.0, pool.output_shape(&case.shape), dtype).unwrap();
            pool.assert_defined(&xs, &grad);
        }
    }
}
