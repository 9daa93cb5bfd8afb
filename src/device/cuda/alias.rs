//! Makes the bindings that cubecl uses load the NVRTC that `library` found.
//!
//! cudarc, bound to CUDA 12.8, asks the loader for `libnvrtc.so`, `.so.12` and older names. It never asks for the `.so.13`
//! of CUDA 13, and accepts no path. Bound to CUDA 13 it would still not find folders that the loader does not know, and
//! would need functions that many drivers lack. The loader reads `LD_LIBRARY_PATH` only when a program starts.
//!
//! But glibc answers a request by name with any library that is already open under that name. So a library without code
//! is opened here whose name is `libnvrtc.so`, cudarc's first choice, and which depends on the file that was found:
//! symbols that are looked up in it are found in that file.

use std::io::Write;
use std::path::Path;

use libloading::Library;

/// The name that cudarc asks for first.
pub const NVRTC: &str = "libnvrtc.so";

/// Makes the loader use `file` for `name` until the process ends. `None` if that is not possible; then cudarc's own search
/// remains.
pub fn make(name: &str, file: &Path) -> Option<()> {
    if !cfg!(all(
        target_os = "linux",
        target_env = "gnu",
        target_pointer_width = "64",
        target_endian = "little"
    )) {
        return None;
    }
    let target = file.canonicalize().ok()?;
    // The loader needs the file only until it is mapped.
    let mut alias = tempfile::NamedTempFile::new().ok()?;
    alias.write_all(&elf(name, target.to_str()?)).ok()?;
    // SAFETY: when they are opened, the alias and NVIDIA's compiler only set up their own state.
    let library = unsafe { Library::new(alias.path()) }.ok()?;
    std::mem::forget(library);
    Some(())
}

/// The bytes of a shared library without code or symbols, named `name`, that depends on the library in the file `needed`
/// (System V ABI, 64 bits, little endian).
fn elf(name: &str, needed: &str) -> Vec<u8> {
    const HEADER: u64 = 64;
    const SEGMENT: u64 = 56;
    const DYNAMIC: u64 = HEADER + 3 * SEGMENT;
    const SYMBOLS: u64 = DYNAMIC + 7 * 16;
    const STRINGS: u64 = SYMBOLS + 24;
    const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let strings = format!("\0{name}\0{needed}\0");
    let size = STRINGS + strings.len() as u64;

    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    // A shared library of version 1 without an entry point; its segments follow the header.
    for half in [3, MACHINE] {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(1u32.to_le_bytes());
    for word in [0, HEADER, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for half in [HEADER as u16, SEGMENT as u16, 3, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    // The loader writes into the table that it reads, so that all segments are writable. None is executable, and the last
    // entry says that the stack need not be executable either.
    const READ_WRITE: u32 = 6;
    const LARGEST_PAGE: u64 = 0x10000;
    const STACK: u32 = 0x6474_e551;
    for (kind, at, size, align) in
        [(1, 0, size, LARGEST_PAGE), (2, DYNAMIC, SYMBOLS - DYNAMIC, 8), (STACK, 0, 0, 16)]
    {
        bytes.extend([kind, READ_WRITE].map(u32::to_le_bytes).concat());
        bytes.extend([at, at, at, size, size, align].map(u64::to_le_bytes).concat());
    }
    // Name, needed, strings, symbols, the strings' size, a symbol's size, end.
    let needed_at = 1 + name.len() as u64 + 1;
    let entries =
        [(14, 1), (1, needed_at), (5, STRINGS), (6, SYMBOLS), (10, strings.len() as u64), (11, 24), (0, 0)];
    bytes
        .extend(entries.map(|(tag, value): (u64, u64)| [tag, value].map(u64::to_le_bytes).concat()).concat());
    // The empty symbol that every table starts with.
    bytes.resize(STRINGS as usize, 0);
    bytes.extend(strings.as_bytes());
    bytes
}
