//! Tokens and their positions → hidden states.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use super::linear::Linear;
use super::pass::ints;
use crate::arch::{ModelConfig, POSITIONS_OFFSET};
use crate::checkpoint::{Checkpoint, DenseValues};
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::packed::FloatType;
use crate::zo::direction::Signs;

/// The place of the tables of tokens and learned positions during passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// Their file: the rows of each batch are brought to the device.
    InFile,
    /// The device, which gives [`super::table_bytes`] of its memory and spares every pass the rows.
    OnDevice,
}

pub struct Embedding<B: Backend> {
    tokens: Table<B>,
    project_in: Option<Linear<B>>,
    positions: Option<Table<B>>,
}

/// A matrix of which a pass needs some rows. It stays in the checkpoint's file, or lies on the device.
struct Table<B: Backend> {
    checkpoint: Arc<Checkpoint>,
    name: String,
    height: usize,
    width: usize,
    /// Factor of every value, applied before it is rounded.
    factor: f32,
    device: B::Device,
    /// Type of the activations.
    dtype: FloatType,
    /// `[height, width]`, in the type of the activations and without the factor.
    kept: Option<Tensor<B, 2>>,
}

impl<B: Kernels> Embedding<B> {
    pub fn load(checkpoint: Arc<Checkpoint>, device: &B::Device, dtype: ComputeType) -> Result<Self> {
        let config = checkpoint.config();
        let project_in = match config.projections() {
            Some([project_in, _]) => Some(Linear::load(&checkpoint, project_in, false, &[], device, dtype)?),
            None => None,
        };
        let table = |module: &str, [height, width]: [usize; 2], factor| Table {
            checkpoint: checkpoint.clone(),
            name: format!("{module}.weight"),
            height,
            width,
            factor,
            device: device.clone(),
            dtype: float_type(B::tensor_type(dtype)),
            kept: None,
        };
        let size = [config.vocab_size, config.word_embed_proj_dim];
        let tokens = table(config.embed_tokens(), size, config.embedding_scale);
        let positions = config.embed_positions().map(|module| table(module, positions_size(config), 1.0));
        Ok(Self { tokens, project_in, positions })
    }

    /// Brings the tables onto the device: a pass then uploads indices alone. `head`: the same matrix as that of
    /// the tokens, where it lies there already.
    pub fn keep_on_device(&mut self, head: Option<Tensor<B, 2>>) -> Result<()> {
        let dtype = self.tokens.dtype.into();
        self.tokens.kept = match head.filter(|head| head.dtype() == dtype) {
            Some(head) => Some(head),
            None => Some(self.tokens.whole()?),
        };
        if let Some(positions) = &mut self.positions {
            positions.kept = Some(positions.whole()?);
        }
        Ok(())
    }

    /// `[T, hidden]`; `positions`: of each token in its sequence.
    pub fn forward(&self, tokens: &[u32], positions: impl Iterator<Item = usize>) -> Result<Tensor<B, 2>> {
        let mut x = self.tokens.rows(tokens)?;
        if let Some(project_in) = &self.project_in {
            x = project_in.forward(x, Signs::Neither);
        }
        if let Some(learned) = &self.positions {
            let positions: Vec<u32> = positions.map(|at| (at + POSITIONS_OFFSET) as u32).collect();
            x = x + learned.rows(&positions)?;
        }
        Ok(x)
    }
}

impl<B: Kernels> Table<B> {
    /// `[rows.len(), width]`, in the type of the activations.
    fn rows(&self, rows: &[u32]) -> Result<Tensor<B, 2>> {
        let Some(kept) = &self.kept else { return self.upload(rows, self.factor) };
        // The device does not look.
        if let Some(row) = rows.iter().find(|row| **row as usize >= self.height) {
            let what = format!("row {row} of a table of {}", self.height);
            return Err(Error::tensor(self.checkpoint.path(), &self.name, what));
        }
        let x = kept.clone().select(0, ints(rows.iter().map(|row| *row as i32), &self.device));
        match self.factor {
            1.0 => Ok(x),
            factor => Ok((x.cast(DType::F32) * factor).cast(kept.dtype())),
        }
    }

    fn whole(&self) -> Result<Tensor<B, 2>> {
        self.upload(&(0..self.height as u32).collect::<Vec<_>>(), 1.0)
    }

    /// Rows of the file times `factor`.
    fn upload(&self, rows: &[u32], factor: f32) -> Result<Tensor<B, 2>> {
        let shape = [rows.len(), self.width];
        let data = match self.checkpoint.rows(&self.name, rows, factor, self.dtype)? {
            DenseValues::F32(values) => TensorData::new(values, shape),
            DenseValues::F16(values) => TensorData::new(values, shape),
            DenseValues::Bf16(values) => TensorData::new(values, shape),
        };
        let dtype = data.dtype;
        Ok(Tensor::from_data(data, (&self.device, dtype)))
    }
}

/// Bytes that the tables take on a device beside all else, where [`Embedding::keep_on_device`] brings them
/// there; `shared`: the head is the table of the tokens and dense there.
pub fn table_bytes<B: Kernels>(config: &ModelConfig, shared: bool, compute: ComputeType) -> u64 {
    let tokens = if shared { 0 } else { config.vocab_size * config.word_embed_proj_dim };
    let positions = config.embed_positions().map_or(0, |_| positions_size(config).iter().product());
    ((tokens + positions) * B::tensor_type(compute).size()) as u64
}

fn positions_size(config: &ModelConfig) -> [usize; 2] {
    [config.max_position_embeddings + POSITIONS_OFFSET, config.hidden_size]
}

fn float_type(dtype: DType) -> FloatType {
    match dtype {
        DType::F16 => FloatType::F16,
        DType::BF16 => FloatType::BF16,
        _ => FloatType::F32,
    }
}
