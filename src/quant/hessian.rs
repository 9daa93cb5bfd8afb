//! The results of a calibration for one matrix: the Gram matrix of its inputs, and the factor by which GPTQ passes the
//! error of one feature on to the later ones.
//!
//! GPTQ (Frantar et al. 2022) takes the upper Cholesky factor U of H⁻¹ = UᵀU. With J the reversal of all
//! features and J·H·J = L·Lᵀ, U is J·L⁻¹·J: one factorization and one triangular inverse instead of two
//! factorizations and a full inverse.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltParams, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, Auto, MatMut, MatRef, Par};

use crate::error::{Error, Result};

/// Factor by which damping grows until the factorization succeeds.
const GROWTH: f64 = 10.0;

/// Damping above which the matrix cannot be a Gram matrix.
const MOST_DAMPING: f64 = 10.0;

/// GPTQ's factor U, see the module.
#[derive(Debug, Clone)]
pub struct HessianFactor {
    /// The features in the order in which they are quantized.
    pub order: Vec<usize>,
    /// Features whose input was always 0; in the model's order. Their weights do not matter.
    pub dead: Vec<bool>,
    /// `[features × features]`, row-major, upper triangular, in `order`.
    upper: Vec<f64>,
}

/// Order of the features in a factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeatureOrdering {
    /// Whether features with the largest inputs come first.
    pub descending: bool,
    /// Number of neighbouring features that stay together.
    pub width: usize,
}

impl HessianFactor {
    /// Factors `gram`: `Σ xᵀx`, `[features × features]`, of any scale.
    ///
    /// # Errors
    /// A matrix that no damping makes positive definite: it holds NaN or infinities.
    pub fn new(gram: &[f32], features: usize, damping: f64, ordering: FeatureOrdering) -> Result<Self> {
        let diagonal: Vec<f64> = (0..features).map(|i| f64::from(gram[i * features + i])).collect();
        let dead: Vec<bool> = diagonal.iter().map(|d| *d == 0.0).collect();
        let order = order(&diagonal, ordering);
        let mean = diagonal.iter().sum::<f64>() / features as f64;
        // Where all inputs are 0, any factor will do.
        let mean = if mean == 0.0 { 1.0 } else { mean };
        let mut damping = damping;
        let mut lower = vec![0.0; features * features];
        loop {
            let at = |i: usize, j: usize| {
                // Reversed, see the module.
                let (i, j) = (order[features - 1 - i], order[features - 1 - j]);
                match i == j {
                    true if dead[i] => mean,
                    true => diagonal[i] + damping * mean,
                    false => f64::from(gram[i * features + j]),
                }
            };
            for (i, row) in lower.chunks_exact_mut(features).enumerate() {
                (0..=i).for_each(|j| row[j] = at(i, j));
            }
            if factor(&mut lower, features) {
                break;
            }
            damping = if damping == 0.0 { 1e-4 } else { damping * GROWTH };
            if !mean.is_finite() || damping > MOST_DAMPING {
                return Err(Error::invalid(
                    "the inputs of this layer on the calibration text hold NaN or infinities",
                    "check the checkpoint with `qzo eval --perplexity`, and use --dtype f32",
                ));
            }
        }
        let mut upper = vec![0.0; features * features];
        invert_lower_triangular(
            MatMut::from_row_major_slice_mut(&mut upper, features, features),
            MatRef::from_row_major_slice(&lower, features, features),
            Par::rayon(0),
        );
        upper.reverse();
        Ok(Self { order, dead, upper })
    }

    pub fn features(&self) -> usize {
        self.order.len()
    }

    /// Row `i` of U.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.upper[i * self.features()..(i + 1) * self.features()]
    }

    pub fn upper(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(&self.upper, self.features(), self.features())
    }

    /// Replaces δ by `δ·U⁻¹`, where U is the factor's block at the neighbouring features of δ.
    pub fn solve(&self, place: usize, delta: &mut [f64]) {
        for j in 0..delta.len() {
            let earlier: f64 = (0..j).map(|i| delta[i] * self.row(place + i)[place + j]).sum();
            delta[j] = (delta[j] - earlier) / self.row(place + j)[place + j];
        }
    }

    /// The output error that a unit of error in each feature causes once the later features have compensated for it; the
    /// features are in the model's order.
    pub fn importance(&self) -> Vec<f64> {
        let mut importance = vec![0.0; self.features()];
        for (i, &feature) in self.order.iter().enumerate() {
            importance[feature] = if self.dead[feature] { 0.0 } else { self.row(i)[i].powi(-2) };
        }
        importance
    }
}

/// `row · gram · rowᵀ` of each row.
pub fn energies(rows: &[f32], gram: &[f32], features: usize) -> Vec<f64> {
    let count = rows.len() / features;
    let mut products = vec![0f32; rows.len()];
    matmul(
        MatMut::from_row_major_slice_mut(&mut products, count, features),
        Accum::Replace,
        MatRef::from_row_major_slice(rows, count, features),
        MatRef::from_row_major_slice(gram, features, features),
        1.0,
        Par::rayon(0),
    );
    let energy = |(row, product): (&[f32], &[f32])| {
        row.iter().zip(product).map(|(row, product)| f64::from(*row) * f64::from(*product)).sum()
    };
    rows.chunks_exact(features).zip(products.chunks_exact(features)).map(energy).collect()
}

fn order(diagonal: &[f64], ordering: FeatureOrdering) -> Vec<usize> {
    let width = ordering.width;
    let mut vectors: Vec<usize> = (0..diagonal.len() / width).collect();
    if ordering.descending {
        let weight = |vector: &usize| diagonal[vector * width..(vector + 1) * width].iter().sum::<f64>();
        vectors.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    }
    vectors.into_iter().flat_map(|vector| vector * width..(vector + 1) * width).collect()
}

/// Cholesky in place; false where the matrix is not positive definite.
fn factor(lower: &mut [f64], features: usize) -> bool {
    let params = <LltParams as Auto<f64>>::auto().into();
    let scratch = cholesky_in_place_scratch::<f64>(features, Par::rayon(0), params);
    let mut memory = MemBuffer::new(scratch);
    let matrix = MatMut::from_row_major_slice_mut(lower, features, features);
    let factored =
        cholesky_in_place(matrix, Default::default(), Par::rayon(0), MemStack::new(&mut memory), params);
    factored.is_ok() && lower.iter().step_by(features + 1).all(|d| d.is_finite())
}
