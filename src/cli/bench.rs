use std::path::{Path, PathBuf};

use clap::Args;

use super::common::Common;
use super::progress::Reporter;
use super::recipe::RecipeArgs;
use crate::app::bench::{self, ShapeBench, matmul::MatmulBench};
use crate::checkpoint::ModelShape;
use crate::error::{Error, Result};
use crate::model::BlockInputs;
use crate::train::{MethodKind, ParameterKind, Parameters, TailBlocks, TrainConfig};

/// Time the training steps of a recipe or of a model's shape, or the packed matrix product
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["config", "shape", "matmul"]))]
pub struct BenchArgs {
    /// Time training steps of this recipe; nothing is written
    #[arg(long, value_name = "FILE", conflicts_with_all = ["shape", "matmul"])]
    config: Option<PathBuf>,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Time training steps on random packed weights of a known model's shape: tinyllama-1.1b, llama3.2-1b,
    /// llama2-7b, llama2-13b, qwen2.5-32b, llama3-70b, or tiny
    #[arg(long)]
    shape: Option<ModelShape>,
    /// Bits per weight of the shape
    #[arg(long, conflicts_with = "config", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=8))]
    bits: u32,
    /// Input features of the shape that share a scale
    #[arg(long, conflicts_with = "config", default_value_t = 128)]
    group_size: usize,
    /// Tokens per batch of the shape; with --matmul, the largest number of tokens
    #[arg(long, conflicts_with = "config", default_value_t = 1024)]
    tokens: usize,
    /// Tokens per sequence of the shape
    #[arg(long, conflicts_with = "config", default_value_t = 256)]
    seq_length: usize,
    /// Method of training of the shape's steps
    #[arg(long, conflicts_with = "config", default_value = "zo")]
    method: MethodKind,
    /// With --method exact: number of decoder blocks, counted from the last, that are trained
    #[arg(long, conflicts_with = "config", value_name = "N")]
    tail_blocks: Option<usize>,
    /// With --method exact: what is trained, as words between commas
    #[arg(long, conflicts_with = "config", default_value = "scales", value_delimiter = ',')]
    parameters: Vec<ParameterKind>,
    /// With --method exact on a card: where the inputs of the blocks are kept until the backward pass [default: in the
    /// card's memory where they fit, else in host memory]
    #[arg(long, conflicts_with = "config", value_name = "PLACE")]
    block_inputs: Option<BlockInputs>,
    /// Steps to time, after a first one that is not counted; with --shape, 0 scores one batch instead
    #[arg(long, default_value_t = 5)]
    steps: u64,
    /// Time products of activations with a packed 4-bit weight for several numbers of tokens, with the linears
    /// of --shape if it is given
    #[arg(long)]
    matmul: bool,
}

impl BenchArgs {
    /// Whether the seed matters. The products are timed with fixed numbers.
    pub fn is_seeded(&self) -> bool {
        !self.matmul
    }
}

pub fn run(args: &BenchArgs, common: &Common) -> Result<()> {
    if args.config.is_none() && args.recipe.is_given() {
        return Err(args.recipe.without_recipe());
    }
    let is_exact = args.method == MethodKind::Exact;
    let has_exact = args.tail_blocks.is_some() || args.block_inputs.is_some();
    if !is_exact && (has_exact || args.parameters != [ParameterKind::Scales]) {
        let what = "--tail-blocks, --parameters and --block-inputs belong to --method exact";
        return Err(Error::Usage(what.to_string()));
    }
    match (&args.config, args.shape) {
        _ if args.matmul => matmul(args, common),
        (Some(config), _) => steps(args, config, common),
        (None, Some(shape)) => shaped(args, shape, common),
        (None, None) => Err(Error::Usage("give --config, --shape or --matmul".to_string())),
    }
}

fn steps(args: &BenchArgs, config: &Path, common: &Common) -> Result<()> {
    let config = args.recipe.recipe(config, common)?;
    let reporter = Reporter::new(common.console());
    let times = reporter.through(|on_event| bench::recipe(&config, args.steps, on_event))?;
    let seconds = [times.step_seconds, times.tokens_per_second, times.load_seconds];
    common.console().result(&times, || text(seconds, times.peak_bytes))
}

fn shaped(args: &BenchArgs, shape: ModelShape, common: &Common) -> Result<()> {
    let bench = ShapeBench {
        shape,
        bits: args.bits,
        group_size: args.group_size,
        tokens: args.tokens,
        seq_length: args.seq_length,
        steps: args.steps,
        device: common.device(),
        dtype: common.dtype(),
        seed: common.seed(),
        train: TrainConfig {
            method: args.method,
            tail_blocks: args.tail_blocks.map_or(TailBlocks::All, TailBlocks::Last),
            parameters: Parameters::of(&args.parameters).map_err(Error::Usage)?,
            ..TrainConfig::default()
        },
        block_inputs: args.block_inputs,
    };
    let times = Reporter::new(common.console()).through(|on_event| bench::shape(&bench, on_event))?;
    let seconds = [times.step_seconds, times.tokens_per_second, times.load_seconds];
    common.console().result(&times, || text(seconds, times.peak_bytes))
}

fn text([step, tokens_per_second, load]: [f64; 3], peak: Option<u64>) -> String {
    let peak = peak.map_or("?".to_string(), |bytes| (bytes / 1_000_000).to_string());
    format!(
        "{step:.3} s per step, {tokens_per_second:.0} tokens/s, loaded in {load:.2} s, peak memory {peak} MB"
    )
}

fn matmul(args: &BenchArgs, common: &Common) -> Result<()> {
    let (device, dtype) = (common.device(), common.dtype());
    let bench = MatmulBench { shape: args.shape, tokens: args.tokens, device, dtype };
    let times = bench::matmul::matmul(&bench)?;
    common.console().result(&times, || {
        let lines = times.matmul.iter().map(|product| {
            let (out, input) = (product.out_features, product.in_features);
            let (path, gflops) = (product.path, product.gflops);
            format!("{} × {out} × {input} ({path}): {gflops:.1} GFLOP/s", product.tokens)
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}
