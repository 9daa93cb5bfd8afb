//! The decoder of every family: what sets them apart, the config says.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};

use super::embedding::Embedding;
use super::layer::{Layer, LayerCache};
use super::linear::{Linear, LinearWeight};
use super::norm::Norm;
use super::pass::{Pass, Row, ints, visible};
use super::rope::Rope;
use super::{Input, LOGIT_BYTES, LanguageModel, Session};
use crate::checkpoint::{Checkpoint, ModelConfig};
use crate::data::Target;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, DeviceWeight, Kernels, read};
use crate::zo::perturbation::{Noise, Perturb};

pub struct Decoder<B: Kernels> {
    checkpoint: Arc<Checkpoint>,
    trained: Vec<String>,
    device: B::Device,
    embedding: Embedding<B>,
    rope: Option<Rope>,
    layers: Vec<Layer<B>>,
    norm: Option<Norm<B>>,
    project_out: Option<Linear<B>>,
    lm_head: Linear<B>,
}

impl<B: Kernels> Decoder<B> {
    pub fn load(
        checkpoint: Arc<Checkpoint>,
        device: B::Device,
        dtype: ComputeType,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        let trained = checkpoint.trained_names();
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            progress(index, config.num_hidden_layers);
            layers.push(Layer::load(&checkpoint, index, &trained, &device, dtype)?);
        }
        progress(config.num_hidden_layers, config.num_hidden_layers);
        let norm = config.final_norm().map(|module| Norm::load(&checkpoint, module, &device)).transpose()?;
        let outer = |module: &str| Linear::load(&checkpoint, module, false, &trained, &device, dtype);
        let project_out = config.projections().map(|[_, module]| outer(module)).transpose()?;
        let lm_head = outer(config.head())?;
        let rope = Rope::new(&config);
        let embedding = Embedding::load(checkpoint.clone(), &device, dtype)?;
        Ok(Self { checkpoint, trained, device, embedding, rope, layers, norm, project_out, lm_head })
    }

    /// Final hidden states of packed sequences, once for each part of `perturb`: `[parts · T, hidden]`.
    fn forward(&self, input: Input<'_>, perturb: Perturb) -> Result<Tensor<B, 2>> {
        let parts = perturb.parts().len();
        let positions = input.sequences.iter().flat_map(|sequence| visible(sequence, 0)).map(|(at, _)| at);
        let mut x = self.embedding.forward(input.tokens, positions)?.repeat_dim(0, parts);
        let rows = (0..parts).flat_map(|part| {
            let shift = part * input.tokens.len();
            input.sequences.iter().flat_map(move |sequence| visible(sequence, shift))
        });
        let pass = self.pass(rows, perturb);
        for layer in &self.layers {
            x = layer.forward(x, &pass, self.checkpoint.config(), None);
        }
        Ok(self.finish(x))
    }

    fn pass(&self, rows: impl Iterator<Item = Row>, perturb: Perturb) -> Pass<B> {
        Pass::new(rows, self.rope.as_ref(), self.checkpoint.config(), perturb, &self.device)
    }

    /// f32 logits of some hidden rows: `[R, hidden]` → `[R, vocab]`.
    fn head(&self, hidden: Tensor<B, 2>, perturb: Perturb) -> Tensor<B, 2> {
        let hidden = match &self.project_out {
            Some(project_out) => project_out.forward(hidden, Perturb::No),
            None => hidden,
        };
        let logits = self.lm_head.forward(hidden, perturb).cast(DType::F32);
        match self.checkpoint.config().final_logit_softcapping {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    fn finish(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    fn logit_rows(&self) -> usize {
        (LOGIT_BYTES / 4 / self.checkpoint.config().vocab_size).max(1)
    }

    fn packed_mut(&mut self) -> impl Iterator<Item = (u32, &mut DeviceWeight<B>)> {
        self.layers.iter_mut().flat_map(Layer::linears_mut).filter_map(|linear| match &mut linear.weight {
            LinearWeight::Packed(weight) => weight.parameter.map(|id| (id, weight)),
            LinearWeight::Dense(_) => None,
        })
    }

    fn packed(&self, name: &str) -> Result<&DeviceWeight<B>> {
        let id = self.parameter(name)?;
        let weights = self.layers.iter().flat_map(Layer::linears);
        weights
            .filter_map(Linear::packed)
            .find(|weight| weight.parameter == Some(id))
            .ok_or_else(|| Error::tensor(self.checkpoint.path(), name, "is not on the device"))
    }

    fn parameter(&self, name: &str) -> Result<u32> {
        let found = self.trained.binary_search_by(|t| t.as_str().cmp(name));
        let index =
            found.map_err(|_| Error::tensor(self.checkpoint.path(), name, "is not a trained weight"))?;
        Ok(index as u32)
    }
}

impl<B: Kernels> LanguageModel for Decoder<B> {
    fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    fn trained(&self) -> &[String] {
        &self.trained
    }

    fn log_probs(&self, input: Input<'_>, targets: &[Target], perturb: Perturb) -> Result<Vec<f32>> {
        let (count, parts) = (input.tokens.len(), perturb.parts().len());
        if parts > 1 && count > B::PAIRED_TOKENS {
            let passes = perturb.parts().map(|noise| noise.map_or(Perturb::No, Perturb::By));
            let answers = passes.map(|perturb| self.log_probs(input, targets, perturb));
            return Ok(answers.collect::<Result<Vec<_>>>()?.concat());
        }
        let hidden = self.forward(input, perturb)?;
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_by_key(|&i| targets[i].row);
        let mut rows: Vec<u32> = order.iter().map(|&i| targets[i].row).collect();
        rows.dedup();
        let mut log_probs = vec![0.0; parts * targets.len()];
        let mut rest = order.as_slice();
        for rows in rows.chunks((self.logit_rows() / parts).max(1)) {
            let here = rest.iter().take_while(|&&i| rows.last().is_some_and(|last| targets[i].row <= *last));
            let (here, later) = rest.split_at(here.count());
            rest = later;
            // Part after part, in the logits as in the answers.
            let every_row = (0..parts).flat_map(|p| rows.iter().map(move |row| *row as usize + p * count));
            let hidden = hidden.clone().select(0, ints(every_row.map(|row| row as i32), &self.device));
            let slots: Vec<(usize, usize)> = (0..parts)
                .flat_map(|p| here.iter().map(move |&i| (p, i)))
                .map(|(p, i)| (p * rows.len() + rows.partition_point(|row| *row < targets[i].row), i))
                .collect();
            let logits = self.head(hidden, perturb); // [parts · R, vocab]
            let vocab = logits.dims()[1];
            let max = logits.clone().max_dim(1);
            let log_sum = (logits.clone() - max.clone()).exp().sum_dim(1).log() + max; // [parts · R, 1]
            let chosen = slots.iter().map(|(slot, i)| (slot * vocab + targets[*i].token as usize) as i32);
            let chosen = logits.reshape([-1]).select(0, ints(chosen, &self.device));
            let slot = slots.iter().map(|(slot, _)| *slot as i32);
            let log_sum = log_sum.reshape([-1]).select(0, ints(slot, &self.device));
            // The device is waited for here.
            let answers = read(chosen - log_sum)?;
            for (n, ((_, i), answer)) in slots.iter().zip(answers).enumerate() {
                log_probs[n / here.len() * targets.len() + i] = answer;
            }
        }
        Ok(log_probs)
    }

    fn logits(&self, input: Input<'_>) -> Result<Vec<f32>> {
        let hidden = self.forward(input, Perturb::No)?;
        read(self.head(hidden, Perturb::No))
    }

    fn step(&mut self, noise: Noise) -> Result<()> {
        self.packed_mut().for_each(|(id, weight)| kernels::step(weight, id, noise));
        Ok(())
    }

    fn scales(&self, name: &str) -> Result<Vec<f32>> {
        read(self.packed(name)?.scales.clone())
    }

    fn scale_count(&self, name: &str) -> Result<usize> {
        Ok(self.packed(name)?.scales.dims()[0])
    }

    fn set_scales(&mut self, name: &str, scales: Vec<f32>) -> Result<()> {
        let id = self.parameter(name)?;
        let device = self.device.clone();
        let path = self.checkpoint.path().to_path_buf();
        let found = self.packed_mut().find(|(parameter, _)| *parameter == id);
        let (_, weight) = found.ok_or_else(|| Error::tensor(&path, name, "is not on the device"))?;
        let expected = weight.scales.dims()[0];
        if scales.len() != expected {
            let what = format!("has {expected} scales, but {} were given", scales.len());
            return Err(Error::tensor(path, name, what));
        }
        weight.scales = Tensor::from_data(TensorData::new(scales, [expected]), (&device, DType::F32));
        Ok(())
    }

    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Growing { decoder: self, length: 0, cache: self.layers.iter().map(|_| None).collect() })
    }
}

struct Growing<'a, B: Kernels> {
    decoder: &'a Decoder<B>,
    length: usize,
    cache: Vec<LayerCache<B>>,
}

impl<B: Kernels> Session for Growing<'_, B> {
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let Self { decoder, length, cache } = self;
        let positions = *length..*length + tokens.len();
        let mut x = decoder.embedding.forward(tokens, positions.clone())?;
        let rows = positions.clone().map(|t| (t, [0, 0, 0, t + 1]));
        let pass = decoder.pass(rows, Perturb::No);
        for (layer, cache) in decoder.layers.iter().zip(cache) {
            x = layer.forward(x, &pass, decoder.checkpoint.config(), Some(cache));
        }
        *length = positions.end;
        let last = x.narrow(0, tokens.len() - 1, 1);
        read(decoder.head(decoder.finish(last), Perturb::No))
    }
}
