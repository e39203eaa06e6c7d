//! Random passes on a CUDA device, by the kernels that the plan names and by their twins with other indices, against the
//! definition in float64.
#![cfg(feature = "cuda")]

#[path = "../emulation/case.rs"]
mod case;
#[path = "../common/mod.rs"]
mod common;

use candle_core::{CudaStorage, DType, Layout, Result, Storage, Tensor};
use candle_softpool::backend::plan::{self, Kernel, Plan};
use candle_softpool::backend::{cuda, Gradient, Weighting};
use candle_softpool::geometry::{Geometry, Windows};
use case::{case, Case};
use proptest::test_runner::{Config, TestCaseError, TestRng, TestRunner};
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use std::collections::BTreeSet;

const DTYPES: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];
const CASES: u32 = 1000;

#[test]
fn random_passes_are_the_definition() {
    if !common::device().is_cuda() {
        println!("skipped: SOFTPOOL_TEST_DEVICE is not cuda");
        return;
    }
    let ran = RefCell::new(BTreeSet::new());
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(Default::default());
    let outcome = TestRunner::new_with_rng(config, rng)
        .run(&case(&DTYPES), |case| check(&case, &mut ran.borrow_mut()));
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let ran = ran.into_inner();
    let kernels = Kernel::ALL.len() * DTYPES.len() * 2;
    assert_eq!(ran.len(), kernels, "of all kernels these ran: {ran:?}");
}

/// The pass that SOFTPOOL_COUNTED names, such as `forward 3 2 1`, once in every dtype.
#[test]
#[ignore = "scripts/cuda/instructions.py runs it and counts"]
fn counted() {
    let named =
        std::env::var("SOFTPOOL_COUNTED").expect("SOFTPOOL_COUNTED: pass, kernel, stride, padding");
    let words: Vec<&str> = named.split(' ').collect();
    let [k, s, p] = [1, 2, 3].map(|i| words[i].parse::<usize>().unwrap());
    let dims = [1, 8, 56, 56];
    let windows = Windows::Sliding {
        kernel: [k; 2],
        stride: [s; 2],
        padding: [p; 2],
        ceil_mode: false,
    };
    let geometry = Geometry::new("counted", &windows, &dims).unwrap();
    let weighting = Weighting {
        beta: 1.0,
        nan_to_num: false,
    };
    for dtype in DTYPES {
        let xs = common::randn(1, 1.0, dims.as_slice(), dtype).unwrap();
        let grad = common::randn(2, 1.0, geometry.output_shape(xs.shape()), dtype).unwrap();
        let (x, x_layout) = xs.storage_and_layout();
        let (dy, dy_layout) = grad.storage_and_layout();
        let (Storage::Cuda(x), Storage::Cuda(dy)) = (&*x, &*dy) else {
            panic!("SOFTPOOL_TEST_DEVICE is not cuda")
        };
        let backward =
            |gradient| cuda::backward(x, x_layout, dy, dy_layout, &geometry, weighting, gradient);
        match words[0] {
            "forward" => cuda::forward(x, x_layout, &geometry, weighting),
            "paper" => backward(Gradient::Paper),
            _ => backward(Gradient::Exact),
        }
        .unwrap();
    }
}

/// Both passes of a case.
fn check(case: &Case, ran: &mut BTreeSet<String>) -> std::result::Result<(), TestCaseError> {
    let (g, w, device) = (&case.geometry, case.weighting, common::device());
    let mut activations = case::values(case);
    let (lie, dtype) = (case.input.0, case.dtype);
    let xs = case::tensor(&case.dims, dtype, lie, &device, &mut activations).unwrap();
    let shape = g.output_shape(xs.shape());
    let incoming = gradients(case);
    let grad = case::tensor(shape.dims(), dtype, case.grad, &device, incoming).unwrap();
    let wanted = Definition::new(case, &xs, &grad).unwrap();

    let (x, x_layout) = xs.storage_and_layout();
    let (dy, dy_layout) = grad.storage_and_layout();
    let (Storage::Cuda(x), Storage::Cuda(dy)) = (&*x, &*dy) else {
        unreachable!("tensors are on the device")
    };
    let plan = plan::forward(dtype, x_layout, g, w).unwrap();
    let ys = run(case, plan, [(x, x_layout), (x, x_layout)], ran).unwrap();
    wanted.assert_output(case, &ys)?;
    let plan = plan::backward(dtype, x_layout, dy_layout, g, w, case.gradient).unwrap();
    let dx = run(case, plan, [(x, x_layout), (dy, dy_layout)], ran).unwrap();
    wanted.assert_gradient(case, &dx)
}

/// A plan's output, by kernels and a grid that the case may change.
fn run(
    case: &Case,
    mut plan: Plan,
    [(x, x_layout), (dy, dy_layout)]: [(&CudaStorage, &Layout); 2],
    ran: &mut BTreeSet<String>,
) -> Result<Vec<f64>> {
    for launch in &mut plan.launches {
        launch.wide |= case.wide;
        launch.grid = launch.grid.min(case.grid);
        ran.insert(launch.function(case.dtype));
    }
    let storage = Storage::Cuda(cuda::run(&plan, x, x_layout, dy, dy_layout)?);
    let none = candle_core::op::BackpropOp::none();
    common::values(&Tensor::from_storage(storage, plan.output, none, false))
}

/// Incoming gradients: normal, and among them huge ones and NaN, which are their windows' alone.
fn gradients(case: &Case) -> impl FnMut() -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(case.seed ^ 1);
    let huge = if case.dtype == DType::F16 { 3e4 } else { 1e30 };
    move || {
        let x = case::normal(&mut rng);
        match rng.next_u32() % 100 {
            0 => f64::NAN,
            1..3 => huge * x.signum(),
            _ => x,
        }
    }
}

/// What the formula gives in f64, and what its errors are measured by.
struct Definition {
    output: Vec<f64>,
    /// The largest finite activation of each window.
    output_scale: Vec<f64>,
    gradient: Vec<f64>,
    /// The sum over a cell's windows of the largest part that each passes to one of its cells.
    gradient_scale: Vec<f64>,
    /// Whether a NaN came with a weight that the dtype of the arithmetic may take for zero.
    vague: Vec<bool>,
}

impl Definition {
    fn new(case: &Case, xs: &Tensor, grad: &Tensor) -> Result<Self> {
        let (x, g) = (common::values(xs)?, common::values(grad)?);
        let pool = common::Pool::sliding(2, 1, 1, 0)
            .beta(case.weighting.beta)
            .gradient(case.gradient)
            .nan_to_num(case.weighting.nan_to_num);
        let faint = if case.dtype == DType::F64 {
            1e-300
        } else {
            1e-37
        };
        let axes = case.geometry.axes;
        let mut all = Self {
            output: vec![],
            output_scale: vec![],
            gradient: vec![0.0; x.len()],
            gradient_scale: vec![0.0; x.len()],
            vague: vec![false; x.len()],
        };
        for plane in 0..x.len() / case.geometry.input_cells() {
            for window in 0..case.geometry.output_cells() {
                let at = case.geometry.output_at(window);
                let [d, h, w] = [0, 1, 2].map(|axis| axes[axis].window(at[axis]));
                let mut cells = vec![];
                for (d, h) in d.flat_map(|d| h.clone().map(move |h| (d, h))) {
                    let row = ((plane * axes[0].input + d) * axes[1].input + h) * axes[2].input;
                    cells.extend(w.clone().map(|w| row + w));
                }
                let values: Vec<f64> = cells.iter().map(|&i| x[i]).collect();
                let (y, slopes) = pool.window(&values);
                let g = g[all.output.len()];
                let steepest = slopes.iter().fold(0.0, |a: f64, s| s.abs().max(a));
                for (&i, &slope) in cells.iter().zip(&slopes) {
                    all.gradient[i] += if slope == 0.0 { 0.0 } else { g * slope };
                    all.gradient_scale[i] += if g.is_nan() {
                        0.0
                    } else {
                        (g * steepest).abs()
                    };
                    all.vague[i] |= g.is_nan() && slope.abs() < faint;
                }
                let finite = values.iter().filter(|x| x.is_finite());
                let largest = finite.fold(0.0, |a: f64, x| x.abs().max(a));
                all.output_scale.push(largest);
                all.output.push(y);
            }
        }
        Ok(all)
    }

    fn assert_output(&self, case: &Case, found: &[f64]) -> std::result::Result<(), TestCaseError> {
        let largest = common::largest(case.dtype);
        for (i, &wanted) in self.output.iter().enumerate() {
            let wanted = match case.weighting.nan_to_num {
                true if wanted.is_nan() => 0.0,
                true => wanted.clamp(-largest, largest),
                false => wanted,
            };
            near("output", i, case, found[i], wanted, self.output_scale[i])?;
        }
        Ok(())
    }

    fn assert_gradient(
        &self,
        case: &Case,
        found: &[f64],
    ) -> std::result::Result<(), TestCaseError> {
        for (i, &wanted) in self.gradient.iter().enumerate() {
            if !self.vague[i] {
                near(
                    "gradient",
                    i,
                    case,
                    found[i],
                    wanted,
                    self.gradient_scale[i],
                )?;
            }
        }
        Ok(())
    }
}

/// The wanted value, but for an error of the arithmetic by a cell's scale, rounded to the dtype once.
fn near(
    what: &str,
    i: usize,
    case: &Case,
    found: f64,
    wanted: f64,
    scale: f64,
) -> std::result::Result<(), TestCaseError> {
    let error = tolerance(case) * scale;
    let [low, high] = [wanted - error, wanted + error].map(|v| common::round(v, case.dtype));
    let right = match wanted.is_nan() {
        true => found.is_nan(),
        false => low <= found && found <= high,
    };
    match right {
        true => Ok(()),
        false => Err(TestCaseError::fail(format!(
            "{what} {i} is {found:e}, not {wanted:e} ± {error:e}"
        ))),
    }
}

fn tolerance(case: &Case) -> f64 {
    common::tolerance(case.dtype)
}
