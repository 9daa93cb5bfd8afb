//! A packed weight on its device. Everything is rank 1: cubecl may give tensors of higher rank a pitch.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use crate::device::ComputeType;
use crate::packed::PackedWeight;
use crate::zo::direction::{Move, Signs};

/// Packed weight on its device.
#[derive(Debug, Clone)]
pub struct DeviceWeight<B: Backend> {
    pub packed: DevicePacked<B>,
    /// The weight's number in the byte-sorted list of trained weights; `None` where it is not trained.
    pub parameter: Option<u32>,
    /// Type of the arithmetic of its product, where a backend has a choice.
    pub compute: ComputeType,
    /// Whether a group is constant and not 0: its scale is 0, and its weights are its minimum.
    pub has_constant_groups: bool,
}

/// [`PackedWeight`] in tensors: words as i32, bytes four to an i32, the first in its low byte, and floats as f32.
pub type DevicePacked<B> = PackedWeight<Tensor<B, 1, Int>, Tensor<B, 1, Int>, Tensor<B, 1>>;

impl<B: Backend> DeviceWeight<B> {
    pub fn upload(
        weight: PackedWeight,
        parameter: Option<u32>,
        compute: ComputeType,
        device: &B::Device,
    ) -> Self {
        let has_constant_groups = weight.levels.kind().has_mins() && weight.scales.contains(&0.0);
        let packed = weight.map(
            |words| upload_words(words, device),
            |bytes| upload_bytes(bytes, device),
            |floats| upload_floats(floats, device),
        );
        Self { packed, parameter, compute, has_constant_groups }
    }

    pub fn elements(&self) -> usize {
        self.packed.elements()
    }

    /// Sums over each group of features, which are in the model's order: `[T, in_features]` → `[T, groups]`.
    pub fn sum_groups(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        let (groups, size, rows) = (self.packed.groups(), self.packed.group_size, features.dims()[0]);
        let features = match &self.packed.perm {
            Some(perm) => features.select(1, perm.clone()),
            None => features,
        };
        if groups == 1 {
            return features.sum_dim(1);
        }
        let missing = groups * size - self.packed.in_features;
        let padded = match missing {
            0 => features,
            _ => {
                let zeros = Tensor::zeros([rows, missing], (&features.device(), features.dtype()));
                Tensor::cat(vec![features, zeros], 1)
            }
        };
        padded.reshape([rows * groups, size]).sum_dim(1).reshape([rows, groups])
    }

    /// The parameter id and the move of each equal part of the rows; all rows are one part where this weight is
    /// not trained.
    pub(super) fn parts(&self, signs: Signs) -> Vec<Option<(u32, Move)>> {
        match self.parameter {
            Some(parameter) => {
                signs.parts().map(|moved| moved.map(|displacement| (parameter, displacement))).collect()
            }
            None => vec![None],
        }
    }
}

fn upload_bytes<B: Backend>(mut bytes: Vec<u8>, device: &B::Device) -> Tensor<B, 1, Int> {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    upload_words(bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect(), device)
}

fn upload_words<B: Backend>(words: Vec<u32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let length = words.len();
    let words: Vec<i32> = bytemuck::cast_vec(words);
    Tensor::from_data(TensorData::new(words, [length]), device)
}

pub(super) fn upload_floats<B: Backend>(values: Vec<f32>, device: &B::Device) -> Tensor<B, 1> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), (device, burn::tensor::DType::F32))
}
