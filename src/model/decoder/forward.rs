//! The forward passes of the decoder. `session` runs them for sequences that grow.

use burn::tensor::{DType, Int, Tensor};

use super::Decoder;
use crate::data::Target;
use crate::error::Result;
use crate::kernels::{Kernels, read};
use crate::model::block::CachedRows;
use crate::model::language_model::ModelInput;
use crate::model::norm::Residual;
use crate::model::pass::{Pass, QueryRow, query_rows};
use crate::model::scoring::{self, LOGIT_BYTES};
use crate::zo::direction::Signs;

impl<B: Kernels> Decoder<B> {
    /// See [`LanguageModel::log_probs`](crate::model::LanguageModel::log_probs).
    pub(super) fn score(&self, input: ModelInput<'_>, targets: &[Target], signs: Signs) -> Result<Vec<f32>> {
        let (count, sign_count) = (input.tokens.len(), signs.parts().len());
        let passes: Vec<Signs> = match sign_count > 1 && count > B::PAIRED_TOKENS {
            true => signs.parts().map(|noise| noise.map_or(Signs::Neither, Signs::One)).collect(),
            false => vec![signs],
        };
        if targets.is_empty() {
            return Ok(vec![]);
        }
        let parts = sign_count / passes.len();
        self.free_for_pass(parts * count, parts * targets.len());
        let (x, pass) = self.prepare(input, parts)?;
        let vocab = self.checkpoint.config().vocab_size;
        let limit = (LOGIT_BYTES / 4 / vocab).max(1);
        // The last layer computes only the rows that are scored.
        let (rows, targets) = scoring::ranked(targets);
        let scored = (rows.len() < count).then(|| scoring::indices(&rows, [parts, count], &self.device));
        let chunks = scoring::chunks(&targets, [parts, rows.len()], limit, vocab, &self.device);
        // All passes are queued before the results are read, which waits for the device.
        let mut results = Vec::with_capacity(passes.len() * chunks.len());
        for (x, signs) in std::iter::repeat_n(x, passes.len()).zip(&passes) {
            let hidden = self.forward(x, &pass.with(*signs), scored.as_ref(), no_caches());
            for chunk in &chunks {
                let hidden = hidden.clone().select(0, chunk.rows.clone());
                results.push(chunk.log_probs(self.head(hidden, *signs)));
            }
        }
        let results = read(Tensor::cat(results, 0))?;
        let mut log_probs = vec![0.0; sign_count * targets.len()];
        let indices = (0..passes.len()).flat_map(|pass| {
            let first = pass * parts * targets.len();
            chunks.iter().flat_map(|chunk| &chunk.indices).map(move |index| first + index)
        });
        indices.zip(results).for_each(|(index, result)| log_probs[index] = result);
        Ok(log_probs)
    }

    /// See [`LanguageModel::logits`](crate::model::LanguageModel::logits).
    pub(super) fn every_logit(&self, input: ModelInput<'_>) -> Result<Vec<f32>> {
        self.free_for_pass(input.tokens.len(), input.tokens.len());
        let (x, pass) = self.prepare(input, 1)?;
        read(self.head(self.forward(x, &pass, None, no_caches()), Signs::Neither))
    }

    /// Embeds packed sequences, once for each of `parts`: `[parts · T, hidden]`. Returns the embeddings and the pass
    /// without perturbation.
    pub(super) fn prepare(&self, input: ModelInput<'_>, parts: usize) -> Result<(Tensor<B, 2>, Pass<B>)> {
        let positions = input.sequences.iter().flat_map(|sequence| query_rows(sequence, 0)).map(|(at, _)| at);
        let x = self.embedding.forward(input.tokens, positions)?;
        let x = if parts == 1 { x } else { x.repeat_dim(0, parts) };
        let rows = (0..parts).flat_map(|part| {
            let shift = part * input.tokens.len();
            input.sequences.iter().flat_map(move |sequence| query_rows(sequence, shift))
        });
        Ok((x, self.pass(rows, Signs::Neither)))
    }

    /// Final hidden states of `rows`, or of all rows: `[R, hidden]`. Each block has a cache or none.
    pub(super) fn forward<'c>(
        &self,
        x: Tensor<B, 2>,
        pass: &Pass<B>,
        rows: Option<&Tensor<B, 1, Int>>,
        caches: impl Iterator<Item = Option<CachedRows<'c, B>>>,
    ) -> Tensor<B, 2> {
        let config = self.checkpoint.config();
        let mut x = Residual::from(x);
        let last = self.layers.len().saturating_sub(1);
        for ((index, layer), cache) in self.layers.iter().enumerate().zip(caches) {
            x = layer.forward_rows(rows.filter(|_| index == last), x, pass, config, cache);
        }
        self.finish(x)
    }

    pub(super) fn pass(&self, rows: impl Iterator<Item = QueryRow>, signs: Signs) -> Pass<B> {
        Pass::new(rows, self.rope.as_ref(), self.checkpoint.config(), signs, &self.device)
    }

    /// f32 logits of hidden states: `[R, hidden]` → `[R, vocab]`.
    pub(super) fn head(&self, hidden: Tensor<B, 2>, signs: Signs) -> Tensor<B, 2> {
        let hidden = match &self.project_out {
            Some(project_out) => project_out.forward(hidden, Signs::Neither),
            None => hidden,
        };
        self.capped(self.lm_head.forward(hidden, signs).cast(DType::F32))
    }

    pub(super) fn capped(&self, logits: Tensor<B, 2>) -> Tensor<B, 2> {
        match self.checkpoint.config().final_logit_softcapping {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    pub(super) fn finish(&self, residual: Residual<B>) -> Tensor<B, 2> {
        match &self.norm {
            Some(norm) => {
                let [_, normed] = norm.sum_and_norm(residual);
                normed
            }
            None => residual.sum(),
        }
    }
}

/// A pass that keeps no keys and values.
fn no_caches<'c, B: Kernels>() -> impl Iterator<Item = Option<CachedRows<'c, B>>> {
    std::iter::repeat_with(|| None)
}
