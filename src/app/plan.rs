//! Computes the memory that a run needs, before anything is loaded.

use serde::Serialize;

use super::event::OnEvent;
use super::{data, open};
use crate::checkpoint::{Checkpoint, Layout};
use crate::config::Config;
use crate::data::Load;
use crate::device::{ComputeType, Device};
use crate::error::{Error, Result};
use crate::eval::widest_pass;
use crate::model::compute_type;
use crate::model::memory::{self, Plan, Workload};
use crate::packed::FloatType;
use crate::train::{TrainConfig, TrainingData, widest_batch};

/// The memory of a run, by purpose.
#[derive(Debug, Clone, Serialize)]
pub struct PlanReport {
    pub device: String,
    pub dtype: String,
    /// The largest training batch, for one sign.
    pub batch: Load,
    #[serde(flatten)]
    pub plan: Plan,
    pub fits: bool,
    /// A change with which the run would fit, if it does not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Computes the memory that a recipe needs, and whether it fits.
///
/// # Errors
/// The model, the data or the device cannot be used.
pub fn plan(config: &Config, on_event: OnEvent<'_>) -> Result<PlanReport> {
    config.validate()?;
    let device = config.device.resolve()?;
    let checkpoint = open::checkpoint(&config.model, on_event)?;
    let tokenizer = open::tokenizer(&checkpoint)?;
    let data = data::training_data(config, &checkpoint, &tokenizer, on_event)?;
    let dtype = compute_type(&device, config.dtype)?;
    let planner = Planner { config, checkpoint: &checkpoint, device: &device, dtype, data: &data };
    let mut plan = planner.plan(config.train.batch_size)?;
    open::tables(&mut plan, &checkpoint, &device, dtype)?;
    let help = if plan.fits() { None } else { Some(planner.help()?) };
    Ok(PlanReport {
        device: device.to_string(),
        dtype: dtype.to_string(),
        batch: planner.workload(config.train.batch_size).train,
        fits: plan.fits(),
        plan,
        help,
    })
}

/// Plans a run whose data is loaded already.
pub struct Planner<'a> {
    pub config: &'a Config,
    pub checkpoint: &'a Checkpoint,
    pub device: &'a Device,
    pub dtype: ComputeType,
    pub data: &'a TrainingData,
}

impl Planner<'_> {
    /// Checks that the run fits, and returns its plan.
    ///
    /// # Errors
    /// The run does not fit; the help proposes a change.
    pub fn check(&self) -> Result<Plan> {
        let plan = self.plan(self.config.train.batch_size)?;
        match plan.available_bytes {
            Some(available) if !plan.fits() => {
                let (needed, free) = (gigabytes(plan.total_bytes), gigabytes(available));
                let what = format!("the run needs {needed}, but {} has {free} free", self.device);
                Err(Error::invalid(what, self.help()?))
            }
            _ => Ok(plan),
        }
    }

    fn plan(&self, batch_size: usize) -> Result<Plan> {
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
        let workload = self.workload(batch_size);
        self.checkpoint.release();
        memory::plan(self.checkpoint.config(), &layout, self.device, self.dtype, workload)
    }

    fn workload(&self, batch_size: usize) -> Workload {
        let train = TrainConfig { batch_size, ..self.config.train.clone() };
        Workload {
            train: widest_batch(&train, self.config.seed, &self.data.train),
            evaluation: self.data.dev.as_ref().map(widest_pass).unwrap_or_default(),
            reads_files: true,
        }
    }

    /// A change with which the run would fit.
    fn help(&self) -> Result<String> {
        // A margin is left, because free memory changes from one minute to the next.
        let fits = |batch_size: usize| {
            let plan = self.plan(batch_size)?;
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
        let plan = self.plan(1)?;
        let fixed = plan.total_bytes - plan.parts.activations - plan.parts.evaluation;
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
