//! The network with its weights and the names of its classes.

use crate::args::{Args, DTypeName, Network};
use crate::imagenet::{self, ImageNet};
use crate::images::{Kind, Prepare};
use crate::say::say;
use crate::weights;
use anyhow::{bail, ensure, Context, Result};
use candle_core::{DType, Device, ModuleT, Tensor, D};
use candle_nn::ops::softmax;
use candle_softpool::models::{digits::Digits, Model, Pooling, Weights};
use candle_softpool::PoolingMethod;
use std::path::Path;

pub struct Classifier {
    network: Box<dyn ModuleT + Send + Sync>,
    pub prepare: Prepare,
    pub labels: Vec<String>,
    /// What runs, for the last line of a report.
    pub about: String,
    dtype: DType,
    device: Device,
}

impl Classifier {
    pub fn load(args: &Args) -> Result<Self> {
        let device = args.device.device()?;
        if matches!((args.dtype, &device), (DTypeName::Bf16, Device::Cpu)) {
            bail!("--dtype bf16: candle multiplies no bf16 matrices on the CPU; take f32 or f16");
        }
        let path = weights::path(args)?;
        match args.model {
            Network::Digits => Self::digits(args, &path, device),
            Network::ImageNet(model) => Self::imagenet(args, model, &path, device),
        }
    }

    fn digits(args: &Args, path: &Path, device: Device) -> Result<Self> {
        let weights = Weights::open(path)?;
        let metadata = weights::metadata(path);
        let trained = metadata.get("pooling").and_then(|name| name.parse().ok());
        let pooling = match (&args.pool, trained) {
            (None, trained) => trained.unwrap_or(PoolingMethod::Soft),
            (Some(pool), trained) => {
                let Ok(method) = pool.to_string().parse() else {
                    bail!("--pool {pool}: the digit network has no pooling of that name");
                };
                if trained.is_some_and(|trained| trained != method) {
                    let file = path.display();
                    say!("{file}: trained with another pooling than {method}: expect mistakes");
                }
                method
            }
        };
        let named = metadata
            .get("classes")
            .map(|names| names.split(',').map(String::from).collect());
        let labels = labels(
            args,
            named,
            weights.shape("classifier.weight").map(|s| s.dims()),
        )?;
        let dtype = args.dtype.into();
        let network = weights.build(dtype, &device, |vb| Digits::new(labels.len(), pooling, vb))?;
        let accuracy = metadata
            .get("accuracy")
            .map(|accuracy| format!(", accuracy {accuracy}"));
        let about = format!("digits, {pooling} pooling{}", accuracy.unwrap_or_default());
        Ok(Self {
            network: Box::new(network),
            prepare: Prepare {
                kind: Kind::Digit,
                orient: !args.no_orient,
            },
            labels,
            about,
            dtype,
            device,
        })
    }

    fn imagenet(args: &Args, model: Model, path: &Path, device: Device) -> Result<Self> {
        let pooling = args.pool.clone().unwrap_or(Pooling::Original);
        let weights = Weights::open(path)?;
        let classifier = weights.shape(model.classifier()).map(|shape| shape.dims());
        let named = match classifier {
            Some([1000, _]) | None => Some(imagenet::LABELS.lines().map(String::from).collect()),
            _ => None,
        };
        let labels = labels(args, named, classifier)?;
        let dtype = args.dtype.into();
        let network =
            weights.build(dtype, &device, |vb| model.build(labels.len(), &pooling, vb))?;
        Ok(Self {
            network: Box::new(network),
            prepare: Prepare {
                kind: Kind::ImageNet(ImageNet::of(model, args.resize)?),
                orient: !args.no_orient,
            },
            labels,
            about: format!("{model}, {pooling} pooling"),
            dtype,
            device,
        })
    }

    /// The probabilities of every class for every image.
    pub fn classify(&self, images: &[Tensor]) -> Result<Vec<Vec<f32>>> {
        let images = Tensor::stack(images, 0)?.to_dtype(self.dtype)?;
        let logits = self
            .network
            .forward_t(&images.to_device(&self.device)?, false)?;
        Ok(softmax(&logits.to_dtype(DType::F32)?, D::Minus1)?.to_vec2()?)
    }
}

/// The user's names, else those given, else numbers for the rows of the last layer.
fn labels(
    args: &Args,
    named: Option<Vec<String>>,
    classifier: Option<&[usize]>,
) -> Result<Vec<String>> {
    let rows = classifier.and_then(|dims| dims.first().copied());
    if let Some(file) = &args.labels {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("labels {}: cannot read them", file.display()))?;
        // Some editors begin a text with a mark of its byte order.
        let text = text.trim_start_matches('\u{feff}');
        let labels: Vec<String> = text.lines().map(String::from).collect();
        ensure!(
            rows.is_none_or(|rows| rows == labels.len()),
            "labels {}: {} names for the {} classes of the weights",
            file.display(),
            labels.len(),
            rows.unwrap_or(0)
        );
        return Ok(labels);
    }
    Ok(named.unwrap_or_else(|| (0..rows.unwrap_or(0)).map(|row| row.to_string()).collect()))
}
