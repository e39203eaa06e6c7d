//! What SoftPool is, in sentences that hold for every input.

mod common;

use candle_core::{DType, Module, Result, Tensor};
use common::{any_case, assert_same, device, dtypes, tensor, values, Case, Pool, Windows};
use proptest::prelude::*;

fn output(pool: &Pool, xs: &Tensor) -> Vec<f64> {
    values(&pool.forward(xs).unwrap()).unwrap()
}

fn input(case: &Case, seed: u64, dtype: DType) -> Tensor {
    common::randn(seed, 2.0, case.shape.as_slice(), dtype).unwrap()
}

/// The same windows pooled by another function, from the definition: β = 0 is the average, and a β that leaves no
/// weight but the largest cell's is the maximum (or, negative, the minimum).
fn limit(case: &Case, beta: f64, xs: &Tensor) -> Vec<f64> {
    let pool = case.pool.beta(beta);
    let zeros = Tensor::zeros(pool.output_shape(&case.shape), xs.dtype(), &device()).unwrap();
    pool.definition(xs, &zeros).unwrap().output
}

const MAX: f64 = 1e15;

#[track_caller]
fn assert_near(found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len());
    for (a, b) in found.iter().zip(wanted) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }
}

proptest! {
    #![proptest_config(common::cases(64))]

    #[test]
    fn lies_between_minimum_and_maximum(case in any_case(), seed: u64) {
        for dtype in dtypes() {
            let xs = input(&case, seed, dtype);
            let (low, high) = (limit(&case, -MAX, &xs), limit(&case, MAX, &xs));
            for ((y, low), high) in output(&case.pool, &xs).iter().zip(low).zip(high) {
                let error = common::tolerance(dtype) * low.abs().max(high.abs());
                prop_assert!(low - error <= *y && *y <= high + error, "{dtype:?}: {low}, {y}, {high}");
            }
        }
    }

    #[test]
    fn is_not_under_the_average_for_a_positive_beta(case in any_case(), seed: u64) {
        let pool = case.pool.beta(case.pool.beta.abs());
        for dtype in dtypes() {
            let xs = input(&case, seed, dtype);
            let average = limit(&case, 0.0, &xs);
            for (y, average) in output(&pool, &xs).iter().zip(average) {
                // The average itself is rounded to the dtype here, as the output is.
                let error = 8.0 * common::tolerance(dtype);
                prop_assert!(*y >= common::round(average - error, dtype), "{dtype:?}: {y} < {average}");
            }
        }
    }

    #[test]
    fn grows_with_beta(case in any_case(), seed: u64, more in 0.0f64..4.0) {
        if device().is_metal() {
            return Ok(());
        }
        let xs = input(&case, seed, DType::F64);
        let low = output(&case.pool, &xs);
        let high = output(&case.pool.beta(case.pool.beta + more), &xs);
        prop_assert!(low.iter().zip(high).all(|(low, high)| *low <= high + 1e-11));
    }

    #[test]
    fn constant_in_constant_out(case in any_case(), value in -100f64..100.0) {
        for dtype in dtypes() {
            let xs = tensor(&vec![value; case.cells()], case.shape.as_slice(), dtype).unwrap();
            let wanted = common::round(value, dtype);
            let error = common::tolerance(dtype) * wanted.abs();
            prop_assert!(output(&case.pool, &xs).iter().all(|y| (y - wanted).abs() <= error));
        }
    }

    #[test]
    fn moves_with_its_input(case in any_case(), seed: u64, c in -50f64..50.0) {
        if device().is_metal() {
            return Ok(());
        }
        let xs = input(&case, seed, DType::F64);
        let moved = output(&case.pool, &(&xs + c).unwrap());
        let wanted: Vec<f64> = output(&case.pool, &xs).iter().map(|y| y + c).collect();
        assert_near(&moved, &wanted, 1e-12 * 60.0);
    }

    #[test]
    fn a_small_beta_averages(case in any_case(), seed: u64) {
        for dtype in dtypes() {
            let xs = input(&case, seed, dtype);
            let average = limit(&case, 0.0, &xs);
            let tolerance = match dtype { DType::F16 => 0.005, DType::BF16 => 0.05, DType::F32 => 1e-5, _ => 1e-11 };
            for beta in [0.0, 1e-13, -1e-13, 1e-300] {
                assert_near(&output(&case.pool.beta(beta), &xs), &average, tolerance);
            }
        }
    }

    #[test]
    fn a_large_beta_takes_the_maximum(case in any_case(), seed: u64) {
        for dtype in dtypes() {
            let xs = input(&case, seed, dtype);
            for beta in [MAX, 1e300, -MAX, -1e300] {
                prop_assert_eq!(output(&case.pool.beta(beta), &xs), limit(&case, beta, &xs));
            }
        }
    }

    #[test]
    fn channels_are_independent(case in any_case(), seed: u64) {
        for dtype in dtypes() {
            let xs = input(&case, seed, dtype);
            let channels = case.shape.len() - case.pool.rank - 1;
            let ys = case.pool.forward(&xs).unwrap();
            for c in 0..case.shape[channels] {
                let alone = case.pool.forward(&xs.narrow(channels, c, 1).unwrap()).unwrap();
                assert_same(&alone, &ys.narrow(channels, c, 1).unwrap());
            }
        }
    }

    /// A window's cells in another order; sums may then be rounded otherwise.
    #[test]
    fn order_within_a_window_is_no_matter(x in prop::collection::vec(-5f64..5.0, 1..30), seed: u64, beta in -3f64..3.0) {
        let pool = Pool::adaptive(1, 1).beta(beta);
        let keys = common::normal(seed, x.len());
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|a, b| keys[*a].total_cmp(&keys[*b]));
        let permuted: Vec<f64> = order.iter().map(|&i| x[i]).collect();
        for dtype in dtypes() {
            let [a, b] = [&x, &permuted].map(|x| output(&pool, &tensor(x, (1, x.len()), dtype).unwrap())[0]);
            // Both are rounded, near a tie to different sides: a unit apart.
            let unit = match dtype {
                DType::F16 => 2f64.powi(-10),
                DType::BF16 => 2f64.powi(-7),
                _ => 0.0,
            };
            let error = 5.0 * common::tolerance(dtype) + unit * a.abs();
            prop_assert!((a - b).abs() <= error, "{dtype:?}: {a}, {b}");
        }
    }

    /// Pooling for the lowest is pooling for the highest of the mirrored input, to the bit.
    #[test]
    fn a_negative_beta_mirrors(case in any_case(), seed: u64) {
        for dtype in dtypes() {
            let xs = input(&case, seed, dtype);
            let mirrored = case.pool.beta(-case.pool.beta).forward(&xs.neg().unwrap()).unwrap();
            let (ys, mirrored) = (output(&case.pool, &xs), values(&mirrored.neg().unwrap()).unwrap());
            // To the bit on the CPU; GPUs take another kernel for a negative β.
            let rounding = match dtype {
                _ if device().is_cpu() => 0.0,
                DType::F16 => 2e-3,
                DType::BF16 => 2e-2,
                DType::F32 => 1e-5,
                _ => 1e-12,
            };
            for (y, mirrored) in ys.into_iter().zip(mirrored) {
                let error = (y - mirrored).abs();
                prop_assert!(y == mirrored || error <= rounding * y.abs().max(1.0), "{} {}", y, mirrored);
            }
        }
    }

    /// A window that is the whole input, adaptive or sliding, is one softmax-weighted sum.
    #[test]
    fn global_pooling_is_one_window(h in 1usize..9, w in 1usize..30, seed: u64) {
        for dtype in dtypes() {
            let xs = common::randn(seed, 1.0, (2, h, w), dtype).unwrap();
            let whole = Windows::Sliding { kernel: [1, h, w], stride: [1; 3], padding: [0; 3], ceil_mode: false };
            let sliding = Pool::new(2, whole).forward(&xs).unwrap();
            assert_same(&sliding, &Pool::adaptive(2, 1).forward(&xs).unwrap());
        }
    }
}

/// Inputs of the tests are the nearest numbers of their dtype, here close to a tie between 89 and 89.5.
#[test]
fn inputs_are_rounded_to_nearest() -> Result<()> {
    let xs = tensor(&[89.25003420978277, 89.25], 2, DType::BF16)?;
    assert_eq!(values(&xs)?, [89.5, 89.0]);
    Ok(())
}

/// The paper's pooling of two cells, computed by hand.
#[test]
fn by_hand() -> Result<()> {
    let e = std::f64::consts::E;
    for dtype in dtypes() {
        let xs = tensor(&[0.0, 1.0, 2.0, -1.0], (1, 4), dtype)?;
        let ys = output(&Pool::sliding(1, 2, 2, 0), &xs);
        let wanted = [e / (1.0 + e), (2.0 * e.powi(3) - 1.0) / (e.powi(3) + 1.0)];
        for (y, wanted) in ys.iter().zip(wanted) {
            assert!((y - common::round(wanted, dtype)).abs() <= common::tolerance(dtype));
        }
    }
    Ok(())
}
