//! The hidden states of all samples between two passes.

use std::ops::Range;
use std::path::Path;

use memmap2::MmapMut;

use crate::device::host;
use crate::error::{Error, Result};

/// Two tables of f32, a row for each token: in memory, or in a file where that is short.
pub struct Hidden {
    tables: [MmapMut; 2],
    widths: [usize; 2],
}

impl Hidden {
    /// `beside`: bytes of memory that are needed for other things. A file lies in `directory`, nameless.
    ///
    /// # Errors
    /// Neither the memory nor the disk has the room.
    pub fn new(tokens: usize, widths: [usize; 2], beside: u64, directory: &Path) -> Result<Self> {
        let bytes = widths.map(|width| tokens * width * size_of::<f32>());
        let in_memory = host::available().is_none_or(|free| (bytes[0] + bytes[1]) as u64 + beside < free);
        let [first, second] =
            bytes.map(|bytes| if in_memory { anonymous(bytes) } else { mapped(bytes, directory) });
        tracing::info!(bytes = bytes[0] + bytes[1], in_memory, "hidden states");
        Ok(Self { tables: [first?, second?], widths })
    }

    /// Of some tokens.
    pub fn rows(&mut self, rows: Range<usize>) -> (&mut [f32], &mut [f32]) {
        let [first, second] = &mut self.tables;
        let [first, second] = [first, second].map(|table| bytemuck::cast_slice_mut(table));
        let part = |width: usize| rows.start * width..rows.end * width;
        (&mut first[part(self.widths[0])], &mut second[part(self.widths[1])])
    }
}

fn anonymous(bytes: usize) -> Result<MmapMut> {
    MmapMut::map_anon(bytes).map_err(Error::io("memory", "taking room for the hidden states of all samples"))
}

fn mapped(bytes: usize, directory: &Path) -> Result<MmapMut> {
    let file = tempfile::tempfile_in(directory).map_err(Error::io(directory, "creating a file in"))?;
    // Room is taken at once: a full disk would be a signal later, at some write to the map.
    allocate(&file, bytes as u64)
        .map_err(Error::io(directory, "taking room for all samples' hidden states in"))?;
    // SAFETY: the file has no name, so that nobody else can open or shorten it.
    unsafe { MmapMut::map_mut(&file) }.map_err(Error::io(directory, "mapping a file in"))
}

fn allocate(file: &std::fs::File, bytes: u64) -> std::io::Result<()> {
    file.set_len(bytes)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: takes no pointers; the descriptor is open as long as `file` is borrowed.
        let refused = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) };
        // Some file systems cannot; there the map is as good as any.
        if refused != 0 && refused != libc::EOPNOTSUPP {
            return Err(std::io::Error::from_raw_os_error(refused));
        }
    }
    Ok(())
}
