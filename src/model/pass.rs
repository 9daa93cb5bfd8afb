//! The parts that all blocks of a pass share: the positions of its rows, and the keys that each may see.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::rope::{Rope, Rotation};
use crate::arch::ModelConfig;
use crate::data::Sequence;
use crate::kernels::{Kernels, KeyRanges};
use crate::zo::direction::Signs;

/// Position in its sequence, and visible keys (see [`KeyRanges`]).
pub type QueryRow = (usize, [usize; 4]);

/// See the module.
pub struct Pass<B: Backend> {
    full: View<B>,
    /// The view of layers with a sliding window.
    sliding: Option<View<B>>,
    pub signs: Signs,
}

/// The rows as a layer sees them.
#[derive(Clone)]
pub struct View<B: Backend> {
    pub rotation: Option<Rotation<B>>,
    pub keys: KeyRanges<B>,
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
        let full = View {
            rotation: rope.map(|rope| rotation(&rope.frequencies)),
            keys: key_ranges(rows.iter().map(|(_, bounds)| *bounds), device),
        };
        let sliding = config.sliding_window.as_ref().map(|window| View {
            rotation: match rope.and_then(|rope| rope.local.as_ref()) {
                Some(frequencies) => Some(rotation(frequencies)),
                None => full.rotation.clone(),
            },
            keys: key_ranges(rows.iter().map(|row| within(window.length, *row)), device),
        });
        Self { full, sliding, signs }
    }

    /// The same rows under other signs, of as many parts.
    pub fn with(&self, signs: Signs) -> Self {
        Self { full: self.full.clone(), sliding: self.sliding.clone(), signs }
    }

    pub fn view(&self, sliding: bool) -> &View<B> {
        self.sliding.as_ref().filter(|_| sliding).unwrap_or(&self.full)
    }
}

/// The rows of a sequence, `shift` rows further down.
pub fn visible(sequence: &Sequence, shift: usize) -> impl Iterator<Item = QueryRow> + '_ {
    let Sequence { rows, prefix } = sequence;
    let prefix_bounds = if prefix.is_empty() { [0, 0] } else { [prefix.start + shift, prefix.end + shift] };
    rows.clone().map(move |row| {
        let position = prefix.len() + row - rows.start;
        (position, [prefix_bounds[0], prefix_bounds[1], rows.start + shift, row + shift + 1])
    })
}

/// The keys of a row that sees the last `length` alone.
fn within(length: usize, (position, [prefix_begin, prefix_end, begin, end]): QueryRow) -> [usize; 4] {
    let hidden = (position + 1).saturating_sub(length);
    let of_prefix = hidden.min(prefix_end - prefix_begin);
    [prefix_begin + of_prefix, prefix_end, begin + hidden - of_prefix, end]
}

fn key_ranges<B: Backend>(bounds: impl Iterator<Item = [usize; 4]>, device: &B::Device) -> KeyRanges<B> {
    KeyRanges { bounds: ints(bounds.flatten().map(|bound| bound as i32), device) }
}

pub fn ints<B: Backend>(values: impl Iterator<Item = i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let values: Vec<i32> = values.collect();
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), (device, DType::I32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_within_the_prefix_or_behind_it() {
        // Positions 4, 5, 6 behind a prefix of 4 rows at 10.
        let sequence = Sequence { rows: 20..23, prefix: 10..14 };
        let of = |length| visible(&sequence, 0).map(|row| within(length, row)).collect::<Vec<_>>();
        assert_eq!(of(9), [[10, 14, 20, 21], [10, 14, 20, 22], [10, 14, 20, 23]]);
        assert_eq!(of(3), [[12, 14, 20, 21], [13, 14, 20, 22], [14, 14, 20, 23]]);
        assert_eq!(of(1), [[14, 14, 20, 21], [14, 14, 21, 22], [14, 14, 22, 23]]);
    }
}
