//! The program: parses the command line, runs the command, prints an error and sets the exit code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use qzo::cli::{check_arguments, parse, run, show};
use qzo::device::faults;
use qzo::error::Error;
use rayon::ThreadPoolBuilder;

fn main() -> ExitCode {
    if let Err(error) = check_arguments(std::env::args_os()) {
        show(&error);
        return ExitCode::from(error.exit_code());
    }
    let cli = parse();
    keep_freed_memory();
    if let Err(error) = join_pool() {
        show(&error);
        return ExitCode::from(error.exit_code());
    }
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Without a desktop session there is no display. Mesa's layer that selects a device by its display would
        // complain on stderr each time Vulkan is opened; this variable switches the layer off.
        // SAFETY: nothing has been started yet, so no other thread can be reading the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
    if let Some(folder) = qzo::device::cuda_path_to_set() {
        // SAFETY: nothing has been started yet, so no other thread can be reading the environment.
        unsafe { std::env::set_var("CUDA_PATH", folder) };
    }
    // Drivers and their bindings panic on errors. The message is printed once, below, so the hook prints nothing.
    // `faults` records the panics of a device's own threads and then calls this hook.
    std::panic::set_hook(Box::new(|_| ()));
    match catch_unwind(AssertUnwindSafe(|| run(cli))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            show(&error);
            ExitCode::from(error.exit_code())
        }
        Err(panic) => {
            // If a device has failed, its failure is the cause of the panic.
            let error = faults::check().err().unwrap_or_else(|| {
                let text = faults::message(&*panic);
                Error::device(
                    format!("the program failed unexpectedly: {text}"),
                    "a device that runs out of memory can fail like this: try a smaller batch or --device cpu; otherwise please report it",
                )
            });
            show(&error);
            ExitCode::FAILURE
        }
    }
}

/// Makes this thread one of those that share the work of the CPU's kernels. Otherwise it would sleep during every kernel
/// and be woken after it, some thousand times a step.
fn join_pool() -> Result<(), Error> {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse().ok());
    let threads =
        asked.filter(|count| *count > 0).or(std::thread::available_parallelism().ok().map(usize::from));
    // A pool of one thread is another thread than this one: while this one waits for a file, its writer needs the pool.
    let builder = match threads {
        Some(threads) if threads > 1 => ThreadPoolBuilder::new().num_threads(threads).use_current_thread(),
        _ => ThreadPoolBuilder::new(),
    };
    builder.build_global().map_err(|error| {
        Error::device(format!("cannot start threads: {error}"), "raise the limit on threads (ulimit -u)")
    })
}

/// Tells glibc to keep freed blocks of up to 16 MiB instead of returning them to the system.
///
/// Activations are allocated and freed again in every layer. By default glibc returns blocks of their size each time,
/// and every page of the next block costs a page fault. Larger blocks are still returned, because their freed space
/// would fragment the heap.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const MMAP_THRESHOLD: libc::c_int = 16 << 20;
        const TRIM_THRESHOLD: libc::c_int = 1 << 30;
        // SAFETY: only sets parameters of the allocator; nothing has been started yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
        }
    }
}
