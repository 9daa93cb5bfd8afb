use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::console::{Console, Progress};
use super::eval::describe;
use super::plan::Planner;
use super::quantize::{self, Job};
use super::{Common, open};
use crate::checkpoint::{Checkpoint, Format, MAX_SHARD_BYTES, QuantizedFormat};
use crate::config::Config;
use crate::data::{Dataset, Limits, TokenizedDataset, Tokenizer, split};
use crate::error::{Error, Result};
use crate::eval::{TaskReport, evaluate};
use crate::model::{Tables, compute_type};
use crate::quant::QuantizeConfig;
use crate::train::{Data, Event, Outcome, Run, RunDir};
use crate::zo::journal::Header;

/// Train the quantization scales of a model on a task, with forward passes only
#[derive(Debug, Args)]
pub struct FinetuneArgs {
    /// Recipe: see configs/
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    recipe: open::RecipeArgs,
    /// Run directory
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Continue the run in the run directory; starts it where there is none
    #[arg(long)]
    resume: bool,
}

/// What `--json` prints at the end.
#[derive(Debug, Serialize)]
struct Report {
    output_dir: PathBuf,
    steps: u64,
    train_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<TaskReport>,
    /// With the f32 scales of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<TaskReport>,
    /// `final/`, read back from disk: scales rounded to the type of its file.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    last: Option<TaskReport>,
    /// NLL of `final` minus NLL of `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    rounding: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    best_step: Option<u64>,
}

pub fn run(args: &FinetuneArgs, common: &Common) -> Result<()> {
    let console = common.console();
    let config = open::recipe(&args.config, &args.recipe, args.output.as_deref(), common)?;
    let device = config.device.resolve()?;
    let directory = RunDir::new(&config.output_dir);
    // Everything that can be wrong with the input is found before anything is written.
    let source = open::checkpoint(&config.model, console)?;
    let tokenizer = open::tokenizer(&source)?;
    let data = data(&config, &source, &tokenizer, console)?;
    let dtype = compute_type(&device, config.dtype)?;
    let quantize = quantization(&config, &source)?;
    let planner = Planner { config: &config, checkpoint: &source, device: &device, dtype, data: &data };
    let tables = open::tables(&mut planner.check()?, &source, &device, dtype)?;
    directory.create(args.resume)?;
    let base = match quantize {
        Some(quantize) => {
            let (device, seed) = (config.device, config.seed);
            let job = Job { device, seed, max_shard_bytes: MAX_SHARD_BYTES, console };
            quantized(source, quantize, &directory, job)?
        }
        None => source,
    };

    let header = Header {
        probes: config.train.probes,
        kind: config.train.perturbation,
        mode: config.train.scale_mode,
        base_model: base.fingerprint()?,
        config: config.fingerprint(),
        tokenizer: tokenizer.fingerprint()?,
        data: data.digest,
    };
    let stop = stop_on_interrupt()?;
    let resolved = config.to_toml()?;
    let run = Run {
        resolved: &resolved,
        config: &config.train,
        seed: config.seed,
        header,
        directory: &directory,
        data: &data,
        stop: &stop,
    };
    let mut model = open::model(&base, &device, dtype, tables, console)?;
    console.note(&format!(
        "training {} weights on {device} in {dtype}, run in {}",
        model.trained().len(),
        config.output_dir.display()
    ));
    let mut bar = console.progress("training", config.train.max_steps);
    let outcome = run.train(model.as_mut(), &mut |event| show(&mut bar, &event, config.train.logging_steps));
    bar.finish();
    let outcome = outcome?;
    run.write_checkpoints(&base, model.as_mut())?;
    drop(model);

    let last = match &data.dev {
        Some(dev) => {
            let saved = Arc::new(Checkpoint::open(&directory.last())?);
            let model = open::model(&saved, &device, dtype, Tables::InFile, console)?;
            Some(evaluate(model.as_ref(), &data.task, dev, &mut |_| ())?)
        }
        None => None,
    };
    let report = report(&config, outcome, last);
    console.result(&report, || text(&report))
}

pub(super) fn data(
    config: &Config,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    console: Console,
) -> Result<Data> {
    let task = config.data.task()?;
    let train = config.data.train.as_ref().ok_or_else(|| {
        Error::invalid(
            "the configuration names no training data",
            "set data.train, or give --data FILE.jsonl",
        )
    })?;
    let limits = open::training_limits(checkpoint, &config.data);
    let mut train = Dataset::read(train)?;
    let mut digest = train.digest;
    let dev = match (&config.data.dev, config.data.dev_size) {
        (Some(dev), size) => {
            if let Some(size) = size {
                tracing::warn!("dev_size = {size} is not used: dev names a file");
            }
            let dev = Dataset::read(dev)?;
            digest = *blake3::hash([digest, dev.digest].as_flattened()).as_bytes();
            Some(dev.rows)
        }
        (None, Some(size)) => {
            let (train_rows, dev_rows) = split(train.rows.len(), size, config.seed)?;
            let dev = dev_rows.iter().map(|&i| train.rows[i].clone()).collect();
            train.rows = train_rows.iter().map(|&i| train.rows[i].clone()).collect();
            Some(dev)
        }
        (None, None) => None,
    };
    let tokenize = |name: &str, rows: &[_], limits| {
        let data = TokenizedDataset::new(rows, &task, tokenizer, limits)?;
        let lengths = data.lengths;
        let fate = format!("{} dropped, {} truncated", lengths.dropped, lengths.truncated);
        console.note(&format!(
            "{name}: {} of {} rows ({fate}), up to {} tokens",
            data.examples.len(),
            lengths.rows,
            lengths.longest
        ));
        Ok::<_, Error>(data)
    };
    // The model's context alone limits the dev set: its figures must compare with those of `qzo eval`.
    let whole = Limits { max_seq_length: None, ..limits };
    let (train, dev) =
        (tokenize("train", &train.rows, limits)?, dev.map(|rows| tokenize("dev", &rows, whole)).transpose()?);
    Ok(Data { digest, task, train, dev })
}

/// How the model still has to be quantized; `None` where it is as it is.
fn quantization(config: &Config, source: &Checkpoint) -> Result<Option<QuantizeConfig>> {
    if source.format() != Format::HuggingFace {
        source.check_trainable()?;
        if config.quantize.is_some() {
            tracing::warn!("the [quantize] table is not used: the model is quantized already");
        }
        source.check_finite()?;
        return Ok(None);
    }
    let quantize = config.quantize.clone().ok_or_else(|| {
        Error::invalid(
            format!(
                "{} is not quantized, and the configuration has no [quantize] table",
                source.path().display()
            ),
            "add a [quantize] table, or run `qzo quantize` first and name its result",
        )
    })?;
    quantize.warn_of_unused();
    Ok(Some(quantize))
}

/// The quantized model that the journal will refer to, made once and kept in the run directory.
fn quantized(
    source: Arc<Checkpoint>,
    quantize: QuantizeConfig,
    directory: &RunDir,
    job: Job,
) -> Result<Arc<Checkpoint>> {
    let model = blake3::Hash::from_bytes(source.fingerprint()?).to_hex().to_string();
    let known = directory.read_origin::<Origin>()?;
    // Once the base is there, its text may go; one that is there is held against it.
    let is_read =
        quantize.calibration.as_ref().is_some_and(|text| !directory.base().exists() || text.exists());
    let samples = if is_read { quantize::samples(&source, &quantize, job)? } else { None };
    let calibration = samples.as_deref().map(quantize::digest);
    let origin = Origin { model, quantize, calibration };
    match known {
        Some(known) if known.model != origin.model => {
            return Err(Error::invalid(
                format!("{} is another model than the one this run quantized", source.path().display()),
                "resume with the same model, or start another run with -o",
            ));
        }
        Some(known) if known.has_other_text(&origin) => {
            return Err(Error::invalid(
                "the calibration text is another one than this run quantized its model with",
                "resume with the same text, or start another run with -o",
            ));
        }
        Some(known) if known.settings() != origin.settings() => {
            return Err(Error::invalid(
                format!("[quantize] differs from what this run was started with: {:?}", known.quantize),
                "resume with the same settings, or start another run with -o",
            ));
        }
        Some(_) => {}
        None => directory.write_origin(&origin)?,
    }
    if !directory.base().exists() {
        let target = QuantizedFormat::of(origin.quantize.method);
        quantize::quantize(&source, &directory.base(), &origin.quantize, target, samples, job)?;
    }
    Ok(Arc::new(Checkpoint::open(&directory.base())?))
}

/// Where `base/` comes from.
#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    /// Fingerprint of the source, hexadecimal.
    model: String,
    quantize: QuantizeConfig,
    /// BLAKE3 of the calibration text's tokens, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<String>,
}

impl Origin {
    /// Whether the calibration texts differ: by their tokens if both are known, else by their paths.
    fn has_other_text(&self, other: &Self) -> bool {
        match (&self.calibration, &other.calibration) {
            (Some(one), Some(other)) => one != other,
            _ => self.quantize.calibration != other.quantize.calibration,
        }
    }

    fn settings(&self) -> QuantizeConfig {
        QuantizeConfig { calibration: None, ..self.quantize.clone() }
    }
}

/// The first Ctrl-C or SIGTERM asks the run to stop after its step; the second ends the process.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|error| Error::device(format!("no interrupt handler: {error}"), ""))?;
    Ok(stop)
}

fn show(bar: &mut Progress, event: &Event, logging_steps: u64) {
    match event {
        Event::Resumed { done, replayed, torn } => {
            if let Some(torn) = torn {
                bar.note(&format!(
                    "the journal ended in {} torn bytes at offset {}: cut",
                    torn.bytes, torn.offset
                ));
            }
            bar.note(&format!("resumed after step {done} ({replayed} replayed)"));
            bar.set(*done);
        }
        Event::Step { step, loss, projected_grad, lr, tokens_per_second, skipped } => {
            bar.set(*step);
            if *skipped {
                bar.note(&format!("step {step}: a loss was not finite; skipped"));
            } else if logging_steps > 0 && step.is_multiple_of(logging_steps) {
                bar.note(&format!(
                    "step {step}  loss {loss:.4}  projected_grad {projected_grad:+.3}  lr {lr:.2e}  {tokens_per_second:.0} tokens/s"
                ));
            }
        }
        Event::Evaluating { step, done, of } => bar.message(&format!("step {step}: evaluating {done}/{of}")),
        Event::Evaluated { step, report, best } => {
            let best = if *best { "  (best so far)" } else { "" };
            bar.message("training");
            bar.note(&format!("step {step}  dev {}{best}", describe(report)));
        }
        Event::Saved { step } => tracing::info!("scales of step {step} saved"),
    }
}

fn report(config: &Config, outcome: Outcome, last: Option<TaskReport>) -> Report {
    let short = |report: TaskReport| TaskReport { predictions: None, ..report };
    let rounding = outcome.after.as_ref().zip(last.as_ref()).map(|(after, last)| last.nll - after.nll);
    Report {
        output_dir: config.output_dir.clone(),
        steps: outcome.steps,
        train_seconds: outcome.train_seconds,
        before: outcome.before.map(short),
        after: outcome.after.map(short),
        last: last.map(short),
        rounding,
        best_step: outcome.best_step,
    }
}

fn text(report: &Report) -> String {
    let mut lines = vec![format!("{} steps in {:.1} s", report.steps, report.train_seconds)];
    let evaluations = [("before", &report.before), ("after", &report.after), ("final/", &report.last)];
    for (name, evaluation) in evaluations {
        lines.extend(evaluation.as_ref().map(|e| format!("{name:7} {}", describe(e))));
    }
    lines.extend(
        report.rounding.map(|r| format!("rounding the scales to the file's type changed the NLL by {r:+.5}")),
    );
    lines.extend(report.best_step.map(|step| format!("best dev NLL after step {step}: best/")));
    lines.push(format!("{} is ready to serve", report.output_dir.join("final").display()));
    lines.join("\n")
}
