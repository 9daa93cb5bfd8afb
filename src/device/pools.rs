//! How cubecl's pools hold a device's memory.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use std::sync::Arc;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, memory::PersistentMemory};

use super::Device;

/// Makes the pools allocate exactly what is asked for, and keep it for the next buffer of the same size. By
/// default they take pages of up to a quarter of the card's memory, and a part of each stays unused.
///
/// A `cubecl.toml` and cubecl's variables in the environment are heeded as ever; a file that disables
/// persistent memory keeps the pages. Without effect once a client has been made.
pub(super) fn allocate_exactly() {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    {
        let mut current = CubeClRuntimeConfig::storage().lock();
        if current.is_none() {
            let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
            if matches!(config.memory.persistent_memory, PersistentMemory::Enabled) {
                config.memory.persistent_memory = PersistentMemory::Enforced;
            }
            *current = Some(Arc::new(config));
        }
    }
}

/// Bytes that a driver takes for itself, beside what the pools take.
pub fn context(device: &Device) -> u64 {
    match device {
        Device::Cpu => 0,
        // Command buffers, pipelines, and memory that is copied through.
        #[cfg(feature = "wgpu")]
        Device::Wgpu(_) => 128 << 20,
        // The context with its kernels, cuBLAS's workspace, and what cuBLAS loads when it is first asked for:
        // 410 MiB on an H200, and smaller cards keep less for each of their units.
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => 440 << 20,
    }
}

/// Bytes that this thread's pools have taken from the device; `None` on the host, where there are none.
/// Bytes that they gave back do not count.
pub fn reserved(device: &Device) -> Option<u64> {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    use cubecl::Runtime;
    match device {
        Device::Cpu => None,
        #[cfg(feature = "wgpu")]
        Device::Wgpu(device) => usage(cubecl::wgpu::WgpuRuntime::client(device).memory_usage()),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => usage(cubecl::cuda::CudaRuntime::client(device).memory_usage()),
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn usage(usage: Result<cubecl::MemoryUsage, cubecl::server::ServerError>) -> Option<u64> {
    usage.ok().map(|usage| usage.bytes_reserved)
}
