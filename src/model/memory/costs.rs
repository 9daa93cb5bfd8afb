//! The memory that a pass takes on each backend.

use std::collections::BTreeSet;

use super::card::{Passes, Pool};
use super::workload::Workload;
use crate::arch::ModelConfig;
use crate::checkpoint::Layout;
use crate::data::Load;
use crate::device::ComputeType;
use crate::error::Result;
use crate::kernels::{GRADIENT_SCRATCH, Kernels};
use crate::model::LOGIT_BYTES;
use crate::packed::FloatType;

/// The memory costs of a backend.
pub(super) struct Costs {
    /// Bytes per activation.
    pub activation: u64,
    /// Bytes per unpacked weight, if the backend unpacks whole matrices.
    pub scratch: Option<u64>,
    /// Largest number of tokens for which both signs share a pass.
    pub paired_tokens: usize,
    /// Largest number of rows for which a product needs no unpacked weight.
    pub fused_rows: usize,
    /// Bytes per value of a dense weight, by its type in the file.
    pub dense: fn(FloatType, ComputeType) -> u64,
    pub compute: ComputeType,
}

impl Costs {
    pub fn of<B: Kernels>(compute: ComputeType) -> Self {
        let activation = B::tensor_type(compute).size() as u64;
        Self {
            activation,
            scratch: B::UNPACKS_WHOLE_WEIGHTS.then_some(activation),
            paired_tokens: B::PAIRED_TOKENS,
            fused_rows: 2 * B::PAIRED_TOKENS,
            dense: |stored, compute| B::weight_type(stored.into(), compute).size() as u64,
            compute,
        }
    }

    /// Bytes of a token's keys and values, in all layers together.
    pub fn cached_bytes(&self, config: &ModelConfig) -> u64 {
        config.cached_values() as u64 * self.activation
    }

    /// Number of signs in one pass.
    pub fn signs(&self, load: Load, both: bool) -> usize {
        if both && load.tokens <= self.paired_tokens { 2 } else { 1 }
    }

    /// Bytes of activations and bytes of logits in a pass.
    pub fn pass(&self, config: &ModelConfig, load: Load, has_perm: bool, both_signs: bool) -> (u64, u64) {
        let parts = self.signs(load, both_signs);
        if self.scratch.is_some() {
            let passes = Passes { config, activation: self.activation as usize, has_perm };
            return passes.bytes(load, parts, both_signs && parts == 1);
        }
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        // Widths that exist beside the residual. The input of a product exists twice: plain, and as the product packs
        // it. Norm with queries, keys and values; norm with gate and up; or gated activations with the output.
        let attention = 2 * hidden + q + 2 * kv;
        let gated = 2 * inner + hidden;
        // The permuted copy of a product's input.
        let [hidden_copy, inner_copy] = [hidden, inner].map(|width| if has_perm { width } else { 0 });
        let norm = attention.max(2 * hidden + 2 * inner) + hidden_copy;
        // The embeddings, which are kept for the pass of the other sign if the signs have separate passes.
        let shared = if both_signs && load.tokens > self.paired_tokens { hidden } else { 0 };
        let widest = shared + hidden + norm.max(gated + inner_copy);
        let angles = 4 * config.head_dim;
        let row = widest as u64 * self.activation + angles as u64;
        // The logits, the logits minus their maximum, and the exponentials.
        let logits = (parts * load.scored * config.vocab_size * 4).min(LOGIT_BYTES) * 3;
        ((parts * load.tokens) as u64 * row, logits as u64)
    }

    /// Bytes of the largest unpacked weight, for all signs of a pass, and of gradients of weights.
    pub fn unpacked(
        &self,
        config: &ModelConfig,
        layout: &dyn Fn(&str) -> Result<Layout>,
        workload: Workload,
        bytes: u64,
    ) -> Result<u64> {
        let mut largest = 0;
        let has_backward = workload.backward.is_some();
        let is_unpacked = |rows: usize| has_backward || rows > self.fused_rows;
        let both = workload.train.tokens > 0 && !has_backward;
        let signs = if both { self.signs(workload.train, true) } else { 1 };
        if is_unpacked(workload.train.tokens.max(workload.evaluation.tokens)) {
            for layer in 0..config.num_hidden_layers {
                for linear in config.linears(layer) {
                    if matches!(layout(&linear.weight())?, Layout::Packed(_)) {
                        let elements: u64 = linear.shape.iter().map(|d| *d as u64).product();
                        largest = largest.max(elements * bytes);
                    }
                }
            }
        }
        let head = format!("{}.weight", config.head());
        let passes = Passes { config, activation: self.activation as usize, has_perm: false };
        let scored = workload.train.scored.max(workload.evaluation.scored).min(passes.logit_rows(1));
        if is_unpacked(scored) && matches!(layout(&head)?, Layout::Packed(_)) {
            largest = largest.max((config.vocab_size * config.word_embed_proj_dim) as u64 * bytes);
        }
        let gradients = if has_backward { (largest / bytes * 4).min(GRADIENT_SCRATCH as u64) } else { 0 };
        Ok(largest * signs as u64 + gradients)
    }

    /// Bytes of displaced scales: those of a product, and the new scales of an update. The pool keeps a buffer of each
    /// size.
    pub fn moved(&self, sizes: &BTreeSet<u64>, workload: Workload) -> u64 {
        let mut pool = Pool::default();
        for size in sizes.iter().map(|size| *size as usize).filter(|_| workload.train.tokens > 0) {
            let moved = pool.take(size * self.signs(workload.train, true));
            pool.give([moved]);
            let stepped = pool.take(size);
            pool.give([stepped]);
        }
        pool.reserved as u64
    }
}
