//! Times of SoftPool on a CUDA device, beside a copy of the input and candle's own pooling kernels.
//!
//! `cargo bench --features cuda --bench cuda` prints lines of shape, dtype, method and milliseconds, tab-separated;
//! `benches/cuda/table.py` runs it, times PyTorch in the same way, and makes a table of both.

use anyhow::{Context, Result};
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::{DType, Device, Storage, Tensor};
use candle_softpool::backend::{cuda, Gradient, Weighting};
use candle_softpool::geometry::{Geometry, Windows};

/// `(N, C, H, W)`, kernel, stride, padding: as in `table.py`.
const SHAPES: [([usize; 4], usize, usize, usize); 6] = [
    ([64, 64, 112, 112], 2, 2, 0),
    ([64, 64, 112, 112], 3, 2, 0),
    ([64, 64, 112, 112], 3, 2, 1),
    ([32, 64, 224, 224], 7, 3, 0),
    ([32, 128, 56, 56], 13, 1, 6),
    ([64, 512, 56, 56], 56, 56, 0),
];
/// Inputs take turns, so many bytes of them that no cache holds what comes again.
const ROTATED: usize = 512 << 20;
/// Runs between two events, so that starting them is not what is measured.
const BATCH: usize = 20;
/// Batches that the median is of.
const BATCHES: usize = 21;

fn main() -> Result<()> {
    let device = Device::new_cuda(0)?;
    for (dims, k, s, p) in SHAPES {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            shape(&device, dims, (k, s, p), dtype)?;
        }
    }
    Ok(())
}

fn shape(
    device: &Device,
    dims: [usize; 4],
    (k, s, p): (usize, usize, usize),
    dtype: DType,
) -> Result<()> {
    let windows = Windows::Sliding {
        kernel: [k; 2],
        stride: [s; 2],
        padding: [p; 2],
        ceil_mode: false,
    };
    let geometry = Geometry::new("benchmark", &windows, &dims)?;
    let weighting = Weighting {
        beta: 1.0,
        nan_to_num: false,
    };
    let bytes = dims.iter().product::<usize>() * dtype.size_in_bytes();
    let inputs = (0..ROTATED.div_ceil(bytes) + 1)
        .map(|_| Tensor::randn(0f32, 1., &dims, device)?.to_dtype(dtype))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let shape = geometry.output_shape(inputs[0].shape());
    let grad = Tensor::randn(0f32, 1., &shape, device)?.to_dtype(dtype)?;
    let report = |method: &str, run: &dyn Fn(&Tensor) -> candle_core::Result<()>| -> Result<()> {
        let ms = time(device, &inputs, run).with_context(|| method.to_owned())?;
        println!("{dims:?} {k}/{s} p{p}\t{}\t{method}\t{ms}", dtype.as_str());
        Ok(())
    };
    report("copy", &|x| x.copy().map(drop))?;
    report("SoftPool forward", &|x| {
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            candle_core::bail!("not on a CUDA device")
        };
        cuda::forward(storage, layout, &geometry, weighting).map(drop)
    })?;
    for (name, gradient) in [
        ("SoftPool backward, paper", Gradient::Paper),
        ("SoftPool backward, exact", Gradient::Exact),
    ] {
        report(name, &|x| {
            let (x, layout) = x.storage_and_layout();
            let (dy, dy_layout) = grad.storage_and_layout();
            let (Storage::Cuda(x), Storage::Cuda(dy)) = (&*x, &*dy) else {
                candle_core::bail!("not on a CUDA device")
            };
            cuda::backward(x, layout, dy, dy_layout, &geometry, weighting, gradient).map(drop)
        })?;
    }
    if p == 0 {
        report("candle max_pool2d", &|x| {
            x.max_pool2d_with_stride(k, s).map(drop)
        })?;
        report("candle avg_pool2d", &|x| {
            x.avg_pool2d_with_stride(k, s).map(drop)
        })?;
    }
    Ok(())
}

/// Milliseconds of a run on the device: the median over batches.
fn time(
    device: &Device,
    inputs: &[Tensor],
    run: &dyn Fn(&Tensor) -> candle_core::Result<()>,
) -> Result<f32> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let mut turn = inputs.iter().cycle();
    let mut batch = || -> Result<f32> {
        // The events' wait has given memory back to the driver: this run fetches it again.
        run(&inputs[0])?;
        let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
        for x in turn.by_ref().take(BATCH) {
            run(x)?;
        }
        let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
        Ok(start.elapsed_ms(&end)? / BATCH as f32)
    };
    batch()?;
    let mut times = (0..BATCHES).map(|_| batch()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f32::total_cmp);
    Ok(times[BATCHES / 2])
}
