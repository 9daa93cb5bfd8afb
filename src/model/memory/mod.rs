//! The memory plan of a run: the bytes that it needs, counted before anything is loaded, so that a run that cannot fit
//! is refused at once.
//!
//! Weights are counted exactly. Activations are counted at the widest point of a decoder block and of the head, as
//! `model::decoder` computes them: on the host the bytes in use at a time, on a GPU the bytes of its pools. Tests
//! compare the plan with the measured peak.

mod backward;
mod card;
mod costs;
mod workload;

use std::collections::BTreeSet;

use serde::Serialize;

use costs::Costs;
pub use workload::{BackwardWork, GenerationWork, Workload};

use crate::arch::ModelConfig;
use crate::checkpoint::Layout;
use crate::device::{ComputeType, Device, host, pools, with_backend};
use crate::error::Result;

/// The memory plan of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Bytes on the device, by purpose.
    pub parts: MemoryParts,
    pub total_bytes: u64,
    /// Free bytes of the device, if it reports them.
    pub available_bytes: Option<u64>,
    /// Bytes that a card's run keeps in host memory: optimizer state, gradients, and inputs of blocks that are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPart>,
}

/// The memory of the host that a run on a card needs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HostPart {
    pub bytes: u64,
    /// Free bytes, if the system reports them.
    pub available_bytes: Option<u64>,
}

/// The bytes of a plan, by purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct MemoryParts {
    /// Codes of the quantized weights with their zero points, minima, codebooks and permutations.
    pub codes: u64,
    /// f32 master scales.
    pub scales: u64,
    /// Rows of the embedding tables that a pass uses, or the whole tables if they are on the device.
    pub embeddings: u64,
    /// The head, norms, biases and other weights that are not quantized.
    pub dense: u64,
    pub activations: u64,
    /// Inputs of the blocks, which are kept from the forward to the backward pass.
    pub block_inputs: u64,
    pub logits: u64,
    /// Optimizer state and gradients, which are in host memory.
    pub optimizer: u64,
    /// Unpacked weights and displaced scales, or the tensor that is being loaded.
    pub workspace: u64,
    /// Additional bytes of an evaluation, or of answers, compared with a training step.
    pub evaluation: u64,
    /// The process itself with tokenizer and dataset; on a GPU, the driver's context.
    pub program: u64,
}

impl MemoryParts {
    /// The parts with their names.
    pub fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("codes", self.codes),
            ("scales", self.scales),
            ("embeddings", self.embeddings),
            ("dense", self.dense),
            ("activations", self.activations),
            ("block inputs", self.block_inputs),
            ("logits", self.logits),
            ("optimizer", self.optimizer),
            ("workspace", self.workspace),
            ("evaluation", self.evaluation),
            ("program", self.program),
        ]
    }
}

/// Bytes of a CPU thread: the tiles of weights and results that it works on, and its own memory.
const THREAD_BYTES: u64 = 2 << 20;

/// Bytes of file pages that are in memory while rows of the embedding table are read: a few pages around each row.
const EMBEDDING_BYTES: u64 = 4 << 20;

/// Plans the memory of `workload` for a model whose matrices have the layouts that `layout` returns.
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
    let parts = memory_parts(config, layout, device, compute, workload)?;
    let total_bytes = parts.named().iter().map(|(_, bytes)| bytes).sum();
    let host = match workload.backward.filter(|_| !device.is_host()) {
        Some(backward) => Some(HostPart {
            bytes: backward.host_bytes(config, workload.train, compute)
                + backward.optimizer_bytes(config, layout)?,
            available_bytes: host::available(),
        }),
        None => None,
    };
    Ok(Plan { parts, total_bytes, available_bytes: device.free_memory(), host })
}

/// Bytes of a token's keys and values while answers are generated, in all layers together.
pub fn cached_bytes(config: &ModelConfig, device: &Device, compute: ComputeType) -> usize {
    with_backend!(device, |B, _device| Costs::of::<B>(compute)).cached_bytes(config) as usize
}

fn memory_parts(
    config: &ModelConfig,
    layout: &dyn Fn(&str) -> Result<Layout>,
    device: &Device,
    compute: ComputeType,
    workload: Workload,
) -> Result<MemoryParts> {
    let mut costs = with_backend!(device, |B, _device| Costs::of::<B>(compute));
    if device.is_cuda() {
        costs.fused_rows = 0;
    }
    let embeddings = if device.is_host() { EMBEDDING_BYTES } else { 0 };
    let mut parts = MemoryParts { embeddings, ..MemoryParts::default() };
    let linears = config.block_linears();
    let (mut largest, mut has_perm) = (0, false);
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
                    // The scales of the head are not trained.
                    if linears.binary_search(&name).is_ok() {
                        scales.insert(scale_bytes);
                    }
                    has_perm |= packed.ordered;
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
    let train = match workload.backward {
        Some(backward) => {
            parts.block_inputs = costs.block_inputs(config, workload.train, backward.pass);
            if device.is_host() {
                parts.optimizer = backward.optimizer_bytes(config, layout)?;
            }
            let (activations, logits) = costs.backward(config, workload.train, backward.pass.form, has_perm);
            (activations + costs.minima(config, workload.train, backward.tensors), logits)
        }
        None => costs.pass(config, workload.train, has_perm, true),
    };
    (parts.activations, parts.logits) = train;
    let GenerationWork { cache_rows, pass } = workload.generation;
    let [evaluation, generation] = [workload.evaluation, pass].map(|load| {
        let (activations, logits) = costs.pass(config, load, has_perm, false);
        activations + logits
    });
    // While the caches of a layer are laid out anew, the old ones are there, too.
    let layers = config.num_hidden_layers as u64;
    let caches = cache_rows as u64 * costs.cached_bytes(config) * (layers + 1) / layers.max(1);
    parts.evaluation = evaluation.max(generation + caches).saturating_sub(train.0 + train.1);
    let workload = Workload { evaluation: workload.evaluation.max(pass), ..workload };
    parts.workspace = match costs.scratch {
        Some(bytes) => {
            let of_scales = match workload.backward {
                // Gradients of the block at hand and of the one before, and its new scales.
                Some(_) => 3 * parts.scales / config.num_hidden_layers as u64,
                None => costs.moved(&scales, workload),
            };
            costs.unpacked(config, layout, workload, bytes)? + of_scales
        }
        // While a tensor is loaded, its pages of the file are in memory, too, but no activations yet.
        None => {
            let threads = rayon::current_num_threads() as u64;
            let later = parts.activations + parts.block_inputs + parts.logits + parts.evaluation;
            let loading = if workload.reads_files { largest.saturating_sub(later) } else { 0 };
            loading.max(threads * THREAD_BYTES)
        }
    };
    parts.program = match device.is_host() {
        true => {
            // Reading the tokenizer and the data has left freed memory, which is returned to the system first.
            host::trim();
            host::resident().unwrap_or(64 << 20)
        }
        false => pools::context(device),
    };
    Ok(parts)
}

impl Plan {
    /// Adds the embedding tables to the plan, if the device reports enough free memory for them. A tenth of the free
    /// memory stays unused, for allocations that the plan does not know of. Returns whether the tables were added.
    pub fn add_tables(&mut self, bytes: u64) -> bool {
        let total = self.total_bytes + bytes;
        let fits = self.available_bytes.is_some_and(|available| total <= available / 10 * 9);
        if fits {
            self.parts.embeddings += bytes;
            self.total_bytes = total;
        }
        fits
    }

    /// Whether the run fits. A device that does not report its free memory is assumed to have enough.
    pub fn fits(&self) -> bool {
        self.available_bytes.is_none_or(|available| self.total_bytes <= available) && self.host_fits()
    }

    /// Whether the host has the memory that the run needs beside the device.
    pub fn host_fits(&self) -> bool {
        self.host.is_none_or(|host| host.available_bytes.is_none_or(|available| host.bytes <= available))
    }
}

/// Largest number of bytes of host memory that calibration needs, without the hidden states of the samples: two blocks
/// as stored, and the work on the widest linear, partly in f64. `tokens` go through a block together.
pub fn calibration_bytes(config: &ModelConfig, tokens: usize) -> u64 {
    let (mut block, mut widest) = (0, 0);
    for linear in config.linears(0) {
        let [out, input] = linear.shape.map(|features| features as u64);
        block += 4 * out * input;
        // The Gram matrix on device and host in f32, its factor and its inverse in f64, the weight in f32 and its
        // codes.
        widest = widest.max((4 + 4 + 8 + 8) * input * input + 8 * out * input);
    }
    let wide =
        config.hidden_size + config.num_attention_heads * config.head_dim + 3 * config.intermediate_size;
    2 * block + widest + (4 * tokens * wide) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Load;

    #[test]
    fn tables_are_added_if_a_tenth_of_the_free_memory_stays_unused() {
        let plan = |available_bytes| Plan {
            parts: MemoryParts::default(),
            total_bytes: 500,
            available_bytes,
            host: None,
        };
        for (available, bytes, fits) in
            [(Some(1000), 400, true), (Some(1000), 401, false), (None, 1, false), (Some(100), 1, false)]
        {
            let mut plan = plan(available);
            assert_eq!(plan.add_tables(bytes), fits, "{available:?} {bytes}");
            let added = if fits { bytes } else { 0 };
            assert_eq!((plan.total_bytes, plan.parts.embeddings), (500 + added, added));
        }
    }

    /// On a card, with the inputs of the blocks in host memory. The first number is the peak that a card's driver counted
    /// without embedding tables, which the runs of benches/results/gpu_suite-h200*.md had on the card.
    #[cfg(feature = "cuda")]
    #[test]
    fn exact_gradients_take_little_more_than_forward_passes() {
        use crate::arch::TensorKinds;
        use crate::checkpoint::{Checkpoint, ModelShape};
        use crate::model::{BackwardPass, BlockInputs, ScaleForm};

        let device = Device::Cuda(burn_cuda::CudaDevice::default());
        let load = Load { tokens: 4096, scored: 32 };
        for (shape, measured) in [
            (ModelShape::Llama2_7b, None),
            (ModelShape::Llama2_13b, Some(8.777e9 - 0.328e9)),
            (ModelShape::Qwen25_32b, None),
        ] {
            let checkpoint = Checkpoint::synthetic(shape, 4, 128);
            let (config, layout) = (checkpoint.config(), |name: &str| checkpoint.layout(name));
            let bytes = |backward| {
                let workload = Workload { train: load, backward, ..Workload::default() };
                let parts = memory_parts(config, &layout, &device, ComputeType::Bf16, workload).unwrap();
                parts.named().iter().map(|(_, bytes)| *bytes as f64).sum::<f64>()
            };
            let pass = BackwardPass {
                tail_blocks: config.num_hidden_layers,
                form: ScaleForm::Scales,
                inputs: BlockInputs::OnHost,
                body: None,
            };
            let work = BackwardWork { pass, tensors: TensorKinds::default(), moments: 2, accumulates: false };
            let (zo, exact) = (bytes(None), bytes(Some(work)));
            eprintln!("{shape}: {:.3} and {:.3} GB, {:.3} ×", zo / 1e9, exact / 1e9, exact / zo);
            assert!(exact < 1.1 * zo, "{shape}: {zo} {exact}");
            if let Some(measured) = measured {
                assert!((exact / measured - 1.0).abs() < 0.05, "{shape}: {exact} {measured}");
            }
        }
    }
}
