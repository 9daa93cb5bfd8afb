//! The backward pass of products that share an input: the gradient of the input, `Σ dY · W`, and of the logarithms of
//! the scales, `Σ_j W[o, j] · (dYᵀ · X)[o, j]` over each group.
//!
//! Both are products of a tile of weights that is unpacked once: some columns of a unit of rows. The gradient of the
//! input contracts the rows, so its tile is turned to have the columns in the lanes. The gradient of the scales
//! contracts the tokens; each tile of `dYᵀ · X` is multiplied by the weights and summed over its groups at once, so
//! that no matrix of the weight's size ever exists.
//!
//! ```text
//! dY by rows     [slices of rows][T][words]            times W [rows, columns]   → dX [T][columns]
//! dY by tokens   [units][token words][LANES rows]  ⎫
//! X  by tokens   [slices of tokens][in][words]     ⎭                             → dYᵀX [columns][LANES rows]
//! ```

use std::ops::Range;

use rayon::prelude::*;

use super::super::awake::keep_awake;
use super::super::multiversion::multiversion;
use super::super::results::Columns;
use super::arithmetic::Arithmetic;
use super::by_tokens::{InputByTokens, rows_in_lanes};
use super::codebook::CodebookWords;
use super::codes::SliceCodes;
use super::input::SlicedInput;
use super::layout::{LANES, Rows, SLICE, copy_row};
use super::operands::TileSlice;
use super::scales::UnitScales;
use super::tile;
use super::turn::turn;
use super::unpack;
use super::view::WeightView;
use crate::packed::Levels;

/// Most units of columns of a task: their unpacked weights stay in the second level cache.
const UNITS: usize = 4;
/// Most tokens of a pass: few enough to keep a slice of them and their gradients in the second level cache.
const TOKENS: usize = 640;

/// The backward pass of the product with one of the weights that share an input.
pub(in crate::kernels::cpu) struct BackwardProduct<'a> {
    pub weight: WeightView<'a>,
    /// Gradient of the product: `[T, out_features]`
    pub dy: &'a [f32],
    /// Becomes the gradient of the logarithms of the scales, which needs `x`: `[out_features, groups]`. It is 0 where the
    /// scale is 0, since such a group is constant.
    pub scales: Option<&'a mut [f32]>,
}

/// A product that is ready to be split into tasks.
struct Prepared<'a> {
    weight: WeightView<'a>,
    /// The scales of each unit of rows.
    scales: Vec<UnitScales>,
    codebook: Option<CodebookWords<'a>>,
    by_rows: Option<SlicedInput>,
    /// `[units][token words][LANES rows]`, if the gradient of the scales is wanted.
    by_tokens: Option<Rows<u32>>,
}

/// Sums of the scales' gradient over one unit of columns: a row for each group that lies in it, whole or in part.
struct GroupSums {
    first_group: usize,
    /// `[groups][out_features]`
    sums: Vec<f32>,
}

/// Buffers that a thread reuses.
#[derive(Default)]
struct Buffers {
    codes: Vec<[u32; LANES]>,
    /// Weights of a unit of rows as f32: `[columns][LANES rows]`
    weights: Rows<u32>,
    /// Weights of a slice of rows: `[units of columns][words][LANES columns]`
    turned: Rows<u32>,
    /// `[columns][LANES rows]`
    products: Rows<f32>,
    /// Gradients of the input, `[units of columns][tokens]`
    inputs: Rows<f32>,
}

/// Computes the gradients of all products, and returns that of the input if it is wanted. All weights have as many input
/// features as `x`, which is given if gradients of scales are wanted.
///
/// # Shapes
/// `x` and its gradient: `[T, in_features]`.
pub(in crate::kernels::cpu) fn packed_linear_backward(
    x: Option<&[f32]>,
    mut products: Vec<BackwardProduct<'_>>,
    wants_input: bool,
    arithmetic: Arithmetic,
) -> Option<Vec<f32>> {
    let BackwardProduct { weight, dy, .. } = products.first()?;
    let (in_features, tokens) = (weight.in_features, dy.len() / weight.out_features);
    let dx = wants_input.then(|| Columns::new(tokens * in_features));
    if tokens == 0 {
        // SAFETY: it has no elements.
        return dx.map(|dx| unsafe { dx.written() });
    }
    keep_awake();
    let x = x.map(|x| InputByTokens::new(x, in_features, arithmetic));
    let prepared: Vec<_> =
        products.iter().map(|product| Prepared::new(product, tokens, wants_input, arithmetic)).collect();
    let job = Job { prepared: &prepared, x: x.as_ref(), tokens, in_features, arithmetic };
    let units = in_features.div_ceil(LANES);
    // A multiple of the threads, since nothing else is done before the last task has ended.
    let threads = rayon::current_num_threads();
    let tasks = (units.div_ceil(threads * UNITS) * threads).min(units);
    let sums: Vec<Vec<Vec<GroupSums>>> = (0..tasks)
        .into_par_iter()
        .map_init(Buffers::default, |buffers, task| {
            let units = task * units / tasks..(task + 1) * units / tasks;
            let columns = units.start * LANES..(units.end * LANES).min(in_features);
            // SAFETY: no two tasks have the same columns.
            unsafe { job.run(columns, dx.as_ref(), buffers) }
        })
        .collect();
    drop(prepared);
    for (index, product) in products.iter_mut().enumerate() {
        if let Some(out) = product.scales.as_deref_mut() {
            out.fill(0.0);
            sums.iter().flat_map(|task| &task[index]).for_each(|sums| sums.add_to(out, &product.weight));
            let scales = product.weight.scales;
            out.iter_mut().zip(scales).filter(|(_, scale)| **scale == 0.0).for_each(|(out, _)| *out = 0.0);
        }
    }
    // SAFETY: the tasks had all columns, and wrote the rows of all tokens.
    dx.map(|dx| unsafe { dx.written() })
}

impl GroupSums {
    fn add_to(&self, out: &mut [f32], weight: &WeightView<'_>) {
        for (group, sums) in (self.first_group..).zip(self.sums.chunks_exact(weight.out_features)) {
            for (row, sum) in sums.iter().enumerate() {
                out[row * weight.groups() + group] += sum;
            }
        }
    }
}

impl<'a> Prepared<'a> {
    fn new(product: &BackwardProduct<'a>, tokens: usize, wants_input: bool, arithmetic: Arithmetic) -> Self {
        let (weight, out, features) = (product.weight, product.weight.out_features, arithmetic.features());
        let codebook = match weight.levels {
            Levels::Codebook(codebook) => Some(CodebookWords::new(codebook, weight.bits, 1)),
            _ => None,
        };
        // Whole units of rows; those that do not exist count 0.
        let padded = out.next_multiple_of(LANES);
        let by_rows = wants_input.then(|| match padded == out {
            true => SlicedInput::new(product.dy, out, features),
            false => {
                let mut wide = vec![0f32; tokens * padded];
                for (wide, dy) in wide.chunks_exact_mut(padded).zip(product.dy.chunks_exact(out)) {
                    wide[..out].copy_from_slice(dy);
                }
                SlicedInput::new(&wide, padded, features)
            }
        });
        let by_tokens = product.scales.is_some().then(|| rows_in_lanes(product.dy, out, arithmetic));
        let of_unit = |first| UnitScales::new(&weight, &[None], first, LANES.min(out - first));
        let scales = (0..out.div_ceil(LANES)).into_par_iter().map(|unit| of_unit(unit * LANES)).collect();
        Self { weight, scales, codebook, by_rows, by_tokens }
    }

    /// Unpacks some columns of a unit of rows.
    fn unpack(&self, unit: usize, columns: &Range<usize>, buffers: &mut Buffers) {
        let Self { weight, scales, codebook, .. } = self;
        let words = weight.code_words(unit * LANES, columns.clone());
        words.transpose(&mut buffers.codes);
        let codes = SliceCodes {
            codes: &buffers.codes,
            first_bit: words.first_bit,
            bits: weight.bits,
            first: columns.start,
            group_words: weight.sub_block_size(),
            scales: &scales[unit],
        };
        buffers.weights.resize(columns.len());
        match codebook {
            None => unpack::unpack_f32(&codes, columns.len(), &mut buffers.weights),
            Some(codebook) => unpack::look_up_f32(&codes, codebook, columns.len(), &mut buffers.weights),
        }
    }

    /// Sums of 0 for each unit of columns, or none if the gradient of the scales is not wanted.
    fn no_sums(&self, columns: &Range<usize>) -> Vec<GroupSums> {
        let size = self.weight.group_size;
        let new = |start: usize| {
            let groups = start / size..(start + LANES).min(columns.end).div_ceil(size);
            GroupSums { first_group: groups.start, sums: vec![0.0; groups.len() * self.weight.out_features] }
        };
        columns.clone().step_by(LANES).filter(|_| self.by_tokens.is_some()).map(new).collect()
    }
}

/// The backward pass of some products, as its tasks see it.
struct Job<'a> {
    prepared: &'a [Prepared<'a>],
    /// `None` if no gradient of scales is wanted.
    x: Option<&'a InputByTokens>,
    tokens: usize,
    in_features: usize,
    arithmetic: Arithmetic,
}

impl Job<'_> {
    /// Computes the gradients of some columns. Writes those of the input, and returns the sums of each product.
    ///
    /// # Safety
    /// No other task has any of these columns.
    unsafe fn run(
        &self,
        columns: Range<usize>,
        dx: Option<&Columns>,
        buffers: &mut Buffers,
    ) -> Vec<Vec<GroupSums>> {
        let mut sums: Vec<_> = self.prepared.iter().map(|product| product.no_sums(&columns)).collect();
        let units = columns.len().div_ceil(LANES);
        // A pass takes whole slices of tokens.
        let of_slice = SLICE * self.arithmetic.features();
        let per_pass = (TOKENS / of_slice).max(1) * of_slice;
        let mut inputs = std::mem::take(&mut buffers.inputs);
        for start in (0..self.tokens).step_by(per_pass) {
            let tokens = start..(start + per_pass).min(self.tokens);
            inputs.resize(if dx.is_some() { units * tokens.len() } else { 0 });
            for (index, sums) in sums.iter_mut().enumerate() {
                self.add(index, &columns, &tokens, &mut inputs, sums, buffers);
            }
            let Some(dx) = dx else { continue };
            for (unit, inputs) in inputs.chunks_exact(tokens.len()).enumerate() {
                let first = columns.start + unit * LANES;
                let width = LANES.min(columns.end - first);
                for (token, sums) in tokens.clone().zip(inputs) {
                    // SAFETY: row token < T and columns first .. first + width ≤ in_features of the T × in_features
                    // matrix `dx`, which are this task's alone by this function's contract.
                    let out = unsafe { dx.part(token * self.in_features + first, width) };
                    copy_row(sums, out);
                }
            }
        }
        buffers.inputs = inputs;
        sums
    }

    /// Adds a product's share of the gradients for some tokens to that of the products before. `inputs`:
    /// `[units of columns][tokens]`, empty if it is not wanted.
    fn add(
        &self,
        index: usize,
        columns: &Range<usize>,
        tokens: &Range<usize>,
        inputs: &mut [[f32; LANES]],
        sums: &mut [GroupSums],
        buffers: &mut Buffers,
    ) {
        let product = &self.prepared[index];
        let words_per_unit = LANES / self.arithmetic.features();
        let (units, per_slice) = (columns.len().div_ceil(LANES), SLICE / words_per_unit);
        for slice in 0..product.scales.len().div_ceil(per_slice) {
            let row_units = slice * per_slice..((slice + 1) * per_slice).min(product.scales.len());
            let words = row_units.len() * words_per_unit;
            buffers.turned.resize(units * words);
            for (place, row_unit) in row_units.enumerate() {
                product.unpack(row_unit, columns, buffers);
                if !inputs.is_empty() {
                    let turned = buffers.turned.chunks_exact_mut(words);
                    for (weights, turned) in buffers.weights.chunks(LANES).zip(turned) {
                        let turned = &mut turned[place * words_per_unit..][..words_per_unit];
                        turn(self.arithmetic, weights, turned);
                    }
                }
                if let (Some(x), Some(dy)) = (self.x, &product.by_tokens) {
                    let dy = &dy[row_unit * x.words()..][..x.words()];
                    self.multiply_by_tokens(x, dy, columns, tokens, &mut buffers.products);
                    add_groups(product, row_unit, columns, buffers, sums);
                }
            }
            if let Some(dy) = product.by_rows.as_ref().filter(|_| !inputs.is_empty()) {
                let x = &dy.slice(slice)[tokens.start * words..tokens.end * words];
                let units = buffers.turned.chunks_exact(words).zip(inputs.chunks_exact_mut(tokens.len()));
                for (w, inputs) in units {
                    let slice = TileSlice { x, w, groups: None, adds: index > 0 || slice > 0, next: &[] };
                    tile::multiply(self.arithmetic, &slice, inputs);
                }
            }
        }
    }

    /// `products = dYᵀ · X` over some tokens, for some columns and one unit of rows.
    fn multiply_by_tokens(
        &self,
        x: &InputByTokens,
        dy: &[[u32; LANES]],
        columns: &Range<usize>,
        tokens: &Range<usize>,
        products: &mut Rows<f32>,
    ) {
        products.resize(columns.len());
        let of_slice = SLICE * self.arithmetic.features();
        let first = tokens.start / of_slice;
        for slice in first..tokens.end.div_ceil(of_slice) {
            let w = &dy[slice * SLICE..][..x.length(slice)];
            let x = x.columns(slice, columns);
            let slice = TileSlice { x, w, groups: None, adds: slice > first, next: &[] };
            tile::multiply(self.arithmetic, &slice, products);
        }
    }
}

/// Adds weight times product to the sums of the groups, for some columns of a unit of rows.
fn add_groups(
    product: &Prepared<'_>,
    row_unit: usize,
    columns: &Range<usize>,
    buffers: &Buffers,
    sums: &mut [GroupSums],
) {
    let (size, out) = (product.weight.group_size, product.weight.out_features);
    let (first, width) = (row_unit * LANES, LANES.min(out - row_unit * LANES));
    for (start, sums) in columns.clone().step_by(LANES).zip(sums) {
        let end = (start + LANES).min(columns.end);
        for group in start / size..end.div_ceil(size) {
            let here =
                (group * size).max(start) - columns.start..((group + 1) * size).min(end) - columns.start;
            let mut sum = [0f32; LANES];
            weighted_sum(&buffers.weights[here.clone()], &buffers.products[here], &mut sum);
            let to = &mut sums.sums[(group - sums.first_group) * out + first..][..width];
            to.iter_mut().zip(sum).for_each(|(to, sum)| *to += sum);
        }
    }
}

multiversion! {
    /// Adds weight times product to the sum of each lane.
    fn weighted_sum(
        weights: &[[u32; LANES]],
        products: &[[f32; LANES]],
        sum: &mut [f32; LANES],
    ) => weighted_sum_body;
}

#[inline(always)]
fn weighted_sum_body(weights: &[[u32; LANES]], products: &[[f32; LANES]], sum: &mut [f32; LANES]) {
    for (weights, products) in weights.iter().zip(products) {
        for i in 0..LANES {
            sum[i] += f32::from_bits(weights[i]) * products[i];
        }
    }
}
