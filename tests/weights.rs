//! Reading weights: formats, names, dtypes, and what is said of a file that does not fit.

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{linear, Linear, VarBuilder, VarMap};
use candle_softpool::models::inception::InceptionV3;
use candle_softpool::models::{Model, Pooling, Weights};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::{tempdir, TempDir};

const CPU: Device = Device::Cpu;

fn fixture(name: &str) -> PathBuf {
    // Tests start in the package's folder, also where a bundle of them runs elsewhere.
    Path::new("tests/fixtures").join(name)
}

/// Two inputs weighed by these, a row an output.
fn fc(vb: VarBuilder) -> candle_core::Result<Linear> {
    linear(3, 2, vb.pp("fc"))
}

fn weight() -> Result<Tensor> {
    Ok(Tensor::arange(0f32, 6., &CPU)?.reshape((2, 3))?)
}

fn bias() -> Result<Tensor> {
    Ok(Tensor::new(&[0.5f32, -0.25], &CPU)?)
}

fn save(path: &Path, tensors: &[(&str, Tensor)]) -> Result<()> {
    let tensors: HashMap<_, _> = tensors.iter().cloned().collect();
    Ok(candle_core::safetensors::save(&tensors, path)?)
}

/// A folder with `model.safetensors` of these tensors.
fn saved(tensors: &[(&str, Tensor)]) -> Result<TempDir> {
    let folder = tempdir()?;
    save(&folder.path().join("model.safetensors"), tensors)?;
    Ok(folder)
}

/// The layer with the weights of a path maps (1, 1, 1) to the sums of the rows.
#[track_caller]
fn loads(path: &Path) {
    let weights = Weights::open(path).unwrap();
    let layer = weights.build(DType::F32, &CPU, fc).unwrap();
    let ys = layer.forward(&Tensor::ones((1, 3), DType::F32, &CPU).unwrap());
    assert_eq!(ys.unwrap().to_vec2::<f32>().unwrap(), [[3.5, 11.75]]);
}

fn error(path: &Path) -> String {
    let Err(error) = Weights::open(path) else {
        panic!("{} was read", path.display());
    };
    let error = error.to_string();
    assert!(
        error.starts_with(&format!("weights {}", path.display())),
        "{error}"
    );
    error
}

// Formats

#[test]
fn one_file_or_its_folder() -> Result<()> {
    let folder = saved(&[("fc.weight", weight()?), ("fc.bias", bias()?)])?;
    loads(folder.path());
    loads(&folder.path().join("model.safetensors"));
    Ok(())
}

#[test]
fn shards_by_folder_or_index() -> Result<()> {
    let folder = tempdir()?;
    let path = |name: &str| folder.path().join(name);
    save(
        &path("model-00001-of-00002.safetensors"),
        &[("fc.weight", weight()?)],
    )?;
    save(
        &path("model-00002-of-00002.safetensors"),
        &[("fc.bias", bias()?)],
    )?;
    loads(folder.path());

    // An index decides which of the folder's files count.
    save(&path("older.safetensors"), &[("fc.bias", weight()?)])?;
    let index = r#"{"metadata": {"total_size": 32}, "weight_map": {
        "fc.weight": "model-00001-of-00002.safetensors", "fc.bias": "model-00002-of-00002.safetensors"}}"#;
    fs::write(path("model.safetensors.index.json"), index)?;
    loads(folder.path());
    loads(&path("model.safetensors.index.json"));
    Ok(())
}

/// Hubs keep a network in several dtypes and formats side by side, and trainers keep more.
#[test]
fn a_folder_with_several_copies_of_the_network() -> Result<()> {
    let good = [("fc.weight", weight()?), ("fc.bias", bias()?)];
    let other = [("fc.weight", bias()?)];
    for (network, others) in [
        (
            "model.safetensors",
            &["model.fp16.safetensors", "adapter.safetensors"][..],
        ),
        (
            "resnet18.safetensors",
            &["resnet18.bf16.safetensors", "resnet18.fp16.safetensors"],
        ),
        (
            "model.safetensors",
            &[
                "pytorch_model.bin",
                "training_args.bin",
                "._model.safetensors",
            ],
        ),
        ("resnet18.safetensors", &["._resnet18.safetensors"]),
    ] {
        let folder = tempdir()?;
        for name in others {
            save(&folder.path().join(name), &other)?;
        }
        save(&folder.path().join(network), &good)?;
        loads(folder.path());
    }
    for (network, others) in [
        (
            "pytorch_model.bin",
            &["training_args.bin", "optimizer.pt"][..],
        ),
        ("resnet18.pth", &["resnet18.fp16.pth"]),
    ] {
        let folder = tempdir()?;
        for name in others {
            save(&folder.path().join(name), &other)?;
        }
        fs::copy(fixture("state.pth"), folder.path().join(network))?;
        loads(folder.path());
    }
    Ok(())
}

/// A name with dots says no dtype.
#[test]
fn a_folder_with_a_file_for_each_part() -> Result<()> {
    let folder = tempdir()?;
    save(
        &folder.path().join("fc.safetensors"),
        &[("fc.weight", weight()?)],
    )?;
    save(
        &folder.path().join("fc.bias.safetensors"),
        &[("fc.bias", bias()?)],
    )?;
    loads(folder.path());
    Ok(())
}

/// An index in another dtype beside the one of the usual name.
#[test]
fn a_folder_with_several_indices() -> Result<()> {
    let folder = saved(&[("fc.weight", weight()?), ("fc.bias", bias()?)])?;
    let path = |name: &str| folder.path().join(name);
    fs::rename(path("model.safetensors"), path("a.safetensors"))?;
    save(&path("b.safetensors"), &[("fc.weight", bias()?)])?;
    for (index, shard) in [
        ("model.safetensors.index.json", "a.safetensors"),
        ("model.fp16.safetensors.index.json", "b.safetensors"),
    ] {
        fs::write(
            path(index),
            format!(r#"{{"weight_map": {{"x": "{shard}"}}}}"#),
        )?;
    }
    loads(folder.path());
    Ok(())
}

#[test]
fn the_content_of_a_file() -> Result<()> {
    let folder = saved(&[("fc.weight", weight()?), ("fc.bias", bias()?)])?;
    for file in [
        folder.path().join("model.safetensors"),
        fixture("state.pth"),
    ] {
        let weights = Weights::from_bytes(fs::read(file)?)?;
        weights.build(DType::F32, &CPU, fc)?;
    }
    for bytes in [&b""[..], b"PK", b"{}", &[0x80, 2, 0x8a, 10]] {
        let error = Weights::from_bytes(bytes).err().unwrap().to_string();
        assert!(error.starts_with("weights in memory: "), "{error}");
    }
    Ok(())
}

#[test]
fn weights_and_networks_can_be_written_for_debugging() -> Result<()> {
    let folder = saved(&[("fc.weight", weight()?), ("fc.bias", bias()?)])?;
    let weights = Weights::open(folder.path())?;
    let expected = format!("Weights {{ path: {:?}, tensors: 2, .. }}", folder.path());
    assert_eq!(format!("{weights:?}"), expected);
    for (model, expected) in [
        (Model::ResNet18, "ResNet { .. }"),
        (Model::DenseNet121, "DenseNet { .. }"),
        (Model::InceptionV3, "InceptionV3 { .. }"),
    ] {
        let vb = VarBuilder::zeros(DType::F32, &CPU);
        let network = model.build(1, &Pooling::Soft, vb)?;
        assert_eq!(format!("{network:?}"), expected);
        let error = model.load("lost", 1, &Pooling::Soft, DType::F32, &CPU);
        assert!(error.unwrap_err().to_string().contains("lost"));
    }
    Ok(())
}

#[test]
fn what_pytorch_saves() -> Result<()> {
    loads(&fixture("state.pth"));
    // Under "state_dict", beside other things.
    loads(&fixture("checkpoint.pth"));
    let folder = tempdir()?;
    fs::copy(
        fixture("state.pth"),
        folder.path().join("pytorch_model.bin"),
    )?;
    loads(folder.path());
    Ok(())
}

// Names

#[test]
fn prefix_of_data_parallel_training_goes() -> Result<()> {
    let folder = saved(&[("module.fc.weight", weight()?), ("module.fc.bias", bias()?)])?;
    loads(folder.path());
    Ok(())
}

/// What compilers, trainers and networks around the network put before its names.
#[test]
fn what_is_put_before_every_name_goes() -> Result<()> {
    for prefix in [
        "module.module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model.",
        "backbone.",
        "model.backbone.",
        "model.module.",
        "model._orig_mod.",
        "module.model.",
        "network.",
        "net.",
    ] {
        let [weight_name, bias_name] = ["weight", "bias"].map(|name| format!("{prefix}fc.{name}"));
        let folder = saved(&[(&weight_name, weight()?), (&bias_name, bias()?)])?;
        loads(folder.path());
    }
    Ok(())
}

/// A network that has such a part itself finds it.
#[test]
fn a_part_of_that_name_is_found_by_its_whole_name() -> Result<()> {
    let folder = saved(&[("model.fc.weight", weight()?), ("model.fc.bias", bias()?)])?;
    let weights = Weights::open(folder.path())?;
    weights.build(DType::F32, &CPU, |vb| fc(vb.pp("model")))?;
    weights.build(DType::F32, &CPU, fc)?;
    let names: Vec<_> = weights.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, ["model.fc.bias", "model.fc.weight"]);
    Ok(())
}

/// Training scripts keep other parts beside the network: they are what does not fit, not everything.
#[test]
fn parts_beside_the_network_are_unexpected() -> Result<()> {
    let folder = saved(&[
        ("model.fc.weight", weight()?),
        ("model.fc.bias", bias()?),
        ("criterion.weight", bias()?),
    ])?;
    let weights = Weights::open(folder.path())?;
    let error = weights.build(DType::F32, &CPU, fc).err().unwrap();
    let error = error.to_string();
    assert!(
        error.ends_with("network\n  unexpected: criterion.weight [2]"),
        "{error}"
    );
    Ok(())
}

#[test]
fn counters_of_batches_are_left_out() -> Result<()> {
    let count = Tensor::new(3i64, &CPU)?;
    let folder = saved(&[
        ("fc.weight", weight()?),
        ("fc.bias", bias()?),
        ("bn1.num_batches_tracked", count),
    ])?;
    loads(folder.path());
    Ok(())
}

#[test]
fn dense_layers_get_their_present_names() -> Result<()> {
    let layer = "features.denseblock1.denselayer2";
    let names = [
        "norm.1.running_mean",
        "conv.1.weight",
        "norm.2.bias",
        "conv.2.weight",
    ];
    let stays = ["features.norm5.weight", "features.conv.1.weight"];
    let folder = tempdir()?;
    let all: HashMap<_, _> = names
        .map(|name| format!("{layer}.{name}"))
        .into_iter()
        .chain(stays.map(String::from))
        .map(|name| (name, bias().unwrap()))
        .collect();
    candle_core::safetensors::save(&all, folder.path().join("model.safetensors"))?;
    let weights = Weights::open(folder.path())?;
    let mut expected = [
        "norm1.running_mean",
        "conv1.weight",
        "norm2.bias",
        "conv2.weight",
    ]
    .map(|name| format!("{layer}.{name}"))
    .to_vec();
    expected.extend(stays.map(String::from));
    expected.sort();
    let found: Vec<_> = weights
        .tensors()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(found, expected);
    Ok(())
}

#[test]
fn no_name_twice() -> Result<()> {
    let folder = saved(&[("fc.bias", bias()?), ("module.fc.bias", bias()?)])?;
    let error = Weights::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("a second tensor \"fc.bias\""), "{error}");
    Ok(())
}

// Dtypes

#[test]
fn any_dtype_of_file_and_of_computation() -> Result<()> {
    // A third is another number in each.
    let third = Tensor::new(&[1f32 / 3.], &CPU)?;
    for stored in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let folder = saved(&[("x", third.to_dtype(stored)?)])?;
        let weights = Weights::open(folder.path())?;
        for computed in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            let x = weights.var_builder(computed, &CPU).get(1, "x")?;
            assert_eq!(x.dtype(), computed);
            let expected = third.to_dtype(stored)?.to_dtype(computed)?;
            let difference = (x - expected)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            assert_eq!(difference, [0.0], "{stored:?} {computed:?}");
        }
    }
    Ok(())
}

#[test]
fn a_network_computes_in_half_precision() -> Result<()> {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &CPU);
    let network = Model::ResNet18.build(4, &Pooling::Soft, vb)?;
    let folder = tempdir()?;
    let file = folder.path().join("resnet18.safetensors");
    variables.save(&file)?;

    let images = Tensor::rand(-2f32, 2., (1, 3, 64, 64), &CPU)?;
    let expected = network.forward_t(&images, false)?;
    for (dtype, tolerance) in [(DType::F32, 0.0), (DType::F16, 0.02)] {
        let network = Model::ResNet18.load(&file, 4, &Pooling::Soft, dtype, &CPU)?;
        let logits = network.forward_t(&images.to_dtype(dtype)?, false)?;
        assert_eq!(logits.dtype(), dtype);
        let difference = (logits.to_dtype(DType::F32)? - &expected)?
            .abs()?
            .max_all()?;
        let scale = expected.abs()?.max_all()?.to_scalar::<f32>()?;
        let difference = difference.to_scalar::<f32>()?;
        assert!(
            difference <= tolerance * scale,
            "{dtype:?}: {difference} of {scale}"
        );
    }
    Ok(())
}

// What does not fit

#[test]
fn every_misfit_is_listed() -> Result<()> {
    let folder = saved(&[
        ("fc.weight", weight()?.t()?.contiguous()?),
        ("head.weight", weight()?),
        ("head.bias", bias()?),
    ])?;
    let weights = Weights::open(folder.path())?;
    let network = |vb: VarBuilder| Ok((fc(vb.clone())?, linear(4, 1, vb.pp("last"))?));
    let error = weights
        .build(DType::F32, &CPU, network)
        .err()
        .unwrap()
        .to_string();
    let expected = format!(
        "weights {}: they do not fit the network
  missing: fc.bias [2]
  of another shape: fc.weight is [3, 2], expected [2, 3]
  missing: last.bias [1]
  missing: last.weight [1, 4]
  unexpected: head.bias [2]
  unexpected: head.weight [2, 3]",
        folder.path().display()
    );
    assert_eq!(error, expected);
    Ok(())
}

#[test]
fn a_file_of_another_network_is_refused_with_its_number_of_classes() -> Result<()> {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &CPU);
    let model = Model::ResNet18;
    model.build(4, &Pooling::Soft, vb)?;
    let folder = tempdir()?;
    let file = folder.path().join("resnet18.safetensors");
    variables.save(&file)?;
    assert_eq!(
        Weights::open(&file)?
            .shape(model.classifier())
            .unwrap()
            .dims(),
        [4, 512]
    );

    // SoftPool has no weights: any pooling fits.
    model.load(&file, 4, &Pooling::Original, DType::F32, &CPU)?;
    let error = model
        .load(&file, 7, &Pooling::Soft, DType::F32, &CPU)
        .err()
        .unwrap()
        .to_string();
    assert_eq!(error.lines().count(), 3, "{error}");
    assert!(
        error.contains("fc.weight is [4, 512], expected [7, 512]"),
        "{error}"
    );

    let deeper = Model::ResNet34.load(&file, 4, &Pooling::Soft, DType::F32, &CPU);
    let error = deeper.err().unwrap().to_string();
    // 8 further blocks with 2 convolutions and 2 batch norms of 4 tensors.
    assert_eq!(error.matches("missing: ").count(), 8 * 2 * 5, "{error}");
    assert_eq!(error.lines().count(), 1 + 8 * 2 * 5, "{error}");
    Ok(())
}

#[test]
fn inception_loads_with_and_without_its_auxiliary_head() -> Result<()> {
    let pooling = Pooling::Original;
    for aux in [false, true] {
        let variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &CPU);
        match aux {
            false => InceptionV3::new(3, &pooling, vb)?,
            true => InceptionV3::with_aux(3, &pooling, vb)?,
        };
        let folder = tempdir()?;
        let file = folder.path().join("inception_v3.safetensors");
        variables.save(&file)?;
        assert_eq!(
            Weights::open(&file)?.shape("AuxLogits.fc.bias").is_some(),
            aux
        );
        Model::InceptionV3.load(&file, 3, &pooling, DType::F32, &CPU)?;
    }
    Ok(())
}

#[test]
fn one_misfit_without_the_check() -> Result<()> {
    let folder = saved(&[("fc.weight", weight()?)])?;
    let vb = Weights::open(folder.path())?.var_builder(DType::F32, &CPU);
    let error = vb.get((3, 3), "fc.weight").unwrap_err().to_string();
    assert!(
        error.contains("\"fc.weight\" has shape [2, 3], expected [3, 3]"),
        "{error}"
    );
    let error = vb.get(2, "fc.bias").unwrap_err().to_string();
    assert!(error.contains("no tensor \"fc.bias\""), "{error}");
    Ok(())
}

// Files that are none

#[test]
fn a_file_cut_short_anywhere() -> Result<()> {
    let folder = saved(&[("fc.weight", weight()?), ("fc.bias", bias()?)])?;
    let cut = folder.path().join("cut");
    for whole in [
        folder.path().join("model.safetensors"),
        fixture("state.pth"),
        fixture("checkpoint.pth"),
    ] {
        let bytes = fs::read(whole)?;
        for length in (0..bytes.len()).step_by(7) {
            fs::write(&cut, &bytes[..length])?;
            error(&cut);
        }
    }
    Ok(())
}

/// The length of its header comes first, whatever that looks like.
#[test]
fn a_safetensors_file_that_begins_as_an_archive() -> Result<()> {
    let weight = "\"fc.weight\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}";
    for length in [0x4b50, 0x008a_0280] {
        let header = format!("{{{weight}{}}}", " ".repeat(length - 2 - weight.len()));
        assert_eq!(header.len(), length);
        let mut file = (length as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend([0; 4]);
        let weights = Weights::from_bytes(file)?;
        assert_eq!(weights.tensors().count(), 1);
    }
    Ok(())
}

/// The same holder again and again, which would take the square of the name's length to read.
#[test]
fn a_name_of_many_holders() -> Result<()> {
    let name = format!("{}weight", "net.".repeat(250_000));
    let folder = saved(&[(&name, weight()?)])?;
    let weights = Weights::open(folder.path())?;
    let found = weights
        .var_builder(DType::F32, &CPU)
        .get_unchecked("weight")?;
    assert_eq!(found.dims(), weight()?.dims());
    Ok(())
}

#[test]
fn a_file_of_another_kind() -> Result<()> {
    let folder = tempdir()?;
    let file = folder.path().join("model.safetensors");
    for (content, problem) in [
        (
            &b"<!DOCTYPE html><html>not found</html>"[..],
            "not a whole safetensors or PyTorch file",
        ),
        (&[0xff; 64], "not a whole safetensors or PyTorch file"),
        (b"\x02\0\0\0\0\0\0\0{}", "no tensors"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "before 1.6"),
        (b"PK\x03\x04 and so on", "not a whole PyTorch file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "not a whole safetensors",
        ),
    ] {
        fs::write(&file, content)?;
        let error = error(&file);
        assert!(error.contains(problem), "{error}");
    }
    Ok(())
}

#[test]
fn a_path_to_nothing() -> Result<()> {
    let folder = tempdir()?;
    error(&folder.path().join("model.safetensors"));
    assert!(error(folder.path()).contains("no safetensors file and 0 PyTorch files"));
    for name in ["a.pth", "b.pth"] {
        fs::copy(fixture("state.pth"), folder.path().join(name))?;
    }
    assert!(error(folder.path()).contains("2 PyTorch files"));
    Ok(())
}

#[test]
fn an_index_that_leads_nowhere() -> Result<()> {
    let folder = tempdir()?;
    let index = folder.path().join("model.safetensors.index.json");
    for (content, problem) in [
        ("{", "EOF"),
        ("[]", "weight_map"),
        (r#"{"weight_map": {"x": 1}}"#, "1 is not the name of a file"),
        (
            r#"{"weight_map": {"x": "../x.safetensors"}}"#,
            "beside the index",
        ),
    ] {
        fs::write(&index, content)?;
        let error = error(&index);
        assert!(error.contains(problem), "{error}");
    }
    fs::write(&index, r#"{"weight_map": {"x": "lost.safetensors"}}"#)?;
    let error = Weights::open(&index).err().unwrap().to_string();
    assert!(error.contains("lost.safetensors"), "{error}");
    Ok(())
}

#[test]
fn a_size_of_zero_hides_no_sizes_that_cannot_be_counted() {
    let header = br#"{"x":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], header].concat();
    let error = Weights::from_bytes(bytes).err().unwrap().to_string();
    assert!(error.contains("tensor \"x\" of shape"), "{error}");
    assert!(error.contains("too large"), "{error}");
}
