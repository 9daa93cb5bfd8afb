//! The journal's header, which identifies the run. [`super`] shows its layout.

use std::fmt::Write as _;
use std::path::Path;

use super::bytes::take;
use super::record::{Hash, JournalMethod, MAX_PROBES};
use crate::error::{Error, Result};
use crate::zo::direction::{Distribution, PERTURBATION_VERSION, ScaleMode};

pub(super) const HEADER_BYTES: usize = 164;
const FORMAT_VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"qzo-jrnl";

/// The identity of a run. A journal replays only onto the same base model, and a run resumes only if all fields agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    pub method: JournalMethod,
    pub base_model: Hash,
    pub config: Hash,
    pub tokenizer: Hash,
    pub data: Hash,
}

impl JournalHeader {
    /// Describes every field that differs from `expected`.
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut note = |name: &str, journal: String, now: String| {
            if journal != now {
                differences.push(format!("{name} (journal {journal}, now {now})"));
            }
        };
        match (self.method, expected.method) {
            (
                JournalMethod::Zo { probes, distribution, mode },
                JournalMethod::Zo { probes: now, distribution: distribution_now, mode: mode_now },
            ) => {
                note("probes", probes.to_string(), now.to_string());
                note("perturbation", lowercase(distribution), lowercase(distribution_now));
                note("scale_mode", lowercase(mode), lowercase(mode_now));
            }
            (journal, now) => note("method", journal.name().into(), now.name().into()),
        }
        let Self { method: _, base_model, config, tokenizer, data } = expected;
        for (name, journal, now) in [
            ("base model", &self.base_model, base_model),
            ("config", &self.config, config),
            ("tokenizer", &self.tokenizer, tokenizer),
            ("data", &self.data, data),
        ] {
            if journal != now {
                let (journal, now) = (hex(journal), hex(now));
                differences.push(format!("{name} (journal {journal}, now {now})"));
            }
        }
        differences
    }

    /// Hash that identifies the run: a hash of its base model, configuration, tokenizer and data.
    pub fn id(&self) -> String {
        let Self { method: _, base_model, config, tokenizer, data } = self;
        let mut hash = blake3::Hasher::new();
        [base_model, config, tokenizer, data].into_iter().for_each(|part| {
            hash.update(part);
        });
        hash.finalize().to_hex().to_string()
    }

    /// Encodes the header. Returns its bytes, and the checksum that its last four bytes hold.
    pub(super) fn encode(&self) -> ([u8; HEADER_BYTES], u32) {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        let (tag, probes, distribution, mode) = match self.method {
            JournalMethod::Zo { probes, distribution, mode } => {
                (0, probes, distribution_tag(distribution), mode_tag(mode))
            }
            JournalMethod::Exact => (1, 0, 0, 0),
        };
        let length = self.method.record_bytes() as u32;
        for number in [FORMAT_VERSION, length, tag, PERTURBATION_VERSION, probes] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend([distribution, mode, 0, 0]);
        for hash in [&self.base_model, &self.config, &self.tokenizer, &self.data] {
            bytes.extend(hash);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        (header, crc)
    }

    /// Decodes the header at the start of a journal. Returns it with its checksum.
    ///
    /// # Errors
    /// The bytes are not a journal, its version is unknown, or the header is damaged.
    pub(super) fn decode(path: &Path, file: &[u8]) -> Result<(Self, u32)> {
        let cut_short = || {
            let what = format!("the journal's header is cut short: {} of {HEADER_BYTES} bytes", file.len());
            Error::damaged(path, what)
        };
        let mut rest = file;
        if take(&mut rest).ok_or_else(cut_short)? != MAGIC {
            return Err(Error::damaged(path, "not a qzo journal: the first 8 bytes are not `qzo-jrnl`"));
        }
        known_version(path, "journal format", take(&mut rest).ok_or_else(cut_short)?, FORMAT_VERSION)?;
        let body = file.get(..HEADER_BYTES - size_of::<u32>()).ok_or_else(cut_short)?;
        let mut word = || take(&mut rest).map(u32::from_le_bytes).ok_or_else(cut_short);
        let (length, tag, perturbation, probes) = (word()?, word()?, word()?, word()?);
        known_version(path, "perturbation", perturbation.to_le_bytes(), PERTURBATION_VERSION)?;
        let [distribution, mode, reserved @ ..]: [u8; 4] = take(&mut rest).ok_or_else(cut_short)?;
        let mut hash = || take(&mut rest).ok_or_else(cut_short);
        let (base_model, config, tokenizer, data) = (hash()?, hash()?, hash()?, hash()?);
        let stored = take(&mut rest).map(u32::from_le_bytes).ok_or_else(cut_short)?;
        let found = crc32fast::hash(body);
        if stored != found {
            let what =
                format!("the journal's header is damaged: checksum {found:08x}, expected {stored:08x}");
            return Err(Error::damaged(path, what));
        }
        let impossible = |what: String| Error::damaged(path, format!("journal header: {what}"));
        let method = method(tag, probes, distribution, mode).map_err(impossible)?;
        if reserved != [0; 2] {
            return Err(impossible("reserved bytes are not 0".into()));
        }
        if length as usize != method.record_bytes() {
            let expected = method.record_bytes();
            return Err(impossible(format!("records of {length} bytes, expected {expected}")));
        }
        Ok((Self { method, base_model, config, tokenizer, data }, stored))
    }
}

impl JournalMethod {
    /// # Errors
    /// The number of probes is not between 1 and [`MAX_PROBES`].
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Zo { probes, .. } if !(1..=MAX_PROBES).contains(probes) => {
                Err(format!("{probes} probes per step: expected 1 to {MAX_PROBES}"))
            }
            _ => Ok(()),
        }
    }

    /// The method's name in a configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Zo { .. } => "zo",
            Self::Exact => "exact",
        }
    }
}

fn distribution_tag(distribution: Distribution) -> u8 {
    match distribution {
        Distribution::Gaussian => 0,
        Distribution::Rademacher => 1,
    }
}

fn mode_tag(mode: ScaleMode) -> u8 {
    match mode {
        ScaleMode::Absolute => 0,
        ScaleMode::Relative => 1,
    }
}

fn method(tag: u32, probes: u32, distribution: u8, mode: u8) -> Result<JournalMethod, String> {
    let distribution = match distribution {
        0 => Distribution::Gaussian,
        1 => Distribution::Rademacher,
        _ => return Err(format!("unknown perturbation {distribution}")),
    };
    let mode = match mode {
        0 => ScaleMode::Absolute,
        1 => ScaleMode::Relative,
        _ => return Err(format!("unknown scale mode {mode}")),
    };
    let method = match tag {
        0 => JournalMethod::Zo { probes, distribution, mode },
        1 => JournalMethod::Exact,
        _ => return Err(format!("unknown method {tag}")),
    };
    method.check().map(|()| method)
}

fn known_version(path: &Path, name: &str, found: [u8; 4], known: u32) -> Result<()> {
    let found = u32::from_le_bytes(found);
    if found == known {
        return Ok(());
    }
    Err(Error::unsupported(
        format!("{}: {name} version {found}, expected {known}", path.display()),
        "finish this run with the qzo version that began it, or start it again in another output_dir",
    ))
}

fn lowercase(variant: impl std::fmt::Debug) -> String {
    format!("{variant:?}").to_lowercase()
}

/// The first six bytes of a hash, enough to tell two hashes apart.
fn hex(hash: &Hash) -> String {
    hash.iter().take(6).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
