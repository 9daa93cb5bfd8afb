//! Float minima of groups, which move with the scales by the same factor, so that a group is scaled as a whole.

use super::scales::StoredScales;
use super::tensors::finite_floats;
use crate::checkpoint::tensor::StoredTensor;
use crate::error::Result;
use crate::packed::Levels;

/// Minima in units of the scales. Where a scale is 0 the group is constant, and the level is the minimum itself.
pub fn levels(scales: &[f32], minima: Vec<f32>) -> Levels {
    let units = |(minimum, scale): (f32, &f32)| if *scale == 0.0 { minimum } else { minimum / scale };
    Levels::Minimum(minima.into_iter().zip(scales).map(units).collect())
}

/// The new scales and the minima that moved with them, both rounded to the type of the file.
///
/// # Errors
/// A scale or a minimum that overflows that type or is not finite.
pub fn moved(stored: &StoredTensor, scales: &StoredScales, new: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
    let (dtype, new) = (stored.float_type()?, scales.rounded(new)?);
    let (old, mut minima) = (scales.values()?, finite_floats(stored, "a bias")?);
    for (minimum, (new, old)) in minima.iter_mut().zip(new.iter().zip(old)) {
        if *new != old {
            *minimum = dtype.round(new * (*minimum / old));
            if !minimum.is_finite() {
                return Err(
                    stored.wrong(format!("the bias of the tuned scale {new:e} does not fit {dtype:?}"))
                );
            }
        }
    }
    Ok((new, minima))
}
