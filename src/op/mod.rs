//! Pooling as candle custom ops: the forward pass, and the backward pass that its `bwd` runs.

use crate::backend::{cpu, Gradient, Method};
use crate::geometry::Geometry;
use candle_core::{
    bail, CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, MetalStorage, Result,
    Shape, Tensor, WithDType,
};
use std::ops::Range;

/// Runs `$body` with the storages' cells as slices of the element type that they share.
macro_rules! dispatch {
    (($($storage:ident),+), $body:expr) => {
        match ($($storage,)+) {
            dispatch!(@pattern F16 ($($storage),+)) => storage($body),
            dispatch!(@pattern BF16 ($($storage),+)) => storage($body),
            dispatch!(@pattern F32 ($($storage),+)) => storage($body),
            dispatch!(@pattern F64 ($($storage),+)) => storage($body),
            _ => candle_core::bail!("pooling: expected tensors of one dtype out of f16, bf16, f32, f64"),
        }
    };
    (@pattern $dtype:ident ($($storage:ident),+)) => { ($(CpuStorage::$dtype($storage),)+) };
}

mod gather;
mod race;

pub(crate) use gather::gather;
pub(crate) use race::Race;

/// These cells as a storage of their dtype.
fn storage<T: WithDType>(cells: Vec<T>) -> CpuStorage {
    T::to_cpu_storage_owned(cells)
}

/// Where the cells of a contiguous tensor lie in its storage.
fn contiguous(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("pooling: expected a contiguous tensor"),
    }
}

/// Writes an op's `cuda_fwd` and `metal_fwd`, which are the same but for the backend's module; without its feature an error.
macro_rules! on_gpus {
    (|$op:ident, $($storage:ident, $layout:ident),+| $gpu:ident => $body:expr) => {
        on_gpus!(@on "cuda", cuda, cuda_fwd, CudaStorage, $op, $gpu, ($($storage, $layout),+), $body);
        on_gpus!(@on "metal", metal, metal_fwd, MetalStorage, $op, $gpu, ($($storage, $layout),+), $body);
    };
    (@on $feature:literal, $backend:ident, $fwd:ident, $Storage:ident, $op:ident, $gpu:ident,
     ($($storage:ident, $layout:ident),+), $body:expr) => {
        #[cfg(feature = $feature)]
        fn $fwd(&self, $($storage: &$Storage, $layout: &Layout),+) -> Result<($Storage, Shape)> {
            use crate::backend::$backend as $gpu;
            let $op = self;
            $body
        }

        #[cfg(not(feature = $feature))]
        fn $fwd(&self, $($storage: &$Storage, $layout: &Layout),+) -> Result<($Storage, Shape)> {
            $(let _ = ($storage, $layout);)+
            bail!("pooling on this device: candle-softpool was built without its feature `{}`", $feature)
        }
    };
}

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
        let places = dispatch!((input), {
            cpu::places(cpu::View::new(input, layout, g.rank), g)?
        });
        Ok((places, g.output_shape(layout.shape())))
    }

    on_gpus!(|op, input, layout| gpu => {
        let places = gpu::places(input, layout, &op.0)?;
        Ok((places, op.0.output_shape(layout.shape())))
    });
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

    /// The output, if it has no cells: a gradient of nothing belongs to it, which candle's operations would launch kernels
    /// for, and CUDA refuses those.
    pub fn of_nothing(geometry: Geometry, xs: &Tensor) -> Option<Result<Tensor>> {
        let empty = geometry.output_shape(xs.shape()).elem_count() == 0;
        empty.then(|| Self::new(geometry, Method::Maximum).apply(xs))
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

    on_gpus!(|op, input, layout| gpu => {
        let tensors = gpu::Tensors::new(input, layout);
        let output = gpu::forward(tensors, &op.geometry, op.method)?;
        Ok((output, op.geometry.output_shape(layout.shape())))
    });

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

    on_gpus!(|op, input, layout, logits, of_logits| gpu => {
        let tensors = gpu::Tensors::new(input, layout).with_logits(logits, of_logits);
        let output = gpu::forward(tensors, &op.geometry, op.method)?;
        Ok((output, op.geometry.output_shape(layout.shape())))
    });

    fn bwd(
        &self,
        xs: &Tensor,
        logits: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let both = xs.apply_op3_no_bwd(logits, grad, &Backward(*self))?;
        // What has no gradient, such as a mask, is spared the zeros and the sum that candle's autograd makes of one.
        let of = |tensor: &Tensor, i| tensor.track_op().then(|| both.get(i)).transpose();
        Ok((of(xs, 0)?, of(logits, 1)?))
    }
}

impl Backward {
    fn on_cpu<T: cpu::Poolable>(
        &self,
        input: cpu::Input<'_, T>,
        grad: cpu::View<'_, T>,
    ) -> Result<Vec<T>> {
        let Pool {
            geometry,
            method,
            gradient,
        } = &self.0;
        cpu::backward(input, grad, geometry, *method, *gradient)
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
        let rank = self.0.geometry.rank;
        let cells = dispatch!((input, grad), {
            let x = cpu::View::new(input, layout, rank);
            self.on_cpu(x.into(), cpu::View::new(grad, of_grad, rank))?
        });
        Ok((cells, layout.shape().clone()))
    }

    on_gpus!(|op, input, layout, grad, of_grad| gpu => {
        let tensors = gpu::Tensors::new(input, layout).with_grad(grad, of_grad);
        let Pool { geometry, method, gradient } = op.0;
        let output = gpu::backward(tensors, &geometry, method, gradient)?;
        Ok((output, layout.shape().clone()))
    });
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
        let rank = self.0.geometry.rank;
        let output = dispatch!((input, logits, grad), {
            let input = cpu::Input {
                x: cpu::View::new(input, layout, rank),
                logits: Some(cpu::View::new(logits, of_logits, rank)),
            };
            self.on_cpu(input, cpu::View::new(grad, of_grad, rank))?
        });
        Ok((output, both(layout)))
    }

    on_gpus!(|op, input, layout, logits, of_logits, grad, of_grad| gpu => {
        let tensors = gpu::Tensors::new(input, layout)
            .with_logits(logits, of_logits)
            .with_grad(grad, of_grad);
        let Pool { geometry, method, gradient } = op.0;
        let output = gpu::backward(tensors, &geometry, method, gradient)?;
        Ok((output, both(layout)))
    });
}
