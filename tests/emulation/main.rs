//! Metal's kernels on the CPU: the very text that GPUs run, compiled by the host's C++ compiler behind a shim,
//! launched over the very grid that the plan says, against the CPU kernels. CUDA's have `tests/cuda`.
//!
//! Stray accesses and misaligned vectors end the driver; outputs are poisoned first, so that an unwritten one shows.

mod case;
mod driver;
mod rounding;

use candle_core::{CpuStorage, DType, Device, Layout, Storage, Tensor};
use candle_softpool::backend::cpu::{self, Element, View};
use candle_softpool::backend::plan::{self, Kernel, Plan};
use candle_softpool::backend::Method;
use candle_softpool::geometry::Geometry;
use case::{case, normal, tensor, values, Case};
use driver::{Buffer, Driver};
use half::{bf16, f16};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rand_chacha::rand_core::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

const CASES: u32 = 1000;
/// Bytes of outputs before they are written: no value that a pass gives.
const POISON: u8 = 0x7b;

#[test]
fn metal_kernels_are_the_cpu_kernels() {
    let dtypes = &[DType::F16, DType::BF16, DType::F32];
    let Some(driver) = Driver::new(dtypes) else {
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
    let kernels = Kernel::ALL.len() * dtypes.len() * 2;
    let ran = &emulation.borrow().ran;
    assert_eq!(ran.len(), kernels, "of all kernels these ran: {ran:?}");
}

/// A running driver, and the kernels that it ran.
struct Emulation {
    driver: Driver,
    ran: BTreeSet<String>,
}

impl Emulation {
    /// Both passes of a case.
    fn check(&mut self, case: &Case) -> Result<(), TestCaseError> {
        let mut values = values(case);
        let xs = tensor(
            &case.dims,
            case.dtype,
            case.input.0,
            &Device::Cpu,
            &mut values,
        )
        .unwrap();
        let shape = case.geometry.output_shape(xs.shape());
        let mut rng = ChaCha8Rng::seed_from_u64(case.seed ^ 1);
        let grad = tensor(shape.dims(), case.dtype, case.grad, &Device::Cpu, || {
            normal(&mut rng)
        })
        .unwrap();
        match case.dtype {
            DType::F16 => self.check_as::<f16>(case, &xs, &grad),
            DType::BF16 => self.check_as::<bf16>(case, &xs, &grad),
            DType::F32 => self.check_as::<f32>(case, &xs, &grad),
            _ => self.check_as::<f64>(case, &xs, &grad),
        }
    }

    fn check_as<T: Element>(
        &mut self,
        case: &Case,
        xs: &Tensor,
        grad: &Tensor,
    ) -> Result<(), TestCaseError> {
        let (g, w) = (&case.geometry, case.weighting);
        with_cells::<T, _>(xs, |x, x_layout| {
            with_cells::<T, _>(grad, |dy, dy_layout| {
                let view = |cells, layout| View::new(cells, layout, g.rank);
                let plan = plan::forward(case.dtype, x_layout, g, w).unwrap();
                let ys = self.run(case, &plan, (x, x_layout), (&[], x_layout));
                let expected =
                    cpu::forward(view(x, x_layout).into(), g, Method::SoftPool(w)).unwrap();
                let largest = largest(xs, g);
                close("forward", &ys, &expected, |window| largest[window])?;

                let plan =
                    plan::backward(case.dtype, x_layout, dy_layout, g, w, case.gradient).unwrap();
                let dx = self.run(case, &plan, (x, x_layout), (dy, dy_layout));
                let expected = cpu::backward(
                    view(x, x_layout).into(),
                    view(dy, dy_layout),
                    g,
                    Method::SoftPool(w),
                    case.gradient,
                )
                .unwrap();
                let scale = gradient_scale(case);
                close("backward", &dx, &expected, |_| scale)
            })
        })
    }

    fn run<T: Element>(
        &mut self,
        case: &Case,
        plan: &Plan,
        x: (&[T], &Layout),
        dy: (&[T], &Layout),
    ) -> Vec<T> {
        let mut output = vec![POISON; plan.output * size_of::<T>()];
        let mut scratch = vec![POISON; plan.scratch * size_of::<T::Compute>()];
        for launch in &plan.launches {
            let mut launch = *launch;
            launch.wide |= case.wide;
            let function = launch.function(T::DTYPE);
            let grid = [
                launch.grid.min(case.grid) as usize,
                launch.block as usize,
                0,
            ];
            let (x, dy) = (buffer(x), buffer(dy));
            let outputs = [&mut output[..], &mut scratch[..]];
            self.driver
                .launch(&function, grid, bytes(&[launch.params]), [&x, &dy], outputs);
            self.ran.insert(function);
        }
        let cells = output.chunks_exact(size_of::<T>());
        // SAFETY: any bytes are a float, and a chunk has as many as one.
        cells
            .map(|cell| unsafe { cell.as_ptr().cast::<T>().read_unaligned() })
            .collect()
    }
}

/// The cells of a tensor's storage, with how they lie.
fn with_cells<T: Element, R>(tensor: &Tensor, use_cells: impl FnOnce(&[T], &Layout) -> R) -> R {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => use_cells(CpuStorage::as_slice::<T>(storage).unwrap(), layout),
        _ => unreachable!("tensors are on the CPU"),
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

/// What rounding errors of a gradient are measured by.
fn gradient_scale(case: &Case) -> f64 {
    let axes = case.geometry.axes.iter();
    let windows = axes.map(|axis| {
        (0..axis.input)
            .map(|i| axis.windows_of(i).len())
            .max()
            .unwrap()
    });
    4.0 * windows.product::<usize>() as f64
}

/// The largest finite activation of each window, by its size.
fn largest(xs: &Tensor, geometry: &Geometry) -> Vec<f64> {
    let cells = xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    let cells: Vec<f64> = cells.to_vec1().unwrap();
    let sizes: Vec<_> = cells
        .iter()
        .map(|x| if x.is_finite() { x.abs() } else { 0.0 })
        .collect();
    let layout = Layout::contiguous(xs.dims());
    let sizes = View::new(&sizes, &layout, geometry.rank);
    cpu::forward(sizes.into(), geometry, Method::Maximum).unwrap()
}

/// Equal but for rounding: to the dtype, and in the arithmetic in units of a cell's `scale`.
fn close<T: Element>(
    pass: &str,
    found: &[T],
    expected: &[T],
    scale: impl Fn(usize) -> f64,
) -> Result<(), TestCaseError> {
    let (narrow, wide) = match T::DTYPE {
        DType::F16 => (1e-3, 4e-6),
        DType::BF16 => (8e-3, 4e-6),
        DType::F32 => (2e-7, 2e-6),
        _ => (1e-15, 4e-14),
    };
    if found.len() != expected.len() {
        return Err(TestCaseError::fail(format!(
            "{pass}: {} cells, not {}",
            found.len(),
            expected.len()
        )));
    }
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (a, b) = (found.to_f64(), expected.to_f64());
        let same = a == b || a.is_nan() && b.is_nan();
        // Halves keep the difference of huge values finite.
        let error = 2.0 * (a / 2.0 - b / 2.0).abs();
        let near = b.is_finite() && error <= narrow * b.abs() + wide * scale(i);
        if !(same || near) {
            return Err(TestCaseError::fail(format!(
                "{pass}: cell {i} is {a}, not {b}"
            )));
        }
    }
    Ok(())
}
