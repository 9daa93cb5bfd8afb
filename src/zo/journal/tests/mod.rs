//! Tests of the journal: its layout, damaged files, and writing.

mod damage;
mod layout;
mod writing;

use std::path::{Path, PathBuf};

use super::file::{Scanned, scan};
use super::header::HEADER_BYTES;
use super::*;
use crate::error::Error;
use crate::zo::direction::{Direction, Distribution, Move, ScaleMode, round_to_16_bits};

fn header() -> JournalHeader {
    JournalHeader { method: zo(2), base_model: [1; 32], config: [2; 32], tokenizer: [3; 32], data: [4; 32] }
}

fn zo(probes: u32) -> JournalMethod {
    JournalMethod::Zo { probes, distribution: Distribution::Gaussian, mode: ScaleMode::Relative }
}

fn record(step: u64) -> Record {
    let probe = |i: u64| ProbeRecord {
        loss_plus: 0.7 + step as f64,
        loss_minus: 0.6 - i as f64,
        coefficient: round_to_16_bits(1e-5 * (step * 10 + i) as f64),
    };
    Record {
        step,
        data_cursor: 16 * step,
        skipped: false,
        taken: StepTaken::Zo { seed: 0x1234_5678_9abc_def0 ^ step, probes: vec![probe(1), probe(2)] },
    }
}

fn seed(record: &Record) -> u64 {
    let StepTaken::Zo { seed, .. } = &record.taken else { panic!("{record:?}") };
    *seed
}

fn probes(record: &mut Record) -> &mut [ProbeRecord] {
    let StepTaken::Zo { probes, .. } = &mut record.taken else { panic!("not a step of zeroth order") };
    probes
}

fn records(n: u64) -> Vec<Record> {
    (0..n).map(record).collect()
}

/// Writes a journal of `n` records into a temporary folder.
fn written(n: u64) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::create(&path, &header()).unwrap();
    records(n).iter().for_each(|record| journal.append(record).unwrap());
    (folder, path)
}

const SIZE: usize = 72;

fn offset_of(record: usize) -> usize {
    HEADER_BYTES + record * SIZE
}

fn refusal(bytes: &[u8]) -> String {
    scan(Path::new("journal"), bytes).err().map(|refused| refused.to_string()).unwrap()
}
