//! A packed weight on its device. Everything is rank 1: cubecl may give tensors of higher rank a pitch.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use crate::device::ComputeType;
use crate::packed::{BlockMinima, Blocks, Codebook, Levels, PackedWeight};
use crate::zo::direction::{Move, Signs};

/// [`Levels`] on the device.
#[derive(Debug, Clone)]
pub enum DeviceLevels<B: Backend> {
    Zero(u8),
    /// Four zero points per i32 word, low byte first.
    Zeros(Tensor<B, 1, Int>),
    /// f32 `[out_features × groups]`
    Minimum(Tensor<B, 1>),
    Blocks {
        width: usize,
        zero: u8,
        /// Four a word like zero points: the factors of all blocks, and their minima behind them.
        integers: Tensor<B, 1, Int>,
        /// Where there are minima: f32 `[out_features × groups]`
        units: Option<Tensor<B, 1>>,
    },
    Codebook {
        width: usize,
        books: usize,
        /// f32 `[books × 2^bits × width]`
        entries: Tensor<B, 1>,
    },
}

/// [`PackedWeight`] on the device; layouts as drawn there.
#[derive(Debug, Clone)]
pub struct DeviceWeight<B: Backend> {
    pub out_features: usize,
    pub in_features: usize,
    pub bits: u32,
    pub group_size: usize,
    /// i32 `[out_features × words_per_row]`, the bits of the u32 words.
    pub codes: Tensor<B, 1, Int>,
    /// f32 `[out_features × groups]`
    pub scales: Tensor<B, 1>,
    pub levels: DeviceLevels<B>,
    /// i32 `[in_features]`
    pub order: Option<Tensor<B, 1, Int>>,
    /// The weight's number in the byte-sorted list of trained weights; `None` where it is not trained.
    pub parameter: Option<u32>,
    /// Type of the arithmetic of its product, where a backend has a choice.
    pub compute: ComputeType,
}

impl<B: Backend> DeviceWeight<B> {
    pub fn upload(
        weight: PackedWeight,
        parameter: Option<u32>,
        compute: ComputeType,
        device: &B::Device,
    ) -> Self {
        let PackedWeight { out_features, in_features, bits, group_size, codes, scales, levels, order } =
            weight;
        let levels = match levels {
            Levels::Zero(zero) => DeviceLevels::Zero(zero),
            Levels::Zeros(zeros) => DeviceLevels::Zeros(upload_bytes(zeros, device)),
            Levels::Minimum(minimum) => DeviceLevels::Minimum(upload_floats(minimum, device)),
            Levels::Blocks(Blocks { width, zero, factors, minima }) => {
                let mut integers: Vec<u8> = bytemuck::cast_vec(factors);
                let units = minima.map(|BlockMinima { minima, units }| {
                    integers.extend(minima);
                    upload_floats(units, device)
                });
                DeviceLevels::Blocks { width, zero, integers: upload_bytes(integers, device), units }
            }
            Levels::Codebook(Codebook { width, books, entries }) => {
                DeviceLevels::Codebook { width, books, entries: upload_floats(entries, device) }
            }
        };
        Self {
            out_features,
            in_features,
            bits,
            group_size,
            codes: upload_words(codes, device),
            scales: upload_floats(scales, device),
            levels,
            order: order.map(|order| upload_words(order, device)),
            parameter,
            compute,
        }
    }

    pub fn elements(&self) -> usize {
        self.out_features * self.in_features
    }

    pub fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    /// The parameter id and noise of each equal part of the rows; all rows are one part where this weight
    /// is not trained.
    pub(super) fn parts(&self, perturb: Signs) -> Vec<Option<(u32, Move)>> {
        match self.parameter {
            Some(parameter) => perturb.parts().map(|noise| noise.map(|noise| (parameter, noise))).collect(),
            None => vec![None],
        }
    }
}

/// Four a word, the first in the low byte.
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
