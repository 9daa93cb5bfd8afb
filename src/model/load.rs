//! From a checkpoint and a device's name to a model on the backend that the name stands for.

use std::sync::Arc;

use super::blockwise::{BlockByBlock, BlockwiseDecoder};
use super::decoder::Decoder;
use super::embedding::{self, Tables};
use super::language_model::LanguageModel;
use super::scales::{LoneScales, Scales};
use crate::checkpoint::{Checkpoint, Layout};
use crate::device::{ComputeType, Device, DtypeSpec, with_backend};
use crate::error::{Error, Result};
use crate::kernels::Kernels;

/// The type that `spec` stands for on a device.
///
/// # Errors
/// [`Error::Unsupported`] where the device has no such arithmetic.
pub fn compute_type(device: &Device, spec: DtypeSpec) -> Result<ComputeType> {
    match spec {
        // What its rounding does to the projected gradient was measured: scripts/checks/fidelity.py. f16 is never
        // chosen: the activations of some families (Gemma, Qwen) are beyond its range.
        DtypeSpec::Auto if check(device, ComputeType::Bf16).is_ok() => Ok(ComputeType::Bf16),
        DtypeSpec::Auto => Ok(ComputeType::F32),
        DtypeSpec::Fixed(dtype) => check(device, dtype).map(|()| dtype),
    }
}

fn check(device: &Device, dtype: ComputeType) -> Result<()> {
    let supported = with_backend!(device, |B, backend_device| B::supports(dtype, &backend_device));
    if supported {
        return Ok(());
    }
    Err(Error::unsupported(format!("{device} cannot compute in {dtype} on this machine"), "use --dtype f32"))
}

/// Brings a checkpoint onto a device, one tensor at a time.
pub fn load(
    checkpoint: Arc<Checkpoint>,
    device: &Device,
    dtype: ComputeType,
    tables: Tables,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    check(device, dtype)?;
    with_backend!(device, |B, device| load_on::<B>(checkpoint, device, dtype, tables, progress))
}

/// The same on any backend's device that can compute in `dtype`.
pub(crate) fn load_on<B: Kernels>(
    checkpoint: Arc<Checkpoint>,
    device: B::Device,
    dtype: ComputeType,
    tables: Tables,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    Ok(Box::new(Decoder::<B>::load(checkpoint, device, dtype, tables, progress)?))
}

/// Bytes of a device's memory that [`Tables::OnDevice`] costs.
///
/// # Errors
/// The head is not in the checkpoint.
pub fn table_bytes(checkpoint: &Checkpoint, device: &Device, dtype: ComputeType) -> Result<u64> {
    let config = checkpoint.config();
    let head = format!("{}.weight", config.head());
    let shared = config.tie_word_embeddings && matches!(checkpoint.layout(&head)?, Layout::Dense(_));
    Ok(with_backend!(device, |B, _device| embedding::table_bytes::<B>(config, shared, dtype)))
}

/// A dense checkpoint to be taken through one decoder block at a time.
pub fn block_by_block(
    checkpoint: Arc<Checkpoint>,
    device: &Device,
    dtype: ComputeType,
) -> Result<Box<dyn BlockByBlock>> {
    check(device, dtype)?;
    with_backend!(device, |B, device| {
        Ok(Box::new(BlockwiseDecoder::<B>::new(checkpoint, device, dtype)?))
    })
}

/// The scales of one weight on a device. `id` is its parameter id.
pub fn lone_scales(device: &Device, name: &str, id: u32, scales: Vec<f32>) -> Box<dyn Scales> {
    with_backend!(device, |B, device| Box::new(LoneScales::<B>::new(name, id, scales, device)))
}
