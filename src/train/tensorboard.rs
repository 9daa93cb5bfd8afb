//! The metrics of a run as an event file, which TensorBoard reads.
//!
//! A file is a sequence of records (TFRecord): the length of the data as u64, a checksum of these 8 bytes, the data, and a
//! checksum of the data, all little-endian. A checksum is CRC-32C, rotated and shifted by a constant. The data is an
//! `Event` in the encoding of protocol buffers
//! (<https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto>):
//!
//! ```text
//! Event    1 wall_time: double    2 step: int64    3 file_version: string    5 summary: Summary
//! Summary  1 value: repeated Value
//! Value    1 tag: string          2 simple_value: float
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::logged::LoggedLine;
use crate::error::{Error, Result};
use crate::storage::atomic::{create_directory, write_atomically};

/// Name of the only file in the directory. TensorBoard wants `tfevents` in it.
const NAME: &str = "events.out.tfevents.qzo";

/// The event file of a run, open at its end.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Writes the events of the lines of `metrics.jsonl` so far, instead of those that an earlier call has left: the
    /// curves are then those of an uninterrupted run. Their times are that of this call.
    ///
    /// # Errors
    /// The directory or file cannot be written.
    pub fn create(directory: &Path, metrics: &[u8]) -> Result<Self> {
        create_directory(directory)?;
        let path = directory.join(NAME);
        let mut events = record(&event(0, Payload::Version));
        metrics.split(|byte| *byte == b'\n').for_each(|line| events.append(&mut record_of(line)));
        write_atomically(&path, &events)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path, "opening"))?;
        Ok(Self { path, file })
    }

    /// Appends the event of a line of `metrics.jsonl`.
    pub fn write(&mut self, line: &[u8]) -> Result<()> {
        self.file.write_all(&record_of(line)).map_err(Error::io(&self.path, "writing"))
    }
}

/// The record of a line of `metrics.jsonl`; empty if the line has no number to show.
fn record_of(line: &[u8]) -> Vec<u8> {
    let Ok(line) = serde_json::from_slice::<LoggedLine>(line) else { return Vec::new() };
    let scalars: Vec<_> = scalars(&line).collect();
    match scalars.is_empty() {
        true => Vec::new(),
        false => record(&event(line.step, Payload::Scalars(&scalars))),
    }
}

/// The numbers of a line under the tags that transformers' trainer gives them.
fn scalars(line: &LoggedLine) -> impl Iterator<Item = (&'static str, f64)> + use<> {
    let scalars = [
        ("train/loss", line.loss),
        ("train/grad_norm", line.grad_norm),
        ("train/projected_grad", line.projected_grad),
        ("train/learning_rate", line.lr),
        ("train/tokens_per_second", line.tokens_per_second),
        ("eval/nll", line.eval_nll),
        ("eval/accuracy", line.eval_accuracy),
        ("eval/score", line.eval_score),
    ];
    scalars.into_iter().filter_map(|(tag, value)| Some((tag, value?)))
}

enum Payload<'a> {
    Version,
    Scalars(&'a [(&'static str, f64)]),
}

/// Encodes an `Event`.
fn event(step: u64, payload: Payload<'_>) -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // A key is the field's number times 8, plus its type: 0 varint, 1 eight bytes, 2 bytes of a length, 5 four bytes.
    let mut event = vec![1 << 3 | 1];
    event.extend(now.as_secs_f64().to_le_bytes());
    event.push(2 << 3);
    push_varint(&mut event, step);
    match payload {
        Payload::Version => push_bytes(&mut event, 3, b"brain.Event:2"),
        Payload::Scalars(scalars) => {
            let mut summary = Vec::new();
            for (tag, scalar) in scalars {
                let mut value = Vec::new();
                push_bytes(&mut value, 1, tag.as_bytes());
                value.push(2 << 3 | 5);
                value.extend((*scalar as f32).to_le_bytes());
                push_bytes(&mut summary, 1, &value);
            }
            push_bytes(&mut event, 5, &summary);
        }
    }
    event
}

fn push_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    push_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn push_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// Frames `data` as a TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), data, &masked_crc(data)].concat()
}

fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli, RFC 3720), bit by bit: an event has some hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED: u32 = 0x82f6_3b78;
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { REVERSED } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, B.4.
    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&rising), 0x46dd_794e);
    }

    /// Expected bytes from `tensorboard.summary.writer.record_writer.RecordWriter` 2.21.
    #[test]
    fn a_record_is_framed_as_tensorboard_frames_it() {
        let hex: String = record(b"qzo").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, RECORD_OF_QZO);
    }
    const RECORD_OF_QZO: &str = "0300000000000000b099490e717a6fcf3d2c22";

    /// The data of each record, whose lengths and checksums must be right.
    fn data(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(file[8..12], masked_crc(&file[..8]));
            assert_eq!(file[12 + length..16 + length], masked_crc(&file[12..12 + length]));
            found.push(file[12..12 + length].to_vec());
            file = &file[16 + length..];
        }
        found
    }

    #[test]
    fn a_resumed_run_writes_the_events_of_an_uninterrupted_one() {
        let place = tempfile::tempdir().unwrap();
        let lines = [
            &br#"{"step":0,"eval_nll":0.7,"eval_accuracy":0.5,"eval_n":4}"#[..],
            br#"{"step":1,"loss":0.5,"grad_norm":2.0,"lr":0.1,"tokens_per_second":9.0}"#,
            br#"{"step":300,"loss":null,"grad_norm":null,"lr":0.05,"skipped":true}"#,
        ];
        let (whole, resumed) = (place.path().join("a/whole"), place.path().join("b"));
        let mut file = EventFile::create(&whole, b"").unwrap();
        lines.iter().for_each(|line| file.write(line).unwrap());
        let mut file = EventFile::create(&resumed, b"").unwrap();
        file.write(lines[0]).unwrap();
        file.write(br#"{"step":7,"loss":3.0}"#).unwrap();
        let mut file = EventFile::create(&resumed, &lines[..2].join(&b'\n')).unwrap();
        file.write(lines[2]).unwrap();

        // The first 9 bytes are the time.
        let events = |directory: &Path| -> Vec<Vec<u8>> {
            let file = std::fs::read(directory.join(NAME)).unwrap();
            data(&file).into_iter().map(|event| event[9..].to_vec()).collect()
        };
        assert_eq!(events(&whole), events(&resumed));
        let [version, before, first, last] = &events(&whole)[..] else { panic!("four events") };
        assert_eq!(version[..], *b"\x10\x00\x1a\x0dbrain.Event:2");
        assert!(before.starts_with(b"\x10\x00\x2a") && first.starts_with(b"\x10\x01\x2a"));
        let value = [b"\x0a\x0atrain/loss\x15", &0.5f32.to_le_bytes()[..]].concat();
        assert!(first.windows(value.len()).any(|part| part == value), "{first:?}");
        let rate = [b"\x0a\x13train/learning_rate\x15", &0.05f32.to_le_bytes()[..]].concat();
        let only = [&b"\x10\xac\x02\x2a\x1c\x0a\x1a"[..], &rate].concat();
        assert_eq!(*last, only, "numbers that were not finite are left out");
    }
}
