//! Random tensors, layouts and windows.

use candle_core::{DType, Device, Result, Tensor};
use candle_softpool::backend::{Gradient, Method, Weighting};
use candle_softpool::geometry::{Geometry, Windows};
use proptest::prelude::*;
use proptest::sample::select;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    Contiguous,
    /// A part of a larger tensor, from cell `.0` of its rows on.
    Narrowed(usize),
    ChannelsLast,
    Transposed,
    /// One image or channel, seen as many.
    Broadcast,
}

/// Where the values are.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    Normal,
    /// So large that differences overflow.
    Huge,
    /// Around a large mean.
    Shifted,
    /// Mostly small or zero, with some that are large.
    Mixed,
    /// With NaN and infinities among them.
    NotFinite,
    /// With infinities of the one sign, whole windows of them among them.
    Infinite(bool),
}

/// A pass to compare.
#[derive(Clone, Debug)]
pub struct Case {
    pub dtype: DType,
    pub dims: Vec<usize>,
    pub geometry: Geometry,
    pub method: Method,
    pub gradient: Gradient,
    pub input: (Lie, Values),
    /// Of the logits, if the method has some.
    pub logits: (Lie, Values),
    pub grad: Lie,
    pub seed: u64,
    /// Index in 64 bits whatever the plan says.
    pub wide: bool,
    /// At most so many blocks, so that threads loop.
    pub grid: u32,
}

/// Kernel, stride, padding of an axis of `n` cells, or an adaptive output size.
type Axis = (usize, [usize; 3], usize);

fn axis() -> impl Strategy<Value = Axis> {
    let usual = select(vec![
        [2, 2, 0],
        [2, 2, 0],
        [3, 2, 0],
        [3, 2, 1],
        [3, 1, 1],
        [1, 1, 0],
    ]);
    let any =
        (1usize..8, 1usize..6).prop_flat_map(|(k, s)| (0..=k / 2).prop_map(move |p| [k, s, p]));
    let axis = (1usize..40, prop_oneof![5 => usual, 3 => any], 1usize..12);
    axis.prop_filter("a window", |(n, [k, _, p], _)| *k <= n + 2 * p)
}

/// An axis of windows that are large, one of them alone among them.
fn large_axis() -> impl Strategy<Value = Axis> {
    let sliding = (9usize..14, 1usize..14, 0usize..5).prop_map(|(k, s, p)| [k, s, p]);
    let axis = (9usize..40, sliding, 1usize..3, any::<bool>());
    let axis = axis.prop_map(|(n, windows, output, whole)| match whole {
        true => (n, [n, n, 0], output),
        false => (n, windows, output),
    });
    axis.prop_filter("a window", |(n, [k, _, p], _)| *k <= n + 2 * p)
}

fn axes() -> impl Strategy<Value = [Axis; 3]> {
    prop_oneof![
        4 => [axis(), axis(), axis()],
        4 => [axis(), axis(), axis()].prop_map(|axes| axes.map(|(n, _, o)| (n.max(2), [2, 2, 0], o))),
        1 => [axis(), axis(), axis()].prop_map(|axes| axes.map(|(n, _, o)| (n.max(8), [3, 1, 1], o))),
        2 => ([axis(), axis(), axis()], 0usize..2)
            .prop_map(|(axes, p)| axes.map(|(n, _, o)| (n.max(3), [3, 2, p], o))),
        4 => (axis(), large_axis(), large_axis()).prop_map(|(d, h, w)| [d, h, w]),
        // Of long rows, whose windows overlap.
        1 => (200usize..400, 9usize..40, 1usize..3, 0usize..5).prop_map(|(n, k, s, p)| {
            [(1, [1, 1, 0], 1), (1, [1, 1, 0], 1), (n, [k, s, p], n / 2)]
        }),
        // Of one window, which several warps share.
        1 => [80usize..128, 80usize..128].prop_map(|[h, w]| [(1, [1, 1, 0], 1), (h, [h, h, 0], 1), (w, [w, w, 0], 1)]),
    ]
}

fn method() -> impl Strategy<Value = Method> {
    let beta = prop_oneof![
        4 => Just(1.0),
        4 => -3.0..3.0,
        1 => select(vec![0.0, 1e-3, -50.0, 1e3, 1e-35, -1e-310, 1e60]),
    ];
    let soft_pool = (beta, any::<bool>())
        .prop_map(|(beta, nan_to_num)| Method::SoftPool(Weighting { beta, nan_to_num }));
    let power = (
        select(vec![1.0, 2.0, 3.0, 0.5, 1.5]),
        any::<bool>(),
        any::<bool>(),
    );
    let power = power.prop_map(|(p, sum, count_include_pad)| Method::Power {
        p,
        sum,
        count_include_pad,
    });
    prop_oneof![
        3 => soft_pool,
        1 => Just(Method::Logits),
        1 => any::<bool>().prop_map(|count_include_pad| Method::Average { count_include_pad }),
        1 => power,
        1 => Just(Method::Weighted),
        1 => Just(Method::Maximum),
    ]
}

fn geometry(
    rank: usize,
    same: bool,
    adaptive: bool,
    ceil_mode: bool,
    mut axes: [Axis; 3],
    dims: &[usize],
) -> Geometry {
    if same {
        axes[1].1 = axes[2].1;
    }
    fn windows<const D: usize>(axes: &[Axis], adaptive: bool, ceil_mode: bool) -> Windows<D> {
        let each = |f: fn(&Axis) -> usize| std::array::from_fn(|d| f(&axes[d]));
        match adaptive {
            true => Windows::Adaptive {
                output: each(|a| a.2),
            },
            false => Windows::Sliding {
                kernel: each(|a| a.1[0]),
                stride: each(|a| a.1[1]),
                padding: each(|a| a.1[2]),
                ceil_mode,
            },
        }
    }
    let axes = &axes[3 - rank..];
    let geometry = match rank {
        1 => Geometry::new("emulation", &windows::<1>(axes, adaptive, ceil_mode), dims),
        2 => Geometry::new("emulation", &windows::<2>(axes, adaptive, ceil_mode), dims),
        _ => Geometry::new("emulation", &windows::<3>(axes, adaptive, ceil_mode), dims),
    };
    geometry.unwrap()
}

/// Any pass with tensors of these dtypes.
pub fn case(dtypes: &'static [DType]) -> impl Strategy<Value = Case> {
    let lie = || {
        prop_oneof![
            3 => Just(Lie::Contiguous),
            2 => (0usize..9).prop_map(Lie::Narrowed),
            1 => Just(Lie::ChannelsLast),
            1 => Just(Lie::Transposed),
            1 => Just(Lie::Broadcast),
        ]
    };
    let values = || {
        prop_oneof![
            4 => Just(Values::Normal),
            1 => Just(Values::Huge),
            1 => Just(Values::Shifted),
            2 => Just(Values::Mixed),
            2 => Just(Values::NotFinite),
            1 => any::<bool>().prop_map(Values::Infinite),
        ]
    };
    let shape = (
        select(vec![1usize, 2, 2, 3, 3]),
        any::<bool>(),
        [1usize..4, 1usize..4],
    );
    // Widths that vectors fit, as well as any.
    let width = prop_oneof![Just(None), (1usize..5).prop_map(|n| Some(16 * n))];
    let windows = (
        axes(),
        any::<bool>(),
        prop::bool::weighted(0.15),
        any::<bool>(),
        prop::bool::weighted(0.3),
    );
    let how = (method(), any::<bool>(), select(dtypes));
    let tensors = (lie(), values(), lie(), values(), lie());
    let launch = (
        any::<u64>(),
        any::<bool>(),
        prop_oneof![Just(u32::MAX), 1u32..3],
    );
    (shape, width, windows, how, tensors, launch).prop_map(
        |((rank, batched, lead), width, windows, how, tensors, launch)| {
            let (lie, values, logits, scores, grad) = tensors;
            let (mut axes, same, adaptive, ceil_mode, flat) = windows;
            let (method, exact, dtype) = how;
            let (seed, wide, grid) = launch;
            axes[0].0 = axes[0].0.min(6).max(axes[0].1[0]);
            if flat {
                axes[0].1 = [1, 1, 0];
            }
            if let Some(width) = width {
                axes[2].0 = width.max(axes[2].1[0]);
            }
            if same {
                axes[1].0 = axes[1].0.max(axes[2].1[0]);
            }
            let spatial = axes[3 - rank..].iter().map(|axis| axis.0);
            let lead = if batched { &lead[..] } else { &lead[..1] };
            let dims: Vec<_> = lead.iter().copied().chain(spatial).collect();
            Case {
                dtype,
                geometry: geometry(rank, same, adaptive, ceil_mode, axes, &dims),
                dims,
                method,
                gradient: if exact {
                    Gradient::Exact
                } else {
                    Gradient::Paper
                },
                input: (lie, values),
                logits: (logits, scores),
                grad,
                seed,
                wide,
                grid,
            }
        },
    )
}

/// A tensor of these dimensions that lies in memory as told.
pub fn tensor(
    dims: &[usize],
    dtype: DType,
    lie: Lie,
    device: &Device,
    mut value: impl FnMut() -> f64,
) -> Result<Tensor> {
    let (last, rank) = (dims.len() - 1, dims.len());
    let mut stored = dims.to_vec();
    match lie {
        Lie::Contiguous => (),
        Lie::Narrowed(start) => stored[last] += start + 3 - start % 3,
        Lie::ChannelsLast => stored[1..].rotate_left(1),
        Lie::Transposed => stored.swap(last, rank - 2),
        Lie::Broadcast => stored[0] = 1,
    }
    let data: Vec<f64> = (0..stored.iter().product()).map(|_| value()).collect();
    let tensor = Tensor::from_vec(data, stored, &Device::Cpu)?
        .to_dtype(dtype)?
        .to_device(device)?;
    match lie {
        Lie::Contiguous => Ok(tensor),
        Lie::Narrowed(start) => tensor.narrow(last, start, dims[last]),
        Lie::ChannelsLast => {
            let mut order: Vec<_> = (0..rank).collect();
            order[1..].rotate_right(1);
            tensor.permute(order)
        }
        Lie::Transposed => tensor.transpose(last, rank - 2),
        Lie::Broadcast => tensor.broadcast_as(dims),
    }
}

/// A standard normal value (Box and Muller, 1958).
pub fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let mut uniform = || (f64::from(rng.next_u32()) + 1.0) / 4294967296.0;
    (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()
}

/// The activations of a case, one after another.
pub fn activations(case: &Case) -> impl FnMut() -> f64 {
    values(case.input.1, case.dtype, case.seed)
}

/// Its logits.
pub fn logits(case: &Case) -> impl FnMut() -> f64 {
    values(case.logits.1, case.dtype, case.seed ^ 2)
}

/// Its incoming gradients: normal, and among them huge ones and NaN, which are their windows' alone.
pub fn gradients(case: &Case) -> impl FnMut() -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(case.seed ^ 1);
    let huge = if case.dtype == DType::F16 { 3e4 } else { 1e30 };
    move || {
        let x = normal(&mut rng);
        match rng.next_u32() % 100 {
            0 => f64::NAN,
            1..3 => huge * x.signum(),
            _ => x,
        }
    }
}

fn values(values: Values, dtype: DType, seed: u64) -> impl FnMut() -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let huge = match dtype {
        DType::F16 => 6e4,
        DType::F64 => 1e305,
        _ => 3e38,
    };
    move || {
        let x = normal(&mut rng);
        let dice = rng.next_u32() % 100;
        match values {
            Values::Normal => 3.0 * x,
            Values::Huge => (x * huge).clamp(-huge, huge),
            Values::Shifted => x + 1000.0,
            Values::Mixed => match dice {
                0..5 => x + 12.0,
                5..50 => 0.0,
                _ => 0.01 * x,
            },
            Values::NotFinite => match dice {
                0 => f64::NAN,
                1 | 2 => f64::INFINITY,
                3..20 => f64::NEG_INFINITY,
                _ => x,
            },
            Values::Infinite(negative) => match dice {
                0..80 if negative => f64::NEG_INFINITY,
                0..80 => f64::INFINITY,
                _ => x,
            },
        }
    }
}
