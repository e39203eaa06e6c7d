//! Metal 3.0 has no bf16, so that `metal/softpool.metal` rounds to it by itself: to nearest, ties to even.

use crate::bytes;
use crate::driver::{Buffer, Driver, Grid};
use candle_core::{DType, Layout};
use candle_softpool::backend::params::Layouts;
use candle_softpool::backend::plan::{self, Rule};
use candle_softpool::backend::{Method, Weighting};
use candle_softpool::geometry::{Geometry, Windows};
use half::bf16;

/// Windows of two neighbouring numbers, whose average (β = 0) is a tie.
fn ties() -> Vec<bf16> {
    // From 2^-60 to the largest: differences are no subnormal numbers.
    let positive = bf16::from_f32((-60f32).exp2()).to_bits()..bf16::MAX.to_bits();
    let both = [0, 1 << 15]
        .into_iter()
        .flat_map(|sign| positive.clone().map(move |b| b | sign));
    both.flat_map(|bits| [bits, bits + 1].map(bf16::from_bits))
        .collect()
}

fn averages(driver: &mut Driver, xs: &[bf16]) -> Vec<bf16> {
    let dims = [1, xs.len()];
    let windows = Windows::Sliding {
        kernel: [2],
        stride: [2],
        padding: [0],
        ceil_mode: false,
    };
    let geometry = Geometry::new("rounding", &windows, &dims).unwrap();
    let method = Method::SoftPool(Weighting {
        beta: 0.0,
        nan_to_num: false,
    });
    let layout = Layout::contiguous(dims.as_slice());
    let layouts = Layouts {
        input: &layout,
        logits: None,
        grad: None,
    };
    let plan = plan::forward(DType::BF16, layouts, &geometry, method).unwrap();
    let mut output = vec![0; 2 * plan.output];
    for launch in &plan.launches {
        let input = || Buffer::new(bytes(xs));
        let grid = Grid {
            blocks: launch.grid,
            threads: launch.block,
            shared: launch.shared_bytes(DType::BF16),
        };
        driver.launch(
            &launch.function(DType::BF16),
            grid,
            bytes(&[launch.params]),
            &[input(), input(), input()],
            [&mut output, &mut []],
        );
    }
    let cells = output.chunks_exact(2);
    cells
        .map(|cell| bf16::from_ne_bytes([cell[0], cell[1]]))
        .collect()
}

#[test]
fn metal_rounds_ties_to_even() {
    let Some(mut driver) = Driver::new(&[Rule::SoftPool], &[DType::BF16]) else {
        return;
    };
    let xs = ties();
    let ys = averages(&mut driver, &xs);
    assert_eq!(ys.len(), xs.len() / 2);
    for (pair, y) in xs.chunks_exact(2).zip(&ys) {
        let average = pair[0].to_f64() / 2.0 + pair[1].to_f64() / 2.0;
        assert_eq!(*y, bf16::from_f64(average), "the average of {pair:?}");
    }
}
