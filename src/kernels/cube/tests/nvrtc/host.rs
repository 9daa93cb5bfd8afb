//! Time that a card would wait for the host: passes of which nothing is computed.

use std::time::Instant;

use super::decoder::{Tokens, decoder_with};
use super::recorder::displacement;
use super::runtime::{Card, Recorder};
use crate::device::ComputeType;
use crate::model::Tables;
use crate::zo::direction::Signs;

/// Milliseconds of the host for the pass of one sign over 16 sequences of 256 tokens: the least of several runs, as
/// other programs take their share.
fn milliseconds_per_pass(tables: Tables, layers: usize) -> f64 {
    let card = Card { architecture: 90 };
    let model = decoder_with(tables, &card, layers, ComputeType::F16);
    let tokens = Tokens::new(16, 256, false);
    let run = || {
        let clock = Instant::now();
        tokens.log_probs(model.as_ref(), Signs::Both(displacement()));
        let milliseconds = clock.elapsed().as_secs_f64() * 1e3 / 2.0;
        Recorder::take(&card);
        milliseconds
    };
    // The first run compiles the kernels.
    run();
    (0..10).map(|_| run()).fold(f64::INFINITY, f64::min)
}

/// Bounds the time of a pass. Two idle cores take 5 ms for 40 layers with the tables on the device, and 32 ms with
/// them in the file; the bounds allow for other programs.
/// cubecl hands launches over in batches of 32 between two threads that wait by spinning, so that a shared core
/// costs a time slice for each; and the rows of a file, 42 MB, are written to memory that is new.
fn takes_little_time(layers: usize) {
    for (tables, most) in [(Tables::OnDevice, 250.0), (Tables::InFile, 500.0)] {
        let milliseconds = milliseconds_per_pass(tables, layers);
        eprintln!("{tables:?}: {milliseconds:.1} ms a pass of {layers} layers");
        assert!(milliseconds < most, "{tables:?}: {milliseconds} ms");
    }
}

/// 8 of the 40 layers of Llama 2 13B, to be quick.
#[test]
fn a_pass_takes_the_host_little_time() {
    takes_little_time(8);
}

/// Run by hand: `cargo test --release -- --ignored --nocapture all_layers`.
#[test]
#[ignore = "takes a minute"]
fn a_pass_of_all_layers_takes_the_host_little_time() {
    takes_little_time(40);
}
