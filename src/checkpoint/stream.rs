//! From a source's tensors to what is being written, whatever its format: the next tensor is read ahead, one is
//! quantized, and the one before is written.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::sync_channel;

use super::Checkpoint;
use super::read_ahead::{Piece, ReadAhead};
use crate::error::Result;
use crate::packed::PackedWeight;

/// The linears that are written packed: their names, byte-sorted, and where they come from, one at a time.
pub struct Linears<'a, 'p> {
    pub names: &'a [String],
    pub packed: Packed<'p>,
    pub on_tensor: &'a mut dyn FnMut(Passed),
}

pub enum Packed<'a> {
    /// By their names.
    Made(&'a mut dyn FnMut(&str) -> Result<PackedWeight>),
    /// From the rows of the source's dense ones, `[out, in]`.
    Rounded(&'a mut Round<'a>),
}

/// Gives the packed form of the linear of a name and shape from its rows.
pub type Round<'a> = dyn FnMut(&str, [usize; 2], &Rows<'_>) -> Result<PackedWeight> + 'a;

/// Hands the rows of one matrix, first to last, to a function that takes some of them at a time.
pub type Rows<'a> = dyn Fn(&mut dyn FnMut(&Piece) -> Result<()>) -> Result<()> + 'a;

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

/// Reads ahead, and encodes and writes, on threads of their own, so that neither the disk nor the quantizer waits
/// for the other.
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
    let is_rounded = matches!(linears.packed, Packed::Rounded(_));
    if is_rounded {
        source.sort_by_place(&mut packed);
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
            Packed::Made(packed) => packed(name),
            Packed::Rounded(packed) => {
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
                        // A writer that is gone says why where it is joined.
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
        // Both threads end with what they take from here.
        drop((send, ahead));
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.and(written)
    })
}
