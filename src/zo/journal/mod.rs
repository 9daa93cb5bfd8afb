//! The journal: an append-only file from which a run resumes and replays to the same bits. It knows
//! neither weights nor datasets; snapshots of the scales are kept elsewhere.
//!
//! All numbers are little endian. A header of 156 bytes, then one record per step, 32 + 20·probes bytes
//! each:
//!
//! ```text
//! header                                     record
//!   0  8  magic "qzo-jrnl"                     0  8  step
//!   8  4  journal format version, 1            8  8  seed of the step
//!  12  4  perturbation version, 1             16  4  flags: bit 0 = skipped, not finite
//!  16  4  probes per step                     20  8  data cursor after the step
//!  20  1  0 gaussian, 1 rademacher            28 20  per probe: f64 loss at +, f64 loss at −,
//!  21  1  0 absolute, 1 relative                     f32 coefficient as applied
//!  22  2  0                                   end 4  CRC-32 of: header CRC-32 (4), ordinal of the
//!  24 32  hash of the base model                     record (8), all bytes of the record before
//!  56 32  hash of the config
//!  88 32  hash of the tokenizer
//! 120 32  hash of the data
//! 152  4  CRC-32 of bytes 0 to 151
//! ```
//!
//! A record is durable before its successor is written, and a new journal appears under its name only
//! when its header is durable. So a crash can leave exactly one trace, the **torn tail**: after the last
//! good record, fewer bytes than a record, or one record's length of bytes that fail the checksum. It is
//! cut and reported. Everything else is damage and is refused: nothing after it could be trusted.

mod header;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use self::header::HEADER_BYTES;
pub use self::header::{Hash, Header, MAX_PROBES};
pub use self::record::{ProbeRecord, Record};
use self::record::{RecordError, record_bytes};
use crate::error::{Error, Result};
use crate::storage::atomic;
use crate::storage::lock::Locked;

const FORMAT_VERSION: u32 = 1;

/// What a crash left behind the last good record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub offset: u64,
    pub bytes: u64,
}

/// The one writer of a journal. The file is locked while this lives.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Locked,
    header_crc: u32,
    probes: u32,
    records: u64,
    last_step: Option<u64>,
    /// End of the last good record, in bytes.
    end: u64,
    /// An append failed and its bytes could not be taken back.
    broken: bool,
}

impl Journal {
    /// Starts a journal where there is none. When this returns, the header is durable.
    ///
    /// # Errors
    /// The file exists, another process is creating it, or the disk refuses.
    pub fn create(path: &Path, header: &Header) -> Result<Self> {
        header.check().map_err(|what| Error::invalid(what, "set train.probes to a smaller number"))?;
        let partial = with_suffix(path, ".partial");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&partial);
        let mut file = lock(file.map_err(Error::io(&partial, "creating the journal"))?, path)?;
        // Asked only now: two creators meet at the lock, and the second finds the journal of the first.
        if path.symlink_metadata().is_ok() {
            return Err(Error::invalid(
                format!("{}: a journal is already there", path.display()),
                "resume that run with --resume, or choose another output_dir",
            ));
        }
        let bytes = header.encode();
        let written = write_whole(&mut file, &bytes).and_then(|()| fs::rename(&partial, path));
        if written.is_err() {
            // Best effort: the reason it failed is the error to report.
            let _ = fs::remove_file(&partial);
        }
        let durable = written.and_then(|()| atomic::sync_directory(atomic::parent(path)));
        durable.map_err(Error::io(path, "writing the journal's header"))?;
        Ok(Self::at_end(path, file, header, &bytes, &[]))
    }

    /// Goes on with the journal of an earlier run, of which it returns the records. A torn tail is cut
    /// from the file and reported.
    ///
    /// # Errors
    /// Another process has the journal open, its header is not `expected`, or it is damaged.
    pub fn open(path: &Path, expected: &Header) -> Result<(Self, Vec<Record>, Option<TornTail>)> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let mut file = lock(file.map_err(Error::io(path, "opening the journal"))?, path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(path, "reading the journal"))?;
        let (header, records, torn) = scan(path, &bytes)?;
        let differences = header.differences(expected);
        if !differences.is_empty() {
            return Err(Error::invalid(
                format!("{}: the journal is of another run: {}", path.display(), differences.join(", ")),
                "resume with the model, config and data the run began with, or choose another output_dir",
            ));
        }
        if let Some(torn) = torn {
            file.set_len(torn.offset).map_err(Error::io(path, "cutting the journal's torn tail"))?;
        }
        // The process that wrote the last record may have been killed before its sync; here it counts.
        file.sync_all().map_err(Error::io(path, "syncing the journal"))?;
        Ok((Self::at_end(path, file, &header, &bytes, &records), records, torn))
    }

    /// Adds the record of the next step. When this returns, it is durable.
    ///
    /// # Errors
    /// A record that does not follow the last one, or a disk that refuses. Then the journal is as it was
    /// before, and can be appended to once there is room again.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let refused = |what: String| {
            let what = format!("{}: record of step {}: {what}", self.path.display(), record.step);
            Error::invalid(what, "this is a bug in qzo: please report it")
        };
        record.check(self.probes).map_err(refused)?;
        check_order(self.last_step, record.step).map_err(refused)?;
        if self.broken {
            return Err(Error::damaged(
                &self.path,
                format!("an earlier append failed and could not be taken back at byte {}", self.end),
            ));
        }
        let bytes = record.encode(self.header_crc, self.records);
        if let Err(source) = self.write_at_end(&bytes) {
            self.broken = self.file.set_len(self.end).and_then(|()| self.file.sync_all()).is_err();
            return Err(Error::Io { path: self.path.clone(), action: "writing a journal record", source });
        }
        self.end += bytes.len() as u64;
        self.records += 1;
        self.last_step = Some(record.step);
        Ok(())
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }

    fn at_end(path: &Path, file: Locked, header: &Header, bytes: &[u8], records: &[Record]) -> Self {
        Self {
            path: path.to_path_buf(),
            file,
            header_crc: header_crc(bytes),
            probes: header.probes,
            records: records.len() as u64,
            last_step: records.last().map(|record| record.step),
            end: (HEADER_BYTES + records.len() * record_bytes(header.probes)) as u64,
            broken: false,
        }
    }
}

/// The whole journal, unchanged on disk. Of a run in progress, the record being written may be reported
/// as a torn tail.
///
/// # Errors
/// It cannot be read, or it is damaged.
pub fn read(path: &Path) -> Result<(Header, Vec<Record>, Option<TornTail>)> {
    let bytes = fs::read(path).map_err(Error::io(path, "reading the journal"))?;
    scan(path, &bytes)
}

fn scan(path: &Path, bytes: &[u8]) -> Result<(Header, Vec<Record>, Option<TornTail>)> {
    let header = Header::decode(path, bytes)?;
    let header_crc = header_crc(bytes);
    let size = record_bytes(header.probes);
    let mut records = Vec::<Record>::new();
    let mut offset = HEADER_BYTES;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let torn = TornTail { offset: offset as u64, bytes: rest.len() as u64 };
        let Some(record) = rest.get(..size) else {
            return Ok((header, records, Some(torn)));
        };
        let damaged = |what: String| {
            Error::damaged(path, format!("journal record {} at byte {offset}: {what}", records.len()))
        };
        let record = match Record::decode(record, header_crc, records.len() as u64, header.probes) {
            Ok(record) => record,
            Err(RecordError::Checksum) if rest.len() == size => {
                return Ok((header, records, Some(torn)));
            }
            Err(RecordError::Checksum) => {
                return Err(damaged("the checksum does not match, and more records follow".into()));
            }
            Err(RecordError::Content(what)) => return Err(damaged(what)),
        };
        check_order(records.last().map(|last| last.step), record.step).map_err(damaged)?;
        records.push(record);
        offset += size;
    }
    Ok((header, records, None))
}

fn check_order(last: Option<u64>, step: u64) -> Result<(), String> {
    match last {
        Some(last) if last.checked_add(1) != Some(step) => {
            Err(format!("step {step} follows step {last}, expected consecutive steps"))
        }
        _ => Ok(()),
    }
}

/// The header's own checksum, as stored: its last 4 bytes.
fn header_crc(file: &[u8]) -> u32 {
    let stored = file.get(..HEADER_BYTES).and_then(|header| header.last_chunk());
    stored.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The next `N` bytes, if there are as many.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

fn lock(file: File, path: &Path) -> Result<Locked> {
    Locked::new(file, path, || {
        Error::invalid(
            format!("{}: another qzo process is writing this journal", path.display()),
            "wait for it to end or stop it, or choose another output_dir",
        )
    })
}

fn write_whole(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
