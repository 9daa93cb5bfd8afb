//! A model for calibration that keeps only one decoder block at a time on the device, so that its size does not matter.
//! Between the parts of a pass the caller holds the hidden states of all samples.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};

use super::block::DecoderBlock;
use super::embedding::Embedding;
use super::linear::{Linear, LinearWeight};
use super::pass::{Pass, query_rows};
use super::pool_usage::PoolUsage;
use super::rope::Rope;
use crate::arch::LinearRole;
use crate::checkpoint::Checkpoint;
use crate::data::Sequence;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{self, DeviceWeight, Kernels, read};
use crate::packed::PackedWeight;
use crate::zo::direction::Signs;

/// A group of linears in a block that share their inputs. The stages are in the order of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalibrationStage {
    Query,
    /// The inputs of `Query` with other weights.
    KeyValue,
    Output,
    Gate,
    Down,
}

impl CalibrationStage {
    pub const ALL: [Self; 5] = [Self::Query, Self::KeyValue, Self::Output, Self::Gate, Self::Down];

    /// The stage of a linear.
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

/// A part of the forward pass through a block. It begins where the part before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockPass {
    /// The part from the stage before to the inputs of this stage, which are added to the Gram matrix.
    To(CalibrationStage),
    /// The part from the inputs of `Down` to the end of the block.
    Finish,
    /// The whole block.
    Through,
}

/// The hidden states of some samples.
pub struct SampleRows<'a> {
    /// f32 `[T, hidden]`: between blocks the hidden states, within a block the residual.
    pub hidden: &'a mut [f32],
    /// f32 `[T, heads · head_dim]`: between `Output` and `Gate`, the results of attention.
    pub attended: &'a mut [f32],
    /// Number of tokens of each sample; T in total.
    pub lengths: &'a [usize],
}

/// A model that goes through calibration one decoder block at a time.
pub trait BlockByBlock {
    /// Embeds a sample: f32 `[T, hidden]`.
    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>>;

    /// Loads a dense block onto the device, in the place of the one before.
    fn enter(&mut self, block: usize) -> Result<()>;

    /// Names of the linears of a stage in the current block.
    fn linears(&self, stage: CalibrationStage) -> Vec<String>;

    /// Replaces the weight of a linear in the current block by a quantized one.
    fn replace(&mut self, name: &str, weight: PackedWeight) -> Result<()>;

    /// Runs `part` of the pass through the current block on some samples, and updates their hidden states.
    fn advance(&mut self, part: BlockPass, rows: SampleRows<'_>) -> Result<()>;

    /// Returns the Gram matrix `Σ w·xᵀx` of the inputs since the last call, `[features, features]`, and starts a new
    /// one. The weight w of a token says how much an error in the linears' outputs for this token matters.
    fn take_gram(&mut self) -> Result<Vec<f32>>;
}

/// A decoder of which one block at a time is on the device.
pub struct BlockwiseDecoder<B: Kernels> {
    checkpoint: Arc<Checkpoint>,
    device: B::Device,
    dtype: ComputeType,
    embedding: Embedding<B>,
    rope: Option<Rope>,
    entered: Option<(usize, DecoderBlock<B>)>,
    gram: Option<Tensor<B, 2>>,
    pool_usage: PoolUsage,
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
            pool_usage: PoolUsage::default(),
        })
    }

    fn layer(&self) -> Result<&DecoderBlock<B>> {
        let layer = self.entered.as_ref().map(|(_, layer)| layer);
        layer.ok_or_else(|| Error::internal("no decoder block is on the device"))
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
        let rows = sequences.iter().flat_map(|sequence| query_rows(sequence, 0));
        Pass::new(rows, self.rope.as_ref(), self.checkpoint.config(), Signs::Neither, &self.device)
    }

    /// Adds inputs `[T, features]` to the Gram matrix, with f32 `weights` `[T, 1]`.
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
        // The block before is freed first, because its memory is needed.
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
        let linear = found.ok_or_else(|| Error::internal(format!("{name} is not in the current block")))?;
        linear.weight = LinearWeight::Packed(weight);
        Ok(())
    }

    fn advance(&mut self, part: BlockPass, rows: SampleRows<'_>) -> Result<()> {
        let count = rows.lengths.iter().sum();
        self.pool_usage.free_for_pass::<B>([count, 0], self.checkpoint.config(), &self.device);
        let layer = self.layer()?;
        let x = self.upload(rows.hidden, count);
        let put = |tensor: Tensor<B, 2>, to: &mut [f32]| -> Result<()> {
            to.copy_from_slice(&read(tensor.cast(DType::F32))?);
            Ok(())
        };
        let config = self.checkpoint.config();
        let mut weights = error_weights(x.clone());
        let input = match part {
            BlockPass::To(CalibrationStage::Query) => {
                let [_, h] = layer.attention_norms.input(x.into());
                h
            }
            BlockPass::To(CalibrationStage::KeyValue) => {
                let [_, h] = layer.attention_norms.input(x.into());
                let attention =
                    layer.attention_received(h.clone(), &self.pass(rows.lengths), config, rows.lengths);
                let keys = key_weights(&read(attention * weights)?, config.head_dim, rows.lengths);
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
                weights = error_weights(x.clone());
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
                let out = layer.forward(x.into(), &self.pass(rows.lengths), config);
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

/// Weights of the tokens by how much an error added to their residual matters: the inverse mean square of the residual,
/// f32 `[T, 1]`, because the next norm divides by its length.
///
/// Without these weights, the few tokens whose residual is a thousand times larger than the others' (Sun et al. 2024,
/// "massive activations") would dominate the Gram matrix, although errors in them have little effect.
fn error_weights<B: Kernels>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let x = x.cast(DType::F32);
    (x.clone() * x).mean_dim(1).clamp_min(f32::MIN_POSITIVE).recip()
}

/// Weights of the tokens by how much an error in their keys and values matters, 1 on average.
///
/// A few tokens, above all the first, receive most of the attention (Xiao et al. 2023, "attention sinks"). An error in
/// their values affects all other tokens, although they are only a few of the inputs. Therefore the weight of a token
/// is the squared attention that it receives (Sung et al. 2025, RSQ), where each query has the weight of its token's
/// error.
///
/// `attention` has a row per query with its weighted squared attention to the first `columns` tokens of its sample. The
/// later tokens get the median weight of these.
fn key_weights(attention: &[f32], columns: usize, lengths: &[usize]) -> Vec<f32> {
    let mut weights = Vec::new();
    let mut rest = attention;
    for length in lengths {
        let (rows, later) = rest.split_at(length * columns);
        rest = later;
        let mut sums = vec![0f32; columns.min(*length)];
        for row in rows.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, p)| *sum += p);
        }
        let mut sorted = sums.clone();
        sorted.sort_by(f32::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        sums.resize(*length, median);
        weights.extend(sums);
    }
    let mean = weights.iter().sum::<f32>() / weights.len().max(1) as f32;
    weights.iter().map(|weight| weight / mean.max(f32::MIN_POSITIVE)).collect()
}
