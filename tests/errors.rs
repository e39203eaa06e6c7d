//! Bad input gets an error that names the layer, the value and what is allowed; no size makes anything panic.

mod common;

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_softpool::{
    soft_pool1d, soft_pool2d, soft_pool2d_with_stride, soft_pool3d, AdaptiveSoftPool1d,
    AdaptiveSoftPool2d, AdaptiveSoftPool3d, Implementation, SoftPool, SoftPool1d, SoftPool2d,
    SoftPool3d,
};
use common::device;

/// The message without the backtrace that candle appends where `RUST_BACKTRACE` is set.
#[track_caller]
fn assert_error(result: Result<Tensor>, message: &str) {
    let found = result.unwrap_err().to_string();
    assert_eq!(found.lines().next(), Some(message));
}

fn zeros(dims: &[usize]) -> Tensor {
    Tensor::zeros(dims, DType::F32, &device()).unwrap()
}

/// Both implementations of a layer give the same error.
macro_rules! assert_errors {
    ($layer:expr, $xs:expr, $message:expr) => {
        assert_error($layer.forward(&$xs), $message);
        let composed = $layer.implementation(Implementation::Composed);
        assert_error(composed.forward(&$xs), $message);
    };
}

#[test]
fn kernel() {
    let xs = zeros(&[1, 3, 8, 9]);
    assert_errors!(
        SoftPool2d::new((2, 0)),
        xs,
        "SoftPool2d: kernel [2, 0], expected at least 1 in every dimension"
    );
    assert_errors!(
        SoftPool2d::new((2, 10)),
        xs,
        "SoftPool2d: kernel [2, 10] is larger than the padded input: spatial size [8, 9] with padding [0, 0] on both sides"
    );
    assert_errors!(
        SoftPool3d::new(13).padding((1, 2, 3)),
        zeros(&[3, 11, 8, 9]),
        "SoftPool3d: kernel [13, 13, 13] is larger than the padded input: spatial size [11, 8, 9] with padding [1, 2, 3] on both sides"
    );
    assert_errors!(
        SoftPool2d::new(5).stride((2, 1)).ceil_mode(true),
        zeros(&[1, 4, 4]),
        "SoftPool2d: kernel [5, 5] is larger than the padded input: spatial size [4, 4] with padding [0, 0] on both sides; ceil mode takes what is less than a stride larger: [2, 1]"
    );
    assert_error(
        soft_pool1d(&zeros(&[1, 4]), 5),
        "SoftPool1d: kernel [5] is larger than the padded input: spatial size [4] with padding [0] on both sides",
    );
    assert_error(
        soft_pool3d(&zeros(&[1, 1, 4, 4, 4]), (0, 1, 1)),
        "SoftPool3d: kernel [0, 1, 1], expected at least 1 in every dimension",
    );
}

#[test]
fn stride() {
    assert_errors!(
        SoftPool2d::new(2).stride((0, 1)),
        zeros(&[1, 3, 8, 9]),
        "SoftPool2d: stride [0, 1], expected at least 1 in every dimension"
    );
    assert_error(
        soft_pool2d_with_stride(&zeros(&[1, 3, 8, 9]), 2, 0),
        "SoftPool2d: stride [0, 0], expected at least 1 in every dimension",
    );
}

#[test]
fn padding() {
    assert_errors!(
        SoftPool2d::new(3).padding((1, 2)),
        zeros(&[1, 3, 8, 9]),
        "SoftPool2d: padding [1, 2] for kernel [3, 3], expected at most half of it: [1, 1]"
    );
}

#[test]
fn adaptive_output() {
    assert_errors!(
        AdaptiveSoftPool2d::new((0, 2)),
        zeros(&[1, 3, 8, 9]),
        "AdaptiveSoftPool2d: output size [0, 2], expected at least 1 in every dimension"
    );
}

#[test]
fn beta() {
    for (beta, name) in [
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        let message = |layer: &str| format!("{layer}: beta is {name}, expected a finite number");
        let xs = zeros(&[3, 8]);
        assert_errors!(SoftPool1d::new(2).beta(beta), xs, &message("SoftPool1d"));
        let adaptive = AdaptiveSoftPool1d::new(2).beta(beta);
        assert_errors!(adaptive, xs, &message("AdaptiveSoftPool1d"));
    }
}

#[test]
fn rank() {
    for (dims, count) in [(vec![], 0), (vec![4], 1), (vec![1; 4], 4)] {
        let message = format!("1d: input of shape {dims:?} has {count} dimensions, expected 2 or 3: (C, L) or (N, C, L)");
        let xs = zeros(&dims);
        assert_errors!(SoftPool1d::new(1), xs, &format!("SoftPool{message}"));
        let adaptive = AdaptiveSoftPool1d::new(1);
        assert_errors!(adaptive, xs, &format!("AdaptiveSoftPool{message}"));
    }
    for (dims, count) in [(vec![4, 4], 2), (vec![1; 5], 5)] {
        let message = format!("2d: input of shape {dims:?} has {count} dimensions, expected 3 or 4: (C, H, W) or (N, C, H, W)");
        let xs = zeros(&dims);
        assert_errors!(SoftPool2d::new(1), xs, &format!("SoftPool{message}"));
        let adaptive = AdaptiveSoftPool2d::new(1);
        assert_errors!(adaptive, xs, &format!("AdaptiveSoftPool{message}"));
        assert_error(soft_pool2d(&xs, 1), &format!("SoftPool{message}"));
    }
    for (dims, count) in [(vec![4; 3], 3), (vec![1; 6], 6)] {
        let message = format!("3d: input of shape {dims:?} has {count} dimensions, expected 4 or 5: (C, D, H, W) or (N, C, D, H, W)");
        let xs = zeros(&dims);
        assert_errors!(SoftPool3d::new(1), xs, &format!("SoftPool{message}"));
        let adaptive = AdaptiveSoftPool3d::new(1);
        assert_errors!(adaptive, xs, &format!("AdaptiveSoftPool{message}"));
    }
}

#[test]
fn spatial_size_of_zero() {
    assert_errors!(
        SoftPool2d::new(1),
        zeros(&[1, 3, 8, 0]),
        "SoftPool2d: input of shape [1, 3, 8, 0] has a spatial size of 0, expected at least 1"
    );
    assert_errors!(
        AdaptiveSoftPool2d::new(1),
        zeros(&[3, 0, 8]),
        "AdaptiveSoftPool2d: input of shape [3, 0, 8] has a spatial size of 0, expected at least 1"
    );
}

#[test]
fn dtype() -> Result<()> {
    for dtype in [
        DType::U8,
        DType::U32,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::F8E4M3,
    ] {
        let xs = Tensor::zeros((1, 3, 4, 4), DType::F32, &Device::Cpu)?.to_dtype(dtype)?;
        let message = format!("input of dtype {dtype:?}, expected F16, BF16, F32 or F64");
        assert_errors!(SoftPool2d::new(2), xs, &format!("SoftPool2d: {message}"));
        let adaptive = AdaptiveSoftPool2d::new(2);
        assert_errors!(adaptive, xs, &format!("AdaptiveSoftPool2d: {message}"));
    }
    Ok(())
}

#[test]
fn an_output_too_large() {
    let most = usize::MAX;
    assert_errors!(
        AdaptiveSoftPool2d::new((most, 2)),
        zeros(&[1, 3, 8, 9]),
        &format!(
            "AdaptiveSoftPool2d: an output of shape [1, 3, {most}, 2] is too large to address"
        )
    );
}

/// Within the address space, but beyond any memory; other devices have words of their own.
#[cfg(target_pointer_width = "64")] // In 32 bits there may be as much memory as addresses.
#[test]
fn an_output_beyond_any_memory() {
    if !device().is_cpu() {
        return;
    }
    assert_error(
        AdaptiveSoftPool1d::new(1 << 50).forward(&zeros(&[1, 8])),
        "pooling: no memory for 1 planes of 1125899906842624 cells",
    );
}

/// Places are u32.
#[cfg(target_pointer_width = "64")] // In 32 bits no tensor has so many cells.
#[test]
fn planes_of_more_cells_than_places() -> Result<()> {
    use candle_core::ModuleT;
    use candle_softpool::{MaxPool2d, Pooling2d, S3Pool2d, StochasticPool2d};

    let side = 1 << 16;
    let xs = zeros(&[1, 1, 1, 1]).broadcast_as((1, 1, side, side))?;
    let layers = [
        ("MaxPool2d", Pooling2d::from(MaxPool2d::new(2))),
        ("S3Pool2d", S3Pool2d::new(2).into()),
        ("StochasticPool2d", StochasticPool2d::new(2).into()),
    ];
    for (name, layer) in layers {
        let message = format!(
            "{name}: input of shape [1, 1, {side}, {side}] has planes of 2^32 cells or more"
        );
        assert_error(layer.forward_t(&xs, true), &message);
    }
    Ok(())
}

/// Every field at every extreme: an answer of the right shape or an error.
#[test]
fn extreme_sizes() -> Result<()> {
    const SIZES: [usize; 8] = [
        0,
        1,
        3,
        7,
        usize::MAX / 2,
        usize::MAX / 2 + 1,
        usize::MAX - 1,
        usize::MAX,
    ];
    let mut answers = 0;
    for dtype in common::dtypes() {
        for kernel in SIZES {
            for stride in SIZES {
                for padding in SIZES {
                    for ceil_mode in [false, true] {
                        let pool = SoftPool2d::new((kernel, 2))
                            .stride((stride, 1))
                            .padding((padding, 1))
                            .ceil_mode(ceil_mode);
                        answers += forward_and_backward(pool, &[1, 2, 5, 6], dtype)?;
                        let pool = SoftPool::<3>::new((2, 1, kernel))
                            .stride((1, 1, stride))
                            .padding((0, 0, padding))
                            .ceil_mode(ceil_mode);
                        answers += forward_and_backward(pool, &[1, 2, 1, 9], dtype)?;
                    }
                }
            }
        }
    }
    assert!(answers > 500 * common::dtypes().len() / 4, "{answers}");
    Ok(())
}

/// 1 for an answer, 0 for an error.
fn forward_and_backward<const D: usize>(
    pool: SoftPool<D>,
    dims: &[usize],
    dtype: DType,
) -> Result<usize> {
    let xs = candle_core::Var::zeros(dims, dtype, &device())?;
    let Ok(ys) = pool.forward(&xs) else {
        return Ok(0);
    };
    assert!(common::values(&ys)?.iter().all(|y| *y == 0.0), "{pool:?}");
    let dx = ys.sum_all()?.backward()?.remove(&xs).unwrap();
    assert_eq!(dx.dims(), dims);
    // The weights of every window sum to one.
    let windows = ys.elem_count() as f64;
    let sum: f64 = common::values(&dx)?.iter().sum();
    assert!((sum - windows).abs() < 0.02 * windows, "{pool:?}: {sum}");
    Ok(1)
}
