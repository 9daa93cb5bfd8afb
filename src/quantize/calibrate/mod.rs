//! Quantizes a model block by block, calibrated on samples of text. Every linear is calibrated on the inputs that the
//! already quantized part of the model gives it (Frantar et al. 2022: "true sequential").
//!
//! ```text
//! for each block      prefetch the next block's file pages; load the dense block onto the device
//!   for each stage    q | k,v | o | gate,up | down
//!     run all samples up to the stage; sum up xᵀx of its inputs
//!     quantize its linears on the host, and put them into the block
//!   run all samples to the end of the block; save its linears
//! ```
//!
//! One block is on the device at a time. The samples' hidden states are in memory or in a file.

mod hidden;
#[cfg(test)]
mod tests;

use super::event::{LinearReport, QuantizeEvent};
use super::workspace::Workspace;
use crate::checkpoint::Checkpoint;
use crate::device::host;
use crate::error::{Error, Result};
use crate::model::{BlockByBlock, BlockPass, CalibrationStage, SampleRows, memory};
use crate::packed::PackedWeight;
use crate::quant::{self, OutputError, QuantOptions};
use hidden::Hidden;

/// Largest number of tokens that go through a block together, unless a single sample has more.
const TOKENS_PER_PASS: usize = 4096;

/// A calibration of a model.
#[derive(Clone, Copy)]
pub struct Calibration<'a> {
    pub checkpoint: &'a Checkpoint,
    /// Token ids of each sample.
    pub samples: &'a [Vec<u32>],
    pub options: QuantOptions,
    pub workspace: &'a Workspace,
}

/// Checks that this machine has enough free memory to calibrate the model.
///
/// # Errors
/// It has not.
pub fn check_memory(checkpoint: &Checkpoint) -> Result<()> {
    fits(memory::calibration_bytes(checkpoint.config(), TOKENS_PER_PASS), host::available())
}

fn fits(needed: u64, available: Option<u64>) -> Result<()> {
    match available {
        Some(available) if needed > available => Err(Error::invalid(
            format!(
                "calibration needs {:.1} GB of memory without the samples, but {:.1} GB are free",
                needed as f64 / 1e9,
                available as f64 / 1e9
            ),
            "close other programs, or use --method rtn, which has only one weight in memory at a time",
        )),
        _ => Ok(()),
    }
}

impl Calibration<'_> {
    /// Quantizes every linear of every block into the workspace.
    ///
    /// # Errors
    /// The device, the disk or a quantizer fails; finished blocks stay in the workspace.
    pub fn run(&self, model: &mut dyn BlockByBlock, on_event: &mut dyn FnMut(QuantizeEvent)) -> Result<()> {
        let blocks = self.checkpoint.config().num_hidden_layers;
        let finished = (0..blocks).take_while(|block| self.workspace.is_finished(*block)).count();
        on_event(QuantizeEvent::Begins { done: finished, of: blocks });
        if finished == blocks {
            return Ok(());
        }
        let mut hidden = self.embed(model)?;
        for block in 0..blocks {
            self.checkpoint.prefetch(&self.checkpoint.config().block_prefix(block + 1));
            model.enter(block)?;
            if block < finished {
                for (name, weight) in self.workspace.load(block)? {
                    if self.checkpoint.shape(&name)? != [weight.out_features, weight.in_features] {
                        let what = "its shape differs from that of the model's weight";
                        return Err(Error::tensor(self.workspace.path(), name, what));
                    }
                    model.replace(&name, weight)?;
                }
                self.advance(model, BlockPass::Through, &mut hidden)?;
                continue;
            }
            let linears = self.quantize(model, &mut hidden, on_event)?;
            if block + 1 < blocks {
                self.advance(model, BlockPass::Finish, &mut hidden)?;
            }
            let error = mean(&linears);
            let weights: Vec<_> = linears.into_iter().map(|(report, packed)| (report.name, packed)).collect();
            self.workspace.save(block, &weights)?;
            self.checkpoint.release();
            on_event(QuantizeEvent::Block { done: block + 1, of: blocks, error });
        }
        Ok(())
    }

    /// Quantizes the linears of the current block, stage by stage.
    fn quantize(
        &self,
        model: &mut dyn BlockByBlock,
        hidden: &mut Hidden,
        on_event: &mut dyn FnMut(QuantizeEvent),
    ) -> Result<Vec<(LinearReport, PackedWeight)>> {
        let mut done = vec![];
        for stage in CalibrationStage::ALL {
            // If queries, keys and values are one linear, one of their stages has none.
            if model.linears(stage).is_empty() {
                continue;
            }
            self.advance(model, BlockPass::To(stage), hidden)?;
            let gram = model.take_gram()?;
            for name in model.linears(stage) {
                let (packed, error) = self.linear(&name, &gram)?;
                model.replace(&name, packed.clone())?;
                let report = LinearReport { name, error };
                on_event(QuantizeEvent::Linear(report.clone()));
                done.push((report, packed));
            }
        }
        Ok(done)
    }

    fn linear(&self, name: &str, gram: &[f32]) -> Result<(PackedWeight, OutputError)> {
        let (shape, weight) = (self.checkpoint.shape(name)?, self.checkpoint.dense(name)?);
        let &[out, input] = &shape[..] else {
            return Err(Error::internal(format!("{name} is not a matrix: its shape is {shape:?}")));
        };
        quant::calibrate(&weight, [out, input], self.options, gram).map_err(|error| error.about(name))
    }

    /// Embeds all samples.
    fn embed(&self, model: &dyn BlockByBlock) -> Result<Hidden> {
        let config = self.checkpoint.config();
        let tokens = self.samples.iter().map(Vec::len).sum();
        let widths = [config.hidden_size, config.num_attention_heads * config.head_dim];
        let mut hidden = Hidden::new(
            tokens,
            widths,
            memory::calibration_bytes(config, TOKENS_PER_PASS),
            self.workspace.path(),
        )?;
        let mut row = 0;
        for sample in self.samples {
            let embedded = model.embed(sample)?;
            let rows = hidden.rows(row..row + sample.len());
            rows.0.copy_from_slice(&embedded);
            row += sample.len();
        }
        Ok(hidden)
    }

    /// Runs a part of the current block on all samples, several at a time.
    fn advance(&self, model: &mut dyn BlockByBlock, part: BlockPass, hidden: &mut Hidden) -> Result<()> {
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
            model.advance(part, SampleRows { hidden, attended, lengths: &lengths })?;
            (rest, row) = (later, end);
        }
        Ok(())
    }
}

fn mean(linears: &[(LinearReport, PackedWeight)]) -> OutputError {
    let mean = |field: fn(&OutputError) -> f64| {
        linears.iter().map(|(report, _)| field(&report.error)).sum::<f64>() / linears.len().max(1) as f64
    };
    OutputError { nearest: mean(|error| error.nearest), feedback: mean(|error| error.feedback) }
}
