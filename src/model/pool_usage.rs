//! Use of the device's memory pools by passes of different sizes. The pools keep a freed buffer for the next buffer of
//! exactly its size. Therefore the buffers of earlier batches have to be freed for good before a batch of another size
//! allocates its own.

use std::sync::Mutex;

use burn::tensor::backend::Backend;

use super::scoring::LOGIT_BYTES;
use crate::arch::ModelConfig;

/// Bytes of buffers that may always stay in the pools. The batches of a small model differ in size all the time, and
/// freeing a buffer costs as much as one or two kernel launches.
const KEPT_BYTES: usize = 64 << 20;

/// Tracks the buffers that the pools may hold.
#[derive(Debug, Default)]
pub struct PoolUsage(Mutex<PooledBuffers>);

#[derive(Debug, Default)]
struct PooledBuffers {
    /// Rows and scored rows of the distinct passes since the pools were last emptied.
    passes: Vec<[usize; 2]>,
    /// Bytes of the buffers of all these passes.
    bytes: usize,
    /// Bytes of the widest pass so far.
    widest: usize,
}

impl PoolUsage {
    /// Call before a pass, given as its rows and scored rows. Frees the pooled buffers of other sizes, unless all
    /// buffers together need no more memory than the widest pass.
    pub fn free_for_pass<B: Backend>(&self, pass: [usize; 2], config: &ModelConfig, device: &B::Device) {
        #[cfg(test)]
        tests::refuse_memory::<B>(device);
        let mut held = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if held.needs_cleanup_for_pass(pass, bytes(pass, config)) {
            B::memory_cleanup(device);
        }
    }
}

impl PooledBuffers {
    /// Adds a pass, and returns whether the pools have to be emptied before it.
    fn needs_cleanup_for_pass(&mut self, pass: [usize; 2], bytes: usize) -> bool {
        if self.passes.contains(&pass) {
            return false;
        }
        self.widest = self.widest.max(bytes);
        // Before the first pass, the pools hold buffers from loading.
        let needed = self.passes.is_empty() || self.bytes + bytes > self.widest.max(KEPT_BYTES);
        if needed {
            self.empty();
        }
        self.passes.push(pass);
        self.bytes += bytes;
        needed
    }

    fn empty(&mut self) {
        *self = Self { widest: self.widest, ..Self::default() };
    }
}

/// Estimated bytes of a pass. The estimate serves to compare passes with each other.
fn bytes([rows, scored]: [usize; 2], config: &ModelConfig) -> usize {
    let row = 4 * (5 * config.hidden_size + 3 * config.intermediate_size);
    rows * row + (scored * config.vocab_size * 4).min(LOGIT_BYTES) * 3
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use burn::tensor::Tensor;

    use super::*;

    /// Asks for more memory than any device has in the pass whose number is in `QZO_TEST_REFUSED_PASS`.
    pub fn refuse_memory<B: Backend>(device: &B::Device) {
        static PASSES: AtomicUsize = AtomicUsize::new(1);
        let pass = PASSES.fetch_add(1, Ordering::Relaxed).to_string();
        if std::env::var("QZO_TEST_REFUSED_PASS").is_ok_and(|refused| refused == pass) {
            let _ = Tensor::<B, 1>::empty([1usize << 40], device);
        }
    }

    const MB: usize = 1 << 20;

    #[test]
    fn buffers_stay_while_together_they_need_no_more_than_the_widest_pass() {
        let mut held = PooledBuffers::default();
        let mut pass = |rows: usize| held.needs_cleanup_for_pass([rows, 1], rows * MB);
        assert!(pass(100), "the buffers from loading are freed");
        assert!(!pass(100));
        assert!(pass(30));
        assert!(!pass(70) && !pass(30) && !pass(70));
        assert!(pass(1));
        assert!(pass(200));
        assert!(pass(150) && !pass(50) && pass(60));
    }

    #[test]
    fn a_small_model_keeps_the_buffers_of_many_passes() {
        let mut held = PooledBuffers::default();
        let cleanups = (1..=100).filter(|rows| held.needs_cleanup_for_pass([*rows, 1], MB / 2)).count();
        assert_eq!(cleanups, 1);
    }
}
