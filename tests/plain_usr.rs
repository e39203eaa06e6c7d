//! PlainUSR: small networks against numpy in float64, the published weights against what they give in PyTorch, and what is refused.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use candle_softpool::models::plain_usr::{Config, Part};
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

/// Of sizes that no memory holds, as a damaged file may have.
#[test]
fn sizes_without_end_are_an_error() {
    let vb = || VarBuilder::from_tensors(Default::default(), DType::F32, &CPU);
    let [_, inner @ ..] = Config::S.channels;
    for config in [
        Config {
            channels: [[usize::MAX].as_slice(), &inner]
                .concat()
                .try_into()
                .expect("as many"),
            ..Config::S
        },
        Config {
            scale: 1 << 32,
            ..Config::S
        },
    ] {
        assert!(PlainUsr::new(&config, vb()).is_err());
    }
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

/// Finite differences of the loss by every number of the variables, and every tenth of the input.
#[test]
fn gradients_of_the_attention_are_the_derivative() -> Result<()> {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F64, &CPU);
    let attention = LocalAttention::new(3, 2, vb)?;
    // Square: candle's gradient of a convolution with steps takes the width for the height.
    let input = Var::from_tensor(&Tensor::randn(0f64, 1., (1, 3, 13, 13), &CPU)?)?;
    let loss = || attention.forward(&input)?.sqr()?.sum_all();
    let gradients = loss()?.backward()?;
    let variables = map.all_vars().into_iter().map(|variable| (variable, 1));
    for (variable, every) in variables.chain([(input.clone(), 10)]) {
        let gradient = gradients.get(&variable).context("no gradient")?;
        let gradient = gradient.flatten_all()?.to_vec1::<f64>()?;
        let start = variable.as_tensor().copy()?;
        let loss_at = |i: usize, step: f64| -> Result<f64> {
            let mut values = start.flatten_all()?.to_vec1::<f64>()?;
            values[i] += step;
            variable.set(&Tensor::from_vec(values, start.shape(), &CPU)?)?;
            Ok(loss()?.to_scalar::<f64>()?)
        };
        for (i, gradient) in gradient.into_iter().enumerate().step_by(every) {
            let step = 1e-5;
            let slope = (loss_at(i, step)? - loss_at(i, -step)?) / (2. * step);
            assert!(
                (slope - gradient).abs() < 1e-6 * slope.abs().max(1.),
                "{:?} {i}: {slope} {gradient}",
                start.dims()
            );
        }
        variable.set(&start)?;
    }
    Ok(())
}

// Parts of an image

/// The rows and columns `at..end` of an image of `scale` times the size.
fn cut(image: &Tensor, scale: usize, at: [usize; 2], end: [usize; 2]) -> Result<Tensor> {
    let side = |d: usize| (scale * at[d], scale * (end[d] - at[d]));
    let ((top, height), (left, width)) = (side(0), side(1));
    Ok(image.narrow(2, top, height)?.narrow(3, left, width)?)
}

/// Within reach of the edges where it was cut, a part's output may differ; beyond, only by rounding.
#[test]
fn a_part_gives_what_it_gives_in_the_whole() -> Result<()> {
    let whole = [325, 352];
    let image = Tensor::rand(0f64, 1., (1, 3, whole[0], whole[1]), &CPU)?;
    for (network, reach) in [("two", 127), ("three", 132)] {
        let network = load(&saved(network, |_| {})?, DType::F64)?;
        assert_eq!(network.reach(), reach);
        let large = network.forward(&image)?;
        // Cut on all sides; below and to the right; above and to the left; and on none.
        for (start, end) in [
            ([12, 30], [300, 330]),
            ([0, 0], [300, 330]),
            ([12, 30], whole),
            ([0, 0], whole),
        ] {
            let part = Part { whole, start };
            let found = network.forward_part(&cut(&image, 1, start, end)?, part)?;
            let from = [0, 1].map(|d| match start[d] {
                0 => 0,
                start => start + reach,
            });
            let to = [0, 1].map(|d| match end[d] == whole[d] {
                true => end[d],
                false => end[d] - reach,
            });
            let inside = |x: [usize; 2]| [0, 1].map(|d| x[d] - start[d]);
            near(
                &cut(&found, network.scale(), inside(from), inside(to))?,
                &cut(&large, network.scale(), from, to)?,
                1e-12,
            );
        }
    }
    Ok(())
}

/// Otherwise the tests of parts would show nothing.
#[test]
fn a_part_taken_for_the_whole_gives_something_else() -> Result<()> {
    let network = load(&saved("two", |_| {})?, DType::F64)?;
    let image = Tensor::rand(0f64, 1., (1, 3, 400, 280), &CPU)?;
    let alone = network.forward(&image.narrow(2, 0, 274)?)?;
    let whole = network.forward(&image)?;
    let [alone, whole] = [&alone, &whole].map(|large| large.narrow(2, 0, 2 * 140));
    let apart = (alone? - whole?)?.abs()?.max_all()?.to_scalar::<f64>()?;
    assert!(apart > 1e-6, "{apart}");
    Ok(())
}

#[test]
fn what_is_no_part_of_the_whole_is_refused() -> Result<()> {
    let network = load(&saved("two", |_| {})?, DType::F32)?;
    let image = Tensor::zeros((1, 3, 20, 30), DType::F32, &CPU)?;
    for (whole, start, problem) in [
        ([50, 50], [3, 0], "20 pixels from 3 on of 50"),
        ([50, 50], [0, 24], "30 pixels from 24 on of 50"),
        ([19, 50], [0, 0], "20 pixels from 0 on of 19"),
        ([50, 50], [usize::MAX / 6 * 6, 0], "expected a start that 6"),
    ] {
        let error = network.forward_part(&image, Part { whole, start });
        let error = error.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
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
        // As few numbers as a file may have that repeats them.
        (
            "block1.body.0.weight",
            vec![2000, 0],
            "block1.body.0.weight gives 2000 channels, expected at most 512",
        ),
        (
            "block1.body.3.body.0.weight",
            vec![2000, 0],
            "block1.body.3.body.0.weight gives 2000 channels",
        ),
        (
            "tail.0.weight",
            vec![3_000_000, 0],
            "tail.0.weight gives 3000000 channels",
        ),
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
