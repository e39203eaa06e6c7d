//! Stochastic pooling in training: a cell of each window is drawn by its activation.

use super::{contiguous, places, storage, Pool};
use crate::backend::{cpu, Method};
use crate::geometry::Geometry;
use crate::unfold::select;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, D};
use rand_chacha::ChaCha8Rng;

/// The draws of a pass: of each window the cell that arrives first, if cells come at rates of their activations.
#[derive(Clone)]
pub(crate) struct Race {
    pub geometry: Geometry,
    pub rng: ChaCha8Rng,
}

/// What the cells of a race are compared by, in the dtype that they are computed in.
struct Keys(Race);

impl Race {
    /// The cells drawn; the gradient of each goes to where it came from.
    pub fn apply(self, xs: &Tensor) -> Result<Tensor> {
        match xs.device().is_cpu() {
            true => xs.contiguous()?.apply_op1(self),
            false => self.compose(xs),
        }
    }

    /// The same by candle's operations, for GPUs.
    fn compose(&self, xs: &Tensor) -> Result<Tensor> {
        let dtype = match xs.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        // In the dtype of the arithmetic, since the gradients of windows that draw one cell are added up.
        let wide = xs.to_dtype(dtype)?;
        let places = places(&self.compose_keys(&wide.detach())?, &self.geometry)?;
        let lead = xs.rank() - self.geometry.rank;
        let planes: usize = xs.dims()[..lead].iter().product();
        let cells = wide.reshape((planes, self.geometry.input_cells()))?;
        let places = places.reshape((planes, self.geometry.output_cells()))?;
        cells
            .contiguous()?
            .gather(&places, D::Minus1)?
            .reshape(self.geometry.output_shape(xs.shape()))?
            .to_dtype(xs.dtype())
    }

    fn compose_keys(&self, xs: &Tensor) -> Result<Tensor> {
        // Not `relu`, which would turn NaN into 0.
        let rates = select(&xs.le(0.0)?.eq(0u8)?, xs, 0.0)?;
        let times = cpu::times(xs.elem_count(), &self.rng);
        let times = Tensor::from_vec(times, xs.shape(), xs.device())?.to_dtype(xs.dtype())?;
        ((rates + cpu::LEAST_RATE)? * cpu::SCALE)?.div(&times)
    }
}

impl CustomOp1 for Race {
    fn name(&self) -> &'static str {
        "stochastic-pool"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self { geometry, rng } = self;
        let drawn = dispatch!(
            (input),
            cpu::draw(&input[contiguous(layout)?], geometry, rng)?
        );
        Ok((drawn, geometry.output_shape(layout.shape())))
    }

    /// That of the largest keys, which are drawn again: to keep them would take as much memory as the activations.
    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let keys = xs.contiguous()?.apply_op1_no_bwd(&Keys(self.clone()))?;
        Pool::new(self.geometry, Method::Maximum)
            .backward(&keys, &grad.to_dtype(keys.dtype())?)?
            .to_dtype(xs.dtype())
            .map(Some)
    }
}

impl CustomOp1 for Keys {
    fn name(&self) -> &'static str {
        "stochastic-pool-keys"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self(race) = self;
        let keys = dispatch!((input), cpu::keys(&input[contiguous(layout)?], &race.rng));
        Ok((keys, layout.shape().clone()))
    }
}
