//! Files that survive a power cut and appear whole or not at all. Nothing outside this module renames a file or
//! syncs one to the disk.
//!
//! ```text
//! atomic    one file, replaced as a whole; the names in a directory made durable
//! staging   a directory in the making, which gets its name once everything in it is on the disk
//! placed    a large file whose parts are written in any order, and which a killed process's successor goes on with
//! log       a file that grows piece by piece, each on the disk before the next
//! lock      a file that one process holds at a time
//! scratch   memory for a while, plain or a file's
//! pages     files mapped into memory
//! json      JSON files
//! ```

pub mod atomic;
pub mod json;
pub mod lock;
pub mod log;
pub mod pages;
pub mod placed;
pub mod scratch;
pub mod staging;
