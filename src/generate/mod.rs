//! Generates text token by token. Many prompts are continued together, so that the weights are read once for a token of
//! each; keys and values are kept from one token to the next.

mod batch;
mod growing;
mod options;
mod sampling;
mod stopped_text;
#[cfg(test)]
mod tests;

pub use batch::{generate, generate_batch, generation_work};
pub use options::{GenerateOptions, Generated, Stop};
