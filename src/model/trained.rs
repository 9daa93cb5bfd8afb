//! The places of trained tensors in a decoder.

use super::norm::NormPart;
use crate::arch::{ModelConfig, NormRole, TensorKind, TrainedTensor, block_of};

/// The place of a trained tensor in the decoder.
pub struct TrainedPlace {
    pub block: usize,
    pub module: TrainedModule,
    /// The f32 master values, which the device may hold in another type or with an offset. None of minima: the device's
    /// are these.
    pub values: Vec<f32>,
}

/// A module of a block, and its tensor.
#[derive(Clone, Copy)]
pub enum TrainedModule {
    Norm(NormRole, NormPart),
    /// The bias of a linear, by its number in the block.
    Bias(usize),
    /// The minima of a linear, by its number in the block.
    Minima(usize),
}

/// The block of a tensor, and its module there; `None` where the model has no such tensor.
pub fn find(config: &ModelConfig, tensor: &TrainedTensor) -> Option<(usize, TrainedModule)> {
    let block = block_of(tensor.weight()).filter(|block| *block < config.num_hidden_layers)?;
    let (module, ending) = tensor.weight().rsplit_once('.')?;
    let linear = || config.linears(block).iter().position(|linear| linear.module == module);
    let module = match tensor.kind {
        TensorKind::Norms => {
            let norm = config.norms(block).into_iter().find(|norm| norm.module == module)?;
            TrainedModule::Norm(norm.role, if ending == "bias" { NormPart::Bias } else { NormPart::Weight })
        }
        TensorKind::Biases => TrainedModule::Bias(linear()?),
        TensorKind::Minima => TrainedModule::Minima(linear()?),
    };
    Some((block, module))
}
