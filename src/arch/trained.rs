//! The tensors that can be trained beside the scales of quantized weights: float minima of groups, norms and biases.

use std::ops::Range;

use super::decoder::ModelConfig;

/// The kind of a tensor that is trained beside the scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// Float minima of a quantized weight's groups.
    Minima,
    /// Weight or bias of a norm inside a decoder block.
    Norms,
    /// Bias of a linear inside a decoder block.
    Biases,
}

impl TensorKind {
    pub const ALL: [Self; 3] = [Self::Minima, Self::Norms, Self::Biases];

    /// The word for it in configurations and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minima => "minima",
            Self::Norms => "norms",
            Self::Biases => "biases",
        }
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TensorKinds {
    pub minima: bool,
    pub norms: bool,
    pub biases: bool,
}

impl TensorKinds {
    pub fn has(self, kind: TensorKind) -> bool {
        match kind {
            TensorKind::Minima => self.minima,
            TensorKind::Norms => self.norms,
            TensorKind::Biases => self.biases,
        }
    }

    pub fn insert(&mut self, kind: TensorKind) {
        match kind {
            TensorKind::Minima => self.minima = true,
            TensorKind::Norms => self.norms = true,
            TensorKind::Biases => self.biases = true,
        }
    }

    /// The kinds of the set.
    pub fn iter(self) -> impl Iterator<Item = TensorKind> {
        TensorKind::ALL.into_iter().filter(move |kind| self.has(*kind))
    }
}

/// A tensor that is trained beside the scales.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedTensor {
    /// Its Hugging Face name; minima have the name of their weight with an ending.
    pub name: String,
    pub kind: TensorKind,
    /// Number of values. Minima: `[out_features, groups]`
    pub length: usize,
}

/// Ending of the name of a weight's minima.
const MINIMA: &str = ".minima";

impl TrainedTensor {
    /// The minima of a weight.
    pub fn minima(weight: &str, length: usize) -> Self {
        Self { name: format!("{weight}{MINIMA}"), kind: TensorKind::Minima, length }
    }

    /// The weight that minima belong to; any other tensor's own name.
    pub fn weight(&self) -> &str {
        self.name.strip_suffix(MINIMA).filter(|_| self.kind == TensorKind::Minima).unwrap_or(&self.name)
    }

    /// The minima of a weight among `tensors`, which are byte-sorted.
    pub fn minima_of<'a>(tensors: &'a [Self], weight: &str) -> Option<&'a Self> {
        Self::find(tensors, &format!("{weight}{MINIMA}"))
    }

    /// The tensor of a name among `tensors`, which are byte-sorted.
    pub fn find<'a>(tensors: &'a [Self], name: &str) -> Option<&'a Self> {
        tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok().map(|index| &tensors[index])
    }
}

impl ModelConfig {
    /// The norms' tensors and the linears' biases of some decoder blocks.
    pub fn norms_and_biases(&self, blocks: Range<usize>) -> Vec<TrainedTensor> {
        let endings: &[&str] = if self.layer_norms() { &["weight", "bias"] } else { &["weight"] };
        let mut tensors = Vec::new();
        for block in blocks {
            for norm in self.norms(block) {
                tensors.extend(endings.iter().map(|ending| TrainedTensor {
                    name: format!("{}.{ending}", norm.module),
                    kind: TensorKind::Norms,
                    length: norm.width,
                }));
            }
            let biased = self.linears(block).into_iter().filter(|linear| linear.bias);
            tensors.extend(biased.map(|linear| TrainedTensor {
                name: format!("{}.bias", linear.module),
                kind: TensorKind::Biases,
                length: linear.shape[0],
            }));
        }
        tensors
    }
}
