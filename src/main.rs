//! Parse, run, print the error, exit code.
#![expect(clippy::print_stderr, reason = "the one place where errors are printed")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use qzo::cli::{Cli, check_arguments, run};
use qzo::device::faults;
use qzo::error::Error;

fn main() -> ExitCode {
    if let Err(error) = check_arguments(std::env::args_os()) {
        show(&error);
        return ExitCode::from(error.exit_code());
    }
    let cli = Cli::parse();
    keep_freed_memory();
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Without a session there is no display to choose a device by, and Mesa's layer for that would
        // complain on stderr each time Vulkan is opened.
        // SAFETY: nothing has been started yet, so no other thread can be reading the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
    if let Some(folder) = qzo::device::cuda_path_to_set() {
        // SAFETY: nothing has been started yet, so no other thread can be reading the environment.
        unsafe { std::env::set_var("CUDA_PATH", folder) };
    }
    // Drivers and their bindings panic on what they cannot do; the message is shown below, once. What a
    // device's own threads panic with, `faults` keeps; it leaves this hook in place.
    std::panic::set_hook(Box::new(|_| ()));
    match catch_unwind(AssertUnwindSafe(|| run(cli))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            show(&error);
            ExitCode::from(error.exit_code())
        }
        Err(panic) => {
            // Where a device has failed, that is the cause.
            let error = faults::check().err().unwrap_or_else(|| {
                let text = faults::message(&*panic);
                Error::device(
                    format!("the program stopped where it should not have: {text}"),
                    "a device out of memory shows up like this: try a smaller batch or --device cpu; else please report it",
                )
            });
            show(&error);
            ExitCode::FAILURE
        }
    }
}

fn show(error: &Error) {
    eprintln!("error: {error}");
    if let Some(help) = error.help() {
        eprintln!("  help: {help}");
    }
}

/// Activations are allocated and freed again layer after layer. By default glibc gives blocks of their size
/// back to the system each time and pays for every page of the next one with a fault. Larger blocks than
/// this still go back: kept, they would leave holes that nothing fits into.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const KEPT: libc::c_int = 16 << 20;
        const FREE_AT_THE_TOP: libc::c_int = 1 << 30;
        // SAFETY: only sets parameters of the allocator; nothing has been started yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
            libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_AT_THE_TOP);
        }
    }
}
