//! The functions a program calls: whole jobs, as the command line runs them. Each takes its settings and a function
//! that receives events, and returns a report. Nothing here prints.
//!
//! ```text
//! finetune   train the scales of a model on a task; base is the quantized model that a run makes for itself
//! quantize   a dense checkpoint to a quantized one
//! plan       the memory a run needs, before anything is loaded
//! evaluate   a task, a perplexity, or the likelihood of given sequences
//! generate   text from a model
//! replay     the tuned checkpoint of a run, from its base model and its journal
//! export     a quantized model in another format
//! bench      the time of steps and of products
//! event      the events of all of them
//! open, data   from names of models and files to what the jobs work on
//! ```

mod base;
pub mod bench;
mod data;
pub mod evaluate;
mod event;
pub mod export;
mod finetune;
pub mod generate;
pub mod open;
mod output;
mod plan;
mod quantize;
mod replay;

pub use evaluate::{Evaluation, Measure, evaluate};
pub use event::{Event, OnEvent};
pub use finetune::{Finetune, FinetuneReport, finetune};
pub use plan::{PlanReport, plan};
pub use quantize::{Quantize, QuantizeReport, quantize};
pub use replay::{Replay, replay};
