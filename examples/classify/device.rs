//! Where networks run.

use candle_core::Device;
use clap::ValueEnum;

#[derive(Clone, Copy, ValueEnum)]
pub enum DeviceName {
    Auto,
    Cpu,
    Cuda,
    Metal,
}

impl DeviceName {
    pub fn device(self) -> anyhow::Result<Device> {
        use anyhow::Context;
        use candle_core::utils::{cuda_is_available, metal_is_available};
        let cuda = || Device::new_cuda(0).context("no CUDA device (built with --features cuda?)");
        let metal =
            || Device::new_metal(0).context("no Metal device (built with --features metal?)");
        match self {
            Self::Cuda => cuda(),
            Self::Metal => metal(),
            Self::Auto if cuda_is_available() => cuda(),
            Self::Auto if metal_is_available() => metal(),
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
        }
    }
}
