//! The journal: an append-only file from which a run resumes. It stores neither weights nor data; snapshots of the
//! scales are separate files.
//!
//! All numbers are little endian. A header of 164 bytes, then one record per step:
//!
//! ```text
//! header                                     record
//!   0  8  magic "qzo-jrnl"                     0  8  step
//!   8  4  journal format version, 2            8  8  data cursor after the step
//!  12  4  length of a record in bytes         16  4  flags: bit 0 = step skipped
//!  16  4  method: 0 zo, 1 exact               20     the method's own fields
//!  20  4  perturbation version, 1            end  4  CRC-32 of: header CRC-32 (4), ordinal of the
//!  24  4  zo: probes per step                        record (8), all bytes of the record before
//!  28  1  zo: 0 gaussian, 1 rademacher
//!  29  1  zo: 0 absolute, 1 relative         zo                      exact
//!  30  2  0                                    8  seed of the step    8  f64 loss
//!  32 32  hash of the base model              20  per probe:          8  f64 norm of the gradient
//!  64 32  hash of the config                      f64 loss at +,      8  f64 learning rate as applied
//!  96 32  hash of the tokenizer                   f64 loss at −,     32  hash of the last snapshot before
//! 128 32  hash of the data                        f32 coefficient        the step
//! 160  4  CRC-32 of bytes 0 to 159                as applied
//! ```
//!
//! The scales of a zo run follow from its base model and its records, to the same bits on any device. The scales of an
//! exact run are kept in snapshots; its records hold the losses that the same steps must give when they are repeated.
//!
//! A record is durable before the next one is written, and a new journal appears under its name only after its header
//! is durable. Therefore a crash can leave only one kind of trace, the **torn tail**: bytes after the last good record
//! that are fewer than a record, or exactly as many as a record but with a wrong checksum. A torn tail is cut and
//! reported. Any other error in the file is damage, and the journal is refused, because no record after it could be
//! trusted.

mod bytes;
mod file;
mod header;
mod record;

pub use file::{Journal, TornTail, read};
pub use header::JournalHeader;
pub use record::{Hash, JournalMethod, MAX_PROBES, ProbeRecord, Record, StepTaken};

#[cfg(test)]
mod tests;
