//! The digit network with the weights that ship reads the samples that ship.

#[path = "../examples/classify/digit.rs"]
mod digit;

use anyhow::{Context, Result};
use candle_core::{DType, Device, ModuleT, Tensor};
use candle_softpool::models::{digits::Digits, Weights};
use candle_softpool::PoolingMethod;

const EXPECTED: &str = include_str!("../examples/classify/samples/expected.txt");

#[test]
fn every_sample_is_read_as_what_it_shows() -> Result<()> {
    // Relative to the package, where Cargo runs tests, also those of other targets.
    let weights = Weights::open("examples/classify/weights/digits-soft.safetensors")?;
    let network = weights.build(DType::F32, &Device::Cpu, |vb| {
        Digits::new(10, PoolingMethod::Soft, vb)
    })?;
    for line in EXPECTED.lines() {
        let (name, class) = line.split_once(' ').context("a name and a class")?;
        let image = image::open(format!("examples/classify/samples/{name}"))?;
        let shape = (1, 1, digit::SIZE, digit::SIZE);
        let image = Tensor::from_vec(digit::ink(&image), shape, &Device::Cpu)?;
        let found = network.forward_t(&image, false)?.argmax(1)?;
        assert_eq!(found.to_vec1::<u32>()?, [class.parse::<u32>()?], "{name}");
    }
    Ok(())
}
