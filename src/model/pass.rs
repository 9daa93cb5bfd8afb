//! The inputs that all blocks of a forward pass share: the positions of its rows, and the keys that each row attends
//! to.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::rope::{Rope, Rotation};
use crate::arch::ModelConfig;
use crate::data::Sequence;
use crate::kernels::{Kernels, KeyRanges};
use crate::zo::direction::Signs;

/// A row's position in its sequence, and the bounds of the keys that it attends to (see [`KeyRanges`]).
pub type QueryRow = (usize, [usize; 4]);

/// The shared inputs of a forward pass.
pub struct Pass<B: Backend> {
    full: AttentionInputs<B>,
    /// Inputs of layers with a sliding window.
    sliding: Option<AttentionInputs<B>>,
    pub signs: Signs,
}

/// The rotations of a layer's rows, and the keys that they attend to.
#[derive(Clone)]
pub struct AttentionInputs<B: Backend> {
    pub rotation: Option<Rotation<B>>,
    pub keys: KeyRanges<B>,
}

/// The rows of a block's input that its output has: `rows` of `count`.
#[derive(Clone)]
pub struct OutputRows<'a, B: Backend> {
    pub rows: &'a Tensor<B, 1, Int>,
    pub count: usize,
}

impl<B: Kernels> Pass<B> {
    pub fn new(
        rows: impl Iterator<Item = QueryRow>,
        rope: Option<&Rope>,
        config: &ModelConfig,
        signs: Signs,
        device: &B::Device,
    ) -> Self {
        let rows: Vec<QueryRow> = rows.collect();
        let positions: Vec<usize> = rows.iter().map(|(position, _)| *position).collect();
        let rotation = |frequencies| Rotation::new(&positions, frequencies, device);
        let full = AttentionInputs {
            rotation: rope.map(|rope| rotation(&rope.frequencies)),
            keys: key_ranges(rows.iter().map(|(_, bounds)| *bounds), device),
        };
        let sliding = config.sliding_window.as_ref().map(|window| AttentionInputs {
            rotation: match rope.and_then(|rope| rope.local.as_ref()) {
                Some(frequencies) => Some(rotation(frequencies)),
                None => full.rotation.clone(),
            },
            keys: key_ranges(rows.iter().map(|row| window_keys(window.length, *row)), device),
        });
        Self { full, sliding, signs }
    }

    /// The pass over the same rows with other signs, which must have the same number of parts.
    pub fn with(&self, signs: Signs) -> Self {
        Self { full: self.full.clone(), sliding: self.sliding.clone(), signs }
    }

    /// Inputs of a layer with or without a sliding window.
    pub fn attention_inputs(&self, sliding: bool) -> &AttentionInputs<B> {
        self.sliding.as_ref().filter(|_| sliding).unwrap_or(&self.full)
    }
}

/// The rows of a sequence that is `shift` rows further down in the pass than in its batch.
pub fn query_rows(sequence: &Sequence, shift: usize) -> impl Iterator<Item = QueryRow> + '_ {
    let Sequence { rows, prefix } = sequence;
    let prefix_bounds = if prefix.is_empty() { [0, 0] } else { [prefix.start + shift, prefix.end + shift] };
    rows.clone().map(move |row| {
        let position = prefix.len() + row - rows.start;
        (position, [prefix_bounds[0], prefix_bounds[1], rows.start + shift, row + shift + 1])
    })
}

/// The bounds of a row's keys if it attends only to the last `length` of them.
fn window_keys(length: usize, (position, [prefix_begin, prefix_end, begin, end]): QueryRow) -> [usize; 4] {
    let hidden = (position + 1).saturating_sub(length);
    let hidden_of_prefix = hidden.min(prefix_end - prefix_begin);
    [prefix_begin + hidden_of_prefix, prefix_end, begin + hidden - hidden_of_prefix, end]
}

fn key_ranges<B: Backend>(bounds: impl Iterator<Item = [usize; 4]>, device: &B::Device) -> KeyRanges<B> {
    KeyRanges { bounds: ints(bounds.flatten().map(|bound| bound as i32), device) }
}

/// Uploads integers: `[N]`.
pub fn ints<B: Backend>(values: impl Iterator<Item = i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = values.collect();
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), (device, DType::I32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_in_the_prefix_or_after_it() {
        // Positions 4, 5, 6 after a prefix of 4 rows at row 10.
        let sequence = Sequence { rows: 20..23, prefix: 10..14 };
        let keys = |length| query_rows(&sequence, 0).map(|row| window_keys(length, row)).collect::<Vec<_>>();
        assert_eq!(keys(9), [[10, 14, 20, 21], [10, 14, 20, 22], [10, 14, 20, 23]]);
        assert_eq!(keys(3), [[12, 14, 20, 21], [13, 14, 20, 22], [14, 14, 20, 23]]);
        assert_eq!(keys(1), [[14, 14, 20, 21], [14, 14, 21, 22], [14, 14, 22, 23]]);
    }
}
