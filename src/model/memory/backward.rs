//! The memory of a step with a backward pass.

use super::costs::Costs;
use super::workload::BackwardWork;
use crate::arch::{ModelConfig, TensorKinds};
use crate::checkpoint::Layout;
use crate::data::Load;
use crate::device::ComputeType;
use crate::error::Result;
use crate::model::{BackwardPass, BlockInputs, LOGIT_BYTES, ScaleForm};
use crate::packed::LevelsKind;

impl BackwardWork {
    /// Bytes of the optimizer's state and of gradients.
    pub(super) fn optimizer_bytes(
        &self,
        config: &ModelConfig,
        layout: &dyn Fn(&str) -> Result<Layout>,
    ) -> Result<u64> {
        let BackwardWork { pass, tensors, moments, accumulates } = *self;
        let blocks = config.num_hidden_layers;
        let (mut all, mut largest) = (0, 0);
        for block in blocks - pass.tail_blocks.min(blocks)..blocks {
            let beside = config.norms_and_biases(block..block + 1);
            let beside = beside.iter().filter(|tensor| tensors.has(tensor.kind));
            let mut parameters: u64 = beside.map(|tensor| tensor.length as u64).sum();
            for linear in config.linears(block) {
                if let Layout::Packed(packed) = layout(&linear.weight())? {
                    let [rows, columns] = linear.shape;
                    let scales = packed.scale_bytes([rows, columns]) / 4;
                    if tensors.minima && packed.levels == LevelsKind::Minimum {
                        parameters += scales;
                    }
                    parameters += match pass.form {
                        ScaleForm::Scales => scales,
                        ScaleForm::Rows => rows as u64,
                        ScaleForm::Factors => rows as u64 + scales / rows as u64,
                    };
                }
            }
            all += parameters;
            largest = largest.max(parameters);
        }
        // Gradients of the block at hand and of the one before; its changes and new scales.
        let sums = if accumulates { 4 * all } else { 0 };
        Ok(2 * moments as u64 * all + 4 * 4 * largest + sums)
    }

    /// Bytes of the inputs of the blocks that are in host memory.
    pub(super) fn host_bytes(&self, config: &ModelConfig, load: Load, compute: ComputeType) -> u64 {
        let bytes = if compute == ComputeType::F32 { 4 } else { 2 };
        match self.pass.inputs {
            BlockInputs::OnDevice => 0,
            BlockInputs::OnHost => (self.pass.tail_blocks * load.tokens * config.hidden_size * bytes) as u64,
        }
    }
}

impl Costs {
    /// Bytes of the kept inputs of the blocks.
    pub(super) fn block_inputs(&self, config: &ModelConfig, load: Load, pass: BackwardPass) -> u64 {
        let bytes = if self.compute == ComputeType::Bf16 { 2 } else { self.activation };
        let count = match pass.inputs {
            BlockInputs::OnDevice => pass.tail_blocks,
            // One is copied while the next is computed.
            BlockInputs::OnHost => pass.tail_blocks.min(2),
        };
        (count * load.tokens * config.hidden_size) as u64 * bytes
    }

    /// Bytes of activations and bytes of logits at the widest point of a step with a backward pass: the products of a
    /// block's MLP and their gradients; on the CPU also the operands that a product packs.
    pub(super) fn backward(
        &self,
        config: &ModelConfig,
        load: Load,
        form: ScaleForm,
        has_perm: bool,
    ) -> (u64, u64) {
        let (forward, _) = self.pass(config, load, has_perm, false);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        // The block's input, its middle, the norm of that and the gradient; queries, keys and values; attention's result.
        let mut kept = 4 * hidden + 2 * q + 2 * kv;
        let by_factors = form != ScaleForm::Scales;
        if by_factors || config.qk_norm.is_some() {
            // Queries and keys before their norms and rotations.
            kept += q + kv;
        }
        if by_factors {
            // The results of attention and of the block.
            kept += 2 * hidden;
        }
        // Gate, up, their product and its gradient; packed operands in words of one or two features.
        let packed = if self.compute == ComputeType::Bf16 { inner + hidden } else { 2 * inner + 2 * hidden };
        let products = match (self.scratch.is_some(), by_factors) {
            (false, _) => 4 * inner + packed,
            // A card computes the gradient of the product in the place of the product.
            (true, false) => 3 * inner,
            // Gate and up, their gradients, and the product of two of these in f32, with copies of both where they are
            // narrower.
            (true, true) if self.activation == 4 => 5 * inner,
            (true, true) => 4 * inner + 3 * 2 * inner,
        };
        let widest = kept + products + if has_perm { inner } else { 0 };
        let angles = 4 * config.head_dim;
        let row = widest as u64 * self.activation + angles as u64;
        // The logits, the probabilities and two steps on the way to each.
        let logits = (load.scored * config.vocab_size * 4).min(LOGIT_BYTES) * 4;
        ((load.tokens as u64 * row).max(forward), logits as u64)
    }

    /// Bytes of the f32 copies of a product's input and of its gradient that the gradient of minima takes.
    pub(super) fn minima(&self, config: &ModelConfig, load: Load, tensors: TensorKinds) -> u64 {
        let is_copied = tensors.minima && self.activation < 4;
        let widest = config.hidden_size + config.intermediate_size;
        if is_copied { (4 * load.tokens * widest) as u64 } else { 0 }
    }
}
