//! Random passes on a CUDA device, by the kernels that the plan names and by their twins with other indices, against the
//! definition in float64.
#![cfg(feature = "cuda")]

#[path = "../emulation/case.rs"]
mod case;
#[path = "../common/mod.rs"]
mod common;
#[path = "../emulation/definition.rs"]
mod definition;

use candle_core::{CudaStorage, DType, Result, Storage, Tensor};
use candle_softpool::backend::cuda::{self, Tensors};
use candle_softpool::backend::plan::{self, Kernel, Plan};
use candle_softpool::backend::{Gradient, Method, Weighting};
use candle_softpool::geometry::{Geometry, Windows};
use case::{case, Case};
use definition::Definition;
use proptest::test_runner::{Config, TestCaseError, TestRng, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Barrier;

const DTYPES: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];
const CASES: u32 = 1000;
const SOFT_POOL: Method = Method::SoftPool(Weighting {
    beta: 1.0,
    nan_to_num: false,
});

/// Kernels with a dtype, and with an index.
type Ran = BTreeSet<(String, &'static str)>;

#[test]
fn random_passes_are_the_definition() {
    if !common::device().is_cuda() {
        println!("skipped: SOFTPOOL_TEST_DEVICE is not cuda");
        return;
    }
    let ran = RefCell::new(Ran::new());
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
    // Every kernel with both indices, and those that are no rule's alone in every dtype.
    let wanted = Kernel::all().flat_map(|kernel| {
        let of_all_rules = matches!(kernel, Kernel::Any(..));
        let dtypes = DTYPES.iter().filter(move |_| !of_all_rules);
        let dtypes = dtypes.map(|dtype| dtype.as_str());
        dtypes
            .chain(["u32", "u64"])
            .map(move |how| (kernel.name(), how))
    });
    // Parts of a warp, a warp, and blocks.
    let teams = (0..=8).map(|team| (format!("teams of {}", 1 << team), ""));
    let wanted = wanted.chain(teams);
    let missing: Vec<_> = wanted.filter(|what| !ran.contains(what)).collect();
    assert!(
        missing.is_empty(),
        "of all kernels and teams these did not run: {missing:?}"
    );
}

/// Many kernels give the same results as others, so that only their names tell. Candle lets each of the threads that miss a
/// module load it, and the later ones replace and unload what the earlier ones are still running.
#[test]
fn a_launch_runs_the_kernel_that_it_names_of_a_module_loaded_once() {
    if !common::device().is_cuda() {
        println!("skipped: SOFTPOOL_TEST_DEVICE is not cuda");
        return;
    }
    let report = tempfile::NamedTempFile::new().unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "launch_every_kernel"])
        .env("SOFTPOOL_CUDA_REPORT", report.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let lines = std::fs::read_to_string(report.path()).unwrap();
    // The driver of these tests writes it, NVIDIA's does not.
    if lines.is_empty() {
        return;
    }
    let mut modules = BTreeSet::new();
    for (kernel, wide, dtype) in every_kernel() {
        let function = plan::function(kernel, wide, dtype);
        let launched = format!("kernel {function} launches {THREADS} ");
        assert!(lines.contains(&launched), "no {launched} in {lines}");
        modules.insert(plan::module(kernel, wide, dtype));
    }
    let loaded = format!("call cuModuleLoadData times {}\n", modules.len());
    assert!(lines.contains(&loaded), "no {loaded} in {lines}");
}

const THREADS: usize = 8;

/// By several threads at once.
#[test]
#[ignore = "the test above runs it and reads what the driver counted"]
fn launch_every_kernel() {
    let device = common::device();
    let together = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for (kernel, wide, dtype) in every_kernel() {
                    let xs = Tensor::zeros((1, 1, 2, 2), dtype, &device).unwrap();
                    together.wait();
                    launch_idle(kernel, wide, &xs).unwrap();
                }
            });
        }
    });
}

/// With nothing to do, so that the same arguments serve all kernels.
fn launch_idle(kernel: Kernel, wide: bool, xs: &Tensor) -> Result<()> {
    let geometry = Geometry::new("idle", &sliding::<2>(2, 2, 0), xs.dims())?;
    let (x, layout) = xs.storage_and_layout();
    let Storage::Cuda(x) = &*x else {
        panic!("SOFTPOOL_TEST_DEVICE is not cuda")
    };
    let tensors = Tensors::new(x, layout);
    let mut plan = plan::forward(xs.dtype(), tensors.layouts(), &geometry, SOFT_POOL)?;
    let launch = &mut plan.launches[0];
    (launch.kernel, launch.wide) = (kernel, wide);
    launch.params.items = 0;
    cuda::run(&plan, tensors).map(drop)
}

fn every_kernel() -> impl Iterator<Item = (Kernel, bool, DType)> {
    let wide = |kernel| [(kernel, false), (kernel, true)];
    let all = Kernel::all().flat_map(wide);
    all.flat_map(|(kernel, wide)| DTYPES.map(|dtype| (kernel, wide, dtype)))
}

fn sliding<const D: usize>(kernel: usize, stride: usize, padding: usize) -> Windows<D> {
    Windows::Sliding {
        kernel: [kernel; D],
        stride: [stride; D],
        padding: [padding; D],
        ceil_mode: false,
    }
}

/// The pass that SOFTPOOL_COUNTED names, such as `forward 3 2 1 8 56` for a kernel of 3, a stride of 2, a padding of 1 and 8
/// planes of 56×56, once in every dtype. A seventh number is the depth of the planes, whose windows are cubes then; `logits`
/// is the gradient of windows with logits of their own.
#[test]
#[ignore = "scripts/cuda/instructions.py runs it and counts"]
fn counted() {
    let named = std::env::var("SOFTPOOL_COUNTED")
        .expect("SOFTPOOL_COUNTED: pass, kernel, stride, padding, planes, their edge, their depth");
    let (pass, numbers) = named.split_once(' ').unwrap();
    let numbers: Vec<usize> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
    let ([k, s, p, planes, edge], depth) = numbers.split_first_chunk().unwrap();
    let (dims, geometry) = match depth {
        [depth] => {
            let dims = vec![1, *planes, *depth, *edge, *edge];
            let geometry = Geometry::new("counted", &sliding::<3>(*k, *s, *p), &dims);
            (dims, geometry)
        }
        _ => {
            let dims = vec![1, *planes, *edge, *edge];
            let geometry = Geometry::new("counted", &sliding::<2>(*k, *s, *p), &dims);
            (dims, geometry)
        }
    };
    let geometry = geometry.unwrap();
    for dtype in DTYPES {
        let xs = common::randn(1, 1.0, dims.as_slice(), dtype).unwrap();
        let zs = common::randn(3, 1.0, dims.as_slice(), dtype).unwrap();
        let grad = common::randn(2, 1.0, geometry.output_shape(xs.shape()), dtype).unwrap();
        let (x, x_layout) = xs.storage_and_layout();
        let (z, z_layout) = zs.storage_and_layout();
        let (dy, dy_layout) = grad.storage_and_layout();
        let (Storage::Cuda(x), Storage::Cuda(z), Storage::Cuda(dy)) = (&*x, &*z, &*dy) else {
            panic!("SOFTPOOL_TEST_DEVICE is not cuda")
        };
        let tensors = Tensors::new(x, x_layout).with_grad(dy, dy_layout);
        let backward = |gradient| cuda::backward(tensors, &geometry, SOFT_POOL, gradient);
        match pass {
            "forward" => cuda::forward(tensors, &geometry, SOFT_POOL),
            "paper" => backward(Gradient::Paper),
            "exact" => backward(Gradient::Exact),
            _ => cuda::backward(
                tensors.with_logits(z, z_layout),
                &geometry,
                Method::Logits,
                Gradient::Exact,
            ),
        }
        .unwrap();
    }
}

/// Both passes of a case.
fn check(case: &Case, ran: &mut Ran) -> std::result::Result<(), TestCaseError> {
    let (g, method, device) = (&case.geometry, case.method, common::device());
    let dtype = case.dtype;
    let tensor = |dims: &[usize], lie, values: &mut dyn FnMut() -> f64| {
        case::tensor(dims, dtype, lie, &device, values).unwrap()
    };
    let xs = tensor(&case.dims, case.input.0, &mut case::activations(case));
    let zs = tensor(&case.dims, case.logits.0, &mut case::logits(case));
    let shape = g.output_shape(xs.shape());
    let grad = tensor(shape.dims(), case.grad, &mut case::gradients(case));
    let wanted = Definition::new(case, &xs, &zs, &grad).unwrap();

    let (x, x_layout) = xs.storage_and_layout();
    let (z, z_layout) = zs.storage_and_layout();
    let (dy, dy_layout) = grad.storage_and_layout();
    let [x, z, dy] = [&x, &z, &dy].map(|storage| match &**storage {
        Storage::Cuda(storage) => storage,
        _ => unreachable!("tensors are on the device"),
    });
    let mut tensors = Tensors::new(x, x_layout).with_grad(dy, dy_layout);
    if method == Method::Logits {
        tensors = tensors.with_logits(z, z_layout);
    }
    let layouts = tensors.layouts();
    let plan = plan::forward(dtype, layouts, g, method).unwrap();
    wanted.assert_output(case, &run(case, plan, tensors, ran).unwrap())?;
    let plan = plan::backward(dtype, layouts, g, method, case.gradient).unwrap();
    wanted.assert_gradients(case, &run(case, plan, tensors, ran).unwrap())?;
    if method != Method::Maximum {
        return Ok(());
    }
    let places = cuda::places(x, x_layout, g).unwrap();
    wanted.assert_places(&values(places, shape.elem_count()).unwrap())
}

/// A plan's output, by kernels and a grid that the case may change.
fn run(
    case: &Case,
    mut plan: Plan,
    tensors: Tensors<CudaStorage>,
    ran: &mut Ran,
) -> Result<Vec<f64>> {
    for launch in &mut plan.launches {
        launch.wide |= case.wide;
        launch.grid = launch.grid.min(case.grid);
        let name = launch.kernel.name();
        ran.insert((name.clone(), case.dtype.as_str()));
        ran.insert((name, plan::index(launch.wide)));
        ran.insert((format!("teams of {}", 1 << launch.params.team), ""));
    }
    values(cuda::run(&plan, tensors)?, plan.output)
}

fn values(storage: CudaStorage, count: usize) -> Result<Vec<f64>> {
    let none = candle_core::op::BackpropOp::none();
    common::values(&Tensor::from_storage(
        Storage::Cuda(storage),
        count,
        none,
        false,
    ))
}
