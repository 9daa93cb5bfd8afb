//! Tokens and their positions → hidden states.

use std::sync::Arc;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};

use super::linear::Linear;
use crate::checkpoint::{Checkpoint, POSITIONS_OFFSET};
use crate::device::ComputeType;
use crate::error::Result;
use crate::kernels::Kernels;
use crate::zo::perturbation::Perturb;

/// Rows of a table that are read before its pages are given back: the system maps sixteen pages around each.
const EMBEDDED_ROWS: usize = 64;

/// The tables stay in the checkpoint's file.
pub struct Embedding<B: Backend> {
    checkpoint: Arc<Checkpoint>,
    project_in: Option<Linear<B>>,
    device: B::Device,
    dtype: ComputeType,
}

impl<B: Kernels> Embedding<B> {
    pub fn load(checkpoint: Arc<Checkpoint>, device: &B::Device, dtype: ComputeType) -> Result<Self> {
        let project_in = match checkpoint.config().projections() {
            Some([project_in, _]) => Some(Linear::load(&checkpoint, project_in, false, &[], device, dtype)?),
            None => None,
        };
        Ok(Self { checkpoint, project_in, device: device.clone(), dtype })
    }

    /// `[T, hidden]`; `positions`: of each token in its sequence.
    pub fn forward(&self, tokens: &[u32], positions: impl Iterator<Item = usize>) -> Result<Tensor<B, 2>> {
        let config = self.checkpoint.config();
        let x = self.rows(config.embed_tokens(), config.word_embed_proj_dim, tokens)?;
        let x = if config.embedding_scale == 1.0 { x } else { x * config.embedding_scale };
        let mut x = x.cast(B::tensor_type(self.dtype));
        if let Some(project_in) = &self.project_in {
            x = project_in.forward(x, Perturb::No);
        }
        if let Some(table) = config.embed_positions() {
            let positions: Vec<u32> =
                positions.map(|position| (position + POSITIONS_OFFSET) as u32).collect();
            let learned = self.rows(table, config.hidden_size, &positions)?;
            x = x + learned.cast(B::tensor_type(self.dtype));
        }
        Ok(x)
    }

    /// Rows of a table: f32 `[rows, width]`.
    fn rows(&self, table: &str, width: usize, rows: &[u32]) -> Result<Tensor<B, 2>> {
        let table = format!("{table}.weight");
        let mut values = Vec::with_capacity(rows.len() * width);
        for rows in rows.chunks(EMBEDDED_ROWS) {
            values.extend(self.checkpoint.rows(&table, rows)?);
            self.checkpoint.release();
        }
        Ok(Tensor::from_data(TensorData::new(values, [rows.len(), width]), (&self.device, DType::F32)))
    }
}
