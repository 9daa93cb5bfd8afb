//! Times training steps.

use std::time::Instant;

use crate::error::Result;
use crate::model::{BlockInputs, LanguageModel};
use crate::train::{Objective, TrainConfig, step};
use crate::zo::journal::{Hash, StepTaken};

/// The times of some steps.
pub struct Times {
    /// Median of the seconds per step.
    pub median: f64,
    /// Seconds of the fastest step.
    pub least: f64,
    /// Tokens of all batches together, counted once per batch.
    pub tokens: f64,
    /// Tokens that the passes of the steps read per second.
    pub tokens_per_second: f64,
    /// Losses of each step, at both signs of each probe or one, including the first step, which is not timed.
    pub losses: Vec<Vec<f64>>,
}

impl Times {
    /// Summarizes the seconds of each step. `tokens` are those of all batches, each of which goes through `passes`
    /// passes.
    pub fn new(mut seconds: Vec<f64>, tokens: usize, passes: f64, losses: Vec<Vec<f64>>) -> Self {
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
}

/// Takes one step that is not timed, then `steps` timed ones.
///
/// # Errors
/// The device fails.
pub fn time_steps<O: Objective<Model = dyn LanguageModel>>(
    objective: &mut O,
    model: &mut (dyn LanguageModel + 'static),
    config: &TrainConfig,
    inputs: BlockInputs,
    seed: u64,
    steps: u64,
) -> Result<Times> {
    let mut method = config.method::<O>(seed, model.config().num_hidden_layers, inputs);
    let (mut seconds, mut tokens, mut losses) = (Vec::new(), 0, Vec::new());
    for number in 0..=steps {
        let batches = config.batches(objective, number);
        let now = config.step_start(seed, number, Hash::default());
        let clock = Instant::now();
        let record = step(method.as_mut(), objective, model, &batches, now, &mut |_| Ok(()))?;
        match &record.taken {
            StepTaken::Zo { probes, .. } => {
                losses.extend(probes.iter().map(|probe| vec![probe.loss_plus, probe.loss_minus]));
            }
            StepTaken::Exact { loss, .. } => losses.push(vec![*loss]),
        }
        if number > 0 {
            seconds.push(clock.elapsed().as_secs_f64());
            tokens += batches.iter().map(|batch| objective.tokens(batch)).sum::<usize>();
        }
    }
    Ok(Times::new(seconds, tokens, method.passes(), losses))
}
