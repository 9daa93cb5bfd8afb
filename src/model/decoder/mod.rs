//! The decoder of all model families. The config describes their differences. `forward` and `backward` are its passes,
//! `session` holds sequences that grow, and `tensors` are the tensors that are trained beside the scales.

mod backward;
mod forward;
mod session;
mod tensors;

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::arch::{ModelConfig, TrainedTensor};
use crate::checkpoint::Checkpoint;
use crate::data::Target;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, DeviceWeight, HostFloats, Kernels, read};
use crate::model::block::DecoderBlock;
use crate::model::embedding::{Embedding, Tables};
use crate::model::gradient::{BackwardPass, GradientSink};
use crate::model::language_model::{LanguageModel, ModelInput, Session};
use crate::model::linear::{Linear, LinearWeight};
use crate::model::norm::Norm;
use crate::model::pool_usage::PoolUsage;
use crate::model::rope::Rope;
use crate::model::scales::{Scales, Update};
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
        // The logits follow linearly from the last norm.
        let norm = norm.map(|norm| norm.divided(config.logits_scaling));
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
        self.score(input, targets, signs)
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
        self.every_logit(input)
    }

    fn session(&self, signs: Signs) -> Box<dyn Session + '_> {
        self.begin(signs)
    }

    fn cached_bytes(&self) -> usize {
        self.config().cached_values() * B::tensor_type(self.compute).size()
    }
}
