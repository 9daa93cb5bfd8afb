//! Files that survive a power cut and appear whole or not at all. Only this module renames files and syncs them to the
//! disk; it does not depend on the format of their contents.
//!
//! ```text
//! atomic    one file, replaced as a whole; the names in a directory made durable
//! staging   a directory that gets its name once everything in it is on the disk
//! placed    a large file whose parts are written in any order, which a later process can continue after a kill
//! append    a file that only grows, each addition durable before the next
//! lock      a file that one process holds at a time
//! pages     files mapped into memory
//! scratch   writable memory, or a nameless file mapped, for intermediate results
//! json      JSON files
//! ```

pub mod append;
pub mod atomic;
pub mod json;
pub mod lock;
pub mod pages;
pub mod placed;
pub mod scratch;
pub mod staging;
