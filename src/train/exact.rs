//! The method of exact gradients: a backward pass hands over the gradients of one decoder block at a time, and the
//! block's scales, and the tensors trained beside them, move at once.

use std::borrow::Cow;
use std::collections::BTreeMap;

use half::bf16;
use rayon::prelude::*;

use super::method::{Gradient, Method, StepStart};
use super::objective::{LossGradients, Objective};
use super::optimizer::{Optimizer, OptimizerKind};
use crate::arch::TensorKind;
use crate::data::LossSum;
use crate::error::{Error, Result};
use crate::model::{BackwardPass, HostFloats, ScaleForm, ScaleGradient, Scales, Update};
use crate::zo::direction::Move;
use crate::zo::estimator::Estimator;
use crate::zo::journal::{JournalMethod, Record, StepTaken};

/// Learning rate of norms and biases, as a share of the scales': at the same rate they move too far.
const TENSOR_SHARE: f32 = 0.1;
/// Values that a task sums up.
const CHUNK: usize = 1 << 16;

/// Exact gradients with an optimizer.
pub struct Exact {
    backward: BackwardPass,
    max_grad_norm: f64,
    optimizer: Optimizer,
    body: Option<BodyTraining>,
}

/// Zeroth order for the blocks before the tail.
pub struct BodyTraining {
    pub estimator: Estimator,
    pub learning_rate: f64,
    /// Number of these blocks.
    pub blocks: usize,
}

/// The part of a step that follows from its gradients.
struct Updates<'a> {
    form: ScaleForm,
    /// Bound of the norm of one block's gradient.
    max_block_norm: f64,
    learning_rate: f32,
    optimizer: &'a mut Optimizer,
    /// Passes over a batch after the one at hand; the scales move in the last.
    passes_left: usize,
    /// Loss of the pass at hand.
    last: LossSum,
    /// Loss of the batches so far.
    loss: LossSum,
    /// Largest loss with which the step is taken.
    loss_limit: f64,
    /// Gradients of the earlier batches, by weight.
    accumulated: BTreeMap<u32, HostFloats>,
    /// Square of the norm of the whole gradient.
    squares: f64,
    /// Whether the step is skipped, because its loss or a gradient is not finite, or its loss above the limit.
    skipped: bool,
}

impl Exact {
    pub fn new(
        backward: BackwardPass,
        optimizer: OptimizerKind,
        max_grad_norm: f64,
        seed: u64,
        body: Option<BodyTraining>,
    ) -> Self {
        Self { backward, max_grad_norm, optimizer: Optimizer::new(optimizer, seed), body }
    }

    /// Number of passes over each batch in a step.
    fn passes_per_batch(&self) -> usize {
        self.body.as_ref().map_or(1, |body| 2 * body.estimator.directions().0 as usize)
    }
}

impl<O: Objective + ?Sized> Method<O> for Exact {
    fn journal_method(&self) -> JournalMethod {
        JournalMethod::Exact
    }

    fn take(
        &mut self,
        now: StepStart,
        objective: &O,
        model: &mut O::Model,
        batches: &[O::Batch],
    ) -> Result<Record> {
        let (before, passes) = (self.optimizer.steps(), self.passes_per_batch());
        self.optimizer.begin_step();
        let mut updates = Updates {
            form: self.backward.form,
            max_block_norm: self.max_grad_norm / (self.backward.tail_blocks.max(1) as f64).sqrt(),
            learning_rate: now.learning_rate as f32,
            optimizer: &mut self.optimizer,
            passes_left: passes * batches.len(),
            last: LossSum::default(),
            loss: LossSum::default(),
            loss_limit: now.loss_limit,
            accumulated: BTreeMap::new(),
            squares: 0.0,
            skipped: false,
        };
        let weight: f64 = batches.iter().map(|batch| objective.weight(batch)).sum();
        let weight = weight * passes as f64;
        // One pass over all batches, with the body displaced.
        let mut pass = |body: Option<Move>| -> Result<LossSum> {
            let mut loss = LossSum::default();
            for batch in batches {
                if updates.skipped {
                    return Ok(LossSum { sum: f64::NAN, weight: 1.0 });
                }
                updates.passes_left -= 1;
                objective.gradient(
                    model,
                    batch,
                    BackwardPass { body, ..self.backward },
                    weight,
                    &mut updates,
                )?;
                loss = loss + updates.last;
            }
            Ok(loss)
        };
        let moves = match &self.body {
            None => {
                pass(None)?;
                Vec::new()
            }
            Some(BodyTraining { estimator, learning_rate, .. }) => {
                let learning_rate = learning_rate * now.rate_left;
                let outcome = estimator.estimate(now.seed, learning_rate, &mut |displacement| {
                    let [plus, minus] = [pass(Some(displacement))?, pass(Some(displacement.reversed()))?];
                    Ok([plus.mean(), minus.mean()])
                })?;
                let (probes, distribution, mode) = estimator.directions();
                let record = Record::of_probes(now.step, now.seed, now.data_cursor, &outcome);
                JournalMethod::Zo { probes, distribution, mode }.moves(&record)
            }
        };
        let Updates { loss, squares, skipped, .. } = updates;
        let grad_norm = squares.sqrt();
        if skipped {
            self.optimizer.set_steps(before);
        } else if let Some(body) = &self.body {
            model.apply(Update::BodyMoves { blocks: body.blocks, moves: &moves })?;
        }
        let (loss, learning_rate, snapshot) = (loss.mean(), now.learning_rate, now.snapshot);
        let taken = StepTaken::Exact { loss, grad_norm, learning_rate, snapshot };
        Ok(Record { step: now.step, data_cursor: now.data_cursor, skipped, taken })
    }

    fn gradient(&self, record: &Record) -> Result<Gradient> {
        match record.taken {
            StepTaken::Exact { grad_norm, .. } => Ok(Gradient::Norm(grad_norm)),
            StepTaken::Zo { .. } => {
                Err(Error::internal(format!("the record of step {} is of zeroth order", record.step + 1)))
            }
        }
    }

    /// A forward pass, and the backward pass as one more.
    fn passes(&self) -> f64 {
        2.0 * self.passes_per_batch() as f64
    }

    fn state(&self) -> Vec<(String, Cow<'_, [bf16]>)> {
        self.optimizer.state()
    }

    fn restore(&mut self, state: Vec<(String, Vec<bf16>)>) -> Result<()> {
        self.optimizer.restore(state)
    }
}

impl LossGradients for Updates<'_> {
    fn goes_on(&mut self, loss: LossSum) -> bool {
        self.last = loss;
        self.loss = self.loss + loss;
        let mean = self.loss.mean();
        let has_run_away = self.passes_left == 0 && mean > self.loss_limit;
        self.skipped = !mean.is_finite() || has_run_away;
        !self.skipped
    }

    fn block(&mut self, gradients: Vec<ScaleGradient>, scales: &mut dyn Scales) -> Result<()> {
        match self.passes_left {
            // The run goes back to its last snapshot.
            _ if self.skipped => Ok(()),
            0 => self.apply(gradients, scales),
            _ => {
                self.accumulate(gradients);
                Ok(())
            }
        }
    }
}

impl Updates<'_> {
    fn accumulate(&mut self, gradients: Vec<ScaleGradient>) {
        for ScaleGradient { parameter, values } in gradients {
            match self.accumulated.get_mut(&parameter) {
                Some(sum) => sum.iter_mut().zip(&values[..]).for_each(|(sum, value)| *sum += value),
                None => drop(self.accumulated.insert(parameter, values)),
            }
        }
    }

    /// Turns the gradients of tensors into those of their parameters, whose steps are as large as those of scales: a minimum
    /// in units of its scale, and a value of a norm or a bias in units of the tensor's root mean square. A tensor of zeros has
    /// no such unit and stays as it is. Returns the tensors; `None` for scales.
    fn to_own_units(
        &self,
        gradients: &mut [ScaleGradient],
        scales: &mut dyn Scales,
    ) -> Result<Vec<Option<Units>>> {
        let units = gradients.iter_mut().map(|ScaleGradient { parameter, values: gradient }| {
            let index = (*parameter as usize).checked_sub(scales.trained().len());
            let Some(tensor) = index.and_then(|index| scales.tensors().get(index)) else { return Ok(None) };
            let (name, values) = (tensor.name.clone(), scales.tensor(&tensor.name)?);
            let (size, share) = match tensor.kind {
                TensorKind::Minima => {
                    let scales = scales.scales(tensor.weight())?;
                    gradient.iter_mut().zip(scales).for_each(|(g, scale)| *g *= scale);
                    (1.0, 1.0)
                }
                TensorKind::Norms | TensorKind::Biases => {
                    let size = root_mean_square(&values);
                    gradient.iter_mut().for_each(|g| *g *= size);
                    (size, TENSOR_SHARE)
                }
            };
            Ok(Some(Units { name, values, size, share }))
        });
        units.collect()
    }

    /// Moves the parameters of one block.
    fn apply(&mut self, mut gradients: Vec<ScaleGradient>, scales: &mut dyn Scales) -> Result<()> {
        for ScaleGradient { parameter, values } in &mut gradients {
            if let Some(earlier) = self.accumulated.remove(parameter) {
                values.iter_mut().zip(&earlier[..]).for_each(|(value, sum)| *value += sum);
            }
        }
        let units = self.to_own_units(&mut gradients, scales)?;
        let squares = sum_of_squares(gradients.iter().map(|gradient| &gradient.values[..]));
        self.squares += squares;
        // A gradient that is not finite moves nothing, and the run goes back to its last snapshot.
        if !squares.is_finite() {
            self.skipped = true;
            return Ok(());
        }
        let share = (self.max_block_norm / squares.sqrt()).min(1.0) as f32;
        for (ScaleGradient { parameter, mut values }, units) in gradients.into_iter().zip(units) {
            if let Some(units) = units {
                let learning_rate = units.share * self.learning_rate;
                self.optimizer.update(parameter, &mut values, share, learning_rate, |change| change);
                units.apply(&values, scales)?;
                continue;
            }
            let name = scales.trained()[parameter as usize].clone();
            let factors = match self.form {
                ScaleForm::Scales => {
                    self.optimizer.update(parameter, &mut values, share, self.learning_rate, f32::exp);
                    values
                }
                ScaleForm::Rows | ScaleForm::Factors => {
                    self.optimizer.update(parameter, &mut values, share, self.learning_rate, |change| change);
                    factors(&values, scales.scale_shape(&name)?).into()
                }
            };
            scales.apply(Update::Multiply { name: &name, factors })?;
        }
        Ok(())
    }
}

/// The sum of the squares, the same for any number of threads.
fn sum_of_squares<'a>(gradients: impl Iterator<Item = &'a [f32]>) -> f64 {
    let chunks: Vec<&[f32]> = gradients.flat_map(|values| values.chunks(CHUNK)).collect();
    let of_chunk = |values: &&[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum();
    let sums: Vec<f64> = chunks.par_iter().map(of_chunk).collect();
    sums.iter().sum()
}

/// The factors of a weight's scales, `[out, groups]`, for the changes of the logarithms of its rows' factors, and of its
/// columns' factors where they are trained.
fn factors(changes: &[f32], [out, groups]: [usize; 2]) -> Vec<f32> {
    let (rows, columns) = changes.split_at(out);
    let mut factors = vec![0.0; out * groups];
    factors.par_chunks_exact_mut(groups).zip(rows).for_each(|(factors, row)| {
        for (group, factor) in factors.iter_mut().enumerate() {
            *factor = (row + columns.get(group).unwrap_or(&0.0)).exp();
        }
    });
    factors
}

/// A tensor that is trained beside the scales, before its update.
struct Units {
    name: String,
    values: Vec<f32>,
    /// Change of the values for a change of a parameter by 1.
    size: f32,
    /// Share of the scales' learning rate.
    share: f32,
}

impl Units {
    fn apply(mut self, changes: &[f32], scales: &mut dyn Scales) -> Result<()> {
        // A value that stays keeps its sign, also where it is -0.0.
        let changes = self.values.iter_mut().zip(changes).filter(|(_, change)| **change != 0.0);
        changes.for_each(|(value, change)| *value += self.size * change);
        scales.apply(Update::Tensor { name: &self.name, values: &self.values })
    }
}

fn root_mean_square(values: &[f32]) -> f32 {
    let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    (squares / values.len().max(1) as f64).sqrt() as f32
}
