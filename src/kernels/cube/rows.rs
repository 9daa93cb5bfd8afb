//! Tensors as rows of vectors, and the output of a launch over them.

use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::{ArrayArg, CubeCount, CubeDim};
use cubecl::std::tensor::is_contiguous;

use super::buffers::{array, empty_like};

/// Units in a cube of the kernels that go over rows.
pub(super) const UNITS: usize = 256;
/// The widest read or write of one unit, in bytes.
const READ: usize = 16;
/// Most cubes along the second axis of a launch.
const MOST_ROWS: usize = 65_535;

/// Elements, of `size` bytes each, that one unit reads at a time; each of `lengths` is a multiple of their number.
pub(super) fn lanes(size: usize, lengths: &[usize]) -> usize {
    let fits = |lanes: &usize| lengths.iter().all(|length| length.is_multiple_of(*lanes));
    [8, 4, 2].into_iter().filter(|lanes| lanes * size <= READ).find(fits).unwrap_or(1)
}

/// A launch with a unit for each of `width` vectors along x. Along y it may have fewer than `count` rows: the kernel goes
/// on in steps of as many as there are.
pub(super) fn by_vectors(count: usize, width: usize) -> (CubeCount, CubeDim) {
    let x = width.next_power_of_two().min(UNITS);
    let y = UNITS / x;
    let (across, down) = (width.div_ceil(x).max(1), count.div_ceil(y).clamp(1, MOST_ROWS));
    (CubeCount::new_2d(across as u32, down as u32), CubeDim::new_2d(x as u32, y as u32))
}

/// A tensor whose rows, one for each index of its first axis, are contiguous, and the number of elements from the
/// beginning of one row to the next. Copies the tensor where they are not.
pub(super) fn rows<R: CubeRuntime>(tensor: CubeTensor<R>) -> (CubeTensor<R>, usize) {
    let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
    let (width, stride) = (shape[1..].iter().product(), strides[0]);
    if is_contiguous(&shape[1..], &strides[1..]) && stride >= width {
        return (tensor, stride);
    }
    (into_contiguous(tensor), width)
}

/// The output of a launch that reads `input` as its buffer number `position`: `input` itself where nobody else holds
/// it, otherwise a new tensor of its shape; contiguous either way.
pub(super) fn output<R: CubeRuntime>(input: &CubeTensor<R>, position: usize) -> (CubeTensor<R>, ArrayArg<R>) {
    if input.can_mut() && input.is_contiguous() {
        return (input.clone(), input.as_tensor_alias(position).into_array_arg());
    }
    let out = empty_like(input);
    (out.clone(), array(out))
}

#[cfg(test)]
#[cfg(feature = "wgpu")]
mod tests {
    use burn::tensor::Tensor;
    use burn_wgpu::Wgpu;

    use super::*;
    use crate::device::{Device, for_tests};

    #[test]
    fn only_a_tensor_that_nobody_else_holds_is_written_in_place() {
        let Some(Device::Wgpu(device)) = for_tests("wgpu") else { return };
        let x = Tensor::<Wgpu, 2>::ones([4, 6], &device).into_primitive().tensor();
        let in_place = |x: &CubeTensor<_>| matches!(output(x, 0), (_, ArrayArg::Alias { .. }));
        assert!(in_place(&x));
        let held = x.clone();
        assert!(!in_place(&x));
        drop(held);
        assert!(in_place(&x));
    }

    #[test]
    fn vectors_fit_a_read_and_every_length() {
        assert_eq!(lanes(2, &[5120, 64]), 8);
        assert_eq!(lanes(4, &[5120, 64]), 4);
        assert_eq!(lanes(2, &[5120, 12]), 4);
        assert_eq!(lanes(2, &[75]), 1);
    }
}
