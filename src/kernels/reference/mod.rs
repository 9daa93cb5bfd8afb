//! Plain loops in f64 that every kernel must agree with, and the grid of awkward shapes on which each backend is
//! compared with them.

pub(super) mod attention;
mod backward;
mod elementwise;
mod linear;
mod weights;

use burn::tensor::{DType, Tensor, TensorData};

use super::Kernels;
use crate::rng::philox4x32_10;
use crate::zo::direction::{Direction, Distribution, Move, ScaleMode, coefficient};

/// Error of f32 products of up to a few hundred terms, relative to the root mean square of the result.
const TOLERANCE: f64 = 2e-6;

/// Reproducible numbers without a generator crate: Philox words as uniform values in [−1, 1).
pub(super) struct Uniform(pub u32);

impl Uniform {
    fn word(&mut self) -> u32 {
        self.0 += 1;
        philox4x32_10([self.0, 0, 0, 99], [7, 7])[0]
    }

    fn float(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, length: usize) -> Vec<f32> {
        (0..length).map(|_| self.float()).collect()
    }
}

pub(super) fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    let magnitude: f64 = want.iter().map(|w| w.powi(2)).sum();
    (error / magnitude).sqrt()
}

/// [`relative_error`], or where all is 0 the root mean square of what was computed: the gradient of a query that sees one
/// key is 0.
pub(super) fn error_or_size(got: &[f32], want: &[f64]) -> f64 {
    if want.iter().any(|want| *want != 0.0) {
        return relative_error(got, want);
    }
    (got.iter().map(|got| f64::from(*got).powi(2)).sum::<f64>() / got.len() as f64).sqrt()
}

fn float<B: Kernels, const D: usize>(values: &[f32], shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (device, DType::F32))
}

fn read<B: Kernels, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().into_vec().unwrap()
}

fn displacements() -> Vec<Option<Move>> {
    let mut displacements = vec![None];
    for kind in [Distribution::Gaussian, Distribution::Rademacher] {
        for mode in [ScaleMode::Absolute, ScaleMode::Relative] {
            let e = if mode == ScaleMode::Absolute { 1e-3 } else { 5e-2 };
            displacements.push(Some(Move {
                direction: Direction { distribution: kind, mode, seed: 0x1234_5678_9abc_def0, probe: 2 },
                coefficient: coefficient(kind, e),
            }));
        }
    }
    displacements
}

macro_rules! on {
    ($name:ident, $spec:expr, $pattern:pat => $backend:ty, $device:expr) => {
        mod $name {
            fn run(test: fn(&<$backend as burn::tensor::backend::BackendTypes>::Device)) {
                let $pattern = ($spec) else { return };
                test(&$device)
            }
            #[test]
            fn linear_matches_the_loops() {
                run(super::linear::linear_matches_the_loops::<$backend>)
            }
            #[test]
            fn sub_blocks_match_the_loops() {
                run(super::linear::sub_blocks_match_the_loops::<$backend>)
            }
            #[test]
            fn codebooks_and_perms_match_the_loops() {
                run(super::linear::codebooks_and_perms_match_the_loops::<$backend>)
            }
            #[test]
            fn a_dense_weight_matches_the_loops() {
                run(super::linear::a_dense_weight_matches_the_loops::<$backend>)
            }
            #[test]
            fn both_signs_and_several_weights_match_the_loops() {
                run(super::linear::both_signs_and_several_weights_match_the_loops::<$backend>)
            }
            #[test]
            fn linear_in_half_precision_is_within_its_rounding() {
                run(super::linear::linear_in_half_precision_is_within_its_rounding::<$backend>)
            }
            #[test]
            fn an_untrained_weight_does_not_move() {
                run(super::linear::an_untrained_weight_does_not_move::<$backend>)
            }
            #[test]
            fn moves_give_the_bits_of_the_definition() {
                run(super::linear::moves_give_the_bits_of_the_definition::<$backend>)
            }
            #[test]
            fn norms_match_the_loops() {
                run(super::elementwise::norms_match_the_loops::<$backend>)
            }
            #[test]
            fn rotation_matches_the_loops() {
                run(super::elementwise::rotation_matches_the_loops::<$backend>)
            }
            #[test]
            fn gates_match_the_loops() {
                run(super::elementwise::gates_match_the_loops::<$backend>)
            }
            #[test]
            fn rows_are_written_to_their_places() {
                run(super::elementwise::rows_are_written_to_their_places::<$backend>)
            }
            #[test]
            fn rows_of_a_wider_tensor_match_the_loops() {
                run(super::elementwise::rows_of_a_wider_tensor_match_the_loops::<$backend>)
            }
            #[test]
            fn attention_matches_the_loops() {
                run(super::attention::attention_matches_the_loops::<$backend>)
            }
            #[test]
            fn attention_in_half_precision_is_within_its_rounding() {
                run(super::attention::attention_in_half_precision_is_within_its_rounding::<$backend>)
            }
            #[test]
            fn linear_backward_matches_the_loops() {
                run(super::backward::linear_backward_matches_the_loops::<$backend>)
            }
            #[test]
            fn gradients_of_several_weights_add_up() {
                run(super::backward::gradients_of_several_weights_add_up::<$backend>)
            }
            #[test]
            fn dense_backward_matches_the_loops() {
                run(super::backward::dense_backward_matches_the_loops::<$backend>)
            }
            #[test]
            fn attention_backward_matches_the_loops() {
                run(super::backward::attention_backward_matches_the_loops::<$backend>)
            }
            #[test]
            fn norm_gate_and_rotation_backward_match_the_loops() {
                run(super::backward::norm_gate_and_rotation_backward_match_the_loops::<$backend>)
            }
        }
    };
}

on!(cpu, Some(()), Some(()) => burn_flex::Flex, burn_flex::FlexDevice);
#[cfg(feature = "wgpu")]
on!(wgpu, crate::device::for_tests("wgpu"), Some(crate::device::Device::Wgpu(device)) => burn_wgpu::Wgpu, device);
#[cfg(feature = "cuda")]
on!(cuda, crate::device::for_tests("cuda"), Some(crate::device::Device::Cuda(device)) => burn_cuda::Cuda, device);
