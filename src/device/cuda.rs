//! NVIDIA cards: whether driver, compiler and headers are there. `cudarc` panics where one is missing.

use super::Device;
use crate::error::{Error, Result};

pub fn open(index: usize) -> Result<Device> {
    let count = probe()?;
    if index >= count {
        let help = format!("use cuda:0 to cuda:{}, or --device cpu", count.saturating_sub(1));
        return Err(Error::device(format!("there is no CUDA device {index}: {count} found"), help));
    }
    Ok(Device::Cuda(burn_cuda::CudaDevice::new(index)))
}

pub fn describe() -> Result<String> {
    let count = probe()?;
    let names: Vec<String> = (0..count)
        .filter_map(|i| cudarc::driver::result::device::get(i as i32).ok())
        .filter_map(|device| cudarc::driver::result::device::get_name(device).ok())
        .collect();
    Ok(names.join(", "))
}

/// Bytes free on a device that `open` gave.
pub fn free_memory(index: usize) -> Option<u64> {
    use cudarc::driver::result;
    let device = result::device::get(index as i32).ok()?;
    // SAFETY: `device` is valid, and the primary context stays retained for the rest of the process:
    // cubecl uses the same one.
    let context = unsafe { result::primary_ctx::retain(device) }.ok()?;
    // SAFETY: the context was just retained.
    unsafe { result::ctx::set_current(context) }.ok()?;
    result::mem_get_info().ok().map(|(free, _)| free as u64)
}

/// The number of CUDA devices, once driver, compiler and headers are known to be there.
fn probe() -> Result<usize> {
    let missing = |what: &str, help: &str| Err(Error::device(what, help));
    // SAFETY: both only try to open a shared library of the driver or toolkit by name.
    let (driver, compiler) =
        unsafe { (cudarc::driver::sys::is_culib_present(), cudarc::nvrtc::sys::is_culib_present()) };
    if !driver {
        return missing(
            "CUDA is not usable: libcuda was not found",
            "install the NVIDIA driver, or use --device cpu",
        );
    }
    if !compiler {
        let help = "install the CUDA toolkit (or the pip package nvidia-cuda-nvrtc) and put its lib folder on LD_LIBRARY_PATH";
        return missing("CUDA is not usable: libnvrtc was not found", help);
    }
    if !headers_present() {
        let help = "set CUDA_PATH to the CUDA toolkit, the folder that holds include/cuda_runtime.h";
        return missing("CUDA is not usable: its headers were not found", help);
    }
    let count = cudarc::driver::result::init().and_then(|()| cudarc::driver::result::device::get_count());
    match count {
        Ok(count) if count > 0 => Ok(count as usize),
        Ok(_) => missing("CUDA is not usable: the driver reports no device", "use --device cpu"),
        Err(error) => missing(
            &format!("CUDA is not usable: the driver answers {error:?}"),
            "check that nvidia-smi works",
        ),
    }
}

/// Where cubecl will look for the headers that NVRTC needs.
fn headers_present() -> bool {
    let roots = match std::env::var_os("CUDA_PATH") {
        Some(path) => vec![path.into()],
        None => ["/usr/local/cuda", "/opt/cuda", "/usr"].map(std::path::PathBuf::from).to_vec(),
    };
    let header = |root: &std::path::PathBuf| root.join("include/cuda_runtime.h").exists();
    cfg!(windows) || roots.iter().any(header)
}
