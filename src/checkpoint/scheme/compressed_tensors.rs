//! compressed-tensors' "pack-quantized" ↔ `PackedWeight`. One linear `M` of shape `[out, in]`:
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

use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;

use super::super::Format;
use super::super::safetensors::Dtype;
use super::super::shards::{Shards, Tensor};
use super::{Layer, Packing, Scheme, StoredScales, expect, f16_bytes, ordering, word_bytes, words_from};
use crate::device::host;
use crate::error::Result;
use crate::packed::FloatType;
use crate::packed::{Levels, LevelsKind, PackedLayout, PackedWeight, get_code, put_code, words_per_row};

pub const PACKED: &str = ".weight_packed";
const SCALE: &str = ".weight_scale";
const SHAPE: &str = ".weight_shape";
const ZERO_POINT: &str = ".weight_zero_point";
const G_IDX: &str = ".weight_g_idx";
const PARTS: [&str; 5] = [PACKED, SCALE, SHAPE, ZERO_POINT, G_IDX];

/// What config.json says about all linears; also how directories are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompressedTensors {
    pub bits: u32,
    /// `None`: one group per row (strategy "channel").
    pub group_size: Option<usize>,
    /// No zero points.
    pub symmetric: bool,
    pub actorder: Option<Actorder>,
}

/// How the order of the features' activations was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actorder {
    /// Groups may hold features that are no neighbours.
    Group,
    /// Only to quantize: groups are as without it.
    Weight,
}

impl CompressedTensors {
    /// # Errors
    /// Missing or impossible values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        settings::parse(path, json)
    }

    fn ordered(&self) -> bool {
        self.actorder == Some(Actorder::Group)
    }

    /// Zero points that the package writes where there are none to speak of: 0 as it counts, packed or not.
    fn is_middle(&self, zero_point: &Tensor<'_>) -> bool {
        let middle = |codes: usize| {
            (0..codes).fold(0u32, |word, i| word | 1 << (i as u32 * self.bits + self.bits - 1))
        };
        let words: Vec<u32> = (0..=self.codes_per_word()).map(middle).collect();
        let packed =
            zero_point.dtype == Dtype::I32 && words_from(zero_point).iter().all(|word| words.contains(word));
        packed || zero_point.bytes.iter().all(|byte| *byte == 0)
    }

    /// Groups of neighbours, or −1 for each feature, which stands for them.
    fn is_own_order(&self, g_idx: &Tensor<'_>) -> bool {
        let features = g_idx.shape.first().copied().unwrap_or(0);
        let size = self.group_size.unwrap_or(features).max(1);
        let unset = |groups: Vec<i32>| groups.iter().all(|group| *group == -1);
        g_idx.integers().is_ok_and(unset)
            || ordering::of_groups(g_idx, features, size).is_ok_and(|order| order.is_none())
    }

    fn codes_per_word(&self) -> usize {
        (32 / self.bits) as usize
    }

    fn groups(&self, in_features: usize) -> Result<usize, String> {
        let size = self.group_size.unwrap_or(in_features).max(1);
        match in_features.is_multiple_of(size) {
            true => Ok(in_features / size),
            false => Err(format!("groups of {size} do not fill rows of {in_features}")),
        }
    }
}

impl Scheme for CompressedTensors {
    fn format(&self) -> Format {
        Format::CompressedTensors
    }

    fn name(&self) -> String {
        format!("pack-quantized {}-bit", self.bits)
    }

    fn parts(&self) -> &'static [&'static str] {
        &PARTS
    }

    fn accounts_for(&self, part: &Tensor<'_>) -> bool {
        match part.name {
            name if name.ends_with(ZERO_POINT) && self.symmetric => self.is_middle(part),
            name if name.ends_with(G_IDX) && !self.ordered() => self.is_own_order(part),
            _ => true,
        }
    }

    fn open<'a>(
        &'a self,
        shards: &'a Shards,
        module: &str,
        shape: [usize; 2],
    ) -> Result<Box<dyn Layer + 'a>> {
        let [out_features, in_features] = shape;
        let part = |part: &str| shards.tensor(&format!("{module}{part}"));
        let words = |codes: usize| codes.div_ceil(self.codes_per_word());
        let (packed, scale, said) = (part(PACKED)?, part(SCALE)?, part(SHAPE)?);
        packed.expect_shape(&[out_features, words(in_features)])?;
        expect_words(&packed)?;
        let groups = self.groups(in_features).map_err(|what| scale.wrong(what))?;
        scale.expect_shape(&[out_features, groups])?;
        said.expect_shape(&[2])?;
        if said.integers()?.iter().map(|&n| usize::try_from(n).ok()).ne(shape.map(Some)) {
            return Err(said.wrong(format!("says {:?}, expected {shape:?}", said.integers()?)));
        }
        let zero_point = if self.symmetric { None } else { Some(part(ZERO_POINT)?) };
        if let Some(zero_point) = &zero_point {
            zero_point.expect_shape(&[words(out_features), groups])?;
            expect_words(zero_point)?;
        }
        let g_idx = if self.ordered() { Some(part(G_IDX)?) } else { None };
        let group_size = self.group_size.unwrap_or(in_features);
        let order = g_idx.map(|g_idx| ordering::of_groups(&g_idx, in_features, group_size)).transpose()?;
        Ok(Box::new(PackedLinear {
            scheme: *self,
            shape,
            packed,
            scales: StoredScales::new(scale, [out_features, groups], false)?,
            zero_point,
            order: order.flatten(),
            other_bytes: said.bytes.len() + g_idx.map_or(0, |g_idx| g_idx.bytes.len()),
        }))
    }
}

fn expect_words(tensor: &Tensor<'_>) -> Result<()> {
    match tensor.dtype {
        Dtype::I32 => Ok(()),
        other => Err(tensor.wrong(format!("expected codes packed in I32, got {other:?}"))),
    }
}

struct PackedLinear<'a> {
    scheme: CompressedTensors,
    shape: [usize; 2],
    packed: Tensor<'a>,
    scales: StoredScales<'a>,
    zero_point: Option<Tensor<'a>>,
    order: Option<Vec<u32>>,
    /// Of the shape and the groups of the features.
    other_bytes: usize,
}

impl Layer for PackedLinear<'_> {
    fn layout(&self) -> PackedLayout {
        let CompressedTensors { bits, group_size, symmetric, .. } = self.scheme;
        let levels = if symmetric { LevelsKind::Zero } else { LevelsKind::Zeros };
        let group_size = group_size.unwrap_or(self.shape[1]);
        PackedLayout { bits, group_size, levels, ordered: self.scheme.ordered() }
    }

    fn scales(&self) -> &StoredScales<'_> {
        &self.scales
    }

    fn levels(&self) -> Result<Levels> {
        let Some(zero_point) = &self.zero_point else {
            return Ok(Levels::Zero(1 << (self.scheme.bits - 1)));
        };
        let (words, groups, per_word) =
            (words_from(zero_point), zero_point.shape[1], self.scheme.codes_per_word());
        let zero = |i: usize| {
            let (row, group) = (i / groups, i % groups);
            let word = words[row / per_word * groups + group];
            get_code(&[word], row % per_word, self.scheme.bits) as u8
        };
        Ok(Levels::Zeros((0..self.shape[0] * groups).map(zero).collect()))
    }

    fn packed(&self) -> Result<PackedWeight> {
        let ([out_features, in_features], bits) = (self.shape, self.scheme.bits);
        let (words, per_word) = (words_per_row(in_features, bits), self.scheme.codes_per_word());
        let mut codes = vec![0u32; out_features * words];
        host::prefer_huge_pages(&mut codes);
        // The unused high bits of a row's last word.
        let unused = words * 32 - in_features * bits as usize;
        let stored = self.packed.bytes.as_chunks::<4>().0.par_chunks(in_features.div_ceil(per_word));
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
        if let Some(order) = &self.order {
            ordering::apply(&mut codes, bits, order);
        }
        Ok(PackedWeight {
            out_features,
            in_features,
            bits,
            group_size: self.scheme.group_size.unwrap_or(in_features),
            codes,
            scales: self.scales.values()?,
            levels: self.levels()?,
            perm: self.order.clone(),
        })
    }

    fn bytes(&self) -> usize {
        let zero_point = self.zero_point.map_or(0, |tensor| tensor.bytes.len());
        self.packed.bytes.len() + self.scales.tensor().bytes.len() + zero_point + self.other_bytes
    }
}

impl Packing for CompressedTensors {
    fn scale_dtype(&self) -> FloatType {
        FloatType::F16
    }

    fn settings(&self) -> Value {
        settings::write(self)
    }

    fn describe(
        &self,
        [out_features, in_features]: [usize; 2],
    ) -> Result<Vec<(String, Dtype, Vec<usize>)>, String> {
        let words = |codes: usize| codes.div_ceil(self.codes_per_word());
        let groups = self.groups(in_features)?;
        let mut parts = vec![
            (PACKED, Dtype::I32, vec![out_features, words(in_features)]),
            (SCALE, Dtype::F16, vec![out_features, groups]),
            (SHAPE, Dtype::I64, vec![2]),
        ];
        if !self.symmetric {
            parts.push((ZERO_POINT, Dtype::I32, vec![words(out_features), groups]));
        }
        if self.ordered() {
            parts.push((G_IDX, Dtype::I32, vec![in_features]));
        }
        Ok(parts.into_iter().map(|(part, dtype, shape)| (part.to_owned(), dtype, shape)).collect())
    }

    fn encode(&self, packed: &PackedWeight) -> Result<Vec<Vec<u8>>, String> {
        expect(packed, self.bits, self.group_size)?;
        let (out_features, in_features) = (packed.out_features, packed.in_features);
        let (groups, per_word) = (self.groups(in_features)?, self.codes_per_word());
        if packed.perm.is_some() && self.group_size.is_some() && !self.ordered() {
            return Err("groups of features that are no neighbours, without actorder \"group\"".into());
        }
        let (codes, g_idx) = ordering::undo(packed);
        let words = match 32 % self.bits {
            0 => codes,
            _ => {
                let stored = in_features.div_ceil(per_word);
                let mut words = vec![0; out_features * stored];
                for (row, codes) in codes.chunks_exact(packed.words_per_row()).enumerate() {
                    for i in 0..in_features {
                        let word = &mut words[row * stored + i / per_word];
                        put_code(
                            std::slice::from_mut(word),
                            i % per_word,
                            self.bits,
                            get_code(codes, i, self.bits),
                        );
                    }
                }
                words.into()
            }
        };
        let shape = [out_features, in_features].iter().flat_map(|&n| (n as i64).to_le_bytes()).collect();
        let mut parts = vec![word_bytes(&words), f16_bytes(&packed.scales)?, shape];
        match (&packed.levels, self.symmetric) {
            (Levels::Zero(zero), true) if u32::from(*zero) == 1 << (self.bits - 1) => {}
            (Levels::Zeros(zeros), false) => {
                let mut words = vec![0; out_features.div_ceil(per_word) * groups];
                for (i, zero) in zeros.iter().enumerate() {
                    let (row, group) = (i / groups, i % groups);
                    let word = &mut words[row / per_word * groups + group];
                    put_code(std::slice::from_mut(word), row % per_word, self.bits, u32::from(*zero));
                }
                parts.push(word_bytes(&words));
            }
            _ => return Err("zero points that are not as the settings say".into()),
        }
        if self.ordered() {
            parts.push(word_bytes(&g_idx));
        }
        Ok(parts)
    }
}
