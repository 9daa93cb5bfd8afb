//! The perturbed scales of a unit's rows, the rows side by side.

use super::super::{multiversion, noise};
use super::transpose::transpose;
use super::{BlocksView, LANES, LevelsView, WeightView};
use crate::zo::direction::Move;

/// `weight = scale · level + offset`, where a level is `code + shift` or an entry of the codebook. A block is a
/// group here: its factor is in the scale.
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
    pub fn new(weight: &WeightView<'_>, parts: &[Option<(u32, Move)>], first: usize, width: usize) -> Self {
        let groups = weight.groups();
        let range = first * groups..(first + width) * groups;
        let scales = perturbed(&weight.scales[range.clone()], parts, range.start as u32, groups);
        let plain = |scales, shifts| Self { groups, scales, offsets: vec![], shifts };
        match weight.levels {
            LevelsView::Zero(zero) => plain(scales, vec![[-zero; LANES]]),
            LevelsView::Codebook(_) => plain(scales, vec![[0.0; LANES]]),
            LevelsView::Zeros(zeros) => plain(scales, lanes(&zeros[range], width, |zero| -f32::from(zero))),
            LevelsView::Minimum(minimum) => {
                let minima = lanes(&minimum[range], width, |minimum| minimum);
                let factors = vec![[1.0; LANES]; groups];
                Self::of_blocks(&scales, [groups, 1], &factors, Some(minima), (0.0, weight.bits))
            }
            LevelsView::Blocks(BlocksView { width: features, zero, factors, minima }) => {
                let blocks = first * weight.blocks()..(first + width) * weight.blocks();
                let per_group = weight.group_size / features;
                let factors = lanes(&factors[blocks.clone()], width, f32::from);
                let minima = minima.map(|(minima, units)| {
                    let mut minima = lanes(&minima[blocks], width, f32::from);
                    multiply(&lanes(&units[range], width, |unit| unit), per_group, &mut minima);
                    minima
                });
                Self::of_blocks(&scales, [groups, per_group], &factors, minima, (zero, weight.bits))
            }
        }
    }

    /// `scales`: `[parts][groups]`; `factors`, `minima`: `[blocks]`.
    fn of_blocks(
        scales: &[[f32; LANES]],
        [groups, per_group]: [usize; 2],
        factors: &[[f32; LANES]],
        minima: Option<Vec<[f32; LANES]>>,
        (zero, bits): (f32, u32),
    ) -> Self {
        // With an offset the codes are centred, so that little cancels between the two terms.
        let centre = if minima.is_some() { (1u32 << (bits - 1)) as f32 } else { zero };
        let (mut of_blocks, mut offsets) = (vec![], vec![]);
        for scales in scales.chunks_exact(groups) {
            let at = of_blocks.len();
            of_blocks.extend_from_slice(factors);
            multiply(scales, per_group, &mut of_blocks[at..]);
            if let Some(minima) = &minima {
                offsets.extend_from_slice(factors);
                offset(scales, per_group, minima, centre - zero, &mut offsets[at..]);
            }
        }
        Self { groups: factors.len(), scales: of_blocks, offsets, shifts: vec![[-centre; LANES]] }
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
fn perturbed(scales: &[f32], parts: &[Option<(u32, Move)>], first: u32, groups: usize) -> Vec<[f32; LANES]> {
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
    fn apply(noise: Move, scales: &[f32], k: &[i32], out: &mut [f32]) => apply_body;
}

#[inline(always)]
fn apply_body(noise: Move, scales: &[f32], k: &[i32], out: &mut [f32]) {
    for ((out, scale), k) in out.iter_mut().zip(scales).zip(k) {
        *out = noise.apply(*scale, *k);
    }
}

/// `[width]` rows → lanes.
fn lanes<T: Copy>(rows: &[T], width: usize, as_float: impl Fn(T) -> f32) -> Vec<[f32; LANES]> {
    let rows: Vec<f32> = rows.iter().map(|value| as_float(*value)).collect();
    let columns = rows.len() / width;
    let mut out = vec![[0.0; LANES]; columns];
    transpose(&rows, columns, width, &mut out);
    out
}

multiversion! {
    /// What each group has, multiplied into what its blocks have.
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
    /// Factor of each block → what is added to its weights when `centre` is taken from their codes. Where the
    /// scale is 0 the minimum *is* the weight.
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
