//! Times of SoftPool on a CUDA device, beside a copy of the input and candle's own pooling kernels.
//!
//! `cargo bench --features cuda --bench cuda` prints lines of shape, dtype, method and milliseconds, tab-separated;
//! `benches/cuda/table.py` runs it, times PyTorch in the same way, and makes a table of both.
//! With `--smoke` every case runs a few times on two planes, only to show that it runs.

use anyhow::{ensure, Context, Result};
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};
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

/// How much is measured.
struct Effort {
    /// Inputs take turns, so many bytes of them that no cache holds what comes again.
    rotated: usize,
    /// Runs between two events, so that starting them is not what is measured.
    batch: usize,
    /// Batches that the median is of.
    batches: usize,
    /// Planes of an input, if not the case's.
    planes: Option<[usize; 2]>,
}

const MEASURE: Effort = Effort {
    rotated: 512 << 20,
    batch: 20,
    batches: 21,
    planes: None,
};
const SMOKE: Effort = Effort {
    rotated: 0,
    batch: 1,
    batches: 1,
    planes: Some([1, 2]),
};

fn main() -> Result<()> {
    let device = Device::new_cuda(0)?;
    let effort = match std::env::args().any(|argument| argument == "--smoke") {
        true => SMOKE,
        false => MEASURE,
    };
    let mut failed = 0;
    for case in CASES {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // The others are worth having all the same.
            if let Err(error) = measure(&device, case, dtype, &effort) {
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

fn geometry<const D: usize>(
    dims: &[usize],
    (_, k, s, p, _): Case,
) -> candle_core::Result<Geometry> {
    let windows = Windows::<D>::Sliding {
        kernel: [k; D],
        stride: [s; D],
        padding: [p; D],
        ceil_mode: false,
    };
    Geometry::new("benchmark", &windows, dims)
}

fn measure(device: &Device, case: Case, dtype: DType, effort: &Effort) -> Result<()> {
    let (dims, k, s, p, deviation) = case;
    let mut dims = dims.to_vec();
    if let Some(planes) = effort.planes {
        dims[..2].copy_from_slice(&planes);
    }
    let geometry = match dims.len() {
        4 => geometry::<2>(&dims, case)?,
        _ => geometry::<3>(&dims, case)?,
    };
    let method = Method::SoftPool(Weighting {
        beta: 1.0,
        nan_to_num: false,
    });
    let bytes = dims.iter().product::<usize>() * dtype.size_in_bytes();
    let inputs = (0..effort.rotated.div_ceil(bytes) + 1)
        .map(|_| Tensor::randn(0f32, deviation as f32, dims.as_slice(), device)?.to_dtype(dtype))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let shape = geometry.output_shape(inputs[0].shape());
    let grad = Tensor::randn(0f32, 1., &shape, device)?.to_dtype(dtype)?;
    let report = |method: &str, run: &dyn Fn(&Tensor) -> candle_core::Result<()>| -> Result<()> {
        let ms = time(device, &inputs, effort, run).with_context(|| method.to_owned())?;
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
        type Pooled = fn(&Tensor, usize, usize) -> candle_core::Result<Tensor>;
        let pools: [(&str, Pooled); 2] = [
            ("max_pool2d", |x, k, s| x.max_pool2d_with_stride(k, s)),
            ("avg_pool2d", |x, k, s| x.avg_pool2d_with_stride(k, s)),
        ];
        for (name, pool) in pools {
            let alone = Alone::new(name, &inputs[0], &grad, (k, s))?;
            alone.launch(&inputs[0])?;
            ensure!(
                same(&alone.output, &pool(&inputs[0], k, s)?)?,
                "candle's kernel {name} gives something else than candle"
            );
            report(&format!("candle {name}, its kernel alone"), &|x| {
                alone.launch(x)
            })?;
            report(&format!("candle {name}"), &|x| pool(x, k, s).map(drop))?;
        }
    }
    Ok(())
}

fn same(a: &Tensor, b: &Tensor) -> candle_core::Result<bool> {
    let cells = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    Ok(cells(a)? == cells(b)?)
}

/// One of candle's own pooling kernels, from its module: without what candle does around it.
struct Alone {
    device: CudaDevice,
    name: String,
    /// Sizes and then strides of the input, on the device.
    info: CudaSlice<usize>,
    output: Tensor,
    /// Of the input.
    cells: usize,
    kernel: usize,
    stride: usize,
}

impl Alone {
    fn new(
        name: &str,
        input: &Tensor,
        output: &Tensor,
        (kernel, stride): (usize, usize),
    ) -> candle_core::Result<Self> {
        let device = input.device().as_cuda_device()?.clone();
        let info = [input.dims(), input.stride()].concat();
        Ok(Self {
            info: device.clone_htod(&info)?,
            device,
            name: format!("{name}_{}", input.dtype().as_str()),
            output: output.zeros_like()?,
            cells: input.elem_count(),
            kernel,
            stride,
        })
    }

    fn launch(&self, x: &Tensor) -> candle_core::Result<()> {
        let function = self
            .device
            .get_or_load_func(&self.name, &candle_kernels::CONV)?;
        let (x, y) = (x.storage_and_layout().0, self.output.storage_and_layout().0);
        let (Storage::Cuda(x), Storage::Cuda(y)) = (&*x, &*y) else {
            candle_core::bail!("not on a CUDA device")
        };
        let config = LaunchConfig::for_num_elems(self.output.elem_count() as u32);
        let mut arguments = function.builder();
        let (k, s) = (&self.kernel, &self.stride);
        for size in [&self.cells, k, k, s, s] {
            arguments.arg(size);
        }
        arguments.arg(&self.info);
        // SAFETY: the arguments of candle's kernel, and its output has the sizes that they say.
        match (&x.slice, &y.slice) {
            (CudaStorageSlice::F16(x), CudaStorageSlice::F16(y)) => unsafe {
                arguments.arg(x).arg(y).launch(config)
            },
            (CudaStorageSlice::BF16(x), CudaStorageSlice::BF16(y)) => unsafe {
                arguments.arg(x).arg(y).launch(config)
            },
            (CudaStorageSlice::F32(x), CudaStorageSlice::F32(y)) => unsafe {
                arguments.arg(x).arg(y).launch(config)
            },
            _ => candle_core::bail!("no kernel of candle's for this dtype"),
        }
        .w()
        .map(drop)
    }
}

/// Milliseconds of a run on the device: the median over batches.
fn time(
    device: &Device,
    inputs: &[Tensor],
    effort: &Effort,
    run: &dyn Fn(&Tensor) -> candle_core::Result<()>,
) -> Result<f32> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let mut turn = inputs.iter().cycle();
    let mut batch = || -> Result<f32> {
        // The events' wait has given memory back to the driver: this run fetches it again.
        run(&inputs[0])?;
        let start = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
        for x in turn.by_ref().take(effort.batch) {
            run(x)?;
        }
        let end = stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
        Ok(start.elapsed_ms(&end)? / effort.batch as f32)
    };
    batch()?;
    let mut times = (0..effort.batches)
        .map(|_| batch())
        .collect::<Result<Vec<_>>>()?;
    times.sort_by(f32::total_cmp);
    Ok(times[effort.batches / 2])
}
