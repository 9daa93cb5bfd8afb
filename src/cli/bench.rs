use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::{Common, open};
use crate::data::{Batch, Dataset, Sampler, TokenizedDataset};
use crate::device::{ComputeType, Device, with_backend};
use crate::error::{Error, Result};
use crate::kernels;
use crate::model::check_compute_type;
use crate::zo::perturbation::{Perturb, step_seed};

/// Time the steps of a recipe, or the packed matrix product
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["config", "matmul"]))]
pub struct BenchArgs {
    /// Time ± steps of this recipe; nothing is written
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    recipe: open::RecipeArgs,
    /// Steps to time, after one that is not counted
    #[arg(long, default_value_t = 5)]
    steps: u64,
    /// Sweep the product of activations with a packed 4-bit weight
    #[arg(long)]
    matmul: bool,
}

pub fn run(args: &BenchArgs, common: &Common) -> Result<()> {
    match &args.config {
        Some(config) => steps(args, config, common),
        None => matmul(common),
    }
}

fn steps(args: &BenchArgs, config: &std::path::Path, common: &Common) -> Result<()> {
    let console = common.console();
    let config = open::recipe(config, &args.recipe, None, common)?;
    let device = config.device.resolve()?;
    let clock = Instant::now();
    let checkpoint = open::checkpoint(&config.model, console)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let mut model = open::model(&checkpoint, &device, Some(config.dtype), console)?;
    let load_seconds = clock.elapsed().as_secs_f64();
    let train = config.data.train.as_ref();
    let train = train.ok_or_else(|| Error::invalid("no training data", "set data.train, or give --data"))?;
    let limits = open::limits(&checkpoint, Some(&config.data));
    let data = TokenizedDataset::new(&Dataset::read(train)?.rows, &config.data.task()?, &tokenizer, limits)?;
    let mut sampler = Sampler::new(config.seed, data.examples.len());
    let estimator = config.train.estimator();
    let (mut seconds, mut tokens) = (Vec::new(), 0);
    for step in 0..=args.steps {
        let rows = sampler.batch(step * config.train.batch_size as u64, config.train.batch_size);
        let batch = Batch::new(data.objective, rows.iter().map(|&i| &data.examples[i]));
        let clock = Instant::now();
        let outcome =
            estimator.estimate(step_seed(config.seed, step), config.train.learning_rate, &mut |noise| {
                let log_probs = model.log_probs((&batch).into(), &batch.targets, Perturb::BothWays(noise))?;
                Ok(batch.losses(&log_probs))
            })?;
        let noise = crate::zo::perturbation::Noise {
            kind: config.train.perturbation,
            mode: config.train.scale_mode,
            seed: step_seed(config.seed, step),
            probe: 0,
            coefficient: outcome.probes.first().map_or(0.0, |p| p.coefficient),
        };
        model.step(noise)?;
        if step > 0 {
            seconds.push(clock.elapsed().as_secs_f64());
            tokens += batch.tokens.len();
        }
    }
    let total: f64 = seconds.iter().sum();
    seconds.sort_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN);
    let report = json!({
        "device": device.to_string(),
        "step_seconds": median,
        "step_seconds_min": seconds.first(),
        "tokens_per_batch": tokens as f64 / args.steps as f64,
        "tokens_per_second": 2.0 * f64::from(config.train.probes) * tokens as f64 / total,
        "load_seconds": load_seconds,
        "peak_bytes": peak_bytes(),
    });
    console.result(&report, || {
        format!(
            "{median:.3} s per step of {:.0} tokens, loaded in {load_seconds:.2} s, peak memory {} MB",
            tokens as f64 / args.steps as f64,
            peak_bytes().map_or("?".to_string(), |bytes| (bytes / 1_000_000).to_string())
        )
    })
}

fn matmul(common: &Common) -> Result<()> {
    let device = open::device(common)?;
    let mut rows = Vec::new();
    for (out, input) in [(4096, 4096), (1536, 576), (576, 1536)] {
        for tokens in [1, 16, 64, 256, 1024] {
            let seconds = time_matmul(&device, common.dtype.unwrap_or_default(), [tokens, out, input])?;
            let gflops = 4.0 * (tokens * out * input) as f64 / seconds / 1e9;
            rows.push(json!({ "tokens": tokens, "out_features": out, "in_features": input, "bits": 4,
                "group_size": 64, "seconds": seconds, "gflops": gflops }));
        }
    }
    let dtype = common.dtype.unwrap_or_default();
    let report = json!({ "device": device.to_string(), "dtype": dtype, "matmul": rows });
    common.console().result(&report, || {
        let lines = rows.iter().map(|row| {
            format!(
                "{} × {} × {}: {:.1} GFLOP/s",
                row["tokens"],
                row["out_features"],
                row["in_features"],
                row["gflops"].as_f64().unwrap_or(0.0)
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}

/// The best of some runs, in seconds.
fn time_matmul(device: &Device, dtype: ComputeType, sizes: [usize; 3]) -> Result<f64> {
    check_compute_type(device, dtype)?;
    with_backend!(device, |B, device| kernels::bench::time_linear::<B>(sizes, dtype, &device))
}

/// The most memory this process has held, where the system tells.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}
