//! Reads dense matrices ahead of their use, in chunks of rows. One thread reads one file after the other into buffers
//! that are used again: a map would cost a page fault for every few pages, which together take longer than the disk.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

use super::float;
use super::opened::Checkpoint;
use super::weight::Layout;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::storage::pages;

/// Bytes per chunk (a longer row is a chunk of its own), large enough to be split among threads.
const CHUNK_BYTES: usize = if cfg!(test) { 1 << 10 } else { 8 << 20 };

/// Chunks that wait for their use: they are read while the last matrix is written.
const AHEAD: usize = 8;

/// The place of a matrix in its file.
#[derive(Debug, Clone)]
struct MatrixPlace {
    path: PathBuf,
    start: u64,
    dtype: FloatType,
    shape: [usize; 2],
}

/// Neighbouring rows of a matrix.
pub struct RowChunk {
    bytes: Vec<u8>,
    row_bytes: usize,
    dtype: FloatType,
}

impl RowChunk {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    /// Converts some of its rows to f32; `values` has their length.
    pub fn decode(&self, rows: Range<usize>, values: &mut [f32]) {
        float::decode_into(
            self.dtype,
            &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes],
            values,
        );
    }
}

/// The chunks of some matrices, in the order in which they were asked for.
pub struct ReadAhead {
    chunks: Receiver<Result<RowChunk>>,
    /// Buffers to be used again.
    used: Sender<Vec<u8>>,
}

impl ReadAhead {
    /// Starts to read the matrices of these names.
    ///
    /// # Errors
    /// One of the tensors is no dense matrix of a directory.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        source: &Checkpoint,
        names: &[&String],
    ) -> Result<Self> {
        let forget = source.outgrows_cache();
        let matrices = names.iter().map(|name| place(source, name)).collect::<Result<Vec<_>>>()?;
        let (send, chunks) = sync_channel(AHEAD);
        let (used, free) = channel();
        scope.spawn(move || {
            if let Err(error) = read(&matrices, forget, &send, &free) {
                // Where nobody receives it, another error was reported already.
                let _ = send.send(Err(error));
            }
        });
        Ok(Self { chunks, used })
    }

    /// Hands the chunks of the next matrix, which has `rows` rows, to `each`.
    ///
    /// # Errors
    /// Those of `each`; the file ends too early, or the disk fails.
    pub fn next_matrix(&self, rows: usize, each: &mut dyn FnMut(&RowChunk) -> Result<()>) -> Result<()> {
        let mut left = rows;
        while left > 0 {
            let ended = || Error::internal("reading ahead ended too early");
            let chunk = self.chunks.recv().map_err(|_| ended())??;
            left = left.checked_sub(chunk.rows()).ok_or_else(ended)?;
            each(&chunk)?;
            // Fails where the last chunk was read: nobody needs the buffer then.
            let _ = self.used.send(chunk.bytes);
        }
        Ok(())
    }
}

/// Reads until the last chunk is sent, or nobody receives the next.
fn read(
    matrices: &[MatrixPlace],
    forget: bool,
    send: &SyncSender<Result<RowChunk>>,
    free: &Receiver<Vec<u8>>,
) -> Result<()> {
    let mut open: Option<(&Path, File)> = None;
    for MatrixPlace { path, start, dtype, shape: [rows, width] } in matrices {
        let file = match &mut open {
            Some((of, file)) if of == path => file,
            other => &mut other.insert((path, File::open(path).map_err(Error::io(path, "opening"))?)).1,
        };
        let row_bytes = width * float::bytes_per_value(*dtype);
        let at_a_time = (CHUNK_BYTES / row_bytes.max(1)).max(1);
        file.seek(SeekFrom::Start(*start)).map_err(Error::io(path, "reading"))?;
        for first in (0..*rows).step_by(at_a_time) {
            let mut bytes = free.try_recv().unwrap_or_else(|_| Vec::new());
            bytes.resize(row_bytes * at_a_time.min(rows - first), 0);
            file.read_exact(&mut bytes).map_err(Error::io(path, "reading"))?;
            if forget {
                let end = *start as usize + first * row_bytes + bytes.len();
                pages::uncache(file, end - bytes.len()..end);
            }
            if send.send(Ok(RowChunk { bytes, row_bytes, dtype: *dtype })).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// # Errors
/// The tensor is no dense matrix, or not to be read ahead.
fn place(source: &Checkpoint, name: &str) -> Result<MatrixPlace> {
    let wrong = |what: &str| Error::tensor(source.path(), name, what);
    let shape = source.matrix_shape(name)?;
    let Layout::Dense(dtype) = source.layout(name)? else { return Err(wrong("is quantized")) };
    let position = source.store().position(name);
    let found = position.and_then(|(file, range)| Some((source.store().files().get(file)?, range.start)));
    let (file, start) = found.ok_or_else(|| wrong("is in no file"))?;
    Ok(MatrixPlace { path: file.path.clone(), start: start as u64, dtype, shape })
}
