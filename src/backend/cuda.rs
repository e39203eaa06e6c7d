//! The CUDA backend: the kernels of `cuda/softpool.cu`, launched on candle's stream.

use super::cpu::Element;
use super::params::Params;
use super::plan::{self, Kernel, Launch, Plan};
pub use super::tensors::Tensors;
use super::{Gradient, Method};
use crate::geometry::Geometry;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaView, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{bail, CudaStorage, DType, Error, Layout, Result};
use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Name and PTX of the kernels of each rule, dtype and index.
const MODULES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

// SAFETY: `Params` is `repr(C)`, plain numbers without padding, and `kernels/params.h` declares the same.
unsafe impl DeviceRepr for Params {}

/// A dtype that the kernels take.
trait CudaElement: Element<Compute: DeviceRepr> + CudaDType + DeviceRepr {}
impl<T: Element<Compute: DeviceRepr> + CudaDType + DeviceRepr> CudaElement for T {}

/// Runs `$body` with the storages' cells as slices of the element type that they share.
macro_rules! dispatch {
    (($($storage:ident),+), $body:expr) => {
        match ($(&$storage.slice,)+) {
            dispatch!(@pattern F16 ($($storage),+)) => $body,
            dispatch!(@pattern BF16 ($($storage),+)) => $body,
            dispatch!(@pattern F32 ($($storage),+)) => $body,
            dispatch!(@pattern F64 ($($storage),+)) => $body,
            _ => bail!("pooling: expected tensors of one dtype out of f16, bf16, f32, f64"),
        }
    };
    (@pattern $dtype:ident ($($storage:ident),+)) => { ($(CudaStorageSlice::$dtype($storage),)+) };
}

/// The outputs of every plane, contiguous.
pub fn forward(
    tensors: Tensors<CudaStorage>,
    geometry: &Geometry,
    method: Method,
) -> Result<CudaStorage> {
    let plan = plan::forward(tensors.dtype(), tensors.layouts(), geometry, method)?;
    run(&plan, tensors)
}

/// The gradient of the activations from that of the outputs, contiguous, and behind it that of the logits if the method has some.
pub fn backward(
    tensors: Tensors<CudaStorage>,
    geometry: &Geometry,
    method: Method,
    gradient: Gradient,
) -> Result<CudaStorage> {
    let (dtype, layouts) = (tensors.dtype(), tensors.layouts());
    let plan = plan::backward(dtype, layouts, geometry, method, gradient)?;
    run(&plan, tensors)
}

/// The index in its plane of the largest activation of each window, in u32.
pub fn places(x: &CudaStorage, layout: &Layout, geometry: &Geometry) -> Result<CudaStorage> {
    let tensors = Tensors::new(x, layout);
    let plan = plan::places(tensors.dtype(), tensors.layouts(), geometry)?;
    dispatch!((x), {
        let x = x.slice(layout.start_offset().min(x.len())..);
        find_places(tensors.device(), &plan, &x)
    })
}

/// The output of a plan.
pub fn run(plan: &Plan, tensors: Tensors<CudaStorage>) -> Result<CudaStorage> {
    let [(x, x_layout), (z, z_layout), (g, g_layout)] = tensors.arguments();
    dispatch!((x, z, g), {
        let inputs = [
            x.slice(x_layout.start_offset().min(x.len())..),
            z.slice(z_layout.start_offset().min(z.len())..),
            g.slice(g_layout.start_offset().min(g.len())..),
        ];
        launch_all(tensors.device(), plan, &inputs)
    })
}

/// Launches a plan's kernels, one after another.
fn launch_all<T: CudaElement>(
    device: &CudaDevice,
    plan: &Plan,
    [x, z, g]: &[CudaView<'_, T>; 3],
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
    let stream = device.cuda_stream();
    for launch in &plan.launches {
        let function = function(device, launch, T::DTYPE)?;
        let mut arguments = stream.launch_builder(&function);
        arguments.arg(x).arg(z).arg(g).arg(&mut output);
        match &mut scratch {
            Some(scratch) => arguments.arg(scratch),
            None => arguments.arg(&0u64),
        };
        arguments.arg(&launch.params);
        start(arguments, launch, T::DTYPE)?;
    }
    Ok(CudaStorage::wrap_cuda_slice(output, device.clone()))
}

/// Launches a plan whose scratch buffer is what is wanted.
fn find_places<T: CudaElement>(
    device: &CudaDevice,
    plan: &Plan,
    x: &CudaView<'_, T>,
) -> Result<CudaStorage> {
    // SAFETY: the kernel writes the place of every window.
    let places = unsafe { device.alloc::<u32>(plan.output.max(1)) };
    let mut places = places.map_err(|e| no_memory(e, plan.output * size_of::<u32>()))?;
    let stream = device.cuda_stream();
    for launch in &plan.launches {
        let function = function(device, launch, T::DTYPE)?;
        let mut arguments = stream.launch_builder(&function);
        arguments.arg(x).arg(x).arg(x).arg(&0u64).arg(&mut places);
        arguments.arg(&launch.params);
        start(arguments, launch, T::DTYPE)?;
    }
    Ok(CudaStorage::wrap_cuda_slice(places, device.clone()))
}

/// A kernel as candle looks for it.
struct Entry {
    function: String,
    /// The name that candle keeps its module under.
    module: String,
    ptx: &'static str,
}

/// Every kernel by what a launch says of it.
static ENTRIES: LazyLock<HashMap<(Kernel, bool, DType), Entry>> = LazyLock::new(|| {
    let version = env!("CARGO_PKG_VERSION");
    let mut entries = HashMap::new();
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        for (kernel, wide) in Kernel::all().flat_map(|kernel| [(kernel, false), (kernel, true)]) {
            let module = plan::module(kernel, wide, dtype);
            if let Some((_, ptx)) = MODULES.iter().find(|(name, _)| *name == module) {
                let entry = Entry {
                    function: plan::function(kernel, wide, dtype),
                    module: format!("candle-softpool-{version}-{module}"),
                    ptx,
                };
                entries.insert((kernel, wide, dtype), entry);
            }
        }
    }
    entries
});

/// The modules that each device has loaded.
static LOADED: Mutex<Option<HashSet<(DeviceId, &'static str)>>> = Mutex::new(None);

/// The kernel of a launch, its module loaded if it is the first of it on the device.
fn function(device: &CudaDevice, launch: &Launch, dtype: DType) -> Result<CudaFunction> {
    let Some(entry) = ENTRIES.get(&(launch.kernel, launch.wide, dtype)) else {
        bail!(
            "pooling: no CUDA kernel for {:?} in {dtype:?}",
            launch.kernel
        )
    };
    let get = || {
        device
            .get_or_load_custom_func(&entry.function, &entry.module, entry.ptx)
            .map(|function| function.into_cuda_function())
            .map_err(unloadable)
    };
    // Candle lets two threads load one module at once: the later one replaces the earlier, which may be running.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let modules = loaded.get_or_insert_default();
    if modules.contains(&(device.id(), entry.module.as_str())) {
        drop(loaded);
        return get();
    }
    let function = get()?;
    modules.insert((device.id(), entry.module.as_str()));
    Ok(function)
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
    error.context(format!("pooling: {bytes} bytes on the CUDA device"))
}

fn unloadable(error: Error) -> Error {
    error.context(concat!(
        "pooling: its CUDA kernels do not load; they are PTX for compute capability ",
        env!("SOFTPOOL_COMPUTE_CAPABILITY"),
        " and up (CUDA_COMPUTE_CAP sets another when building), and need a driver at least as new as the toolkit \
         that compiled them"
    ))
}
