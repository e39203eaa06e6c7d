//! Where the weights are, and what their file says about itself.

use crate::args::{Args, Network};
use anyhow::{bail, Context, Result};
use candle_softpool::models::{Model, Pooling};
use hf_hub::api::sync::ApiBuilder;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The file or folder that the command line asks for.
pub fn path(args: &Args) -> Result<PathBuf> {
    match (&args.weights, args.model) {
        (Some(weights), _) => match weights.strip_prefix("hub:") {
            Some(name) => from_hub(name),
            None => Ok(weights.into()),
        },
        (None, Network::Digits) => shipped(args.pool.as_ref().unwrap_or(&Pooling::Soft)),
        (None, Network::ImageNet(model)) => {
            let example = match model {
                // torchvision publishes none for these.
                Model::ResNet200 | Model::ResNeXt101_32x4d => String::new(),
                _ => format!(", for example hub:timm/{model}.tv_in1k"),
            };
            bail!("{model} needs --weights: a file, a folder, or hub:OWNER/NAME{example}")
        }
    }
}

fn shipped(pool: &Pooling) -> Result<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(
        "examples/classify/weights/digits-{pool}.safetensors"
    ));
    if !file.is_file() {
        bail!(
            "no weights ship for {pool} pooling, only for soft, max and avg; train some with \
             `cargo run --release --example train -- --pool {pool} --out FILE` and give --weights FILE"
        );
    }
    Ok(file)
}

/// `OWNER/NAME`, or `OWNER/NAME/FILE`, from the hub or the cache of earlier downloads.
fn from_hub(name: &str) -> Result<PathBuf> {
    let parts: Vec<&str> = name.splitn(3, '/').collect();
    let (model, file) = match parts[..] {
        [owner, name] => (format!("{owner}/{name}"), "model.safetensors"),
        [owner, name, file] => (format!("{owner}/{name}"), file),
        _ => bail!("--weights hub:{name}: expected hub:OWNER/NAME or hub:OWNER/NAME/FILE"),
    };
    let get = || {
        ApiBuilder::from_env()
            .build()?
            .model(model.clone())
            .get(file)
    };
    get().with_context(|| {
        format!(
            "cannot get {file} of {model} from the Hugging Face hub; without a network, fetch \
             https://huggingface.co/{model}/resolve/main/{file} by hand and give its path to --weights"
        )
    })
}

/// The metadata of a safetensors file; none of any other file.
pub fn metadata(file: &Path) -> HashMap<String, String> {
    let bytes = std::fs::read(file).unwrap_or_default();
    match safetensors::SafeTensors::read_metadata(&bytes) {
        Ok((_, header)) => header.metadata().clone().unwrap_or_default(),
        Err(_) => HashMap::new(),
    }
}
