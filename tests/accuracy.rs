//! Output and gradient are the definition's in float64, rounded once, at every magnitude that the dtype holds.
//!
//! See `Pool::assert_defined` for the criterion: 2e-6 of the scale in f32, 1e-12 in f64; in f16 and bf16 the
//! nearest value to a number that near to the definition's.

mod common;

use candle_core::{DType, Result};
use candle_softpool::Gradient;
use common::{any_case, dtypes, largest, normal, randn, tensor, Case, Pool, Windows};
use proptest::prelude::*;

/// The windows that people use, each with an input larger than a vector and no multiple of one.
fn common_windows() -> Vec<Case> {
    let case = |pool: Pool, shape: &[usize]| Case {
        pool,
        shape: shape.to_vec(),
    };
    let wide = Windows::Sliding {
        kernel: [1, 2, 5],
        stride: [1, 3, 7],
        padding: [0, 1, 2],
        ceil_mode: true,
    };
    vec![
        case(Pool::sliding(2, 2, 2, 0), &[2, 3, 14, 38]),
        case(Pool::sliding(2, 3, 2, 0), &[2, 3, 15, 37]),
        case(Pool::sliding(2, 3, 1, 1), &[2, 2, 9, 35]),
        case(Pool::sliding(2, 5, 1, 2), &[1, 2, 9, 35]),
        case(Pool::sliding(2, 13, 1, 6), &[1, 1, 13, 19]),
        case(Pool::sliding(2, 7, 3, 0), &[1, 2, 25, 40]),
        case(Pool::sliding(2, 2, 3, 0), &[2, 2, 11, 50]),
        case(Pool::sliding(1, 300, 300, 0), &[1, 2, 310]),
        case(Pool::sliding(1, 3, 66, 0), &[1, 2, 140]),
        case(Pool::new(2, wide), &[2, 2, 9, 45]),
        case(Pool::adaptive(2, 1), &[2, 3, 7, 11]),
        case(Pool::adaptive(2, 4), &[2, 3, 7, 11]),
        case(Pool::adaptive(2, 9), &[1, 2, 5, 7]),
        case(Pool::sliding(1, 4, 4, 0), &[1, 2, 3001]),
        case(Pool::sliding(1, 9, 2, 4), &[2, 1, 1500]),
        case(Pool::sliding(3, 2, 2, 0), &[1, 2, 4, 6, 18]),
        case(Pool::sliding(3, 3, 1, 1), &[1, 1, 4, 5, 17]),
        case(Pool::adaptive(3, 2), &[1, 2, 3, 5, 9]),
    ]
}

fn both_gradients(mut check: impl FnMut(Gradient)) {
    check(Gradient::Paper);
    check(Gradient::Exact);
}

#[test]
fn windows_that_people_use() -> Result<()> {
    for dtype in dtypes() {
        for (seed, case) in common_windows().iter().enumerate() {
            let (xs, grad) = case.inputs(seed as u64, 3.0, dtype)?;
            both_gradients(|gradient| case.pool.gradient(gradient).assert_defined(&xs, &grad));
        }
    }
    Ok(())
}

#[test]
fn temperatures() -> Result<()> {
    let betas = [
        0.0, 1e-300, -1e-40, 1e-31, 1e-6, 0.1, -0.5, 7.0, -40.0, 1e4, 1e31, -1e300,
    ];
    for dtype in dtypes() {
        for case in [
            Case {
                pool: Pool::sliding(2, 3, 2, 1),
                shape: vec![1, 2, 5, 21],
            },
            Case {
                pool: Pool::adaptive(1, 3),
                shape: vec![3, 10],
            },
        ] {
            let (xs, grad) = case.inputs(5, 2.0, dtype)?;
            for beta in betas {
                both_gradients(|g| case.pool.beta(beta).gradient(g).assert_defined(&xs, &grad));
            }
        }
    }
    Ok(())
}

/// Scales from the smallest normal numbers of the dtype to values near its largest.
fn scales(dtype: DType) -> Vec<f64> {
    let near_largest = largest(dtype) / 8.0;
    match dtype {
        DType::F16 => vec![1e-4, 1e-2, 100.0, near_largest],
        // The results of smaller gradients are subnormal, which candle's own bf16 addition flushes to zero.
        DType::BF16 => vec![1e-30, 1e-10, 1e10, 1e30, near_largest],
        DType::F64 => vec![1e-300, 1e-30, 1e30, near_largest],
        _ => vec![1e-35, 1e-10, 1e10, 1e30, near_largest],
    }
}

#[test]
fn magnitudes_of_the_input() -> Result<()> {
    for dtype in dtypes() {
        for (seed, case) in common_windows().iter().enumerate().step_by(7) {
            for scale in scales(dtype) {
                // At most five deviations, and with β = 1/scale the weights vary as usual.
                let x: Vec<f64> = normal(seed as u64, case.cells())
                    .iter()
                    .map(|v| v.clamp(-5.0, 5.0) * scale)
                    .collect();
                let xs = tensor(&x, case.shape.as_slice(), dtype)?;
                let grad = randn(9, 1.0, case.pool.output_shape(&case.shape), dtype)?;
                for beta in [1.0, 1.0 / scale, -1.0 / scale] {
                    both_gradients(|g| case.pool.beta(beta).gradient(g).assert_defined(&xs, &grad));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn magnitudes_of_the_gradient() -> Result<()> {
    for dtype in dtypes() {
        for case in [&common_windows()[0], &common_windows()[8]] {
            for scale in scales(dtype) {
                let xs = randn(3, 1.0, case.shape.as_slice(), dtype)?;
                // A gradient of up to 1.3·g can come out.
                let output = case.pool.output_shape(&case.shape);
                let g: Vec<f64> = normal(4, output.iter().product())
                    .iter()
                    .map(|v| v.clamp(-5.0, 5.0) * scale)
                    .collect();
                let grad = tensor(&g, output, dtype)?;
                both_gradients(|gradient| case.pool.gradient(gradient).assert_defined(&xs, &grad));
            }
        }
    }
    Ok(())
}

/// Windows of tiny cells beside windows of huge ones, and both within one window: each to its own scale.
#[test]
fn magnitudes_side_by_side() -> Result<()> {
    for dtype in dtypes() {
        let [low, high] = match dtype {
            DType::F16 => [-3, 4],
            _ => [-30, 30],
        };
        for (seed, case) in common_windows().iter().enumerate() {
            let exponents = normal(100 + seed as u64, case.cells());
            let x: Vec<f64> = normal(seed as u64, case.cells())
                .iter()
                .zip(exponents)
                .map(|(v, e)| v * 10f64.powi(((e * 20.0) as i32).clamp(low, high)))
                .collect();
            let xs = tensor(&x, case.shape.as_slice(), dtype)?;
            let grad = randn(9, 1.0, case.pool.output_shape(&case.shape), dtype)?;
            both_gradients(|gradient| case.pool.gradient(gradient).assert_defined(&xs, &grad));
        }
    }
    Ok(())
}

/// Large activations close together: the differences decide, not the magnitude.
#[test]
fn small_differences_of_large_values() -> Result<()> {
    for dtype in dtypes() {
        let offset = if dtype == DType::BF16 { 100.0 } else { 1000.0 };
        for case in common_windows() {
            let x: Vec<f64> = normal(1, case.cells()).iter().map(|v| v + offset).collect();
            let xs = tensor(&x, case.shape.as_slice(), dtype)?;
            let grad = randn(9, 1.0, case.pool.output_shape(&case.shape), dtype)?;
            both_gradients(|gradient| case.pool.gradient(gradient).assert_defined(&xs, &grad));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(common::cases(100))]

    #[test]
    fn any_geometry(case in any_case(), seed: u64, scale in 0.1f64..10.0) {
        for dtype in dtypes() {
            let (xs, grad) = case.inputs(seed, scale, dtype).unwrap();
            case.pool.assert_defined(&xs, &grad);
        }
    }
}

/// An exact gradient of a window that lies 8 below the largest activation of its plane, found by the test above: the mean of
/// its exponents had lost too many digits.
#[test]
fn exponents_far_from_the_largest() -> Result<()> {
    let windows = Windows::Sliding {
        kernel: [1, 1, 3],
        stride: [1, 2, 2],
        padding: [0; 3],
        ceil_mode: false,
    };
    let case = Case {
        pool: Pool::new(2, windows).gradient(Gradient::Exact),
        shape: vec![1, 5, 23],
    };
    let (xs, grad) = case.inputs(1474861892193758634, 8.457574825535202, DType::F32)?;
    case.pool.assert_defined(&xs, &grad);
    Ok(())
}

/// Windows that lie far below the largest activation of their plane, found by fuzzing.
#[test]
fn weights_far_from_the_largest() -> Result<()> {
    let pool = Pool::new(2, Windows::Adaptive([1, 12, 5])).beta(-3.0);
    let shape = vec![3, 16, 16];
    let case = Case { pool, shape };
    for dtype in dtypes() {
        let (xs, grad) = case.inputs(16_618_417_571_181_577_444, 5.0, dtype)?;
        both_gradients(|gradient| case.pool.gradient(gradient).assert_defined(&xs, &grad));
    }
    Ok(())
}

/// Where β leaves all weights equal, sums of differences between values near the largest overflow unless scaled down.
#[test]
fn averages_of_values_near_the_largest() -> Result<()> {
    for dtype in dtypes() {
        let max = largest(dtype);
        let pool = Pool::adaptive(1, 1).gradient(Gradient::Exact);
        for x in [[max, -max, -max, -max], [max, max, max, -max], [max; 4]] {
            let xs = tensor(&x, (1, 4), dtype)?;
            let grad = tensor(&[1.0], (1, 1), dtype)?;
            for beta in [0.0, 1e-300, 1.0] {
                pool.beta(beta).assert_defined(&xs, &grad);
                pool.beta(-beta).assert_defined(&xs, &grad);
            }
        }
    }
    Ok(())
}
