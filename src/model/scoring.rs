//! Log-probabilities of a batch's targets from its hidden states. Logits are computed for a chunk of rows at a time.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::pass::ints;
use crate::data::Target;

/// Bytes of the largest f32 tensor of logits. A few such tensors exist at a time.
pub const LOGIT_BYTES: usize = 32 << 20;

/// Rows whose logits are computed together, and the targets that are scored in them. With several parts, the rows and
/// results of each part follow those of the part before.
pub struct Chunk<B: Backend> {
    /// Rows of the hidden states: `[R]`
    pub rows: Tensor<B, 1, Int>,
    /// For each result, the index of its token's logit among the `R · vocab` logits: `[N]`
    logit_index: Tensor<B, 1, Int>,
    /// For each result, its row among the `R`: `[N]`
    row_index: Tensor<B, 1, Int>,
    /// For each result, its index in the whole batch: part · number of targets + target.
    pub indices: Vec<usize>,
}

/// Returns the rows that are scored, sorted and distinct, and the targets with their row replaced by its rank among
/// them.
pub fn ranked(targets: &[Target]) -> (Vec<u32>, Vec<Target>) {
    let mut rows: Vec<u32> = targets.iter().map(|target| target.row).collect();
    rows.sort_unstable();
    rows.dedup();
    let rank = |row: u32| rows.partition_point(|other| *other < row) as u32;
    let ranked = targets.iter().map(|target| Target { row: rank(target.row), ..*target }).collect();
    (rows, ranked)
}

/// Indices of `rows` in each of `parts`, which have `count` rows each: `[parts · rows]`.
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

/// Splits the scored rows of all `parts`, which have `count` rows each, into chunks of at most `limit` rows.
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
        // Row in the chunk and target of each result.
        let results: Vec<(usize, usize)> = (0..parts)
            .flat_map(|p| here.iter().map(move |&i| (p, i)))
            .map(|(p, i)| (p * rows.len() + rows.partition_point(|row| *row < targets[i].row), i))
            .collect();
        let logits = results.iter().map(|(row, i)| (row * vocab + targets[*i].token as usize) as i32);
        Chunk {
            rows: ints(every_row.map(|row| row as i32), device),
            logit_index: ints(logits, device),
            row_index: ints(results.iter().map(|(row, _)| *row as i32), device),
            indices: (0..parts).flat_map(|p| here.iter().map(move |i| p * targets.len() + i)).collect(),
        }
    };
    rows.chunks((limit / parts).max(1)).map(chunk).collect()
}

impl<B: Backend> Chunk<B> {
    pub fn logit_index(&self) -> &Tensor<B, 1, Int> {
        &self.logit_index
    }

    pub fn row_index(&self) -> &Tensor<B, 1, Int> {
        &self.row_index
    }

    /// `log p` of each result, from f32 logits `[R, vocab]`: `[N]`, in the order of `indices`.
    pub fn log_probs(&self, logits: Tensor<B, 2>) -> Tensor<B, 1> {
        let max = logits.clone().max_dim(1);
        let log_sum = (logits.clone() - max.clone()).exp().sum_dim(1).log() + max; // [R, 1]
        let token_logits = logits.reshape([-1]).select(0, self.logit_index.clone());
        token_logits - log_sum.reshape([-1]).select(0, self.row_index.clone())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use burn_flex::{Flex, FlexDevice};

    use super::*;

    /// Scores two parts of five rows in chunks of different sizes.
    #[test]
    fn the_size_of_chunks_changes_no_result() {
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
                let results = chunk.log_probs(rows).into_data().into_vec::<f32>().unwrap();
                assert_eq!(results.len(), chunk.indices.len());
                chunk.indices.iter().zip(results).for_each(|(index, result)| got[*index] = result);
            }
            for (index, got) in got.into_iter().enumerate() {
                let Target { row, token } = targets[index % targets.len()];
                let row = row as usize + index / targets.len() * count;
                let sum: f32 = (0..vocab).map(|token| value(row, token).exp()).sum();
                let want = value(row, token as usize) - sum.ln();
                assert!((got - want).abs() < 1e-5, "{limit} {index}: {got} {want}");
            }
        }
    }
}
