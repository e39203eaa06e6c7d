//! PlainUSR: small networks against numpy in float64, the published weights against what they give in PyTorch, and what is refused.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use candle_softpool::models::plain_usr::Config;
use candle_softpool::models::{LocalAttention, PlainUsr, Weights};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tempfile::{tempdir, TempDir};

const CPU: Device = Device::Cpu;

/// The tensors of `fixtures/make_plain_usr.py`.
fn fixture() -> Result<HashMap<String, Tensor>> {
    let file = include_bytes!("fixtures/plain_usr.safetensors");
    Ok(candle_core::safetensors::load_buffer(file, &CPU)?)
}

/// A folder with `weights.safetensors`: one network of the fixture.
fn saved(network: &str, change: impl Fn(&mut HashMap<String, Tensor>)) -> Result<TempDir> {
    let prefix = format!("{network}.");
    let mut tensors = fixture()?
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_string(), tensor)))
        .collect();
    change(&mut tensors);
    let folder = tempdir()?;
    candle_core::safetensors::save(&tensors, folder.path().join("weights.safetensors"))?;
    Ok(folder)
}

fn load(folder: &TempDir, dtype: DType) -> Result<PlainUsr> {
    Ok(PlainUsr::load(folder.path(), dtype, &CPU)?)
}

fn error(folder: &TempDir) -> String {
    load(folder, DType::F32).unwrap_err().to_string()
}

#[track_caller]
fn near(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims());
    let difference = |found: &Tensor| -> candle_core::Result<f64> {
        let found = found.to_dtype(DType::F64)?;
        let apart = (found - expected.to_dtype(DType::F64)?)?.abs()?;
        // A NaN is larger than anything here.
        let apart = apart.flatten_all()?.to_vec1::<f64>()?;
        Ok(apart
            .into_iter()
            .fold(0.0, |a, b| if b <= a { a } else { b }))
    };
    let difference = difference(found).unwrap();
    println!("{difference:e}");
    assert!(difference <= tolerance, "{difference} above {tolerance}");
}

#[test]
fn small_networks_agree_with_numpy_at_an_odd_size() -> Result<()> {
    let file = fixture()?;
    let image = file["image"].unsqueeze(0)?;
    for (network, scale, convolutions) in [("two", 2, 2), ("three", 3, 3)] {
        let expected = file[&format!("{network}:output")].unsqueeze(0)?;
        let folder = saved(network, |_| {})?;
        for (dtype, tolerance) in [(DType::F64, 3e-7), (DType::F32, 1e-5), (DType::F16, 2e-2)] {
            let network = load(&folder, dtype)?;
            assert_eq!(network.scale(), scale);
            assert_eq!(network.config().convolutions, convolutions);
            let found = network.forward(&image.to_dtype(dtype)?)?;
            assert_eq!(found.dtype(), dtype);
            near(&found, &expected, tolerance);
        }
    }
    Ok(())
}

/// The published variants, ×4 and ×2: their sizes are read off the tensors.
#[test]
fn every_published_size_is_recognised() -> Result<()> {
    for config in [Config::S, Config::M, Config::BASE, Config::L] {
        for scale in [2, 4] {
            let config = Config { scale, ..config };
            let variables = VarMap::new();
            PlainUsr::new(
                &config,
                VarBuilder::from_varmap(&variables, DType::F32, &CPU),
            )?;
            let folder = tempdir()?;
            variables.save(folder.path().join("weights.safetensors"))?;
            let network = load(&folder, DType::F32)?;
            assert_eq!(network.config(), &config);
            let image = Tensor::rand(0f32, 1., (1, 3, 7, 12), &CPU)?;
            let large = network.forward(&image)?;
            assert_eq!(large.dims(), [1, 3, 7 * scale, 12 * scale]);
        }
    }
    Ok(())
}

/// A folder with the authors' weights, an image and what PyTorch makes of it; they are not of this package.
#[test]
fn published_weights_give_what_they_give_in_pytorch() -> Result<()> {
    let Some(folder) = std::env::var_os("SOFTPOOL_PLAINUSR").map(PathBuf::from) else {
        eprintln!("skipped: SOFTPOOL_PLAINUSR names no folder with PlainUSR's weights");
        return Ok(());
    };
    let expected = candle_core::safetensors::load(folder.join("expected-x4.safetensors"), &CPU)
        .with_context(|| format!("{}", folder.display()))?;
    let file = folder.join("PlainUSRS_Rep_x4.pth");
    let network = PlainUsr::load(&file, DType::F32, &CPU)?;
    assert_eq!(network.config(), &Config::S);
    near(
        &network.forward(&expected["input"])?,
        &expected["output"],
        1e-4,
    );

    // The same tensors in the other format.
    let copy = tempdir()?;
    let weights = Weights::open(&file)?;
    let vb = weights.var_builder(DType::F32, &CPU);
    let tensors = weights.tensors().map(|(name, shape)| {
        let tensor = vb.get(shape.clone(), name)?.contiguous()?;
        Ok((name.to_string(), tensor))
    });
    let tensors: HashMap<_, _> = tensors.collect::<Result<_>>()?;
    candle_core::safetensors::save(&tensors, copy.path().join("copy.safetensors"))?;
    near(
        &load(&copy, DType::F32)?.forward(&expected["input"])?,
        &expected["output"],
        1e-4,
    );
    Ok(())
}

#[test]
fn attention_passes_gradients_to_its_input_and_variables() -> Result<()> {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F64, &CPU);
    let attention = LocalAttention::new(4, 2, vb)?;
    // Square: candle's gradient of a convolution with steps takes the width for the height.
    let input = Tensor::randn(0f64, 1., (1, 4, 11, 11), &CPU)?;
    let xs = Var::from_tensor(&input)?;
    let gradients = attention.forward(&xs)?.sqr()?.sum_all()?.backward()?;
    for variable in variables.all_vars() {
        let gradient = gradients.get(&variable).context("no gradient")?;
        assert!(gradient.abs()?.sum_all()?.to_scalar::<f64>()? > 0.0);
    }
    // SoftPool's default gradient is no derivative, but the path beside it must be right: the last channel's
    // bias changes the importance alone.
    let names = variables.data().lock().unwrap();
    let bias = &names["body.3.bias"];
    let loss = || -> Result<f64> {
        let ys = attention.forward(&input)?;
        Ok(ys.sqr()?.sum_all()?.to_scalar::<f64>()?)
    };
    let start = bias.as_tensor().copy()?;
    let step = Tensor::new(&[0., 0., 0., 1e-5f64], &CPU)?;
    bias.set(&(&start + &step)?)?;
    let above = loss()?;
    bias.set(&(&start - &step)?)?;
    let slope = (above - loss()?) / 2e-5;
    let gradient = gradients.get(bias).context("no gradient")?;
    let gradient = gradient.to_vec1::<f64>()?[3];
    assert!(
        (slope - gradient).abs() < 1e-6 * slope.abs().max(1.0),
        "{slope} {gradient}"
    );
    Ok(())
}

// What is refused

#[test]
fn tensors_that_are_missing_or_of_another_shape_are_all_listed() -> Result<()> {
    let folder = saved("two", |tensors| {
        tensors.remove("block3.body.3.body.2.bias");
        tensors.remove("head.weight");
        let wrong = Tensor::zeros(5, DType::F32, &CPU).unwrap();
        tensors.insert("blockm.body.0.bias".to_string(), wrong);
    })?;
    let error = error(&folder);
    for line in [
        "missing: block3.body.3.body.2.bias [2]",
        "missing: head.weight [9, 3, 3, 3]",
        "of another shape: blockm.body.0.bias is [5], expected [3]",
    ] {
        assert!(error.contains(line), "{error}");
    }
    assert_eq!(error.lines().count(), 4, "{error}");
    Ok(())
}

#[test]
fn weights_of_another_network_are_refused() -> Result<()> {
    // The tensors that tell the sizes, with sizes that cannot be.
    for (tensor, dims, problem) in [
        (
            "tail.0.weight",
            vec![13, 9, 3, 3],
            "tail.0.weight gives 13 channels, expected 3·scale²",
        ),
        ("tail.0.weight", vec![0], "tail.0.weight gives 0 channels"),
        (
            "block2.body.0.weight",
            vec![100, 4, 3, 3],
            "no block wider than the first",
        ),
        ("block1.body.0.weight", vec![0, 4], "expected sizes above 0"),
        (
            "head.weight",
            vec![],
            "head.weight is [], expected [9, 3, 3, 3]",
        ),
    ] {
        let folder = saved("two", |tensors| {
            let wrong = Tensor::zeros(dims.clone(), DType::F32, &CPU).unwrap();
            tensors.insert(tensor.to_string(), wrong);
        })?;
        let error = error(&folder);
        assert!(error.contains(problem), "{tensor}: {error}");
    }
    let folder = tempdir()?;
    let digits = Path::new("examples/classify/weights/digits-soft.safetensors");
    std::fs::copy(digits, folder.path().join("weights.safetensors"))?;
    let error = error(&folder);
    assert!(
        error.contains("missing: head.weight [67, 3, 3, 3]"),
        "{error}"
    );
    assert!(error.contains("unexpected: stage1.conv.weight"), "{error}");
    Ok(())
}

#[test]
fn images_of_another_shape_are_refused() -> Result<()> {
    let network = load(&saved("two", |_| {})?, DType::F32)?;
    for dims in [
        vec![1, 3, 6, 30],
        vec![1, 3, 30, 6],
        vec![1, 4, 30, 30],
        vec![3, 30, 30],
    ] {
        let image = Tensor::zeros(dims.clone(), DType::F32, &CPU)?;
        let error = network.forward(&image).unwrap_err().to_string();
        let expected = format!(
            "PlainUsr: input of shape {dims:?}, expected (N, 3, H, W) with H and W at least 7"
        );
        assert!(error.contains(&expected), "{error}");
    }
    let vb = VarBuilder::zeros(DType::F32, &CPU);
    let attention = LocalAttention::new(4, 2, vb)?;
    let error = attention.forward(&Tensor::zeros((1, 3, 9, 9), DType::F32, &CPU)?);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("LocalAttention: input of shape [1, 3, 9, 9], expected (N, 4, H, W)"),
        "{error}"
    );
    Ok(())
}
