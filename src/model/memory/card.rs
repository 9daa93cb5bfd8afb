//! Bytes that the memory pools of a GPU need for a forward pass. A pool allocates exactly the requested size and keeps
//! a freed buffer for the next one of the same size (see `device::pools`). Therefore the bytes depend on the largest
//! number of buffers of each size that exist at a time. This file takes and returns buffers in the same order as
//! `model::decoder` and `model::block`.

use std::collections::BTreeMap;

use crate::arch::{BlockKind, ModelConfig};
use crate::data::Load;
use crate::model::LOGIT_BYTES;

/// Alignment of buffers in CUDA; WGPU's alignment divides it.
const ALIGNMENT: usize = 512;

/// A simulated memory pool.
#[derive(Default)]
pub struct Pool {
    /// Number of free buffers of each size.
    free: BTreeMap<usize, usize>,
    /// Bytes of all buffers.
    pub reserved: usize,
}

impl Pool {
    /// Takes a buffer. Returns its aligned size, with which [`Self::give`] returns the buffer.
    pub fn take(&mut self, bytes: usize) -> usize {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        match self.free.get_mut(&bytes).filter(|free| **free > 0) {
            Some(free) => *free -= 1,
            None => self.reserved += bytes,
        }
        bytes
    }

    /// Returns buffers to the pool.
    pub fn give<const N: usize>(&mut self, buffers: [usize; N]) {
        buffers.into_iter().for_each(|bytes| *self.free.entry(bytes).or_default() += 1);
    }

    /// Takes a buffer for a result that is computed from `buffer`, and then returns `buffer`.
    fn next(&mut self, bytes: usize, buffer: usize) -> usize {
        let next = self.take(bytes);
        self.give([buffer]);
        next
    }
}

/// The forward passes of a model.
pub struct Passes<'a> {
    pub config: &'a ModelConfig,
    /// Bytes of an activation.
    pub activation: usize,
    /// Whether a weight has a permutation of its inputs.
    pub has_perm: bool,
}

impl Passes<'_> {
    /// Bytes of activations and bytes of logits for `parts` signs in one pass. `again`: another pass begins with the
    /// same hidden states.
    pub fn bytes(&self, load: Load, parts: usize, again: bool) -> (u64, u64) {
        if load.tokens == 0 {
            return (0, 0);
        }
        let rows = parts * load.tokens;
        let mut pool = Pool::default();
        self.embedded(&mut pool, load.tokens, parts, again);
        self.shared(&mut pool, rows);
        // The first norm needs a new buffer: there is no branch yet whose buffer it could reuse.
        let mut branch = pool.take(rows * self.config.hidden_size * self.activation);
        for _ in 0..2 {
            branch = self.block(&mut pool, rows, branch);
        }
        self.norm_of_sum(&mut pool, rows, branch);
        (pool.reserved as u64, self.logits(parts * load.scored, parts))
    }

    /// Embeddings of the tokens, repeated for each of `parts`.
    fn embedded(&self, pool: &mut Pool, tokens: usize, parts: usize, again: bool) -> usize {
        let row = tokens * self.config.hidden_size;
        // Rows of a table on the device are scaled in f32.
        if self.config.input_scale() != 1.0 && self.activation != 4 {
            let wide = pool.take(4 * row);
            pool.give([wide]);
        }
        let x = pool.take(self.activation * row);
        match parts {
            1 if again => pool.take(self.activation * row),
            1 => x,
            _ => pool.next(parts * self.activation * row, x),
        }
    }

    /// Rotations, and the bounds of the keys that each row attends to.
    fn shared(&self, pool: &mut Pool, rows: usize) {
        let kinds_of_layers = 1 + usize::from(self.config.sliding_window.is_some());
        for _ in 0..kinds_of_layers {
            pool.take(16 * rows);
            pool.take(2 * rows * self.config.rotary_dim);
            pool.take(2 * rows * self.config.rotary_dim);
        }
    }

    /// A block other than the first. Its inputs are the residual sum and the last block's `branch`, in two buffers.
    fn block(&self, pool: &mut Pool, rows: usize, branch: usize) -> usize {
        let config = self.config;
        let bytes = |width: usize| rows * width * self.activation;
        let (hidden, inner) = (bytes(config.hidden_size), bytes(config.intermediate_size));
        let (q_width, kv_width) = (
            bytes(config.num_attention_heads * config.head_dim),
            bytes(config.num_key_value_heads * config.head_dim),
        );
        let fused = config.block == BlockKind::Phi3;

        let h = self.norm_of_sum(pool, rows, branch);
        self.permuted(pool, h);
        // Queries and keys are rotated in place.
        let (q, k, v) = if fused {
            let y = pool.next(q_width + 2 * kv_width, h);
            let parts = (pool.take(q_width), pool.take(kv_width), pool.take(kv_width));
            pool.give([y]);
            parts
        } else {
            let (q, k) = (pool.take(q_width), pool.take(kv_width));
            (q, k, pool.next(kv_width, h))
        };
        let attended = pool.next(q_width, q);
        pool.give([k, v]);
        self.permuted(pool, attended);
        let branch = pool.next(hidden, attended);

        let h = self.norm_of_sum(pool, rows, branch);
        self.permuted(pool, h);
        let gated = match config.block {
            BlockKind::Opt { .. } => {
                let up = pool.next(inner, h);
                pool.next(inner, up)
            }
            _ if fused => {
                let both = pool.next(2 * inner, h);
                pool.next(inner, both)
            }
            _ => {
                // The product overwrites the gate.
                let (gate, up) = (pool.take(inner), pool.next(inner, h));
                pool.give([up]);
                gate
            }
        };
        self.permuted(pool, gated);
        pool.next(hidden, gated)
    }

    /// Adds a branch to the sum in place, and norms the sum into the buffer of the branch. LayerNorm and Gemma's output
    /// norms take additional buffers.
    fn norm_of_sum(&self, pool: &mut Pool, rows: usize, branch: usize) -> usize {
        let config = self.config;
        let has_output_norms = matches!(config.block, BlockKind::Gemma2 | BlockKind::Olmo2);
        let branch = if has_output_norms { pool.next(branch, branch) } else { branch };
        if !config.layer_norms() {
            return branch;
        }
        pool.give([branch]);
        self.norm(pool, rows, config.hidden_size)
    }

    /// A norm that keeps its input.
    fn norm(&self, pool: &mut Pool, rows: usize, width: usize) -> usize {
        let out = rows * width * self.activation;
        if !self.config.layer_norms() {
            return pool.take(out);
        }
        // LayerNorm first centres its input, in f32.
        let wide = rows * width * 4;
        let centred = pool.take(wide);
        let normed = pool.next(wide, centred);
        if self.activation == 4 { normed } else { pool.next(out, normed) }
    }

    /// The permuted copy of a product's input, beside the original.
    fn permuted(&self, pool: &mut Pool, bytes: usize) {
        if self.has_perm {
            let permuted = pool.take(bytes);
            pool.give([permuted]);
        }
    }

    /// Logits of `scored` rows, in full chunks and a last, smaller one.
    fn logits(&self, scored: usize, parts: usize) -> u64 {
        let chunk = scored.min(self.logit_rows(parts));
        let mut pool = Pool::default();
        for rows in [chunk, scored % chunk.max(1)].into_iter().filter(|rows| *rows > 0) {
            let width = rows * self.config.vocab_size;
            let hidden = pool.take(rows * self.config.hidden_size * self.activation);
            let mut logits = pool.next(width * self.activation, hidden);
            if self.activation != 4 {
                logits = pool.next(4 * width, logits);
            }
            // The logits minus their maximum; the exponential overwrites them.
            let exponential = pool.take(4 * width);
            pool.give([logits, exponential]);
        }
        pool.reserved as u64
    }

    /// Number of rows whose logits are computed together.
    pub fn logit_rows(&self, parts: usize) -> usize {
        ((LOGIT_BYTES / 4 / self.config.vocab_size).max(1) / parts).max(1) * parts
    }
}
