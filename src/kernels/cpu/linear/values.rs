//! The perturbed scales of a unit's rows, the rows side by side.

use super::super::{multiversion, noise};
use super::transpose::transpose;
use super::{LANES, LevelsView, WeightView};
use crate::zo::perturbation::Noise;

/// `weight = scale · level + offset`, where a level is `code + shift` or an entry of the codebook.
pub(super) struct Values {
    groups: usize,
    /// `[parts][groups]`
    scales: Vec<[f32; LANES]>,
    /// `[parts][groups]`, empty where there are none.
    offsets: Vec<[f32; LANES]>,
    /// `[groups]`, or a single one for all.
    shifts: Vec<[f32; LANES]>,
}

impl Values {
    /// `width` rows from `first` on.
    pub fn new(weight: &WeightView<'_>, parts: &[Option<(u32, Noise)>], first: usize, width: usize) -> Self {
        let groups = weight.groups();
        let range = first * groups..(first + width) * groups;
        let scales = perturbed(&weight.scales[range.clone()], parts, range.start as u32, groups);
        let (mut offsets, mut shifts) = (vec![], vec![]);
        match weight.levels {
            LevelsView::Zero(zero) => shifts.push([-zero; LANES]),
            LevelsView::Codebook(_) => shifts.push([0.0; LANES]),
            LevelsView::Zeros(zeros) => {
                let zeros: Vec<f32> = zeros[range].iter().map(|zero| -f32::from(*zero)).collect();
                shifts.resize(groups, [0.0; LANES]);
                transpose(&zeros, groups, width, &mut shifts);
            }
            LevelsView::Minimum(minimum) => {
                // The codes are centred, so that little cancels between the two terms.
                let half = (1u32 << (weight.bits - 1)) as f32;
                shifts.push([-half; LANES]);
                offsets.resize(scales.len(), [0.0; LANES]);
                for offsets in offsets.chunks_exact_mut(groups) {
                    transpose(&minimum[range.clone()], groups, width, offsets);
                }
                offset(scales.as_flattened(), half, offsets.as_flattened_mut());
            }
        }
        Self { groups, scales, offsets, shifts }
    }

    pub fn shift(&self, group: usize) -> &[f32; LANES] {
        &self.shifts[if self.shifts.len() == 1 { 0 } else { group }]
    }

    /// The scales of one part from some group on, and the offsets where there are any.
    pub fn part(&self, part: usize, group: usize) -> (&[[f32; LANES]], Option<&[[f32; LANES]]>) {
        let range = part * self.groups + group..(part + 1) * self.groups;
        (&self.scales[range.clone()], self.offsets.get(range))
    }
}

/// The scales of each part, `[parts][groups]`, from number `first` of the weight on.
fn perturbed(scales: &[f32], parts: &[Option<(u32, Noise)>], first: u32, groups: usize) -> Vec<[f32; LANES]> {
    let width = scales.len() / groups;
    let mut out = vec![[0.0; LANES]; parts.len() * groups];
    let (mut k, mut moved) = (vec![], vec![]);
    if let Some(Some((parameter, noise))) = parts.first() {
        // All parts share the draw: only its coefficient differs.
        k.resize(scales.len(), 0);
        moved.resize(scales.len(), 0.0);
        noise::fill(*noise, *parameter, first, &mut k);
    }
    for (part, out) in parts.iter().zip(out.chunks_exact_mut(groups)) {
        let scales = match part {
            None => scales,
            Some((_, noise)) => {
                apply(*noise, scales, &k, &mut moved);
                &moved
            }
        };
        transpose(scales, groups, width, out);
    }
    out
}

multiversion! {
    fn apply(noise: Noise, scales: &[f32], k: &[i32], out: &mut [f32]) => apply_body;
}

#[inline(always)]
fn apply_body(noise: Noise, scales: &[f32], k: &[i32], out: &mut [f32]) {
    for ((out, scale), k) in out.iter_mut().zip(scales).zip(k) {
        *out = noise.apply(*scale, *k);
    }
}

multiversion! {
    /// Minimum of each group → what is added to its weights; it *is* them where the scale is 0.
    fn offset(scales: &[f32], half: f32, minimum: &mut [f32]) => offset_body;
}

#[inline(always)]
fn offset_body(scales: &[f32], half: f32, minimum: &mut [f32]) {
    for (minimum, scale) in minimum.iter_mut().zip(scales) {
        let moved = scale * (*minimum + half);
        *minimum = if *scale == 0.0 { *minimum } else { moved };
    }
}
