//! qzo fine-tunes quantized language models with forward passes only: zeroth-order optimization of the
//! quantization scales (QZO: Shang et al., arXiv 2505.13430).
//!
//! A weight is `scale · level(code)`. The codes stay as they are packed; only the scales are trained.
//! A step perturbs every scale by ±ε along a direction that is never stored, because it can be computed
//! from a seed wherever it is needed, and moves the scales along it by what the two losses say.
//!
//! The rooms, each importing only those above it (a test holds them to that):
//!
//! | room | what it owns |
//! |---|---|
//! | [`error`] | one typed error |
//! | [`lock`] | a file that one process at a time holds |
//! | [`durable`] | files and names that survive a power cut |
//! | [`zo`] | estimators, schedule, journal: scalars only |
//! | [`data`] | tokenizer, chat template, datasets, tasks, batches: knows no model |
//! | [`device`] | "cuda:0", "wgpu", "cpu" → a Burn backend that works here |
//! | [`kernels`] | packed products, attention and steps, on the CPU and in cubecl |
//! | [`quant`] | one matrix → a packed weight |
//! | [`checkpoint`] | files ↔ weights, one file per format |
//! | [`model`] | forward passes |
//! | [`generate`], [`calibrate`], [`eval`], [`memory`] | text and measurements from a model, its quantization block by block, and what it takes to hold one |
//! | [`train`] | the loop, the run directory, replay |
//! | [`config`] | every room's settings, read in one pass |
//! | [`cli`] | one file per subcommand; the only room that prints |
//!
//! One step: seed = f(run seed, step) → batch → loss at +ε and −ε through the same codes → estimator →
//! journal record, durable → the f32 scales move by the same seed → metrics, now and then an evaluation.

pub mod error;
pub mod storage;
pub mod rng;
pub mod packed;
pub mod zo;
pub mod data;
pub mod device;
pub mod arch;
pub mod kernels;
pub mod quant;
pub mod checkpoint;
pub mod model;
pub mod quantize;
pub mod generate;
pub mod eval;
pub mod train;
pub mod config;
pub mod app;
pub mod cli;
