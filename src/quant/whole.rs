//! Whole matrices: rounded to the nearest levels, or calibrated.

use super::coding::{self, CodeLevels, DenseMatrix, GroupSource};
use super::grid::GroupScale;
use super::hessian::{self, FeatureOrdering, HessianFactor};
use super::options::{Feedback, QuantOptions};
use super::pack::pack;
use crate::error::{Error, Result};
use crate::packed::PackedWeight;

/// Share of the outputs' energy that is lost on the calibration text, `‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖²`, measured on some of the
/// rows.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct OutputError {
    /// The share if every weight is rounded to the nearest level.
    pub nearest: f64,
    /// The share with error feedback.
    pub feedback: f64,
}

/// Rounds every weight of a dense matrix to the nearest level, without calibration.
///
/// # Shapes
/// `weight`: `[out_features, in_features]`, row-major f32; `shape` says both.
///
/// # Errors
/// Options that contradict themselves or the shape; a length that is not the shape's; a weight that is NaN
/// or infinite; a scale that does not fit `scale_dtype`.
pub fn quantize(weight: &[f32], shape: [usize; 2], options: QuantOptions) -> Result<PackedWeight> {
    nearest(check(weight, shape, options)?, options)
}

fn nearest(matrix: DenseMatrix<'_>, options: QuantOptions) -> Result<PackedWeight> {
    let (levels, groups) = options.levels(matrix, &vec![1.0; matrix.in_features])?;
    let coded = coding::code(
        matrix,
        &levels,
        None,
        groups.as_deref().map_or(GroupSource::Fitted, GroupSource::Given),
    )?;
    Ok(pack(matrix.shape(), matrix.group_size, &levels, coded, None))
}

/// Quantizes a dense matrix with error feedback, so that its outputs change least (GPTQ).
///
/// # Shapes
/// `weight` as in [`quantize`]; `gram`: `Σ xᵀx` of its inputs, `[in_features, in_features]`.
///
/// # Errors
/// As in [`quantize`]; a Gram matrix of another size, or with NaN or infinities.
pub fn calibrate(
    weight: &[f32],
    shape: [usize; 2],
    options: QuantOptions,
    gram: &[f32],
) -> Result<(PackedWeight, OutputError)> {
    let matrix = check(weight, shape, options)?;
    let n = matrix.in_features;
    if gram.len() != n * n {
        return Err(Error::internal(format!("a Gram matrix of {} values for {n} features", gram.len())));
    }
    let Feedback { damping, act_order, static_groups } = options.feedback;
    let ordering = FeatureOrdering { descending: act_order, width: options.kind.width() };
    let factor = HessianFactor::new(gram, n, damping, ordering)?;
    let (levels, given) = options.levels(matrix, &factor.importance())?;
    let groups = match &given {
        Some(groups) => GroupSource::Given(groups),
        None if static_groups || !options.kind.has_free_groups() => GroupSource::Static,
        None => GroupSource::Fitted,
    };
    let coded = coding::code(matrix, &levels, Some(&factor), groups)?;
    let packed = pack(shape, matrix.group_size, &levels, coded, Some(&factor));
    let error = output_error(matrix, &levels, given.as_deref(), &packed, gram)?;
    Ok((packed, error))
}

fn check(weight: &[f32], shape: [usize; 2], options: QuantOptions) -> Result<DenseMatrix<'_>> {
    let group_size = options.group_size_of(shape)?;
    let [out_features, in_features] = shape;
    if out_features * in_features != weight.len() {
        return Err(Error::invalid(
            format!("a matrix of {out_features} × {in_features} with {} values", weight.len()),
            "give one value per element",
        ));
    }
    Ok(DenseMatrix { weight, in_features, group_size, first_row: 0 })
}

/// Rows of a weight on which [`OutputError`] is measured.
const MEASURED_ROWS: usize = 128;

fn output_error(
    matrix: DenseMatrix<'_>,
    levels: &CodeLevels,
    given: Option<&[GroupScale]>,
    packed: &PackedWeight,
    gram: &[f32],
) -> Result<OutputError> {
    let (n, step) = (matrix.in_features, matrix.out_features().div_ceil(MEASURED_ROWS));
    let rows = || (0..matrix.out_features()).step_by(step);
    let sample: Vec<f32> = rows().flat_map(|row| &matrix.weight[row * n..][..n]).copied().collect();
    let given: Option<Vec<GroupScale>> = given.map(|given| {
        rows().flat_map(|row| &given[row * matrix.groups()..][..matrix.groups()]).copied().collect()
    });
    let sampled = DenseMatrix { weight: &sample, ..matrix };
    let groups = given.as_deref().map_or(GroupSource::Fitted, GroupSource::Given);
    let nearest = coding::code(sampled, levels, None, groups)?;
    let nearest = pack(sampled.shape(), sampled.group_size, levels, nearest, None).to_dense();
    let feedback: Vec<f32> = rows().flat_map(|row| packed.row(row)).collect();
    let lost = |from: Vec<f32>| sample.iter().zip(from).map(|(w, got)| w - got).collect::<Vec<f32>>();
    let energies = hessian::energies(&[sample.clone(), lost(nearest), lost(feedback)].concat(), gram, n);
    let mut sums = energies.chunks(energies.len() / 3).map(|rows| rows.iter().sum::<f64>());
    let mut sum = || sums.next().unwrap_or_default();
    let of = sum().max(f64::MIN_POSITIVE);
    Ok(OutputError { nearest: sum() / of, feedback: sum() / of })
}
