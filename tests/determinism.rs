//! Two runs give the same bits, whatever the number of threads and whatever else is in the batch.

mod common;

use candle_core::{DType, Module, Result, Tensor};
use candle_softpool::Gradient;
use common::{assert_same, dtypes, randn, Case, Pool};

/// Enough cells for several pieces of work: many small planes, one large one, one long row, a volume, large windows.
fn cases() -> Vec<Case> {
    let case = |pool: Pool, shape: &[usize]| Case {
        pool: pool.gradient(Gradient::Exact),
        shape: shape.to_vec(),
    };
    vec![
        case(Pool::sliding(2, 2, 2, 0), &[4, 17, 16, 16]),
        case(Pool::sliding(2, 3, 2, 1), &[1, 1, 100, 101]),
        case(Pool::sliding(2, 13, 1, 6), &[1, 2, 30, 30]),
        case(Pool::sliding(1, 3, 2, 1), &[1, 1, 20_001]),
        case(Pool::sliding(3, 3, 2, 1), &[1, 2, 9, 25, 30]),
        case(Pool::adaptive(2, 7), &[2, 20, 16, 17]),
    ]
}

/// Output and gradient within a pool of so many threads.
fn run(threads: usize, pool: &Pool, xs: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(|| pool.run(xs, grad))
}

#[cfg_attr(target_family = "wasm", ignore = "there are no threads")]
#[test]
fn the_number_of_threads_is_no_matter() -> Result<()> {
    for dtype in dtypes() {
        for case in cases() {
            let (xs, grad) = case.inputs(1, 2.0, dtype)?;
            let (ys, dx) = run(1, &case.pool, &xs, &grad)?;
            for threads in [1, 2, 3] {
                let (ys2, dx2) = run(threads, &case.pool, &xs, &grad)?;
                assert_same(&ys, &ys2);
                assert_same(&dx, &dx2);
            }
        }
    }
    Ok(())
}

/// The first of a batch, alone and beside others.
#[test]
fn the_rest_of_the_batch_is_no_matter() -> Result<()> {
    for dtype in dtypes() {
        let pool = Pool::sliding(2, 3, 2, 1).gradient(Gradient::Exact);
        let xs = randn(1, 2.0, (9, 5, 24, 25), dtype)?;
        let grad = randn(2, 1.0, (9, 5, 12, 13), dtype)?;
        let (ys, dx) = pool.run(&xs, &grad)?;
        let first = |xs: &Tensor| xs.narrow(0, 0, 1);
        let (ys2, dx2) = pool.run(&first(&xs)?, &first(&grad)?)?;
        assert_same(&first(&ys)?, &ys2);
        assert_same(&first(&dx)?, &dx2);
    }
    Ok(())
}

/// Small planes share their work; one whose activations lie far apart, or are not finite, changes no other's bits.
#[test]
fn neighbours_of_another_magnitude_are_no_matter() -> Result<()> {
    for kernel in [2, 3] {
        let pool = Pool::sliding(2, kernel, 2, kernel - 2).gradient(Gradient::Exact);
        let near = randn(1, 2.0, (1, 24, 8, 8), DType::F32)?;
        let alone = pool.forward(&near)?;
        for far in [
            -300.0,
            300.0,
            1e30,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ] {
            // In half of a plane, so that its windows need another shift than those of the other half.
            let half = near.narrow(1, 7, 1)?.narrow(2, 0, 4)?;
            let half = half.affine(1.0, far)?;
            let rest = near.narrow(1, 7, 1)?.narrow(2, 4, 4)?;
            let plane = Tensor::cat(&[&half, &rest], 2)?;
            let before = near.narrow(1, 0, 7)?;
            let after = near.narrow(1, 8, 16)?;
            let ys = pool.forward(&Tensor::cat(&[&before, &plane, &after], 1)?)?;
            for (first, count) in [(0, 7), (8, 16)] {
                assert_same(
                    &ys.narrow(1, first, count)?,
                    &alone.narrow(1, first, count)?,
                );
            }
        }
    }
    Ok(())
}
