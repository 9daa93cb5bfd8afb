//! Tasks: how a row of a dataset becomes a question with candidates, a prompt with its completion, a chat, a text, or a
//! question whose answer is generated.

mod builtin;
mod config;
mod example;
mod format;
mod label;
mod prompt;
mod task;
#[cfg(test)]
mod tests;

pub use builtin::Builtin;
pub use config::TaskConfig;
pub use example::Example;
pub use format::RowFormat;
pub use prompt::PromptTemplate;
pub use task::Task;
