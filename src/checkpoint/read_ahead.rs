//! Dense matrices, read piece by piece ahead of who uses them. One thread reads one file after the other into
//! buffers that are used again: a map would cost a fault for every few pages, which together take longer than the
//! disk does.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

use super::{Checkpoint, Source, float};
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::storage::pages;

/// Bytes of a piece, but for a row that is longer: enough that its parts are worth sharing among threads.
const PIECE: usize = if cfg!(test) { 1 << 10 } else { 8 << 20 };

/// Pieces that wait for their use: what is read while the last matrix is written.
const AHEAD: usize = 8;

/// Where a matrix lies: rows in the order of the file.
#[derive(Debug, Clone)]
struct Matrix {
    path: PathBuf,
    start: u64,
    dtype: FloatType,
    shape: [usize; 2],
}

/// Some rows of a matrix.
pub struct Piece {
    bytes: Vec<u8>,
    row_bytes: usize,
    dtype: FloatType,
}

impl Piece {
    pub fn rows(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    /// The values of some of the rows: as many as there is place for.
    pub fn decode(&self, rows: Range<usize>, values: &mut [f32]) {
        float::decode_into(
            self.dtype,
            &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes],
            values,
        );
    }
}

/// The pieces of some matrices, in the order in which they were asked for.
pub struct ReadAhead {
    pieces: Receiver<Result<Piece>>,
    used: Sender<Vec<u8>>,
}

impl ReadAhead {
    /// Begins to read.
    ///
    /// # Errors
    /// One of the tensors is no dense matrix of a directory.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        source: &Checkpoint,
        names: &[&String],
    ) -> Result<Self> {
        let forget = source.outgrows_cache();
        let matrices = names.iter().map(|name| source.matrix(name)).collect::<Result<Vec<_>>>()?;
        let (send, pieces) = sync_channel(AHEAD);
        let (used, free) = channel();
        scope.spawn(move || {
            if let Err(error) = read(&matrices, forget, &send, &free) {
                // Nobody waits for it: what is wrong was said elsewhere.
                let _ = send.send(Err(error));
            }
        });
        Ok(Self { pieces, used })
    }

    /// Hands the pieces of the next matrix, which has so many rows, to `each`.
    ///
    /// # Errors
    /// Those of `each`; the file ends too early, or the disk fails.
    pub fn next_matrix(&self, rows: usize, each: &mut dyn FnMut(&Piece) -> Result<()>) -> Result<()> {
        let mut left = rows;
        while left > 0 {
            let ended = || Error::invalid("reading ahead ended too early", "");
            let piece = self.pieces.recv().map_err(|_| ended())??;
            left = left.checked_sub(piece.rows()).ok_or_else(ended)?;
            each(&piece)?;
            // Not used again where the last piece was read.
            let _ = self.used.send(piece.bytes);
        }
        Ok(())
    }
}

/// Until the last piece is sent, or nobody takes the next.
fn read(
    matrices: &[Matrix],
    forget: bool,
    send: &SyncSender<Result<Piece>>,
    free: &Receiver<Vec<u8>>,
) -> Result<()> {
    let mut open: Option<(&Path, File)> = None;
    for Matrix { path, start, dtype, shape: [rows, width] } in matrices {
        let file = match &mut open {
            Some((of, file)) if of == path => file,
            other => &mut other.insert((path, File::open(path).map_err(Error::io(path, "opening"))?)).1,
        };
        let row_bytes = width * float::bytes_per_value(*dtype);
        let at_a_time = (PIECE / row_bytes.max(1)).max(1);
        file.seek(SeekFrom::Start(*start)).map_err(Error::io(path, "reading"))?;
        for first in (0..*rows).step_by(at_a_time) {
            let mut bytes = free.try_recv().unwrap_or_default();
            bytes.resize(row_bytes * at_a_time.min(rows - first), 0);
            file.read_exact(&mut bytes).map_err(Error::io(path, "reading"))?;
            if forget {
                let end = *start as usize + first * row_bytes + bytes.len();
                pages::uncache(file, end - bytes.len()..end);
            }
            if send.send(Ok(Piece { bytes, row_bytes, dtype: *dtype })).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

impl Checkpoint {
    pub(super) fn matrix_shape(&self, name: &str) -> Result<[usize; 2]> {
        let shape = self.shape(name)?;
        let wrong = || Error::tensor(self.path(), name, format!("expected a matrix, got shape {shape:?}"));
        <[usize; 2]>::try_from(&shape[..]).map_err(|_| wrong())
    }

    fn matrix(&self, name: &str) -> Result<Matrix> {
        let Source::HuggingFace(directory) = &self.source else { return Err(self.no_file()) };
        let shape = self.matrix_shape(name)?;
        let tensor = directory.shards().tensor(name)?;
        let start = directory.shards().position(name).map_or(0, |(_, range)| range.start as u64);
        Ok(Matrix { path: tensor.path.to_path_buf(), start, dtype: tensor.float_type()?, shape })
    }

    /// The names as the files have them: file by file, first to last.
    pub(super) fn sort_by_place(&self, names: &mut [&String]) {
        if let Source::HuggingFace(directory) = &self.source {
            names.sort_by_key(|name| {
                directory.shards().position(name).map(|(file, range)| (file, range.start))
            });
        }
    }
}
