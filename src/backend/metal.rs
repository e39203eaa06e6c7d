//! The Metal backend: the kernels of `metal/softpool.metal`, encoded into candle's command buffers.

use super::metal_source;
use super::plan::{self, Launch, Plan};
pub use super::tensors::Tensors;
use super::{Gradient, Method};
use crate::geometry::Geometry;
use candle_core::backend::BackendStorage;
use candle_core::metal_backend::buffer_o;
use candle_core::{bail, DType, Error, Layout, MetalDevice, MetalError, MetalStorage, Result};
use candle_metal_kernels::metal::{Buffer, ComputeCommandEncoder, ComputePipeline, Library};
use candle_metal_kernels::{debug_group, BufferOffset, MetalKernelError};
use objc2_metal::{MTLCompileOptions, MTLLanguageVersion, MTLSize};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// The outputs of every plane, contiguous.
pub fn forward(
    tensors: Tensors<MetalStorage>,
    geometry: &Geometry,
    method: Method,
) -> Result<MetalStorage> {
    let dtype = dtype_of(&tensors)?;
    let plan = plan::forward(dtype, tensors.layouts(), geometry, method)?;
    run(dtype, &plan, tensors)
}

/// The gradient of the activations from that of the outputs, contiguous, and behind it that of the logits if the method has some.
pub fn backward(
    tensors: Tensors<MetalStorage>,
    geometry: &Geometry,
    method: Method,
    gradient: Gradient,
) -> Result<MetalStorage> {
    let dtype = dtype_of(&tensors)?;
    let plan = plan::backward(dtype, tensors.layouts(), geometry, method, gradient)?;
    run(dtype, &plan, tensors)
}

/// The index in its plane of the largest activation of each window, in u32.
pub fn places(x: &MetalStorage, layout: &Layout, geometry: &Geometry) -> Result<MetalStorage> {
    let tensors = Tensors::new(x, layout);
    let dtype = dtype_of(&tensors)?;
    let plan = plan::places(dtype, tensors.layouts(), geometry)?;
    let device = x.device();
    let places = buffer(device, plan.output, DType::U32)?;
    // What the kernel writes is in its scratch buffer.
    encode_all(device, dtype, &plan, tensors, [&places, &places])?;
    Ok(MetalStorage::new(
        places,
        device.clone(),
        plan.output,
        DType::U32,
    ))
}

/// The dtype that they share, one that the kernels take.
fn dtype_of(tensors: &Tensors<MetalStorage>) -> Result<DType> {
    let dtypes = tensors.dtypes();
    match dtypes[0] {
        dtype @ (DType::F16 | DType::BF16 | DType::F32) if dtypes.iter().all(|d| *d == dtype) => {
            Ok(dtype)
        }
        DType::F64 => bail!(
            "pooling: dtype F64 on a Metal device, which has no f64; expected F16, BF16 or F32"
        ),
        _ => bail!("pooling: dtypes {dtypes:?}, expected one and the same out of F16, BF16, F32"),
    }
}

fn buffer(device: &MetalDevice, elements: usize, dtype: DType) -> Result<Arc<Buffer>> {
    let builder = device.new_buffer_builder().with_label("pooling");
    builder.with_size_for(elements, dtype).build()
}

/// The output of a plan.
fn run(dtype: DType, plan: &Plan, tensors: Tensors<MetalStorage>) -> Result<MetalStorage> {
    let device = tensors.device();
    let output = buffer(device, plan.output, dtype)?;
    let scratch = match plan.scratch {
        0 => None,
        n => Some(buffer(device, n, DType::F32)?),
    };
    let outputs = [&*output, scratch.as_deref().unwrap_or(&output)];
    encode_all(device, dtype, plan, tensors, outputs)?;
    Ok(MetalStorage::new(
        output,
        device.clone(),
        plan.output,
        dtype,
    ))
}

/// Encodes a plan's kernels, one after another.
fn encode_all(
    device: &MetalDevice,
    dtype: DType,
    plan: &Plan,
    tensors: Tensors<MetalStorage>,
    outputs: [&Buffer; 2],
) -> Result<()> {
    if plan.launches.is_empty() {
        return Ok(());
    }
    let inputs = tensors.arguments();
    let inputs = inputs.map(|(storage, layout)| buffer_o(storage.buffer(), layout, dtype));
    // Before the encoder, which holds candle's lock: compiling takes a while.
    let pipelines = pipelines(device, dtype, &plan.launches)?;
    let encoder = device.command_encoder()?;
    for (launch, pipeline) in plan.launches.iter().zip(&pipelines) {
        debug_group!(encoder, "{}", launch.function(dtype));
        encode(
            encoder.as_ref(),
            (launch, dtype),
            pipeline,
            &inputs,
            outputs,
        );
    }
    Ok(())
}

/// What memory of a block is a multiple of.
const LEAST_SHARED_BYTES: usize = 16;

/// The arguments of all kernels of the file; candle keeps account of what is read and written.
fn encode(
    encoder: &ComputeCommandEncoder,
    (launch, dtype): (&Launch, DType),
    pipeline: &ComputePipeline,
    [input, logits, grad]: &[BufferOffset<'_>; 3],
    [output, scratch]: [&Buffer; 2],
) {
    encoder.set_compute_pipeline_state(pipeline);
    encoder.set_input_buffer(0, Some(input.buffer), input.offset_in_bytes);
    encoder.set_input_buffer(1, Some(logits.buffer), logits.offset_in_bytes);
    encoder.set_input_buffer(2, Some(grad.buffer), grad.offset_in_bytes);
    encoder.set_output_buffer(3, Some(output), 0);
    encoder.set_output_buffer(4, Some(scratch), 0);
    // All kernels have the argument, and a length of 0 would leave it out.
    encoder.set_threadgroup_memory_length(0, launch.shared_bytes(dtype).max(LEAST_SHARED_BYTES));
    // A kernel with many registers may allow fewer threads, of which each then takes more items; a power of two, as teams
    // are, and no more of a team have a row than there are.
    let threads = pipeline.max_total_threads_per_threadgroup();
    let power = threads.clamp(1, launch.block as usize).ilog2();
    let mut params = launch.params;
    params.across = params.across.min(power);
    encoder.set_bytes(5, &params);
    let line = |width| MTLSize {
        width,
        height: 1,
        depth: 1,
    };
    encoder.dispatch_thread_groups(line(launch.grid as usize), line(1 << power));
}

type Compiled<T> = std::result::Result<T, MetalKernelError>;

/// A GPU, whichever `MetalDevice` it is used through, and a kernel's name.
type Key = (u64, String);

/// What was compiled, for as long as the program runs.
#[derive(Default)]
struct Cache {
    libraries: HashMap<Key, Library>,
    pipelines: HashMap<Key, ComputePipeline>,
}

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

fn cache() -> MutexGuard<'static, Cache> {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The launches' kernels, compiled if they are the first of theirs on the device.
fn pipelines(
    device: &MetalDevice,
    dtype: DType,
    launches: &[Launch],
) -> Result<Vec<ComputePipeline>> {
    let all = launches
        .iter()
        .map(|launch| pipeline(device, dtype, launch));
    all.collect::<Compiled<_>>().map_err(unusable)
}

/// Compiles without the lock: other kernels are launched meanwhile, and who compiles the same one does so in vain.
fn pipeline(device: &MetalDevice, dtype: DType, launch: &Launch) -> Compiled<ComputePipeline> {
    let gpu = device.metal_device().registry_id();
    let key = (gpu, launch.function(dtype));
    if let Some(pipeline) = cache().pipelines.get(&key) {
        return Ok(pipeline.clone());
    }
    let of_module = (gpu, plan::module(launch.kernel, launch.wide, dtype));
    let known = cache().libraries.get(&of_module).cloned();
    let library = match known {
        Some(library) => library,
        None => {
            let library = compile(device, dtype, launch)?;
            cache().libraries.insert(of_module, library.clone());
            library
        }
    };
    let function = library.get_function(&key.1, None)?;
    let pipeline = device
        .metal_device()
        .new_compute_pipeline_state_with_function(&function)?;
    cache().pipelines.insert(key, pipeline.clone());
    Ok(pipeline)
}

fn compile(device: &MetalDevice, dtype: DType, launch: &Launch) -> Compiled<Library> {
    let (rule, index) = (launch.kernel.rule(), plan::index(launch.wide));
    let source = metal_source::module(rule, dtype, index);
    let options = MTLCompileOptions::new();
    // Infinities and NaN keep their meaning. Its successor, `setMathMode`, needs macOS 15.
    #[allow(deprecated)]
    options.setFastMathEnabled(false);
    options.setLanguageVersion(MTLLanguageVersion::Version3_0);
    device
        .metal_device()
        .new_library_with_source(&source, Some(&options))
}

fn unusable(error: MetalKernelError) -> Error {
    Error::from(MetalError::from(error))
        .context("pooling: its Metal kernels do not compile on this device")
}
