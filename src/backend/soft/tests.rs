//! Every instruction set that this machine has gives what the definition says.

use super::simd::Real;
use super::{backward_on, direct, forward_on, Element, Gradient, View, Weighting};
use crate::geometry::{Geometry, Windows};
use candle_core::{Layout, Result, Shape};
use half::{bf16, f16};
use pulp::Arch;
use std::f64::consts::LN_2;

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
const CASES: [([usize; 3], [usize; 4]); 16] = [
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
    ([2, 2, 0], [1, 1, 6, 2060]),
    ([3, 2, 0], [2, 40, 8, 8]),
    ([3, 1, 0], [2, 9, 7, 7]),
    ([2, 2, 0], [3, 90, 6, 4]),
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

/// `tolerance` is a part of the scale: that of [`values`], or of what is expected.
fn assert_near<T: Element>(what: &str, found: &[T], expected: &[T], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (y, z)) in found.iter().zip(expected).enumerate() {
        let (y, z) = (y.to_f64(), z.to_f64());
        let most = tolerance * z.abs().max(4.0);
        assert!((y - z).abs() <= most, "{what}: {y} at {i}, not {z}");
    }
}

fn geometry([kernel, stride, padding]: [usize; 3], shape: &[usize]) -> Result<Geometry> {
    let windows = Windows::<2>::Sliding {
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
        ceil_mode: false,
    };
    Geometry::new("SoftPool2d", &windows, shape)
}

/// Plane and place of all cells.
fn cells(planes: usize, [rows, columns]: [usize; 2]) -> impl Iterator<Item = (usize, [usize; 3])> {
    (0..planes * rows * columns)
        .map(move |i| (i / (rows * columns), [0, i / columns % rows, i % columns]))
}

/// Forward on every instruction set against [`direct`].
fn compare_outputs<T: Element>(
    input: View<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
    tolerance: f64,
) -> Result<()> {
    let [_, height, width] = geometry.axes;
    let y: Vec<T> = cells(input.planes(), [height.output, width.output])
        .map(|(p, at)| direct::Windows::new(input.plane(p), geometry, weighting).output(at))
        .collect();
    for arch in archs() {
        let what = format!("{arch:?} {height:?} {width:?} β {}", weighting.beta);
        let found = forward_on(arch, input, geometry, weighting)?;
        assert_near(&what, &found, &y, tolerance);
    }
    Ok(())
}

/// Both gradients on every instruction set against [`direct`].
fn compare_gradients<T: Element>(
    (input, grad): (View<'_, T>, View<'_, T>),
    geometry: &Geometry,
    weighting: Weighting,
    tolerance: f64,
) -> Result<()> {
    let [depths, rows, columns] = geometry.axes.map(|axis| axis.input);
    for gradient in [Gradient::Paper, Gradient::Exact] {
        let dx: Vec<T> = (0..input.planes() * depths * rows * columns)
            .map(|i| {
                let (row, depth) = (i / columns, i / columns / rows);
                let plane = depth / depths;
                let at = [depth % depths, row % rows, i % columns];
                let windows = direct::Windows::new(input.plane(plane), geometry, weighting);
                windows.gradient(grad.plane(plane), gradient, at)
            })
            .collect();
        for arch in archs() {
            let what = format!("{arch:?} {gradient:?} {:?}", geometry.axes);
            let found = backward_on(arch, input, grad, geometry, (weighting, gradient))?;
            assert_near(&what, &found, &dx, tolerance);
        }
    }
    Ok(())
}

/// Forward and both gradients on every instruction set against [`direct`].
fn compare<T: Element>(beta: f64, tolerance: f64) -> Result<()> {
    let weighting = Weighting {
        beta,
        nan_to_num: false,
    };
    for (windows, shape) in CASES {
        let geometry = &geometry(windows, &shape)?;
        let [_, height, width] = geometry.axes;
        let x = values::<T>(shape.iter().product());
        let layout = Layout::contiguous(Shape::from(&shape[..]));
        let input = View::new(&x, &layout, 2);
        let pooled = (input.planes(), height.output, width.output);
        let pooled = Layout::contiguous(pooled);
        let g = values::<T>(pooled.shape().elem_count());
        let grad = View::new(&g, &pooled, 2);
        compare_outputs(input, geometry, weighting, tolerance)?;
        compare_gradients((input, grad), geometry, weighting, tolerance)?;
    }
    Ok(())
}

#[test]
fn every_instruction_set_agrees_with_the_definition() -> Result<()> {
    compare::<f32>(6.0, 2e-6)?;
    for beta in [1.0, -0.7] {
        compare::<f32>(beta, 2e-6)?;
        compare::<f64>(beta, 1e-12)?;
        compare::<f16>(beta, 1e-3)?;
        compare::<bf16>(beta, 1e-2)?;
    }
    Ok(())
}

/// Activations of which few, or most, are far from the others, wherever a band looks for its shift.
fn compare_far<T: Element>(tolerance: f64) -> Result<()> {
    for (windows, shape) in CASES {
        let geometry = &geometry(windows, &shape)?;
        let layout = Layout::contiguous(Shape::from(&shape[..]));
        let near = values::<T>(shape.iter().product());
        let plane = shape[2] * shape[3];
        let [least, most] = [LN_2 * -T::Compute::EXP2_ZERO.to_f64(), T::MAX];
        for by in [
            -most,
            -1e9,
            -2.1 * least,
            -1.05 * least,
            -least,
            least,
            1.9 * least,
            1e9,
            most / 2.0,
        ] {
            for far in [
                0..4,
                plane / 2..plane / 2 + 9,
                plane / 4..plane,
                3 * plane / 4..plane,
            ] {
                let mut x = near.clone();
                for (i, x) in x.iter_mut().enumerate() {
                    if far.contains(&(i % plane)) {
                        *x = T::round(by + x.to_f64());
                    }
                }
                for beta in [1.0, -0.5] {
                    let weighting = Weighting {
                        beta,
                        nan_to_num: false,
                    };
                    let input = View::new(&x, &layout, 2);
                    compare_outputs(input, geometry, weighting, tolerance)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn far_activations_leave_no_window_wrong() -> Result<()> {
    compare_far::<f32>(2e-6)?;
    compare_far::<f64>(1e-12)
}
#[test]
fn totals_beyond_the_largest_number_are_not_taken() -> Result<()> {
    let geometry = &geometry([2, 2, 0], &[1, 1, 18, 112])?;
    let layout = Layout::contiguous((1, 1, 18, 112));
    // The band's shift is −87.95, from which these are 2^127 each.
    let mut x = vec![-87.95f32; 18 * 112];
    x[..4 * 112].fill(0.1);
    let weighting = Weighting {
        beta: 1.0,
        nan_to_num: false,
    };
    compare_outputs(View::new(&x, &layout, 2), geometry, weighting, 1e-6)
}

/// Channels that come last, whose cells lie side by side, give the bits of contiguous ones on every instruction set,
/// whatever is wrong with some of them.
fn compare_interleaved<T: Element>(beta: f64) -> Result<()> {
    let weighting = Weighting {
        beta,
        nan_to_num: false,
    };
    for (windows, [n, _, height, width]) in CASES {
        for channels in [3, 4, 8, 16, 19, 37] {
            let shape = [n, channels, height, width];
            let geometry = &geometry(windows, &shape)?;
            let mut x = values::<T>(shape.iter().product());
            let plane = height * width;
            for (channel, far) in [
                (1, f64::NAN),
                (2, f64::INFINITY),
                (5, 90.0),
                (17, -2000.0),
                (16, f64::MIN),
                (channels - 1, f64::NAN),
            ] {
                if channel < channels {
                    x[channel * plane + plane / 2] = T::round(far);
                }
            }
            let contiguous = Layout::contiguous(Shape::from(&shape[..]));
            let last = Layout::new(
                Shape::from(&shape[..]),
                vec![plane * channels, 1, width * channels, channels],
                0,
            );
            let mut turned = x.clone();
            for (i, x) in x.iter().enumerate() {
                let (plane_of, cell) = (i / plane, i % plane);
                let (n, c) = (plane_of / channels, plane_of % channels);
                turned[(n * plane + cell) * channels + c] = *x;
            }
            let pooled = (
                n,
                channels,
                geometry.axes[1].output,
                geometry.axes[2].output,
            );
            let pooled = Layout::contiguous(pooled);
            let g = values::<T>(pooled.shape().elem_count());
            let grad = View::new(&g, &pooled, 2);
            // What is not finite passes on by the definition, which takes long.
            let gradients = match windows {
                [..=3, ..=3, _] if matches!(channels, 16 | 19) => {
                    &[Gradient::Paper, Gradient::Exact][..]
                }
                _ => &[],
            };
            for arch in archs() {
                let found = [(&x, &contiguous), (&turned, &last)].map(|(x, layout)| {
                    let x = View::new(x, layout, 2);
                    let mut all = bits(forward_on(arch, x, geometry, weighting)?);
                    for &gradient in gradients {
                        let how = (weighting, gradient);
                        all.extend(bits(backward_on(arch, x, grad, geometry, how)?));
                    }
                    Ok::<_, candle_core::Error>(all)
                });
                let [of_contiguous, of_last] = found;
                let same = of_contiguous? == of_last?;
                assert!(same, "{arch:?} {windows:?} {shape:?} β {beta}");
            }
        }
    }
    Ok(())
}

/// All NaN are alike.
fn bits<T: Element>(values: Vec<T>) -> Vec<u64> {
    let bits = |v: f64| if v.is_nan() { 1 } else { v.to_bits() };
    values.into_iter().map(|v| bits(v.to_f64())).collect()
}

/// Volumes of several parts, in which windows of several depths pass on to the same cells.
fn compare_volumes<T: Element>(tolerance: f64) -> Result<()> {
    let weighting = Weighting {
        beta: 1.0,
        nan_to_num: false,
    };
    for (kernel, stride, padding, shape) in [
        (3, 2, 1, [1, 1, 38, 22, 22]),
        (2, 2, 0, [2, 2, 9, 10, 17]),
        (3, 1, 0, [1, 1, 4, 70, 34]),
        (2, 3, 0, [1, 2, 8, 8, 8]),
    ] {
        let windows = Windows::<3>::Sliding {
            kernel: [kernel; 3],
            stride: [stride; 3],
            padding: [padding; 3],
            ceil_mode: false,
        };
        let geometry = &Geometry::new("SoftPool3d", &windows, &shape)?;
        let x = values::<T>(shape.iter().product());
        let layout = Layout::contiguous(Shape::from(&shape[..]));
        let input = View::new(&x, &layout, 3);
        let [depth, height, width] = geometry.axes;
        let pooled = (
            shape[0],
            shape[1],
            depth.output,
            height.output,
            width.output,
        );
        let pooled = Layout::contiguous(pooled);
        let g = values::<T>(pooled.shape().elem_count());
        let grad = View::new(&g, &pooled, 3);
        compare_gradients((input, grad), geometry, weighting, tolerance)?;
    }
    Ok(())
}

#[test]
fn gradients_of_volumes_agree_with_the_definition() -> Result<()> {
    compare_volumes::<f32>(2e-6)?;
    compare_volumes::<f64>(1e-12)?;
    compare_volumes::<f16>(1e-3)
}

#[test]
fn channels_last_give_the_bits_of_contiguous_ones() -> Result<()> {
    compare_interleaved::<f32>(1.0)?;
    compare_interleaved::<f32>(-6.0)?;
    compare_interleaved::<f64>(1.0)?;
    compare_interleaved::<f16>(1.0)?;
    compare_interleaved::<bf16>(-1.0)
}
