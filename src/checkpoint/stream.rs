//! From a source's tensors to what is being written, whatever its format: the next tensor is read ahead, one is
//! quantized, and the one before is written.

use std::collections::HashMap;
use std::sync::mpsc::sync_channel;

use super::Checkpoint;
use crate::error::Result;
use crate::kernels::packed::PackedWeight;

/// The linears that are written packed: their names, byte-sorted, and one at a time.
pub struct Linears<'a> {
    pub names: &'a [String],
    pub packed: &'a mut dyn FnMut(&str) -> Result<PackedWeight>,
    pub on_tensor: &'a mut dyn FnMut(Passed),
}

/// One of the source's tensors is written.
#[derive(Debug, Clone, Copy)]
pub struct Passed {
    /// In the source.
    pub bytes: u64,
    /// Of all tensors.
    pub of: u64,
    /// By an earlier process.
    pub was_there: bool,
}

/// What is being written, tensor by tensor in any order.
pub trait Sink: Send {
    /// Whether something of the tensor is still to be written. What the result does not have never is.
    fn is_due(&self, name: &str) -> bool;

    /// As it is.
    fn plain(&mut self, source: &Checkpoint, name: &str) -> Result<()>;

    fn packed(&mut self, name: &str, packed: PackedWeight) -> Result<()>;

    /// Everything is on the disk. Gives how far a minimum was rounded at most, in units of its scale (see
    /// `gguf::encode`).
    ///
    /// # Errors
    /// A tensor is still missing, or the disk failed.
    fn finish(self: Box<Self>) -> Result<f32>;
}

/// Encodes and writes on a thread of its own, so that neither the disk nor the quantizer waits for the other.
///
/// # Errors
/// Those of `linears` and of the sink.
pub fn stream(source: &Checkpoint, mut sink: Box<dyn Sink + '_>, linears: &mut Linears<'_>) -> Result<f32> {
    let is_linear = |name: &String| linears.names.binary_search(name).is_ok();
    let bytes: HashMap<String, u64> = source.tensors().map(|t| (t.name, t.bytes as u64)).collect();
    let of = bytes.values().sum();
    let plain: Vec<String> = source.plain_names().into_iter().filter(|name| !is_linear(name)).collect();
    let names: Vec<&String> = plain.iter().chain(linears.names).collect();
    let due: Vec<bool> = names.iter().map(|name| sink.is_due(name)).collect();
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel::<(&str, Option<PackedWeight>)>(1);
        let writer = scope.spawn(move || {
            for (name, packed) in receive {
                match packed {
                    Some(packed) => sink.packed(name, packed)?,
                    None => sink.plain(source, name)?,
                }
                source.forget(name);
            }
            sink.finish()
        });
        let mut result = Ok(());
        for (i, (name, is_due)) in names.iter().zip(&due).enumerate() {
            if let Some(next) = names.get(i + 1) {
                source.prefetch(next);
            }
            if *is_due {
                match is_linear(name).then(|| (linears.packed)(name)).transpose() {
                    Ok(packed) => {
                        // A writer that is gone says why where it is joined.
                        if send.send((*name, packed)).is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            source.release();
            let bytes = bytes.get(*name).copied().unwrap_or(0);
            (linears.on_tensor)(Passed { bytes, of, was_there: !is_due });
        }
        drop(send);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.and(written)
    })
}
