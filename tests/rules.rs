//! Every method: costs that do not grow with the square, sums in f32, values that are not finite.

mod common;

use candle_core::{DType, ModuleT, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use candle_softpool::{
    softmax_pool2d, softmax_pool2d_with_stride, AdaptiveAvgPool1d, AdaptiveAvgPool3d,
    AdaptiveMaxPool1d, AvgPool2d, AvgPool3d, Gradient, Implementation, Lip1d, Lip2d, LpPool2d,
    LpPool3d, MaxPool1d, MaxPool2d, Pooling2d, S3Pool2d, SoftPool1d, SoftPool2d, StochasticPool1d,
    StochasticPool2d,
};

use common::device;

fn gradient(xs: &Var, ys: &Tensor) -> Result<Tensor> {
    Ok(ys.sum_all()?.backward()?.get(xs).unwrap().clone())
}

/// Each cell adds what its window gives; where it recomputed the window this took seventeen seconds.
#[test]
fn the_gradient_of_a_global_window_is_not_quadratic() -> Result<()> {
    let xs = Var::from_tensor(&Tensor::randn(0f32, 1., (1, 4, 112, 112), &device())?)?;
    for pool in [
        SoftPool2d::new(112),
        SoftPool2d::new(112).gradient(Gradient::Exact),
    ] {
        let dx = gradient(&xs, &xs.apply(&pool)?)?;
        // The weights of a window sum to one, and so do both gradients.
        let sum = dx.sum((0, 2, 3))?.to_vec1::<f32>()?;
        assert!(sum.iter().all(|sum| (sum - 1.0).abs() < 1e-4), "{sum:?}");
    }
    Ok(())
}

#[test]
fn gradients_of_shared_cells_are_summed_in_f32() -> Result<()> {
    let mut cells = vec![0f32; 65 * 65];
    cells[32 * 65 + 32] = 1.0;
    let xs = Tensor::from_vec(cells, (1, 1, 65, 65), &device())?.to_dtype(DType::BF16)?;
    let xs = Var::from_tensor(&xs)?;
    // The one is in all 33·33 windows.
    for pool in [
        Pooling2d::from(MaxPool2d::new(33).stride(1)),
        Pooling2d::from(S3Pool2d::new(33).stride(1)),
        Pooling2d::from(StochasticPool2d::new(33).stride(1)),
    ] {
        for train in [false, true] {
            let dx = gradient(&xs, &pool.forward_t(&xs, train)?)?.to_dtype(DType::F32)?;
            // 1089, rounded to bf16.
            assert_eq!(dx.max_all()?.to_scalar::<f32>()?, 1088.0, "{pool}, {train}");
        }
    }
    Ok(())
}

#[test]
fn the_expectation_of_huge_activations_is_finite() -> Result<()> {
    let xs = Tensor::new(&[[[3e38f32, 3e38, -1.0, -3.0]]], &device())?;
    let ys = StochasticPool1d::new(2).forward(&xs)?;
    assert_eq!(ys.to_vec3::<f32>()?, [[[3e38, -2.0]]]);
    Ok(())
}

#[test]
fn a_draw_shows_nan() -> Result<()> {
    let xs = Tensor::new(&[[[f32::NAN, 1.0, 2.0, 3.0]]], &device())?;
    let ys = StochasticPool1d::new(2)
        .forward_t(&xs, true)?
        .to_vec3::<f32>()?;
    assert!(ys[0][0][0].is_nan() && [2.0, 3.0].contains(&ys[0][0][1]));
    Ok(())
}

/// Every cell gets the gradients of the windows that have drawn it: cells are known by their values, which all differ.
#[test]
fn the_gradient_of_a_draw_goes_to_the_cell_drawn() -> Result<()> {
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        // Whole numbers to 84, which all dtypes have.
        let xs = Tensor::arange(1u32, 85, &device())?.reshape((2, 6, 7))?;
        for xs in [xs.clone(), xs.transpose(1, 2)?] {
            let xs = Var::from_tensor(&xs.to_dtype(dtype)?)?;
            let ys = StochasticPool2d::new(3)
                .stride(2)
                .padding(1)
                .forward_t(&xs.t()?, true)?;
            let grads = Tensor::arange(1u32, 1 + ys.elem_count() as u32, &device())?;
            let grads = grads.reshape(ys.shape())?.to_dtype(dtype)?;
            let dx = gradient(&xs, &(&ys * &grads)?)?;
            let cells = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
            let drawn: Vec<_> = cells(&ys)?.into_iter().zip(cells(&grads)?).collect();
            for (x, dx) in cells(&xs)?.into_iter().zip(cells(&dx)?) {
                let of_windows = drawn.iter().filter(|(y, _)| *y == x).map(|(_, g)| g);
                assert_eq!(dx, of_windows.sum::<f64>(), "{dtype:?}: {x}");
            }
        }
    }
    Ok(())
}

#[test]
fn empty_batches_have_empty_gradients() -> Result<()> {
    let xs = Var::zeros((0, 3, 8, 8), DType::F32, &device())?;
    for pool in [
        Pooling2d::from(SoftPool2d::new(2)),
        Pooling2d::from(MaxPool2d::new(2)),
        Pooling2d::from(AvgPool2d::new(2)),
        Pooling2d::from(LpPool2d::new(2.0, 2)),
        Pooling2d::from(StochasticPool2d::new(2)),
        Pooling2d::from(S3Pool2d::new(2)),
    ] {
        for train in [false, true] {
            let ys = pool.forward_t(&xs, train)?;
            assert_eq!(ys.dims(), [0, 3, 4, 4], "{pool}");
            assert_eq!(
                gradient(&xs, &ys)?.dims(),
                [0, 3, 8, 8],
                "{pool}, train {train}"
            );
        }
    }
    let ys = Lip2d::new(2).forward_with(&xs, &xs)?;
    assert_eq!(gradient(&xs, &ys)?.dims(), [0, 3, 8, 8]);
    // Whose β has another dtype, which candle would convert.
    let xs = Var::zeros((0, 3, 8, 8), DType::F16, &device())?;
    let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &device());
    let ys = xs.apply(&SoftPool2d::new(2).learned(3, vb)?)?;
    assert_eq!(gradient(&xs, &ys)?.dims(), [0, 3, 8, 8]);
    let logits = Tensor::zeros((0, 3, 8, 8), DType::F32, &device())?;
    let ys = Lip2d::new(2).forward_with(&xs, &logits)?;
    assert_eq!((ys.dtype(), ys.dims()), (DType::F16, &[0, 3, 4, 4][..]));
    assert_eq!(gradient(&xs, &ys)?.dims(), [0, 3, 8, 8]);
    Ok(())
}

#[test]
fn extreme_temperatures_are_finite() -> Result<()> {
    let xs = Var::new(&[[[1f32, 2.0, 2.0, -1.0]]], &device())?;
    for (beta, wanted) in [(0.0, 1.0), (f64::MAX, 2.0), (-f64::MAX, -1.0f32)] {
        for gradient_of in [Gradient::Paper, Gradient::Exact] {
            let pool = SoftPool1d::new(4).beta(beta).gradient(gradient_of);
            let ys = xs.apply(&pool)?;
            let y = ys.flatten_all()?.to_vec1::<f32>()?[0];
            assert!((y - wanted).abs() < 1e-6, "β {beta}: {y}");
            let dx = gradient(&xs, &ys)?.flatten_all()?.to_vec1::<f32>()?;
            assert!(dx.iter().all(|dx| dx.is_finite()), "β {beta}: {dx:?}");
        }
    }
    Ok(())
}

#[test]
fn layers_without_a_seed_do_not_draw_alike() -> Result<()> {
    let xs = Tensor::ones((1, 1, 64, 64), DType::F32, &device())?;
    let xs = (xs + Tensor::rand(0f32, 1.0, (1, 1, 64, 64), &device())?)?;
    let draw = |layer: &dyn ModuleT| layer.forward_t(&xs, true)?.flatten_all()?.to_vec1::<f32>();
    let [a, b] = [StochasticPool2d::new(2), StochasticPool2d::new(2)];
    assert_ne!(draw(&a)?, draw(&b)?);
    let [a, b] = [S3Pool2d::new(2), S3Pool2d::new(2)];
    assert_ne!(draw(&a)?, draw(&b)?);
    let [a, b] = [
        StochasticPool2d::new(2).seed(3),
        StochasticPool2d::new(2).seed(3),
    ];
    assert_eq!(draw(&a)?, draw(&b)?);
    Ok(())
}

/// `f64::MAX` is beyond f32, in which f16 and bf16 are computed: the largest f32 does as well.
#[test]
fn extreme_temperatures_are_finite_in_composed_operations() -> Result<()> {
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let xs = Tensor::new(&[[[1f32, 2.0, 2.0, -1.0]]], &device())?.to_dtype(dtype)?;
        for (beta, wanted) in [(0.0, 1.0), (f64::MAX, 2.0), (-f64::MAX, -1.0f32)] {
            let pool = SoftPool1d::new(4)
                .beta(beta)
                .implementation(Implementation::Composed);
            let ys = xs.apply(&pool)?.to_dtype(DType::F32)?.flatten_all()?;
            let y = ys.to_vec1::<f32>()?[0];
            assert!((y - wanted).abs() < 1e-6, "{dtype:?}, β {beta}: {y}");
        }
    }
    Ok(())
}

#[test]
fn composed_operations_take_infinities_as_the_kernels_do() -> Result<()> {
    let xs = Tensor::new(&[[[80f32, f32::INFINITY, 89.0]]], &device())?;
    for implementation in [Implementation::Fused, Implementation::Composed] {
        let ys = xs.apply(&SoftPool1d::new(3).implementation(implementation))?;
        assert_eq!(
            ys.to_vec3::<f32>()?,
            [[[f32::INFINITY]]],
            "{implementation:?}"
        );
    }
    Ok(())
}

#[test]
fn minus_infinity_masks_a_cell() -> Result<()> {
    let xs = Tensor::new(&[[[5f32, 7.0, f32::NAN, 1.0]]], &device())?;
    let logits = Tensor::new(&[[[0f32, 0.0, f32::NEG_INFINITY, 3.0]]], &device())?;
    let ys = Lip1d::new(2).forward_with(&xs, &logits)?;
    assert_eq!(ys.to_vec3::<f32>()?, [[[6.0, 1.0]]]);
    Ok(())
}

#[test]
fn places_are_the_first_maxima_of_their_plane() -> Result<()> {
    let xs = Tensor::new(
        &[[[1f32, 4.0, 4.0, 2.0], [f32::NAN, 9.0, 0.0, f32::NAN]]],
        &device(),
    )?;
    let (ys, places) = MaxPool1d::new(2).stride(1).forward_with_indices(&xs)?;
    assert_eq!(places.to_vec3::<u32>()?, [[[1, 1, 2], [0, 1, 3]]]);
    let ys = ys.to_vec3::<f32>()?;
    assert_eq!(ys[0][0], [4.0, 4.0, 4.0]);
    assert!(ys[0][1][0].is_nan() && ys[0][1][1] == 9.0 && ys[0][1][2].is_nan());
    Ok(())
}

#[test]
fn adaptive_layers_are_pytorchs() -> Result<()> {
    // torch.nn.functional.adaptive_avg_pool1d and adaptive_max_pool1d of 0 to 4, to 3: cells 0–1, 1–3, 3–4.
    let xs = Tensor::new(&[[[0f32, 1.0, 2.0, 3.0, 4.0]]], &device())?;
    let ys = xs.apply(&AdaptiveAvgPool1d::new(3))?;
    assert_eq!(ys.to_vec3::<f32>()?, [[[0.5, 2.0, 3.5]]]);
    let ys = xs.apply(&AdaptiveMaxPool1d::new(3))?;
    assert_eq!(ys.to_vec3::<f32>()?, [[[1.0, 3.0, 4.0]]]);
    let volume = Tensor::randn(0f64, 1., (2, 3, 4, 5, 6), &device())?;
    let ys = volume.apply(&AdaptiveAvgPool3d::new(1))?;
    let mean = volume.mean((2, 3, 4))?.flatten_all()?.to_vec1::<f64>()?;
    for (y, mean) in ys.flatten_all()?.to_vec1::<f64>()?.iter().zip(mean) {
        assert!((y - mean).abs() < 1e-14);
    }
    Ok(())
}

/// Where depths alone are padded, the zeros of a whole depth count.
#[test]
fn averages_count_padded_depths() -> Result<()> {
    let xs = Var::from_tensor(&Tensor::ones((1, 2, 2, 4, 20), DType::F32, &device())?)?;
    let layers: [&dyn ModuleT; 2] = [
        &AvgPool3d::new(2).padding((1, 0, 0)),
        &LpPool3d::new(1.0, 2).padding((1, 0, 0)),
    ];
    for layer in layers {
        let ys = layer.forward_t(&xs, false)?;
        assert_eq!(ys.dims(), [1, 2, 2, 2, 10]);
        let ys_of = ys.flatten_all()?.to_vec1::<f32>()?;
        assert!(ys_of.iter().all(|&y| y == 0.5), "{ys_of:?}");
        let dx = gradient(&xs, &ys)?.flatten_all()?.to_vec1::<f32>()?;
        assert!(dx.iter().all(|&dx| dx == 0.125), "{dx:?}");
    }
    Ok(())
}

/// candle sums what is broadcast in its own dtype, in which a sum of so many soon stands still.
#[test]
fn gradients_of_shared_logits_are_summed_in_f32() -> Result<()> {
    let channels = 512;
    let xs = Tensor::new(&[1f32, 3.0], &device())?.broadcast_as((1, channels, 1, 2))?;
    for dtype in [DType::BF16, DType::F16] {
        let xs = xs.to_dtype(dtype)?;
        let logits = Var::zeros((1, 1, 1, 2), dtype, &device())?;
        let ys = softmax_pool2d(&xs, logits.as_tensor(), (1, 2))?;
        // w·(x − y) = 1/2·(3 − 2) a channel, times 1/64.
        let grads = (ys * (1.0 / 64.0))?.sum_all()?.backward()?;
        let dz = grads.get(&logits).unwrap().to_dtype(DType::F32)?;
        let dz = dz.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(dz, [-4.0, 4.0], "{dtype:?}");
    }
    Ok(())
}

#[test]
fn softmax_pooling_of_an_input_by_itself_is_soft_pooling() -> Result<()> {
    let xs = Tensor::randn(0f32, 1., (2, 3, 9, 10), &device())?;
    let by_itself = softmax_pool2d_with_stride(&xs, &xs, (3, 2), 2)?;
    let soft = candle_softpool::soft_pool2d_with_stride(&xs, (3, 2), 2)?;
    let most = (by_itself - soft)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(most < 1e-6, "{most}");
    // One channel of logits for all.
    let shared = xs.narrow(1, 0, 1)?;
    assert_eq!(softmax_pool2d(&xs, &shared, 2)?.dims(), [2, 3, 4, 5]);
    Ok(())
}

#[test]
fn a_learned_temperature_begins_as_soft_pooling_and_has_its_derivative() -> Result<()> {
    let xs = Tensor::randn(0f64, 1., (2, 3, 6, 6), &device())?;
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F64, &device());
    let learned = SoftPool2d::new(3).stride(1).learned(3, vb)?;
    let ys = xs.apply(&learned)?;
    let plain = xs.apply(&SoftPool2d::new(3).stride(1))?;
    assert!((&ys - plain)?.abs()?.max_all()?.to_scalar::<f64>()? < 1e-12);
    let beta = vars.all_vars()[0].clone();
    let slopes = ys
        .sum_all()?
        .backward()?
        .get(&beta)
        .unwrap()
        .to_vec1::<f64>()?;
    let at = |step: f64| -> Result<Vec<f64>> {
        let pool = SoftPool2d::new(3).stride(1).beta(1.0 + step);
        xs.apply(&pool)?.sum((0, 2, 3))?.to_vec1::<f64>()
    };
    let (above, below) = (at(1e-6)?, at(-1e-6)?);
    for ((slope, above), below) in slopes.iter().zip(above).zip(below) {
        assert!((slope - (above - below) / 2e-6).abs() < 1e-6, "{slope}");
    }
    Ok(())
}

#[test]
fn any_module_gives_logits() -> Result<()> {
    let xs = Tensor::randn(0f32, 1., (1, 2, 8), &device())?;
    let pool = Lip1d::new(2).logits(candle_nn::Activation::Relu);
    let ys = xs.apply(&pool)?;
    let wanted = Lip1d::new(2).forward_with(&xs, &xs.relu()?)?;
    assert_eq!(ys.to_vec3::<f32>()?, wanted.to_vec3::<f32>()?);
    Ok(())
}

#[test]
fn the_backward_kernel_alone_gives_what_autograd_gives() -> Result<()> {
    let xs = Var::randn(0f32, 1f32, (2, 3, 9, 9), &device())?;
    let pool = SoftPool2d::new(3).stride(2);
    let ys = xs.apply(&pool)?;
    let by_autograd = gradient(&xs, &ys)?;
    let alone = pool.backward(&xs, &ys.ones_like()?)?;
    assert_eq!(
        alone.flatten_all()?.to_vec1::<f32>()?,
        by_autograd.flatten_all()?.to_vec1::<f32>()?
    );
    let wrong = pool
        .backward(&xs, &ys.narrow(2, 0, 2)?.contiguous()?)
        .unwrap_err()
        .to_string();
    assert!(
        wrong.contains("SoftPool2d") && wrong.contains("[2, 3, 2, 4]"),
        "{wrong}"
    );
    Ok(())
}
