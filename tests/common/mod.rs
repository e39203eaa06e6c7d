//! What the tests of SoftPool share: the device, inputs, the definition in float64, and comparisons with it.
#![allow(dead_code)] // Each test file uses its part.

use candle_core::{DType, Device, Module, Result, Shape, Tensor, Var};
use candle_softpool::{AdaptiveSoftPool, Gradient, Implementation, SoftPool};
use half::{bf16, f16};
use proptest::prelude::*;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::ops::Range;

/// The device that `SOFTPOOL_TEST_DEVICE` names: `cpu` (the default), `cuda` or `metal`.
pub fn device() -> Device {
    // One a test, since each loads its own kernels, and candle computes on tensors of one only.
    thread_local! {
        static DEVICE: Device = {
            let name = std::env::var("SOFTPOOL_TEST_DEVICE").unwrap_or_default();
            match name.as_str() {
                "" | "cpu" => Device::Cpu,
                "cuda" => Device::new_cuda(0).unwrap(),
                "metal" => Device::new_metal(0).unwrap(),
                other => panic!("SOFTPOOL_TEST_DEVICE is {other:?}, expected cpu, cuda or metal"),
            }
        };
    }
    DEVICE.with(Device::clone)
}

/// So many random cases, unless `PROPTEST_CASES` names another number.
pub fn cases(count: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(count),
    }
}

/// The floating-point dtypes of the device: Metal has no f64.
pub fn dtypes() -> Vec<DType> {
    let all = [DType::F16, DType::BF16, DType::F32, DType::F64];
    let has_f64 = !device().is_metal();
    all.into_iter()
        .filter(|d| has_f64 || *d != DType::F64)
        .collect()
}

/// Returns from a test where the device has no f64.
#[macro_export]
macro_rules! needs_f64 {
    () => {
        if !$crate::common::dtypes().contains(&candle_core::DType::F64) {
            println!("skipped: the device has no f64");
            return Ok(());
        }
    };
}

/// Normally distributed numbers, the same for the same seed.
pub fn normal(seed: u64, count: usize) -> Vec<f64> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    (0..count)
        .map(|_| (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos())
        .collect()
}

/// These numbers, rounded to the dtype, on the tests' device.
pub fn tensor(values: &[f64], shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    // Rounded here: candle's conversion of f64 to half precision cuts off bits that decide near a tie.
    let values = values.iter().map(|v| round(*v, dtype)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?
        .to_dtype(dtype)?
        .to_device(&device())
}

/// Normally distributed numbers in a tensor.
pub fn randn(seed: u64, scale: f64, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    let shape = shape.into();
    let values = normal(seed, shape.elem_count());
    let values: Vec<f64> = values.iter().map(|v| v * scale).collect();
    tensor(&values, shape, dtype)
}

/// The cells as f64, in order.
pub fn values(xs: &Tensor) -> Result<Vec<f64>> {
    xs.to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1()
}

/// Equal dtypes, shapes and bits; any NaN equals any other.
#[track_caller]
pub fn assert_same(a: &Tensor, b: &Tensor) {
    assert_eq!((a.dtype(), a.dims()), (b.dtype(), b.dims()));
    let bits = |xs: &Tensor| -> Vec<u64> {
        let bits = |v: f64| if v.is_nan() { f64::NAN } else { v }.to_bits();
        values(xs).unwrap().into_iter().map(bits).collect()
    };
    assert!(bits(a) == bits(b), "{a} is not {b}");
}

/// Within `tolerance` of each other, relative to values above one.
#[track_caller]
pub fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.dims(), b.dims());
    let pairs = values(a).unwrap().into_iter().zip(values(b).unwrap());
    for (i, (a, b)) in pairs.enumerate() {
        let limit = tolerance * b.abs().max(1.0);
        assert!((a - b).abs() <= limit, "at {i}: {a} is not {b}");
    }
}

/// The nearest value of the dtype, ties to even.
pub fn round(v: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F16 => f16::from_f32(round_to_odd(v)).to_f64(),
        DType::BF16 => bf16::from_f32(round_to_odd(v)).to_f64(),
        DType::F32 => f64::from(v as f32),
        _ => v,
    }
}

/// A value of f32 beside `v` that lies on the same side of every tie between values of fewer bits.
fn round_to_odd(v: f64) -> f32 {
    let near = v as f32;
    let bits = near.to_bits();
    if f64::from(near) == v || v.is_nan() || bits & 1 == 1 {
        return near;
    }
    f32::from_bits(match f64::from(near).abs() < v.abs() {
        true => bits + 1,
        false => bits - 1,
    })
}

/// The largest finite value of the dtype.
pub fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => f16::MAX.to_f64(),
        DType::BF16 => bf16::MAX.to_f64(),
        DType::F32 => f32::MAX.into(),
        _ => f64::MAX,
    }
}

/// The windows of a layer: depth, height and width, of which a lower rank uses the last.
#[derive(Clone, Copy, Debug)]
pub enum Windows {
    Sliding {
        kernel: [usize; 3],
        stride: [usize; 3],
        padding: [usize; 3],
        ceil_mode: bool,
    },
    Adaptive([usize; 3]),
}

/// A layer of any rank, and what the definition needs of it.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    pub rank: usize,
    pub windows: Windows,
    pub beta: f64,
    pub gradient: Gradient,
    pub nan_to_num: bool,
    pub implementation: Implementation,
}

impl Pool {
    pub fn new(rank: usize, windows: Windows) -> Self {
        Self {
            rank,
            windows,
            beta: 1.0,
            gradient: Gradient::Paper,
            nan_to_num: false,
            implementation: Implementation::Fused,
        }
    }

    /// Windows of one size in all dimensions.
    pub fn sliding(rank: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        let windows = Windows::Sliding {
            kernel: [kernel; 3],
            stride: [stride; 3],
            padding: [padding; 3],
            ceil_mode: false,
        };
        Self::new(rank, windows)
    }

    /// Adaptive windows, the same number in all dimensions.
    pub fn adaptive(rank: usize, output: usize) -> Self {
        Self::new(rank, Windows::Adaptive([output; 3]))
    }

    pub fn beta(self, beta: f64) -> Self {
        Self { beta, ..self }
    }

    pub fn gradient(self, gradient: Gradient) -> Self {
        Self { gradient, ..self }
    }

    pub fn nan_to_num(self, nan_to_num: bool) -> Self {
        Self { nan_to_num, ..self }
    }

    pub fn composed(self) -> Self {
        Self {
            implementation: Implementation::Composed,
            ..self
        }
    }

    fn forward_rank<const D: usize>(&self, xs: &Tensor) -> Result<Tensor> {
        let last = |size: [usize; 3]| -> [usize; D] { size[3 - D..].try_into().unwrap() };
        match self.windows {
            Windows::Sliding {
                kernel,
                stride,
                padding,
                ceil_mode,
            } => SoftPool::new(last(kernel))
                .stride(last(stride))
                .padding(last(padding))
                .ceil_mode(ceil_mode)
                .beta(self.beta)
                .gradient(self.gradient)
                .nan_to_num(self.nan_to_num)
                .implementation(self.implementation)
                .forward(xs),
            Windows::Adaptive(output) => AdaptiveSoftPool::new(last(output))
                .beta(self.beta)
                .gradient(self.gradient)
                .nan_to_num(self.nan_to_num)
                .implementation(self.implementation)
                .forward(xs),
        }
    }

    /// Output and gradient of `xs`, given the output's gradient.
    pub fn run(&self, xs: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
        let xs = Var::from_tensor(xs)?;
        let ys = self.forward(&xs)?;
        let dx = (&ys * grad)?.sum_all()?.backward()?.remove(&xs).unwrap();
        Ok((ys, dx))
    }

    /// The cells of every window along dimension `d`, as PyTorch defines them.
    fn ranges(&self, d: usize, n: usize) -> Vec<Range<usize>> {
        if d < 3 - self.rank {
            return std::iter::once(0..1).collect();
        }
        match self.windows {
            Windows::Adaptive(output) => (0..output[d])
                .map(|o| o * n / output[d]..((o + 1) * n).div_ceil(output[d]))
                .collect(),
            Windows::Sliding {
                kernel,
                stride,
                padding,
                ceil_mode,
            } => {
                let (k, s, p) = (kernel[d], stride[d], padding[d]);
                let fits = |start: usize| start + k <= n + 2 * p;
                let hangs_over = |start: usize| start - s + k < n + 2 * p && start < n + p;
                (0..)
                    .map(|o| o * s)
                    .take_while(|&start| fits(start) || ceil_mode && start > 0 && hangs_over(start))
                    .map(|start| start.saturating_sub(p)..(start + k - p).min(n))
                    .collect()
            }
        }
    }

    /// The outputs' shape for an input of this shape.
    pub fn output_shape(&self, dims: &[usize]) -> Vec<usize> {
        let lead = dims.len() - self.rank;
        let pooled = |d: usize| self.ranges(3 - self.rank + d, dims[lead + d]).len();
        let pooled = (0..self.rank).map(pooled);
        dims[..lead].iter().copied().chain(pooled).collect()
    }

    /// The definition, window by window in f64, of an input and the gradient of its output.
    pub fn definition(&self, xs: &Tensor, grad: &Tensor) -> Result<Definition> {
        self.definition_by(xs, grad, |_, window| self.window(window))
    }

    /// The definition of any pooling: of a window's places in the input and its activations, the output and how it
    /// moves with each of them.
    pub fn definition_by(
        &self,
        xs: &Tensor,
        grad: &Tensor,
        pool: impl Fn(&[usize], &[f64]) -> (f64, Vec<f64>),
    ) -> Result<Definition> {
        let lead = xs.rank() - self.rank;
        let planes: usize = xs.dims()[..lead].iter().product();
        let mut size = [1; 3];
        size[3 - self.rank..].copy_from_slice(&xs.dims()[lead..]);
        let [d, h, w] = [0, 1, 2].map(|d| self.ranges(d, size[d]));
        let (x, g) = (values(xs)?, values(grad)?);
        let zeros = vec![0.0; x.len()];
        let mut all = Definition {
            output: vec![],
            output_scale: vec![],
            gradient: zeros.clone(),
            gradient_scale: zeros,
        };
        for plane in 0..planes {
            for (d, h, w) in product(&d, &h, &w) {
                let cells: Vec<usize> = product(d.clone(), h.clone(), w.clone())
                    .map(|(i, j, k)| ((plane * size[0] + i) * size[1] + j) * size[2] + k)
                    .collect();
                let window: Vec<f64> = cells.iter().map(|&i| x[i]).collect();
                let g = g[all.output.len()];
                let (y, slopes) = pool(&cells, &window);
                let finite = window.iter().filter(|x| x.is_finite());
                all.output_scale
                    .push(finite.fold(0.0, |a, x| x.abs().max(a)));
                all.output.push(y);
                let steepest = slopes.iter().fold(0.0, |a: f64, s| s.abs().max(a));
                for (&i, slope) in cells.iter().zip(slopes) {
                    all.gradient[i] += if slope == 0.0 { 0.0 } else { g * slope };
                    all.gradient_scale[i] += (g * steepest).abs();
                }
            }
        }
        Ok(all)
    }

    /// A window's output, and how its output moves with each cell.
    pub fn window(&self, window: &[f64]) -> (f64, Vec<f64>) {
        let fixed = |y: f64| {
            let slope = if self.nan_to_num { 0.0 } else { f64::NAN };
            (y, vec![slope; window.len()])
        };
        if window.iter().any(|x| x.is_nan()) {
            return fixed(f64::NAN);
        }
        let sign = 1f64.copysign(self.beta);
        let peak = sign
            * window
                .iter()
                .map(|x| sign * x)
                .fold(f64::NEG_INFINITY, f64::max);
        if peak.is_infinite() {
            return fixed(peak);
        }
        // In units that keep differences from overflowing.
        let unit = if peak.abs() > 1e300 { 0.25 } else { 1.0 };
        let above = |x: f64, y: f64| (x * unit - y * unit) * self.beta / unit;
        let weight = |x: f64| {
            if x.is_finite() {
                above(x, peak).exp()
            } else {
                0.0
            }
        };
        let total: f64 = window.iter().map(|&x| weight(x)).sum();
        let below = |x: f64| {
            if x.is_finite() {
                weight(x) / total * (x * unit - peak * unit)
            } else {
                0.0
            }
        };
        let y = (peak * unit + window.iter().map(|&x| below(x)).sum::<f64>()) / unit;
        let slope = |x: f64| match (weight(x) / total, self.gradient) {
            (0.0, _) => 0.0,
            (w, Gradient::Paper) => w,
            (w, _) => w + w * above(x, y),
        };
        (y, window.iter().map(|&x| slope(x)).collect())
    }

    /// Runs the layer, and asserts that output and gradient are the definition's, rounded to the dtype once.
    ///
    /// The arithmetic's own error is at most `tolerance(dtype)` of a scale: of the largest activation in the window
    /// for an output, of the largest part that each window passes to one of its cells for a gradient.
    #[track_caller]
    pub fn assert_defined(&self, xs: &Tensor, grad: &Tensor) {
        let (ys, dx) = self.run(xs, grad).unwrap();
        let wanted = self.definition(xs, grad).unwrap();
        assert_eq!(ys.dims(), self.output_shape(xs.dims()), "{self:?}");
        assert_eq!(dx.dims(), xs.dims(), "{self:?}");
        assert_eq!((ys.dtype(), dx.dtype()), (xs.dtype(), xs.dtype()));
        let (y, y_scale) = (&wanted.output, &wanted.output_scale);
        self.assert_rounded("output", &ys, y, y_scale, self.nan_to_num);
        let (dx_wanted, dx_scale) = (&wanted.gradient, &wanted.gradient_scale);
        self.assert_rounded("gradient", &dx, dx_wanted, dx_scale, false);
    }

    /// Asserts that every value is the wanted one, rounded to the dtype once, within the arithmetic's error.
    #[track_caller]
    pub fn assert_rounded(
        &self,
        what: &str,
        found: &Tensor,
        wanted: &[f64],
        scale: &[f64],
        nan_to_num: bool,
    ) {
        let dtype = found.dtype();
        for (i, found) in values(found).unwrap().into_iter().enumerate() {
            let (wanted, error) = (wanted[i], tolerance(dtype) * scale[i]);
            let right = if nan_to_num && !round(wanted, dtype).is_finite() {
                found == replaced(wanted, dtype)
            } else if wanted.is_nan() {
                found.is_nan()
            } else if wanted.is_infinite() {
                found == wanted
            } else {
                round(wanted - error, dtype) <= found && found <= round(wanted + error, dtype)
            };
            assert!(
                right,
                "{what} {i} of {self:?} in {dtype:?}: {found:e} is not {wanted:e} ± {error:e}"
            );
        }
    }
}

impl Module for Pool {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match self.rank {
            1 => self.forward_rank::<1>(xs),
            2 => self.forward_rank::<2>(xs),
            _ => self.forward_rank::<3>(xs),
        }
    }
}

/// What [`Pool::definition`] gives for every output and input cell.
pub struct Definition {
    pub output: Vec<f64>,
    /// The largest finite activation of each window.
    pub output_scale: Vec<f64>,
    pub gradient: Vec<f64>,
    /// The sum over a cell's windows of the largest part that each passes on.
    pub gradient_scale: Vec<f64>,
}

/// The error that the arithmetic of a dtype may have, as a part of the scale; its rounding adds half a unit.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        // Together with the rounding to f32, 2e-6. WebAssembly rounds products that are added to something twice.
        _ if cfg!(target_arch = "wasm32") => 3e-6 - f64::from(f32::EPSILON) / 2.0,
        _ => 2e-6 - f64::from(f32::EPSILON) / 2.0,
    }
}

/// What `torch.nan_to_num` makes of a value that is not finite in the dtype.
fn replaced(v: f64, dtype: DType) -> f64 {
    match v.is_nan() {
        true => 0.0,
        false => largest(dtype).copysign(v),
    }
}

fn product<A, B, C>(a: A, b: B, c: C) -> impl Iterator<Item = (A::Item, B::Item, C::Item)>
where
    A: IntoIterator<Item: Clone>,
    B: IntoIterator<Item: Clone> + Clone,
    C: IntoIterator + Clone,
{
    a.into_iter().flat_map(move |a| {
        let c = c.clone();
        b.clone().into_iter().flat_map(move |b| {
            let a = a.clone();
            c.clone()
                .into_iter()
                .map(move |c| (a.clone(), b.clone(), c))
        })
    })
}

/// A layer and the shape of an input that it takes.
#[derive(Clone, Debug)]
pub struct Case {
    pub pool: Pool,
    pub shape: Vec<usize>,
}

impl Case {
    /// Cells of the input.
    pub fn cells(&self) -> usize {
        self.shape.iter().product()
    }

    /// A random input of this scale, and a random gradient of the output.
    pub fn inputs(&self, seed: u64, scale: f64, dtype: DType) -> Result<(Tensor, Tensor)> {
        let xs = randn(seed, scale, self.shape.as_slice(), dtype)?;
        let output = self.pool.output_shape(&self.shape);
        Ok((xs, randn(!seed, 1.0, output, dtype)?))
    }
}

/// Any layer of any rank, with small inputs: sliding windows with and without padding and ceil mode, adaptive ones,
/// either gradient, β of either sign.
pub fn any_case() -> impl Strategy<Value = Case> {
    let lead = prop_oneof![
        (1usize..4).prop_map(|c| vec![c]),
        (1usize..3, 1usize..3).prop_map(|(n, c)| vec![n, c])
    ];
    let sizes = (1usize..4, prop::array::uniform3(1usize..9), 1usize..40);
    let beta = prop_oneof![Just(1.0), -3f64..3.0];
    (sizes, any_windows(), lead, beta, any::<bool>()).prop_map(
        |((rank, mut size, width), windows, mut shape, beta, exact)| {
            size[2] = width;
            let windows = fitting(windows, &mut size);
            shape.extend(&size[3 - rank..]);
            let gradient = if exact {
                Gradient::Exact
            } else {
                Gradient::Paper
            };
            let pool = Pool::new(rank, windows).beta(beta).gradient(gradient);
            Case { pool, shape }
        },
    )
}

fn any_windows() -> impl Strategy<Value = Windows> {
    let sizes = |range: Range<usize>| prop::array::uniform3(range);
    let sliding = (sizes(1..6), sizes(1..6), sizes(0..3), any::<bool>()).prop_map(
        |(kernel, stride, padding, ceil_mode)| Windows::Sliding {
            kernel,
            stride,
            padding: [0, 1, 2].map(|d| padding[d].min(kernel[d] / 2)),
            ceil_mode,
        },
    );
    prop_oneof![3 => sliding, 1 => sizes(1..12).prop_map(Windows::Adaptive)]
}

/// Makes the input large enough for its windows.
fn fitting(windows: Windows, size: &mut [usize; 3]) -> Windows {
    if let Windows::Sliding {
        kernel, padding, ..
    } = windows
    {
        for d in 0..3 {
            size[d] = size[d].max(kernel[d].saturating_sub(2 * padding[d])).max(1);
        }
    }
    windows
}
