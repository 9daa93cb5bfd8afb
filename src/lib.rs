//! qzo fine-tunes quantized language models in the memory of inference: it trains the quantization scales and leaves
//! the packed codes as they are. The tuned model is written in the format it came in.
//!
//! A weight is `scale · level(code)`. There are two methods of training. *Exact gradients*: the forward pass keeps the
//! inputs of the decoder blocks alone; the backward pass computes one block at a time again, with the gradients of its
//! scales, which move at once. *Zeroth order* (QZO: Shang et al., arXiv 2505.13430): a step perturbs every scale by ±ε
//! along a direction that is never stored, because it can be computed from a seed wherever it is needed; the difference of
//! the two losses decides how far the scales move along the direction.
//!
//! # Use
//!
//! Whole jobs are functions of this crate: [`quantize()`], [`plan()`], [`finetune()`], [`evaluate()`],
//! [`replay()`]. Each reports its events to a function and prints nothing.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let rows = folder.path().join("rows.jsonl");
//! # let row = |i: u32| format!("{{\"text\": \"film number {i}\", \"label\": {}}}\n", i % 2);
//! # std::fs::write(&rows, (0..16).map(row).collect::<String>())?;
//! let mut config = qzo::Config {
//!     model: "tests/fixtures/runs/q4_1.gguf".into(),
//!     output_dir: folder.path().join("run"),
//!     ..Default::default()
//! };
//! config.data.train = Some(rows.into());
//! config.data.prompt = Some("{text} It was".into());
//! config.data.choices = Some(vec![" bad".into(), " good".into()]);
//! (config.train.max_steps, config.train.batch_size) = (3, 4);
//!
//! let report = qzo::finetune(&config, &mut |event| println!("{event:?}"))?;
//! assert_eq!(report.steps, 3);
//! assert!(folder.path().join("run/final/q4_1.gguf").exists());
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! A module imports only modules above it in this table, and the files inside a module do not import each other in a
//! circle. Tests check both rules.
//!
//! | module | contents |
//! |---|---|
//! | [`error`] | the error type |
//! | [`storage`] | files that survive a power cut; locks, maps |
//! | [`rng`] | Philox, and the one list of its streams |
//! | [`packed`] | the packed weight: one description for every quantized format |
//! | [`zo`] | directions, estimators, schedules, the journal: scalars only |
//! | [`data`] | tokenizers, chat templates, datasets, tasks, batches: knows no model |
//! | [`device`] | "cuda:0", "wgpu", "cpu" → a Burn backend that works here |
//! | [`arch`] | the description of a model: its sizes, its tensors, `config.json` |
//! | [`kernels`] | products with packed weights, attention, their backward passes and updates of scales, on the CPU and in cubecl |
//! | [`quant`] | one matrix → a packed weight |
//! | [`checkpoint`] | files ↔ weights, one file per format |
//! | [`model`] | forward and backward passes, and the memory they take |
//! | [`mod@quantize`] | a whole model → its quantized checkpoint, by rounding or calibration |
//! | [`generate`], [`eval`] | text and measurements from a model |
//! | [`train`] | objective, step, loop, run directory, replay |
//! | [`config`] | every module's settings, read in one pass |
//! | [`app`] | whole jobs, as functions |
//! | [`cli`] | one file per subcommand; the only module that prints |
//!
//! One training step: seed = f(run seed, step) → batch → loss at +ε and −ε through the same codes → estimator →
//! journal record, durable → the f32 scales move along the same direction → event → metrics and, at intervals, an
//! evaluation. With exact gradients: batch → loss → block by block from the last, gradient → optimizer → the block's scales
//! move → journal record, durable → event. A resumed run takes the steps since its last snapshot again.

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

pub use app::{
    Evaluation, Event, Finetune, FinetuneReport, Measure, PlanReport, Quantize, QuantizeReport, Replay,
    evaluate, finetune, plan, quantize, replay,
};
pub use config::Config;
pub use error::{Error, Result};
