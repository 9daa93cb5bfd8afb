//! A record of the journal: one training step. [`super`] shows its layout.

use super::bytes::take;
use crate::zo::direction::{Direction, Distribution, MAX_ABS_NOISE, Move, ScaleMode, round_to_16_bits};
use crate::zo::estimator::StepOutcome;

const SKIPPED: u32 = 1;
/// Bytes of the step, the data cursor and the flags before a method's own fields, and of the checksum after them.
const FRAME_BYTES: usize = 24;
const PROBE_BYTES: usize = 20;
const EXACT_BYTES: usize = 56;

/// Largest number of directions in a step. More are assumed to be a mistake.
pub const MAX_PROBES: u32 = 1 << 16;

/// A hash of 32 bytes that identifies a file or its contents.
pub type Hash = [u8; 32];

/// The method of training that a journal records, with the settings that all its records share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalMethod {
    /// Zeroth order. The scales follow from the records alone.
    Zo { probes: u32, distribution: Distribution, mode: ScaleMode },
    /// Exact gradients. The scales are kept in snapshots, which the records name by their hash.
    Exact,
}

/// The record of a step: its update, and the losses from which the update follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub step: u64,
    /// Rows of the data order that are used up after this step.
    pub data_cursor: u64,
    /// No step was taken, because a loss or a gradient was not finite, or the loss had run away. Exact gradients may have
    /// moved some blocks before that was known; the run then goes back to its last snapshot.
    pub skipped: bool,
    pub taken: StepTaken,
}

/// The fields of a record that depend on the method.
#[derive(Clone, Debug, PartialEq)]
pub enum StepTaken {
    Zo {
        /// Seed of the step's directions.
        seed: u64,
        /// One entry per direction. The header holds their number.
        probes: Vec<ProbeRecord>,
    },
    Exact {
        loss: f64,
        /// Euclidean norm of the gradient before clipping.
        grad_norm: f64,
        /// The learning rate as applied.
        learning_rate: f64,
        /// BLAKE3 of the last snapshot written before this step; zeros if there was none.
        snapshot: Hash,
    },
}

/// The recorded losses along one direction, and the coefficient of the update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeRecord {
    pub loss_plus: f64,
    pub loss_minus: f64,
    /// Factor of the integer k in the update, as applied.
    pub coefficient: f32,
}

impl JournalMethod {
    /// Length of a record in bytes.
    pub fn record_bytes(&self) -> usize {
        FRAME_BYTES
            + match self {
                Self::Zo { probes, .. } => size_of::<u64>() + *probes as usize * PROBE_BYTES,
                Self::Exact => EXACT_BYTES,
            }
    }

    /// Whether the scales follow from the records.
    pub fn is_replayed(&self) -> bool {
        matches!(self, Self::Zo { .. })
    }

    /// The moves of a record's step, in order. Training and replay apply exactly these. There are none for a skipped
    /// step, and none for a method whose steps do not follow from its records.
    pub fn moves(&self, record: &Record) -> Vec<Move> {
        let (Self::Zo { distribution, mode, .. }, StepTaken::Zo { seed, probes }) = (*self, &record.taken)
        else {
            return Vec::new();
        };
        let moves = probes.iter().zip(0..).map(|(taken, probe)| Move {
            direction: Direction { distribution, mode, seed: *seed, probe },
            coefficient: taken.coefficient,
        });
        moves.filter(|each| each.coefficient != 0.0).collect()
    }
}

impl Record {
    /// Makes the record of a zeroth-order step.
    pub fn of_probes(step: u64, seed: u64, data_cursor: u64, outcome: &StepOutcome) -> Self {
        let probes = outcome.probes.iter().map(|probe| ProbeRecord {
            loss_plus: probe.loss_plus,
            loss_minus: probe.loss_minus,
            coefficient: probe.coefficient,
        });
        let taken = StepTaken::Zo { seed, probes: probes.collect() };
        Self { step, data_cursor, skipped: outcome.skipped, taken }
    }

    /// The mean of the step's losses.
    pub fn loss(&self) -> f64 {
        match &self.taken {
            StepTaken::Zo { probes, .. } => {
                probes.iter().map(|p| (p.loss_plus + p.loss_minus) / 2.0).sum::<f64>() / probes.len() as f64
            }
            StepTaken::Exact { loss, .. } => *loss,
        }
    }

    /// Checks that a run with `method` could have written this record.
    ///
    /// # Errors
    /// The record has another method or number of probes, or a coefficient whose products would differ between devices.
    pub(super) fn check(&self, method: &JournalMethod) -> Result<(), String> {
        match (method, &self.taken) {
            (JournalMethod::Zo { probes: expected, .. }, StepTaken::Zo { probes, .. }) => {
                if probes.len() != *expected as usize {
                    return Err(format!("{} probes, expected {expected}", probes.len()));
                }
                probes.iter().try_for_each(|probe| probe.check(self.skipped))
            }
            (JournalMethod::Exact, StepTaken::Exact { .. }) => Ok(()),
            _ => Err("a step of another method than the journal's".into()),
        }
    }

    /// Encodes the record. Its checksum covers `header_crc` and `ordinal`, the number of records before this one, which
    /// are not stored: a record is valid only at one position of one journal.
    pub(super) fn encode(&self, header_crc: u32, ordinal: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.step.to_le_bytes());
        bytes.extend(self.data_cursor.to_le_bytes());
        bytes.extend(if self.skipped { SKIPPED } else { 0 }.to_le_bytes());
        match &self.taken {
            StepTaken::Zo { seed, probes } => {
                bytes.extend(seed.to_le_bytes());
                for probe in probes {
                    bytes.extend(probe.loss_plus.to_le_bytes());
                    bytes.extend(probe.loss_minus.to_le_bytes());
                    bytes.extend(probe.coefficient.to_le_bytes());
                }
            }
            StepTaken::Exact { loss, grad_norm, learning_rate, snapshot } => {
                for number in [loss, grad_norm, learning_rate] {
                    bytes.extend(number.to_le_bytes());
                }
                bytes.extend(snapshot);
            }
        }
        bytes.extend(checksum(header_crc, ordinal, &bytes).to_le_bytes());
        bytes
    }

    pub(super) fn decode(
        bytes: &[u8],
        header_crc: u32,
        ordinal: u64,
        method: &JournalMethod,
    ) -> Result<Self, RecordError> {
        let (body, stored) = bytes.split_last_chunk().ok_or(RecordError::Checksum)?;
        if checksum(header_crc, ordinal, body) != u32::from_le_bytes(*stored) {
            return Err(RecordError::Checksum);
        }
        let (record, flags) = Self::fields(body, method).ok_or(RecordError::Checksum)?;
        if flags & !SKIPPED != 0 {
            return Err(RecordError::Content(format!("unknown flags {flags:#x}")));
        }
        record.check(method).map_err(RecordError::Content)?;
        Ok(record)
    }

    fn fields(mut body: &[u8], method: &JournalMethod) -> Option<(Self, u32)> {
        let rest = &mut body;
        let step = u64::from_le_bytes(take(rest)?);
        let data_cursor = u64::from_le_bytes(take(rest)?);
        let flags = u32::from_le_bytes(take(rest)?);
        let taken = match method {
            JournalMethod::Zo { .. } => {
                let seed = u64::from_le_bytes(take(rest)?);
                let mut probes = Vec::with_capacity(rest.len() / PROBE_BYTES);
                while !rest.is_empty() {
                    probes.push(ProbeRecord {
                        loss_plus: f64::from_le_bytes(take(rest)?),
                        loss_minus: f64::from_le_bytes(take(rest)?),
                        coefficient: f32::from_le_bytes(take(rest)?),
                    });
                }
                StepTaken::Zo { seed, probes }
            }
            JournalMethod::Exact => {
                let mut number = || take(rest).map(f64::from_le_bytes);
                let (loss, grad_norm, learning_rate) = (number()?, number()?, number()?);
                StepTaken::Exact { loss, grad_norm, learning_rate, snapshot: take(rest)? }
            }
        };
        Some((Self { step, data_cursor, skipped: flags & SKIPPED != 0, taken }, flags))
    }
}

impl ProbeRecord {
    fn check(&self, skipped: bool) -> Result<(), String> {
        let c = self.coefficient;
        if !(c * MAX_ABS_NOISE as f32).is_finite() || round_to_16_bits(f64::from(c)) != c {
            return Err(format!("coefficient {c:e} is not a finite number of 16 significant bits"));
        }
        match skipped && c != 0.0 {
            true => Err(format!("coefficient {c:e} in a skipped step")),
            false => Ok(()),
        }
    }
}

/// The reason why a record cannot be decoded.
pub(super) enum RecordError {
    /// The checksum does not match: the bytes are not those that were written.
    Checksum,
    /// The checksum matches, but this version of qzo never writes such a record.
    Content(String),
}

fn checksum(header_crc: u32, ordinal: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header_crc.to_le_bytes());
    hasher.update(&ordinal.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}
