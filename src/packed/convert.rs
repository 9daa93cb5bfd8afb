//! Conversion of a packed weight to the form of another format, where the weight stays the same: the codes stay,
//! and scales and zero points are the same numbers.

use half::f16;

use super::{FloatType, Levels, LevelsKind, PackedLayout, PackedWeight};

const ACT_ORDER: &str = "its groups hold features that are not neighbours (act-order)";

/// Codes, groups and zero points that a format can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Bits per code.
    pub bits: u32,
    /// Features per group; `None` makes a row one group.
    pub group_size: Option<usize>,
    /// Whether all groups share the zero point 2^(bits−1); otherwise each has its own.
    pub symmetric: bool,
    /// Whether the features of a group may lie apart in the row (act-order).
    pub ordered: bool,
}

impl Form {
    /// Checks that a weight of this layout can take the form, as far as the layout tells.
    ///
    /// # Errors
    /// The property of the weight that the form cannot hold.
    pub fn check(&self, layout: &PackedLayout) -> Result<(), String> {
        layout.levels.check_zero_points()?;
        if layout.bits != self.bits {
            return Err(format!("its codes have {} bits, not {}", layout.bits, self.bits));
        }
        if layout.ordered && !self.ordered {
            return Err(ACT_ORDER.into());
        }
        if self.symmetric && layout.levels != LevelsKind::Zero {
            return Err("it has zero points".into());
        }
        Ok(())
    }
}

/// Converts a weight to `form`, with scales that f16 holds exactly.
///
/// # Errors
/// The property of the weight that `form` cannot hold.
pub fn exact(mut packed: PackedWeight, form: Form) -> Result<PackedWeight, String> {
    if packed.bits != form.bits {
        return Err(format!("its codes have {} bits, not {}", packed.bits, form.bits));
    }
    if packed.perm.is_some() && !form.ordered {
        return Err(ACT_ORDER.into());
    }
    if let Some(scale) = packed.scales.iter().find(|scale| FloatType::F16.round(**scale) != **scale) {
        return Err(format!("the scale {scale:e} does not fit f16 exactly"));
    }
    packed.levels = Levels::Zeros(zeros(&packed)?);
    let mut packed = regrouped(packed, form.group_size)?;
    if form.symmetric {
        let middle = 1u8 << (form.bits - 1);
        match &packed.levels {
            Levels::Zeros(zeros) if zeros.iter().all(|zero| *zero == middle) => {}
            _ => return Err("it has zero points".into()),
        }
        packed.levels = Levels::Zero(middle);
    }
    Ok(packed)
}

/// The zero point of each group. A minimum counts as one where it equals −scale · zero in f16: that is how a
/// format of minima stores a zero point.
fn zeros(packed: &PackedWeight) -> Result<Vec<u8>, String> {
    let minima = match &packed.levels {
        Levels::Zero(zero) => return Ok(vec![*zero; packed.scales.len()]),
        Levels::Zeros(zeros) => return Ok(zeros.clone()),
        Levels::Minimum(minima) => minima,
        other => {
            other.kind().check_zero_points()?;
            return Err("it has no zero points".into());
        }
    };
    let most = f32::from((1u16 << packed.bits) - 1);
    let zero = |(scale, minimum): (&f32, &f32)| {
        let (zero, stored) = match *scale {
            0.0 => (0.0, *minimum),
            scale => (-minimum.round_ties_even(), scale * minimum),
        };
        let same = (0.0..=most).contains(&zero) && f16::from_f32(stored) == f16::from_f32(-scale * zero);
        same.then_some(zero as u8).ok_or_else(|| {
            format!("the minimum {stored:e} of a block of scale {scale:e} is not a zero point of its codes")
        })
    };
    packed.scales.iter().zip(minima).map(zero).collect()
}

/// Regroups a weight: a new group is a part of an old one, or joins several that share scale and zero point.
fn regrouped(packed: PackedWeight, group_size: Option<usize>) -> Result<PackedWeight, String> {
    let (old, width) = (packed.group_size, packed.in_features);
    let new = group_size.unwrap_or(width);
    if old == new || old >= width && new >= width {
        return Ok(PackedWeight { group_size: new, ..packed });
    }
    let (whole, merged) = (old >= width || old.is_multiple_of(new), new >= width || new.is_multiple_of(old));
    if !whole && !merged {
        return Err(format!("its groups of {old} features cannot become groups of {new}"));
    }
    let Levels::Zeros(zeros) = &packed.levels else { return Err("it has no zero points".into()) };
    let (old_groups, new_groups) = (packed.groups(), width.div_ceil(new));
    let mut scales = Vec::with_capacity(packed.out_features * new_groups);
    let mut new_zeros = Vec::with_capacity(packed.out_features * new_groups);
    for row in 0..packed.out_features {
        for group in 0..new_groups {
            let (first, end) = (group * new, ((group + 1) * new).min(width));
            let of =
                |group: usize| (packed.scales[row * old_groups + group], zeros[row * old_groups + group]);
            let (scale, zero) = of(first / old);
            if (first / old..end.div_ceil(old)).any(|other| of(other) != (scale, zero)) {
                return Err(format!(
                    "its groups of {old} features have scales of their own, not one for {new}"
                ));
            }
            scales.push(scale);
            new_zeros.push(zero);
        }
    }
    Ok(PackedWeight { group_size: new, scales, levels: Levels::Zeros(new_zeros), ..packed })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of 64 codes, 4 bits each, in groups of 32.
    fn weight(levels: Levels) -> PackedWeight {
        PackedWeight {
            out_features: 2,
            in_features: 64,
            bits: 4,
            group_size: 32,
            codes: (0..16).map(|i| 0x9ABC_DEF0 ^ i).collect(),
            scales: vec![0.5, 0.25, 0.125, 0.125],
            levels,
            perm: None,
        }
    }

    fn form(group_size: Option<usize>, symmetric: bool) -> Form {
        Form { bits: 4, group_size, symmetric, ordered: false }
    }

    #[test]
    fn groups_are_split_and_merged_where_they_agree() {
        let split = exact(weight(Levels::Zero(8)), form(Some(16), true)).unwrap();
        assert_eq!(split.scales, [0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.125, 0.125]);
        assert_eq!(split.to_dense(), weight(Levels::Zero(8)).to_dense());
        assert_eq!(exact(split, form(Some(32), true)).unwrap(), weight(Levels::Zero(8)));
        let error = exact(weight(Levels::Zero(8)), form(Some(64), true)).unwrap_err();
        assert!(error.contains("scales of their own"), "{error}");
        let same = PackedWeight { scales: vec![0.5, 0.5, 2.0, 2.0], ..weight(Levels::Zero(8)) };
        let merged = exact(same.clone(), form(None, false)).unwrap();
        assert_eq!((merged.scales.as_slice(), merged.to_dense()), (&[0.5, 2.0][..], same.to_dense()));
    }

    #[test]
    fn a_minimum_is_a_zero_point_where_f16_says_so() {
        let minima =
            |minima: [f32; 4]| exact(weight(Levels::Minimum(minima.to_vec())), form(Some(32), false));
        assert_eq!(minima([-1.0, -15.0, 0.0, -7.0]).unwrap().levels, Levels::Zeros(vec![1, 15, 0, 7]));
        for wrong in [[-1.25, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [-16.0, 0.0, 0.0, 0.0]] {
            assert!(minima(wrong).unwrap_err().contains("not a zero point"), "{wrong:?}");
        }
        // A scale that uses all 11 bits of f16: 15 times it has more.
        let scale = f16::from_bits(0x2FFF).to_f32();
        let stored = f16::from_f32(-15.0 * scale).to_f32();
        let mut packed = weight(Levels::Minimum(vec![stored / scale, 0.0, 0.0, 0.0]));
        packed.scales[0] = scale;
        assert_ne!(stored, -15.0 * scale);
        assert_eq!(exact(packed, form(Some(32), false)).unwrap().levels, Levels::Zeros(vec![15, 0, 0, 0]));
    }

    #[test]
    fn every_difference_is_named() {
        let ordered = PackedWeight { perm: Some((0..64).rev().collect()), ..weight(Levels::Zero(8)) };
        let fine = PackedWeight { scales: vec![0.1; 4], ..weight(Levels::Zero(8)) };
        let cases = [
            (ordered, form(Some(32), true), "act-order"),
            (fine, form(Some(32), true), "does not fit f16"),
            (weight(Levels::Zero(8)), Form { bits: 8, ..form(Some(32), true) }, "4 bits, not 8"),
            (weight(Levels::Zero(8)), form(Some(24), true), "cannot become groups of 24"),
            (weight(Levels::Zeros(vec![8, 8, 7, 8])), form(Some(32), true), "it has zero points"),
        ];
        for (packed, form, expected) in cases {
            let error = exact(packed, form).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
