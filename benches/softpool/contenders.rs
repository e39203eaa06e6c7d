//! Who takes part: a copy of the input, SoftPool, its formula in candle operations, candle's pooling.

use crate::cases::{Case, Planes};
use candle_core::{bail, DType, Device, Module, Result, Tensor, Var};
use candle_softpool::{Gradient, Implementation, SoftPool};
use rayon::prelude::*;
use std::sync::Mutex;

/// Gives its results, so that they are freed outside the time taken.
pub type Work = Box<dyn Fn() -> Result<Vec<Tensor>> + Sync>;

pub struct Contender {
    pub who: String,
    pub pass: Pass,
    pub work: Work,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Forward,
    /// Forward, and backward through autograd.
    Backward(Gradient),
    /// The backward kernel alone.
    Alone(Gradient),
}

impl Pass {
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward(Gradient::Paper) => "paper",
            Self::Backward(_) => "exact",
            Self::Alone(Gradient::Paper) => "paper alone",
            Self::Alone(_) => "exact alone",
        }
    }
}

impl Contender {
    pub fn name(&self) -> String {
        format!("{} {}", self.who, self.pass.name())
    }
}

const GRADIENTS: [Gradient; 2] = [Gradient::Paper, Gradient::Exact];

/// All that may run at a case; some cannot, for candle's limits.
pub fn of(case: &Case, dtype: DType) -> Result<Vec<Contender>> {
    let xs = random(&case.shape, dtype)?;
    let mut all = vec![Contender {
        who: "copy".into(),
        pass: Pass::Forward,
        work: copy(xs.elem_count() * dtype.size_in_bytes()),
    }];
    match case.views {
        true => views(case, &xs, &mut all)?,
        false => {
            softpool(case, &xs, &mut all)?;
            peers(case, &xs, &mut all)?;
        }
    }
    Ok(all)
}

/// Standard normal activations.
fn random(shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::randn(0f32, 1., shape, &Device::Cpu)?.to_dtype(dtype)
}

/// The bytes of a copy's pieces: enough to pay for handing them out.
const PIECE: usize = 256 << 10;

fn copy(bytes: usize) -> Work {
    let source = vec![1u8; bytes];
    let target = Mutex::new(vec![2u8; bytes]);
    Box::new(move || {
        let mut target = target.lock().unwrap_or_else(|e| e.into_inner());
        match bytes <= PIECE {
            true => target.copy_from_slice(&source),
            false => target
                .par_chunks_mut(PIECE)
                .zip(source.par_chunks(PIECE))
                .for_each(|(target, source)| target.copy_from_slice(source)),
        }
        std::hint::black_box(&mut *target);
        Ok(vec![])
    })
}

/// SoftPool in the case's own rank.
fn softpool(case: &Case, xs: &Tensor, all: &mut Vec<Contender>) -> Result<()> {
    match case.rank() {
        1 => softpool_of(layer::<1>(case)?, case, xs, all),
        2 => softpool_of(layer::<2>(case)?, case, xs, all),
        _ => softpool_of(layer::<3>(case)?, case, xs, all),
    }
}

fn layer<const D: usize>(case: &Case) -> Result<SoftPool<D>> {
    Ok(SoftPool::new(sizes(&case.kernel)?)
        .stride(sizes(&case.stride)?)
        .padding(sizes(&case.padding)?))
}

fn sizes<const D: usize>(sizes: &[usize]) -> Result<[usize; D]> {
    match sizes.try_into() {
        Ok(sizes) => Ok(sizes),
        Err(_) => bail!("{sizes:?} are not {D} sizes"),
    }
}

fn softpool_of<const D: usize>(
    pool: SoftPool<D>,
    case: &Case,
    xs: &Tensor,
    all: &mut Vec<Contender>,
) -> Result<()> {
    forward("softpool", xs, all, move |xs| pool.forward(xs));
    for gradient in GRADIENTS {
        let pool = pool.gradient(gradient);
        backward("softpool", gradient, xs, all, move |xs| pool.forward(xs))?;
    }
    for gradient in GRADIENTS {
        alone("softpool", pool.gradient(gradient), gradient, xs, all)?;
    }
    if matches!(xs.dtype(), DType::F16 | DType::BF16) {
        let wide = random(&case.shape, DType::F32)?;
        forward("softpool f32", &wide, all, move |xs| pool.forward(xs));
        for gradient in GRADIENTS {
            let pool = pool.gradient(gradient);
            backward("softpool f32", gradient, &wide, all, move |xs| {
                pool.forward(xs)
            })?;
        }
    }
    let composed = pool
        .gradient(Gradient::Exact)
        .implementation(Implementation::Composed);
    both("composed", xs, all, move |xs| composed.forward(xs))
}

/// candle's pooling, which knows planes alone.
fn peers(case: &Case, xs: &Tensor, all: &mut Vec<Contender>) -> Result<()> {
    let Planes {
        shape,
        kernel,
        stride,
        padding: (h, w),
    } = case.planes();
    let xs = &xs.reshape(&shape)?;
    let pad = move |xs: &Tensor| match h + w {
        0 => Ok(xs.clone()),
        _ => xs.pad_with_zeros(2, h, h)?.pad_with_zeros(3, w, w),
    };
    let average = move |xs: &Tensor| pad(xs)?.avg_pool2d_with_stride(kernel, stride);
    // The formula as one writes it in candle, without the shift that keeps large activations from overflow.
    let formula = move |xs: &Tensor| {
        let e = xs.exp()?;
        average(&(&e * xs)?)? / average(&e)?
    };
    // Repeated edges never exceed the maximum of their window, which holds the edge.
    let max = move |xs: &Tensor| {
        match h + w {
            0 => xs.clone(),
            _ => xs.pad_with_same(2, h, h)?.pad_with_same(3, w, w)?,
        }
        .max_pool2d_with_stride(kernel, stride)
    };
    both("candle formula", xs, all, formula)?;
    both("candle max_pool2d", xs, all, max)?;
    both("candle avg_pool2d", xs, all, average)
}

/// Other ranks and layouts of as many bytes.
fn views(case: &Case, xs: &Tensor, all: &mut Vec<Contender>) -> Result<()> {
    let [n, c, h, w] = sizes(&case.shape)?;
    let (kernel, stride) = (case.kernel[0], case.stride[0]);
    let one = SoftPool::<1>::new(kernel).stride(stride);
    let two = SoftPool::<2>::new(kernel).stride(stride);
    let three = SoftPool::<3>::new(kernel).stride(stride);
    forward("softpool", xs, all, move |xs| two.forward(xs));
    // Each has its own cells: none finds in the caches what another has just read.
    let line = xs.copy()?.reshape((n, c, h * w))?;
    forward("1-D", &line, all, move |xs| one.forward(xs));
    let volume = xs.copy()?.reshape((n, c, h / 7, w / 4, 28))?;
    forward("3-D", &volume, all, move |xs| three.forward(xs));
    let wider = random(&[n, c, h, w + 16], xs.dtype())?.narrow(3, 8, w)?;
    let last = random(&[n, h, w, c], xs.dtype())?.permute((0, 3, 1, 2))?;
    let strided = [
        ("transposed", xs.copy()?.t()?),
        ("narrowed", wider),
        ("channels-last", last),
    ];
    for (who, view) in &strided {
        forward(who, view, all, move |xs| two.forward(xs));
    }
    for gradient in GRADIENTS {
        let two = two.gradient(gradient);
        alone("softpool", two, gradient, xs, all)?;
        alone("1-D", one.gradient(gradient), gradient, &line, all)?;
        alone("3-D", three.gradient(gradient), gradient, &volume, all)?;
        for (who, view) in &strided {
            alone(who, two, gradient, view, all)?;
        }
    }
    Ok(())
}

fn forward(
    who: &str,
    xs: &Tensor,
    all: &mut Vec<Contender>,
    pool: impl Fn(&Tensor) -> Result<Tensor> + Sync + 'static,
) {
    let xs = xs.clone();
    all.push(Contender {
        who: who.into(),
        pass: Pass::Forward,
        work: Box::new(move || Ok(vec![pool(&xs)?])),
    });
}

fn backward(
    who: &str,
    gradient: Gradient,
    xs: &Tensor,
    all: &mut Vec<Contender>,
    pool: impl Fn(&Tensor) -> Result<Tensor> + Sync + 'static,
) -> Result<()> {
    let xs = Var::from_tensor(xs)?;
    all.push(Contender {
        who: who.into(),
        pass: Pass::Backward(gradient),
        work: Box::new(move || {
            let ys = pool(&xs)?;
            let grad = ys.backward()?.remove(&xs);
            let grad = grad.ok_or_else(|| candle_core::Error::msg("no gradient"))?;
            Ok(vec![ys, grad])
        }),
    });
    Ok(())
}

/// Forward, and backward through the derivative of the operations.
fn both(
    who: &str,
    xs: &Tensor,
    all: &mut Vec<Contender>,
    pool: impl Fn(&Tensor) -> Result<Tensor> + Copy + Sync + 'static,
) -> Result<()> {
    forward(who, xs, all, pool);
    backward(who, Gradient::Exact, xs, all, pool)
}

/// The backward kernel without autograd, which adds the gradient to zeros.
fn alone<const D: usize>(
    who: &str,
    pool: SoftPool<D>,
    gradient: Gradient,
    xs: &Tensor,
    all: &mut Vec<Contender>,
) -> Result<()> {
    let grad = pool.forward(xs)?.ones_like()?;
    let xs = xs.clone();
    all.push(Contender {
        who: who.into(),
        pass: Pass::Alone(gradient),
        work: Box::new(move || Ok(vec![pool.backward(&xs, &grad)?])),
    });
    Ok(())
}
