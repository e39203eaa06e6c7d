//! Every instruction set that this machine has gives for every method what its definition says.

use super::rule::{Cell, Rule, Window};
use super::*;
use crate::geometry::{Axis, Windows};
use candle_core::{Layout, Shape};
use half::{bf16, f16};
use plan::{Span, Way};
use proptest::prelude::*;
use vector::{Real, Vector};

const METHODS: [Method; 9] = [
    Method::SoftPool(Weighting {
        beta: 1.0,
        nan_to_num: false,
    }),
    Method::SoftPool(Weighting {
        beta: -2.5,
        nan_to_num: false,
    }),
    Method::Logits,
    Method::Average {
        count_include_pad: true,
    },
    Method::Average {
        count_include_pad: false,
    },
    Method::Power {
        p: 2.0,
        sum: false,
        count_include_pad: true,
    },
    Method::Power {
        p: 3.0,
        sum: true,
        count_include_pad: false,
    },
    Method::Weighted,
    Method::Maximum,
];

/// Kernel, stride and padding, and the shape of an input: planes, then depth, height and width.
type Sliding = ([usize; 3], [usize; 3], [usize; 3], [usize; 4]);

const SLIDING: [Sliding; 26] = [
    ([1, 2, 2], [1, 2, 2], [0; 3], [3, 1, 14, 38]),
    ([1, 3, 3], [1, 2, 2], [0, 1, 1], [2, 1, 41, 64]),
    ([1, 3, 3], [1, 1, 1], [0, 1, 1], [2, 1, 9, 35]),
    ([1, 5, 5], [1, 2, 2], [0, 2, 2], [1, 1, 19, 45]),
    ([1, 7, 7], [1, 3, 3], [0; 3], [2, 1, 25, 40]),
    ([1, 13, 13], [1, 1, 1], [0, 6, 6], [1, 1, 13, 19]),
    ([1, 2, 2], [1, 3, 3], [0; 3], [2, 1, 11, 50]),
    ([1, 5, 5], [1, 70, 70], [0; 3], [1, 1, 80, 150]),
    // Planes of one window each, with and without cells left over.
    ([1, 7, 7], [1, 7, 7], [0; 3], [9, 1, 7, 7]),
    ([2, 4, 6], [1, 1, 1], [0; 3], [37, 2, 4, 6]),
    ([1, 1, 255], [1, 1, 255], [0; 3], [3, 1, 1, 255]),
    ([1, 16, 1], [1, 16, 1], [0; 3], [5, 1, 16, 1]),
    ([1, 2, 2], [1, 2, 2], [0; 3], [40, 1, 8, 8]),
    // Planes abreast of whose cells some are no window's.
    ([1, 2, 2], [1, 2, 2], [0; 3], [40, 1, 7, 7]),
    ([2, 2, 2], [2, 2, 2], [0; 3], [19, 3, 5, 7]),
    ([1, 1, 300], [1, 1, 300], [0; 3], [2, 1, 1, 310]),
    ([1, 9, 4], [1, 9, 1], [0, 4, 2], [2, 1, 3, 6]),
    // Rows between windows that are wider than a vector.
    ([1, 1, 17], [1, 2, 1], [0, 0, 5], [1, 1, 3, 40]),
    ([2, 2, 2], [2, 2, 2], [0; 3], [2, 4, 6, 18]),
    // Rows shorter than two vectors, in several depths.
    ([2, 2, 2], [2, 2, 2], [0; 3], [2, 4, 18, 16]),
    ([3, 3, 3], [1, 2, 1], [1, 1, 1], [1, 5, 6, 17]),
    // Of which depths alone are padded.
    ([2, 2, 2], [2, 2, 2], [1, 0, 0], [2, 2, 4, 18]),
    ([3, 2, 2], [3, 2, 2], [1, 0, 0], [20, 5, 4, 6]),
    // So many planes of short rows that they are pooled abreast, with lanes that idle.
    ([1, 3, 3], [1, 2, 2], [0, 1, 1], [13, 1, 20, 24]),
    ([1, 2, 2], [1, 1, 1], [0; 3], [13, 1, 9, 20]),
    ([1, 7, 7], [1, 3, 3], [0; 3], [13, 1, 13, 30]),
];

const ADAPTIVE: [([usize; 3], [usize; 4]); 3] = [
    ([1, 3, 4], [2, 1, 7, 11]),
    ([1, 9, 9], [1, 1, 5, 7]),
    ([2, 2, 2], [1, 3, 5, 9]),
];

/// Values between −4 and 4 from a linear congruential generator.
fn values<T: Poolable>(mut state: u64, count: usize) -> Vec<T> {
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        T::round((state >> 40) as f64 / f64::from(1 << 21) - 4.0)
    };
    (0..count).map(next).collect()
}

/// Those of some planes; every other plane has many windows far below its largest value.
fn planes(state: u64, count: usize, cells: usize) -> Vec<f32> {
    let mut all = values(state, count * cells);
    for plane in all.chunks_exact_mut(cells).skip(1).step_by(2) {
        plane.iter_mut().for_each(|v| *v *= 30.0);
    }
    all
}

/// The windows of every case, with and without ceil mode, and the shape of its input.
fn geometries() -> Vec<(Geometry, [usize; 4])> {
    let sliding = SLIDING
        .iter()
        .flat_map(|&(kernel, stride, padding, shape)| {
            [false, true].map(|ceil_mode| {
                (
                    Windows::Sliding {
                        kernel,
                        stride,
                        padding,
                        ceil_mode,
                    },
                    shape,
                )
            })
        });
    let adaptive = ADAPTIVE
        .iter()
        .map(|&(output, shape)| (Windows::Adaptive { output }, shape));
    sliding
        .chain(adaptive)
        .map(|(windows, shape)| (Geometry::new("test", &windows, &shape).unwrap(), shape))
        .collect()
}

/// What the definition gives: outputs, and the gradients of activations and logits.
fn defined<T: Poolable>(
    pooling: &Pooling<'_, T>,
    grad: View<'_, T>,
    cells: usize,
) -> (Vec<f64>, [Vec<f64>; 2]) {
    let geometry = pooling.geometry;
    let (mut ys, mut gradients) = (vec![], [vec![0.0; cells], vec![0.0; cells]]);
    let mut window = Window::default();
    let of_plane = geometry.input_cells();
    for plane in 0..pooling.x.planes() {
        for o in (0..geometry.output_cells()).map(|i| geometry.output_at(i)) {
            let alone = pooling.alone();
            alone.read(plane, o, &mut window);
            ys.push(pooling.kernels.define(&window));
            let places: Vec<_> = alone.area(o).all().collect();
            let g = grad.cell(plane, o).widen().to_f64();
            pooling.kernels.define_gradient(&window, g, &mut |i, by| {
                let [d, h, w] = places[i];
                let [_, height, width] = geometry.axes.map(|axis| axis.input);
                let at = plane * of_plane + (d * height + h) * width + w;
                gradients[0][at] += by[0];
                gradients[1][at] += by[1];
            });
        }
    }
    (ys, gradients)
}

fn definition<T: Poolable>(
    input: Input<'_, T>,
    grad: View<'_, T>,
    geometry: &Geometry,
    method: Method,
    gradient: Gradient,
) -> (Vec<f64>, [Vec<f64>; 2]) {
    // On the way back, the definition of a maximum gives places.
    let gradient = (method != Method::Maximum).then_some(gradient);
    let arch = Arch::Portable;
    let kernels = compiled(arch, method, gradient);
    let cells = input.x.planes() * geometry.input_cells();
    let pooling = pooling(arch, kernels, input, geometry, Direction::Forward);
    defined(&pooling, grad, cells)
}

/// How the first band of contiguous planes is summed.
fn way(geometry: &Geometry, planes: usize) -> Way {
    let ([_, height, width], plan) = (geometry.axes, Plan::forward(geometry));
    let unit = plan::unit(geometry, planes, Direction::Forward);
    let across = Span::new(&width, 0..plan.columns).times(unit);
    let rows = Span::new(&height, 0..plan.rows);
    Way::of(geometry, 0, &rows, &across)
}

/// So that every test below runs each way of every method.
#[test]
fn the_windows_of_these_tests_are_summed_in_every_way() {
    let mut ways: Vec<Way> = geometries()
        .iter()
        .map(|(geometry, shape)| way(geometry, shape[0]))
        .collect();
    ways.sort();
    ways.dedup();
    assert_eq!(
        ways,
        [Way::Direct, Way::Whole, Way::Rows, Way::Apart, Way::Abreast]
    );
}

/// Planes that lie abreast are pooled so, whatever their size: with the bits that they have one by one.
#[test]
fn planes_abreast_have_the_bits_of_planes_alone() {
    for (geometry, shape) in geometries() {
        let planes = 2 * plan::ABREAST * rayon::current_num_threads();
        let cells: usize = shape[1..].iter().product();
        let x = self::planes(1, planes, cells);
        let abreast: Vec<f32> = (0..x.len())
            .map(|i| x[i % planes * cells + i / planes])
            .collect();
        let [d, h, w] = [shape[1], shape[2], shape[3]];
        let contiguous = Layout::contiguous((planes, d, h, w));
        let strides = vec![1, h * w * planes, w * planes, planes];
        let last = Layout::new(Shape::from((planes, d, h, w)), strides, 0);
        for method in METHODS {
            let of = |cells, layout| {
                let x = View::new(cells, layout, 3);
                let logits = (method == Method::Logits).then_some(x);
                let input = Input { x, logits };
                let mut found = forward(input, &geometry, method).unwrap();
                // Of outputs that lie as the input does, too.
                let sizes = geometry.axes.map(|axis| axis.output);
                let outputs: usize = sizes.iter().product();
                let shape = Shape::from((planes, sizes[0], sizes[1], sizes[2]));
                let g = values::<f32>(2, planes * outputs);
                let turned: Vec<f32> = (0..g.len())
                    .map(|i| g[i % planes * outputs + i / planes])
                    .collect();
                let [_, h, w] = sizes;
                let strides = vec![1, h * w * planes, w * planes, planes];
                for (g, layout) in [
                    (&g, Layout::contiguous(shape.clone())),
                    (&turned, Layout::new(shape, strides, 0)),
                ] {
                    let g = View::new(g, &layout, 3);
                    for gradient in [Gradient::Paper, Gradient::Exact] {
                        found.extend(backward(input, g, &geometry, method, gradient).unwrap());
                    }
                }
                found
            };
            let (alone, together) = (of(&x, &contiguous), of(&abreast, &last));
            let bits = |ys: &[f32]| -> Vec<u32> { ys.iter().map(|y| y.to_bits()).collect() };
            assert_eq!(bits(&alone), bits(&together), "{method:?}, {geometry:?}");
        }
    }
}

/// Whether planes are pooled abreast depends on how many there are: the bits must not.
#[test]
fn a_plane_among_others_has_the_bits_that_it_has_alone() {
    for (geometry, shape) in geometries() {
        let [cells, outputs] = [geometry.input_cells(), geometry.output_cells()];
        let x = planes(1, plan::ABREAST, cells);
        let g = values::<f32>(2, plan::ABREAST * outputs);
        let [d, h, w] = geometry.axes.map(|axis| axis.output);
        for method in METHODS {
            let of = |planes: usize, first: usize| {
                let layout = Layout::contiguous((planes, shape[1], shape[2], shape[3]));
                let x = View::new(&x[first * cells..], &layout, 3);
                let layout = Layout::contiguous((planes, d, h, w));
                let g = View::new(&g[first * outputs..], &layout, 3);
                let logits = (method == Method::Logits).then_some(x);
                let input = Input { x, logits };
                let ys = forward(input, &geometry, method).unwrap();
                let dx = [Gradient::Paper, Gradient::Exact]
                    .map(|gradient| backward(input, g, &geometry, method, gradient).unwrap());
                (ys, dx)
            };
            let (ys, dx) = of(plan::ABREAST, 0);
            for plane in [0, 7, plan::ABREAST - 1] {
                let (y, d) = of(1, plane);
                let bits = |ys: &[f32]| -> Vec<u32> { ys.iter().map(|y| y.to_bits()).collect() };
                let what = format!("plane {plane}, {method:?}, {geometry:?}");
                let of_plane = plane * outputs..(plane + 1) * outputs;
                assert_eq!(bits(&ys[of_plane]), bits(&y), "{what}");
                let of_plane = plane * cells..(plane + 1) * cells;
                for (dx, d) in dx.iter().zip(&d) {
                    assert_eq!(bits(&dx[of_plane.clone()]), bits(&d[..cells]), "{what}");
                }
            }
        }
    }
}

/// `tolerance` is a part of what is expected, or of the scale of the values.
fn assert_near<T: Poolable>(what: &str, found: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (y, &z)) in found.iter().zip(expected).enumerate() {
        let y = y.widen().to_f64();
        let near = (y - z).abs() <= tolerance * z.abs().max(4.0);
        assert!(
            near || y.is_nan() && z.is_nan() || y == z,
            "{what}: {y} at {i}, not {z}"
        );
    }
}

/// Both passes of every method at every window against the definition, with these cells changed.
fn compare<T: Poolable>(tolerance: f64, change: impl Fn(&mut [T])) {
    for (geometry, shape) in geometries() {
        compare_at(&geometry, shape, &METHODS, tolerance, &change);
    }
}

/// Leaves large values and NaN where a thread's scratch memory is kept for its next call, which must not depend on it.
fn spoil<T: Poolable>(method: Method) {
    // Few are NaN, since such windows are slow.
    for (shape, value) in [
        ([2usize, 2, 12, 70], 3e4),
        ([16, 1, 6, 7], 3e4),
        ([1, 2, 3, 40], f64::NAN),
        ([16, 1, 3, 3], f64::NAN),
    ] {
        let windows = Windows::Sliding {
            kernel: [1, 3, 3],
            stride: [1, 1, 1],
            padding: [0, 1, 1],
            ceil_mode: false,
        };
        let geometry = Geometry::new("test", &windows, &shape).unwrap();
        let layout = Layout::contiguous(Shape::from(&shape[..]));
        let cells = vec![T::round(value); shape.iter().product()];
        let x = View::new(&cells, &layout, 3);
        let logits = (method == Method::Logits).then_some(x);
        let input = Input { x, logits };
        forward(input, &geometry, method).unwrap();
        backward(input, x, &geometry, method, Gradient::Exact).unwrap();
    }
}

/// Both passes of these methods, likewise.
fn compare_at<T: Poolable>(
    geometry: &Geometry,
    shape: [usize; 4],
    methods: &[Method],
    tolerance: f64,
    change: impl Fn(&mut [T]),
) {
    let layout = Layout::contiguous(Shape::from(&shape[..]));
    let count = shape.iter().product();
    let (mut x, z) = (values::<T>(1, count), values::<T>(2, count));
    change(&mut x);
    let [d, h, w] = geometry.axes.map(|axis| axis.output);
    let pooled = Layout::contiguous((shape[0], d, h, w));
    let g = values::<T>(3, pooled.shape().elem_count());
    let grad = View::new(&g, &pooled, 3);
    for &method in methods {
        spoil::<T>(method);
        let input = Input {
            x: View::new(&x, &layout, 3),
            logits: (method == Method::Logits).then_some(View::new(&z, &layout, 3)),
        };
        for gradient in [Gradient::Paper, Gradient::Exact] {
            let (ys, [dx, dz]) = definition(input, grad, geometry, method, gradient);
            for arch in Arch::available() {
                let way = way(geometry, shape[0]);
                let what = format!("{arch:?}, {method:?}, {gradient:?}, {way:?}, {geometry:?}");
                let found = forward_on(arch, input, geometry, method).unwrap();
                assert_near(&what, &found, &ys, tolerance);
                let found = backward_on(arch, input, grad, geometry, method, gradient).unwrap();
                // As many as windows a cell may have, each with an error.
                let tolerance = 4.0 * tolerance;
                assert_near(&what, &found[..count], &dx, tolerance);
                if method == Method::Logits {
                    assert_near(&what, &found[count..], &dz, tolerance);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(48), failure_persistence: None, ..ProptestConfig::default() })]

    /// Rows of all lengths, in one to four depths: where vectors end, others begin.
    #[test]
    fn any_windows_agree_with_their_definition(
        planes in prop::sample::select(&[1usize, 2, 13][..]), depth in 1usize..5, height in 1usize..30, width in 1usize..70,
        kernel in prop::array::uniform3(1usize..6), stride in prop::array::uniform3(1usize..5),
        two_wide: bool, padded: bool, ceil_mode: bool, method in prop::sample::select(&METHODS[..]),
    ) {
        let (mut kernel, mut stride) = (kernel, stride);
        if two_wide {
            (kernel[2], stride[2]) = (2, 2);
        }
        let padding = kernel.map(|k| if padded { k / 2 } else { 0 });
        let windows = Windows::Sliding { kernel, stride, padding, ceil_mode };
        let shape = [planes, depth, height, width];
        if let Ok(geometry) = Geometry::new("test", &windows, &shape) {
            compare_at::<f32>(&geometry, shape, &[method], 2e-6, |_| {});
        }
    }
}

#[test]
fn every_method_agrees_with_its_definition() {
    compare::<f32>(2e-6, |_| {});
    compare::<f64>(1e-12, |_| {});
}

#[test]
fn halves_are_computed_in_f32_and_rounded_once() {
    compare::<f16>(1e-3, |_| {});
    compare::<bf16>(8e-3, |_| {});
}

/// A NaN, both infinities, and values far from the others: each window by itself alone.
#[test]
fn windows_that_do_not_hold_agree_too() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 3e37, -300.0] {
        compare::<f32>(2e-6, |x| {
            let step = x.len().div_ceil(3);
            x.iter_mut().step_by(step).for_each(|x| *x = value as f32);
        });
    }
}

/// A rule whose windows must hold: nothing may ask for its definition.
#[derive(Clone, Copy, Debug)]
struct Holding<R>(R);

impl<R: Rule> Rule for Holding<R> {
    const SHIFTED: bool = R::SHIFTED;
    const LOGITS: bool = R::LOGITS;
    const TERMS: usize = R::TERMS;
    type Join = R::Join;

    fn logit<V: Vector>(self, x: V, z: V) -> V {
        self.0.logit(x, z)
    }

    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2] {
        self.0.lift(cell)
    }

    fn finish<V: Vector>(self, sums: [V; 2]) -> V {
        self.0.finish(sums)
    }

    fn holds<V: Vector>(self, sums: [V; 2], y: V) -> V::Mask {
        self.0.holds(sums, y)
    }

    fn terms<V: Vector>(self, sums: [V; 2], y: V, g: V) -> [V; 2] {
        self.0.terms(sums, y, g)
    }

    fn gradient<V: Vector>(self, cell: Cell<V>, weight: V, terms: [V; 2]) -> [V; 2] {
        self.0.gradient(cell, weight, terms)
    }

    fn define(self, window: &Window) -> f64 {
        panic!("{self:?} does not hold at {window:?}");
    }

    fn define_gradient(self, window: &Window, _: f64, _: impl FnMut(usize, [f64; 2])) {
        panic!("{self:?} does not hold at {window:?}");
    }
}

/// Activations and logits of which most windows have none that is near the largest of their band.
#[test]
fn finite_windows_far_below_their_band_hold_by_their_own_largest_logits() {
    fn check<R: Rule>(rule: R, input: Input<'_, f32>, grad: View<'_, f32>, geometry: &Geometry) {
        let cells = input.x.planes() * geometry.input_cells();
        let (arch, direction) = (Arch::Portable, Direction::Forward);
        let by_definition = pooling(arch, f32::compile(arch, rule), input, geometry, direction);
        let (ys, [dx, dz]) = defined(&by_definition, grad, cells);
        for arch in Arch::available() {
            let what = format!("{arch:?}, {rule:?}, {geometry:?}");
            let holding = || f32::compile(arch, Holding(rule));
            // ExactSoftPool has no forward pass.
            if R::TERMS == 1 || R::LOGITS {
                let found = pool(arch, holding(), input, geometry).unwrap();
                assert_near(&what, &found, &ys, 2e-6);
            }
            let found = differentiate(arch, holding(), input, grad, geometry).unwrap();
            assert_near(&what, &found[..cells], &dx, 8e-6);
            if R::LOGITS {
                assert_near(&what, &found[cells..], &dz, 8e-6);
            }
        }
    }

    let longest = |axis: Axis| {
        (0..axis.output)
            .map(|o| axis.window(o).len())
            .max()
            .unwrap()
    };
    for (geometry, shape) in geometries() {
        if !plan::may_be_again(geometry.axes.map(longest).iter().product()) {
            continue;
        }
        let count = shape.iter().product();
        let stretched = |state| -> Vec<f32> {
            let stretch = |v: f32| if v < 0.0 { 8.0 * v } else { 30.0 * v };
            values(state, count).into_iter().map(stretch).collect()
        };
        let (x, z) = (values::<f32>(1, count), stretched(1));
        let of_input = Layout::contiguous(Shape::from(&shape[..]));
        let [x, z] = [&x, &z].map(|cells| View::new(cells, &of_input, 3));
        let [d, h, w] = geometry.axes.map(|axis| axis.output);
        let pooled = Layout::contiguous((shape[0], d, h, w));
        let g = values(3, pooled.shape().elem_count());
        let grad = View::new(&g, &pooled, 3);
        for beta in [1.0, -1.0] {
            let softmax = Softmax::<false> {
                beta,
                nan_to_num: false,
            };
            check(softmax, z.into(), grad, &geometry);
            check(ExactSoftPool(softmax), z.into(), grad, &geometry);
        }
        let softmax = Softmax::<true> {
            beta: 1.0,
            nan_to_num: false,
        };
        check(softmax, Input { x, logits: Some(z) }, grad, &geometry);
    }
}

#[test]
fn negative_windows_and_zeros_agree() {
    compare::<f32>(2e-6, |x| x.iter_mut().for_each(|x| *x = -x.abs()));
    compare::<f32>(2e-6, |x| x.iter_mut().for_each(|x| *x = x.max(0.0)));
}
