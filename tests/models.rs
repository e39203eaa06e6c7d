//! The networks: logits against torchvision's in float64, other pooling, training, and inputs that are refused.

use anyhow::Result;
use candle_core::{DType, Device, ModuleT, Shape, Tensor, Var};
use candle_nn::loss::cross_entropy;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{AdamW, Init, Optimizer, VarBuilder};
use candle_softpool::models::densenet::{self, DenseNet};
use candle_softpool::models::inception::InceptionV3;
use candle_softpool::models::resnet::{self, ResNet};
use candle_softpool::models::{Model, Network, Pooling};
use candle_softpool::{Gradient, PoolingMethod, SoftPool2d};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

const CPU: Device = Device::Cpu;
const CLASSES: usize = 10;
const POOLINGS: [Pooling; 2] = [Pooling::Original, Pooling::Soft];

/// Numbers in [-0.5, 0.5) by the integer arithmetic of `fixtures/make_models.py`.
fn uniform(name: &str, count: usize, scale: f32, shift: f32) -> Vec<f32> {
    let mix = |seed: u32, byte| (seed ^ u32::from(byte)).wrapping_mul(16777619);
    let seed = name.bytes().fold(2166136261, mix);
    let mut values = vec![0f32; count];
    for (i, value) in (0u32..).zip(&mut values) {
        let mut x = (i ^ seed).wrapping_mul(0x9E3779B1);
        x ^= x >> 15;
        x = x.wrapping_mul(0x85EBCA6B) >> 8;
        *value = (x as f32 * (1.0 / 16777216.0) - 0.5 + shift) * scale;
    }
    values
}

fn weight(name: &str, dims: &[usize]) -> Vec<f32> {
    let count = dims.iter().product();
    if dims.len() > 1 {
        let inputs: usize = dims[1..].iter().product();
        let scale = 2.0 * (6.0 / inputs as f64).sqrt();
        return uniform(name, count, scale as f32, 0.0);
    }
    if name.ends_with(".bias") || name.ends_with(".running_mean") {
        return uniform(name, count, 0.5, 0.0);
    }
    let damped = name.ends_with("bn3.weight");
    uniform(name, count, if damped { 0.25 } else { 1.0 }, 1.0)
}

/// Variables by that formula, each made once.
#[derive(Clone, Default)]
struct Formula(Arc<Mutex<HashMap<String, Var>>>);

impl Formula {
    fn vb(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, CPU)
    }

    fn variables(&self) -> HashMap<String, Var> {
        self.0.lock().unwrap().clone()
    }
}

impl SimpleBackend for Formula {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut made = self.0.lock().unwrap();
        if let Some(var) = made.get(name) {
            assert_eq!(var.shape(), &shape, "{name}");
            return Ok(var.as_tensor().clone());
        }
        let values = Tensor::from_vec(weight(name, shape.dims()), shape, device)?;
        let var = Var::from_tensor(&values.to_dtype(dtype)?)?;
        made.insert(name.to_string(), var.clone());
        Ok(var.as_tensor().clone())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Images of numbers in [-2, 2).
fn images(batch: usize, height: usize, width: usize) -> Result<Tensor> {
    let values = uniform("images", batch * 3 * height * width, 4.0, 0.0);
    Ok(Tensor::from_vec(values, (batch, 3, height, width), &CPU)?)
}

fn values(xs: &Tensor) -> Result<Vec<f64>> {
    Ok(xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// The largest difference, in units of the largest expected value.
fn difference(found: &Tensor, expected: &Tensor) -> Result<f64> {
    assert_eq!(found.dims(), expected.dims());
    let largest =
        |xs: &Tensor| Ok::<_, anyhow::Error>(values(&xs.abs()?)?.into_iter().fold(0., f64::max));
    // `max` would pass over a NaN.
    assert!(values(found)?.iter().all(|x| x.is_finite()));
    Ok(largest(&(found - expected)?)? / largest(expected)?)
}

fn expected(name: &str) -> Result<Tensor> {
    let file = include_bytes!("fixtures/models.safetensors");
    let all = candle_core::safetensors::load_buffer(file, &CPU)?;
    Ok(all[name].clone())
}

#[track_caller]
fn agrees(found: &Tensor, name: &str) {
    let difference = difference(found, &expected(name).unwrap()).unwrap();
    println!("{name}: {difference:e}");
    assert!(difference < 4e-6, "{name}: {difference:e} of its scale");
}

// PyTorch

/// A test for every network, with its own pooling and with SoftPool.
macro_rules! as_in_torchvision {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() -> Result<()> {
            let name = stringify!($name);
            let formula = Formula::default();
            for pooling in POOLINGS {
                let network = name.parse::<Model>()?.build(CLASSES, &pooling, formula.vb())?;
                let size = if name == "inception_v3" { (128, 112) } else { (64, 72) };
                let logits = network.forward_t(&images(2, size.0, size.1)?, false)?;
                agrees(&logits, &format!("{name}.{pooling}"));
            }
            Ok(())
        })+

        #[test]
        fn every_network_has_a_test() {
            let tested = HashSet::from([$(stringify!($name)),+]);
            assert_eq!(tested, Model::ALL.iter().map(|model| model.name()).collect());
        }
    };
}

as_in_torchvision! {
    resnet18 resnet34 resnet50 resnet101 resnet152 resnet200 resnext50_32x4d resnext101_32x4d resnext101_32x8d
    resnext101_64x4d wide_resnet50_2 wide_resnet101_2
    densenet121 densenet161 densenet169 densenet201 inception_v3
}

#[test]
fn expected_logits_tell_the_poolings_apart() -> Result<()> {
    for model in Model::ALL {
        let [original, soft] =
            ["original", "soft"].map(|pooling| expected(&format!("{model}.{pooling}")).unwrap());
        assert!(difference(&soft, &original)? > 0.05, "{model}");
    }
    Ok(())
}

#[test]
fn features_as_in_torchvision() -> Result<()> {
    let formula = Formula::default();
    for pooling in POOLINGS {
        let network = Model::ResNet18.build(CLASSES, &pooling, formula.vb())?;
        let images = images(2, 64, 72)?;
        let features = network.features_t(&images, false)?;
        agrees(&features, &format!("resnet18.{pooling}.features"));
        let logits = network.classify_t(&features, false)?;
        agrees(&logits, &format!("resnet18.{pooling}"));
    }
    Ok(())
}

#[test]
fn auxiliary_logits_as_in_torchvision() -> Result<()> {
    let formula = Formula::default();
    for pooling in POOLINGS {
        let network = InceptionV3::new(CLASSES, &pooling, formula.vb())?;
        let (logits, aux) = network.forward_with_aux(&images(1, 299, 299)?, false)?;
        agrees(&logits, &format!("inception_v3.{pooling}.large"));
        agrees(&aux.unwrap(), &format!("inception_v3.{pooling}.aux"));
    }
    Ok(())
}

// Pooling

#[test]
fn any_method_pools_where_soft_pool_does() -> Result<()> {
    let images = images(1, 75, 75)?;
    for (model, place) in [
        (Model::ResNet18, "maxpool."),
        (Model::DenseNet121, "features.pool0."),
        (Model::InceptionV3, "Mixed_5b.pool."),
    ] {
        let formula = Formula::default();
        for &method in PoolingMethod::ALL {
            let network = model.build(CLASSES, &Pooling::from(method), formula.vb())?;
            assert_eq!(network.forward_t(&images, false)?.dims(), [1, CLASSES]);
        }
        // The one method with variables has them beside the network's.
        assert!(formula
            .variables()
            .keys()
            .any(|name| name.starts_with(place)));
    }
    Ok(())
}

#[test]
fn layers_of_the_users_get_every_place() -> Result<()> {
    let places = Arc::new(Mutex::new(vec![]));
    let seen = places.clone();
    let pooling = Pooling::custom(move |place| {
        let windows = (place.kernel, place.stride, place.padding, place.channels);
        seen.lock().unwrap().push(windows);
        let pool = SoftPool2d::new(place.kernel).stride(place.stride);
        Ok(pool.padding(place.padding).gradient(Gradient::Exact))
    });
    let formula = Formula::default();
    let images = images(1, 75, 75)?;
    let logits = |pooling: &Pooling| {
        let network = Model::InceptionV3.build(CLASSES, pooling, formula.vb())?;
        network.forward_t(&images, false)
    };
    assert_eq!(
        difference(&logits(&pooling)?, &logits(&Pooling::Soft)?)?,
        0.0
    );

    let mut places = places.lock().unwrap();
    places.sort();
    let branches = [192, 256, 288, 768, 768, 768, 768, 1280, 2048].map(|c| (3, 1, 1, c));
    let reductions = [64, 192, 288, 768].map(|c| (3, 2, 0, c));
    assert_eq!(
        *places,
        [&branches[..], &reductions, &[(5, 3, 0, 768)]].concat()
    );
    Ok(())
}

#[test]
fn names_are_read_as_they_are_written() -> Result<()> {
    for &model in Model::ALL {
        assert_eq!(model.to_string().parse::<Model>()?, model);
    }
    for name in [
        "original",
        "soft",
        "max",
        "avg",
        "lp",
        "stochastic",
        "s3",
        "lip",
    ] {
        assert_eq!(name.parse::<Pooling>()?.to_string(), name);
    }
    Ok(())
}

// Training

/// Cross entropy of a batch before and after a step of AdamW on it.
fn step(formula: &Formula, network: &dyn Network, images: &Tensor) -> Result<(f32, f32)> {
    let labels: Vec<u32> = (0..images.dim(0)? as u32).collect();
    let labels = Tensor::new(labels, &CPU)?;
    let loss = || {
        // Inception's dropout, which only training has, would be noise on the loss.
        let logits = network.classify_t(&network.features_t(images, true)?, false)?;
        cross_entropy(&logits, &labels)
    };
    let variables = formula.variables().into_values().collect();
    let mut optimizer = AdamW::new_lr(variables, 1e-3)?;
    let before = loss()?;
    optimizer.backward_step(&before)?;
    Ok((before.to_scalar()?, loss()?.to_scalar()?))
}

#[track_caller]
fn learns(
    statistic: &str,
    size: usize,
    build: impl Fn(&Pooling, VarBuilder) -> candle_core::Result<Box<dyn Network>>,
) {
    for pooling in POOLINGS {
        let formula = Formula::default();
        let network = build(&pooling, formula.vb()).unwrap();
        let statistic = || formula.variables()[statistic].copy().unwrap();
        let initial = statistic();
        let images = images(3, size, size).unwrap();
        let (before, after) = step(&formula, network.as_ref(), &images).unwrap();
        println!("{pooling}: {before} {after}");
        assert!(
            after < 0.8 * before,
            "{pooling}: loss {before}, then {after}"
        );
        assert!(difference(&statistic(), &initial).unwrap() > 1e-3);
    }
}

#[test]
fn resnets_learn() {
    let basic = resnet::Config {
        depths: [1; 4],
        ..resnet::Config::RESNET18
    };
    learns("bn1.running_mean", 32, |pooling, vb| {
        Ok(Box::new(ResNet::new(&basic, 3, pooling, vb)?))
    });
}

#[test]
fn resnexts_learn() {
    let grouped = resnet::Config {
        depths: [1; 4],
        ..resnet::Config::RESNEXT50_32X4D
    };
    learns("bn1.running_mean", 32, |pooling, vb| {
        Ok(Box::new(ResNet::new(&grouped, 3, pooling, vb)?))
    });
}

#[test]
fn no_groups_are_an_error() {
    let config = resnet::Config {
        groups: 0,
        ..resnet::Config::RESNET50
    };
    let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let error = ResNet::new(&config, 3, &Pooling::Original, vb).err();
    let error = error.expect("an error").to_string();
    assert!(error.contains("0 groups, expected at least 1"), "{error}");
}

/// As in torchvision.
#[test]
fn basic_blocks_have_one_group_of_64() {
    for config in [
        resnet::Config {
            groups: 2,
            ..resnet::Config::RESNET18
        },
        resnet::Config {
            width: 128,
            ..resnet::Config::RESNET18
        },
    ] {
        let vb = VarBuilder::zeros(DType::F32, &CPU);
        let error = ResNet::new(&config, 10, &Pooling::Soft, vb);
        let error = error.err().unwrap().to_string();
        assert!(
            error.contains("basic blocks, expected one group of 64"),
            "{error}"
        );
    }
}

#[test]
fn densenets_learn() {
    let shallow = densenet::Config {
        depths: [2; 4],
        ..densenet::Config::DENSENET121
    };
    learns("features.norm0.running_mean", 64, |pooling, vb| {
        Ok(Box::new(DenseNet::new(&shallow, 3, pooling, vb)?))
    });
}

#[test]
fn inception_learns() {
    // Smaller images end as one cell, and batch norm over three values makes leaps of any step.
    learns("Mixed_7c.branch1x1.bn.running_mean", 107, |pooling, vb| {
        Model::InceptionV3.build(3, pooling, vb)
    });
}

#[test]
fn inception_drops_features_in_training() -> Result<()> {
    let network = InceptionV3::new(CLASSES, &Pooling::Soft, Formula::default().vb())?;
    let features = Tensor::ones((1, 2048, 1, 1), DType::F32, &CPU)?;
    let logits = |train| values(&network.classify_t(&features, train)?);
    assert_eq!(logits(false)?, logits(false)?);
    assert_ne!(logits(true)?, logits(false)?);
    Ok(())
}

#[test]
fn every_variable_has_a_gradient() -> Result<()> {
    let formula = Formula::default();
    let network = Model::ResNet18.build(3, &Pooling::Soft, formula.vb())?;
    let grads = network
        .forward_t(&images(2, 32, 32)?, true)?
        .sqr()?
        .sum_all()?
        .backward()?;
    for (name, variable) in formula.variables() {
        let statistic = name.contains("running_");
        assert_eq!(grads.get(&variable).is_some(), !statistic, "{name}");
    }
    Ok(())
}

// What is refused

#[test]
fn images_of_another_shape_are_refused() -> Result<()> {
    for (model, name, smallest) in [
        (Model::ResNet18, "ResNet", 1),
        (Model::DenseNet121, "DenseNet", 1),
        (Model::InceptionV3, "InceptionV3", 75),
    ] {
        let network = model.build(CLASSES, &Pooling::Soft, Formula::default().vb())?;
        for shape in [&[1, 1, 80, 80][..], &[3, 80, 80], &[1, 3, 80, smallest - 1]] {
            let xs = Tensor::zeros(shape, DType::F32, &CPU)?;
            let error = network.forward_t(&xs, false).unwrap_err().to_string();
            let message = format!("{name}: input of shape {shape:?}, expected (N, 3, H, W)");
            assert!(error.contains(&message), "{error}");
        }
    }
    Ok(())
}

#[test]
fn auxiliary_head_wants_large_images() -> Result<()> {
    let network = InceptionV3::with_aux(CLASSES, &Pooling::Soft, Formula::default().vb())?;
    let error = network
        .forward_with_aux(&images(1, 299, 280)?, false)
        .unwrap_err();
    assert!(error.to_string().contains("at least 299×299"), "{error}");
    Ok(())
}
