//! Scales of a unit's rows, perturbed, with the rows side by side.

use super::super::multiversion::multiversion;
use super::super::noise;
use super::layout::LANES;
use super::transpose::transpose;
use super::view::WeightView;
use crate::packed::Levels;
use crate::zo::direction::Move;

/// Scales and offsets: `weight = scale · level + offset`, where a level is `code + shift` or the entry of a codebook.
/// A sub-block is a group here, and its integer scale is in the scale.
#[derive(Default)]
pub(super) struct UnitScales {
    /// Groups of a part.
    groups: usize,
    /// `[parts][groups]`
    scales: Vec<[f32; LANES]>,
    /// `[parts][groups]`, empty where there are none.
    offsets: Vec<[f32; LANES]>,
    /// `[groups]`, or one that all groups share.
    shifts: Vec<[f32; LANES]>,
}

impl UnitScales {
    /// The scales of `width` rows from `first` on.
    pub fn new(weight: &WeightView<'_>, parts: &[Option<(u32, Move)>], first: usize, width: usize) -> Self {
        let mut scales = Self::default();
        scales.set(weight, parts, first, width);
        scales
    }

    /// Becomes the scales of other rows.
    pub fn set(
        &mut self,
        weight: &WeightView<'_>,
        parts: &[Option<(u32, Move)>],
        first: usize,
        width: usize,
    ) {
        let groups = weight.groups();
        let range = first * groups..(first + width) * groups;
        self.groups = groups;
        self.offsets.clear();
        self.shifts.clear();
        perturbed(&weight.scales[range.clone()], parts, range.start as u32, groups, &mut self.scales);
        match weight.levels {
            Levels::Zero(zero) => self.shifts.push([-f32::from(zero); LANES]),
            Levels::Codebook(_) => self.shifts.push([0.0; LANES]),
            Levels::Zeros(zeros) => self.shifts = lanes(&zeros[range], width, |zero| -f32::from(zero)),
            Levels::Minimum(minimum) => {
                let mut minima = vec![[0.0; LANES]; groups];
                transpose(&minimum[range], groups, width, &mut minima);
                let centre = self.centre(weight.bits);
                self.offsets.resize(self.scales.len(), [1.0; LANES]);
                for (offsets, scales) in self.offsets.chunks_mut(groups).zip(self.scales.chunks(groups)) {
                    offset(scales, 1, &minima, centre, offsets);
                }
            }
            Levels::SubBlocks(sub_blocks) => {
                let (per_row, count) = (weight.sub_blocks(), weight.out_features * weight.sub_blocks());
                let blocks = first * per_row..(first + width) * per_row;
                let per_group = weight.group_size / sub_blocks.width;
                let factors = lanes(&sub_blocks.scales(count)[blocks.clone()], width, f32::from);
                let minima = sub_blocks.mins(count).map(|(mins, min_scales)| {
                    let mut minima = lanes(&mins[blocks], width, f32::from);
                    multiply(&lanes(&min_scales[range], width, |scale| scale), per_group, &mut minima);
                    minima
                });
                self.divide(
                    per_group,
                    &factors,
                    minima.as_deref(),
                    (f32::from(sub_blocks.zero), weight.bits),
                );
            }
        }
    }

    /// Makes a group of each sub-block. `factors`, the integer scales, and `minima`: `[sub-blocks]`.
    fn divide(
        &mut self,
        per_group: usize,
        factors: &[[f32; LANES]],
        minima: Option<&[[f32; LANES]]>,
        (zero, bits): (f32, u32),
    ) {
        let centre = if minima.is_some() { self.centre(bits) } else { zero };
        if minima.is_none() {
            self.shifts.push([-centre; LANES]);
        }
        let of_groups = std::mem::take(&mut self.scales);
        for scales in of_groups.chunks_exact(self.groups) {
            let at = self.scales.len();
            self.scales.extend_from_slice(factors);
            multiply(scales, per_group, &mut self.scales[at..]);
            if let Some(minima) = minima {
                self.offsets.extend_from_slice(factors);
                offset(scales, per_group, minima, centre - zero, &mut self.offsets[at..]);
            }
        }
        self.groups = factors.len();
    }

    /// Centres the codes, so that less of scale and offset cancels; returns by how much.
    fn centre(&mut self, bits: u32) -> f32 {
        let centre = (1u32 << (bits - 1)) as f32;
        self.shifts.push([-centre; LANES]);
        centre
    }

    pub fn shift(&self, group: usize) -> &[f32; LANES] {
        &self.shifts[if self.shifts.len() == 1 { 0 } else { group }]
    }

    /// The scales of one part from number `group` on, and its offsets, if any.
    pub fn part(&self, part: usize, group: usize) -> (&[[f32; LANES]], Option<&[[f32; LANES]]>) {
        let range = part * self.groups + group..(part + 1) * self.groups;
        (&self.scales[range.clone()], self.offsets.get(range))
    }
}

/// Sets `out` to the scales under the move of each part, `[parts][groups]`; `first` is the number of the first scale in
/// the weight.
fn perturbed(
    scales: &[f32],
    parts: &[Option<(u32, Move)>],
    first: u32,
    groups: usize,
    out: &mut Vec<[f32; LANES]>,
) {
    let width = scales.len() / groups;
    out.resize(parts.len() * groups, [0.0; LANES]);
    let (mut k, mut moved) = (vec![], vec![]);
    if let Some(Some((parameter, displacement))) = parts.first() {
        // All parts share the draw: only its coefficient differs.
        k.resize(scales.len(), 0);
        moved.resize(scales.len(), 0.0);
        noise::fill(displacement.direction, *parameter, first, &mut k);
    }
    for (part, out) in parts.iter().zip(out.chunks_exact_mut(groups)) {
        let scales = match part {
            None => scales,
            Some((_, displacement)) => {
                apply(*displacement, scales, &k, &mut moved);
                &moved
            }
        };
        transpose(scales, groups, width, out);
    }
}

multiversion! {
    fn apply(displacement: Move, scales: &[f32], k: &[i32], out: &mut [f32]) => apply_body;
}

#[inline(always)]
fn apply_body(displacement: Move, scales: &[f32], k: &[i32], out: &mut [f32]) {
    for ((out, scale), k) in out.iter_mut().zip(scales).zip(k) {
        *out = displacement.apply(*scale, *k);
    }
}

/// Transposes `width` rows into lanes.
fn lanes<T: Copy>(rows: &[T], width: usize, as_float: impl Fn(T) -> f32) -> Vec<[f32; LANES]> {
    let rows: Vec<f32> = rows.iter().map(|value| as_float(*value)).collect();
    let columns = rows.len() / width;
    let mut out = vec![[0.0; LANES]; columns];
    transpose(&rows, columns, width, &mut out);
    out
}

multiversion! {
    /// Multiplies the values of the blocks of each group by the group's value.
    fn multiply(groups: &[[f32; LANES]], per_group: usize, blocks: &mut [[f32; LANES]]) => multiply_body;
}

#[inline(always)]
fn multiply_body(groups: &[[f32; LANES]], per_group: usize, blocks: &mut [[f32; LANES]]) {
    for (blocks, group) in blocks.chunks_mut(per_group).zip(groups) {
        for block in blocks {
            (0..LANES).for_each(|i| block[i] *= group[i]);
        }
    }
}

multiversion! {
    /// Turns the integer scale of each block into the offset of its weights when `centre` is subtracted from their
    /// codes. Where the scale is 0 the minimum *is* the weight.
    fn offset(
        scales: &[[f32; LANES]],
        per_group: usize,
        minima: &[[f32; LANES]],
        centre: f32,
        blocks: &mut [[f32; LANES]],
    ) => offset_body;
}

#[inline(always)]
fn offset_body(
    scales: &[[f32; LANES]],
    per_group: usize,
    minima: &[[f32; LANES]],
    centre: f32,
    blocks: &mut [[f32; LANES]],
) {
    let groups = blocks.chunks_mut(per_group).zip(minima.chunks(per_group)).zip(scales);
    for ((blocks, minima), scale) in groups {
        for (block, minimum) in blocks.iter_mut().zip(minima) {
            for i in 0..LANES {
                let moved = scale[i] * (block[i] * centre + minimum[i]);
                block[i] = if scale[i] == 0.0 { minimum[i] } else { moved };
            }
        }
    }
}
