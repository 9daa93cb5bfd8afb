//! What a run needs, in bytes, before anything is loaded: so that what cannot fit is refused up front.
//!
//! Weights are counted exactly. Activations are what one decoder block and the head hold at their widest,
//! as `model::decoder` computes them; a test holds the sum against the measured peak.

use serde::Serialize;

use crate::checkpoint::{Layout, ModelConfig};
use crate::data::Load;
use crate::device::{ComputeType, Device, host, with_backend};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::LOGIT_BYTES;
use crate::quant::FloatType;

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
    pub parts: Parts,
    pub total_bytes: u64,
    /// Bytes that the device has free, where it tells.
    pub available_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Parts {
    /// Codes of the quantized weights, and their zero points, minima, codebooks and orders.
    pub codes: u64,
    /// f32 master scales.
    pub scales: u64,
    /// The rows of the embedding table in use: the table itself stays in its file.
    pub embeddings: u64,
    /// The head, norms, biases and whatever else is not quantized.
    pub dense: u64,
    pub activations: u64,
    pub logits: u64,
    /// Unpacked parts of a weight, or the tensor being loaded.
    pub workspace: u64,
    /// What an evaluation needs beyond a training step.
    pub evaluation: u64,
    /// The process as it is: program, tokenizer, dataset; a driver's context on a card.
    pub program: u64,
}

impl Parts {
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

/// A CUDA context with its kernels; not counted by the driver as any buffer.
const CONTEXT_BYTES: u64 = 400 << 20;

/// Distinct rows of the embedding table are read this many at a time, a few pages each.
const EMBEDDING_BYTES: u64 = 4 << 20;

/// Plans `workload` for a model whose matrices lie in memory as `layout` says.
///
/// # Errors
/// What `layout` reports.
pub fn plan(
    config: &ModelConfig,
    layout: &dyn Fn(&str) -> Result<Layout>,
    device: &Device,
    compute: ComputeType,
    workload: Workload,
) -> Result<Plan> {
    let costs = with_backend!(device, |B, _device| Costs::of::<B>(compute));
    let mut parts = Parts { embeddings: EMBEDDING_BYTES, ..Parts::default() };
    let (mut largest, mut ordered) = (0, false);
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
                    parts.scales += packed.scale_bytes([out, input]);
                    ordered |= packed.ordered;
                    largest = largest.max(costs.scratch.map_or(codes, |bytes| elements * bytes));
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
        Some(_) => largest,
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
        false => CONTEXT_BYTES,
    };
    let total_bytes = parts.named().iter().map(|(_, bytes)| bytes).sum();
    Ok(Plan { parts, total_bytes, available_bytes: device.free_memory() })
}

impl Plan {
    /// Whether it fits, as far as the device tells.
    pub fn fits(&self) -> bool {
        self.available_bytes.is_none_or(|available| self.total_bytes <= available)
    }
}

/// What a backend spends.
struct Costs {
    /// Bytes per activation.
    activation: u64,
    /// Bytes per unpacked weight, where a whole weight is unpacked at a time.
    scratch: Option<u64>,
    paired_tokens: usize,
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
            dense: |stored, compute| B::weight_type(stored.into(), compute).size() as u64,
            compute,
        }
    }

    /// Bytes of activations and of logits.
    fn pass(&self, config: &ModelConfig, load: Load, ordered: bool, both_signs: bool) -> (u64, u64) {
        let parts = if both_signs && load.tokens <= self.paired_tokens { 2 } else { 1 };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        // The residual, and: its norm, as it is and as the product packs it, with queries, keys and values or
        // with gate and up; or the gated activations, both ways, and their product.
        let attention = 2 * hidden + q + 2 * kv;
        // On a card the gate is not written in place.
        let gated = if self.scratch.is_some() { 3 * inner } else { 2 * inner + hidden };
        // A product's input in the order of the weight beside that in the model's.
        let [of_hidden, of_inner] = [hidden, inner].map(|width| if ordered { width } else { 0 });
        let norm = attention.max(2 * hidden + 2 * inner) + of_hidden;
        let widest = hidden + norm.max(gated + of_inner);
        let angles = 4 * config.head_dim;
        let row = widest as u64 * self.activation + angles as u64;
        // Logits, their difference from the largest, and its exponential.
        let logits = (parts * load.scored * config.vocab_size * 4).min(LOGIT_BYTES) * 3;
        ((parts * load.tokens) as u64 * row, logits as u64)
    }
}
