//! The decoder of all model families. The config describes their differences. `backward` is its backward pass,
//! and `tensors` are the tensors that are trained beside the scales.

mod backward;
mod tensors;

use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor};

use crate::arch::{ModelConfig, TrainedTensor};
use crate::checkpoint::Checkpoint;
use crate::data::Target;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, DeviceWeight, HostFloats, Kernels, read};
use crate::model::block::{DecoderBlock, LayerCache};
use crate::model::embedding::{Embedding, Tables};
use crate::model::gradient::{BackwardPass, GradientSink};
use crate::model::language_model::{LanguageModel, ModelInput, Session};
use crate::model::linear::{Linear, LinearWeight};
use crate::model::norm::{Norm, Residual};
use crate::model::pass::{Pass, QueryRow, query_rows};
use crate::model::pool_usage::PoolUsage;
use crate::model::rope::Rope;
use crate::model::scales::{Scales, Update};
use crate::model::scoring;
use crate::model::scoring::LOGIT_BYTES;
use crate::model::trained::TrainedPlace;
use crate::zo::direction::Signs;

/// A decoder-only language model on a device.
pub struct Decoder<B: Kernels> {
    checkpoint: Arc<Checkpoint>,
    trained: Vec<String>,
    /// The tensors that are trained beside the scales.
    tensors: Vec<TrainedTensor>,
    /// Their places.
    places: Vec<TrainedPlace>,
    device: B::Device,
    embedding: Embedding<B>,
    rope: Option<Rope>,
    layers: Vec<DecoderBlock<B>>,
    norm: Option<Norm<B>>,
    project_out: Option<Linear<B>>,
    lm_head: Linear<B>,
    pool_usage: PoolUsage,
    compute: ComputeType,
}

impl<B: Kernels> Decoder<B> {
    /// Loads a checkpoint onto a device. `tables` is the place of the embeddings.
    pub fn load(
        checkpoint: Arc<Checkpoint>,
        device: B::Device,
        dtype: ComputeType,
        tables: Tables,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        let trained = checkpoint.trained_names();
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            progress(index, config.num_hidden_layers);
            layers.push(DecoderBlock::load(&checkpoint, index, &trained, &device, dtype)?);
        }
        progress(config.num_hidden_layers, config.num_hidden_layers);
        let packed = layers.iter().flat_map(DecoderBlock::linears).filter_map(Linear::packed);
        B::expect_unpacked(packed.map(DeviceWeight::elements).max().unwrap_or(0), &device);
        let norm = config.final_norm().map(|module| Norm::load(&checkpoint, module, &device)).transpose()?;
        let outer = |module: &str| Linear::load(&checkpoint, module, false, &trained, &device, dtype);
        let project_out = config.projections().map(|[_, module]| outer(module)).transpose()?;
        let lm_head = outer(config.head())?;
        let rope = Rope::new(&config);
        let mut embedding = Embedding::load(checkpoint.clone(), &device, dtype)?;
        if tables == Tables::OnDevice {
            embedding.keep_on_device(match &lm_head.weight {
                LinearWeight::Dense(head) if config.tie_word_embeddings => Some(head.clone()),
                _ => None,
            })?;
        }
        let pool_usage = PoolUsage::default();
        Ok(Self {
            checkpoint,
            trained,
            tensors: Vec::new(),
            places: Vec::new(),
            device,
            embedding,
            rope,
            layers,
            norm,
            project_out,
            lm_head,
            pool_usage,
            compute: dtype,
        })
    }

    /// Embeds packed sequences, once for each of `parts`: `[parts · T, hidden]`. Returns the embeddings and the pass
    /// without perturbation.
    fn prepare(&self, input: ModelInput<'_>, parts: usize) -> Result<(Tensor<B, 2>, Pass<B>)> {
        let positions = input.sequences.iter().flat_map(|sequence| query_rows(sequence, 0)).map(|(at, _)| at);
        let x = self.embedding.forward(input.tokens, positions)?;
        let x = if parts == 1 { x } else { x.repeat_dim(0, parts) };
        let rows = (0..parts).flat_map(|part| {
            let shift = part * input.tokens.len();
            input.sequences.iter().flat_map(move |sequence| query_rows(sequence, shift))
        });
        Ok((x, self.pass(rows, Signs::Neither)))
    }

    /// Final hidden states of `rows`, or of all rows: `[R, hidden]`.
    fn forward(&self, x: Tensor<B, 2>, pass: &Pass<B>, rows: Option<&Tensor<B, 1, Int>>) -> Tensor<B, 2> {
        let config = self.checkpoint.config();
        let mut x = Residual::from(x);
        if let Some((last, layers)) = self.layers.split_last() {
            for layer in layers {
                x = layer.forward(x, pass, config, None);
            }
            x = last.forward_rows(rows, x, pass, config, None);
        }
        self.finish(x)
    }

    fn pass(&self, rows: impl Iterator<Item = QueryRow>, signs: Signs) -> Pass<B> {
        Pass::new(rows, self.rope.as_ref(), self.checkpoint.config(), signs, &self.device)
    }

    /// f32 logits of hidden states: `[R, hidden]` → `[R, vocab]`.
    fn head(&self, hidden: Tensor<B, 2>, signs: Signs) -> Tensor<B, 2> {
        let hidden = match &self.project_out {
            Some(project_out) => project_out.forward(hidden, Signs::Neither),
            None => hidden,
        };
        self.capped(self.lm_head.forward(hidden, signs).cast(DType::F32))
    }

    fn capped(&self, logits: Tensor<B, 2>) -> Tensor<B, 2> {
        match self.checkpoint.config().final_logit_softcapping {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    fn finish(&self, residual: Residual<B>) -> Tensor<B, 2> {
        match &self.norm {
            Some(norm) => {
                let [_, normed] = norm.sum_and_norm(residual);
                normed
            }
            None => residual.sum(),
        }
    }

    fn free_for_pass(&self, rows: usize, scored: usize) {
        self.pool_usage.free_for_pass::<B>([rows, scored], self.checkpoint.config(), &self.device);
    }

    fn packed_mut(&mut self) -> impl Iterator<Item = (u32, &mut DeviceWeight<B>)> {
        let weights = self.layers.iter_mut().flat_map(DecoderBlock::linears_mut);
        let weights = weights.filter_map(Linear::packed_mut);
        weights.filter_map(|weight| weight.parameter.map(|id| (id, weight)))
    }

    fn packed(&self, name: &str) -> Result<&DeviceWeight<B>> {
        let id = self.parameter(name)?;
        let weights = self.layers.iter().flat_map(DecoderBlock::linears);
        weights
            .filter_map(Linear::packed)
            .find(|weight| weight.parameter == Some(id))
            .ok_or_else(|| Error::internal(format!("{name} is not on the device")))
    }

    fn parameter(&self, name: &str) -> Result<u32> {
        let found = self.trained.binary_search_by(|t| t.as_str().cmp(name));
        let index = found.map_err(|_| Error::internal(format!("{name} is not a trained weight")))?;
        Ok(index as u32)
    }
}

impl<B: Kernels> Decoder<B> {
    /// Replaces the scales of a weight by what `new` makes of them and of a number for each.
    fn change_scales(
        &mut self,
        name: &str,
        numbers: HostFloats,
        new: fn(Tensor<B, 1>, Tensor<B, 1>) -> Tensor<B, 1>,
    ) -> Result<()> {
        let id = self.parameter(name)?;
        let device = self.device.clone();
        let found = self.packed_mut().find(|(parameter, _)| *parameter == id);
        let (_, weight) = found.ok_or_else(|| Error::internal(format!("{name} is not on the device")))?;
        let scales = &mut weight.packed.scales;
        let expected = scales.dims()[0];
        if numbers.len() != expected {
            let what = format!("{name} has {expected} scales, but {} numbers were given", numbers.len());
            return Err(Error::internal(what));
        }
        let numbers = kernels::upload(numbers.into_data(), &device);
        *scales = new(scales.clone(), numbers);
        Ok(())
    }
}

impl<B: Kernels> Scales for Decoder<B> {
    fn trained(&self) -> &[String] {
        &self.trained
    }

    fn scale_count(&self, name: &str) -> Result<usize> {
        Ok(self.packed(name)?.packed.scales.dims()[0])
    }

    fn scale_shape(&self, name: &str) -> Result<[usize; 2]> {
        let weight = &self.packed(name)?.packed;
        Ok([weight.out_features, weight.groups()])
    }

    fn scales(&self, name: &str) -> Result<Vec<f32>> {
        read(self.packed(name)?.packed.scales.clone())
    }

    fn tensors(&self) -> &[TrainedTensor] {
        &self.tensors
    }

    fn tensor(&self, name: &str) -> Result<Vec<f32>> {
        self.tensor_values(name)
    }

    fn apply(&mut self, update: Update<'_>) -> Result<()> {
        match update {
            Update::Moves(moves) => {
                for each in moves {
                    self.packed_mut().for_each(|(id, weight)| kernels::apply_move(weight, id, *each));
                }
                Ok(())
            }
            Update::BodyMoves { blocks, moves } => {
                for layer in self.layers.iter_mut().take(blocks) {
                    for weight in layer.linears_mut().filter_map(Linear::packed_mut) {
                        let Some(id) = weight.parameter else { continue };
                        moves.iter().for_each(|each| kernels::apply_move(weight, id, *each));
                    }
                }
                Ok(())
            }
            Update::Dense { name, scales } => {
                self.change_scales(name, scales.to_vec().into(), |_, scales| scales)
            }
            Update::Multiply { name, factors } => self.change_scales(name, factors, Tensor::mul),
            Update::Tensor { name, values } => self.set_tensor(name, values),
        }
    }
}

impl<B: Kernels> LanguageModel for Decoder<B> {
    fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    fn log_probs(&self, input: ModelInput<'_>, targets: &[Target], signs: Signs) -> Result<Vec<f32>> {
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
            let hidden = self.forward(x, &pass.with(*signs), scored.as_ref());
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

    fn gradient(
        &mut self,
        input: ModelInput<'_>,
        targets: &[Target],
        backward: BackwardPass,
        sink: &mut dyn GradientSink,
    ) -> Result<()> {
        self.forward_and_backward(input, targets, backward, sink)
    }

    fn train_tensors(&mut self, tensors: Vec<TrainedTensor>) -> Result<()> {
        self.find_tensors(tensors)
    }

    fn logits(&self, input: ModelInput<'_>) -> Result<Vec<f32>> {
        self.free_for_pass(input.tokens.len(), input.tokens.len());
        let (x, pass) = self.prepare(input, 1)?;
        read(self.head(self.forward(x, &pass, None), Signs::Neither))
    }

    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(DecoderSession {
            decoder: self,
            length: 0,
            cache: self.layers.iter().map(|_| None).collect(),
        })
    }
}

/// A sequence in a decoder, which grows as tokens are fed.
struct DecoderSession<'a, B: Kernels> {
    decoder: &'a Decoder<B>,
    /// Number of tokens fed so far.
    length: usize,
    cache: Vec<LayerCache<B>>,
}

impl<B: Kernels> Session for DecoderSession<'_, B> {
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let Self { decoder, length, cache } = self;
        let config = decoder.checkpoint.config();
        decoder.pool_usage.free_for_growth::<B>(*length, tokens.len(), config, &decoder.device);
        let positions = *length..*length + tokens.len();
        let mut x = Residual::from(decoder.embedding.forward(tokens, positions.clone())?);
        let rows = positions.clone().map(|t| (t, [0, 0, 0, t + 1]));
        let pass = decoder.pass(rows, Signs::Neither);
        for (layer, cache) in decoder.layers.iter().zip(cache) {
            x = layer.forward(x, &pass, config, Some(cache));
        }
        *length = positions.end;
        let last = x.sum().narrow(0, tokens.len() - 1, 1);
        read(decoder.head(decoder.finish(last.into()), Signs::Neither))
    }
}
