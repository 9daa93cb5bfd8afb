//! Integer levels: `weight = scale · (code − zero)`, a scale and a zero point for each group.
//!
//! The formulas are those of the GPTQ reference code's `Quantizer.find_params` (Frantar et al. 2022,
//! <https://github.com/IST-DASLab/gptq>, `quant.py`), so results are interchangeable with other GPTQ tools;
//! its `mse` option searches a shrunken range here too, by the squared error instead of its power 2.4.
//! Arithmetic is f64 and ties round to even. The scale is rounded to the type the file will store *before*
//! codes are chosen, so that every code is the nearest one for the scale that is really used.

use super::FloatType;

/// Ranges that the search tries: 1, 0.99, … of the whole one, down to 0.2.
const SHRUNKEN: std::ops::Range<u32> = 1..80;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// 2, 3, 4 or 8.
    pub bits: u32,
    /// One zero point 2^(bits−1) for all groups, else one per group.
    pub symmetric: bool,
    /// Search the range that gives the least squared error; else it spans all weights of the group.
    pub mse: bool,
    /// What the file will hold.
    pub scale_dtype: FloatType,
}

/// What a group's codes are multiplied by and counted from.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Group {
    pub scale: f32,
    pub zero: u32,
}

impl Grid {
    /// # Errors
    /// A weight that is not finite, or a scale that `scale_dtype` cannot hold.
    pub fn fit(&self, weights: &[f64]) -> Result<Group, String> {
        if let Some(i) = weights.iter().position(|w| !w.is_finite()) {
            return Err(format!("weight {i} of the group is {}", weights[i]));
        }
        // The range always includes 0, so that a zero weight stays zero.
        let (mut min, mut max) = weights.iter().fold((0f64, 0f64), |(min, max), &w| (min.min(w), max.max(w)));
        if min == 0.0 && max == 0.0 {
            (min, max) = (-1.0, 1.0);
        }
        let mut best = self.spanning(min, max)?;
        if self.mse {
            let mut least = self.squared_error(weights, best);
            for percent in SHRUNKEN {
                let share = 1.0 - f64::from(percent) / 100.0;
                let group = self.spanning(share * min, share * max)?;
                let error = self.squared_error(weights, group);
                if error < least {
                    (best, least) = (group, error);
                }
            }
        }
        Ok(best)
    }

    fn spanning(&self, min: f64, max: f64) -> Result<Group, String> {
        let max_code = f64::from(self.max_code());
        let exact = match self.symmetric {
            true => 2.0 * max.max(-min) / max_code,
            false => (max - min) / max_code,
        };
        let scale = scale_as_stored(exact, self.scale_dtype)?;
        let zero = match self.symmetric {
            true => 1 << (self.bits - 1),
            false => (-min / f64::from(scale)).round_ties_even().clamp(0.0, max_code) as u32,
        };
        Ok(Group { scale, zero })
    }

    fn squared_error(&self, weights: &[f64], group: Group) -> f64 {
        weights.iter().map(|&w| (w - self.value(self.code(w, group), group)).powi(2)).sum()
    }

    /// The nearest.
    pub fn code(&self, weight: f64, group: Group) -> u32 {
        let steps = (weight / f64::from(group.scale)).round_ties_even();
        (steps + f64::from(group.zero)).clamp(0.0, f64::from(self.max_code())) as u32
    }

    pub fn value(&self, code: u32, group: Group) -> f64 {
        f64::from(group.scale) * (f64::from(code) - f64::from(group.zero))
    }

    fn max_code(&self) -> u32 {
        (1 << self.bits) - 1
    }
}

/// # Errors
/// The scale overflows.
pub(super) fn scale_as_stored(exact: f64, dtype: FloatType) -> Result<f32, String> {
    let scale = dtype.round(exact as f32);
    if !scale.is_finite() {
        return Err(format!("its scale {exact:e} does not fit {dtype:?}"));
    }
    // Weights too small for the type: the smallest scale there is keeps the division defined.
    Ok(if scale == 0.0 { dtype.smallest_positive() } else { scale })
}
