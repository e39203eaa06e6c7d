//! The other pooling methods: against PyTorch, against definitions in float64, finite differences, and statistics.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, ModuleT, Tensor, Var};
use candle_softpool::{AvgPool, LpPool, MaxPool};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;

const FIXTURES: &[u8] = include_bytes!("fixtures/methods.safetensors");

fn values(xs: &Tensor) -> Result<Vec<f64>> {
    Ok(xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

#[track_caller]
fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.dims(), b.dims());
    for (i, (a, b)) in values(a)
        .unwrap()
        .iter()
        .zip(values(b).unwrap())
        .enumerate()
    {
        assert!(
            (a - b).abs() <= tolerance * (1.0 + b.abs()),
            "at {i}: {a} is not {b}"
        );
    }
}

/// The output and the gradient of the sum of its squares.
fn run(layer: &dyn ModuleT, xs: &Tensor) -> Result<(Tensor, Tensor)> {
    let xs = Var::from_tensor(xs)?;
    let ys = layer.forward_t(&xs, false)?;
    let grads = ys.sqr()?.sum_all()?.backward()?;
    Ok((ys, grads.get(&xs).context("no gradient")?.clone()))
}

fn layer<const D: usize>(case: &Value) -> Box<dyn ModuleT> {
    let size = |name: &str| case[name].as_u64().unwrap() as usize;
    macro_rules! windows {
        ($layer:expr) => {
            $layer
                .stride(size("stride"))
                .padding(size("padding"))
                .ceil_mode(case["ceil_mode"].as_bool().unwrap())
        };
    }
    let kernel = size("kernel");
    match case["method"].as_str().unwrap() {
        "max" => Box::new(windows!(MaxPool::<D>::new(kernel))),
        "avg" => Box::new(
            windows!(AvgPool::<D>::new(kernel))
                .count_include_pad(case["count_include_pad"].as_bool().unwrap()),
        ),
        "lp" => Box::new(windows!(LpPool::<D>::new(case["p"].as_f64().unwrap(), kernel)).sum(true)),
        other => panic!("unknown method {other}"),
    }
}

#[test]
fn agrees_with_pytorch() -> Result<()> {
    let (_, metadata) = SafeTensors::read_metadata(FIXTURES)?;
    let cases = &metadata.metadata().as_ref().context("no metadata")?["cases"];
    let cases: BTreeMap<String, Value> = serde_json::from_str(cases)?;
    let tensors = candle_core::safetensors::load_buffer(FIXTURES, &Device::Cpu)?;
    assert_eq!(cases.len(), 63);
    for (name, case) in cases {
        let layer = match case["rank"].as_u64() {
            Some(1) => layer::<1>(&case),
            Some(2) => layer::<2>(&case),
            _ => layer::<3>(&case),
        };
        println!("{name}");
        let (ys, dx) = run(layer.as_ref(), &tensors[&format!("{name}.x")])?;
        close(&ys, &tensors[&format!("{name}.y")], 1e-12);
        close(&dx, &tensors[&format!("{name}.dx")], 1e-12);
    }
    Ok(())
}
