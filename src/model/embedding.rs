//! Embeddings: from tokens and their positions to hidden states.

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

/// The place where the tables of token and position embeddings are kept during passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// Their file. Each pass uploads the rows of its batch.
    InFile,
    /// The device. This takes [`super::table_bytes`] of its memory, and passes upload no rows.
    OnDevice,
}

/// The embeddings of a model.
pub struct Embedding<B: Backend> {
    tokens: Table<B>,
    project_in: Option<Linear<B>>,
    positions: Option<Table<B>>,
}

/// A matrix of which a pass needs some rows. It is read from the checkpoint's file, or kept on the device.
struct Table<B: Backend> {
    checkpoint: Arc<Checkpoint>,
    name: String,
    height: usize,
    width: usize,
    /// Factor of every value, applied before the value is rounded.
    factor: f32,
    device: B::Device,
    /// Type of the activations.
    dtype: FloatType,
    /// The table on the device, `[height, width]`, in the type of the activations and without the factor.
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
        let tokens = table(config.embed_tokens(), size, config.input_scale());
        let positions = config.embed_positions().map(|module| table(module, positions_size(config), 1.0));
        Ok(Self { tokens, project_in, positions })
    }

    /// Loads the tables onto the device. After that, passes upload only indices. `head` is the tensor of the head, if
    /// the head shares its matrix with the token embeddings and is on the device already.
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

    /// Embeds `tokens`: `[T, hidden]`. `positions` holds the position of each token in its sequence.
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
    /// Rows of the table: `[rows.len(), width]`, in the type of the activations.
    fn rows(&self, rows: &[u32]) -> Result<Tensor<B, 2>> {
        let Some(kept) = &self.kept else { return self.upload(rows, self.factor) };
        // The device does not check indices.
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

    /// Uploads rows of the file, multiplied by `factor`.
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

/// Additional bytes that the tables take on a device if [`Embedding::keep_on_device`] loads them. `shared`: the head is
/// dense and has the matrix of the token embeddings, so that this matrix is there already.
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
