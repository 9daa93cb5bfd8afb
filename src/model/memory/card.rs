//! Bytes that the pools of a card take for a pass. A pool allocates exactly what is asked for and keeps it for the
//! next buffer of the same size (see `device::pools`), so that what counts is, for every size, how many
//! buffers of it there are at a time. They are taken and given back here in the order in which
//! `model::decoder` and `model::layer` do it.

use std::collections::BTreeMap;

use crate::arch::{BlockKind, ModelConfig};
use crate::data::Load;
use crate::model::LOGIT_BYTES;

/// Sizes of buffers are multiples of this: CUDA's, of which WGPU's is a part.
const ALIGNMENT: usize = 512;

#[derive(Default)]
pub struct Pool {
    free: BTreeMap<usize, usize>,
    pub reserved: usize,
}

impl Pool {
    /// The size, to be given back.
    pub fn take(&mut self, bytes: usize) -> usize {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        match self.free.get_mut(&bytes).filter(|free| **free > 0) {
            Some(free) => *free -= 1,
            None => self.reserved += bytes,
        }
        bytes
    }

    pub fn give<const N: usize>(&mut self, buffers: [usize; N]) {
        buffers.into_iter().for_each(|bytes| *self.free.entry(bytes).or_default() += 1);
    }

    /// Takes one in the place of `buffer`, which is read while the other is written.
    fn next(&mut self, bytes: usize, buffer: usize) -> usize {
        let next = self.take(bytes);
        self.give([buffer]);
        next
    }
}

/// Forward passes of a config in which an activation has so many bytes.
pub struct Passes<'a> {
    pub config: &'a ModelConfig,
    pub activation: usize,
    /// Whether a weight has its inputs in an order of its own.
    pub ordered: bool,
}

impl Passes<'_> {
    /// Bytes of activations, and of logits, for `parts` signs in one pass; `again`: of which another begins with
    /// the same hidden states.
    pub fn bytes(&self, load: Load, parts: usize, again: bool) -> (u64, u64) {
        if load.tokens == 0 {
            return (0, 0);
        }
        let rows = parts * load.tokens;
        let mut pool = Pool::default();
        self.embedded(&mut pool, load.tokens, parts, again);
        self.shared(&mut pool, rows);
        // The first norm has no branch to take the place of.
        let mut branch = pool.take(rows * self.config.hidden_size * self.activation);
        for _ in 0..2 {
            branch = self.block(&mut pool, rows, branch);
        }
        self.norm_of_sum(&mut pool, rows, branch);
        (pool.reserved as u64, self.logits(parts * load.scored, parts))
    }

    /// The hidden states of `parts` times the tokens.
    fn embedded(&self, pool: &mut Pool, tokens: usize, parts: usize, again: bool) -> usize {
        let row = tokens * self.config.hidden_size;
        // Rows of a table on the device are multiplied in f32.
        if self.config.embedding_scale != 1.0 && self.activation != 4 {
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

    /// Angles, and the keys that each row sees.
    fn shared(&self, pool: &mut Pool, rows: usize) {
        let views = 1 + usize::from(self.config.sliding_window.is_some());
        for _ in 0..views {
            pool.take(16 * rows);
            pool.take(2 * rows * self.config.rotary_dim);
            pool.take(2 * rows * self.config.rotary_dim);
        }
    }

    /// A block, from its second on: the sum so far in one buffer, what the last block adds to it in another.
    fn block(&self, pool: &mut Pool, rows: usize, branch: usize) -> usize {
        let config = self.config;
        let of = |width: usize| rows * width * self.activation;
        let (hidden, inner) = (of(config.hidden_size), of(config.intermediate_size));
        let (q_width, kv_width) = (
            of(config.num_attention_heads * config.head_dim),
            of(config.num_key_value_heads * config.head_dim),
        );
        let fused = config.block == BlockKind::Phi3;

        let h = self.norm_of_sum(pool, rows, branch);
        self.sorted(pool, h);
        // Queries and keys are rotated in their place.
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
        self.sorted(pool, attended);
        let branch = pool.next(hidden, attended);

        let h = self.norm_of_sum(pool, rows, branch);
        self.sorted(pool, h);
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
                // In the place of the gate.
                let (gate, up) = (pool.take(inner), pool.next(inner, h));
                pool.give([up]);
                gate
            }
        };
        self.sorted(pool, gated);
        pool.next(hidden, gated)
    }

    /// Adds a branch to the sum, in its place, and norms the sum in the place of the branch; norms of other kinds
    /// take buffers of their own.
    fn norm_of_sum(&self, pool: &mut Pool, rows: usize, branch: usize) -> usize {
        let config = self.config;
        let branch = if config.block == BlockKind::Gemma2 { pool.next(branch, branch) } else { branch };
        if !config.layer_norms() {
            return branch;
        }
        pool.give([branch]);
        self.norm(pool, rows, config.hidden_size)
    }

    /// A norm, whose input stays.
    fn norm(&self, pool: &mut Pool, rows: usize, width: usize) -> usize {
        let out = rows * width * self.activation;
        if !self.config.layer_norms() {
            return pool.take(out);
        }
        // Centred, in f32.
        let wide = rows * width * 4;
        let centred = pool.take(wide);
        let normed = pool.next(wide, centred);
        if self.activation == 4 { normed } else { pool.next(out, normed) }
    }

    /// A product's input in the order of the weight, beside that in the model's.
    fn sorted(&self, pool: &mut Pool, bytes: usize) {
        if self.ordered {
            let sorted = pool.take(bytes);
            pool.give([sorted]);
        }
    }

    /// Logits of `scored` rows: as many at a time as the limit allows, and the rest.
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
            // Their difference from the largest, and in its place the exponential.
            let exponential = pool.take(4 * width);
            pool.give([logits, exponential]);
        }
        pool.reserved as u64
    }

    /// Rows whose logits exist at a time.
    pub fn logit_rows(&self, parts: usize) -> usize {
        ((LOGIT_BYTES / 4 / self.config.vocab_size).max(1) / parts).max(1) * parts
    }
}
