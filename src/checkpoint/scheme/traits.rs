//! The interface of a scheme's file: a [`Scheme`] and its [`LinearFormat`] to read a directory, and a [`Packing`] to
//! write one.

use serde_json::Value;

use super::bytes::{float_bytes, read_words, transpose, word_bytes};
use super::ordering;
use super::tensors::{LinearTensors, StoredLayout, TensorRole, TensorSpec};
use crate::checkpoint::Format;
use crate::checkpoint::safetensors::Dtype;
use crate::checkpoint::shards::Shards;
use crate::checkpoint::tensor::StoredTensor;
use crate::error::Result;
use crate::packed::{FloatType, Levels, LevelsKind, PackedLayout, PackedWeight, put_code};

/// A scheme with the settings of one directory.
pub struct Scheme {
    pub format: Format,
    /// Name for `inspect`: "GPTQ 4-bit".
    pub name: String,
    /// Endings of the names of a linear's tensors, after its module's name. A module that has a tensor with the
    /// first ending is stored in this scheme.
    pub parts: &'static [&'static str],
    pub linears: Box<dyn LinearFormats>,
}

/// The formats of a scheme's linears. A [`LinearFormat`] that holds for all of them implements this trait, too.
pub trait LinearFormats: Send + Sync {
    /// The format of one linear of shape `[out, in]`; `module` is the name of the weight without `.weight`.
    ///
    /// # Errors
    /// A tensor that decides the format is missing or damaged.
    fn linear(&self, shards: &Shards, module: &str, shape: [usize; 2]) -> Result<Box<dyn LinearFormat>>;

    /// Whether a tensor with one of the endings in [`Scheme::parts`] is read, or changes nothing.
    fn accounts_for(&self, _part: &StoredTensor<'_>) -> bool {
        true
    }
}

impl<F: LinearFormat + Copy + 'static> LinearFormats for F {
    fn linear(&self, _: &Shards, _: &str, _: [usize; 2]) -> Result<Box<dyn LinearFormat>> {
        Ok(Box::new(*self))
    }

    fn accounts_for(&self, part: &StoredTensor<'_>) -> bool {
        LinearFormat::accounts_for(self, part)
    }
}

/// The tensors of a linear of shape `[out, in]`, and how they hold its codes.
pub trait LinearFormat: Send + Sync {
    /// # Errors
    /// A shape that does not fit the format.
    fn spec(&self, shape: [usize; 2]) -> Result<StoredLayout, String>;

    /// See [`LinearFormats::accounts_for`].
    fn accounts_for(&self, _part: &StoredTensor<'_>) -> bool {
        true
    }

    /// Unpacks the tensor of codes into `codes`, which are zero: rows as [`crate::packed`] draws them, their features
    /// in the model's order.
    fn unpack(&self, stored: &[u8], _shape: [usize; 2], codes: &mut [u32]) {
        read_words(stored, codes);
    }

    /// The place of the zero point of a row and a group: a word of their tensor, and the number of a code in the words
    /// from there on.
    fn zero_place(&self, _row: usize, _group: usize, _shape: [usize; 2]) -> (usize, usize) {
        (0, 0)
    }

    /// Undoes changes that writers make to whole words of zero points, before these are unpacked.
    fn correct_zeros(&self, _words: &mut [u32]) {}

    /// The levels of unpacked zero points, `[out, groups]`.
    fn zeros(&self, zeros: Vec<u8>) -> Levels {
        Levels::Zeros(zeros)
    }

    /// The scales `[out, groups]`, where the tensor of scales holds them quantized.
    fn expanded_scales(&self, _tensors: &LinearTensors) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }

    /// One row as f32, in formats of which single rows are read: those of embedding tables.
    fn row(&self, _tensors: &LinearTensors, _shape: [usize; 2], _row: usize) -> Option<Vec<f32>> {
        None
    }

    /// How a tuned copy is written, where it takes more than other bytes in the same tensors.
    fn repacking(&self) -> Option<Box<dyn Packing>> {
        None
    }
}

/// A format that linears can be written in, and its settings. The codes and scales come from the caller's quantizer;
/// here they only get their places.
pub trait Packing: LinearFormat {
    /// Type of the scales in the file.
    fn scale_dtype(&self) -> FloatType {
        FloatType::F16
    }

    /// `quantization_config` of config.json.
    fn settings(&self) -> Value;

    /// Whether readers also expect the settings in a file of their own, `quantize_config.json`.
    fn has_own_config(&self) -> bool {
        false
    }

    /// Refuses levels that the format cannot hold although their kind is right.
    fn check(&self, _levels: &Levels) -> Result<(), String> {
        Ok(())
    }

    /// The tensor of codes, from rows whose features are in the model's order.
    fn pack(&self, codes: &[u32], _shape: [usize; 2]) -> Vec<u8> {
        word_bytes(codes)
    }

    /// The code that stands for a zero point.
    fn stored_zero(&self, zero: u8) -> Result<u8, String> {
        Ok(zero)
    }

    /// The bytes of a private tensor.
    fn private_bytes(&self, _shape: [usize; 2]) -> Vec<u8> {
        vec![]
    }

    /// The tensors of a linear of shape `[out, in]`: ending of the name, type and shape.
    ///
    /// # Errors
    /// A shape that does not fit the format.
    fn describe(&self, shape: [usize; 2]) -> Result<Vec<(String, Dtype, Vec<usize>)>, String> {
        let tensors = self.spec(shape)?.tensors;
        Ok(tensors.into_iter().map(|spec| (spec.ending.to_owned(), spec.dtype, spec.shape)).collect())
    }

    /// Bytes of the tensors, in the order of [`Self::describe`].
    ///
    /// # Errors
    /// A weight that contradicts the settings, or that the format cannot hold.
    fn encode(&self, packed: &PackedWeight) -> Result<Vec<Vec<u8>>, String> {
        let shape = [packed.out_features, packed.in_features];
        let spec = self.spec(shape)?;
        check_layout(packed, &spec)?;
        self.check(&packed.levels)?;
        let (codes, g_idx) = ordering::undo(packed);
        let encode = |spec: TensorSpec| match (spec.role, &packed.levels) {
            (TensorRole::Codes, _) => Ok(self.pack(&codes, shape)),
            (TensorRole::Scales, _) => float_bytes(&packed.scales, spec.dtype),
            (TensorRole::TransposedScales, _) => {
                float_bytes(&transpose(&packed.scales, shape[0], |scale| scale), spec.dtype)
            }
            (TensorRole::Zeros, levels) => {
                let mut words = vec![0; spec.shape.iter().product()];
                for i in 0..packed.scales.len() {
                    let zero = match levels {
                        Levels::Zeros(zeros) => zeros[i],
                        Levels::Zero(zero) => *zero,
                        _ => return Err("the format stores integer zero points".into()),
                    };
                    let (word, index) = self.zero_place(i / packed.groups(), i % packed.groups(), shape);
                    put_code(&mut words[word..], index, packed.bits, self.stored_zero(zero)?.into());
                }
                Ok(word_bytes(&words))
            }
            (TensorRole::Codebook, Levels::Codebook(codebook)) => float_bytes(&codebook.entries, spec.dtype),
            (TensorRole::GroupIndex, _) => Ok(word_bytes(&g_idx)),
            (TensorRole::Shape, _) => Ok(shape.map(|n| (n as i64).to_le_bytes()).concat()),
            (TensorRole::Private, _) => Ok(self.private_bytes(shape)),
            (TensorRole::Codebook | TensorRole::Minima, _) => Err(format!("{} is not written", spec.ending)),
        };
        spec.tensors.into_iter().map(encode).collect()
    }
}

/// Refuses a packed weight that is not as the layout says, or whose order of features has no place in the tensors.
fn check_layout(packed: &PackedWeight, spec: &StoredLayout) -> Result<(), String> {
    let PackedLayout { bits, group_size, levels, .. } = spec.layout;
    if (packed.bits, packed.group_size) != (bits, group_size) {
        return Err(format!(
            "expected codes of {bits} bits in groups of {group_size}, the quantizer gave {} in {}",
            packed.bits, packed.group_size
        ));
    }
    let has = |role| spec.tensors.iter().any(|tensor| tensor.role == role);
    // Without a tensor of zero points the only zero point is the middle of the codes.
    let is_stored = || has(TensorRole::Zeros) || packed.levels == Levels::Zero(1 << (bits - 1));
    if packed.levels.kind() != levels || levels == LevelsKind::Zero && !is_stored() {
        return Err(format!("the format holds levels of the kind {levels:?}, the quantizer gave others"));
    }
    let is_free = packed.groups() == 1 && !has(TensorRole::Codebook);
    if packed.perm.is_some() && !is_free && !has(TensorRole::GroupIndex) {
        return Err("its groups hold features that are no neighbours, which the format does not know".into());
    }
    Ok(())
}
