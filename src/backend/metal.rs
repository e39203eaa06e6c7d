//! The Metal backend: the kernels of `metal/softpool.metal`, encoded into candle's command buffers.

use super::metal_source;
use super::plan::{self, Launch, Plan};
use super::{Gradient, Weighting};
use crate::geometry::Geometry;
use candle_core::backend::BackendStorage;
use candle_core::metal_backend::{buffer_o, DeviceId};
use candle_core::{bail, DType, Error, Layout, MetalDevice, MetalError, MetalStorage, Result};
use candle_metal_kernels::metal::{Buffer, ComputeCommandEncoder, ComputePipeline, Library};
use candle_metal_kernels::{debug_group, BufferOffset, MetalKernelError};
use objc2_metal::{MTLCompileOptions, MTLLanguageVersion, MTLSize};
use std::collections::hash_map::{Entry, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};

/// SoftPool of every plane of `input`, contiguous.
pub fn forward(
    input: &MetalStorage,
    layout: &Layout,
    geometry: &Geometry,
    weighting: Weighting,
) -> Result<MetalStorage> {
    let dtype = check("soft-pool", &[input])?;
    let plan = plan::forward(dtype, layout, geometry, weighting)?;
    let cells = buffer_o(input.buffer(), layout, dtype);
    run(input.device(), dtype, &plan, &cells, &cells)
}

/// The gradient of the input of [`forward`], contiguous, from that of its output.
pub fn backward(
    input: &MetalStorage,
    layout: &Layout,
    grad: &MetalStorage,
    grad_layout: &Layout,
    geometry: &Geometry,
    weighting: Weighting,
    gradient: Gradient,
) -> Result<MetalStorage> {
    let dtype = check("soft-pool-backward", &[input, grad])?;
    let plan = plan::backward(dtype, layout, grad_layout, geometry, weighting, gradient)?;
    let cells = buffer_o(input.buffer(), layout, dtype);
    let grad = buffer_o(grad.buffer(), grad_layout, dtype);
    run(input.device(), dtype, &plan, &cells, &grad)
}

/// The dtype that the storages share, one that the kernels take.
fn check(name: &str, storages: &[&MetalStorage]) -> Result<DType> {
    let dtypes: Vec<_> = storages.iter().map(|storage| storage.dtype()).collect();
    match dtypes[0] {
        dtype @ (DType::F16 | DType::BF16 | DType::F32) if dtypes.iter().all(|d| *d == dtype) => {
            Ok(dtype)
        }
        DType::F64 => bail!(
            "{name}: dtype F64 on a Metal device, which has no f64; expected F16, BF16 or F32"
        ),
        _ => bail!("{name}: dtypes {dtypes:?}, expected one and the same out of F16, BF16, F32"),
    }
}

/// Encodes a plan's kernels, one after another.
fn run(
    device: &MetalDevice,
    dtype: DType,
    plan: &Plan,
    input: &BufferOffset<'_>,
    grad: &BufferOffset<'_>,
) -> Result<MetalStorage> {
    let buffer = |elements, dtype| {
        let builder = device.new_buffer_builder().with_label("soft-pool");
        builder.with_size_for(elements, dtype).build()
    };
    let output = buffer(plan.output, dtype)?;
    if !plan.launches.is_empty() {
        let scratch = match plan.scratch {
            0 => None,
            n => Some(buffer(n, DType::F32)?),
        };
        // Before the encoder, which holds candle's lock: compiling takes a while.
        let pipelines = pipelines(device, dtype, &plan.launches)?;
        let encoder = device.command_encoder()?;
        for (launch, pipeline) in plan.launches.iter().zip(&pipelines) {
            debug_group!(encoder, "{}", launch.function(dtype));
            let outputs = [&*output, scratch.as_deref().unwrap_or(&output)];
            encode(
                encoder.as_ref(),
                (launch, dtype),
                pipeline,
                [input, grad],
                outputs,
            );
        }
    }
    Ok(MetalStorage::new(
        output,
        device.clone(),
        plan.output,
        dtype,
    ))
}

/// The arguments of all kernels of the file; candle keeps account of what is read and written.
fn encode(
    encoder: &ComputeCommandEncoder,
    (launch, dtype): (&Launch, DType),
    pipeline: &ComputePipeline,
    [input, grad]: [&BufferOffset<'_>; 2],
    [output, scratch]: [&Buffer; 2],
) {
    encoder.set_compute_pipeline_state(pipeline);
    encoder.set_input_buffer(0, Some(input.buffer), input.offset_in_bytes);
    encoder.set_input_buffer(1, Some(grad.buffer), grad.offset_in_bytes);
    encoder.set_output_buffer(2, Some(output), 0);
    encoder.set_output_buffer(3, Some(scratch), 0);
    encoder.set_bytes(4, &launch.params);
    encoder.set_threadgroup_memory_length(0, launch.shared_bytes(dtype));
    // A kernel with many registers may allow fewer threads; each then takes more items.
    let threads = pipeline.max_total_threads_per_threadgroup();
    let line = |width| MTLSize {
        width,
        height: 1,
        depth: 1,
    };
    let threads = threads.min(launch.block as usize);
    encoder.dispatch_thread_groups(line(launch.grid as usize), line(threads));
}

type Compiled<T> = std::result::Result<T, MetalKernelError>;

/// What was compiled of a module for a device.
struct Module {
    library: Library,
    pipelines: HashMap<String, ComputePipeline>,
}

static MODULES: LazyLock<Mutex<HashMap<(DeviceId, String), Module>>> =
    LazyLock::new(Mutex::default);

/// The launches' kernels, compiled if they are the first of theirs on the device.
fn pipelines(
    device: &MetalDevice,
    dtype: DType,
    launches: &[Launch],
) -> Result<Vec<ComputePipeline>> {
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |launch: &Launch| {
        let module = match modules.entry((device.id(), launch.module(dtype))) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Module {
                library: compile(device, dtype, launch.index())?,
                pipelines: HashMap::new(),
            }),
        };
        module.pipeline(device, launch.function(dtype))
    };
    launches
        .iter()
        .map(of)
        .collect::<Compiled<_>>()
        .map_err(unusable)
}

impl Module {
    fn pipeline(&mut self, device: &MetalDevice, name: String) -> Compiled<ComputePipeline> {
        if let Some(pipeline) = self.pipelines.get(&name) {
            return Ok(pipeline.clone());
        }
        let function = self.library.get_function(&name, None)?;
        let pipeline = device
            .metal_device()
            .new_compute_pipeline_state_with_function(&function)?;
        self.pipelines.insert(name, pipeline.clone());
        Ok(pipeline)
    }
}

fn compile(device: &MetalDevice, dtype: DType, index: &str) -> Compiled<Library> {
    let options = MTLCompileOptions::new();
    // Infinities and NaN keep their meaning. Its successor, `setMathMode`, needs macOS 15.
    #[allow(deprecated)]
    options.setFastMathEnabled(false);
    options.setLanguageVersion(MTLLanguageVersion::Version3_0);
    device
        .metal_device()
        .new_library_with_source(&metal_source::module(dtype, index), Some(&options))
}

fn unusable(error: MetalKernelError) -> Error {
    Error::from(MetalError::from(error))
        .context("SoftPool: its Metal kernels do not compile on this device")
}
