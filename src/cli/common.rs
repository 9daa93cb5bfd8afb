//! The flags that every command accepts.

use clap::Args;

use super::console::Console;
use crate::device::{ComputeType, DeviceSpec, DtypeSpec};

#[derive(Debug, Args)]
pub struct Common {
    /// Device: auto, cpu, wgpu[:n] or cuda[:n]
    #[arg(long, global = true, value_name = "DEVICE")]
    pub device: Option<DeviceSpec>,
    /// Type of the activations: auto, f32, f16 or bf16 [default: auto for recipes, else f32]
    #[arg(long, global = true, value_name = "DTYPE")]
    pub dtype: Option<DtypeSpec>,
    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log what the program does (-vv: in more detail)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Seed of all random numbers [default: 0]
    #[arg(long, global = true)]
    pub seed: Option<u64>,
}

impl Common {
    /// The device from `--device`.
    pub fn device(&self) -> DeviceSpec {
        self.device.unwrap_or_default()
    }

    /// The type from `--dtype`. The default is f32, so that results can be compared with those of other programs.
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
