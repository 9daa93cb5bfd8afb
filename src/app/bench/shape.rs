//! Benchmark of the steps of a published model's shape, on random weights that are made in memory.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::times::{Times, time_steps};
use crate::app::event::OnEvent;
use crate::app::open;
use crate::checkpoint::{Checkpoint, ModelShape};
use crate::data::{Batch, Candidate, Load, LossKind, LossSum, TokenizedExample};
use crate::device::{ComputeType, Device, DeviceSpec, DtypeSpec, host, pools};
use crate::error::{Error, Result};
use crate::model::memory::{MemoryParts, Plan, Workload, plan};
use crate::model::{BackwardPass, BlockInputs, LanguageModel, compute_type};
use crate::train::{LossGradients, MethodKind, Objective, TrainConfig, batch_gradient};
use crate::zo::direction::Signs;

/// A benchmark of a model's shape.
#[derive(Debug, Clone)]
pub struct ShapeBench {
    pub shape: ModelShape,
    /// Bits per weight: 2, 3, 4 or 8.
    pub bits: u32,
    pub group_size: usize,
    /// Tokens per batch.
    pub tokens: usize,
    /// Tokens per sequence.
    pub seq_length: usize,
    /// Number of timed steps; 0: one batch is scored instead.
    pub steps: u64,
    pub device: DeviceSpec,
    pub dtype: DtypeSpec,
    pub seed: u64,
    /// The method of training, with its settings.
    pub train: TrainConfig,
    /// The place of the blocks' inputs until the backward pass; `None`: the fastest that fits.
    pub block_inputs: Option<BlockInputs>,
}

/// The times of a shape's steps.
#[derive(Debug, Clone, Serialize)]
pub struct ShapeTimes {
    pub device: String,
    pub dtype: ComputeType,
    pub shape: String,
    pub bits: u32,
    pub tokens: usize,
    pub seq_length: usize,
    pub steps: u64,
    pub step_seconds: f64,
    pub step_seconds_min: f64,
    pub tokens_per_second: f64,
    pub load_seconds: f64,
    /// Peak of memory use. On a GPU, the decrease of its free memory, because pools keep all memory that they allocate.
    pub peak_bytes: Option<u64>,
    /// Bytes that the pools have allocated, without the driver's own memory.
    pub allocated_bytes: Option<u64>,
    pub plan_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_inputs: Option<BlockInputs>,
    pub losses: Vec<Vec<f64>>,
    pub plan: MemoryParts,
}

/// Times the steps of a shape.
///
/// # Errors
/// The shape does not fit into the device's memory, or the device fails.
pub fn shape(bench: &ShapeBench, on_event: OnEvent<'_>) -> Result<ShapeTimes> {
    let &ShapeBench { shape, bits, group_size, tokens, seq_length, steps, .. } = bench;
    if tokens == 0 || seq_length == 0 || group_size == 0 || ![2, 3, 4, 8].contains(&bits) {
        return Err(Error::invalid(
            "the tokens, the sequence length and the group size must be above 0, and the bits 2, 3, 4 or 8",
            "see `qzo bench --help`",
        ));
    }
    let device = bench.device.resolve()?;
    let dtype = compute_type(&device, bench.dtype)?;
    bench.train.check_compute(dtype)?;
    let checkpoint = Arc::new(Checkpoint::synthetic(shape, bits, group_size));
    let mut objective =
        SyntheticObjective(synthetic_batch(tokens, seq_length, checkpoint.config().vocab_size as u32));
    let (train, evaluation) = match steps {
        0 => (Load::default(), objective.0.load()),
        _ => (objective.0.load(), Load::default()),
    };
    let blocks = checkpoint.config().num_hidden_layers;
    let planned = |inputs: BlockInputs| {
        let backward = bench.train.backward_work(blocks, inputs).filter(|_| steps > 0);
        let workload = Workload { train, backward, evaluation, ..Workload::default() };
        plan(checkpoint.config(), &|name| checkpoint.layout(name), &device, dtype, workload)
    };
    let (inputs, mut plan) = chosen(bench.block_inputs, &device, &planned)?;
    if let Some(available) = plan.available_bytes.filter(|_| !plan.fits()) {
        let what = format!("{shape} needs {} bytes, but {device} has {available} free", plan.total_bytes);
        return Err(Error::invalid(what, "use a smaller shape, fewer bits or fewer tokens"));
    }
    let tables = open::tables(&mut plan, &checkpoint, &device, dtype)?;
    let free = device.free_memory();
    let clock = Instant::now();
    let mut model = open::model(&checkpoint, &device, dtype, tables, on_event)?;
    model.train_tensors(bench.train.trained_tensors(&checkpoint)?)?;
    let load_seconds = clock.elapsed().as_secs_f64();
    let times = match steps {
        0 => time_pass(&objective, model.as_ref())?,
        _ => time_steps(&mut objective, model.as_mut(), &bench.train, inputs, bench.seed, steps)?,
    };
    Ok(ShapeTimes {
        device: device.to_string(),
        dtype,
        shape: shape.to_string(),
        bits,
        tokens,
        seq_length,
        steps,
        step_seconds: times.median,
        step_seconds_min: times.least,
        tokens_per_second: times.tokens_per_second,
        load_seconds,
        peak_bytes: peak(&device, free),
        allocated_bytes: pools::reserved(&device),
        plan_bytes: plan.total_bytes,
        block_inputs: (bench.train.method == MethodKind::Exact).then_some(inputs),
        losses: times.losses,
        plan: plan.parts,
    })
}

/// The place of the blocks' inputs: the one that was asked for, or the fastest that fits; and the plan with it.
fn chosen(
    asked: Option<BlockInputs>,
    device: &Device,
    planned: &dyn Fn(BlockInputs) -> Result<Plan>,
) -> Result<(BlockInputs, Plan)> {
    let choices = BlockInputs::choices(device);
    if asked.is_some_and(|asked| !choices.contains(&asked)) {
        let what = format!("{device} keeps the inputs of the blocks in host memory as it is");
        return Err(Error::invalid(what, "leave --block-inputs out"));
    }
    let first = asked.unwrap_or_default();
    let plan = planned(first)?;
    for other in choices.iter().filter(|_| asked.is_none() && !plan.fits()) {
        let plan = planned(*other)?;
        if plan.fits() {
            return Ok((*other, plan));
        }
    }
    Ok((first, plan))
}

fn peak(device: &Device, free_before: Option<u64>) -> Option<u64> {
    match device.is_host() {
        true => host::peak(),
        false => free_before.zip(device.free_memory()).map(|(before, after)| before.saturating_sub(after)),
    }
}

fn time_pass(objective: &SyntheticObjective, model: &(dyn LanguageModel + 'static)) -> Result<Times> {
    let clock = Instant::now();
    objective.losses(model, &objective.0, Signs::Neither)?;
    let tokens = objective.tokens(&objective.0);
    Ok(Times::new(vec![clock.elapsed().as_secs_f64()], tokens, 1.0, Vec::new()))
}

/// An objective with the same batch in every step.
struct SyntheticObjective(Batch);

impl Objective for SyntheticObjective {
    type Model = dyn LanguageModel;
    type Batch = Batch;

    fn batch(&mut self, _cursor: u64, _size: usize) -> Batch {
        self.0.clone()
    }

    fn tokens(&self, batch: &Batch) -> usize {
        batch.tokens.len()
    }

    fn weight(&self, batch: &Batch) -> f64 {
        batch.scoring.weight()
    }

    fn gradient(
        &self,
        model: &mut (dyn LanguageModel + 'static),
        batch: &Batch,
        backward: BackwardPass,
        weight: f64,
        sink: &mut dyn LossGradients,
    ) -> Result<()> {
        batch_gradient(model, batch, backward, weight, sink)
    }

    fn losses(&self, model: &dyn LanguageModel, batch: &Batch, signs: Signs) -> Result<Vec<LossSum>> {
        let log_probs = model.log_probs(batch.into(), &batch.targets, signs)?;
        Ok(batch.losses(&log_probs))
    }
}

/// Makes a batch of pseudorandom sequences with two candidates of one token after each.
fn synthetic_batch(tokens: usize, seq_length: usize, vocab: u32) -> Batch {
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
                [0, 1].map(|last| Candidate::after_prompt(length, [&prompt[..], &[last]].concat()));
            TokenizedExample { row: 0, candidates: candidates.into(), gold: vec![0] }
        })
        .collect();
    Batch::new(LossKind::Classification, &examples)
}
