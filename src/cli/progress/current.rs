//! The bar of the work under way.

use super::bars::{Bytes, Progress};

/// The one bar that is shown at a time, by its name.
pub struct CurrentBar {
    quiet: bool,
    counting: Option<(String, Progress)>,
    moving: Option<(String, Bytes)>,
}

impl CurrentBar {
    pub fn new(quiet: bool) -> Self {
        Self { quiet, counting: None, moving: None }
    }

    /// The bar of this name, of `of` units where that is not 0.
    pub fn count(&mut self, what: &str, of: usize) -> &mut Progress {
        if !matches!(&self.counting, Some((name, _)) if name == what) {
            self.finish();
        }
        let begin = || (what.to_owned(), Progress::new(what, of as u64, self.quiet));
        let (_, bar) = self.counting.get_or_insert_with(begin);
        if of > 0 {
            bar.set_total(of as u64);
        }
        bar
    }

    /// The bar of this name that counts bytes.
    pub fn bytes(&mut self, what: &str) -> &mut Bytes {
        if !self.is_moving(what) {
            self.finish();
        }
        let begin = || (what.to_owned(), Bytes::new(what, self.quiet));
        let (_, bar) = self.moving.get_or_insert_with(begin);
        bar
    }

    pub fn is_moving(&self, what: &str) -> bool {
        matches!(&self.moving, Some((name, _)) if name == what)
    }

    pub fn finish(&mut self) {
        if let Some((_, bar)) = self.counting.take() {
            bar.finish();
        }
        if let Some((_, bar)) = self.moving.take() {
            bar.finish();
        }
    }
}
