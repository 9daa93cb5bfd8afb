//! Memory on the device for passes of different sizes. The pools keep what was freed, for buffers of exactly
//! its size: those of an earlier batch have to be given back before a batch of another size takes its own.

use std::sync::Mutex;

use burn::tensor::backend::Backend;

use super::scoring::LOGIT_BYTES;
use crate::arch::ModelConfig;

/// So much of earlier sizes may stay whatever the widest pass takes: small models meet a new size in every
/// batch, and giving back costs as much as a launch or two per buffer.
const KEPT_BYTES: usize = 64 << 20;

/// The sizes whose buffers the pools may hold.
#[derive(Debug, Default)]
pub struct Sizes(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Rows and scored rows of the passes since the pools were last emptied.
    passes: Vec<[usize; 2]>,
    /// Bytes that those took together.
    bytes: usize,
    /// Bytes of the widest pass until now.
    widest: usize,
    /// Keys and values that longer ones have replaced since the pools were last emptied.
    outgrown: usize,
}

impl Sizes {
    /// Before a pass of `rows` that scores `scored` of them: what the pools keep for other sizes is given
    /// back, unless all of it together is no more than the widest pass takes.
    pub fn make_room<B: Backend>(&self, pass: [usize; 2], config: &ModelConfig, device: &B::Device) {
        #[cfg(test)]
        tests::refuse_memory::<B>(device);
        let mut held = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if held.lacks_room(pass, bytes(pass, config)) {
            B::memory_cleanup(device);
        }
    }

    /// Before a sequence of `length` tokens, whose keys and values are kept, grows by `rows`: they move into
    /// buffers that are longer each time, and none of those before is ever of use again.
    pub fn make_room_to_grow<B: Backend>(
        &self,
        length: usize,
        rows: usize,
        config: &ModelConfig,
        device: &B::Device,
    ) {
        let token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
        let mut held = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if held.outgrows(length * token) | held.lacks_room([rows, 1], bytes([rows, 1], config)) {
            B::memory_cleanup(device);
        }
    }
}

impl Held {
    /// Whether the others have to go.
    fn lacks_room(&mut self, pass: [usize; 2], bytes: usize) -> bool {
        if self.passes.contains(&pass) {
            return false;
        }
        self.widest = self.widest.max(bytes);
        // At first, what loading left behind.
        let lacks = self.passes.is_empty() || self.bytes + bytes > self.widest.max(KEPT_BYTES);
        if lacks {
            self.empty();
        }
        self.passes.push(pass);
        self.bytes += bytes;
        lacks
    }

    /// Whether keys and values that are no longer in use take more than those that are, of so many bytes.
    fn outgrows(&mut self, bytes: usize) -> bool {
        let outgrows = self.outgrown > bytes.max(KEPT_BYTES);
        if outgrows {
            self.empty();
        }
        self.outgrown += bytes;
        outgrows
    }

    fn empty(&mut self) {
        *self = Self { widest: self.widest, ..Self::default() };
    }
}

/// About what a pass takes; what counts here is how passes compare.
fn bytes([rows, scored]: [usize; 2], config: &ModelConfig) -> usize {
    let row = 4 * (5 * config.hidden_size + 3 * config.intermediate_size);
    rows * row + (scored * config.vocab_size * 4).min(LOGIT_BYTES) * 3
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use burn::tensor::Tensor;

    use super::*;

    /// Asks the device for more memory than any has, in the pass that `QZO_TEST_REFUSED_PASS` numbers.
    pub fn refuse_memory<B: Backend>(device: &B::Device) {
        static PASSES: AtomicUsize = AtomicUsize::new(1);
        let pass = PASSES.fetch_add(1, Ordering::Relaxed).to_string();
        if std::env::var("QZO_TEST_REFUSED_PASS").is_ok_and(|refused| refused == pass) {
            let _ = Tensor::<B, 1>::empty([1usize << 40], device);
        }
    }

    const MB: usize = 1 << 20;

    #[test]
    fn sizes_stay_as_long_as_together_they_are_no_more_than_the_widest() {
        let mut held = Held::default();
        let mut pass = |rows: usize| held.lacks_room([rows, 1], rows * MB);
        assert!(pass(100), "what loading left behind");
        assert!(!pass(100));
        assert!(pass(30));
        assert!(!pass(70) && !pass(30) && !pass(70));
        assert!(pass(1));
        assert!(pass(200));
        assert!(pass(150) && !pass(50) && pass(60));
    }

    /// As tokens are generated: what is kept of shorter keys and values stays below what a few passes take.
    #[test]
    fn a_growing_sequence_keeps_little_of_what_it_was() {
        let mut held = Held::default();
        let (mut kept, mut most) = (0, 0.0f64);
        for length in (0..400).map(|length| length * MB) {
            if held.outgrows(length) {
                kept = 0;
            }
            kept += length;
            most = most.max(kept as f64 / length.max(KEPT_BYTES) as f64);
        }
        assert!((1.5..3.5).contains(&most), "{most}");
    }

    #[test]
    fn a_small_model_keeps_many() {
        let mut held = Held::default();
        let cleanups = (1..=100).filter(|rows| held.lacks_room([*rows, 1], MB / 2)).count();
        assert_eq!(cleanups, 1);
    }
}
