//! NVIDIA cards. Driver, compiler and headers are looked for first, because `cudarc` panics if one is missing.

mod alias;
mod headers;
mod library;
mod places;
mod survey;
#[cfg(test)]
mod tests;

pub use library::{CudaLibrary, Version, cuda_library};
pub use survey::libraries;

use std::path::PathBuf;
use std::sync::OnceLock;

use self::places::SearchEnvironment;
use super::backend::Device;
use crate::error::{Error, Result};

/// Opens the card of a number.
pub fn open(index: usize) -> Result<Device> {
    let count = probe()?;
    if index >= count {
        let help = format!("use cuda:0 to cuda:{}, or --device cpu", count.saturating_sub(1));
        return Err(Error::device(format!("there is no CUDA device {index}: {count} found"), help));
    }
    keep_stacks_small(index);
    Ok(Device::Cuda(burn_cuda::CudaDevice::new(index)))
}

/// The names of all cards in one line.
pub fn describe() -> Result<String> {
    let count = probe()?;
    let names: Vec<String> = (0..count)
        .filter_map(|i| cudarc::driver::result::device::get(i as i32).ok())
        .filter_map(|device| cudarc::driver::result::device::get_name(device).ok())
        .collect();
    Ok(names.join(", "))
}

/// Free bytes of a device that `open` gave.
pub fn free_memory(index: usize) -> Option<u64> {
    enter(index)?;
    cudarc::driver::result::mem_get_info().ok().map(|(free, _)| free as u64)
}

/// Makes a device's context current in this thread.
fn enter(index: usize) -> Option<()> {
    use cudarc::driver::result;
    let device = result::device::get(index as i32).ok()?;
    // SAFETY: `device` is valid, and the primary context stays retained for the rest of the process:
    // cubecl uses the same one.
    let context = unsafe { result::primary_ctx::retain(device) }.ok()?;
    // SAFETY: the context was just retained.
    unsafe { result::ctx::set_current(context) }.ok()
}

/// Lowers the stack that a context sets aside for every unit that can run at a time. The default of 1 KiB takes more than
/// a quarter of a gigabyte on a large card. The kernels here use a few bytes, and the driver gives more to a kernel that
/// needs it.
fn keep_stacks_small(index: usize) {
    use cudarc::driver::sys;
    if enter(index).is_some() {
        // SAFETY: a context is current. Where the driver refuses, the default stays.
        unsafe { sys::cuCtxSetLimit(sys::CUlimit::CU_LIMIT_STACK_SIZE, 128) };
    }
}

/// The folder that `CUDA_PATH` must name so that kernels find their headers; `None` if they find them anyway.
pub fn path_to_set() -> Option<PathBuf> {
    headers::better_root(&SearchEnvironment::this())
}

/// Checks that driver, compiler and headers are there, and counts the CUDA devices.
fn probe() -> Result<usize> {
    let Some(driver) = library::driver_version() else {
        return Err(unusable("libcuda was not found", "install the NVIDIA driver, or use --device cpu"));
    };
    let nvrtc = compiler()?;
    if let Some(version) = nvrtc.version
        && !library::driver_fits(driver, "nvrtc", version)
        && !library::is_chosen("nvrtc")
    {
        let help = format!("update the driver; or {}", library::advice("nvrtc", Some(driver)));
        return Err(unusable(survey::too_new(driver, version), help));
    }
    headers::check(&SearchEnvironment::this(), Some(driver))
        .map_err(|e| unusable(&e, e.help().unwrap_or_default()))?;
    let count = cudarc::driver::result::init().and_then(|()| cudarc::driver::result::device::get_count());
    match count {
        Ok(count) if count > 0 => Ok(count as usize),
        Ok(_) => Err(unusable("the driver reports no device", "use --device cpu")),
        Err(error) => Err(unusable(format!("the driver answers {error:?}"), "check that nvidia-smi works")),
    }
}

/// Finds NVRTC once and makes it known to the bindings that cubecl uses.
fn compiler() -> Result<&'static CudaLibrary> {
    static FOUND: OnceLock<CudaLibrary> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let found = cuda_library("nvrtc").map_err(|e| unusable(&e, e.help().unwrap_or_default()))?;
    alias::make(alias::NVRTC, &found.path);
    // SAFETY: only tries to open the compiler's library by name.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        let what = format!("the loader does not accept {} as libnvrtc.so", found.path.display());
        return Err(unusable(what, "put a link to it named libnvrtc.so into a folder on LD_LIBRARY_PATH"));
    }
    Ok(FOUND.get_or_init(|| found))
}

fn unusable(what: impl std::fmt::Display, help: impl Into<String>) -> Error {
    Error::device(format!("CUDA is not usable: {what}"), help)
}
