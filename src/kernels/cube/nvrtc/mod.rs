//! Every kernel of this room, in every variant that is launched, compiled by NVIDIA's own compiler for the
//! cards that are supported, so that a kernel that cannot compile never waits for a card.

mod card;
pub mod decoder;
mod host;
mod library;
pub mod runtime;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use burn::tensor::{DType, Int, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::Runtime;

use self::library::Nvrtc;
use self::runtime::{Card, Launch, Recorder};
use super::{attention, elementwise, norm, step};
use crate::arch::Activation;
use crate::device::ComputeType;
use crate::kernels::{DeviceLevels, DeviceWeight, Engine, Path, Scores, linear_by};
use crate::packed::words_per_row;
use crate::zo::direction::{Direction, Distribution, Move, ScaleMode, Signs};

const ARCHITECTURES: [u16; 3] = [80, 89, 90];
const FLOATS: [ComputeType; 3] = [ComputeType::F32, ComputeType::F16, ComputeType::Bf16];

type B = CubeBackend<Recorder, f32, i32, u8>;

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
    let clock = Instant::now();
    // Of each source the first card that has it: what an older one can run, a newer one can.
    let mut kernels: BTreeMap<Arc<str>, (u16, &str)> = BTreeMap::new();
    for architecture in ARCHITECTURES {
        let card = Card { architecture };
        for Launch { name, source } in [launched(&card), decoder::launched(&card)].concat() {
            kernels.entry(source).or_insert((architecture, name));
        }
    }
    eprintln!("wrote {} CUDA kernels in {:.0} s", kernels.len(), clock.elapsed().as_secs_f64());
    assert!(kernels.len() >= 3 * 30, "only {} kernels were launched", kernels.len());
    let left = Mutex::new(kernels.iter());
    let failures = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((source, (architecture, name))) = left.lock().unwrap().next() else { break };
                    if let Err(log) = nvrtc.compile(source, *architecture) {
                        failures.lock().unwrap().push(format!("{name} for {architecture}: {log}\n{source}"));
                    }
                }
            });
        }
    });
    eprintln!("compiled them {:.0} s after the start", clock.elapsed().as_secs_f64());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} failed, first {}", failures.len(), kernels.len(), failures[0]);
}

/// Launches every kernel in every variant on a card that only records what it is given.
fn launched(device: &Card) -> Vec<Launch> {
    let client = Recorder::client(device);
    let tensor = |shape: &[usize], dtype| -> CubeTensor<Recorder> {
        empty_device_contiguous_dtype(client.clone(), device.clone(), Shape::new_raw(shape.into()), dtype)
    };
    let f32s = |length: usize| tensor(&[length], DType::F32);
    let words = |length: usize| tensor(&[length], DType::I32);

    let table = |length: usize| Tensor::<B, 1>::empty([length], (device, DType::F32));
    let integers = |length: usize| Tensor::<B, 1, Int>::empty([length], (device, DType::I32));
    let bytes = |count: usize| integers(count.div_ceil(4));

    let product = |[rows, out, input, group_size]: [usize; 4], bits, levels: DeviceLevels<B>, compute| {
        let codes = match &levels {
            DeviceLevels::Codebook { width, .. } => input.div_ceil(*width),
            _ => input,
        };
        let weight = DeviceWeight {
            out_features: out,
            in_features: input,
            bits,
            group_size,
            codes: integers(out * words_per_row(codes, bits)),
            scales: table(out * input.div_ceil(group_size)),
            levels,
            order: None,
            parameter: Some(1),
            compute,
        };
        let by = |path| {
            let x = Tensor::empty([2 * rows, input], (device, DType::from(compute)));
            linear_by(path, x, [&weight], Signs::Both(noise())).unwrap();
            Recorder::take(device)
        };
        let [dense, fused] = [Path::Dense(Engine::Fastest), Path::Fused].map(by);
        let unpacks = |launches: &[Launch]| launches.iter().any(|launch| launch.name.contains("unpack"));
        assert!(unpacks(&dense) && !unpacks(&fused), "{rows} × {out} × {input}, {bits} bits");
        [dense, fused].concat()
    };
    let mut launches = vec![];
    for noise in noises() {
        step::launch(f32s(100), 1, noise, f32s(100));
        step::launch(f32s(100), 1, noise, f32s(200));
    }
    for dtype in FLOATS.map(DType::from) {
        // Every size of tile, and none; odd and even; with tensor cores and without.
        for head_dim in [16, 21, 64, 80, 96, 128, 256, 264, 1000] {
            let x = || tensor(&[5, 4, head_dim], dtype);
            let kv = || tensor(&[5, 2, head_dim], dtype);
            for cap in [None, Some(50.0)] {
                attention::launch(x(), kv(), kv(), words(20), Scores { scale: 0.5, cap }, x());
            }
        }
    }
    // Units of a row that are a plane, several, and a cube; vectors wide, narrow and single; a row too long to be
    // kept; halves of whole heads and of parts of heads. Each in each type, on one card or another.
    let norms = [80, 640, 5120, 4098, 4099, 300_000].map(Small::Norm);
    let gates = [80, 13_824, 75].map(Small::Gate);
    let rotations = [(128, 64), (20, 10), (80, 16)].map(|(dim, half)| Small::Rotation { dim, half });
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
            let levels = [
                DeviceLevels::Zero(8),
                DeviceLevels::Zeros(bytes(groups)),
                DeviceLevels::Minimum(table(groups)),
                DeviceLevels::Blocks { width, zero: 8, integers: bytes(blocks), units: None },
                DeviceLevels::Blocks {
                    width,
                    zero: 8,
                    integers: bytes(2 * blocks),
                    units: Some(table(groups)),
                },
                DeviceLevels::Codebook { width: 1, books: 1, entries: table(1 << bits) },
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
    // Vectors that are narrower and wider than a read, codes that straddle words, several books.
    for (i, (bits, width, books)) in
        [(6, 2, 1), (12, 4, 1), (8, 8, 2), (16, 8, 1), (5, 1, 3), (1, 3, 1)].into_iter().enumerate()
    {
        for (j, shape) in
            [[16, 4096, 4080, 120], [2048, 4096, 4080, 120], [5, 70, 120, 48]].into_iter().enumerate()
        {
            let levels = DeviceLevels::Codebook { width, books, entries: table((books << bits) * width) };
            if ARCHITECTURES[(i + j) % 3] == device.architecture {
                launches.extend(product(shape, bits, levels, FLOATS[(i + 2 * j + i / 3) % 3]));
            }
        }
    }
    launches
}

/// A kernel between the products and its size.
enum Small {
    Norm(usize),
    Gate(usize),
    Rotation { dim: usize, half: usize },
}

impl Small {
    /// On inputs that may be overwritten and on such that may not.
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
                }
                Self::Gate(width) => {
                    for activation in [Activation::Silu, Activation::GeluTanh] {
                        elementwise::gate_mul(x(&[5, width]), x(&[5, width]), activation);
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

fn noises() -> impl Iterator<Item = Move> {
    [Distribution::Gaussian, Distribution::Rademacher].into_iter().flat_map(|kind| {
        [ScaleMode::Absolute, ScaleMode::Relative].map(|mode| {
            let direction = Direction { distribution: kind, mode, ..noise().direction };
            Move { direction, ..noise() }
        })
    })
}

fn noise() -> Move {
    let (kind, mode) = (Distribution::Gaussian, ScaleMode::Relative);
    Move { direction: Direction { distribution: kind, mode, seed: 1, probe: 0 }, coefficient: 0.5 }
}
