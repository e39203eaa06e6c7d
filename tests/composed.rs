//! Fused and composed are the same function: over random geometries, in values and in both gradients.

use candle_core::{Device, Module, Result, Tensor, Var};
use candle_softpool::{Gradient, Implementation, SoftPool2d};
use proptest::prelude::*;

fn close(a: &Tensor, b: &Tensor, tolerance: f64) -> Result<()> {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (
        a.flatten_all()?.to_vec1::<f64>()?,
        b.flatten_all()?.to_vec1::<f64>()?,
    );
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }
    Ok(())
}

fn run(pool: SoftPool2d, xs: &Var) -> Result<(Tensor, Tensor)> {
    let ys = pool.forward(xs.as_tensor())?;
    let grads = ys.sqr()?.sum_all()?.backward()?;
    Ok((ys, grads.get(xs).unwrap().clone()))
}

proptest! {
    #[test]
    fn fused_is_composed(
        h in 1usize..12, w in 1usize..20, kh in 1usize..6, kw in 1usize..6, sh in 1usize..5, sw in 1usize..5,
        p in 0usize..3, ceil_mode: bool, exact: bool, beta in -3f64..3.0,
    ) {
        let padding = (p.min(kh / 2), p.min(kw / 2));
        prop_assume!(kh <= h + 2 * padding.0 && kw <= w + 2 * padding.1);
        let xs = Var::randn(0f64, 3., (2, 2, h, w), &Device::Cpu).unwrap();
        let pool = SoftPool2d::new((kh, kw)).stride((sh, sw)).padding(padding).ceil_mode(ceil_mode).beta(beta)
            .gradient(if exact { Gradient::Exact } else { Gradient::Paper });
        let (ys, dx) = run(pool, &xs).unwrap();
        let (ys2, dx2) = run(pool.implementation(Implementation::Composed), &xs).unwrap();
        close(&ys, &ys2, 1e-11).unwrap();
        close(&dx, &dx2, 1e-10).unwrap();
    }
}
