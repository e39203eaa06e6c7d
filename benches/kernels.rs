//! SoftPool alone, for comparison with an earlier commit: `cargo bench --bench kernels`.

use candle_core::{DType, Device, Module, Tensor, Var};
use candle_softpool::{Gradient, SoftPool2d};
use divan::counter::BytesCount;
use divan::Bencher;
use std::fmt;

fn main() {
    divan::main();
}

/// Input, kernel, stride, padding.
const WINDOWS: [([usize; 4], usize, usize, usize); 5] = [
    ([8, 64, 112, 112], 2, 2, 0),
    ([8, 64, 112, 112], 3, 2, 0),
    ([8, 16, 256, 256], 7, 3, 0),
    ([8, 64, 28, 28], 13, 1, 6),
    ([1, 64, 8, 8], 2, 2, 0),
];

struct Case {
    shape: [usize; 4],
    pool: SoftPool2d,
    dtype: DType,
    window: String,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let sizes = self.shape.map(|n| n.to_string()).join("x");
        write!(f, "{} {sizes} {}", self.dtype.as_str(), self.window)
    }
}

impl Case {
    fn input(&self) -> Tensor {
        Tensor::randn(0f32, 1., &self.shape, &Device::Cpu)
            .and_then(|xs| xs.to_dtype(self.dtype))
            .expect("an input")
    }
}

fn cases() -> Vec<Case> {
    let dtypes = [DType::F16, DType::BF16, DType::F32, DType::F64];
    let of = |dtype| {
        WINDOWS.map(|(shape, kernel, stride, padding)| Case {
            shape,
            pool: SoftPool2d::new(kernel).stride(stride).padding(padding),
            dtype,
            window: format!("{kernel}/{stride} p{padding}"),
        })
    };
    dtypes.into_iter().flat_map(of).collect()
}

#[divan::bench(args = cases())]
fn forward(bencher: Bencher, case: &Case) {
    let xs = case.input();
    bencher
        .counter(BytesCount::new(bytes(&xs)))
        .bench(|| case.pool.forward(&xs).expect("an output"));
}

#[divan::bench(args = cases())]
fn paper(bencher: Bencher, case: &Case) {
    backward(bencher, case, Gradient::Paper)
}

#[divan::bench(args = cases())]
fn exact(bencher: Bencher, case: &Case) {
    backward(bencher, case, Gradient::Exact)
}

/// Forward, and backward through candle's autograd.
fn backward(bencher: Bencher, case: &Case, gradient: Gradient) {
    let xs = Var::from_tensor(&case.input()).expect("a variable");
    let pool = case.pool.gradient(gradient);
    bencher.counter(BytesCount::new(bytes(&xs))).bench(|| {
        pool.forward(&xs)
            .and_then(|ys| ys.backward())
            .expect("gradients")
    });
}

fn bytes(xs: &Tensor) -> usize {
    xs.elem_count() * xs.dtype().size_in_bytes()
}
