//! The bar of the current work.

use super::bars::{Bytes, Progress};

/// The bar that is shown. There is one at a time, which is replaced when work with another name begins.
pub struct CurrentBar {
    quiet: bool,
    counting: Option<(String, Progress)>,
    moving: Option<(String, Bytes)>,
}

impl CurrentBar {
    pub fn new(quiet: bool) -> Self {
        Self { quiet, counting: None, moving: None }
    }

    /// Shows the bar `work` that counts units, with this total unless it is 0.
    pub fn count(&mut self, work: &str, total: usize) -> &mut Progress {
        if !matches!(&self.counting, Some((name, _)) if name == work) {
            self.finish();
        }
        let begin = || (work.to_owned(), Progress::new(work, total as u64, self.quiet));
        let (_, bar) = self.counting.get_or_insert_with(begin);
        if total > 0 {
            bar.set_total(total as u64);
        }
        bar
    }

    /// Shows the bar `work` that counts bytes.
    pub fn bytes(&mut self, work: &str) -> &mut Bytes {
        if !self.is_moving(work) {
            self.finish();
        }
        let begin = || (work.to_owned(), Bytes::new(work, self.quiet));
        let (_, bar) = self.moving.get_or_insert_with(begin);
        bar
    }

    /// Whether the bar `work` that counts bytes is shown.
    pub fn is_moving(&self, work: &str) -> bool {
        matches!(&self.moving, Some((name, _)) if name == work)
    }

    /// Removes the bar.
    pub fn finish(&mut self) {
        if let Some((_, bar)) = self.counting.take() {
            bar.finish();
        }
        if let Some((_, bar)) = self.moving.take() {
            bar.finish();
        }
    }
}
