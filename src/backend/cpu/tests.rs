//! Every instruction set that this machine has gives what the definition says.

use super::{backward_on, direct, forward_on, Element, Gradient, View, Weighting};
use crate::geometry::{Geometry, Windows};
use candle_core::{Layout, Result, Shape};
use half::{bf16, f16};
use pulp::Arch;

/// A portable path, and those of the machine.
fn archs() -> Vec<Arch> {
    let mut archs = vec![Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        archs.extend(pulp::x86::V4::try_new().map(Arch::V4));
    }
    archs.push(Arch::new());
    archs
}

/// Kernel, stride and padding, and the shape of an input, wide enough for whole vectors and for the ends of rows.
const CASES: [([usize; 3], [usize; 4]); 12] = [
    ([2, 2, 0], [2, 3, 14, 38]),
    ([2, 2, 0], [1, 2, 30, 112]),
    ([3, 2, 0], [2, 3, 15, 37]),
    ([3, 2, 1], [1, 2, 41, 64]),
    ([3, 1, 1], [2, 2, 9, 35]),
    ([13, 1, 6], [1, 1, 13, 19]),
    ([7, 3, 0], [1, 2, 25, 40]),
    ([2, 3, 0], [2, 2, 11, 50]),
    ([5, 70, 0], [1, 1, 80, 150]),
    ([2, 2, 0], [2, 9, 8, 8]),
    ([2, 3, 0], [2, 9, 9, 8]),
    ([1, 2, 0], [2, 3, 8, 1]),
];

/// Values between −4 and 4 from a linear congruential generator.
fn values<T: Element>(count: usize) -> Vec<T> {
    let mut state = 1u64;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        T::round((state >> 40) as f64 / f64::from(1 << 21) - 4.0)
    };
    (0..count).map(next).collect()
}

fn assert_near<T: Element>(what: &str, found: &[T], expected: &[T], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (y, z)) in found.iter().zip(expected).enumerate() {
        let (y, z) = (y.to_f64(), z.to_f64());
        assert!((y - z).abs() <= tolerance, "{what}: {y} at {i}, not {z}");
    }
}

/// Forward and both gradients on every instruction set against [`direct`].
fn compare<T: Element>(beta: f64, tolerance: f64) -> Result<()> {
    let weighting = Weighting {
        beta,
        nan_to_num: false,
    };
    for ([kernel, stride, padding], shape) in CASES {
        let windows = Windows::<2>::Sliding {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            ceil_mode: false,
        };
        let geometry = &Geometry::new("SoftPool2d", &windows, &shape)?;
        let [_, height, width] = geometry.axes;
        let x = values::<T>(shape.iter().product());
        let layout = Layout::contiguous(Shape::from(&shape[..]));
        let input = View::new(&x, &layout, 2);
        let (planes, pooled) = (shape[0] * shape[1], [height.output, width.output]);
        let g = values::<T>(planes * pooled[0] * pooled[1]);
        let pooled_layout = Layout::contiguous((planes, pooled[0], pooled[1]));
        let grad = View::new(&g, &pooled_layout, 2);
        let cells = |[rows, columns]: [usize; 2]| {
            (0..planes * rows * columns)
                .map(move |i| (i / (rows * columns), [0, i / columns % rows, i % columns]))
        };
        let y: Vec<T> = cells(pooled)
            .map(|(p, at)| direct::window(input.plane(p), geometry, weighting, at))
            .collect();
        for arch in archs() {
            let what = format!("{arch:?} {kernel}/{stride} p{padding}");
            assert_near(
                &what,
                &forward_on(arch, input, geometry, weighting)?,
                &y,
                tolerance,
            );
        }
        for gradient in [Gradient::Paper, Gradient::Exact] {
            let dx: Vec<T> = cells([shape[2], shape[3]])
                .map(|(p, at)| {
                    direct::cell(
                        input.plane(p),
                        grad.plane(p),
                        geometry,
                        weighting,
                        gradient,
                        at,
                    )
                })
                .collect();
            let scale = dx.iter().map(|v| v.to_f64().abs()).fold(1.0, f64::max);
            for arch in archs() {
                let what = format!("{arch:?} {gradient:?} {kernel}/{stride} p{padding}");
                let found = backward_on(arch, input, grad, geometry, (weighting, gradient))?;
                assert_near(&what, &found, &dx, tolerance * scale);
            }
        }
    }
    Ok(())
}

#[test]
fn every_instruction_set_agrees_with_the_definition() -> Result<()> {
    compare::<f32>(6.0, 8e-6)?;
    for beta in [1.0, -0.7] {
        compare::<f32>(beta, 8e-6)?;
        compare::<f64>(beta, 4e-12)?;
        compare::<f16>(beta, 4e-3)?;
        compare::<bf16>(beta, 4e-2)?;
    }
    Ok(())
}
