//! The method of training that `[train]` chooses, with its settings.

use super::{Body, MethodKind, TailBlocks, TrainConfig};
use crate::arch::{TensorKinds, TrainedTensor};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::memory::BackwardWork;
use crate::model::{BackwardPass, BlockInputs, ScaleForm};
use crate::train::exact::{BodyTraining, Exact};
use crate::train::method::Method;
use crate::train::objective::Objective;
use crate::train::zeroth_order::ZerothOrder;
use crate::zo::estimator::{Estimator, EstimatorKind, Qzo};

impl TrainConfig {
    /// The method of training with its settings, for a model of `blocks` decoder blocks.
    pub fn method<O: Objective>(&self, seed: u64, blocks: usize, inputs: BlockInputs) -> Box<dyn Method<O>> {
        match self.method {
            MethodKind::Zo => Box::new(self.zeroth_order()),
            MethodKind::Exact => Box::new(self.exact(seed, blocks, inputs)),
        }
    }

    /// Zeroth order with its settings.
    pub fn zeroth_order(&self) -> ZerothOrder {
        ZerothOrder { estimator: self.estimator() }
    }

    /// Exact gradients with their settings, for a model of `blocks` decoder blocks.
    pub fn exact(&self, seed: u64, blocks: usize, inputs: BlockInputs) -> Exact {
        let body = (self.body == Body::Zo).then(|| BodyTraining {
            estimator: self.estimator(),
            learning_rate: self.body_learning_rate,
            blocks: blocks - self.backward_pass(blocks, inputs).tail_blocks,
        });
        Exact::new(self.backward_pass(blocks, inputs), self.optimizer, self.max_grad_norm, seed, body)
    }

    /// The backward pass of exact gradients.
    pub fn backward_pass(&self, blocks: usize, inputs: BlockInputs) -> BackwardPass {
        let tail_blocks = match self.tail_blocks {
            TailBlocks::All => blocks,
            TailBlocks::Last(last) => last.min(blocks),
        };
        BackwardPass { tail_blocks, form: self.parameters.form, inputs, body: None }
    }

    /// The tensors of a model that are trained beside the scales.
    ///
    /// # Errors
    /// The model has none of a kind that is to be trained.
    pub fn trained_tensors(&self, checkpoint: &Checkpoint) -> Result<Vec<TrainedTensor>> {
        let blocks = checkpoint.config().num_hidden_layers;
        let most = if self.body == Body::Zo { blocks - 1 } else { blocks };
        if let TailBlocks::Last(asked) = self.tail_blocks
            && self.method == MethodKind::Exact
            && asked > most
        {
            let why = if most < blocks { ", of which body = \"zo\" needs one" } else { "" };
            return Err(Error::invalid(
                format!("tail_blocks is {asked}, but the model has {blocks} blocks{why}"),
                format!("set train.tail_blocks to {most} or fewer"),
            ));
        }
        let tail_blocks = self.backward_pass(blocks, BlockInputs::OnDevice).tail_blocks;
        checkpoint.trained_tensors(self.tensor_kinds(), tail_blocks)
    }

    /// The kinds of tensors that are trained beside the scales.
    fn tensor_kinds(&self) -> TensorKinds {
        match self.method {
            MethodKind::Zo => TensorKinds::default(),
            MethodKind::Exact => self.parameters.tensors,
        }
    }

    fn estimator(&self) -> Estimator {
        match self.estimator {
            EstimatorKind::Qzo => Estimator::Qzo(self.qzo()),
        }
    }

    /// A sentence that names the method, why it is chosen, and what it trains.
    pub fn describe(&self, inputs: BlockInputs) -> String {
        if self.method == MethodKind::Zo {
            return "method zo, as the recipe says: forward passes alone".into();
        }
        let blocks = match self.tail_blocks {
            TailBlocks::All => "all blocks".into(),
            TailBlocks::Last(1) => "the last block".into(),
            TailBlocks::Last(blocks) => format!("the last {blocks} blocks"),
        };
        let form = match self.parameters.form {
            ScaleForm::Scales => "the scales",
            ScaleForm::Rows => "a factor for the scales of each row",
            ScaleForm::Factors => "factors for the scales of each row and group",
        };
        let kinds: Vec<&str> = self.tensor_kinds().iter().map(|kind| kind.name()).collect();
        let parameters = match &kinds[..] {
            [] => form.to_owned(),
            [rest @ .., last] => format!("{} and {last}", [&[form], rest].concat().join(", ")),
        };
        let mut text = format!(
            "method exact, since the loss has a gradient: {parameters} in {blocks}, learning rate {:.2e}",
            self.highest_learning_rate()
        );
        if self.body == Body::Zo {
            text += "; the blocks before them by zeroth order";
        }
        if self.parts() > 1 {
            text += &format!("; the rows of a step in {} parts, to save memory", self.parts());
        }
        if inputs == BlockInputs::OnHost {
            text += "; the inputs of the blocks in host memory";
        }
        text
    }

    /// The memory-relevant facts of the method's backward pass, if it has one.
    pub fn backward_work(&self, blocks: usize, inputs: BlockInputs) -> Option<BackwardWork> {
        (self.method == MethodKind::Exact).then(|| BackwardWork {
            pass: self.backward_pass(blocks, inputs),
            tensors: self.tensor_kinds(),
            moments: self.optimizer.moments(),
            accumulates: self.parts() > 1 || self.body == Body::Zo,
        })
    }

    pub(super) fn qzo(&self) -> Qzo {
        Qzo {
            eps: self.zo_eps,
            clip: self.clip,
            probes: self.probes,
            distribution: self.perturbation,
            mode: self.scale_mode,
        }
    }
}
