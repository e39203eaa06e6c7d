//! The CUDA backend: the kernels of `cuda/softpool.cu`, launched on candle's stream.

use super::cpu::Element;
use super::params::Params;
use super::plan::{self, Launch, Plan};
use super::{Gradient, Weighting};
use crate::geometry::Geometry;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaView, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorageSlice, WrapErr};
use candle_core::{bail, CudaStorage, DType, Error, Layout, Result};

/// Name and PTX of the kernels of each dtype and index.
const MODULES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

// SAFETY: `Params` is `repr(C)`, plain numbers without padding, and `cuda/softpool.cu` declares the same.
unsafe impl DeviceRepr for Params {}

/// A dtype that the kernels take.
trait CudaElement: Element<Compute: DeviceRepr> + CudaDType + DeviceRepr {}
impl<T: Element<Compute: DeviceRepr> + CudaDType + DeviceRepr> CudaElement for T {}

/// Runs `$body` with the storages' cells as slices of the element type that they share.
macro_rules! dispatch {
    ($name:literal, ($($storage:ident),+), $body:expr) => {
        match ($(&$storage.slice,)+) {
            dispatch!(@pattern F16 ($($storage),+)) => $body,
            dispatch!(@pattern BF16 ($($storage),+)) => $body,
            dispatch!(@pattern F32 ($($storage),+)) => $body,
            dispatch!(@pattern F64 ($($storage),+)) => $body,
            _ => bail!(concat!($name, ": expected tensors of one dtype out of f16, bf16, f32, f64")),
        }
    };
    (@pattern $dtype:ident ($($storage:ident),+)) => { ($(CudaStorageSlice::$dtype($storage),)+) };
}

/// SoftPool of every plane of `input`, contiguous.
pub fn forward(
    input: &CudaStorage,
    layout: &Layout,
    geometry: &Geometry,
    weighting: Weighting,
) -> Result<CudaStorage> {
    let plan = plan::forward(input.dtype(), layout, geometry, weighting)?;
    run(&plan, input, layout, input, layout)
}

/// The gradient of the input of `forward`, contiguous, from that of its output.
pub fn backward(
    input: &CudaStorage,
    layout: &Layout,
    grad: &CudaStorage,
    grad_layout: &Layout,
    geometry: &Geometry,
    weighting: Weighting,
    gradient: Gradient,
) -> Result<CudaStorage> {
    let dtype = input.dtype();
    let plan = plan::backward(dtype, layout, grad_layout, geometry, weighting, gradient)?;
    run(&plan, input, layout, grad, grad_layout)
}

/// The output of a plan; a forward pass has no use for the gradient.
pub fn run(
    plan: &Plan,
    input: &CudaStorage,
    layout: &Layout,
    grad: &CudaStorage,
    grad_layout: &Layout,
) -> Result<CudaStorage> {
    let device = input.device();
    dispatch!("SoftPool", (input, grad), {
        let input = input.slice(layout.start_offset().min(input.len())..);
        let grad = grad.slice(grad_layout.start_offset().min(grad.len())..);
        launch_all(device, plan, &input, &grad)
    })
}

/// Launches a plan's kernels, one after another.
fn launch_all<T: CudaElement>(
    device: &CudaDevice,
    plan: &Plan,
    input: &CudaView<'_, T>,
    grad: &CudaView<'_, T>,
) -> Result<CudaStorage> {
    // The driver has no allocations of nothing.
    // SAFETY: the kernels write every cell of the output; of the scratch buffer they read what they wrote.
    let output = unsafe { device.alloc::<T>(plan.output.max(1)) };
    let mut output = output.map_err(|e| no_memory(e, plan.output * size_of::<T>()))?;
    let mut scratch = match plan.scratch {
        0 => None,
        // SAFETY: as above.
        n => Some(
            unsafe { device.alloc::<T::Compute>(n) }
                .map_err(|e| no_memory(e, n * size_of::<T::Compute>()))?,
        ),
    };
    for launch in &plan.launches {
        let (module, ptx) = module(launch, T::DTYPE)?;
        let function = device
            .get_or_load_custom_func(&launch.function(T::DTYPE), &module, ptx)
            .map_err(unloadable)?;
        let mut arguments = function.builder();
        arguments.arg(input).arg(grad).arg(&mut output);
        match &mut scratch {
            Some(scratch) => arguments.arg(scratch),
            None => arguments.arg(&0u64),
        };
        arguments.arg(&launch.params);
        start(arguments, launch, T::DTYPE)?;
    }
    Ok(CudaStorage::wrap_cuda_slice(output, device.clone()))
}

/// The module that has a launch's kernel, by the name that candle keeps it under, and its PTX.
fn module(launch: &Launch, dtype: DType) -> Result<(String, &'static str)> {
    let name = launch.module(dtype);
    match MODULES.iter().find(|(module, _)| *module == name) {
        Some((_, ptx)) => {
            let version = env!("CARGO_PKG_VERSION");
            Ok((format!("candle-softpool-{version}-{name}"), ptx))
        }
        None => bail!("SoftPool: no CUDA kernels for {name}"),
    }
}

fn start(mut arguments: LaunchArgs<'_>, launch: &Launch, dtype: DType) -> Result<()> {
    let config = LaunchConfig {
        grid_dim: (launch.grid, 1, 1),
        block_dim: (launch.block, 1, 1),
        shared_mem_bytes: launch.shared_bytes(dtype) as u32,
    };
    // SAFETY: the arguments are those of all kernels of the file, and the plan keeps within the buffers.
    unsafe { arguments.launch(config) }.w().map(|_| ())
}

fn no_memory(error: Error, bytes: usize) -> Error {
    error.context(format!("SoftPool: {bytes} bytes on the CUDA device"))
}

fn unloadable(error: Error) -> Error {
    error.context(concat!(
        "SoftPool: its CUDA kernels do not load; they are PTX for compute capability ",
        env!("SOFTPOOL_COMPUTE_CAPABILITY"),
        " and up (CUDA_COMPUTE_CAP sets another when building), and need a driver at least as new as the toolkit \
         that compiled them"
    ))
}
