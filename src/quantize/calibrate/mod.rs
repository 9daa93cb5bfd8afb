//! Quantizes a model block by block on what flows through it: every linear sees the inputs that the already
//! quantized part of the model gives it (Frantar et al. 2022: "true sequential").
//!
//! ```text
//! for each block      next block's pages asked for; dense block onto the device
//!   for each stage    q | k,v | o | gate,up | down
//!     all samples through the part before it; Σ xᵀx of its inputs
//!     its linears quantized on the host, and put into the block
//!   all samples through the rest; the block's linears saved
//! ```
//!
//! One block is on the device at a time, and the samples' hidden states are in memory or in a file.

mod hidden;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::Workspace;
use crate::arch::ModelConfig;
use crate::checkpoint::Checkpoint;
use crate::device::host;
use crate::error::{Error, Result};
use crate::model::{BlockByBlock, Rows, Stage, Step};
use crate::packed::PackedWeight;
use crate::quant::{self, Options, OutputError};
use hidden::Hidden;

/// Tokens that go through a block together, unless one sample alone has more.
const TOKENS_PER_PASS: usize = 4096;

/// What is done to which model.
#[derive(Clone, Copy)]
pub struct Calibration<'a> {
    pub checkpoint: &'a Checkpoint,
    /// Token ids.
    pub samples: &'a [Vec<u32>],
    pub options: Options,
    pub workspace: &'a Workspace,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// An earlier run had come this far.
    Resumed { blocks: usize },
    /// A linear is done.
    Linear(LinearReport),
    /// A block is done; `error` is the mean of its linears'.
    Block { done: usize, of: usize, error: OutputError },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinearReport {
    pub name: String,
    pub error: OutputError,
}

/// Bytes of host memory that calibration takes at its widest, hidden states apart: two blocks as they are
/// stored, and what the widest linear needs in f64.
fn working_bytes(config: &ModelConfig) -> u64 {
    let (mut block, mut widest) = (0, 0);
    for linear in config.linears(0) {
        let [out, input] = linear.shape.map(|features| features as u64);
        block += 4 * out * input;
        // The Gram matrix on the device and on the host in f32, its factor and the inverse in f64, the weight
        // in f32 and its codes.
        widest = widest.max((4 + 4 + 8 + 8) * input * input + 8 * out * input);
    }
    let wide =
        config.hidden_size + config.num_attention_heads * config.head_dim + 3 * config.intermediate_size;
    2 * block + widest + (4 * TOKENS_PER_PASS * wide) as u64
}

/// Whether this machine has the memory, before anything is done.
///
/// # Errors
/// It does not.
pub fn check_memory(checkpoint: &Checkpoint) -> Result<()> {
    fits(working_bytes(checkpoint.config()), host::available())
}

fn fits(needed: u64, available: Option<u64>) -> Result<()> {
    match available {
        Some(available) if needed > available => Err(Error::invalid(
            format!(
                "calibration needs {:.1} GB of memory beside the samples, and {:.1} GB are free",
                needed as f64 / 1e9,
                available as f64 / 1e9
            ),
            "close other programs, or use --method rtn, which needs one weight at a time",
        )),
        _ => Ok(()),
    }
}

impl Calibration<'_> {
    /// Quantizes every linear of every block into the workspace.
    ///
    /// # Errors
    /// What the device, the disk or a quantizer reports; what was finished stays in the workspace.
    pub fn run(&self, model: &mut dyn BlockByBlock, on_event: &mut dyn FnMut(Event)) -> Result<()> {
        let of = self.checkpoint.config().num_hidden_layers;
        let finished = (0..of).take_while(|block| self.workspace.is_finished(*block)).count();
        if finished == of {
            on_event(Event::Resumed { blocks: of });
            return Ok(());
        }
        let mut hidden = self.embed(model)?;
        if finished > 0 {
            on_event(Event::Resumed { blocks: finished });
        }
        for block in 0..of {
            self.checkpoint.prefetch(&self.checkpoint.config().block_prefix(block + 1));
            model.enter(block)?;
            if block < finished {
                for (name, weight) in self.workspace.load(block)? {
                    if self.checkpoint.shape(&name)? != [weight.out_features, weight.in_features] {
                        return Err(Error::tensor(
                            self.workspace.path(),
                            name,
                            "is not of the model's shape",
                        ));
                    }
                    model.replace(&name, weight)?;
                }
                self.advance(model, Step::Through, &mut hidden)?;
                continue;
            }
            let linears = self.quantize(model, &mut hidden, on_event)?;
            if block + 1 < of {
                self.advance(model, Step::Finish, &mut hidden)?;
            }
            let error = mean(&linears);
            let weights: Vec<_> = linears.into_iter().map(|(report, packed)| (report.name, packed)).collect();
            self.workspace.save(block, &weights)?;
            self.checkpoint.release();
            on_event(Event::Block { done: block + 1, of, error });
        }
        Ok(())
    }

    fn quantize(
        &self,
        model: &mut dyn BlockByBlock,
        hidden: &mut Hidden,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Vec<(LinearReport, PackedWeight)>> {
        let mut done = vec![];
        for stage in Stage::ALL {
            // Queries, keys and values may be one linear.
            if model.linears(stage).is_empty() {
                continue;
            }
            self.advance(model, Step::To(stage), hidden)?;
            let gram = model.take_gram()?;
            for name in model.linears(stage) {
                let (packed, error) = self.linear(&name, &gram)?;
                model.replace(&name, packed.clone())?;
                let report = LinearReport { name, error };
                on_event(Event::Linear(report.clone()));
                done.push((report, packed));
            }
        }
        Ok(done)
    }

    fn linear(&self, name: &str, gram: &[f32]) -> Result<(PackedWeight, OutputError)> {
        let (shape, weight) = (self.checkpoint.shape(name)?, self.checkpoint.dense(name)?);
        let &[out, input] = &shape[..] else {
            return Err(Error::tensor(self.checkpoint.path(), name, format!("is no matrix: {shape:?}")));
        };
        quant::calibrate(&weight, [out, input], self.options, gram)
            .map_err(|error| Error::invalid(format!("{name}: {error}"), error.help().unwrap_or_default()))
    }

    fn embed(&self, model: &dyn BlockByBlock) -> Result<Hidden> {
        let config = self.checkpoint.config();
        let tokens = self.samples.iter().map(Vec::len).sum();
        let widths = [config.hidden_size, config.num_attention_heads * config.head_dim];
        let mut hidden = Hidden::new(tokens, widths, working_bytes(config), self.workspace.path())?;
        let mut row = 0;
        for sample in self.samples {
            let embedded = model.embed(sample)?;
            let rows = hidden.rows(row..row + sample.len());
            rows.0.copy_from_slice(&embedded);
            row += sample.len();
        }
        Ok(hidden)
    }

    fn advance(&self, model: &mut dyn BlockByBlock, step: Step, hidden: &mut Hidden) -> Result<()> {
        let mut rest = self.samples;
        let mut row = 0;
        while let Some(first) = rest.first() {
            let mut tokens = first.len();
            let more = rest[1..].iter().take_while(|sample| {
                tokens += sample.len();
                tokens <= TOKENS_PER_PASS
            });
            let (now, later) = rest.split_at(1 + more.count());
            let lengths: Vec<usize> = now.iter().map(Vec::len).collect();
            let end = row + lengths.iter().sum::<usize>();
            let (hidden, attended) = hidden.rows(row..end);
            model.advance(step, Rows { hidden, attended, lengths: &lengths })?;
            (rest, row) = (later, end);
        }
        Ok(())
    }
}

fn mean(linears: &[(LinearReport, PackedWeight)]) -> OutputError {
    let mean = |of: fn(&OutputError) -> f64| {
        linears.iter().map(|(report, _)| of(&report.error)).sum::<f64>() / linears.len().max(1) as f64
    };
    OutputError { nearest: mean(|error| error.nearest), feedback: mean(|error| error.feedback) }
}
