//! Opens a device by its name, and finds out which ones there are.

use std::path::PathBuf;

#[cfg(not(feature = "wgpu"))]
use super::absent::adapter;
#[cfg(not(feature = "cuda"))]
use super::absent::cuda;
#[cfg(feature = "wgpu")]
use super::adapter;
use super::backend::Device;
#[cfg(feature = "cuda")]
use super::cuda;
use super::report::CudaLibraries;
use super::spec::DeviceSpec;
use super::{faults, host, pools};
use crate::error::Result;

impl DeviceSpec {
    /// Finds the device, or says why it cannot be used.
    ///
    /// # Errors
    /// `Error::Device` with what to install or which device to ask for instead.
    pub fn resolve(self) -> Result<Device> {
        let device = match self {
            Self::Cpu => Device::Cpu,
            Self::Cuda(index) => cuda::open(index)?,
            Self::Wgpu(index) => adapter::open(index)?,
            Self::Auto => cuda::open(0).or_else(|_| adapter::first_card()).unwrap_or(Device::Cpu),
        };
        if !device.is_host() {
            // Both must come before any other use of the device.
            faults::watch();
            pools::allocate_exactly();
        }
        Ok(device)
    }
}

impl Device {
    /// Bytes of the device's memory that are free; `None` if its driver does not tell.
    pub fn free_memory(&self) -> Option<u64> {
        match self {
            Self::Cpu => host::available(),
            // Neither Vulkan nor Metal tells how much memory other programs use.
            #[cfg(feature = "wgpu")]
            Self::Wgpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => cuda::free_memory(device.index),
        }
    }
}

/// A line of `qzo doctor` for each backend: its name, and the devices that were found or the part that is missing.
pub fn survey() -> Vec<(&'static str, String)> {
    let describe = |found: Result<String>| {
        found.unwrap_or_else(|error| match error.help() {
            Some(help) => format!("not usable: {error} ({help})"),
            None => format!("not usable: {error}"),
        })
    };
    vec![
        ("cuda", describe(cuda::describe())),
        ("wgpu", describe(adapter::describe())),
        ("cpu", format!("{} threads", std::thread::available_parallelism().map_or(1, usize::from))),
    ]
}

/// The libraries that CUDA kernels need, for `qzo doctor`; `None` in a build without CUDA.
pub fn cuda_libraries() -> Option<CudaLibraries> {
    cuda::libraries()
}

/// The folder that the program must name in `CUDA_PATH` before it starts anything, because NVIDIA's headers are there and
/// not where cubecl looks; `None` if nothing needs to be set.
pub fn cuda_path_to_set() -> Option<PathBuf> {
    cuda::path_to_set()
}
