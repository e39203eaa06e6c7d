//! SoftPool and both of its gradients are what PyTorch computes in float64: see `fixtures/make_soft.py`.

mod common;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use candle_softpool::{Gradient, Implementation};
use common::{device, dtypes, round, values, Pool, Windows};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

const FIXTURES: &[u8] = include_bytes!("fixtures/soft.safetensors");

fn cases() -> Result<BTreeMap<String, Value>> {
    let (_, metadata) = SafeTensors::read_metadata(FIXTURES)?;
    let cases = &metadata.metadata().as_ref().context("no metadata")?["cases"];
    Ok(serde_json::from_str(cases)?)
}

fn tensors() -> Result<HashMap<String, Tensor>> {
    Ok(candle_core::safetensors::load_buffer(
        FIXTURES,
        &Device::Cpu,
    )?)
}

fn layer(case: &Value) -> Pool {
    let rank = case["rank"].as_u64().unwrap() as usize;
    let size = |name: &str| {
        let mut size = [1; 3];
        let last = case[name].as_array().unwrap();
        for (to, from) in size[3 - rank..].iter_mut().zip(last) {
            *to = from.as_u64().unwrap() as usize;
        }
        size
    };
    let windows = match case.get("output") {
        Some(_) => Windows::Adaptive(size("output")),
        None => Windows::Sliding {
            kernel: size("kernel"),
            stride: size("stride"),
            padding: size("padding"),
            ceil_mode: case["ceil_mode"].as_bool().unwrap(),
        },
    };
    Pool::new(rank, windows).beta(case["beta"].as_f64().unwrap())
}

/// Within the arithmetic's error, times `factor`, of PyTorch's values, then rounded once.
#[track_caller]
fn check(what: &str, found: &Tensor, wanted: &Tensor, factor: f64) -> Result<()> {
    assert_eq!(found.dims(), wanted.dims(), "{what}");
    let dtype = found.dtype();
    let wanted = values(wanted)?;
    let scale = wanted.iter().fold(0.0, |a: f64, v| a.max(v.abs()));
    let error = factor * common::tolerance(dtype) * scale;
    for (i, (found, wanted)) in values(found)?.into_iter().zip(wanted).enumerate() {
        let between = round(wanted - error, dtype)..=round(wanted + error, dtype);
        assert!(
            between.contains(&found),
            "{what}, {dtype:?}, at {i}: {found:e} is not {wanted:e}"
        );
    }
    Ok(())
}

#[test]
fn agrees_with_pytorch() -> Result<()> {
    let tensors = tensors()?;
    let cases = cases()?;
    assert_eq!(cases.len(), 57);
    for (name, case) in &cases {
        let of = |part: &str| &tensors[&format!("{name}.{part}")];
        for dtype in dtypes() {
            let xs = of("x").to_device(&device())?.to_dtype(dtype)?;
            let grad = of("g").to_device(&device())?.to_dtype(dtype)?;
            for (part, gradient) in [("paper", Gradient::Paper), ("exact", Gradient::Exact)] {
                for implementation in [Implementation::Fused, Implementation::Composed] {
                    let pool = Pool {
                        implementation,
                        gradient,
                        ..layer(case)
                    };
                    let (ys, dx) = pool.run(&xs, &grad)?;
                    let what = format!("{name} {case}, {implementation:?}");
                    // Composed takes its exact gradient as a difference of terms as large as β·x.
                    let factor = match implementation {
                        Implementation::Fused => 1.0,
                        _ => 1.0 + 8.0 * pool.beta.abs(),
                    };
                    check(&format!("{what}, output"), &ys, of("y"), 1.0)?;
                    check(&format!("{what}, {part} gradient"), &dx, of(part), factor)?;
                }
            }
        }
    }
    Ok(())
}

/// The fixtures cover what they are for.
#[test]
fn every_setting_has_a_case() -> Result<()> {
    let cases = cases()?;
    for rank in 1..=3 {
        let layers = cases.values().map(layer).filter(|pool| pool.rank == rank);
        let has = |setting: fn(&Pool) -> bool| layers.clone().any(|pool| setting(&pool));
        assert!(has(|pool| pool.beta < 0.0) && has(|pool| pool.beta == 0.0));
        assert!(has(|pool| pool.beta > 10.0));
        assert!(has(|pool| matches!(pool.windows, Windows::Adaptive(_))));
        assert!(has(|pool| matches!(
            pool.windows,
            Windows::Sliding {
                kernel: [.., k],
                stride: [.., s],
                padding: [.., p],
                ceil_mode: true,
            } if k > s && p > 0
        )));
    }
    Ok(())
}
