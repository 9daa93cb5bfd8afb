//! One quantized linear in the files of a directory, whatever its scheme.

use rayon::prelude::*;

use super::bytes::words_from;
use super::ordering;
use super::scales::{StoredScales, minima_levels, moved_minima};
use super::tensors::{LinearTensors, StoredLayout, TensorRole, finite_floats};
use super::traits::{LinearFormat, Packing, Scheme};
use crate::checkpoint::float;
use crate::checkpoint::shards::Shards;
use crate::checkpoint::tensor::StoredTensor;
use crate::device::host;
use crate::error::Result;
use crate::packed::{Codebook, Levels, LevelsKind, PackedLayout, PackedWeight, get_code, words_per_row};

/// A linear whose tensors have the types and shapes that its format states.
pub struct StoredLinear<'a> {
    format: Box<dyn LinearFormat>,
    shape: [usize; 2],
    layout: PackedLayout,
    tensors: LinearTensors<'a>,
    scales: StoredScales<'a>,
    /// The feature at each place of a row, unless that is the model's own order.
    perm: Option<Vec<u32>>,
}

impl<'a> StoredLinear<'a> {
    /// `module`: name of the weight without `.weight`; `shape`: `[out, in]`.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape or type, or says something else than the settings.
    pub fn open(scheme: &Scheme, shards: &'a Shards, module: &str, shape: [usize; 2]) -> Result<Self> {
        let format = scheme.linears.linear(shards, module, shape)?;
        let StoredLayout { layout, tensors } = match format.spec(shape) {
            Ok(spec) => spec,
            Err(what) => return Err(shards.tensor(&format!("{module}{}", scheme.parts[0]))?.wrong(what)),
        };
        let tensors = LinearTensors::open(shards, module, tensors)?;
        let [out_features, in_features] = shape;
        let scales_shape = [out_features, in_features.div_ceil(layout.group_size.max(1))];
        let scales = StoredScales::open(&tensors, scales_shape, format.expanded_scales(&tensors)?)?;
        let g_idx = tensors.get(TensorRole::GroupIndex);
        let perm =
            g_idx.map(|g_idx| ordering::of_groups(g_idx, in_features, layout.group_size)).transpose()?;
        if let Some(stated) = tensors.get(TensorRole::Shape) {
            let numbers = stated.integers()?;
            if numbers.iter().map(|&n| usize::try_from(n).ok()).ne(shape.map(Some)) {
                return Err(stated.wrong(format!("says {numbers:?}, expected {shape:?}")));
            }
        }
        Ok(Self { format, shape, layout, tensors, scales, perm: perm.flatten() })
    }

    /// Layout in memory once it is loaded.
    pub fn layout(&self) -> PackedLayout {
        self.layout
    }

    pub fn scales(&self) -> &StoredScales<'a> {
        &self.scales
    }

    /// Bytes of all its tensors.
    pub fn bytes(&self) -> usize {
        self.tensors.bytes()
    }

    /// # Errors
    /// A number that is not finite.
    pub fn levels(&self) -> Result<Levels> {
        let tensor = |role| self.tensors.get(role);
        if let Some(stored) = tensor(TensorRole::Zeros) {
            return Ok(self.format.zeros(self.zeros(words_from(stored.bytes))));
        }
        if let Some(stored) = tensor(TensorRole::Minima) {
            return Ok(minima_levels(&self.scales.values()?, finite_floats(stored, "a bias")?));
        }
        match (self.layout.levels, tensor(TensorRole::Codebook)) {
            (LevelsKind::Codebook { width, num_codebooks: books }, Some(codebook)) => {
                let entries = finite_floats(codebook, "an entry")?;
                Ok(Levels::Codebook(Codebook { width, num_codebooks: books, entries }))
            }
            _ => Ok(Levels::Zero(1 << (self.layout.bits - 1))),
        }
    }

    /// Zero points `[out, groups]` from the words of their tensor.
    fn zeros(&self, mut words: Vec<u32>) -> Vec<u8> {
        let [out_features, groups] = self.scales.shape();
        self.format.correct_zeros(&mut words);
        let zero = |i: usize| {
            let (word, index) = self.format.zero_place(i / groups, i % groups, self.shape);
            get_code(&words[word..], index, self.layout.bits) as u8
        };
        (0..out_features * groups).into_par_iter().with_min_len(1 << 12).map(zero).collect()
    }

    /// # Errors
    /// A number that is not finite.
    pub fn packed(&self) -> Result<PackedWeight> {
        let [out_features, in_features] = self.shape;
        let PackedLayout { bits, group_size, levels, .. } = self.layout;
        let mut codes = vec![0u32; out_features * words_per_row(levels.codes(in_features), bits)];
        host::prefer_huge_pages(&mut codes);
        if let Some(stored) = self.tensors.get(TensorRole::Codes) {
            self.format.unpack(stored.bytes, self.shape, &mut codes);
        }
        if let Some(perm) = &self.perm {
            ordering::apply(&mut codes, bits, perm);
        }
        Ok(PackedWeight {
            out_features,
            in_features,
            bits,
            group_size,
            codes,
            scales: self.scales.values()?,
            levels: self.levels()?,
            perm: self.perm.clone(),
        })
    }

    /// One row as f32, where the format reads single rows: embedding tables need it.
    pub fn row(&self, row: usize) -> Option<Vec<f32>> {
        self.format.row(&self.tensors, self.shape, row)
    }

    /// `scales` (`[out, groups]`) rounded to the type of the file, and the levels that belong to them.
    ///
    /// # Errors
    /// A scale that overflows the file's type or is not finite.
    pub fn rounded(&self, scales: &[f32]) -> Result<(Vec<f32>, Levels)> {
        let Some(stored) = self.tensors.get(TensorRole::Minima) else {
            return Ok((self.scales.rounded(scales)?, self.levels()?));
        };
        let (scales, minima) = moved_minima(stored, &self.scales, scales)?;
        let levels = minima_levels(&scales, minima);
        Ok((scales, levels))
    }

    /// The tensors that training changes.
    pub fn tuned_tensors(&self) -> Vec<&StoredTensor<'a>> {
        [Some(self.scales.tensor()), self.tensors.get(TensorRole::Minima)].into_iter().flatten().collect()
    }

    /// The float minima of the groups, `[out, groups]`.
    ///
    /// # Errors
    /// The format has none; one that is not finite.
    pub fn minima(&self) -> Result<Vec<f32>> {
        match self.tensors.get(TensorRole::Minima) {
            Some(stored) => finite_floats(stored, "a bias"),
            None => Err(self.scales.tensor().wrong("its groups have no float minima")),
        }
    }

    /// Bytes of [`Self::tuned_tensors`] for `scales` (`[out, groups]`), and for `minima` where they do not just move with
    /// the scales.
    ///
    /// # Errors
    /// As [`Self::rounded`]; the same of a minimum.
    pub fn tuned_bytes(&self, scales: &[f32], minima: Option<&[f32]>) -> Result<Vec<Vec<u8>>> {
        let Some(stored) = self.tensors.get(TensorRole::Minima) else {
            return Ok(vec![self.scales.encode(scales)?]);
        };
        let dtype = stored.float_type()?;
        if let Some(minima) = minima {
            let minima = stored.tuned_bytes(minima.to_vec())?;
            return Ok(vec![float::encode(dtype, self.scales.rounded(scales)?), minima]);
        }
        let (scales, minima) = moved_minima(stored, &self.scales, scales)?;
        Ok(vec![float::encode(dtype, scales), float::encode(dtype, minima)])
    }

    /// How a tuned copy is written, where it takes more than other bytes in the same tensors.
    pub fn repacking(&self) -> Option<Box<dyn Packing>> {
        self.format.repacking()
    }
}
