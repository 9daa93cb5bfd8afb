//! Bytes that a run needs, counted before anything is loaded: a run that cannot fit is refused at once.
//!
//! Weights are counted exactly. Activations are what one decoder block and the head hold at their widest,
//! as `model::decoder` computes them: on the host at a time, on a card in its pools. Tests hold the sum
//! against the measured peak.

mod card;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::arch::{LinearRole, ModelConfig};
use crate::checkpoint::Layout;
use crate::data::Load;
use crate::device::{ComputeType, Device, host, pools, with_backend};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::LOGIT_BYTES;
use crate::model::memory::card::{Passes, Pool};
use crate::packed::FloatType;

/// The widest passes of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Workload {
    pub train: Load,
    pub evaluation: Load,
    /// Whether the weights come from files, whose pages are in memory while a tensor is read.
    pub reads_files: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Bytes on the device, by what they are for.
    pub parts: MemoryParts,
    pub total_bytes: u64,
    /// Bytes that the device has free, where it tells.
    pub available_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct MemoryParts {
    /// Codes of the quantized weights, and their zero points, minima, codebooks and orders.
    pub codes: u64,
    /// f32 master scales.
    pub scales: u64,
    /// The rows of the embedding table in use; the table itself, where it does not stay in its file.
    pub embeddings: u64,
    /// The head, norms, biases and whatever else is not quantized.
    pub dense: u64,
    pub activations: u64,
    pub logits: u64,
    /// Unpacked weights and moved scales, or the tensor being loaded.
    pub workspace: u64,
    /// Bytes that an evaluation needs beyond a training step.
    pub evaluation: u64,
    /// The process as it is: program, tokenizer, dataset; a driver's context on a card.
    pub program: u64,
}

impl MemoryParts {
    pub fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("codes", self.codes),
            ("scales", self.scales),
            ("embeddings", self.embeddings),
            ("dense", self.dense),
            ("activations", self.activations),
            ("logits", self.logits),
            ("workspace", self.workspace),
            ("evaluation", self.evaluation),
            ("program", self.program),
        ]
    }
}

/// Blocks of weights and results that a thread of the CPU has at hand, and its part of the program.
const THREAD_BYTES: u64 = 2 << 20;

/// Distinct rows of the embedding table are read this many at a time, a few pages each.
const EMBEDDING_BYTES: u64 = 4 << 20;

/// Plans `workload` for a model whose matrices lie in memory as `layout` says.
///
/// # Errors
/// `layout` fails.
pub fn plan(
    config: &ModelConfig,
    layout: &dyn Fn(&str) -> Result<Layout>,
    device: &Device,
    compute: ComputeType,
    workload: Workload,
) -> Result<Plan> {
    let mut costs = with_backend!(device, |B, _device| Costs::of::<B>(compute));
    if device.is_cuda() {
        costs.fused_rows = 0;
    }
    let embeddings = if device.is_host() { EMBEDDING_BYTES } else { 0 };
    let mut parts = MemoryParts { embeddings, ..MemoryParts::default() };
    let linears = config.block_linears();
    let (mut largest, mut ordered) = (0, false);
    let mut scales = BTreeSet::new();
    let table = format!("{}.weight", config.embed_tokens());
    let positions = config.embed_positions().map(|module| format!("{module}.weight"));
    for (name, shape) in config.tensors() {
        let elements: u64 = shape.iter().map(|d| *d as u64).product();
        let is_table = name == table;
        match &shape[..] {
            _ if is_table && !config.tie_word_embeddings => {}
            _ if positions.as_ref() == Some(&name) => {}
            &[out, input] => match layout(&name)? {
                Layout::Packed(packed) => {
                    let codes = packed.code_bytes([out, input]);
                    parts.codes += codes + packed.level_bytes([out, input]);
                    let scale_bytes = packed.scale_bytes([out, input]);
                    parts.scales += scale_bytes;
                    // The head's are not moved.
                    if linears.binary_search(&name).is_ok() {
                        scales.insert(scale_bytes);
                    }
                    ordered |= packed.ordered;
                    largest = largest.max(codes);
                }
                Layout::Dense(stored) => {
                    let bytes = elements * (costs.dense)(stored, costs.compute);
                    parts.dense += bytes;
                    largest = largest.max(bytes);
                }
            },
            _ => parts.dense += 4 * elements,
        }
    }
    let train = costs.pass(config, workload.train, ordered, true);
    let evaluation = costs.pass(config, workload.evaluation, ordered, false);
    (parts.activations, parts.logits) = train;
    parts.evaluation = (evaluation.0 + evaluation.1).saturating_sub(train.0 + train.1);
    parts.workspace = match costs.scratch {
        Some(bytes) => costs.unpacked(config, layout, workload, bytes)? + costs.moved(&scales, workload),
        // While a tensor is loaded, its pages of the file are in memory, too; but nothing else yet.
        None => {
            let threads = rayon::current_num_threads() as u64;
            let later = parts.activations + parts.logits + parts.evaluation;
            let loading = if workload.reads_files { largest.saturating_sub(later) } else { 0 };
            loading.max(threads * THREAD_BYTES)
        }
    };
    parts.program = match device.is_host() {
        true => {
            // Reading the tokenizer and the data took more than what is left of it.
            host::trim();
            host::resident().unwrap_or(64 << 20)
        }
        false => pools::context(device),
    };
    let total_bytes = parts.named().iter().map(|(_, bytes)| bytes).sum();
    Ok(Plan { parts, total_bytes, available_bytes: device.free_memory() })
}

impl Plan {
    /// Adds the tables of embeddings, where they lie on the device, if the device tells of enough free memory: with a
    /// tenth of its memory left to what no plan knows.
    pub fn add_tables(&mut self, bytes: u64) -> bool {
        let total = self.total_bytes + bytes;
        let has_room = self.available_bytes.is_some_and(|available| total <= available / 10 * 9);
        if has_room {
            self.parts.embeddings += bytes;
            self.total_bytes = total;
        }
        has_room
    }

    /// Whether it fits, as far as the device tells.
    pub fn fits(&self) -> bool {
        self.available_bytes.is_none_or(|available| self.total_bytes <= available)
    }
}

/// Bytes that a backend spends.
struct Costs {
    /// Bytes per activation.
    activation: u64,
    /// Bytes per unpacked weight, where a whole weight is unpacked at a time.
    scratch: Option<u64>,
    paired_tokens: usize,
    /// Rows up to which a product needs no unpacked weight.
    fused_rows: usize,
    /// Bytes per value of a dense weight, by how it is stored.
    dense: fn(FloatType, ComputeType) -> u64,
    compute: ComputeType,
}

impl Costs {
    fn of<B: Kernels>(compute: ComputeType) -> Self {
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

    /// Signs that go through the model in one pass.
    fn signs(&self, load: Load, both: bool) -> usize {
        if both && load.tokens <= self.paired_tokens { 2 } else { 1 }
    }

    /// Bytes of activations and of logits.
    fn pass(&self, config: &ModelConfig, load: Load, ordered: bool, both_signs: bool) -> (u64, u64) {
        let parts = self.signs(load, both_signs);
        if self.scratch.is_some() {
            let passes = Passes { config, activation: self.activation as usize, ordered };
            return passes.bytes(load, parts, both_signs && parts == 1);
        }
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        // The residual, and: its norm, as it is and as the product packs it, with queries, keys and values or
        // with gate and up; or the gated activations, both ways, and their product.
        let attention = 2 * hidden + q + 2 * kv;
        let gated = 2 * inner + hidden;
        // A product's input in the order of the weight beside that in the model's.
        let [of_hidden, of_inner] = [hidden, inner].map(|width| if ordered { width } else { 0 });
        let norm = attention.max(2 * hidden + 2 * inner) + of_hidden;
        // What the other sign begins with, where each has a pass of its own.
        let shared = if both_signs && load.tokens > self.paired_tokens { hidden } else { 0 };
        let widest = shared + hidden + norm.max(gated + of_inner);
        let angles = 4 * config.head_dim;
        let row = widest as u64 * self.activation + angles as u64;
        // Logits, their difference from the largest, and its exponential.
        let logits = (parts * load.scored * config.vocab_size * 4).min(LOGIT_BYTES) * 3;
        ((parts * load.tokens) as u64 * row, logits as u64)
    }

    /// The scratch of the largest product, for each sign of a pass: the weights of one input are unpacked together.
    fn unpacked(
        &self,
        config: &ModelConfig,
        layout: &dyn Fn(&str) -> Result<Layout>,
        workload: Workload,
        bytes: u64,
    ) -> Result<u64> {
        let mut largest = 0;
        let is_unpacked = |rows: usize| rows > self.fused_rows;
        let signs = if workload.train.tokens > 0 { self.signs(workload.train, true) } else { 1 };
        if is_unpacked(workload.train.tokens.max(workload.evaluation.tokens)) {
            for layer in 0..config.num_hidden_layers {
                for linears in config.linears(layer).chunk_by(|a, b| share_an_input(a.role, b.role)) {
                    let mut size = 0;
                    for linear in linears {
                        if matches!(layout(&linear.weight())?, Layout::Packed(_)) {
                            size += linear.shape.iter().map(|d| *d as u64).product::<u64>() * bytes;
                        }
                    }
                    largest = largest.max(size);
                }
            }
        }
        let head = format!("{}.weight", config.head());
        let passes = Passes { config, activation: self.activation as usize, ordered: false };
        let scored = workload.train.scored.max(workload.evaluation.scored).min(passes.logit_rows(1));
        if is_unpacked(scored) && matches!(layout(&head)?, Layout::Packed(_)) {
            largest = largest.max((config.vocab_size * config.word_embed_proj_dim) as u64 * bytes);
        }
        Ok(largest * signs as u64)
    }

    /// Scales moved for a product, and after a step in the place of the old: one for every size.
    fn moved(&self, sizes: &BTreeSet<u64>, workload: Workload) -> u64 {
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

/// Whether neighbours among a block's linears are products of one input.
fn share_an_input(first: LinearRole, second: LinearRole) -> bool {
    matches!(
        (first, second),
        (LinearRole::Query, LinearRole::Key)
            | (LinearRole::Key, LinearRole::Value)
            | (LinearRole::Gate, LinearRole::Up)
    )
}

/// Bytes of host memory that calibration takes at its widest, hidden states apart: two blocks as they are
/// stored, and what the widest linear needs in f64. `tokens` go through a block together.
pub fn calibration_bytes(config: &ModelConfig, tokens: usize) -> u64 {
    let (mut block, mut widest) = (0, 0);
    for linear in config.linears(0) {
        let [out, input] = linear.shape.map(|features| features as u64);
        block += 4 * out * input;
        // The Gram matrix on the device and on the host in f32, its factor and the inverse in f64, the weight
        // in f32 and its codes.
        widest = widest.max((4 + 4 + 8 + 8) * input * input + 8 * out * input);
    }
    let wide =
        config.hidden_size + config.num_attention_heads * config.head_dim + 3 * config.intermediate_size;
    2 * block + widest + (4 * tokens * wide) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_added_where_a_tenth_stays_free() {
        let plan =
            |available_bytes| Plan { parts: MemoryParts::default(), total_bytes: 500, available_bytes };
        for (available, bytes, has_room) in
            [(Some(1000), 400, true), (Some(1000), 401, false), (None, 1, false), (Some(100), 1, false)]
        {
            let mut plan = plan(available);
            assert_eq!(plan.add_tables(bytes), has_room, "{available:?} {bytes}");
            let added = if has_room { bytes } else { 0 };
            assert_eq!((plan.total_bytes, plan.parts.embeddings), (500 + added, added));
        }
    }
}
