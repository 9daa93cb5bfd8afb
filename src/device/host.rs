//! Memory as the operating system reports it; `None` if it does not.

use std::path::{Path, PathBuf};

/// Bytes that this process can still allocate: the system's available memory, limited by the process's control group.
pub fn available() -> Option<u64> {
    let system = field(Path::new("/proc/meminfo"), "MemAvailable:")?;
    Some(control_group().map_or(system, |group| group.min(system)))
}

/// Bytes of this process in memory now.
pub fn resident() -> Option<u64> {
    field(Path::new("/proc/self/status"), "VmRSS:")
}

/// Returns memory to the system that was freed but is kept for the next allocation.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: touches nothing that is allocated; any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Asks for large pages under a buffer that is about to be filled for the first time. With small ones, a model of some
/// gigabytes causes a million page faults.
pub fn prefer_huge_pages<T>(buffer: &mut [T]) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const PAGE: usize = 4096;
        let start = (buffer.as_mut_ptr() as usize).next_multiple_of(PAGE);
        let end = buffer.as_mut_ptr_range().end as usize / PAGE * PAGE;
        if end > start {
            // SAFETY: the pages are inside the buffer, which the caller holds alone. The advice changes how they are
            // backed, not their content. If the system refuses, nothing changes.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = buffer;
}

/// Largest number of bytes of this process that were in memory at one time.
pub fn peak() -> Option<u64> {
    field(Path::new("/proc/self/status"), "VmHWM:")
}

/// The bytes in a line like `name 123 kB`.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Bytes that are left in this process's control group and the groups above it (cgroup v2).
fn control_group() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let groups = Path::new(own).ancestors().map(|group| root.join(group));
    let left = |group: PathBuf| {
        let number = |file: &str| std::fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        // "max" is not a number and means no limit.
        Some(number("memory.max")?.saturating_sub(number("memory.current")?))
    };
    groups.filter_map(left).min()
}
