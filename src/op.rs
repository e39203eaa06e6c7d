//! SoftPool as candle custom ops: the forward pass, and the backward pass that its `bwd` runs.

#[cfg(feature = "cuda")]
use crate::backend::cuda;
#[cfg(feature = "metal")]
use crate::backend::metal;
use crate::backend::{cpu, Gradient, Weighting};
use crate::geometry::Geometry;
use candle_core::{
    bail, CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, MetalStorage, Result, Shape,
    Tensor,
};

/// `y = Σ softmax(β·x)·x` in every window.
pub(crate) struct SoftPoolOp {
    pub geometry: Geometry,
    pub weighting: Weighting,
    pub gradient: Gradient,
}

/// The gradient of `x` from `x` and that of `y`.
struct SoftPoolBackward {
    geometry: Geometry,
    weighting: Weighting,
    gradient: Gradient,
}

/// Runs `$body` with the storages' cells as slices of the element type that they share.
macro_rules! dispatch {
    ($name:literal, ($($storage:ident),+), $body:expr) => {
        match ($($storage,)+) {
            dispatch!(@pattern F16 ($($storage),+)) => CpuStorage::F16($body),
            dispatch!(@pattern BF16 ($($storage),+)) => CpuStorage::BF16($body),
            dispatch!(@pattern F32 ($($storage),+)) => CpuStorage::F32($body),
            dispatch!(@pattern F64 ($($storage),+)) => CpuStorage::F64($body),
            _ => bail!(concat!($name, ": expected tensors of one dtype out of f16, bf16, f32, f64")),
        }
    };
    (@pattern $dtype:ident ($($storage:ident),+)) => { ($(CpuStorage::$dtype($storage),)+) };
}

#[cfg(not(feature = "cuda"))]
fn no_cuda<T>() -> Result<T> {
    bail!("SoftPool on a CUDA device: candle-softpool was built without its feature `cuda`")
}

#[cfg(not(feature = "metal"))]
fn no_metal<T>() -> Result<T> {
    bail!("SoftPool on a Metal device: candle-softpool was built without its feature `metal`")
}

impl CustomOp1 for SoftPoolOp {
    fn name(&self) -> &'static str {
        "soft-pool"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (g, w) = (&self.geometry, self.weighting);
        let output = dispatch!(
            "soft-pool",
            (input),
            cpu::forward(cpu::View::new(input, layout, g.rank), g, w)?
        );
        Ok((output, g.output_shape(layout.shape())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, input: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (g, w) = (&self.geometry, self.weighting);
        let output = cuda::forward(input, layout, g, w)?;
        Ok((output, g.output_shape(layout.shape())))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        no_cuda()
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(&self, input: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        let (g, w) = (&self.geometry, self.weighting);
        let output = metal::forward(input, layout, g, w)?;
        Ok((output, g.output_shape(layout.shape())))
    }

    #[cfg(not(feature = "metal"))]
    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        no_metal()
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        let backward = SoftPoolBackward {
            geometry: self.geometry,
            weighting: self.weighting,
            gradient: self.gradient,
        };
        arg.apply_op2_no_bwd(grad_res, &backward).map(Some)
    }
}

impl CustomOp2 for SoftPoolBackward {
    fn name(&self) -> &'static str {
        "soft-pool-backward"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (g, w) = (&self.geometry, self.weighting);
        let output = dispatch!("soft-pool-backward", (input, grad), {
            let input = cpu::View::new(input, layout, g.rank);
            let grad = cpu::View::new(grad, grad_layout, g.rank);
            cpu::backward(input, grad, g, w, self.gradient)?
        });
        Ok((output, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        input: &CudaStorage,
        layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (g, w) = (&self.geometry, self.weighting);
        let output = cuda::backward(input, layout, grad, grad_layout, g, w, self.gradient)?;
        Ok((output, layout.shape().clone()))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        no_cuda()
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(
        &self,
        input: &MetalStorage,
        layout: &Layout,
        grad: &MetalStorage,
        grad_layout: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        let (g, w) = (&self.geometry, self.weighting);
        let output = metal::backward(input, layout, grad, grad_layout, g, w, self.gradient)?;
        Ok((output, layout.shape().clone()))
    }

    #[cfg(not(feature = "metal"))]
    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        no_metal()
    }
}
