//! The tensors of a checkpoint that can be trained beside the scales.

use std::collections::BTreeSet;

use super::opened::Checkpoint;
use super::weight::Layout;
use crate::arch::{TensorKind, TensorKinds, TrainedTensor};
use crate::error::{Error, Result};
use crate::packed::LevelsKind;

impl Checkpoint {
    /// The tensors of these kinds in the last `tail_blocks` decoder blocks, byte-sorted by name.
    ///
    /// # Errors
    /// There is none of a kind.
    pub fn trained_tensors(&self, kinds: TensorKinds, tail_blocks: usize) -> Result<Vec<TrainedTensor>> {
        let config = self.config();
        let blocks = config.num_hidden_layers;
        let blocks = blocks.saturating_sub(tail_blocks)..blocks;
        let mut tensors = config.norms_and_biases(blocks.clone());
        tensors.retain(|tensor| kinds.has(tensor.kind));
        let linears = blocks.filter(|_| kinds.minima).flat_map(|block| config.linears(block));
        for linear in linears {
            let name = linear.weight();
            if let Layout::Packed(layout) = self.layout(&name)?
                && layout.levels == LevelsKind::Minimum
            {
                let [out_features, in_features] = linear.shape;
                let groups = in_features.div_ceil(layout.group_size.max(1));
                tensors.push(TrainedTensor::minima(&name, out_features * groups));
            }
        }
        if let Some(kind) = kinds.iter().find(|kind| tensors.iter().all(|tensor| tensor.kind != *kind)) {
            return Err(self.without(kind));
        }
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(tensors)
    }

    /// The error for a model that has no tensor of a kind.
    fn without(&self, kind: TensorKind) -> Error {
        let (path, word) = (self.path().display(), kind.name());
        let help = format!("leave \"{word}\" out of train.parameters");
        match kind {
            TensorKind::Minima => {
                let trained = self.trained_names();
                let is_trained = |name: &String| trained.binary_search(name).is_ok();
                let types: BTreeSet<String> = self
                    .tensors()
                    .filter(|tensor| is_trained(&tensor.name))
                    .map(|tensor| tensor.dtype)
                    .collect();
                let types: Vec<String> = types.into_iter().collect();
                let what = match types.is_empty() {
                    true => {
                        format!("{path} is not quantized, and a run quantizes it into a form without minima")
                    }
                    false => format!(
                        "{path}: the groups of {} ({}) have no float minimum that could be trained",
                        self.format(),
                        types.join(", ")
                    ),
                };
                Error::unsupported(what, format!("{help}; GGUF's Q4_1 and Q5_1 and MLX have them"))
            }
            TensorKind::Norms | TensorKind::Biases => {
                Error::invalid(format!("{path} has no {word} in the blocks that are trained"), help)
            }
        }
    }
}
