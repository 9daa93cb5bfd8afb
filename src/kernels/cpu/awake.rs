//! Threads that stay awake from one kernel to the next.
//!
//! A step of a small model is a thousand kernels, and between two of them one thread works alone for some microseconds.
//! Rayon lets the others sleep then, and to wake one takes longer than it slept.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;

/// How long a thread looks for work after the last kernel has begun, or after the last task.
const PATIENCE: Duration = Duration::from_millis(1);

/// Kernels that have begun.
static BEGUN: AtomicU32 = AtomicU32::new(0);
/// Threads that have been asked to look for work, and are not done with it.
static LOOKING: AtomicUsize = AtomicUsize::new(0);

/// Keeps the threads awake for a while. A kernel calls it that has work for all of them.
pub(super) fn keep_awake() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let threads = rayon::current_num_threads();
    if threads == 1 || LOOKING.compare_exchange(0, threads, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    let caller = rayon::current_thread_index();
    rayon::spawn_broadcast(move |context| {
        // The caller has the next kernel to begin.
        if Some(context.index()) != caller {
            look_for_work();
        }
        LOOKING.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Runs tasks until there have been none for a while. A thread that takes this up while it waits for another thread's task
/// comes back to it: without that task no kernel ends, so none begins.
fn look_for_work() {
    let (mut begun, mut since) = (BEGUN.load(Ordering::Relaxed), Instant::now());
    while since.elapsed() < PATIENCE {
        let now = BEGUN.load(Ordering::Relaxed);
        if rayon::yield_now() == Some(Yield::Executed) || now != begun {
            (begun, since) = (now, Instant::now());
        }
        // For other programs.
        std::thread::yield_now();
    }
}
