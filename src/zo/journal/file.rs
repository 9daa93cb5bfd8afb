//! The file of a journal: it is written record by record and read as a whole.

use std::fs;
use std::path::{Path, PathBuf};

use super::header::{HEADER_BYTES, JournalHeader};
use super::record::{JournalMethod, Record, RecordError};
use crate::error::{Error, Result};
use crate::storage::append::AppendFile;

/// The bytes that a crash left behind the last good record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    pub offset: u64,
    pub bytes: u64,
}

/// The only writer of a journal. The file stays locked until this is dropped.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    log: AppendFile,
    header_crc: u32,
    method: JournalMethod,
    records: u64,
    last_step: Option<u64>,
}

impl Journal {
    /// Creates a journal. When this returns, its header is durable.
    ///
    /// # Errors
    /// The file exists, another process is creating it, or an I/O error.
    pub fn create(path: &Path, header: &JournalHeader) -> Result<Self> {
        header.method.check().map_err(|what| Error::invalid(what, "set train.probes to a smaller number"))?;
        let (bytes, header_crc) = header.encode();
        let log = AppendFile::create(
            path,
            &bytes,
            || busy(path),
            || {
                Error::invalid(
                    format!("{}: a journal is already there", path.display()),
                    "resume that run with --resume, or choose another output_dir",
                )
            },
        )?;
        Ok(Self::at_end(path, log, header, header_crc, &[]))
    }

    /// Opens the journal of an earlier run to continue it, and returns its records. A torn tail is cut off the file and
    /// reported.
    ///
    /// # Errors
    /// Another process has the journal open, its header is not `expected`, or the journal is damaged.
    pub fn open(path: &Path, expected: &JournalHeader) -> Result<(Self, Vec<Record>, Option<TornTail>)> {
        let (mut log, bytes) = AppendFile::open(path, || busy(path))?;
        let Scanned { header, header_crc, records, torn } = scan(path, &bytes)?;
        let differences = header.differences(expected);
        if !differences.is_empty() {
            return Err(Error::invalid(
                format!("{}: the journal belongs to another run: {}", path.display(), differences.join(", ")),
                "resume with the model, config and data the run began with, or choose another output_dir",
            ));
        }
        log.keep(torn.map_or(bytes.len() as u64, |torn| torn.offset))?;
        Ok((Self::at_end(path, log, &header, header_crc, &records), records, torn))
    }

    /// Appends the record of the next step. When this returns, the record is durable.
    ///
    /// # Errors
    /// The record does not follow the last one, or an I/O error. The journal is then as it was before, and records can
    /// be appended once there is space again.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let refused = |what: String| {
            Error::internal(format!("{}: record of step {}: {what}", self.path.display(), record.step))
        };
        record.check(&self.method).map_err(refused)?;
        check_order(self.last_step, record.step).map_err(refused)?;
        self.log.append(&record.encode(self.header_crc, self.records))?;
        self.records += 1;
        self.last_step = Some(record.step);
        Ok(())
    }

    fn at_end(
        path: &Path,
        log: AppendFile,
        header: &JournalHeader,
        header_crc: u32,
        records: &[Record],
    ) -> Self {
        Self {
            path: path.to_path_buf(),
            log,
            header_crc,
            method: header.method,
            records: records.len() as u64,
            last_step: records.last().map(|record| record.step),
        }
    }
}

/// Reads a journal without changing the file. While a run is in progress, the record that is being written may be
/// reported as a torn tail.
///
/// # Errors
/// The journal cannot be read or is damaged.
pub fn read(path: &Path) -> Result<(JournalHeader, Vec<Record>, Option<TornTail>)> {
    let bytes = fs::read(path).map_err(Error::io(path, "reading the journal"))?;
    let Scanned { header, records, torn, .. } = scan(path, &bytes)?;
    Ok((header, records, torn))
}

pub(super) struct Scanned {
    pub header: JournalHeader,
    pub header_crc: u32,
    pub records: Vec<Record>,
    pub torn: Option<TornTail>,
}

pub(super) fn scan(path: &Path, bytes: &[u8]) -> Result<Scanned> {
    let (header, header_crc) = JournalHeader::decode(path, bytes)?;
    let size = header.method.record_bytes();
    let mut records = Vec::<Record>::new();
    let mut offset = HEADER_BYTES;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let torn = TornTail { offset: offset as u64, bytes: rest.len() as u64 };
        let Some(record) = rest.get(..size) else {
            return Ok(Scanned { header, header_crc, records, torn: Some(torn) });
        };
        let damaged = |what: String| {
            Error::damaged(path, format!("journal record {} at byte {offset}: {what}", records.len()))
        };
        let record = match Record::decode(record, header_crc, records.len() as u64, &header.method) {
            Ok(record) => record,
            Err(RecordError::Checksum) if rest.len() == size => {
                return Ok(Scanned { header, header_crc, records, torn: Some(torn) });
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
    Ok(Scanned { header, header_crc, records, torn: None })
}

fn check_order(last: Option<u64>, step: u64) -> Result<(), String> {
    match last {
        Some(last) if last.checked_add(1) != Some(step) => {
            Err(format!("step {step} follows step {last}, expected consecutive steps"))
        }
        _ => Ok(()),
    }
}

fn busy(path: &Path) -> Error {
    Error::invalid(
        format!("{}: another qzo process is writing this journal", path.display()),
        "wait for it to end or stop it, or choose another output_dir",
    )
}
