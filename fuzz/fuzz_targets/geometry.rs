//! Every pooling, of any rank, windows, layout and dtype, forward and backward, is its definition in float64.
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../src/layout.rs"]
mod layout;
#[path = "../src/methods.rs"]
mod methods;

use arbitrary::{Arbitrary, Unstructured};
use candle_core::{DType, Var};
use candle_softpool::Gradient;
use common::{Pool, Windows};
use layout::Layout;
use libfuzzer_sys::fuzz_target;
use methods::Method;

/// What no input may exceed: more cells make a case slow, not different.
const CELLS: usize = 8_000;

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

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let rank = u.int_in_range(1..=3)?;
        let (mut size, mut shape) = ([1; 3], vec![]);
        for _ in 0..u.int_in_range(1..=2)? {
            shape.push(u.int_in_range(1..=5)?);
        }
        let windows = windows(u, rank, &mut size)?;
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
            layout: u.arbitrary()?,
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
    if u.ratio(1, 2)? {
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

impl Case {
    fn values(&self) -> Vec<f64> {
        let cells = self.shape.iter().product();
        let mut values = common::normal(self.seed, cells);
        values.iter_mut().for_each(|v| *v *= self.scale);
        for &(place, value) in &self.others {
            // The definitions here of the others are of finite activations.
            if value.is_finite() || matches!(self.method, Method::Soft) {
                values[place as usize % cells] = value;
            }
        }
        values
    }

    fn run(&self) -> candle_core::Result<()> {
        let xs = common::tensor(&self.values(), self.shape.as_slice(), self.dtype)?;
        let base = Var::from_tensor(&self.layout.hold(&xs)?)?;
        let view = self.layout.view(&base, &xs)?;
        let ys = self.method.forward(&self.pool, &view)?;
        let grad = common::randn(!self.seed, 1.0, ys.shape(), self.dtype)?;
        // Multiplied by a gradient, an output that is not finite has no sum.
        let finite = self.others.iter().all(|(_, value)| value.is_finite());
        let dx = match finite {
            true => {
                let grads = (&ys * &grad)?.sum_all()?.backward()?;
                let dx = grads.get(&base).expect("a gradient");
                Some(self.layout.view(dx, &xs)?)
            }
            false => None,
        };
        self.method
            .assert_agrees(&self.pool, &xs, &grad, &ys, dx.as_ref());
        Ok(())
    }
}

fuzz_target!(|case: Case| {
    let cells = case.shape.iter().product::<usize>();
    if cells <= CELLS && case.method.knows(case.pool.windows) {
        let described = format!("{case:?}");
        case.run().unwrap_or_else(|e| panic!("{described}: {e}"));
    }
});
