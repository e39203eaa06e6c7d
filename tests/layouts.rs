//! Views of any layout give the very bits of their contiguous copies, forward and backward.

mod common;

use candle_core::{DType, Device, IndexOp, Module, Result, Tensor, Var};
use candle_softpool::{backend, geometry, softmax_pool2d, Gradient, Lip2d, SoftPool2d};
use common::{assert_close, assert_same, dtypes, normal, randn, values, Pool};

type View = fn(&Tensor) -> Result<Tensor>;

/// Views of a tensor of shape (4, 6, 10, 36).
const VIEWS: &[(&str, View)] = &[
    ("contiguous", |xs| Ok(xs.clone())),
    ("transposed", |xs| xs.transpose(2, 3)),
    ("channels last", |xs| xs.permute((0, 3, 1, 2))),
    ("reversed", |xs| xs.permute((3, 2, 1, 0))),
    ("narrowed rows", |xs| xs.narrow(2, 1, 8)),
    ("narrowed columns", |xs| xs.narrow(3, 3, 31)),
    ("narrowed to few columns", |xs| xs.narrow(3, 5, 16)),
    ("narrowed to few rows and columns", |xs| {
        xs.narrow(2, 1, 3)?.narrow(3, 2, 16)
    }),
    ("narrowed channels", |xs| xs.narrow(1, 2, 3)),
    ("narrowed batch: an offset", |xs| xs.narrow(0, 3, 1)),
    ("narrowed and transposed", |xs| {
        xs.narrow(3, 5, 17)?.transpose(1, 3)
    }),
    ("an element of the batch", |xs| xs.get(2)),
    ("a channel, as a batch", |xs| xs.narrow(1, 4, 1)),
    ("every channel of a column", |xs| {
        xs.narrow(3, 35, 1)?.permute((0, 3, 2, 1))
    }),
    ("broadcast batch", |xs| {
        xs.get(1)?.broadcast_as((3, 6, 10, 36))
    }),
    ("broadcast channels", |xs| {
        xs.narrow(1, 5, 1)?.broadcast_as((4, 7, 10, 36))
    }),
    ("broadcast rows", |xs| {
        xs.narrow(2, 9, 1)?.broadcast_as((4, 6, 11, 36))
    }),
    ("broadcast rows of few columns", |xs| {
        xs.narrow(2, 9, 1)?
            .narrow(3, 1, 12)?
            .broadcast_as((4, 6, 11, 12))
    }),
    ("broadcast columns", |xs| {
        xs.narrow(3, 35, 1)?.broadcast_as((4, 6, 10, 40))
    }),
    ("one cell", |xs| {
        xs.narrow(0, 3, 1)?
            .narrow(1, 5, 1)?
            .narrow(2, 9, 1)?
            .narrow(3, 35, 1)?
            .broadcast_as((2, 3, 9, 19))
    }),
    ("one cell, transposed", |xs| {
        xs.get(0)?.narrow(2, 7, 1)?.broadcast_as((6, 10, 9))?.t()
    }),
];

fn layers() -> Vec<Pool> {
    let padded = Pool::sliding(2, 3, 2, 1);
    vec![
        Pool::sliding(2, 2, 2, 0).gradient(Gradient::Exact),
        padded,
        padded.beta(-0.7).gradient(Gradient::Exact),
        Pool::adaptive(2, 4),
    ]
}

/// Runs a layer on a view of a variable: the output, and the gradient of the variable.
fn through(pool: &Pool, view: View, base: &Tensor, contiguous: bool) -> Result<(Tensor, Tensor)> {
    let base = Var::from_tensor(base)?;
    let mut xs = view(base.as_tensor())?;
    if contiguous {
        xs = xs.force_contiguous()?;
    }
    let output = pool.output_shape(xs.dims());
    let grad = randn(8, 1.0, output, xs.dtype())?;
    let ys = pool.forward(&xs)?;
    let grads = (&ys * grad)?.sum_all()?.backward()?;
    Ok((ys, grads.get(&base).unwrap().clone()))
}

/// The output of a view, which has the bits of its copy's, as has the gradient.
fn assert_as_copied(pool: &Pool, view: View, base: &Tensor) -> Result<Tensor> {
    let (ys, dx) = through(pool, view, base, false)?;
    let (ys2, dx2) = through(pool, view, base, true)?;
    assert_same(&ys, &ys2);
    assert_same(&dx, &dx2);
    Ok(ys)
}

#[test]
fn views_give_the_bits_of_their_copies() -> Result<()> {
    for dtype in dtypes() {
        let base = randn(7, 2.0, (4, 6, 10, 36), dtype)?;
        for (name, view) in VIEWS {
            for pool in layers() {
                println!("{name}, {dtype:?}, {pool:?}");
                let ys = assert_as_copied(&pool, *view, &base)?;
                if dtype == DType::F32 {
                    let definition = pool.definition(&view(&base)?, &ys)?;
                    let wanted = common::tensor(&definition.output, ys.dims(), dtype)?;
                    assert_close(&ys, &wanted, 1e-5);
                }
            }
        }
    }
    Ok(())
}

/// Large enough for squares of cells to be turned at once, and odd enough for some to overlap.
#[test]
fn large_views_give_the_bits_of_their_copies() -> Result<()> {
    let base = randn(8, 2.0, (2, 19, 33, 40), DType::F32)?;
    for (name, view) in &VIEWS[1..4] {
        for pool in layers() {
            println!("{name}, {pool:?}");
            assert_as_copied(&pool, *view, &base)?;
        }
    }
    Ok(())
}

/// Planes so large that several threads share one where they are contiguous, with too many channels to be shared where
/// those come last.
#[test]
fn planes_of_many_tiles_give_the_bits_of_their_copies() -> Result<()> {
    let pool = SoftPool2d::new(2);
    for (rows, columns) in [(270, 270), (2, 3000)] {
        let xs = randn(9, 2.0, (2, rows, columns, 19), DType::F32)?.permute((0, 3, 1, 2))?;
        assert_same(&pool.forward(&xs)?, &pool.forward(&xs.contiguous()?)?);
    }
    Ok(())
}

/// Global pooling of small maps, wherever their cells lie.
#[test]
fn planes_of_one_window_give_the_bits_of_their_copies() -> Result<()> {
    let views: &[(&str, View)] = &[
        ("cropped", |xs| xs.narrow(2, 1, 7)?.narrow(3, 2, 9)),
        ("cropped by far", |xs| xs.narrow(2, 1, 5)?.narrow(3, 4, 4)),
        ("transposed", |xs| xs.narrow(3, 0, 12)?.transpose(2, 3)),
        ("channels last", |xs| xs.permute((0, 3, 1, 2))),
        ("three channels last", |xs| {
            xs.narrow(3, 0, 3)?.contiguous()?.permute((0, 3, 1, 2))
        }),
        ("channels last, cropped", |xs| {
            xs.permute((0, 3, 1, 2))?.narrow(3, 1, 9)?.narrow(2, 1, 5)
        }),
        ("narrowed channels", |xs| xs.narrow(1, 2, 3)),
        ("broadcast rows", |xs| {
            xs.narrow(2, 9, 1)?.broadcast_as((4, 6, 8, 16))
        }),
        ("broadcast channels", |xs| {
            xs.narrow(1, 5, 1)?.broadcast_as((4, 40, 13, 16))
        }),
    ];
    for dtype in dtypes() {
        let base = randn(31, 2.0, (4, 6, 13, 16), dtype)?;
        for (name, view) in views {
            for gradient in [Gradient::Paper, Gradient::Exact] {
                let pool = Pool::adaptive(2, 1).gradient(gradient);
                println!("{name}, {dtype:?}, {pool:?}");
                let found = || assert_as_copied(&pool, *view, &base);
                // In a thread of its own, which has no memory of earlier calls that could be large enough by chance.
                let ys = match cfg!(target_arch = "wasm32") {
                    true => found()?,
                    false => std::thread::scope(|scope| scope.spawn(found).join().unwrap())?,
                };
                let definition = pool.definition(&view(&base)?, &ys)?;
                let wanted = common::tensor(&definition.output, ys.dims(), dtype)?;
                let tolerance = match dtype {
                    DType::BF16 => 2e-2,
                    DType::F16 => 2e-3,
                    _ => 1e-5,
                };
                assert_close(&ys, &wanted, tolerance);
            }
        }
        let line: View = |xs| xs.narrow(3, 0, 1)?.squeeze(3)?.transpose(1, 2);
        let base = randn(32, 2.0, (2, 50, 48, 1), dtype)?;
        assert_as_copied(&Pool::adaptive(1, 1), line, &base)?;
        let volumes: [View; 3] = [
            |xs| xs.narrow(2, 1, 3)?.permute((1, 0, 2, 4, 3)),
            |xs| xs.transpose(2, 3),
            |xs| xs.narrow(2, 4, 1)?.broadcast_as((3, 4, 5, 6, 7)),
        ];
        let base = randn(33, 2.0, (3, 4, 5, 6, 7), dtype)?;
        for volume in volumes {
            assert_as_copied(&Pool::adaptive(3, 1), volume, &base)?;
        }
    }
    Ok(())
}

/// The same with logits that lie otherwise than the activations: of one channel for all, or cropped.
#[test]
fn planes_of_one_window_with_logits_give_the_bits_of_their_copies() -> Result<()> {
    let views: [View; 3] = [
        |xs| xs.narrow(3, 0, 8),
        |xs| xs.narrow(2, 1, 7)?.narrow(3, 0, 8),
        |xs| xs.narrow(1, 2, 1)?.narrow(2, 0, 7)?.narrow(3, 1, 8),
    ];
    for last in [false, true] {
        let base = randn(
            34,
            2.0,
            if last { (3, 9, 10, 32) } else { (3, 32, 9, 10) },
            DType::F32,
        )?;
        let bases = [Var::from_tensor(&base)?, Var::from_tensor(&base.neg()?)?];
        for (of_x, of_logits) in [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            let seen = |base: &Var, view: usize| {
                let xs = if last {
                    base.permute((0, 3, 1, 2))?
                } else {
                    base.as_tensor().clone()
                };
                let rows = if view == 0 { xs.narrow(2, 2, 7)? } else { xs };
                views[view](&rows)
            };
            let (xs, logits) = (seen(&bases[0], of_x)?, seen(&bases[1], of_logits)?);
            let (xs2, logits2) = (xs.force_contiguous()?, logits.force_contiguous()?);
            let ys = softmax_pool2d(&xs, &logits, (7, 8))?;
            let ys2 = softmax_pool2d(&xs2, &logits2, (7, 8))?;
            assert_same(&ys, &ys2);
            let (grads, grads2) = (ys.sqr()?.backward()?, ys2.sqr()?.backward()?);
            for base in &bases {
                assert_same(grads.get(base).unwrap(), grads2.get(base).unwrap());
            }
        }
    }
    Ok(())
}

/// Of more columns than a band has, so that rows are cut and each part has a shift of its own.
#[test]
fn long_rows_give_the_bits_of_their_copies() -> Result<()> {
    let (columns, channels) = (17_000, 32);
    let base = randn(27, 3.0, (1, columns, channels), DType::F32)?;
    for stride in [2, 3] {
        let pool = Pool::sliding(1, 3, stride, 1).gradient(Gradient::Exact);
        assert_as_copied(&pool, |xs| xs.transpose(1, 2), &base)?;
    }
    Ok(())
}

#[test]
fn views_in_one_and_three_dimensions() -> Result<()> {
    for dtype in dtypes() {
        for gradient in [Gradient::Paper, Gradient::Exact] {
            let line = randn(1, 2.0, (5, 60), dtype)?;
            let pool = Pool::sliding(1, 3, 2, 1).gradient(gradient);
            let transposed: View = |xs| xs.t();
            assert_as_copied(&pool, transposed, &line)?;
            let volume = randn(2, 2.0, (3, 4, 5, 6, 7), dtype)?;
            let pool = Pool::sliding(3, 2, 1, 0).gradient(gradient);
            let permuted: View = |xs| xs.permute((4, 0, 3, 1, 2))?.narrow(2, 1, 4);
            assert_as_copied(&pool, permuted, &volume)?;
        }
    }
    Ok(())
}

#[test]
fn unbatched_is_a_batch_of_one() -> Result<()> {
    for dtype in dtypes() {
        for (rank, shape) in [(1, vec![3, 40]), (2, vec![3, 9, 20]), (3, vec![2, 5, 6, 7])] {
            let pool = Pool::sliding(rank, 3, 2, 1).gradient(Gradient::Exact);
            let xs = randn(1, 2.0, shape.as_slice(), dtype)?;
            let grad = randn(2, 1.0, pool.output_shape(&shape), dtype)?;
            let (ys, dx) = pool.run(&xs, &grad)?;
            let (ys2, dx2) = pool.run(&xs.unsqueeze(0)?, &grad.unsqueeze(0)?)?;
            assert_same(&ys.unsqueeze(0)?, &ys2);
            assert_same(&dx.unsqueeze(0)?, &dx2);
        }
    }
    Ok(())
}

#[test]
fn empty_batches_and_channels() -> Result<()> {
    for dtype in dtypes() {
        for shape in [
            vec![0, 3, 8, 9],
            vec![2, 0, 8, 9],
            vec![0, 8, 9],
            vec![0, 0, 8, 9],
        ] {
            for pool in layers() {
                for pool in [pool, pool.composed()] {
                    let xs = Tensor::zeros(shape.as_slice(), dtype, &common::device())?;
                    let output = pool.output_shape(&shape);
                    let ys = pool.forward(&xs)?;
                    assert_eq!((ys.dims(), ys.dtype()), (output.as_slice(), dtype));
                    let grad = Tensor::zeros(output, dtype, &common::device())?;
                    let (_, dx) = pool.run(&xs, &grad)?;
                    assert_eq!(dx.dims(), shape);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn outputs_are_contiguous() -> Result<()> {
    let xs = randn(1, 1.0, (2, 9, 12, 3), DType::F32)?.permute((0, 3, 1, 2))?;
    let ys = SoftPool2d::new(3).stride(2).forward(&xs)?;
    assert!(ys.is_contiguous() && ys.layout().start_offset() == 0);
    Ok(())
}

/// The CPU's backward pass takes the outputs' gradient in any layout too; candle itself only hands on contiguous ones.
#[test]
fn incoming_gradients_in_any_layout() -> Result<()> {
    use candle_core::{CpuStorage, Layout, Shape};
    let axis = |input: usize, output: usize| geometry::Axis {
        input,
        output,
        kernel: 3,
        stride: 2,
        padding: 1,
        adaptive: false,
    };
    let geometry = geometry::Geometry {
        axes: [geometry::Axis::UNIT, axis(7, 4), axis(9, 5)],
        rank: 2,
    };
    let weighting = backend::Weighting {
        beta: 1.0,
        nan_to_num: false,
    };
    let x = normal(1, 2 * 3 * 7 * 9);
    let input = Layout::contiguous((2, 3, 7, 9));
    let run = |grad: &[f64], layout: &Layout| {
        let input = backend::cpu::View::new(&x, &input, 2);
        let grad = backend::cpu::View::new(grad, layout, 2);
        let method = backend::Method::SoftPool(weighting);
        backend::cpu::backward(input.into(), grad, &geometry, method, Gradient::Exact)
    };
    let base = |shape: [usize; 4]| Tensor::from_vec(normal(2, 120), &shape, &Device::Cpu);
    let one_channel = base([2, 5, 3, 4])?.get(1)?;
    for viewed in [
        base([5, 4, 3, 2])?.permute((3, 2, 1, 0))?,
        one_channel.permute((1, 2, 0))?.broadcast_as((2, 3, 4, 5))?,
        one_channel.i((4, 2, 1))?.broadcast_as((2, 3, 4, 5))?,
    ] {
        let (storage, layout) = viewed.storage_and_layout();
        let candle_core::Storage::Cpu(CpuStorage::F64(cells)) = &*storage else {
            unreachable!("made on the CPU in f64")
        };
        assert!(!layout.is_contiguous() && layout.shape() == &Shape::from((2, 3, 4, 5)));
        let copy = values(&viewed)?;
        assert_eq!(
            run(cells, layout)?,
            run(&copy, &Layout::contiguous((2, 3, 4, 5)))?
        );
    }
    Ok(())
}

/// Activations, logits and the gradient each lie in memory in their own way.
#[test]
fn logits_that_lie_otherwise_give_the_bits_of_their_copies() -> Result<()> {
    let xs = Var::from_tensor(&randn(1, 2.0, (2, 3, 6, 8), DType::F32)?)?;
    let logits = Var::from_tensor(&randn(2, 2.0, (2, 3, 8, 6), DType::F32)?)?;
    for pool in [Lip2d::new(2), Lip2d::new(3).stride(1)] {
        let through = |logits: &Tensor| -> Result<_> {
            let ys = pool.forward_with(xs.as_tensor(), logits)?;
            let grads = (&ys * &ys)?.sum_all()?.backward()?;
            Ok((ys, grads))
        };
        let view = logits.t()?;
        let (ys, grads) = through(&view)?;
        let (ys2, grads2) = through(&view.force_contiguous()?)?;
        assert_same(&ys, &ys2);
        for var in [&xs, &logits] {
            assert_same(grads.get(var).unwrap(), grads2.get(var).unwrap());
        }
    }
    Ok(())
}

/// One value for all of a plane takes one place in memory, whose planes lie side by side as if channels came last.
#[test]
fn planes_of_one_repeated_value_are_pooled() -> Result<()> {
    for size in [8, 40] {
        let values = randn(1, 2.0, (2, 16, 1, 1), DType::F32)?;
        let repeated = values.broadcast_as((2, 16, size, size))?;
        let copy = repeated.force_contiguous()?;
        for pool in [SoftPool2d::new(2), SoftPool2d::new(3).stride(2)] {
            assert_same(&pool.forward(&repeated)?, &pool.forward(&copy)?);
            let grad = pool.forward(&copy)?;
            assert_same(
                &pool.backward(&repeated, &grad)?,
                &pool.backward(&copy, &grad)?,
            );
        }
    }
    Ok(())
}
