//! The journal's header: which run the records belong to. Its layout is drawn in [`super`].

use std::fmt::Write as _;
use std::path::Path;

use super::{FORMAT_VERSION, Record, take};
use crate::error::{Error, Result};
use crate::zo::direction::{Direction, Distribution, Move, PERTURBATION_VERSION, ScaleMode};

pub(super) const HEADER_BYTES: usize = 156;
const MAGIC: [u8; 8] = *b"qzo-jrnl";

/// More directions than this in one step are taken for a mistake.
pub const MAX_PROBES: u32 = 1 << 16;

/// 32 bytes that identify what the run read.
pub type Hash = [u8; 32];

/// A journal replays only onto the same base model, and a run resumes only with all of these equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Probes per step.
    pub probes: u32,
    pub kind: Distribution,
    pub mode: ScaleMode,
    pub base_model: Hash,
    pub config: Hash,
    pub tokenizer: Hash,
    pub data: Hash,
}

impl Header {
    /// The update of a record: one move of the scales per direction, in this order. Training and replay
    /// both apply exactly these. Empty for a skipped step.
    pub fn steps(&self, record: &Record) -> impl Iterator<Item = Move> {
        let (kind, mode, seed) = (self.kind, self.mode, record.seed);
        let moves = record.probes.iter().zip(0..).map(move |(probe, number)| Move {
            direction: Direction { distribution: kind, mode, seed, probe: number },
            coefficient: probe.coefficient,
        });
        moves.filter(|noise| noise.coefficient != 0.0)
    }

    /// What differs from `expected`, in words; empty when nothing does.
    pub fn differences(&self, expected: &Header) -> Vec<String> {
        let mut differences = Vec::new();
        let mut note = |same: bool, name: &str, journal: String, now: String| {
            if !same {
                differences.push(format!("{name} (journal {journal}, now {now})"));
            }
        };
        let Self { probes, kind, mode, base_model, config, tokenizer, data } = expected;
        note(self.probes == *probes, "probes", self.probes.to_string(), probes.to_string());
        note(self.kind == *kind, "perturbation", lowercase(self.kind), lowercase(kind));
        note(self.mode == *mode, "scale_mode", lowercase(self.mode), lowercase(mode));
        for (name, journal, now) in [
            ("base model", &self.base_model, base_model),
            ("config", &self.config, config),
            ("tokenizer", &self.tokenizer, tokenizer),
            ("data", &self.data, data),
        ] {
            note(journal == now, name, hex(journal), hex(now));
        }
        differences
    }

    /// # Errors
    /// A number of probes that no run has.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.probes {
            1..=MAX_PROBES => Ok(()),
            probes => Err(format!("{probes} probes per step: expected 1 to {MAX_PROBES}")),
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend(PERTURBATION_VERSION.to_le_bytes());
        bytes.extend(self.probes.to_le_bytes());
        bytes.push(match self.kind {
            Distribution::Gaussian => 0,
            Distribution::Rademacher => 1,
        });
        bytes.push(match self.mode {
            ScaleMode::Absolute => 0,
            ScaleMode::Relative => 1,
        });
        bytes.extend([0; 2]);
        for hash in [&self.base_model, &self.config, &self.tokenizer, &self.data] {
            bytes.extend(hash);
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }

    /// # Errors
    /// Not a journal, a version this program does not know, or bytes that contradict their checksum.
    pub(super) fn decode(path: &Path, file: &[u8]) -> Result<Self> {
        let cut_short = || {
            let what = format!("the journal's header is cut short: {} of {HEADER_BYTES} bytes", file.len());
            Error::damaged(path, what)
        };
        let mut rest = file.get(..HEADER_BYTES).ok_or_else(cut_short)?;
        let body = &file[..HEADER_BYTES - size_of::<u32>()];
        if take(&mut rest) != Some(MAGIC) {
            return Err(Error::damaged(path, "not a qzo journal: the first 8 bytes are not `qzo-jrnl`"));
        }
        let mut word = || take(&mut rest).map(u32::from_le_bytes).ok_or_else(cut_short);
        let (format, perturbation, probes) = (word()?, word()?, word()?);
        for (name, found, known) in
            [("journal format", format, FORMAT_VERSION), ("perturbation", perturbation, PERTURBATION_VERSION)]
        {
            if found != known {
                return Err(Error::unsupported(
                    format!("{}: {name} version {found}, expected {known}", path.display()),
                    "use the qzo version that wrote this run, or start the run anew",
                ));
            }
        }
        let [kind, mode, reserved @ ..]: [u8; 4] = take(&mut rest).ok_or_else(cut_short)?;
        let mut hash = || take(&mut rest).ok_or_else(cut_short);
        let (base_model, config, tokenizer, data) = (hash()?, hash()?, hash()?, hash()?);
        let stored = take(&mut rest).map(u32::from_le_bytes).ok_or_else(cut_short)?;
        let found = crc32fast::hash(body);
        if stored != found {
            let what =
                format!("the journal's header is damaged: checksum {found:08x}, expected {stored:08x}");
            return Err(Error::damaged(path, what));
        }
        let kind = match kind {
            0 => Distribution::Gaussian,
            1 => Distribution::Rademacher,
            _ => return Err(Error::damaged(path, format!("journal header: unknown perturbation {kind}"))),
        };
        let mode = match mode {
            0 => ScaleMode::Absolute,
            1 => ScaleMode::Relative,
            _ => return Err(Error::damaged(path, format!("journal header: unknown scale mode {mode}"))),
        };
        if reserved != [0; 2] {
            return Err(Error::damaged(path, "journal header: reserved bytes are not 0"));
        }
        let header = Self { probes, kind, mode, base_model, config, tokenizer, data };
        header.check().map_err(|what| Error::damaged(path, format!("journal header: {what}")))?;
        Ok(header)
    }
}

fn lowercase(variant: impl std::fmt::Debug) -> String {
    format!("{variant:?}").to_lowercase()
}

/// Enough of a hash to tell two apart.
fn hex(hash: &Hash) -> String {
    hash.iter().take(6).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
