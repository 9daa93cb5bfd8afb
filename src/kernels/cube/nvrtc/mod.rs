//! Every kernel of this room, in every variant that is launched, compiled by NVIDIA's own compiler for the
//! cards that are supported, so that a kernel that cannot compile never waits for a card.

mod library;
mod runtime;

use std::collections::BTreeMap;
use std::sync::Mutex;

use burn::tensor::{DType, Shape};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use self::library::Nvrtc;
use self::runtime::{Card, Recorder};
use super::packed::{Buffers, Levels};
use super::{attention, elementwise, fused, step, unpack};
use crate::kernels::packed::LevelsKind;
use crate::kernels::{Gate, Scores};
use crate::zo::perturbation::{Noise, Perturbation, ScaleMode};

const ARCHITECTURES: [u16; 3] = [80, 89, 90];
const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn every_cuda_kernel_compiles() {
    let nvrtc = match Nvrtc::open() {
        Ok(nvrtc) => nvrtc,
        Err(error) => {
            let required = std::env::var("QZO_TEST_DEVICES").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == "nvrtc"), "NVRTC is required here: {error}");
            eprintln!("SKIPPED: no CUDA kernel was compiled: {error}");
            return;
        }
    };
    let mut kernels = BTreeMap::new();
    for architecture in ARCHITECTURES {
        for (name, source) in launched(architecture) {
            kernels.insert((architecture, source), name);
        }
    }
    assert!(kernels.len() >= 3 * 30, "only {} kernels were launched", kernels.len());
    let left = Mutex::new(kernels.iter());
    let failures = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(((architecture, source), name)) = left.lock().unwrap().next() else { break };
                    if let Err(log) = nvrtc.compile(source, *architecture) {
                        failures.lock().unwrap().push(format!("{name} for {architecture}: {log}\n{source}"));
                    }
                }
            });
        }
    });
    eprintln!("compiled {} CUDA kernels", kernels.len());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} failed, first {}", failures.len(), kernels.len(), failures[0]);
}

/// Launches every kernel in every variant on a card that only records what it is given.
fn launched(architecture: u16) -> Vec<(&'static str, String)> {
    let device = Card { architecture };
    let client = Recorder::client(&device);
    let tensor = |shape: &[usize], dtype| -> CubeTensor<Recorder> {
        empty_device_contiguous_dtype(client.clone(), device.clone(), Shape::new_raw(shape.into()), dtype)
    };
    let f32s = |length: usize| tensor(&[length], DType::F32);
    let words = |length: usize| tensor(&[length], DType::I32);

    let product = |[rows, out, input, group_size]: [usize; 4], bits, levels: Levels<Recorder>, dtype| {
        let mut packed = Buffers {
            out_features: out,
            in_features: input,
            bits,
            group_size,
            codes: words(0),
            scales: f32s(2 * out * input.div_ceil(group_size)),
            levels,
        };
        packed.codes = words(out * packed.words_per_row());
        unpack::launch(packed.clone(), tensor(&[2, out, input], dtype));
        let (x, y) = (tensor(&[2, rows, input], dtype), tensor(&[2, rows, out], dtype));
        fused::launch(x, packed, y).unwrap();
    };
    for noise in noises() {
        step::launch(f32s(100), 1, noise, f32s(100));
        step::launch(f32s(100), 1, noise, f32s(200));
    }
    for dtype in FLOATS {
        // Every size of tile, and none; odd and even.
        for head_dim in [16, 21, 64, 128, 256, 1000] {
            let x = || tensor(&[5, 4, head_dim], dtype);
            let kv = || tensor(&[5, 2, head_dim], dtype);
            for cap in [None, Some(50.0)] {
                attention::launch(x(), kv(), kv(), words(20), Scores { scale: 0.5, cap }, x());
            }
        }
        let x = || tensor(&[5, 80], dtype);
        elementwise::rms_norm(x(), f32s(80), 1e-5, x());
        for activation in [Gate::Silu, Gate::GeluTanh] {
            elementwise::gate_mul(x(), x(), activation, x());
        }
        let x = || tensor(&[5, 4, 20], dtype);
        let angles = || tensor(&[5, 10], DType::F32);
        elementwise::rotate(x(), angles(), angles(), x());
    }
    // A layer of a real model with few and with many rows; a shape that is a multiple of nothing.
    for (rows, out, input, group_size) in [(16, 4096, 4096, 128), (2048, 11008, 4096, 64), (5, 70, 101, 24)] {
        for (i, bits) in [2, 3, 4, 5, 6, 8].into_iter().enumerate() {
            let groups = out * input.div_ceil(group_size);
            let bytes = |count: usize| Some(words(count.div_ceil(4)));
            let width = if group_size == 24 { 12 } else { 16 };
            let blocks = out * input.div_ceil(width);
            let levels = [
                (LevelsKind::Zero, None, None),
                (LevelsKind::Zeros, bytes(groups), None),
                (LevelsKind::Minimum, None, Some(f32s(groups))),
                (LevelsKind::Blocks { width, minima: false }, bytes(blocks), None),
                (LevelsKind::Blocks { width, minima: true }, bytes(2 * blocks), Some(f32s(groups))),
                (LevelsKind::Codebook { width: 1, books: 1 }, None, Some(f32s(1 << bits))),
            ];
            for (j, (kind, bytes, table)) in levels.into_iter().enumerate() {
                let levels = Levels { kind, zero: 8, bytes, table };
                // Each type and card with each width and kind of levels, though not all of them together.
                if ARCHITECTURES[(i + 2 * j) % 3] == architecture {
                    product([rows, out, input, group_size], bits, levels, FLOATS[(i + j) % 3]);
                }
            }
        }
    }
    // Vectors that are narrower and wider than a read, codes that straddle words, several books.
    for (i, (bits, width, books)) in
        [(6, 2, 1), (12, 4, 1), (8, 8, 2), (16, 8, 1), (5, 1, 3), (1, 3, 1)].into_iter().enumerate()
    {
        for (j, shape) in
            [[16, 4096, 4080, 120], [2048, 4096, 4080, 120], [5, 70, 120, 48]].into_iter().enumerate()
        {
            if ARCHITECTURES[(i + j) % 3] == architecture {
                let table = Some(f32s((books << bits) * width));
                let kind = LevelsKind::Codebook { width, books };
                let levels = Levels { kind, zero: 0, bytes: None, table };
                product(shape, bits, levels, FLOATS[(i + 2 * j + i / 3) % 3]);
            }
        }
    }
    cubecl::future::block_on(client.sync()).unwrap();
    std::mem::take(&mut client.info().lock().unwrap())
}

fn noises() -> impl Iterator<Item = Noise> {
    [Perturbation::Gaussian, Perturbation::Rademacher].into_iter().flat_map(|kind| {
        let noise = move |mode| Noise { kind, mode, seed: 1, probe: 0, coefficient: 0.5 };
        [ScaleMode::Absolute, ScaleMode::Relative].map(noise)
    })
}
