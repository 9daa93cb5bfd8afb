//! The hidden states of all samples between two parts of a pass.

use std::ops::Range;
use std::path::Path;

use memmap2::MmapMut;

use crate::device::host;
use crate::error::Result;
use crate::storage::scratch;

/// Two f32 tables with a row for each token. They are in memory or, if memory is short, in a mapped file.
pub struct Hidden {
    tables: [MmapMut; 2],
    widths: [usize; 2],
}

impl Hidden {
    /// Allocates the tables: in memory, if `other_bytes` for other purposes also fit, else in a nameless file in
    /// `directory`.
    ///
    /// # Errors
    /// Neither the memory nor the disk has enough space.
    pub fn new(tokens: usize, widths: [usize; 2], other_bytes: u64, directory: &Path) -> Result<Self> {
        Self::with_available(host::available(), tokens, widths, other_bytes, directory)
    }

    /// Like [`Self::new`], with `available` bytes of free memory; `None`: the number is unknown.
    fn with_available(
        available: Option<u64>,
        tokens: usize,
        widths: [usize; 2],
        other_bytes: u64,
        directory: &Path,
    ) -> Result<Self> {
        let bytes = widths.map(|width| tokens * width * size_of::<f32>());
        let needed = other_bytes.saturating_add((bytes[0] + bytes[1]) as u64);
        let in_memory = available.is_none_or(|available| needed < available);
        let [first, second] = bytes.map(|bytes| match in_memory {
            true => scratch::anonymous(bytes, "reserving memory for all samples' hidden states"),
            false => scratch::mapped(bytes, directory, "reserving space for all samples' hidden states in"),
        });
        tracing::info!(bytes = bytes[0] + bytes[1], in_memory, "hidden states");
        Ok(Self { tables: [first?, second?], widths })
    }

    /// The rows of some tokens in both tables.
    pub fn rows(&mut self, rows: Range<usize>) -> (&mut [f32], &mut [f32]) {
        let [first, second] = &mut self.tables;
        let [first, second] = [first, second].map(|table| bytemuck::cast_slice_mut(table));
        let part = |width: usize| rows.start * width..rows.end * width;
        (&mut first[part(self.widths[0])], &mut second[part(self.widths[1])])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills the tables part by part and returns their contents.
    fn filled(mut hidden: Hidden) -> (Vec<f32>, Vec<f32>) {
        for (start, end) in [(0, 4), (4, 5), (5, 10)] {
            let (first, second) = hidden.rows(start..end);
            (0..).zip(first).for_each(|(i, value)| *value = (100 * start + i) as f32);
            (0..).zip(second).for_each(|(i, value)| *value = -((100 * start + i) as f32));
        }
        let (first, second) = hidden.rows(0..10);
        (first.to_vec(), second.to_vec())
    }

    #[test]
    fn a_file_holds_the_same_as_memory_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let hidden = |available| {
            Hidden::with_available(available, 10, [3, 7], 1000, directory.path()).map(filled).unwrap()
        };
        let (first, second) = hidden(None);
        assert_eq!((first.len(), second.len()), (30, 70));
        assert_eq!((first[0], first[29], second[69]), (0.0, 514.0, -534.0));
        // The tables take 400 bytes, beside 1000 other bytes.
        for available in [0, 1400, 1401, u64::MAX] {
            assert_eq!(hidden(Some(available)), (first.clone(), second.clone()));
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn tables_are_put_into_a_file_only_if_they_do_not_fit_into_memory() {
        let nowhere = Path::new("/nowhere");
        let hidden = |available, other| Hidden::with_available(available, 10, [3, 7], other, nowhere);
        assert!(hidden(None, u64::MAX).is_ok() && hidden(Some(1401), 1000).is_ok());
        for (available, other) in [(1400, 1000), (u64::MAX, u64::MAX), (0, 0)] {
            let Err(error) = hidden(Some(available), other) else { panic!("{available} {other}") };
            assert!(error.to_string().contains("/nowhere: creating a file in"), "{error}");
        }
    }

    #[test]
    fn a_file_for_which_the_disk_has_no_space_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        // Larger than any file can be.
        let Err(error) = Hidden::with_available(Some(0), 1 << 58, [1, 1], 0, directory.path()) else {
            panic!()
        };
        assert!(error.to_string().contains("reserving space for all samples' hidden states"), "{error}");
    }
}
