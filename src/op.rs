//! Pooling as candle custom ops: the forward pass, and the backward pass that its `bwd` runs.

#[cfg(feature = "cuda")]
use crate::backend::cuda;
#[cfg(feature = "metal")]
use crate::backend::metal;
use crate::backend::{cpu, Gradient, Method};
use crate::geometry::Geometry;
use candle_core::{
    bail, CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, MetalStorage, Result,
    Shape, Tensor,
};

/// Pooling of activations; with logits, an op of both.
#[derive(Clone, Copy)]
pub(crate) struct Pool {
    pub geometry: Geometry,
    pub method: Method,
    pub gradient: Gradient,
}

/// The gradient of the activations from them and that of the output.
///
/// With logits, from both and that of the output: a tensor with one more dimension in front, which holds the gradient of
/// the activations and then that of the logits.
struct Backward(Pool);

/// The index in its plane of the largest activation of each window, in u32.
struct Places(Geometry);

impl CustomOp1 for Places {
    fn name(&self) -> &'static str {
        "pool-places"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let g = &self.0;
        let places = match input {
            CpuStorage::F16(x) => cpu::places(cpu::View::new(x, layout, g.rank), g)?,
            CpuStorage::BF16(x) => cpu::places(cpu::View::new(x, layout, g.rank), g)?,
            CpuStorage::F32(x) => cpu::places(cpu::View::new(x, layout, g.rank), g)?,
            CpuStorage::F64(x) => cpu::places(cpu::View::new(x, layout, g.rank), g)?,
            _ => bail!("pooling: expected a tensor of dtype f16, bf16, f32 or f64"),
        };
        Ok((CpuStorage::U32(places), g.output_shape(layout.shape())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, input: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let places = cuda::places(input, layout, &self.0)?;
        Ok((places, self.0.output_shape(layout.shape())))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        no_cuda()
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(&self, input: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        let places = metal::places(input, layout, &self.0)?;
        Ok((places, self.0.output_shape(layout.shape())))
    }

    #[cfg(not(feature = "metal"))]
    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        no_metal()
    }
}

/// The index in its plane of the largest activation of each window: the first of several.
pub(crate) fn places(xs: &Tensor, geometry: &Geometry) -> Result<Tensor> {
    xs.apply_op1_no_bwd(&Places(*geometry))
}

impl Pool {
    /// Pooling with its derivative as the gradient.
    pub fn new(geometry: Geometry, method: Method) -> Self {
        Self {
            geometry,
            method,
            gradient: Gradient::Exact,
        }
    }

    /// The pooled activations.
    pub fn apply(self, xs: &Tensor) -> Result<Tensor> {
        xs.apply_op1(self)
    }

    /// The pooled activations, weighted by logits of their shape.
    pub fn apply_with(self, xs: &Tensor, logits: &Tensor) -> Result<Tensor> {
        xs.apply_op2(logits, self)
    }

    /// The gradient of the activations: the backward kernel alone.
    pub fn backward(self, xs: &Tensor, grad: &Tensor) -> Result<Tensor> {
        xs.apply_op2_no_bwd(grad, &Backward(self))
    }
}

/// Runs `$body` with the storages' cells as slices of the element type that they share.
macro_rules! dispatch {
    (($($storage:ident),+), $body:expr) => {
        match ($($storage,)+) {
            dispatch!(@pattern F16 ($($storage),+)) => CpuStorage::F16($body),
            dispatch!(@pattern BF16 ($($storage),+)) => CpuStorage::BF16($body),
            dispatch!(@pattern F32 ($($storage),+)) => CpuStorage::F32($body),
            dispatch!(@pattern F64 ($($storage),+)) => CpuStorage::F64($body),
            _ => bail!("pooling: expected tensors of one dtype out of f16, bf16, f32, f64"),
        }
    };
    (@pattern $dtype:ident ($($storage:ident),+)) => { ($(CpuStorage::$dtype($storage),)+) };
}

#[cfg(not(feature = "cuda"))]
fn no_cuda<T>() -> Result<T> {
    bail!("pooling on a CUDA device: candle-softpool was built without its feature `cuda`")
}

#[cfg(not(feature = "metal"))]
fn no_metal<T>() -> Result<T> {
    bail!("pooling on a Metal device: candle-softpool was built without its feature `metal`")
}

/// The shape of the gradients of activations and logits, one behind the other.
fn both(layout: &Layout) -> Shape {
    let mut dims = vec![2];
    dims.extend(layout.dims());
    Shape::from(dims)
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let g = &self.geometry;
        let output = dispatch!((input), {
            cpu::forward(cpu::View::new(input, layout, g.rank).into(), g, self.method)?
        });
        Ok((output, g.output_shape(layout.shape())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, input: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let g = &self.geometry;
        let output = cuda::forward(cuda::Tensors::new(input, layout), g, self.method)?;
        Ok((output, g.output_shape(layout.shape())))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        no_cuda()
    }

    #[cfg(feature = "metal")]
    fn metal_fwd(&self, input: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        let g = &self.geometry;
        let output = metal::forward(metal::Tensors::new(input, layout), g, self.method)?;
        Ok((output, g.output_shape(layout.shape())))
    }

    #[cfg(not(feature = "metal"))]
    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        no_metal()
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.backward(xs, grad).map(Some)
    }
}

impl CustomOp2 for Pool {
    fn name(&self) -> &'static str {
        "pool-with-logits"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        logits: &CpuStorage,
        of_logits: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = &self.geometry;
        let output = dispatch!((input, logits), {
            let input = cpu::Input {
                x: cpu::View::new(input, layout, g.rank),
                logits: Some(cpu::View::new(logits, of_logits, g.rank)),
            };
            cpu::forward(input, g, self.method)?
        });
        Ok((output, g.output_shape(layout.shape())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        input: &CudaStorage,
        layout: &Layout,
        logits: &CudaStorage,
        of_logits: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let g = &self.geometry;
        let tensors = cuda::Tensors {
            logits: Some((logits, of_logits)),
            ..cuda::Tensors::new(input, layout)
        };
        let output = cuda::forward(tensors, g, self.method)?;
        Ok((output, g.output_shape(layout.shape())))
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
        logits: &MetalStorage,
        of_logits: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        let g = &self.geometry;
        let tensors = metal::Tensors {
            logits: Some((logits, of_logits)),
            ..metal::Tensors::new(input, layout)
        };
        let output = metal::forward(tensors, g, self.method)?;
        Ok((output, g.output_shape(layout.shape())))
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

    fn bwd(
        &self,
        xs: &Tensor,
        logits: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let both = xs.apply_op3_no_bwd(logits, grad, &Backward(*self))?;
        Ok((Some(both.get(0)?), Some(both.get(1)?)))
    }
}

impl CustomOp2 for Backward {
    fn name(&self) -> &'static str {
        "pool-backward"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        of_grad: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Pool {
            geometry: g,
            method,
            gradient,
        } = &self.0;
        let cells = dispatch!((input, grad), {
            let x = cpu::View::new(input, layout, g.rank);
            let grad = cpu::View::new(grad, of_grad, g.rank);
            cpu::backward(x.into(), grad, g, *method, *gradient)?
        });
        Ok((cells, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        input: &CudaStorage,
        layout: &Layout,
        grad: &CudaStorage,
        of_grad: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let tensors = cuda::Tensors {
            grad: Some((grad, of_grad)),
            ..cuda::Tensors::new(input, layout)
        };
        let Pool {
            geometry,
            method,
            gradient,
        } = &self.0;
        let output = cuda::backward(tensors, geometry, *method, *gradient)?;
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
        of_grad: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        let tensors = metal::Tensors {
            grad: Some((grad, of_grad)),
            ..metal::Tensors::new(input, layout)
        };
        let Pool {
            geometry,
            method,
            gradient,
        } = &self.0;
        let output = metal::backward(tensors, geometry, *method, *gradient)?;
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

impl CustomOp3 for Backward {
    fn name(&self) -> &'static str {
        "pool-with-logits-backward"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        logits: &CpuStorage,
        of_logits: &Layout,
        grad: &CpuStorage,
        of_grad: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Pool {
            geometry: g,
            method,
            gradient,
        } = &self.0;
        let output = dispatch!((input, logits, grad), {
            let input = cpu::Input {
                x: cpu::View::new(input, layout, g.rank),
                logits: Some(cpu::View::new(logits, of_logits, g.rank)),
            };
            let grad = cpu::View::new(grad, of_grad, g.rank);
            cpu::backward(input, grad, g, *method, *gradient)?
        });
        Ok((output, both(layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        input: &CudaStorage,
        layout: &Layout,
        logits: &CudaStorage,
        of_logits: &Layout,
        grad: &CudaStorage,
        of_grad: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let tensors = cuda::Tensors {
            x: (input, layout),
            logits: Some((logits, of_logits)),
            grad: Some((grad, of_grad)),
        };
        let Pool {
            geometry,
            method,
            gradient,
        } = &self.0;
        let output = cuda::backward(tensors, geometry, *method, *gradient)?;
        Ok((output, both(layout)))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
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
        logits: &MetalStorage,
        of_logits: &Layout,
        grad: &MetalStorage,
        of_grad: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        let tensors = metal::Tensors {
            x: (input, layout),
            logits: Some((logits, of_logits)),
            grad: Some((grad, of_grad)),
        };
        let Pool {
            geometry,
            method,
            gradient,
        } = &self.0;
        let output = metal::backward(tensors, geometry, *method, *gradient)?;
        Ok((output, both(layout)))
    }

    #[cfg(not(feature = "metal"))]
    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        no_metal()
    }
}
