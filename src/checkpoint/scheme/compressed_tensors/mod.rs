//! compressed-tensors' "pack-quantized" format. One linear `M` of shape `[out, in]`:
//!
//! ```text
//! M.weight_packed      i32 [out, ⌈in/p⌉]     a row's codes, low bits first, p = ⌊32/bits⌋ of them in a word
//! M.weight_scale       f16 [out, groups]     (bf16 and f32 are read too); strategy "channel": one group
//! M.weight_shape       i64 [2]               out, in
//! M.weight_zero_point  i32 [⌈out/p⌉, groups] where not symmetric: zero points along `out`, packed alike
//! M.weight_g_idx       i32 [in]              with actorder "group": the group of each input feature
//! weight[o, i] = weight_scale[o, g] · (code[o, i] − zero[o, g]),  g = i / group_size or g_idx[i]
//! ```
//!
//! The package counts codes and zero points from −2^(bits−1) and adds as much to what it stores; here they
//! are counted from 0 as stored, and a symmetric zero is 2^(bits−1). 3-bit words have two bits to spare,
//! where other formats let codes straddle words.
//! Layout: compressed-tensors `compressors/pack_quantized`.

mod settings;

use rayon::prelude::*;
use serde_json::Value;

use super::bytes::{word_bytes, words_from};
use super::config::whole_groups;
use super::ordering;
use super::tensors::TensorRole::{Codes, GroupIndex, Scales, Shape, Zeros};
use super::tensors::{StoredLayout, TensorSpec};
use super::traits::{LinearFormat, Packing, Scheme};
use crate::checkpoint::Format;
use crate::checkpoint::safetensors::Dtype;
use crate::checkpoint::tensor::StoredTensor;
use crate::packed::{LevelsKind, PackedLayout, get_code, put_code, words_per_row};
pub use settings::{Actorder, CompressedTensors};

pub const PACKED: &str = ".weight_packed";
const SCALE: &str = ".weight_scale";
const SHAPE: &str = ".weight_shape";
const ZERO_POINT: &str = ".weight_zero_point";
const G_IDX: &str = ".weight_g_idx";
const PARTS: [&str; 5] = [PACKED, SCALE, SHAPE, ZERO_POINT, G_IDX];

impl CompressedTensors {
    pub fn scheme(self) -> Scheme {
        let name = format!("pack-quantized {}-bit", self.bits);
        Scheme { format: Format::CompressedTensors, name, parts: &PARTS, linears: Box::new(self) }
    }

    fn ordered(&self) -> bool {
        self.actorder == Some(Actorder::Group)
    }

    /// Whether all zero points are the middle of the codes, as symmetric weights have it. The package counts it as 0, and
    /// writes it packed or as a plain number.
    fn is_middle(&self, zero_point: &StoredTensor<'_>) -> bool {
        let middle = |codes: usize| {
            (0..codes).fold(0u32, |word, i| word | 1 << (i as u32 * self.bits + self.bits - 1))
        };
        let words: Vec<u32> = (0..=self.codes_per_word()).map(middle).collect();
        let is_packed = zero_point.dtype == Dtype::I32;
        let packed = is_packed && words_from(zero_point.bytes).iter().all(|word| words.contains(word));
        packed || zero_point.bytes.iter().all(|byte| *byte == 0)
    }

    /// Whether groups hold neighbours. −1 for every feature says the same.
    fn is_own_order(&self, g_idx: &StoredTensor<'_>) -> bool {
        let features = g_idx.shape.first().copied().unwrap_or(0);
        let size = self.group_size.unwrap_or(features).max(1);
        let unset = |groups: Vec<i32>| groups.iter().all(|group| *group == -1);
        g_idx.integers().is_ok_and(unset)
            || ordering::of_groups(g_idx, features, size).is_ok_and(|perm| perm.is_none())
    }

    fn codes_per_word(&self) -> usize {
        (32 / self.bits) as usize
    }

    /// Words that hold a number of codes in the file.
    fn words(&self, codes: usize) -> usize {
        codes.div_ceil(self.codes_per_word())
    }
}

impl LinearFormat for CompressedTensors {
    fn spec(&self, [out_features, in_features]: [usize; 2]) -> Result<StoredLayout, String> {
        let group_size = self.group_size.unwrap_or(in_features);
        let groups = whole_groups(in_features, group_size)?;
        let mut tensors = vec![
            TensorSpec::new(PACKED, Codes, Dtype::I32, &[out_features, self.words(in_features)]),
            TensorSpec::new(SCALE, Scales, Dtype::F16, &[out_features, groups]),
            TensorSpec::new(SHAPE, Shape, Dtype::I64, &[2]),
        ];
        if !self.symmetric {
            tensors.push(TensorSpec::new(ZERO_POINT, Zeros, Dtype::I32, &[self.words(out_features), groups]));
        }
        if self.ordered() {
            tensors.push(TensorSpec::new(G_IDX, GroupIndex, Dtype::I32, &[in_features]));
        }
        let levels = if self.symmetric { LevelsKind::Zero } else { LevelsKind::Zeros };
        let layout = PackedLayout { bits: self.bits, group_size, levels, ordered: self.ordered() };
        Ok(StoredLayout { layout, tensors })
    }

    fn accounts_for(&self, part: &StoredTensor<'_>) -> bool {
        match part.name {
            name if name.ends_with(ZERO_POINT) && self.symmetric => self.is_middle(part),
            name if name.ends_with(G_IDX) && !self.ordered() => self.is_own_order(part),
            _ => true,
        }
    }

    fn unpack(&self, stored: &[u8], [_, in_features]: [usize; 2], codes: &mut [u32]) {
        let (bits, words) = (self.bits, words_per_row(in_features, self.bits));
        let per_word = self.codes_per_word();
        // The unused high bits of a row's last word.
        let unused = words * 32 - in_features * bits as usize;
        let stored = stored.as_chunks::<4>().0.par_chunks(self.words(in_features));
        codes.par_chunks_mut(words).zip(stored).for_each(|(row, stored)| {
            if 32 % bits == 0 {
                row.iter_mut().zip(stored).for_each(|(word, stored)| *word = u32::from_le_bytes(*stored));
                row[words - 1] &= u32::MAX >> unused;
            } else {
                for i in 0..in_features {
                    let word = u32::from_le_bytes(stored[i / per_word]);
                    put_code(row, i, bits, get_code(&[word], i % per_word, bits));
                }
            }
        });
    }

    fn zero_place(&self, row: usize, group: usize, [_, in_features]: [usize; 2]) -> (usize, usize) {
        let groups = in_features / self.group_size.unwrap_or(in_features);
        (row / self.codes_per_word() * groups + group, row % self.codes_per_word())
    }
}

impl Packing for CompressedTensors {
    fn settings(&self) -> Value {
        self.to_json()
    }

    fn pack(&self, codes: &[u32], [out_features, in_features]: [usize; 2]) -> Vec<u8> {
        if 32 % self.bits == 0 {
            return word_bytes(codes);
        }
        let (stored, per_word) = (self.words(in_features), self.codes_per_word());
        let mut words = vec![0; out_features * stored];
        let rows = codes.chunks_exact(words_per_row(in_features, self.bits));
        for (words, codes) in words.chunks_exact_mut(stored).zip(rows) {
            for i in 0..in_features {
                let word = std::slice::from_mut(&mut words[i / per_word]);
                put_code(word, i % per_word, self.bits, get_code(codes, i, self.bits));
            }
        }
        word_bytes(&words)
    }
}
