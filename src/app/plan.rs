//! Computes the memory that a run needs, before anything is loaded.

use serde::Serialize;

use super::answers::MAX_NEW_TOKENS;
use super::event::OnEvent;
use super::inputs::Inputs;
use super::open;
use super::record::shown_rows;
use crate::checkpoint::{Checkpoint, Layout};
use crate::config::Config;
use crate::data::{Load, LossKind, TokenizedExample};
use crate::device::{ComputeType, Device};
use crate::error::{Error, Result};
use crate::eval::widest_pass;
use crate::generate::generation_work;
use crate::model::BlockInputs;
use crate::model::memory::{self, GenerationWork, HostPart, Plan, Workload};
use crate::packed::FloatType;
use crate::train::{MethodKind, TrainConfig, TrainingData, widest_batch};

/// The memory of a run, by purpose.
#[derive(Debug, Clone, Serialize)]
pub struct PlanReport {
    pub device: String,
    pub dtype: String,
    /// The largest training batch, for one sign.
    pub batch: Load,
    /// Parts into which the rows of a step are split.
    pub gradient_accumulation_steps: usize,
    /// The place of the blocks' inputs between the forward and the backward pass of exact gradients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_inputs: Option<BlockInputs>,
    #[serde(flatten)]
    pub plan: Plan,
    pub fits: bool,
    /// Bytes that the same recipe needs with each method of training.
    pub methods: Vec<MethodBytes>,
    /// A change with which the run would fit, if it does not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Computes the memory that a recipe needs, and whether it fits.
///
/// # Errors
/// The model, the data or the device cannot be used.
pub fn plan(config: &Config, on_event: OnEvent<'_>) -> Result<PlanReport> {
    let inputs = Inputs::read(config.clone(), on_event)?;
    let Inputs { config, device, dtype, source, .. } = &inputs;
    let (planner, dtype) = (Planner::of(&inputs), *dtype);
    let mut choice = planner.choose()?;
    let open_tables = |plan: &mut Plan| open::tables(plan, source, device, dtype);
    open_tables(&mut choice.plan)?;
    let methods = [MethodKind::Zo, MethodKind::Exact].map(|method| {
        let config = Config { train: TrainConfig { method, ..config.train.clone() }, ..config.clone() };
        let mut plan = Planner { config: &config, ..planner }.choose()?.plan;
        open_tables(&mut plan)?;
        Ok(MethodBytes { method, total_bytes: plan.total_bytes })
    });
    let help = match (choice.plan.fits(), choice.plan.host_fits()) {
        (true, _) => None,
        (false, true) => Some(planner.help()?),
        (false, false) => Some(HOST_HELP.to_string()),
    };
    let Choice { parts, inputs, plan } = choice;
    Ok(PlanReport {
        device: device.to_string(),
        dtype: dtype.to_string(),
        batch: planner.workload(config.train.batch_size, parts, inputs).train,
        gradient_accumulation_steps: parts,
        block_inputs: (config.train.method == MethodKind::Exact).then_some(inputs),
        fits: plan.fits(),
        methods: methods.into_iter().collect::<Result<_>>()?,
        plan,
        help,
    })
}

/// The bytes of a run with one method.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MethodBytes {
    pub method: MethodKind,
    pub total_bytes: u64,
}

/// Help where the host has not the memory that a run needs beside a card.
const HOST_HELP: &str =
    "close other programs, lower train.batch_size, or set train.gradient_accumulation_steps";

/// How a run fits into the memory: what it does for that, and its plan.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Parts into which the rows of a step are split.
    pub parts: usize,
    pub inputs: BlockInputs,
    pub plan: Plan,
}

/// Plans a run whose data is loaded already.
#[derive(Clone, Copy)]
pub struct Planner<'a> {
    pub config: &'a Config,
    pub checkpoint: &'a Checkpoint,
    pub device: &'a Device,
    pub dtype: ComputeType,
    pub data: &'a TrainingData,
}

impl<'a> Planner<'a> {
    pub fn of(inputs: &'a Inputs) -> Self {
        let Inputs { config, device, dtype, source, data, .. } = inputs;
        Self { config, checkpoint: source, device, dtype: *dtype, data }
    }

    /// Chooses what the run does to fit: nothing, if it fits as it is; else the inputs of the blocks go to host memory;
    /// else the rows of a step are split, too.
    ///
    /// # Errors
    /// The model cannot be read, or has no tensors of a kind that is to be trained.
    pub fn choose(&self) -> Result<Choice> {
        let train = &self.config.train;
        train.trained_tensors(self.checkpoint)?;
        let rows = train.batch_size;
        let places = match train.method {
            MethodKind::Zo => &[BlockInputs::OnDevice],
            MethodKind::Exact => BlockInputs::choices(self.device),
        };
        let all_parts = match train.gradient_accumulation_steps {
            Some(parts) => vec![parts],
            None if train.method == MethodKind::Exact => {
                let doubled = std::iter::successors(Some(1), |parts| Some(2 * parts));
                doubled.take_while(|parts| *parts < rows).chain([rows]).collect()
            }
            None => vec![1],
        };
        let mut first = None;
        for parts in all_parts {
            for inputs in places {
                let plan = self.plan(rows, parts, *inputs)?;
                let choice = Choice { parts, inputs: *inputs, plan };
                if choice.plan.fits() {
                    return Ok(choice);
                }
                first.get_or_insert(choice);
            }
        }
        first.ok_or_else(|| Error::internal("a plan without a choice"))
    }

    /// Checks that the run fits, and returns what it does for that.
    ///
    /// # Errors
    /// The run does not fit; the help proposes a change.
    pub fn check(&self) -> Result<Choice> {
        let choice = self.choose()?;
        if let Some(HostPart { bytes, available_bytes: Some(free) }) = choice.plan.host
            && !choice.plan.host_fits()
        {
            let (needed, free) = (gigabytes(bytes), gigabytes(free));
            let what =
                format!("the run needs {needed} of the host's memory beside the device, but {free} is free");
            return Err(Error::invalid(what, HOST_HELP));
        }
        match choice.plan.available_bytes {
            Some(available) if !choice.plan.fits() => {
                let (needed, free) = (gigabytes(choice.plan.total_bytes), gigabytes(available));
                let what = format!("the run needs {needed}, but {} has {free} free", self.device);
                Err(Error::invalid(what, self.help()?))
            }
            _ => Ok(choice),
        }
    }

    fn plan(&self, batch_size: usize, parts: usize, inputs: BlockInputs) -> Result<Plan> {
        let config = self.config;
        // The run itself quantizes a dense model.
        let quantize = config.quantize.as_ref().filter(|_| self.checkpoint.trained_names().is_empty());
        let linears = quantize.map(|_| self.checkpoint.config().block_linears());
        let layout = |name: &str| match (quantize, &linears) {
            (Some(quantize), Some(linears)) if linears.iter().any(|linear| linear == name) => {
                let group_size = quantize.group_size().unwrap_or(usize::MAX);
                Ok(Layout::Packed(quantize.options(FloatType::F16).layout(group_size)))
            }
            _ => self.checkpoint.layout(name),
        };
        let workload = self.workload(batch_size, parts, inputs);
        self.checkpoint.release();
        memory::plan(self.checkpoint.config(), &layout, self.device, self.dtype, workload)
    }

    fn workload(&self, batch_size: usize, parts: usize, inputs: BlockInputs) -> Workload {
        let parts = parts.min(batch_size);
        let train =
            TrainConfig { batch_size, gradient_accumulation_steps: Some(parts), ..self.config.train.clone() };
        let blocks = self.checkpoint.config().num_hidden_layers;
        Workload {
            train: widest_batch(&train, self.config.seed, &self.data.train),
            backward: train.backward_work(blocks, inputs),
            evaluation: self.data.dev.as_ref().map(widest_pass).unwrap_or_default(),
            generation: self.generation(),
            reads_files: true,
        }
    }

    /// The answers that the run generates: to the dev rows of its report, and for a score of answers.
    fn generation(&self) -> GenerationWork {
        let Self { config, checkpoint, device, dtype, data } = *self;
        let (train, model) = (&config.train, checkpoint.config());
        let bytes = memory::cached_bytes(model, device, dtype);
        let of = |examples: &mut dyn Iterator<Item = &TokenizedExample>, max_new_tokens| {
            let prompts: Vec<usize> = examples.map(|example| example.prompt().len()).collect();
            generation_work(&prompts, max_new_tokens, model, bytes)
        };
        let shown = match data.train.loss_kind {
            LossKind::Classification => GenerationWork::default(),
            _ => of(&mut shown_rows(data).into_iter().map(|(_, row)| row), MAX_NEW_TOKENS),
        };
        if !train.objective.is_of_answers() {
            return shown;
        }
        let dev = data.dev.iter().flat_map(|dev| &dev.examples);
        shown.max(of(&mut data.train.examples.iter().chain(dev), train.max_new_tokens))
    }

    /// A change with which the run would fit.
    fn help(&self) -> Result<String> {
        // A margin is left, because free memory changes from one minute to the next.
        let parts = self.config.train.gradient_accumulation_steps.unwrap_or(1);
        let plan_of = |batch_size: usize| self.plan(batch_size, parts, BlockInputs::OnDevice);
        let fits = |batch_size: usize| {
            let plan = plan_of(batch_size)?;
            Ok::<_, Error>(plan.available_bytes.is_none_or(|free| plan.total_bytes <= free / 20 * 19))
        };
        // Bisection finds the largest batch that fits, because memory grows with the batch.
        let (mut low, mut high) = (0, self.config.train.batch_size);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if fits(middle)? { low = middle } else { high = middle }
        }
        if low > 0 {
            return Ok(format!("set train.batch_size = {low}"));
        }
        let plan = plan_of(1)?;
        let fixed =
            plan.total_bytes - plan.parts.activations - plan.parts.block_inputs - plan.parts.evaluation;
        let weights_fit = plan.available_bytes.is_none_or(|available| fixed < available);
        Ok(match weights_fit {
            true if plan.parts.evaluation > 0 => {
                "a row of data.dev is too long for this memory: leave the longest rows out".to_string()
            }
            true => "lower data.max_seq_length: a single row needs too much memory".to_string(),
            false if self.device.is_host() => {
                "close other programs, or use a smaller model or one with fewer bits per weight".to_string()
            }
            false => "use a smaller model, fewer bits per weight, or --device cpu".to_string(),
        })
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}
