//! The flags that every command takes.

use clap::Args;

use super::console::Console;
use crate::device::{ComputeType, DeviceSpec, DtypeSpec};

#[derive(Debug, Args)]
pub struct Common {
    /// auto, cpu, wgpu[:n] or cuda[:n]
    #[arg(long, global = true, value_name = "DEVICE")]
    pub device: Option<DeviceSpec>,
    /// Arithmetic of activations: auto, f32, f16 or bf16 [default: auto where a recipe trains, else f32]
    #[arg(long, global = true, value_name = "DTYPE")]
    pub dtype: Option<DtypeSpec>,
    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log what happens (-vv: in detail)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Seed of everything random [default: 0]
    #[arg(long, global = true)]
    pub seed: Option<u64>,
}

impl Common {
    /// The device that `--device` names.
    pub fn device(&self) -> DeviceSpec {
        self.device.unwrap_or_default()
    }

    /// The type that `--dtype` asks for; by default f32, with which other programs' figures compare.
    pub fn dtype(&self) -> DtypeSpec {
        self.dtype.unwrap_or(DtypeSpec::Fixed(ComputeType::F32))
    }

    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }

    pub fn console(&self) -> Console {
        Console { json: self.json, quiet: self.quiet }
    }
}
