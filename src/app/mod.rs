//! Whole jobs as functions, which the command line and other programs call. Each takes its settings and a function that
//! receives events, and returns a report. Nothing here prints.
//!
//! ```text
//! finetune   trains the scales of a model on a task; base makes the quantized model of a run whose model is dense
//! quantize   quantizes a dense checkpoint
//! plan       computes the memory that a run needs, before anything is loaded
//! evaluate   measures a model on a task (measure_task), a text or given sequences
//! generate   generates text
//! replay     rebuilds the tuned checkpoint of a run from its base model and journal
//! export     writes a quantized model in another format
//! scales     exports the tuned scales of a run alone, and applies them to its base model
//! bench      times training steps and matrix products
//! event      the events of all jobs
//! record     what a run writes down about itself, answers some dev rows and what the model makes of them
//! report     makes a page of that and of the metrics
//! inputs     the recipe, model and rows of a run: finetune, plan and bench begin with them; data reads the rows
//! open       opens models, texts and tokenizers by their names
//! output     checks the name of an output
//! ```

mod answers;
mod base;
pub mod bench;
mod data;
pub mod evaluate;
mod event;
pub mod export;
mod finetune;
pub mod generate;
mod inputs;
mod measure_task;
pub mod open;
mod output;
mod plan;
mod quantize;
mod record;
mod replay;
pub mod report;
pub mod scales;

pub use evaluate::{Evaluation, Measure, evaluate};
pub use event::{Event, OnEvent};
pub use finetune::{Finetune, FinetuneReport, finetune};
pub use measure_task::TaskMeasure;
pub use plan::{PlanReport, plan};
pub use quantize::{Quantize, QuantizeReport, quantize};
pub use replay::{Replay, replay};
