//! Loads a checkpoint onto a device, with the backend of that device.

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

/// Chooses the compute type on a device according to `spec`.
///
/// # Errors
/// [`Error::Unsupported`] if the device cannot compute in the type.
pub fn compute_type(device: &Device, spec: DtypeSpec) -> Result<ComputeType> {
    match spec {
        // scripts/checks/fidelity.py measures the effect of bf16's rounding on the projected gradient. f16 is never
        // chosen, because the activations of some families (Gemma, Qwen) exceed its range.
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

/// Loads a checkpoint onto a device, one tensor at a time.
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

/// Like [`load`], for a device of the backend `B`, which must be able to compute in `dtype`.
pub(crate) fn load_on<B: Kernels>(
    checkpoint: Arc<Checkpoint>,
    device: B::Device,
    dtype: ComputeType,
    tables: Tables,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Box<dyn LanguageModel>> {
    Ok(Box::new(Decoder::<B>::load(checkpoint, device, dtype, tables, progress)?))
}

/// Bytes of a device's memory that [`Tables::OnDevice`] takes.
///
/// # Errors
/// The checkpoint has no head.
pub fn table_bytes(checkpoint: &Checkpoint, device: &Device, dtype: ComputeType) -> Result<u64> {
    let config = checkpoint.config();
    let head = format!("{}.weight", config.head());
    let shared = config.tie_word_embeddings && matches!(checkpoint.layout(&head)?, Layout::Dense(_));
    Ok(with_backend!(device, |B, _device| embedding::table_bytes::<B>(config, shared, dtype)))
}

/// Opens a dense checkpoint for calibration, one decoder block at a time.
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

/// The scales of one weight, updated on a device. `id` is the weight's parameter id.
pub fn lone_scales(device: &Device, name: &str, id: u32, scales: Vec<f32>) -> Box<dyn Scales> {
    with_backend!(device, |B, device| Box::new(LoneScales::<B>::new(name, id, scales, device)))
}
