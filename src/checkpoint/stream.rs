//! Streams a source's tensors to a result in any format: while one tensor is quantized, the next is read and the one
//! before is written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::mpsc::sync_channel;

use super::opened::Checkpoint;
use super::read_ahead::{ReadAhead, RowChunk};
use crate::error::Result;
use crate::packed::PackedWeight;

/// The linears that are written packed, and their source.
pub struct Linears<'a, 'p> {
    /// Byte-sorted.
    pub names: &'a [String],
    pub packed: PackedLinears<'p>,
    /// The bytes of tensors that are not copied from the source. They have the type and the shape that they have there, and
    /// only a directory takes them.
    pub replaced: BTreeMap<String, Vec<u8>>,
    pub on_tensor: &'a mut dyn FnMut(Passed),
}

/// The source of packed linears, one at a time.
pub enum PackedLinears<'a> {
    /// Made from their names.
    Made(&'a mut dyn FnMut(&str) -> Result<PackedWeight>),
    /// Rounded from the rows of the source's dense linears, `[out, in]`.
    Rounded(&'a mut Round<'a>),
}

/// Packs the linear of a name and shape, given its rows.
pub type Round<'a> = dyn FnMut(&str, [usize; 2], &RowReader<'_>) -> Result<PackedWeight> + 'a;

/// Hands the rows of one matrix, first to last, to a function, a chunk at a time.
pub type RowReader<'a> = dyn Fn(&mut dyn FnMut(&RowChunk) -> Result<()>) -> Result<()> + 'a;

/// Progress: one of the source's tensors is written.
#[derive(Debug, Clone, Copy)]
pub struct Passed {
    /// The tensor's bytes in the source.
    pub bytes: u64,
    /// The bytes of all tensors in the source.
    pub of: u64,
    /// Whether an earlier process had written it.
    pub was_there: bool,
}

/// A result that is being written, tensor by tensor in any order.
pub trait Sink: Send {
    /// Whether a part of the tensor is still to be written. Never so for a tensor that the result does not have.
    fn is_due(&self, name: &str) -> bool;

    /// Writes a tensor of the source as it is.
    fn plain(&mut self, source: &Checkpoint, name: &str) -> Result<()>;

    /// Writes a linear.
    fn packed(&mut self, name: &str, packed: PackedWeight) -> Result<()>;

    /// Syncs everything to the disk. Returns the largest rounding of a minimum, in units of its scale (see
    /// `gguf::encode`).
    ///
    /// # Errors
    /// A tensor is still missing, or the disk failed.
    fn finish(self: Box<Self>) -> Result<f32>;
}

/// Writes all of the source's tensors. Reading has a thread of its own, and so has encoding and writing, so that neither
/// the disk nor the quantizer waits for the other. Returns the result of [`Sink::finish`].
///
/// # Errors
/// Those of `linears` and of the sink.
pub fn stream(
    source: &Checkpoint,
    mut sink: Box<dyn Sink + '_>,
    linears: &mut Linears<'_, '_>,
) -> Result<f32> {
    let bytes: HashMap<String, u64> = source.tensors().map(|t| (t.name, t.bytes as u64)).collect();
    let of = bytes.values().sum();
    let mut plain = source.plain_names();
    plain.retain(|name| linears.names.binary_search(name).is_err());
    let mut packed: Vec<&String> = linears.names.iter().collect();
    let is_rounded = matches!(linears.packed, PackedLinears::Rounded(_));
    if is_rounded {
        packed.sort_by_key(|name| source.store().position(name).map(|(file, range)| (file, range.start)));
    }
    let is_due = |name: &String| sink.is_due(name);
    let due: HashSet<&String> = plain.iter().chain(linears.names).filter(|name| is_due(name)).collect();
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel::<(&str, Option<PackedWeight>)>(1);
        let read: Vec<&String> =
            packed.iter().copied().filter(|name| is_rounded && due.contains(name)).collect();
        let ahead = ReadAhead::start(scope, source, &read)?;
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
        let mut next = |name: &str, ahead: &ReadAhead| match &mut linears.packed {
            PackedLinears::Made(packed) => packed(name),
            PackedLinears::Rounded(packed) => {
                let shape = source.matrix_shape(name)?;
                packed(name, shape, &|each| ahead.next_matrix(shape[0], each))
            }
        };
        let mut result = Ok(());
        let names = plain.iter().map(|name| (name, true)).chain(packed.into_iter().map(|name| (name, false)));
        for (name, is_plain) in names {
            if due.contains(name) {
                match if is_plain { Ok(None) } else { next(name, &ahead).map(Some) } {
                    Ok(packed) => {
                        // Where the writer has ended, joining it below gives its error.
                        if send.send((name, packed)).is_err() {
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
            let bytes = bytes.get(name).copied().unwrap_or(0);
            (linears.on_tensor)(Passed { bytes, of, was_there: !due.contains(name) });
        }
        // Both threads end once these are gone.
        drop((send, ahead));
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.and(written)
    })
}
