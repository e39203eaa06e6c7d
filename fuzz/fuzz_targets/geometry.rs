//! Every pooling with a definition, of any rank, windows, layout and dtype, forward and backward, is that definition in
//! float64. Random draws and S3 pooling, and a learned β, have theirs in the tests alone.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../src/layout.rs"]
mod layout;
#[path = "../src/methods.rs"]
mod methods;

use arbitrary::{Arbitrary, Unstructured};
use candle_core::DType;
use candle_softpool::Gradient;
use common::{Pool, Windows};
use layout::{Held, Layout};
use libfuzzer_sys::fuzz_target;
use methods::{Found, Method};

/// What no input may exceed: enough for several bands of a plane, threads and rows that are cut.
const CELLS: usize = 70_000;
/// Cells of cases that are not large, which are the most, and of which many run in a second.
const FEW_CELLS: usize = 8_000;
/// Cells that the windows of a case may have in all: more make it slow.
const READS: usize = 2_000_000;

/// Channels and spatial sizes of large cases by rank: rows, columns or channels are many.
const LARGE: [&[(usize, [usize; 3])]; 3] = [
    &[
        (1, [1, 1, 40_000]),
        (2, [1, 1, 17_000]),
        (16, [1, 1, 2_500]),
    ],
    &[
        (1, [1, 200, 200]),
        (1, [1, 2, 17_000]),
        (1, [1, 17_000, 2]),
        (5, [1, 90, 100]),
        (16, [1, 64, 66]),
    ],
    &[(1, [3, 100, 110]), (1, [2, 1, 16_900]), (16, [4, 25, 30])],
];

#[derive(Debug)]
struct Case {
    pool: Pool,
    method: Method,
    dtype: DType,
    layout: Layout,
    shape: Vec<usize>,
    seed: u64,
    scale: f64,
    /// Cells that are not of the random numbers: where, and what.
    others: Vec<(u16, f64)>,
}

/// How large a case is, by a byte of the input.
enum Size {
    Few,
    /// So many channels.
    Wide(usize),
    /// Which of [`LARGE`].
    Large(usize),
}

impl Size {
    fn of(byte: u8) -> Self {
        match byte {
            0..192 => Self::Few,
            192..240 => Self::Wide([16, 32][usize::from(byte % 2)]),
            240.. => Self::Large(usize::from(byte - 240)),
        }
    }
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let rank = u.int_in_range(1..=3)?;
        let (mut size, mut shape) = ([1; 3], vec![]);
        for _ in 0..u.int_in_range(1..=2)? {
            shape.push(u.int_in_range(1..=5)?);
        }
        let windows = windows(u, rank, &mut size)?;
        let windows = match Size::of(u.arbitrary()?) {
            Size::Large(which) => {
                let all = LARGE[rank - 1];
                let (channels, large) = all[which % all.len()];
                shape = vec![channels];
                size = [0, 1, 2].map(|d| match large[d] {
                    few @ ..80 => few,
                    many => many + size[d] % 8,
                });
                fitting(windows, size)
            }
            few => {
                if let Size::Wide(channels) = few {
                    shape.remove(0);
                    shape.push(channels);
                }
                let planes: usize = shape.iter().product();
                shrink(&mut size, windows, FEW_CELLS / planes);
                windows
            }
        };
        // Channels so many are to lie side by side as a rule.
        let wide = shape.last().is_some_and(|channels| channels % 16 == 0);
        shape.extend(&size[3 - rank..]);
        let gradient = *u.choose(&[Gradient::Paper, Gradient::Exact])?;
        let beta = *u.choose(&[1.0, 0.0, 0.5, -1.0, 2.0, -3.0])?;
        let method = u.arbitrary()?;
        let nan_to_num = u.ratio(1, 8)?;
        let pool = Pool::new(rank, windows).beta(beta).gradient(gradient);
        Ok(Self {
            pool: pool.nan_to_num(nan_to_num && matches!(method, Method::Soft)),
            method,
            dtype: *u.choose(&[DType::F32, DType::F64, DType::F16, DType::BF16])?,
            layout: match (u.arbitrary()?, wide) {
                (Layout::Contiguous | Layout::FirstLast, true) => Layout::ChannelsLast,
                (layout, _) => layout,
            },
            shape,
            seed: u.arbitrary()?,
            scale: *u.choose(&[1.0, 5.0, 50.0, 3000.0, 1e-3, 0.0])?,
            others: others(u)?,
        })
    }
}

fn others(u: &mut Unstructured) -> arbitrary::Result<Vec<(u16, f64)>> {
    const VALUES: [f64; 8] = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        60_000.0,
        -60_000.0,
        88.0,
        -0.0,
        1e-8,
    ];
    let mut others = vec![];
    if u.arbitrary()? {
        for _ in 0..u.int_in_range(1..=6)? {
            others.push((u.arbitrary()?, *u.choose(&VALUES)?));
        }
    }
    Ok(others)
}

/// Windows, and a size that holds one of them in every dimension of the rank.
fn windows(u: &mut Unstructured, rank: usize, size: &mut [usize; 3]) -> arbitrary::Result<Windows> {
    let (mut kernel, mut stride, mut padding) = ([1; 3], [1; 3], [0; 3]);
    let most = [12, 20, 70];
    for d in 3 - rank..3 {
        // Small ones as a rule: those have most ways to be pooled.
        let (wide, far) = *u.choose(&[(5, 4), (5, 4), (5, 4), (20, 4), (5, 20), (20, 20)])?;
        kernel[d] = u.int_in_range(1..=wide)?;
        stride[d] = u.int_in_range(1..=far)?;
        padding[d] = u.int_in_range(0..=kernel[d] / 2)?;
        let least = (kernel[d] - 2 * padding[d]).max(1);
        size[d] = u.int_in_range(least..=least.max(most[d]))?;
    }
    if u.ratio(1, 5)? {
        // As many as there are cells, or more.
        return Ok(Windows::Adaptive(kernel));
    }
    let ceil_mode = u.arbitrary()?;
    Ok(Windows::Sliding {
        kernel,
        stride,
        padding,
        ceil_mode,
    })
}

/// Halves the largest size until no more than so many cells are left, or the size that a window needs.
fn shrink(size: &mut [usize; 3], windows: Windows, cells: usize) {
    let least = |d: usize| match windows {
        Windows::Sliding {
            kernel, padding, ..
        } => kernel[d].saturating_sub(2 * padding[d]).max(1),
        Windows::Adaptive(_) => 1,
    };
    while size.iter().product::<usize>() > cells {
        let largest = (0..3).max_by_key(|&d| size[d] - least(d).min(size[d]));
        let d = largest.unwrap_or(0);
        if size[d] <= least(d) {
            break;
        }
        size[d] = (size[d] / 2).max(least(d));
    }
}

/// These windows, no larger than the input.
fn fitting(windows: Windows, size: [usize; 3]) -> Windows {
    match windows {
        Windows::Sliding {
            kernel,
            stride,
            padding,
            ceil_mode,
        } => {
            let kernel = [0, 1, 2].map(|d| kernel[d].min(size[d]));
            Windows::Sliding {
                kernel,
                stride,
                padding: [0, 1, 2].map(|d| padding[d].min(kernel[d] / 2)),
                ceil_mode,
            }
        }
        adaptive => adaptive,
    }
}

impl Case {
    /// Whether it is neither too large nor too slow.
    fn fits(&self) -> bool {
        let cells: usize = self.shape.iter().product();
        let outputs: usize = self.pool.output_shape(&self.shape).iter().product();
        let window = match self.pool.windows {
            Windows::Sliding { kernel, .. } => kernel.iter().product(),
            Windows::Adaptive(_) => 2 * cells / outputs + 1,
        };
        cells <= CELLS && outputs * window <= READS
    }

    /// Which dimension is the channels'.
    fn channels(&self) -> usize {
        self.shape.len() - self.pool.rank - 1
    }

    /// The logits, with one channel or as many as the input.
    fn logits(&self) -> Option<(Vec<usize>, Vec<f64>)> {
        let Method::Lip(logits) = self.method else {
            return None;
        };
        let shape = logits.shape(&self.shape, self.channels());
        let count = shape.iter().product();
        Some((shape, logits.values(self.seed ^ 1, count)))
    }

    fn values(&self) -> Vec<f64> {
        let cells = self.shape.iter().product();
        let mut values = common::normal(self.seed, cells);
        values.iter_mut().for_each(|v| *v *= self.scale);
        let logits = self.logits();
        // Of logits that channels share, none is looked up: activations are finite then.
        let of_own = logits.filter(|(shape, _)| *shape == self.shape);
        for &(place, value) in &self.others {
            let place = place as usize % cells;
            let logit = of_own.as_ref().map(|(_, logits)| logits[place]);
            if self.method.defines(value, logit) {
                values[place] = value;
            }
        }
        values
    }

    fn run(&self) -> candle_core::Result<()> {
        let channels = self.channels();
        let xs = common::tensor(&self.values(), self.shape.as_slice(), self.dtype)?;
        let held = Held::new(xs.clone(), self.layout, channels)?;
        let logits = match (self.logits(), self.method) {
            (Some((shape, values)), Method::Lip(of)) => {
                let layout = of.layout.unwrap_or(self.layout);
                let zs = common::tensor(&values, shape, self.dtype)?;
                Some((zs.clone(), Held::new(zs, layout, channels)?))
            }
            _ => None,
        };
        let of_logits = logits.as_ref().map(|(_, held)| held.view()).transpose()?;
        let (ys, places) = self
            .method
            .forward(&self.pool, &held.view()?, of_logits.as_ref())?;
        let grad = common::randn(!self.seed, 1.0, ys.shape(), self.dtype)?;
        let grads = (&ys * &grad)?.sum_all()?.backward()?;
        let dz = logits.as_ref().map(|(_, held)| held.gradient(&grads));
        let found = Found {
            ys,
            places,
            dx: held.gradient(&grads)?,
            dz: dz.transpose()?,
        };
        let zs = logits.as_ref().map(|(zs, _)| zs);
        self.method
            .assert_agrees(&self.pool, &xs, zs, &grad, &found);
        Ok(())
    }
}

fuzz_target!(|case: Case| {
    if case.method.knows(case.pool.windows) && case.fits() {
        let described = format!("{case:?}");
        case.run().unwrap_or_else(|e| panic!("{described}: {e}"));
    }
});
