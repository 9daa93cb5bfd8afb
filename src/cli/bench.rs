use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::{Common, open};
use crate::arch::ModelConfig;
use crate::checkpoint::{Checkpoint, Shape};
use crate::data::tokenized::{Candidate, TokenizedExample};
use crate::data::{Batch, Dataset, Load, Objective, Sampler, TokenizedDataset};
use crate::device::{ComputeType, host, pools, with_backend};
use crate::error::{Error, Result};
use crate::kernels::{self, Kernels};
use crate::model::memory::{Workload, plan};
use crate::model::{LanguageModel, Tables, compute_type};
use crate::train::TrainConfig;
use crate::zo::direction::{Direction, Move, Signs, step_seed};

/// Time the steps of a recipe or of a model's shape, or the packed matrix product
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["config", "shape", "matmul"]))]
pub struct BenchArgs {
    /// Time ± steps of this recipe; nothing is written
    #[arg(long, value_name = "FILE", conflicts_with_all = ["shape", "matmul"])]
    config: Option<PathBuf>,
    #[command(flatten)]
    recipe: open::RecipeArgs,
    /// Time ± steps on random packed weights of a known model's shape: tinyllama-1.1b, llama3.2-1b,
    /// llama2-7b, llama2-13b, qwen2.5-32b, llama3-70b, or tiny
    #[arg(long)]
    shape: Option<Shape>,
    /// Bits per weight of a shape
    #[arg(long, conflicts_with = "config", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=8))]
    bits: u32,
    /// Input features that share a scale, of a shape
    #[arg(long, conflicts_with = "config", default_value_t = 128)]
    group_size: usize,
    /// Tokens per batch of a shape; the most of a sweep
    #[arg(long, conflicts_with = "config", default_value_t = 1024)]
    tokens: usize,
    /// Tokens per sequence of a shape
    #[arg(long, conflicts_with = "config", default_value_t = 256)]
    seq_length: usize,
    /// Steps to time, after one that is not counted; of a shape, 0 scores one batch instead
    #[arg(long, default_value_t = 5)]
    steps: u64,
    /// Sweep the product of activations with a packed 4-bit weight, of the linears of --shape where one is
    /// given
    #[arg(long)]
    matmul: bool,
}

impl BenchArgs {
    /// Whether the seed matters: the sweep of products has fixed numbers.
    pub fn is_seeded(&self) -> bool {
        !self.matmul
    }
}

pub fn run(args: &BenchArgs, common: &Common) -> Result<()> {
    if args.config.is_none() && args.recipe.is_given() {
        return Err(Error::Usage("--set, --model and --data belong to a recipe: give --config".to_string()));
    }
    match (&args.config, args.shape) {
        _ if args.matmul => matmul(args, common),
        (Some(config), _) => steps(args, config, common),
        (None, Some(shape)) => shaped(args, shape, common),
        (None, None) => Err(Error::Usage("give --config, --shape or --matmul".to_string())),
    }
}

fn steps(args: &BenchArgs, config: &std::path::Path, common: &Common) -> Result<()> {
    let console = common.console();
    let config = open::recipe(config, &args.recipe, None, common)?;
    let device = config.device.resolve()?;
    let dtype = compute_type(&device, config.dtype)?;
    let clock = Instant::now();
    let checkpoint = open::checkpoint(&config.model, console)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let mut model = open::model(&checkpoint, &device, dtype, Tables::InFile, console)?;
    let load_seconds = clock.elapsed().as_secs_f64();
    let train = config.data.train.as_ref();
    let train = train.ok_or_else(|| Error::invalid("no training data", "set data.train, or give --data"))?;
    let limits = open::training_limits(&checkpoint, &config.data);
    let data = TokenizedDataset::new(&Dataset::read(train)?.rows, &config.data.task()?, &tokenizer, limits)?;
    let mut sampler = Sampler::new(config.seed, data.examples.len());
    let mut next = |step| {
        let rows = sampler.batch(step * config.train.batch_size as u64, config.train.batch_size);
        Batch::new(data.objective, rows.iter().map(|&i| &data.examples[i]))
    };
    let times = time_steps(model.as_mut(), &config.train, config.seed, args.steps, &mut next)?;
    let report = json!({
        "device": device.to_string(),
        "dtype": dtype,
        "step_seconds": times.median,
        "step_seconds_min": times.least,
        "tokens_per_batch": times.tokens / args.steps as f64,
        "tokens_per_second": times.tokens_per_second,
        "load_seconds": load_seconds,
        "peak_bytes": host::peak(),
        "allocated_bytes": pools::reserved(&device),
        "losses": times.losses,
    });
    console.result(&report, || times.text(load_seconds, host::peak()))
}

/// Steps, or with `--steps 0` one pass, on weights that are in no file.
fn shaped(args: &BenchArgs, shape: Shape, common: &Common) -> Result<()> {
    let console = common.console();
    if args.tokens == 0 || args.seq_length == 0 || args.group_size == 0 || ![2, 3, 4, 8].contains(&args.bits)
    {
        return Err(Error::invalid(
            "a shape needs tokens, a sequence length and a group size above 0, and 2, 3, 4 or 8 bits",
            "see `qzo bench --help`",
        ));
    }
    let device = open::device(common)?;
    let dtype = common.compute_type(&device)?;
    let checkpoint = Arc::new(Checkpoint::synthetic(shape, args.bits, args.group_size));
    let batch = made_up_batch(args.tokens, args.seq_length, checkpoint.config().vocab_size as u32);
    let (train, evaluation) = match args.steps {
        0 => (Load::default(), batch.load()),
        _ => (batch.load(), Load::default()),
    };
    let workload = Workload { train, evaluation, reads_files: false };
    let mut plan = plan(checkpoint.config(), &|name| checkpoint.layout(name), &device, dtype, workload)?;
    if let Some(available) = plan.available_bytes.filter(|_| !plan.fits()) {
        let what = format!("{shape} needs {} bytes, but {device} has {available} free", plan.total_bytes);
        return Err(Error::invalid(what, "use a smaller shape, fewer bits or fewer tokens"));
    }
    let tables = open::tables(&mut plan, &checkpoint, &device, dtype)?;
    let free = device.free_memory();
    let clock = Instant::now();
    let mut model = open::model(&checkpoint, &device, dtype, tables, console)?;
    let load_seconds = clock.elapsed().as_secs_f64();
    let times = match args.steps {
        0 => time_pass(model.as_ref(), &batch)?,
        steps => {
            let config = TrainConfig::default();
            time_steps(model.as_mut(), &config, common.seed.unwrap_or(0), steps, &mut |_| batch.clone())?
        }
    };
    // On a card, what the driver has given away since; its pools keep what they once took.
    let peak = match device.is_host() {
        true => host::peak(),
        false => free.zip(device.free_memory()).map(|(before, after)| before.saturating_sub(after)),
    };
    let report = json!({
        "device": device.to_string(),
        "dtype": dtype,
        "shape": shape.to_string(),
        "bits": args.bits,
        "tokens": args.tokens,
        "seq_length": args.seq_length,
        "steps": args.steps,
        "step_seconds": times.median,
        "step_seconds_min": times.least,
        "tokens_per_second": times.tokens_per_second,
        "load_seconds": load_seconds,
        "peak_bytes": peak,
        // What the pools have taken of it, without the driver's own.
        "allocated_bytes": pools::reserved(&device),
        "plan_bytes": plan.total_bytes,
        "losses": times.losses,
        "plan": plan.parts,
    });
    console.result(&report, || times.text(load_seconds, peak))
}

/// Sequences of made-up tokens, two one-token candidates after each.
fn made_up_batch(tokens: usize, seq_length: usize, vocab: u32) -> Batch {
    let mut next = 0u32;
    let mut token = || {
        next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        next % vocab
    };
    let lengths = (0..tokens).step_by(seq_length).map(|start| seq_length.min(tokens - start));
    let examples: Vec<TokenizedExample> = lengths
        .map(|length| {
            let prompt: Vec<u32> = (0..length).map(|_| token()).collect();
            let candidates =
                [0, 1].map(|last| Candidate { tokens: [&prompt[..], &[last]].concat(), scored: 1 });
            TokenizedExample { line: 0, candidates: candidates.into(), gold: vec![0] }
        })
        .collect();
    Batch::new(Objective::Classification, &examples)
}

struct Times {
    /// Seconds per step.
    median: f64,
    least: f64,
    /// Of all batches, for one sign.
    tokens: f64,
    /// Both signs and all probes counted.
    tokens_per_second: f64,
    /// At both signs of each probe, those of the step that is not counted first.
    losses: Vec<[f64; 2]>,
}

impl Times {
    fn new(mut seconds: Vec<f64>, tokens: usize, passes: f64, losses: Vec<[f64; 2]>) -> Self {
        let total: f64 = seconds.iter().sum();
        seconds.sort_by(f64::total_cmp);
        let at = |index: usize| seconds.get(index).copied().unwrap_or(f64::NAN);
        let tokens = tokens as f64;
        Self {
            median: at(seconds.len() / 2),
            least: at(0),
            tokens,
            tokens_per_second: passes * tokens / total,
            losses,
        }
    }

    fn text(&self, load_seconds: f64, peak: Option<u64>) -> String {
        let peak = peak.map_or("?".to_string(), |bytes| (bytes / 1_000_000).to_string());
        format!(
            "{:.3} s per step, {:.0} tokens/s, loaded in {load_seconds:.2} s, peak memory {peak} MB",
            self.median, self.tokens_per_second
        )
    }
}

/// ± steps as `finetune` takes them, but for the journal; the first is not counted.
fn time_steps(
    model: &mut dyn LanguageModel,
    config: &TrainConfig,
    seed: u64,
    steps: u64,
    next: &mut dyn FnMut(u64) -> Batch,
) -> Result<Times> {
    let estimator = config.estimator();
    let (mut seconds, mut tokens, mut losses) = (Vec::new(), 0, Vec::new());
    for step in 0..=steps {
        let batch = next(step);
        let seed = step_seed(seed, step);
        let clock = Instant::now();
        let outcome = estimator.estimate(seed, config.learning_rate, &mut |noise| {
            let answers = model.log_probs((&batch).into(), &batch.targets, Signs::Both(noise))?;
            Ok(batch.losses(&answers))
        })?;
        for (probe, taken) in (0..).zip(&outcome.probes) {
            let (kind, mode) = (config.perturbation, config.scale_mode);
            model.step(Move {
                direction: Direction { distribution: kind, mode, seed, probe },
                coefficient: taken.coefficient,
            })?;
        }
        losses.extend(outcome.probes.iter().map(|probe| [probe.loss_plus, probe.loss_minus]));
        if step > 0 {
            seconds.push(clock.elapsed().as_secs_f64());
            tokens += batch.tokens.len();
        }
    }
    Ok(Times::new(seconds, tokens, 2.0 * f64::from(config.probes), losses))
}

fn time_pass(model: &dyn LanguageModel, batch: &Batch) -> Result<Times> {
    let clock = Instant::now();
    model.log_probs(batch.into(), &batch.targets, Signs::Neither)?;
    Ok(Times::new(vec![clock.elapsed().as_secs_f64()], batch.tokens.len(), 1.0, Vec::new()))
}

/// Products of some usual sizes, or of a shape's, by every path that the device has.
fn matmul(args: &BenchArgs, common: &Common) -> Result<()> {
    let device = open::device(common)?;
    let dtype = common.compute_type(&device)?;
    let sizes = match args.shape.map(Shape::config) {
        Some(ModelConfig { hidden_size, intermediate_size, .. }) => vec![
            (hidden_size, hidden_size),
            (intermediate_size, hidden_size),
            (hidden_size, intermediate_size),
        ],
        None => vec![(4096, 4096), (1536, 576), (576, 1536)],
    };
    let paths = with_backend!(&device, |B, _device| B::EVERY_PATH);
    // Without tensor cores halves take a hundred times as long.
    let plain = |path: &kernels::Path| *path == kernels::Path::Dense(kernels::Engine::Units);
    let paths: Vec<_> = paths.iter().filter(|path| dtype == ComputeType::F32 || !plain(path)).collect();
    let mut rows = Vec::new();
    for (out, input) in sizes {
        for tokens in [1, 16, 64, 256, 1024, 4096, 8192].into_iter().filter(|tokens| *tokens <= args.tokens) {
            for path in &paths {
                let sizes = [tokens, out, input];
                let seconds = with_backend!(&device, |B, device| {
                    kernels::bench::time_linear::<B>(**path, sizes, dtype, &device)
                })?;
                let Some(seconds) = seconds else { continue };
                // Both signs.
                let gflops = 4.0 * (tokens * out * input) as f64 / seconds / 1e9;
                rows.push(json!({ "tokens": tokens, "out_features": out, "in_features": input, "bits": 4,
                    "group_size": 64, "path": path.name(), "seconds": seconds, "gflops": gflops }));
            }
        }
    }
    let report = json!({ "device": device.to_string(), "dtype": dtype, "matmul": rows });
    common.console().result(&report, || {
        let lines = rows.iter().map(|row| {
            format!(
                "{} × {} × {} ({}): {:.1} GFLOP/s",
                row["tokens"],
                row["out_features"],
                row["in_features"],
                row["path"].as_str().unwrap_or_default(),
                row["gflops"].as_f64().unwrap_or(0.0)
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}
