//! Times of SoftPool on a CUDA device, beside a copy of the input and candle's own pooling kernels.
//!
//! `cargo bench --features cuda --bench cuda` prints lines of shape, dtype, method and milliseconds, tab-separated;
//! `benches/cuda/table.py` runs it, times PyTorch in the same way, and makes a table of both.

use anyhow::{ensure, Context, Result};
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::{DType, Device, Storage, Tensor};
use candle_softpool::backend::cuda::{self, Tensors};
use candle_softpool::backend::{Gradient, Method, Weighting};
use candle_softpool::geometry::{Geometry, Windows};

/// `(N, C, spatial…)`, kernel, stride, padding, and the activations' standard deviation: as in `table.py`.
type Case = (&'static [usize], usize, usize, usize, f64);
const CASES: [Case; 10] = [
    (&[64, 64, 112, 112], 2, 2, 0, 1.0),
    (&[64, 64, 112, 112], 3, 2, 0, 1.0),
    (&[64, 64, 112, 112], 3, 2, 1, 1.0),
    (&[32, 64, 224, 224], 7, 3, 0, 1.0),
    (&[32, 128, 56, 56], 13, 1, 6, 1.0),
    (&[64, 512, 56, 56], 56, 56, 0, 1.0),
    (&[64, 2048, 7, 7], 7, 7, 0, 1.0),
    (&[64, 64, 113, 113], 3, 2, 1, 1.0),
    (&[64, 64, 112, 112], 3, 2, 1, 5.0),
    (&[8, 64, 16, 56, 56], 2, 2, 0, 1.0),
];
/// Inputs take turns, so many bytes of them that no cache holds what comes again.
const ROTATED: usize = 512 << 20;
/// Runs between two events, so that starting them is not what is measured.
const BATCH: usize = 20;
/// Batches that the median is of.
const BATCHES: usize = 21;

fn main() -> Result<()> {
    let device = Device::new_cuda(0)?;
    let mut failed = 0;
    for case in CASES {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // The others are worth having all the same.
            if let Err(error) = measure(&device, case, dtype) {
                eprintln!("{} {}: {error:#}", name(case), dtype.as_str());
                failed += 1;
            }
        }
    }
    ensure!(failed == 0, "{failed} cases failed, see above");
    Ok(())
}

fn name((dims, k, s, p, deviation): Case) -> String {
    format!("{dims:?} {k}/{s} p{p} σ{deviation}")
}

fn geometry<const D: usize>((dims, k, s, p, _): Case) -> candle_core::Result<Geometry> {
    let windows = Windows::<D>::Sliding {
        kernel: [k; D],
        stride: [s; D],
        padding: [p; D],
        ceil_mode: false,
    };
    Geometry::new("benchmark", &windows, dims)
}

fn measure(device: &Device, case: Case, dtype: DType) -> Result<()> {
    let (dims, k, s, p, deviation) = case;
    let geometry = match dims.len() {
        4 => geometry::<2>(case)?,
        _ => geometry::<3>(case)?,
    };
    let method = Method::SoftPool(Weighting {
        beta: 1.0,
        nan_to_num: false,
    });
    let bytes = dims.iter().product::<usize>() * dtype.size_in_bytes();
    let inputs = (0..ROTATED.div_ceil(bytes) + 1)
        .map(|_| Tensor::randn(0f32, deviation as f32, dims, device)?.to_dtype(dtype))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let shape = geometry.output_shape(inputs[0].shape());
    let grad = Tensor::randn(0f32, 1., &shape, device)?.to_dtype(dtype)?;
    let report = |method: &str, run: &dyn Fn(&Tensor) -> candle_core::Result<()>| -> Result<()> {
        let ms = time(device, &inputs, run).with_context(|| method.to_owned())?;
        println!("{}\t{}\t{method}\t{ms}", name(case), dtype.as_str());
        Ok(())
    };
    report("copy", &|x| x.copy().map(drop))?;
    report("SoftPool forward", &|x| {
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            candle_core::bail!("not on a CUDA device")
        };
        cuda::forward(Tensors::new(storage, layout), &geometry, method).map(drop)
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
            let tensors = Tensors::new(x, layout).with_grad(dy, dy_layout);
            cuda::backward(tensors, &geometry, method, gradient).map(drop)
        })?;
    }
    if p == 0 && dims.len() == 4 {
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
