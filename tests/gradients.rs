//! The backward pass: `Exact` by finite differences in f64, `Paper` by its definition, and both through views and models.

mod common;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_softpool::{AdaptiveSoftPool2d, Gradient, SoftPool1d, SoftPool2d, SoftPool3d};
use common::{any_case, assert_close, assert_same, device, normal, randn, values, Case};
use proptest::prelude::*;

/// Central differences of `Σ g·y` along a random direction and along single cells, against the gradient.
fn check_differences(case: &Case, seed: u64) -> Result<()> {
    let pool = case.pool.gradient(Gradient::Exact);
    let (xs, grad) = case.inputs(seed, 1.0, DType::F64)?;
    let (_, dx) = pool.run(&xs, &grad)?;
    let dx = values(&dx)?;
    let loss = |direction: &[f64], step: f64| -> Result<f64> {
        let direction = common::tensor(direction, xs.shape(), DType::F64)?;
        let ys = pool.forward(&(&xs + (direction * step)?)?)?;
        (ys * &grad)?.sum_all()?.to_scalar()
    };
    let mut directions = vec![normal(!seed, dx.len())];
    for cell in [0, dx.len() / 2, dx.len() - 1] {
        let mut direction = vec![0.0; dx.len()];
        direction[cell] = 1.0;
        directions.push(direction);
    }
    for direction in directions {
        let step = 1e-5;
        let numeric = (loss(&direction, step)? - loss(&direction, -step)?) / (2.0 * step);
        let analytic: f64 = dx.iter().zip(&direction).map(|(a, b)| a * b).sum();
        let size: f64 = dx.iter().zip(&direction).map(|(a, b)| (a * b).abs()).sum();
        assert!(
            (analytic - numeric).abs() <= 1e-6 * (1.0 + size),
            "{case:?}: {analytic}, by differences {numeric}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(common::cases(100))]

    #[test]
    fn exact_is_the_limit_of_differences(case in any_case(), seed: u64) {
        if device().is_metal() {
            return Ok(());
        }
        check_differences(&case, seed).unwrap();
    }

    /// The gradient of pooling's values, with the weights held at what they are: the sum of the weights times g.
    #[test]
    fn paper_holds_the_weights(case in any_case(), seed: u64) {
        if device().is_metal() {
            return Ok(());
        }
        let pool = case.pool.gradient(Gradient::Paper);
        let (xs, grad) = case.inputs(seed, 1.0, DType::F64).unwrap();
        let (ys, dx) = pool.run(&xs, &grad).unwrap();
        // Σ_i x_i·dx_i = Σ g·Σ_i w_i·x_i = Σ g·y, and Σ_i dx_i = Σ g: what constant weights that sum to one give.
        let dot = |a: &Tensor, b: &Tensor| -> f64 { (a * b).unwrap().sum_all().unwrap().to_scalar().unwrap() };
        let (found, wanted) = (dot(&xs, &dx), dot(&ys, &grad));
        prop_assert!((found - wanted).abs() < 1e-9 * (1.0 + dot(&ys.abs().unwrap(), &grad.abs().unwrap())));
        let (found, wanted) = (dx.sum_all().unwrap(), grad.sum_all().unwrap());
        assert_close(&found, &wanted, 1e-10 * (1.0 + grad.abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()));
    }
}

/// A window worked by hand: weights 1/4 and 3/4, so y = 3/4·ln 3.
#[test]
fn by_hand() -> Result<()> {
    needs_f64!();
    let ln_3 = 3f64.ln();
    let xs = common::tensor(&[0.0, ln_3], (1, 2), DType::F64)?;
    let grad = common::tensor(&[2.0], (1, 1), DType::F64)?;
    let pool = common::Pool::sliding(1, 2, 2, 0);
    let (ys, dx) = pool.run(&xs, &grad)?;
    assert_close(&ys, &Tensor::new(&[[0.75 * ln_3]], &Device::Cpu)?, 1e-15);
    assert_close(&dx, &Tensor::new(&[[0.5, 1.5]], &Device::Cpu)?, 1e-15);
    let (_, dx) = pool.gradient(Gradient::Exact).run(&xs, &grad)?;
    // 2·w·(1 + x − y)
    let exact = [0.5 * (1.0 - 0.75 * ln_3), 1.5 * (1.0 + 0.25 * ln_3)];
    assert_close(&dx, &Tensor::new(&[exact], &Device::Cpu)?, 1e-15);
    Ok(())
}

#[test]
fn cells_that_no_window_holds_get_zero() -> Result<()> {
    for dtype in common::dtypes() {
        for gradient in [Gradient::Paper, Gradient::Exact] {
            let xs = Var::from_tensor(&randn(1, 1.0, (1, 1, 8, 11), dtype)?)?;
            let pool = SoftPool2d::new(2).stride((3, 4)).gradient(gradient);
            let dx = pool
                .forward(&xs)?
                .sum_all()?
                .backward()?
                .remove(&xs)
                .unwrap();
            for (i, dx) in values(&dx)?.into_iter().enumerate() {
                let held = i / 11 % 3 < 2 && i % 11 % 4 < 2;
                assert_eq!(dx != 0.0, held, "cell {i}: {dx}");
            }
        }
    }
    Ok(())
}

#[test]
fn shapes_and_dtypes_are_the_inputs() -> Result<()> {
    for dtype in common::dtypes() {
        let layers: [(Box<dyn Module>, &[usize]); 4] = [
            (Box::new(SoftPool1d::new(3).stride(2)), &[3, 20]),
            (Box::new(SoftPool2d::new(3).padding(1)), &[2, 3, 8, 9]),
            (Box::new(SoftPool3d::new((1, 2, 2))), &[2, 3, 2, 8, 9]),
            (Box::new(AdaptiveSoftPool2d::new(3)), &[3, 8, 9]),
        ];
        for (layer, shape) in layers {
            let xs = Var::from_tensor(&randn(1, 1.0, shape, dtype)?)?;
            let dx = layer
                .forward(&xs)?
                .sum_all()?
                .backward()?
                .remove(&xs)
                .unwrap();
            assert_eq!((dx.dims(), dx.dtype()), (shape, dtype));
        }
    }
    Ok(())
}

/// Layers before and after, on views: each part's gradient is the sum over its uses.
#[test]
fn through_views_and_other_operations() -> Result<()> {
    needs_f64!();
    let base = Var::from_tensor(&randn(3, 1.0, (2, 7, 9, 3), DType::F64)?)?;
    let pool = SoftPool2d::new(3)
        .stride(2)
        .padding(1)
        .gradient(Gradient::Exact);
    let loss = |base: &Tensor| -> Result<Tensor> {
        let left = base.permute((0, 3, 1, 2))?.narrow(3, 0, 6)?.apply(&pool)?;
        let right = base
            .permute((0, 3, 1, 2))?
            .narrow(3, 3, 6)?
            .tanh()?
            .apply(&pool)?;
        let twice = (left * right.transpose(2, 3)?.transpose(2, 3)?)?
            .apply(&AdaptiveSoftPool2d::new(2).gradient(Gradient::Exact))?;
        twice.sqr()?.sum_all()
    };
    let dx = values(&loss(&base)?.backward()?.remove(&base).unwrap())?;
    let at = values(&base)?;
    for cell in (0..at.len()).step_by(11) {
        let moved = |by: f64| -> Result<f64> {
            let mut at = at.clone();
            at[cell] += by;
            loss(&common::tensor(&at, base.shape(), DType::F64)?)?.to_scalar()
        };
        let numeric = (moved(1e-5)? - moved(-1e-5)?) / 2e-5;
        assert!(
            (numeric - dx[cell]).abs() < 1e-8,
            "{cell}: {} or {numeric}",
            dx[cell]
        );
    }
    Ok(())
}

/// A tensor of which no gradient is asked gets none, and its values are the same.
#[test]
fn without_a_variable_nothing_is_tracked() -> Result<()> {
    let xs = randn(1, 1.0, (1, 2, 8, 8), DType::F32)?;
    let pool = SoftPool2d::new(2);
    let ys = pool.forward(&xs)?;
    assert!(!ys.track_op());
    assert_same(&ys, &pool.forward(Var::from_tensor(&xs)?.as_tensor())?);
    Ok(())
}
