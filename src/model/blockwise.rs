//! A model of which one decoder block at a time is on the device: what calibration needs, whatever the
//! model's size. Between the steps the hidden states of all samples lie with the caller.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};

use super::block::DecoderBlock;
use super::embedding::Embedding;
use super::linear::{Linear, LinearWeight};
use super::pass::{Pass, visible};
use super::rope::Rope;
use super::sizes::Sizes;
use crate::arch::LinearRole;
use crate::checkpoint::Checkpoint;
use crate::data::Sequence;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, DeviceWeight, Kernels, read};
use crate::packed::PackedWeight;
use crate::zo::direction::Signs;

/// The inputs that some linears of a block share, in the order in which a pass comes to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalibrationStage {
    Query,
    /// The inputs of `Query`, weighted otherwise.
    KeyValue,
    Output,
    Gate,
    Down,
}

impl CalibrationStage {
    pub const ALL: [Self; 5] = [Self::Query, Self::KeyValue, Self::Output, Self::Gate, Self::Down];

    fn of(role: LinearRole) -> Self {
        match role {
            LinearRole::Query | LinearRole::QueryKeyValue => Self::Query,
            LinearRole::Key | LinearRole::Value => Self::KeyValue,
            LinearRole::AttentionOutput => Self::Output,
            LinearRole::Gate | LinearRole::Up | LinearRole::GateUp => Self::Gate,
            LinearRole::MlpOutput => Self::Down,
        }
    }
}

/// The part of a block that a pass goes through, from where the pass before it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockPass {
    /// From the stage before to the inputs of this one, whose weighted products are added up.
    To(CalibrationStage),
    /// From the inputs of `Down` to the end of the block.
    Finish,
    /// From the beginning of the block to its end.
    Through,
}

/// The hidden states of some samples.
pub struct SampleRows<'a> {
    /// f32 `[T, hidden]`: between blocks, and within one the residual.
    pub hidden: &'a mut [f32],
    /// f32 `[T, heads · head_dim]`: between `Output` and `Gate`.
    pub attended: &'a mut [f32],
    /// Tokens of each sample; T together.
    pub lengths: &'a [usize],
}

/// See the module.
pub trait BlockByBlock {
    /// f32 `[T, hidden]`
    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>>;

    /// Brings a block onto the device, dense, in the place of the one before.
    fn enter(&mut self, block: usize) -> Result<()>;

    /// Names of the linears that read the inputs of a stage.
    fn linears(&self, stage: CalibrationStage) -> Vec<String>;

    /// Puts a quantized weight in the place of a linear's.
    fn replace(&mut self, name: &str, weight: PackedWeight) -> Result<()>;

    fn advance(&mut self, step: BlockPass, rows: SampleRows<'_>) -> Result<()>;

    /// `Σ w·xᵀx` of the inputs since the last call, `[features, features]`; w is what an error there does
    /// to the residual, which the next norm divides by its length, so that it counts relative to that.
    fn take_gram(&mut self) -> Result<Vec<f32>>;
}

pub struct BlockwiseDecoder<B: Kernels> {
    checkpoint: Arc<Checkpoint>,
    device: B::Device,
    dtype: ComputeType,
    embedding: Embedding<B>,
    rope: Option<Rope>,
    entered: Option<(usize, DecoderBlock<B>)>,
    gram: Option<Tensor<B, 2>>,
    sizes: Sizes,
}

impl<B: Kernels> BlockwiseDecoder<B> {
    pub fn new(checkpoint: Arc<Checkpoint>, device: B::Device, dtype: ComputeType) -> Result<Self> {
        let rope = Rope::new(checkpoint.config());
        let embedding = Embedding::load(checkpoint.clone(), &device, dtype)?;
        Ok(Self {
            checkpoint,
            device,
            dtype,
            embedding,
            rope,
            entered: None,
            gram: None,
            sizes: Sizes::default(),
        })
    }

    fn layer(&self) -> Result<&DecoderBlock<B>> {
        let layer = self.entered.as_ref().map(|(_, layer)| layer);
        layer.ok_or_else(|| Error::internal("no block was entered"))
    }

    fn upload(&self, values: &[f32], rows: usize) -> Tensor<B, 2> {
        let data = TensorData::new(values.to_vec(), [rows, values.len() / rows.max(1)]);
        Tensor::<B, 2>::from_data(data, (&self.device, DType::F32)).cast(B::tensor_type(self.dtype))
    }

    fn pass(&self, lengths: &[usize]) -> Pass<B> {
        let mut end = 0;
        let sequences: Vec<Sequence> = lengths
            .iter()
            .map(|length| {
                end += length;
                Sequence::alone(end - length..end)
            })
            .collect();
        let rows = sequences.iter().flat_map(|sequence| visible(sequence, 0));
        Pass::new(rows, self.rope.as_ref(), self.checkpoint.config(), Signs::Neither, &self.device)
    }

    /// `weights`: f32 `[T, 1]`
    fn add_to_gram(&mut self, x: Tensor<B, 2>, weights: Tensor<B, 2>) {
        let gram = kernels::gram(x.cast(DType::F32) * weights.sqrt());
        self.gram = Some(match self.gram.take() {
            Some(sum) => sum + gram,
            None => gram,
        });
    }
}

impl<B: Kernels> BlockByBlock for BlockwiseDecoder<B> {
    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        read(self.embedding.forward(tokens, 0..tokens.len())?)
    }

    fn enter(&mut self, block: usize) -> Result<()> {
        // The memory of the one before is needed for this one.
        self.entered = None;
        B::memory_cleanup(&self.device);
        let layer = DecoderBlock::load(&self.checkpoint, block, &[], &self.device, self.dtype)?;
        self.entered = Some((block, layer));
        Ok(())
    }

    fn linears(&self, stage: CalibrationStage) -> Vec<String> {
        let block = self.entered.as_ref().map_or(0, |(block, _)| *block);
        let linears = self.checkpoint.config().linears(block).into_iter();
        linears
            .filter(|linear| CalibrationStage::of(linear.role) == stage)
            .map(|linear| linear.weight())
            .collect()
    }

    fn replace(&mut self, name: &str, weight: PackedWeight) -> Result<()> {
        let weight = DeviceWeight::upload(weight, None, self.dtype, &self.device);
        let names = CalibrationStage::ALL.map(|stage| self.linears(stage)).concat();
        let layer = self.entered.as_mut().map(|(_, layer)| layer.linears_mut());
        let mut linears = layer.into_iter().flatten().zip(names);
        let found: Option<&mut Linear<B>> = linears.find(|(_, n)| n == name).map(|(linear, _)| linear);
        let linear = found.ok_or_else(|| Error::internal(format!("{name} is not in the block at hand")))?;
        linear.weight = LinearWeight::Packed(weight);
        Ok(())
    }

    fn advance(&mut self, step: BlockPass, rows: SampleRows<'_>) -> Result<()> {
        let count = rows.lengths.iter().sum();
        self.sizes.make_room::<B>([count, 0], self.checkpoint.config(), &self.device);
        let layer = self.layer()?;
        let x = self.upload(rows.hidden, count);
        let put = |tensor: Tensor<B, 2>, to: &mut [f32]| -> Result<()> {
            to.copy_from_slice(&read(tensor.cast(DType::F32))?);
            Ok(())
        };
        let config = self.checkpoint.config();
        let mut weights = relevance(x.clone());
        let input = match step {
            BlockPass::To(CalibrationStage::Query) => {
                let [_, h] = layer.attention_norms.input(x.into());
                h
            }
            BlockPass::To(CalibrationStage::KeyValue) => {
                let [_, h] = layer.attention_norms.input(x.into());
                let received = layer.received(h.clone(), &self.pass(rows.lengths), config, rows.lengths);
                let keys = key_weights(&read(received * weights)?, config.head_dim, rows.lengths);
                weights = Tensor::from_data(TensorData::new(keys, [count, 1]), (&self.device, DType::F32));
                h
            }
            BlockPass::To(CalibrationStage::Output) => {
                let [_, h] = layer.attention_norms.input(x.into());
                let attended = layer.attend(h, &self.pass(rows.lengths), config, None);
                put(attended.clone(), rows.attended)?;
                attended
            }
            BlockPass::To(CalibrationStage::Gate) => {
                let attended = self.upload(rows.attended, count);
                let residual = layer.attention_norms.add(x, layer.o_proj.forward(attended, Signs::Neither));
                let [x, h] = layer.mlp_norms.input(residual);
                weights = relevance(x.clone());
                put(x, rows.hidden)?;
                h
            }
            BlockPass::To(CalibrationStage::Down) => {
                let [_, h] = layer.mlp_norms.input(x.into());
                layer.expand(h, Signs::Neither)
            }
            BlockPass::Finish => {
                let [x, h] = layer.mlp_norms.input(x.into());
                let expanded = layer.expand(h, Signs::Neither);
                let out = layer.mlp_norms.add(x, layer.down_proj.forward(expanded, Signs::Neither));
                return put(out.sum(), rows.hidden);
            }
            BlockPass::Through => {
                let out = layer.forward(x.into(), &self.pass(rows.lengths), config, None);
                return put(out.sum(), rows.hidden);
            }
        };
        self.add_to_gram(input, weights);
        Ok(())
    }

    fn take_gram(&mut self) -> Result<Vec<f32>> {
        match self.gram.take() {
            Some(gram) => read(gram),
            None => Ok(vec![]),
        }
    }
}

/// How much an error that is added to each row of the residual matters: the inverse of its mean square,
/// f32 `[T, 1]`. The few tokens whose residual is a thousand times larger than the others' (Sun et al. 2024,
/// "massive activations") would be most of a Gram matrix otherwise, and little of what they lose is seen.
fn relevance<B: Kernels>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let x = x.cast(DType::F32);
    (x.clone() * x).mean_dim(1).clamp_min(f32::MIN_POSITIVE).recip()
}

/// How much an error in each token's key and value matters, 1 on the average.
///
/// A few tokens, the first above all, receive most of the attention (Xiao et al. 2023, "attention sinks"):
/// what their values lose is lost everywhere, though they are hardly seen among the inputs. So a token
/// counts by the squared attention that it receives (Sung et al. 2025, RSQ), each query by its relevance.
/// `received` says it for the first `known` tokens of each sample; the others get what most of these have.
fn key_weights(received: &[f32], known: usize, lengths: &[usize]) -> Vec<f32> {
    let mut weights = Vec::new();
    let mut rest = received;
    for length in lengths {
        let (rows, later) = rest.split_at(length * known);
        rest = later;
        let mut sums = vec![0f32; known.min(*length)];
        for row in rows.chunks_exact(known) {
            sums.iter_mut().zip(row).for_each(|(sum, p)| *sum += p);
        }
        let mut sorted = sums.clone();
        sorted.sort_by(f32::total_cmp);
        let typical = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        sums.resize(*length, typical);
        weights.extend(sums);
    }
    let mean = weights.iter().sum::<f32>() / weights.len().max(1) as f32;
    weights.iter().map(|weight| weight / mean.max(f32::MIN_POSITIVE)).collect()
}
