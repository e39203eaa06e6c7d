//! Sizes and values at the ends of what is allowed.

mod common;

use candle_core::{DType, Device, Module, ModuleT, Result, Tensor, Var};
use candle_softpool::{
    softmax_pool1d_with_stride, AdaptiveAvgPool3d, AdaptiveSoftPool3d, AvgPool1d, AvgPool2d,
    Gradient, Implementation, LpPool1d, MaxPool1d, MaxPool3d, SoftPool1d, SoftPool2d, SoftPool3d,
    StochasticPool1d, StochasticPool3d,
};
use common::device;

/// Returns from a test that is too long for an interpreter of GPU kernels, or that is of the CPU's arithmetic.
macro_rules! cpu_only {
    () => {
        if !device().is_cpu() {
            println!("skipped: on the CPU alone");
            return Ok(());
        }
    };
}

fn cells(xs: &Tensor) -> Result<Vec<f64>> {
    xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The gradient of the input, that of the output given.
fn gradient(
    xs: &Tensor,
    grad: &Tensor,
    pool: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let xs = Var::from_tensor(xs)?;
    let loss = (pool(&xs)? * grad)?.sum_all()?;
    Ok(loss.backward()?.remove(&xs).expect("depends on the input"))
}

/// Small planes of several depths share a band.
#[test]
fn indices_of_small_volumes() -> Result<()> {
    let xs = common::randn(1, 1.0, (2, 3, 4, 4, 4), DType::F32)?;
    let (ys, indices) = MaxPool3d::new(2).forward_with_indices(&xs)?;
    let gathered = xs
        .reshape((2, 3, 64))?
        .gather(&indices.reshape((2, 3, 8))?, 2)?;
    assert!(cells(&gathered)? == cells(&ys)?);
    Ok(())
}

#[test]
fn draws_from_small_volumes() -> Result<()> {
    let xs = common::randn(1, 1.0, (2, 3, 4, 4, 4), DType::F32)?.abs()?;
    let pool = StochasticPool3d::new(2).seed(1);
    let var = Var::from_tensor(&xs)?;
    let ys = pool.forward_t(&var, true)?;
    let chosen = ys
        .sum_all()?
        .backward()?
        .remove(&var)
        .expect("depends on it");
    // What is drawn is where the gradient goes, and each window draws one of its own.
    let drawn = MaxPool3d::new(2).forward(&(xs * &chosen)?)?;
    assert!(cells(&drawn)? == cells(&ys)?);
    assert_eq!(cells(&chosen)?.iter().sum::<f64>(), 48.0);
    Ok(())
}

/// Planes whose rows are cut, of several depths.
#[test]
fn gradients_of_wide_volumes() -> Result<()> {
    let xs = common::randn(1, 1.0, (1, 2, 2, 20_000), DType::F32)?;
    let grad = common::randn(2, 1.0, (1, 2, 2, 10_000), DType::F32)?;
    let found = gradient(&xs, &grad, |xs| SoftPool3d::new((1, 1, 2)).forward(xs))?;
    let flat = gradient(&xs, &grad, |xs| SoftPool2d::new((1, 2)).forward(xs))?;
    assert!(cells(&found)? == cells(&flat)?);
    Ok(())
}

/// Windows that overlap down the rows, of rows that are whole and of rows so wide that they are cut.
#[test]
fn overlapping_windows_of_wide_rows() -> Result<()> {
    cpu_only!();
    for (rows, parts, columns) in [(3, 7, 3_000), (4, 7, 3_000), (5, 3, 75_000)] {
        let pool = SoftPool2d::new((rows, 3)).stride((1, 3));
        let xs = common::randn(1, 1.0, (1, 1, rows + 2, parts * columns), DType::F32)?;
        let grad = common::randn(2, 1.0, (1, 1, 3, parts * columns / 3), DType::F32)?;
        let of_parts = |part: &dyn Fn(usize) -> Result<Tensor>| {
            let all: Result<Vec<_>> = (0..parts).map(part).collect();
            Tensor::cat(&all?, 3)
        };
        let xs_of = |part: usize| xs.narrow(3, part * columns, columns);
        let grad_of = |part: usize| grad.narrow(3, part * columns / 3, columns / 3);
        common::assert_close(
            &pool.forward(&xs)?,
            &of_parts(&|part| pool.forward(&xs_of(part)?))?,
            2e-6,
        );
        for gradient in [Gradient::Paper, Gradient::Exact] {
            let pool = pool.gradient(gradient);
            common::assert_close(
                &pool.backward(&xs, &grad)?,
                &of_parts(&|part| pool.backward(&xs_of(part)?, &grad_of(part)?))?,
                4e-6,
            );
        }
    }
    Ok(())
}

/// Windows that slide and are nearly as wide as their row, which is so long that it is cut.
#[test]
fn wide_windows_of_long_rows() -> Result<()> {
    cpu_only!();
    let (columns, kernel) = (17_000, 16_500);
    let xs = common::randn(1, 1.0, (1, 1, columns), DType::F32)?;
    let grad = common::randn(2, 1.0, (1, 1, columns - kernel + 1), DType::F32)?;
    let pool = MaxPool1d::new(kernel).stride(1);
    let (x, g) = (cells(&xs)?, cells(&grad)?);
    let largest =
        |o: usize| (o..o + kernel).fold(o, |most, i| if x[i] > x[most] { i } else { most });
    let (mut y, mut dx) = (vec![], vec![0.0; columns]);
    for (o, g) in g.iter().enumerate() {
        let i = largest(o);
        y.push(x[i]);
        dx[i] += g;
    }
    assert!(cells(&pool.forward(&xs)?)? == y);
    let found = cells(&gradient(&xs, &grad, |xs| pool.forward(xs))?)?;
    for (found, wanted) in found.iter().zip(dx) {
        assert!((found - wanted).abs() < 1e-4, "{found}, not {wanted}");
    }
    Ok(())
}

/// Windows' shares of a cell may cancel while what goes with them does not.
#[test]
fn gradients_whose_shares_cancel() -> Result<()> {
    let xs = Tensor::new(&[[[1f32, 2.0, 4.0]]], &device())?;
    let grad = Tensor::new(&[[[1f32, -1.0]]], &device())?;
    let logits = xs.zeros_like()?;
    let dz = gradient(&logits, &grad, |z| softmax_pool1d_with_stride(&xs, z, 2, 1))?;
    let dz = cells(&dz)?;
    for (found, wanted) in dz.iter().zip([-0.25, 0.75, -0.5]) {
        assert!((found - wanted).abs() < 1e-6, "{dz:?}");
    }

    let xs = Tensor::new(&[[[1f32, 3.0, 2.0, 2.0, 2.0]]], &device())?;
    let pool = StochasticPool1d::new(3).stride(2);
    let dx = cells(&gradient(&xs, &grad, |xs| pool.forward(xs))?)?;
    assert!((dx[2] + 1.0 / 18.0).abs() < 1e-6, "{dx:?}");
    Ok(())
}

/// More cells than f32 counts.
#[test]
fn windows_of_2_to_the_24_cells() -> Result<()> {
    cpu_only!();
    let size = (1 << 24) + 4;
    let mut x = vec![0f32; size];
    x[(1 << 24) + 1] = 1.0;
    let xs = Tensor::from_vec(x, (1, 1, size), &device())?;
    let pool = MaxPool1d::new(size);
    let (_, indices) = pool.forward_with_indices(&xs)?;
    assert_eq!(indices.flatten_all()?.to_vec1::<u32>()?, [(1 << 24) + 1]);
    let grad = Tensor::ones((1, 1, 1), DType::F32, &device())?;
    let dx = gradient(&xs, &grad, |xs| pool.forward(xs))?;
    assert_eq!(
        dx.narrow(2, (1 << 24) + 1, 1)?
            .flatten_all()?
            .to_vec1::<f32>()?,
        [1.0]
    );
    Ok(())
}

/// Windows of many cells, half of which are zeros: weights that are all equal would all be rounded the same way.
#[test]
fn sums_of_many_terms() -> Result<()> {
    cpu_only!();
    let deep = [(64, 56, 56), (200, 8, 8), (16, 112, 112)];
    let flat = [(1, 1 << 18, 1), (1, 1 << 16, 4), (1, 224, 224)];
    let long = [(1, 1, 1 << 20), (1, 2, 100_000)];
    for (seed, (d, h, w)) in deep.into_iter().chain(flat).chain(long).enumerate() {
        let xs = common::randn(seed as u64, 1.0, (1, 1, d, h, w), DType::F32)?.relu()?;
        let x = cells(&xs)?;
        let largest = x.iter().fold(0.0, |a: f64, b| a.max(*b));
        let average = x.iter().sum::<f64>() / x.len() as f64;
        let total: f64 = x.iter().map(|x| x.exp()).sum();
        let softest = x.iter().map(|x| x.exp() * x).sum::<f64>() / total;

        let found = cells(&AdaptiveAvgPool3d::new(1).forward(&xs)?)?[0];
        let error = (found - average).abs() / largest;
        assert!(error <= 2e-6, "{:?}: average off by {error:e}", (d, h, w));
        let found = cells(&AdaptiveSoftPool3d::new(1).forward(&xs)?)?[0];
        let error = (found - softest).abs() / largest;
        assert!(error <= 2e-6, "{:?}: SoftPool off by {error:e}", (d, h, w));
    }
    Ok(())
}

/// Windows that reach far beyond the input.
#[test]
fn huge_kernels_strides_and_padding() -> Result<()> {
    cpu_only!();
    let xs = common::randn(1, 1.0, (1, 2, 1, 1), DType::F32)?;
    let pool = SoftPool3d::new((1 << 63, 1, 1))
        .padding((1 << 62, 0, 0))
        .stride(1);
    let ys = pool.forward(&xs)?;
    let dx = gradient(&xs, &ys.ones_like()?, |xs| pool.forward(xs))?;
    assert_eq!(dx.dims(), xs.dims());

    // A tensor that takes no memory, with more cells than fit in an integer.
    let cell = Tensor::ones(1, DType::F32, &Device::Cpu)?;
    let endless = cell.broadcast_as((1, 1 << 32, 1 << 32))?;
    let error = SoftPool2d::new(1 << 31).forward(&endless).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");

    let long = cell.broadcast_as((1, 1, 1 << 40))?;
    let ys = AvgPool1d::new(2).stride(1 << 39).forward(&long)?;
    assert_eq!(ys.flatten_all()?.to_vec1::<f32>()?, [1.0, 1.0]);
    Ok(())
}

/// Powers beyond the range of their dtype.
#[test]
fn powers_that_overflow_or_vanish() -> Result<()> {
    let cases: [(f64, [f64; 2]); 4] = [
        (20.0, [1e-3, 5e-4]),
        (20.0, [1e3, 5e2]),
        (2.0, [1e-25, 3e-25]),
        (0.5, [0.0, 1e-30]),
    ];
    for (p, x) in cases {
        let xs = Var::from_tensor(&Tensor::new(&[[x]], &device())?.to_dtype(DType::F32)?)?;
        let ys = LpPool1d::new(p, 2).forward(&xs)?;
        let dx = ys
            .sum_all()?
            .backward()?
            .remove(&xs)
            .expect("depends on it");
        let most = x[0].max(x[1]);
        let sum: f64 = x.iter().map(|x| (x / most).powf(p)).sum();
        let y = most * (sum / 2.0).powf(1.0 / p);
        let (found, slope) = (cells(&ys)?[0], cells(&dx)?[1]);
        assert!((found / y - 1.0).abs() < 1e-5, "p = {p}: {found} {y}");
        let wanted = (x[1] / y).powf(p - 1.0) / 2.0;
        assert!(
            (slope - wanted).abs() <= 1e-5 * wanted,
            "p = {p}: {slope} {wanted}"
        );
    }
    Ok(())
}

/// That the output of one window of `x`, and the gradient of its first cell for one of `g`, are those given.
fn check(
    x: &[f64],
    dtype: DType,
    pool: &dyn Fn(&Tensor) -> Result<Tensor>,
    (y, g, dx): (f64, f64, f64),
) -> Result<()> {
    let xs = Tensor::new(x, &device())?
        .reshape((1, 1, ()))?
        .to_dtype(dtype)?;
    let tolerance = match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-6,
        _ => 4e-3,
    };
    let found = cells(&pool(&xs)?)?[0];
    assert!(
        (found - y).abs() <= tolerance * y.abs(),
        "{dtype:?} {x:?}: {found}, not {y}"
    );
    let grad = (Tensor::ones((1, 1, 1), dtype, &device())? * g)?;
    let found = cells(&gradient(&xs, &grad, pool)?)?[0];
    assert!(
        (found - dx).abs() <= 4.0 * tolerance * dx.abs(),
        "{dtype:?} {x:?}: gradient {found}, not {dx}"
    );
    Ok(())
}

/// Sums of powers of cells that are small, but not so small that they vanish.
#[test]
fn powers_of_small_cells() -> Result<()> {
    let mut one_of_many = [1e-5; 3136];
    one_of_many[0] = 1.05e-3;
    let cases: [(f64, &[f64], DType); 4] = [
        (10.0, &[1.2e-3, 4e-4], DType::F64),
        (2.0, &[3e-15, 1e-15], DType::F64),
        (2.0, &[3e-150, 1e-150], DType::F64),
        (10.0, &one_of_many, DType::F32),
    ];
    for (p, x, dtype) in cases {
        let n = x.len() as f64;
        let sum: f64 = x.iter().map(|cell| (cell / x[0]).powf(p)).sum();
        let y = x[0] * (sum / n).powf(1.0 / p);
        let dx = (x[0] / y).powf(p - 1.0) / n;
        let pool = |xs: &Tensor| LpPool1d::new(p, x.len()).forward(xs);
        check(x, dtype, &pool, (y, 1.0, dx))?;
    }
    // A small gradient of large cells, which y^(1-p) makes smaller still.
    let pool = |xs: &Tensor| LpPool1d::new(20.0, 49).forward(xs);
    check(&[60.0; 49], DType::F32, &pool, (60.0, 1e-9, 1e-9 / 49.0))
}

/// What is not positive counts for nothing beside what is, however large it is and however small that.
#[test]
fn expectations_of_large_and_small_activations() -> Result<()> {
    use DType::{BF16, F32, F64};
    let cases: [(&[f64], DType, f64, f64); 10] = [
        (&[1.0, -3.3e38], F32, 1.0, 1.0),
        (&[2.0, -3.3e38], BF16, 2.0, 1.0),
        (&[1.0, -1e30], F32, 1.0, 1.0),
        (&[1.0, -1e300], F64, 1.0, 1.0),
        (&[1e-14, -1.0], F32, 1e-14, 1.0),
        (&[1e-28, -1.0], F32, 1e-28, 1.0),
        (&[1e-190, -1.0], F64, 1e-190, 1.0),
        (&[-1e-12, -3e-12], F32, -2e-12, 0.5),
        (&[-1e-16, -1e-16], F32, -1e-16, 0.5),
        (&[-1e5, -3e5], F32, -2e5, 0.5),
    ];
    for (x, dtype, y, dx) in cases {
        let pool = |xs: &Tensor| StochasticPool1d::new(x.len()).forward(xs);
        check(x, dtype, &pool, (y, 1.0, dx))?;
    }
    Ok(())
}

/// Differences of activations that overflow, by a β so small that they count.
#[test]
fn tiny_temperatures_of_huge_activations() -> Result<()> {
    for (dtype, most, beta) in [(DType::F32, 3e38, 5e-39), (DType::F64, 1.5e308, 1e-309)] {
        let t: f64 = 2.0 * (beta * most);
        let w = 1.0 / (1.0 + (-t).exp());
        let y = most * (2.0 * w - 1.0);
        for implementation in [Implementation::Fused, Implementation::Composed] {
            let pool = SoftPool1d::new(2).beta(beta).implementation(implementation);
            let pool = |xs: &Tensor| pool.forward(xs);
            check(&[most, -most], dtype, &pool, (y, 1.0, w))?;
        }
    }
    Ok(())
}

/// The product of an activation and its gradient may overflow where its weight makes it small again.
#[test]
fn gradients_of_logits_of_huge_activations() -> Result<()> {
    let xs = Tensor::new(&[[[1e36f32, 1.0]]], &device())?;
    let zs = Tensor::new(&[[[-80f32, 0.0]]], &device())?;
    let grad = Tensor::new(&[[[1e3f32]]], &device())?;
    let pool = |zs: &Tensor| softmax_pool1d_with_stride(&xs, zs, 2, 2);
    let found = cells(&gradient(&zs, &grad, pool)?)?[0];
    let weight = (-80f64).exp();
    let wanted = 1e3 * weight * (1e36 - 1e36 * weight);
    assert!((found / wanted - 1.0).abs() < 1e-5, "{found}, not {wanted}");
    Ok(())
}

#[test]
fn stochastic_pooling_of_values_at_the_ends() -> Result<()> {
    let pool = StochasticPool1d::new(2);
    let of = |x: [f64; 2]| -> Result<f64> {
        let xs = Tensor::new(&[[x]], &device())?;
        Ok(cells(&pool.forward(&xs)?)?[0])
    };
    assert_eq!(of([1.7e308, 1.7e308])?, 1.7e308);
    assert_eq!(of([f64::NEG_INFINITY, 1.0])?, 1.0);
    assert_eq!(of([f64::NEG_INFINITY, -1.0])?, f64::NEG_INFINITY);
    Ok(())
}

/// Of cells far below those of the window above it.
#[test]
fn a_tall_window_far_below_its_neighbour() -> Result<()> {
    let (tall, columns) = (1000, 4);
    let activations: Vec<f32> = (0..4 * tall * columns)
        .map(|i| {
            if i % columns == 0 && i < tall * columns {
                40.0
            } else {
                0.1
            }
        })
        .collect();
    let xs = Tensor::from_vec(activations, (1, 1, 4 * tall, columns), &device())?;
    let ys = SoftPool2d::new((tall, 1)).stride((tall, 1)).forward(&xs)?;
    for (i, y) in cells(&ys)?.into_iter().enumerate() {
        let wanted = if i == 0 { 40.0 } else { f64::from(0.1f32) };
        assert!((y - wanted).abs() <= 2e-6 * wanted, "{y}, not {wanted}");
    }
    Ok(())
}

/// Equal terms are all rounded the same way while their sum has the same exponent.
#[test]
fn windows_of_hundreds_of_equal_cells() -> Result<()> {
    for count in [100, 200, 256, 300, 1000, 5000] {
        for value in [0.1f32, 0.3, 0.7, 1.9] {
            let xs = Tensor::full(value, (1, 2, count, 3), &device())?;
            let down = [
                SoftPool2d::new((count, 1)).forward(&xs)?,
                AvgPool2d::new((count, 1)).forward(&xs)?,
                // Sliding windows of more rows lose digits, as docs/limits.md says.
                AvgPool2d::new((100, 1))
                    .stride(1)
                    .forward(&xs.narrow(2, 0, count.min(110))?)?,
            ];
            let xs = xs.transpose(2, 3)?;
            let along = [
                SoftPool2d::new((1, count)).forward(&xs)?,
                AvgPool2d::new((1, count)).forward(&xs)?,
            ];
            for (i, ys) in down.iter().chain(&along).enumerate() {
                for y in cells(ys)? {
                    let error = (y / f64::from(value) - 1.0).abs();
                    assert!(error <= 2e-6, "{count} of {value}, {i}: off by {error:e}");
                }
            }
        }
    }
    Ok(())
}

/// As exact as SoftPool with the same β, although neither β nor the logits are numbers of bf16.
#[test]
fn a_learned_beta_in_half_precision() -> Result<()> {
    let xs = Tensor::new(&[[[120f32, 120.5, 119.5, 120.0]]], &device())?.to_dtype(DType::BF16)?;
    let vars = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&vars, DType::F32, &device());
    let pool = SoftPool1d::new(4).gradient(Gradient::Exact);
    let learned = pool.learned(1, vb)?;
    vars.data().lock().unwrap()["beta"].set(&Tensor::new(&[1.1f32], &device())?)?;
    let grad = Tensor::ones((1, 1, 1), DType::BF16, &device())?;
    let found = cells(&gradient(&xs, &grad, |xs| learned.forward(xs))?)?;
    let wanted = cells(&pool.beta(1.1).backward(&xs, &grad)?)?;
    for (a, b) in found.iter().zip(&wanted) {
        assert!((a - b).abs() < 0.01, "{found:?} is not {wanted:?}");
    }
    Ok(())
}

/// A learned β of 1 is SoftPool with infinities too, and a cell that takes no part has none in the gradient of β.
#[test]
fn a_learned_beta_and_infinities() -> Result<()> {
    let infinite = f32::INFINITY;
    let windows = [
        [1.0, infinite],
        [-infinite, 1.0],
        [-infinite, -infinite],
        [f32::NAN, 1.0],
        [1e38, -1e38],
        [2.0, 3.0],
    ];
    for beta in [1f32, 10.0, -1.0] {
        let vars = candle_nn::VarMap::new();
        let vb = candle_nn::VarBuilder::from_varmap(&vars, DType::F32, &device());
        let learned = SoftPool1d::new(2).learned(1, vb)?;
        let var = vars.all_vars()[0].clone();
        var.set(&Tensor::new(&[beta], &device())?)?;
        let plain = SoftPool1d::new(2)
            .beta(beta.into())
            .gradient(Gradient::Exact);
        // All in one plane, then each by itself.
        let all = Tensor::new(windows.as_flattened(), &device())?.reshape((1, 1, ()))?;
        let each = Tensor::new(&windows, &device())?.unsqueeze(1)?;
        for xs in [all, each] {
            let (found, wanted) = (cells(&learned.forward(&xs)?)?, cells(&plain.forward(&xs)?)?);
            for (found, wanted) in found.iter().zip(&wanted) {
                let close = (found - wanted).abs() <= 2e-6 * wanted.abs();
                let same = found == wanted || found.is_nan() && wanted.is_nan();
                assert!(close || same, "β {beta}: {found}, not {wanted}");
            }
        }
    }
    let vars = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&vars, DType::F32, &device());
    let learned = SoftPool1d::new(3).learned(1, vb)?;
    let xs = Tensor::new(&[[[-infinite, 1.0, 2.0]]], &device())?;
    let grads = learned.forward(&xs)?.sum_all()?.backward()?;
    let slope = cells(grads.get(&vars.all_vars()[0]).expect("depends on it"))?[0];
    let w = 1.0 / (1.0 + (-1f64).exp());
    let wanted = 1.0 - w + 4.0 * w - (2.0 * w + 1.0 - w).powi(2);
    assert!((slope - wanted).abs() < 1e-6, "{slope}, not {wanted}");
    Ok(())
}

/// Gradients of a learned β are exact however far from 0 all activations lie.
#[test]
fn a_learned_beta_of_activations_with_an_offset() -> Result<()> {
    let xs = common::randn(1, 1.0, (1, 1, 4000), DType::F64)?;
    // Multiples of 2^-10: exact in f32 with the offset.
    let xs = ((xs * 1024.0)?.round()? / 1024.0)?;
    let slope = |xs: &Tensor| -> Result<f64> {
        let vars = candle_nn::VarMap::new();
        let vb = candle_nn::VarBuilder::from_varmap(&vars, xs.dtype(), &device());
        let learned = SoftPool1d::new(4).learned(1, vb)?;
        let grads = learned.forward(xs)?.sum_all()?.backward()?;
        Ok(cells(grads.get(&vars.all_vars()[0]).expect("depends on it"))?[0])
    };
    let wanted = slope(&xs)?;
    for offset in [0.0, 100.0, -1e4] {
        let found = slope(&(&xs + offset)?.to_dtype(DType::F32)?)?;
        assert!(
            (found / wanted - 1.0).abs() < 4e-6,
            "offset {offset}: {found}, not {wanted}"
        );
    }
    Ok(())
}
