//! The tensors of one quantized linear: as its format states them, and as a file holds them.

use crate::checkpoint::safetensors::Dtype;
use crate::checkpoint::shards::Shards;
use crate::checkpoint::tensor::StoredTensor;
use crate::error::Result;
use crate::packed::PackedLayout;

/// Purpose of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorRole {
    Codes,
    /// `[out, groups]`.
    Scales,
    /// `[groups, out]`.
    TransposedScales,
    /// Integer zero points, packed.
    Zeros,
    /// Float minima of the groups, `[out, groups]`, which move with the scales.
    Minima,
    /// `[codebooks, 2^bits, width]`, possibly with more dimensions of 1.
    Codebook,
    /// The group of each input feature.
    GroupIndex,
    /// `out` and `in`, as integers.
    Shape,
    /// Read and written by the format itself.
    Private,
}

/// One tensor of a linear: the end of its name, behind the module's, and how it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    pub ending: &'static str,
    pub role: TensorRole,
    /// Type that is written. When read, floats may have any float type, group indices and shapes any integer type.
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Whether files may lack it. It is always written.
    pub optional: bool,
}

impl TensorSpec {
    pub fn new(ending: &'static str, role: TensorRole, dtype: Dtype, shape: &[usize]) -> Self {
        Self { ending, role, dtype, shape: shape.to_vec(), optional: false }
    }

    fn check(&self, tensor: &StoredTensor<'_>) -> Result<()> {
        tensor.expect_shape(&self.shape)?;
        match (self.role, self.dtype) {
            (TensorRole::GroupIndex | TensorRole::Shape, _) => tensor.integers().map(|_| ()),
            (_, Dtype::F32 | Dtype::F16 | Dtype::BF16) => tensor.float_type().map(|_| ()),
            (_, expected) if expected == tensor.dtype => Ok(()),
            (_, expected) => Err(tensor.wrong(format!("expected {expected:?}, got {:?}", tensor.dtype))),
        }
    }
}

/// All tensors of a linear, in the order in which they are written, and its layout in memory.
pub struct StoredLayout {
    pub layout: PackedLayout,
    pub tensors: Vec<TensorSpec>,
}

/// The tensors of a linear in a file, of the stated types and shapes.
pub struct LinearTensors<'a>(Vec<(TensorSpec, StoredTensor<'a>)>);

impl<'a> LinearTensors<'a> {
    /// The tensors of `module`, which is the name of the weight without `.weight`.
    ///
    /// # Errors
    /// A tensor that is missing, or of another shape or type.
    pub fn open(shards: &'a Shards, module: &str, specs: Vec<TensorSpec>) -> Result<Self> {
        let mut tensors = Vec::with_capacity(specs.len());
        for spec in specs {
            let name = format!("{module}{}", spec.ending);
            if spec.optional && !shards.contains(&name) {
                continue;
            }
            let tensor = shards.tensor(&name)?;
            spec.check(&tensor)?;
            tensors.push((spec, tensor));
        }
        Ok(Self(tensors))
    }

    /// The tensor of a role, where the format has one.
    pub fn get(&self, role: TensorRole) -> Option<&StoredTensor<'a>> {
        self.0.iter().find(|(spec, _)| spec.role == role).map(|(_, tensor)| tensor)
    }

    pub fn with_ending(&self, ending: &str) -> Option<&StoredTensor<'a>> {
        self.0.iter().find(|(spec, _)| spec.ending == ending).map(|(_, tensor)| tensor)
    }

    /// Bytes of all tensors together.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(_, tensor)| tensor.bytes.len()).sum()
    }
}

/// The values of a tensor of floats; `what` is the error's word for one of them.
///
/// # Errors
/// A value that is not finite.
pub fn finite_floats(tensor: &StoredTensor<'_>, what: &str) -> Result<Vec<f32>> {
    let values = tensor.floats()?;
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(tensor.wrong(format!("holds {what} that is not finite"))),
    }
}
