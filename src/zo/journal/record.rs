//! One step of the journal. Its layout is drawn in [`super`].

use super::take;
use crate::zo::direction::{MAX_ABS_NOISE, round_to_16_bits};
use crate::zo::estimator::StepOutcome;

const SKIPPED: u32 = 1;
const FIXED_BYTES: usize = 32;
const PROBE_BYTES: usize = 20;

/// All that a step changed, and what it saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub step: u64,
    /// Seed of the step's directions.
    pub seed: u64,
    /// A loss was NaN or infinite: the scales did not move.
    pub skipped: bool,
    /// Where the data order stands after this step, in the data order's own terms.
    pub data_cursor: u64,
    /// As many as the header says.
    pub probes: Vec<ProbeRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeRecord {
    pub loss_plus: f64,
    pub loss_minus: f64,
    /// Factor of the integer k in the update, as applied.
    pub coefficient: f32,
}

impl Record {
    pub fn new(step: u64, seed: u64, data_cursor: u64, outcome: &StepOutcome) -> Self {
        let probes = outcome.probes.iter().map(|probe| ProbeRecord {
            loss_plus: probe.loss_plus,
            loss_minus: probe.loss_minus,
            coefficient: probe.coefficient,
        });
        Self { step, seed, skipped: outcome.skipped, data_cursor, probes: probes.collect() }
    }

    /// What no run writes: a wrong number of probes, or a coefficient that devices would not agree on.
    pub(super) fn check(&self, probes: u32) -> Result<(), String> {
        if self.probes.len() != probes as usize {
            return Err(format!("{} probes, expected {probes}", self.probes.len()));
        }
        for probe in &self.probes {
            let c = probe.coefficient;
            if !(c * MAX_ABS_NOISE as f32).is_finite() || round_to_16_bits(f64::from(c)) != c {
                return Err(format!("coefficient {c:e} is not a finite number of 16 significant bits"));
            }
            if self.skipped && c != 0.0 {
                return Err(format!("coefficient {c:e} in a skipped step"));
            }
        }
        Ok(())
    }

    /// `header_crc` and `ordinal`, the number of records before this one, are covered by the checksum
    /// but not stored: a record is valid in one place of one journal.
    pub(super) fn encode(&self, header_crc: u32, ordinal: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.probes.len() * PROBE_BYTES);
        bytes.extend(self.step.to_le_bytes());
        bytes.extend(self.seed.to_le_bytes());
        bytes.extend(if self.skipped { SKIPPED } else { 0 }.to_le_bytes());
        bytes.extend(self.data_cursor.to_le_bytes());
        for probe in &self.probes {
            bytes.extend(probe.loss_plus.to_le_bytes());
            bytes.extend(probe.loss_minus.to_le_bytes());
            bytes.extend(probe.coefficient.to_le_bytes());
        }
        bytes.extend(checksum(header_crc, ordinal, &bytes).to_le_bytes());
        bytes
    }

    pub(super) fn decode(
        bytes: &[u8],
        header_crc: u32,
        ordinal: u64,
        probes: u32,
    ) -> Result<Self, RecordError> {
        let (body, stored) = bytes.split_last_chunk().ok_or(RecordError::Checksum)?;
        if checksum(header_crc, ordinal, body) != u32::from_le_bytes(*stored) {
            return Err(RecordError::Checksum);
        }
        let (record, flags) = Self::fields(body).ok_or(RecordError::Checksum)?;
        if flags & !SKIPPED != 0 {
            return Err(RecordError::Content(format!("unknown flags {flags:#x}")));
        }
        record.check(probes).map_err(RecordError::Content)?;
        Ok(record)
    }

    fn fields(mut body: &[u8]) -> Option<(Self, u32)> {
        let rest = &mut body;
        let step = u64::from_le_bytes(take(rest)?);
        let seed = u64::from_le_bytes(take(rest)?);
        let flags = u32::from_le_bytes(take(rest)?);
        let data_cursor = u64::from_le_bytes(take(rest)?);
        let mut probes = Vec::with_capacity(rest.len() / PROBE_BYTES);
        while !rest.is_empty() {
            probes.push(ProbeRecord {
                loss_plus: f64::from_le_bytes(take(rest)?),
                loss_minus: f64::from_le_bytes(take(rest)?),
                coefficient: f32::from_le_bytes(take(rest)?),
            });
        }
        Some((Self { step, seed, skipped: flags & SKIPPED != 0, data_cursor, probes }, flags))
    }
}

pub(super) enum RecordError {
    /// The bytes are not what was written.
    Checksum,
    /// The bytes are what was written, and no qzo of this version writes that.
    Content(String),
}

pub(super) fn record_bytes(probes: u32) -> usize {
    FIXED_BYTES + probes as usize * PROBE_BYTES
}

fn checksum(header_crc: u32, ordinal: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header_crc.to_le_bytes());
    hasher.update(&ordinal.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}
