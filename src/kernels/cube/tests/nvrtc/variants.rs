//! Launches of every kernel in every variant.

use burn::tensor::{DType, Int, Shape, Tensor};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::Runtime;

use super::super::super::{attention, elementwise, elementwise_backward, move_scales, norm, norm_backward};
use super::recorder::{B, RecorderLevels, displacement, displacements};
use super::runtime::{Card, Launch, Recorder};
use crate::arch::Activation;
use crate::device::ComputeType;
use crate::kernels::{DeviceWeight, MatmulEngine, MatmulPath, Scores, linear_backward, linear_by};
use crate::packed::{Codebook, Levels, PackedWeight, SubBlocks, words_per_row};
use crate::zo::direction::Signs;

/// Compute capabilities of the supported cards, 10 · major + minor.
pub const ARCHITECTURES: [u16; 3] = [80, 89, 90];
const FLOATS: [ComputeType; 3] = [ComputeType::F32, ComputeType::F16, ComputeType::Bf16];

/// Launches every kernel in every variant on a card that only records what it is given.
pub fn launched(device: &Card) -> Vec<Launch> {
    let client = Recorder::client(device);
    let tensor = |shape: &[usize], dtype| -> CubeTensor<Recorder> {
        empty_device_contiguous_dtype(client.clone(), device.clone(), Shape::new_raw(shape.into()), dtype)
    };
    let f32s = |length: usize| tensor(&[length], DType::F32);
    let words = |length: usize| tensor(&[length], DType::I32);

    let table = |length: usize| Tensor::<B, 1>::empty([length], (device, DType::F32));
    let integers = |length: usize| Tensor::<B, 1, Int>::empty([length], (device, DType::I32));
    let bytes = |count: usize| integers(count.div_ceil(4));

    let product = |[rows, out, input, group_size]: [usize; 4], bits, levels: RecorderLevels, compute| {
        let codes = levels.kind().codes(input);
        let packed = PackedWeight {
            out_features: out,
            in_features: input,
            bits,
            group_size,
            codes: integers(out * words_per_row(codes, bits)),
            scales: table(out * input.div_ceil(group_size)),
            levels,
            perm: None,
        };
        let weight = DeviceWeight { packed, parameter: Some(1), compute, has_constant_groups: false };
        let by = |path| {
            let x = Tensor::empty([2 * rows, input], (device, DType::from(compute)));
            linear_by(path, x, [&weight], Signs::Both(displacement())).unwrap();
            Recorder::take(device)
        };
        let [dense, fused] = [MatmulPath::Dense(MatmulEngine::Fastest), MatmulPath::Fused].map(by);
        let [x, dy] = [input, out].map(|width| Tensor::empty([rows, width], (device, DType::from(compute))));
        linear_backward(Some(x), [&weight], [dy], true);
        let backward = Recorder::take(device);
        assert!(backward.iter().any(|launch| launch.name.contains("group_sums")));
        let unpacks = |launches: &[Launch]| launches.iter().any(|launch| launch.name.contains("unpack"));
        assert!(unpacks(&dense) && !unpacks(&fused), "{rows} × {out} × {input}, {bits} bits");
        [dense, fused, backward].concat()
    };
    let mut launches = vec![];
    for displacement in displacements() {
        move_scales::launch(f32s(100), 1, displacement, f32s(100));
        move_scales::launch(f32s(100), 1, displacement, f32s(200));
    }
    for dtype in FLOATS.map(DType::from) {
        // Every size of tile, and none; odd and even; with tensor cores and without.
        for head_dim in [16, 21, 64, 80, 96, 128, 256, 264, 1000] {
            let x = || tensor(&[5, 4, head_dim], dtype);
            let kv = || tensor(&[5, 2, head_dim], dtype);
            elementwise::write_rows(tensor(&[9, 2, head_dim], dtype), words(5), kv());
            for cap in [None, Some(50.0)] {
                let scores = Scores { scale: 0.5, cap };
                attention::launch(x(), kv(), kv(), words(20), scores, x());
                attention::backward([x(), kv(), kv(), x()], words(20), scores);
            }
        }
        elementwise_backward::permute_back(tensor(&[5, 24], dtype), words(24));
    }
    // Units of a row that are a plane, several, and a cube; vectors wide, narrow and single; a row too long to be
    // kept in registers; halves of whole heads and of parts of heads. Each in each type, on one card or another.
    let norms = [80, 640, 5120, 4098, 4099, 300_000].map(SmallKernel::Norm);
    let gates = [80, 13_824, 75].map(SmallKernel::Gate);
    let rotations = [(128, 64), (20, 10), (80, 16)].map(|(dim, half)| SmallKernel::Rotation { dim, half });
    for (i, small) in norms.into_iter().chain(gates).chain(rotations).enumerate() {
        for (j, dtype) in FLOATS.into_iter().enumerate() {
            if ARCHITECTURES[(i + j) % 3] == device.architecture {
                small.launch(|shape| tensor(shape, dtype.into()), |shape| tensor(shape, DType::F32));
            }
        }
    }
    launches.extend(Recorder::take(device));
    // A layer of a real model with few and with many rows; a shape that is a multiple of nothing.
    for [rows, out, input, group_size] in
        [[16, 4096, 4096, 128], [2048, 11008, 4096, 64], [5, 70, 101, 24_usize]]
    {
        for (i, bits) in [2, 3, 4, 5, 6, 8].into_iter().enumerate() {
            let groups = out * input.div_ceil(group_size);
            let width = if group_size == 24 { 12 } else { 16 };
            let blocks = out * input.div_ceil(width);
            let sub_blocks =
                |integers, min_scales| Levels::SubBlocks(SubBlocks { width, zero: 8, integers, min_scales });
            let levels = [
                Levels::Zero(8),
                Levels::Zeros(bytes(groups)),
                Levels::Minimum(table(groups)),
                sub_blocks(bytes(blocks), None),
                sub_blocks(bytes(2 * blocks), Some(table(groups))),
                Levels::Codebook(Codebook { width: 1, num_codebooks: 1, entries: table(1 << bits) }),
            ];
            for (j, levels) in levels.into_iter().enumerate() {
                // Each type and card with each width and kind of levels, though not all of them together.
                if ARCHITECTURES[(i + 2 * j) % 3] == device.architecture {
                    launches.extend(product(
                        [rows, out, input, group_size],
                        bits,
                        levels,
                        FLOATS[(i + j) % 3],
                    ));
                }
            }
        }
    }
    // Vectors that are narrower and wider than a read, codes that straddle words, several codebooks.
    for (i, (bits, width, num_codebooks)) in
        [(6, 2, 1), (12, 4, 1), (8, 8, 2), (16, 8, 1), (5, 1, 3), (1, 3, 1)].into_iter().enumerate()
    {
        for (j, shape) in
            [[16, 4096, 4080, 120], [2048, 4096, 4080, 120], [5, 70, 120, 48]].into_iter().enumerate()
        {
            let entries = table((num_codebooks << bits) * width);
            let levels = Levels::Codebook(Codebook { width, num_codebooks, entries });
            if ARCHITECTURES[(i + j) % 3] == device.architecture {
                launches.extend(product(shape, bits, levels, FLOATS[(i + 2 * j + i / 3) % 3]));
            }
        }
    }
    launches
}

/// A kernel between the products, with its size.
enum SmallKernel {
    Norm(usize),
    Gate(usize),
    Rotation { dim: usize, half: usize },
}

impl SmallKernel {
    /// Launches it on inputs that may be overwritten and on inputs that may not.
    fn launch(
        &self,
        tensor: impl Fn(&[usize]) -> CubeTensor<Recorder>,
        f32s: impl Fn(&[usize]) -> CubeTensor<Recorder>,
    ) {
        let mut held = vec![];
        for shared in [false, true] {
            let mut x = |shape: &[usize]| {
                let x = tensor(shape);
                held.extend(shared.then(|| x.clone()));
                x
            };
            match *self {
                Self::Norm(hidden) => {
                    norm::rms_norm(x(&[5, hidden]), f32s(&[hidden]), 1e-5);
                    norm::add_rms_norm([0; 2].map(|_| x(&[5, hidden])), f32s(&[hidden]), 1e-5);
                    let [x, dy] = [0; 2].map(|_| x(&[5, hidden]));
                    norm_backward::rms_norm_backward(x, f32s(&[hidden]), 1e-5, dy);
                }
                Self::Gate(width) => {
                    for activation in [Activation::Silu, Activation::GeluTanh] {
                        elementwise::gate_mul(x(&[5, width]), x(&[5, width]), activation);
                        let [gate, up, dy] = [0; 3].map(|_| x(&[5, width]));
                        elementwise_backward::gate_mul_backward([gate, up], dy, activation);
                    }
                }
                Self::Rotation { dim, half } => {
                    let x = [4, 2].map(|heads| x(&[5, heads, dim]));
                    elementwise::rotate(x, f32s(&[5, half]), f32s(&[5, half]));
                }
            }
        }
    }
}
