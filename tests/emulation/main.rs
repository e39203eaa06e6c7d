//! Metal's kernels on the CPU: the very text that GPUs run, compiled by the host's C++ compiler behind a shim,
//! launched over the very grid that the plan says, against the definition in float64. CUDA's have `tests/cuda`.
//!
//! Stray accesses and misaligned vectors end the driver; outputs are poisoned first, so that an unwritten one shows.
// The driver finds kernels by dlsym and switches between threads by ucontext, neither of which Windows has.
#![cfg(not(windows))]

mod case;
#[path = "../common/mod.rs"]
mod common;
mod definition;
mod driver;
mod rounding;

use candle_core::{CpuStorage, DType, Device, Layout, Storage, Tensor};
use candle_softpool::backend::cpu::Element;
use candle_softpool::backend::params::Layouts;
use candle_softpool::backend::plan::{self, Kernel, Plan, Rule};
use candle_softpool::backend::Method;
use case::{case, Case};
use definition::Definition;
use driver::{Buffer, Driver, Grid};
use half::{bf16, f16};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::collections::BTreeSet;

const CASES: u32 = 1000;
/// Bytes of outputs before they are written: no value that a pass gives.
const POISON: u8 = 0x7b;

#[test]
fn metal_kernels_are_the_definition() {
    let dtypes = &[DType::F16, DType::BF16, DType::F32];
    let Some(driver) = Driver::new(&Rule::ALL, dtypes) else {
        return;
    };
    let emulation = std::cell::RefCell::new(Emulation {
        driver,
        ran: BTreeSet::new(),
    });
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(Default::default()),
    )
    .run(&case(dtypes), |case| emulation.borrow_mut().check(&case));
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let ran = &emulation.borrow().ran;
    // Every kernel with both indices, and those that are no rule's alone in every dtype.
    let wanted = Kernel::all().flat_map(|kernel| {
        let of_all_rules = matches!(kernel, Kernel::Any(..));
        let dtypes = dtypes.iter().filter(move |_| !of_all_rules);
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

/// A running driver, and the kernels that it ran.
struct Emulation {
    driver: Driver,
    /// With a dtype, and with an index.
    ran: BTreeSet<(String, &'static str)>,
}

impl Emulation {
    /// Both passes of a case.
    fn check(&mut self, case: &Case) -> Result<(), TestCaseError> {
        match case.dtype {
            DType::F16 => self.check_as::<f16>(case),
            DType::BF16 => self.check_as::<bf16>(case),
            _ => self.check_as::<f32>(case),
        }
    }

    fn check_as<T: Element>(&mut self, case: &Case) -> Result<(), TestCaseError> {
        let (g, method, dtype) = (&case.geometry, case.method, case.dtype);
        let tensor = |dims: &[usize], lie, values: &mut dyn FnMut() -> f64| {
            case::tensor(dims, dtype, lie, &Device::Cpu, values).unwrap()
        };
        let xs = tensor(&case.dims, case.input.0, &mut case::activations(case));
        let zs = tensor(&case.dims, case.logits.0, &mut case::logits(case));
        let shape = g.output_shape(xs.shape());
        let grad = tensor(shape.dims(), case.grad, &mut case::gradients(case));
        let wanted = Definition::new(case, &xs, &zs, &grad).unwrap();

        let layouts = Layouts {
            input: xs.layout(),
            logits: (method == Method::Logits).then(|| zs.layout()),
            grad: Some(grad.layout()),
        };
        let tensors = [&xs, &zs, &grad];
        let plan = plan::forward(dtype, layouts, g, method).unwrap();
        let (ys, _) = self.run::<T>(case, &plan, tensors);
        wanted.assert_output(case, &ys)?;
        let plan = plan::backward(dtype, layouts, g, method, case.gradient).unwrap();
        let (dx, _) = self.run::<T>(case, &plan, tensors);
        wanted.assert_gradients(case, &dx)?;
        if method != Method::Maximum {
            return Ok(());
        }
        let mut plan = plan::places(dtype, layouts, g).unwrap();
        // They are in the place of a scratch buffer.
        (plan.scratch, plan.output) = (plan.output, 0);
        let (_, places) = self.run::<T>(case, &plan, tensors);
        let places = places.chunks_exact(4);
        let places = places.map(|place| f64::from(u32::from_ne_bytes(place.try_into().unwrap())));
        wanted.assert_places(&places.collect::<Vec<_>>())
    }

    /// The output of a plan, and the bytes of its scratch buffer.
    fn run<T: Element>(
        &mut self,
        case: &Case,
        plan: &Plan,
        tensors: [&Tensor; 3],
    ) -> (Vec<f64>, Vec<u8>) {
        let mut output = vec![POISON; plan.output * size_of::<T>()];
        let mut scratch = vec![POISON; plan.scratch * size_of::<T::Compute>()];
        for launch in &plan.launches {
            let mut launch = *launch;
            launch.wide |= case.wide;
            let name = launch.kernel.name();
            self.ran.insert((name.clone(), case.dtype.as_str()));
            self.ran.insert((name, plan::index(launch.wide)));
            self.ran
                .insert((format!("teams of {}", 1 << launch.params.team), ""));
            let grid = Grid {
                blocks: launch.grid.min(case.grid),
                threads: launch.block,
                shared: launch.shared_bytes(T::DTYPE),
            };
            let storages = tensors.map(|tensor| tensor.storage_and_layout().0);
            let inputs = [0, 1, 2].map(|i| match &*storages[i] {
                Storage::Cpu(cells) => {
                    let cells = CpuStorage::as_slice::<T>(cells).unwrap();
                    buffer((cells, tensors[i].layout()))
                }
                _ => unreachable!("tensors are on the CPU"),
            });
            let outputs = [&mut output[..], &mut scratch[..]];
            let function = launch.function(T::DTYPE);
            self.driver
                .launch(&function, grid, bytes(&[launch.params]), &inputs, outputs);
        }
        let cells = output.chunks_exact(size_of::<T>());
        // SAFETY: any bytes are a float, and a chunk has as many as one.
        let cells = cells.map(|cell| unsafe { cell.as_ptr().cast::<T>().read_unaligned() });
        (cells.map(|cell| cell.to_f64()).collect(), scratch)
    }
}

/// The cells that a layout reaches, no more.
fn buffer<'a, T: Element>((cells, layout): (&'a [T], &Layout)) -> Buffer<'a> {
    if cells.is_empty() {
        return Buffer::new(&[]);
    }
    let reach = layout
        .dims()
        .iter()
        .zip(layout.stride())
        .map(|(&dim, &stride)| (dim - 1) * stride);
    let start = layout.start_offset();
    Buffer {
        skip: start * size_of::<T>() % 16,
        bytes: bytes(&cells[start..=start + reach.sum::<usize>()]),
    }
}

fn bytes<T>(values: &[T]) -> &[u8] {
    // SAFETY: floats and the parameters have no padding bytes, and any byte may be read.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
