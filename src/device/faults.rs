//! A record of failures on devices. Allocations and launches run on a thread of cubecl's, which catches their panics and
//! continues: launches that needed the buffer are skipped, and the next read gives whatever the memory held before. So
//! every failure is recorded here, and no result that was read after a failure is used.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Once, OnceLock};

use crate::error::{Error, Result};

/// The first failure of the process. Later failures follow from it.
static FIRST: OnceLock<String> = OnceLock::new();

/// Starts of the names of cubecl's threads that serve a device. The device's number follows.
const SERVERS: [&str; 2] = ["DSU-", "DSD-"];

/// Number of characters of a device's message that are shown.
const SHOWN: usize = 300;

/// Records the panics in threads of devices from now on. A panic hook that is already set stays in use.
pub(super) fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            if SERVERS.iter().any(|server| name.starts_with(server)) {
                let text = panic.payload_as_str().unwrap_or("a panic without a message");
                tracing::debug!("{name}: {text}");
                report(text);
            }
            earlier(panic);
        }));
    });
}

/// Records a failure that neither panics nor is returned, such as a status of a library that a launch calls.
pub fn report(what: impl Into<String>) {
    let _ = FIRST.set(what.into());
}

/// Checks that nothing has failed.
///
/// # Errors
/// `Error::Device` with the first failure of the process.
pub fn check() -> Result<()> {
    FIRST.get().map_or(Ok(()), |text| Err(explained(text)))
}

/// Calls `wait` and gives its answer if nothing has failed by then. `wait` must not return before the device has finished.
///
/// # Errors
/// `Error::Device` with the first failure of the process, or that of `wait`.
pub fn checked<T, E: Display>(wait: impl FnOnce() -> Result<T, E>) -> Result<T> {
    let text = match catch_unwind(AssertUnwindSafe(wait)) {
        Ok(Ok(answer)) => return check().map(|()| answer),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => message(&*panic).to_string(),
    };
    Err(explained(FIRST.get_or_init(|| text)))
}

/// The message of a panic.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown cause")
}

/// Turns a library's message into an error with advice.
fn explained(text: &str) -> Error {
    let lower = text.to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
    let shown = shortened(text);
    let refused =
        ["allocate buffer", "allocation error", "out of memory", "out_of_memory", "not enough memory"];
    let too_large = ["maximum buffer size", "buffer_binding_size"];
    if says(&refused) || says(&too_large) {
        let size = ["of size: ", "buffer size ", " range "].iter().find_map(|before| number(&lower, before));
        let what = match size {
            Some(bytes) => format!("the device refused a buffer of {bytes} bytes: {shown}"),
            None => format!("the device refused memory: {shown}"),
        };
        Error::device(
            what,
            "lower train.batch_size or data.max_seq_length, use a smaller model, or --device cpu",
        )
    } else if says(&["compil", "nvrtc"]) {
        Error::device(
            format!("a kernel does not compile for the device: {shown}"),
            "see what `qzo doctor` finds, or use --device cpu",
        )
    } else {
        Error::device(
            format!("the device failed: {shown}"),
            "try a smaller batch, or --device cpu; if neither helps, please report it",
        )
    }
}

/// The number that follows `before`.
fn number(text: &str, before: &str) -> Option<u64> {
    let (_, after) = text.split_once(before)?;
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    after[..digits].parse().ok()
}

/// One line without the backtrace.
fn shortened(text: &str) -> String {
    let text = text.strip_prefix("called `Result::unwrap()` on an `Err` value: ").unwrap_or(text);
    let frame = |line: &str| line.split_once(": ").is_some_and(|(n, _)| n.parse::<u32>().is_ok());
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let told = lines.take_while(|line| !line.to_lowercase().contains("backtrace") && !frame(line));
    let mut line = told.collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_librarys_message_becomes_one_sentence_with_a_setting_to_change() {
        for (text, what, help) in [
            (
                "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 9437184\n   0: <cubecl>\n",
                "the device refused a buffer of 9437184 bytes: can't",
                "train.batch_size",
            ),
            ("wgpu error: Out of Memory\n", "the device refused memory: wgpu error", "data.max_seq_length"),
            (
                "wgpu error: Validation Error\n\nCaused by:\n  In Device::create_bind_group\n    Buffer binding 0 range 268435456 exceeds `max_*_buffer_binding_size` limit 134217728\n",
                "the device refused a buffer of 268435456 bytes",
                "train.batch_size",
            ),
            (
                "An error caused the compilation to fail\nCaused by:\n  nvrtc: no such thing\nBacktrace:\nNo backtrace available",
                "a kernel does not compile for the device: An error caused the compilation to fail Caused by: nvrtc: no such thing",
                "qzo doctor",
            ),
            ("cuBLAS answers 13", "the device failed: cuBLAS answers 13", "--device cpu"),
        ] {
            let error = explained(text);
            assert!(error.to_string().starts_with(what), "{error}");
            assert!(!error.to_string().contains(['\n', '<']), "{error}");
            assert!(error.help().is_some_and(|h| h.contains(help)), "{error:?}");
        }
    }

    #[test]
    fn a_long_message_is_cut() {
        let shown = shortened(&"ä".repeat(4000));
        assert_eq!(shown.chars().count(), SHOWN + 1);
    }
}
