//! From hidden states to the answers that a batch asks for, some rows of logits at a time.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::pass::ints;
use crate::data::Target;

/// Bytes of f32 logits that exist at a time, of one kind.
pub const LOGIT_BYTES: usize = 32 << 20;

/// Rows whose logits exist at the same time, and what is asked of them. With several parts, one after the
/// other in the rows as in the answers.
pub struct Chunk<B: Backend> {
    /// Rows of the hidden states: `[R]`
    pub rows: Tensor<B, 1, Int>,
    /// For each answer, the place of its token's logit among all `R · vocab`: `[A]`
    chosen: Tensor<B, 1, Int>,
    /// For each answer, its row among the `R`: `[A]`
    of: Tensor<B, 1, Int>,
    /// The place of each answer among the results: its part · targets + its target.
    pub places: Vec<usize>,
}

/// The rows that are scored, sorted, and the targets with the number of their row among them.
pub fn ranked(targets: &[Target]) -> (Vec<u32>, Vec<Target>) {
    let mut rows: Vec<u32> = targets.iter().map(|target| target.row).collect();
    rows.sort_unstable();
    rows.dedup();
    let rank = |row: u32| rows.partition_point(|other| *other < row) as u32;
    let ranked = targets.iter().map(|target| Target { row: rank(target.row), ..*target }).collect();
    (rows, ranked)
}

/// Rows of the first of `parts`, `count` rows each, in all of them: `[parts · rows]`.
pub fn indices<B: Backend>(
    rows: &[u32],
    [parts, count]: [usize; 2],
    device: &B::Device,
) -> Tensor<B, 1, Int> {
    ints(
        (0..parts).flat_map(|part| rows.iter().map(move |row| (*row as usize + part * count) as i32)),
        device,
    )
}

/// The rows of all `parts`, `count` rows each, at most `limit` of them a chunk.
pub fn chunks<B: Backend>(
    targets: &[Target],
    [parts, count]: [usize; 2],
    limit: usize,
    vocab: usize,
    device: &B::Device,
) -> Vec<Chunk<B>> {
    let mut order: Vec<usize> = (0..targets.len()).collect();
    order.sort_by_key(|&i| targets[i].row);
    let mut rows: Vec<u32> = order.iter().map(|&i| targets[i].row).collect();
    rows.dedup();
    let mut rest = order.as_slice();
    let chunk = |rows: &[u32]| {
        let here = rest.iter().take_while(|&&i| rows.last().is_some_and(|last| targets[i].row <= *last));
        let (here, later) = rest.split_at(here.count());
        rest = later;
        let every_row = (0..parts).flat_map(|p| rows.iter().map(move |row| *row as usize + p * count));
        // Each answer's row in the chunk, and its target.
        let answers: Vec<(usize, usize)> = (0..parts)
            .flat_map(|p| here.iter().map(move |&i| (p, i)))
            .map(|(p, i)| (p * rows.len() + rows.partition_point(|row| *row < targets[i].row), i))
            .collect();
        let chosen = answers.iter().map(|(row, i)| (row * vocab + targets[*i].token as usize) as i32);
        Chunk {
            rows: ints(every_row.map(|row| row as i32), device),
            chosen: ints(chosen, device),
            of: ints(answers.iter().map(|(row, _)| *row as i32), device),
            places: (0..parts).flat_map(|p| here.iter().map(move |i| p * targets.len() + i)).collect(),
        }
    };
    rows.chunks((limit / parts).max(1)).map(chunk).collect()
}

impl<B: Backend> Chunk<B> {
    /// `log p` per answer, from f32 logits `[R, vocab]`: `[A]`, in the order of `places`.
    pub fn answers(&self, logits: Tensor<B, 2>) -> Tensor<B, 1> {
        let max = logits.clone().max_dim(1);
        let log_sum = (logits.clone() - max.clone()).exp().sum_dim(1).log() + max; // [R, 1]
        let chosen = logits.reshape([-1]).select(0, self.chosen.clone());
        chosen - log_sum.reshape([-1]).select(0, self.of.clone())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use burn_flex::{Flex, FlexDevice};

    use super::*;

    /// Two parts of five rows: in whatever chunks, each answer comes to its place.
    #[test]
    fn chunks_change_no_answer() {
        let (parts, count, vocab) = (2, 5, 7);
        let value = |row: usize, token: usize| ((row * 31 + token * 17) % 23) as f32 / 4.0;
        let values = (0..parts * count).flat_map(|row| (0..vocab).map(move |token| value(row, token)));
        let logits = TensorData::new(values.collect::<Vec<f32>>(), [parts * count, vocab]);
        let logits = Tensor::<Flex, 2>::from_data(logits, &FlexDevice);
        let target = |(row, token)| Target { row, token };
        let targets = [(4, 6), (0, 1), (4, 0), (2, 3), (0, 1), (1, 5)].map(target);
        for (limit, expected) in [(1, 4), (4, 2), (6, 2), (100, 1)] {
            let chunks = chunks::<Flex>(&targets, [parts, count], limit, vocab, &FlexDevice);
            assert_eq!(chunks.len(), expected, "{limit}");
            let mut got = vec![f32::NAN; parts * targets.len()];
            for chunk in &chunks {
                let rows = logits.clone().select(0, chunk.rows.clone());
                assert!(rows.dims()[0] <= limit.max(parts));
                let answers = chunk.answers(rows).into_data().into_vec::<f32>().unwrap();
                assert_eq!(answers.len(), chunk.places.len());
                chunk.places.iter().zip(answers).for_each(|(place, answer)| got[*place] = answer);
            }
            for (place, got) in got.into_iter().enumerate() {
                let Target { row, token } = targets[place % targets.len()];
                let row = row as usize + place / targets.len() * count;
                let sum: f32 = (0..vocab).map(|token| value(row, token).exp()).sum();
                let want = value(row, token as usize) - sum.ln();
                assert!((got - want).abs() < 1e-5, "{limit} {place}: {got} {want}");
            }
        }
    }
}
