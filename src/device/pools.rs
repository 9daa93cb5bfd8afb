//! Settings and size of cubecl's memory pools.

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use std::sync::Arc;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, memory::PersistentMemory};

use super::backend::Device;

/// Makes the pools allocate buffers of exactly the size that is asked for, and keep each for the next buffer of its size.
/// By default they allocate pages of up to a quarter of the card's memory, and a part of each page stays unused.
///
/// A `cubecl.toml` and cubecl's environment variables still count; if the file disables persistent memory, the pages
/// stay. There is no effect once a client exists.
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

/// Bytes that the driver takes in addition to the pools.
pub fn context(device: &Device) -> u64 {
    match device {
        Device::Cpu => 0,
        // Command buffers, pipelines and staging memory.
        #[cfg(feature = "wgpu")]
        Device::Wgpu(_) => 128 << 20,
        // The context with its kernels, cuBLAS's workspace, and the kernels that cuBLAS loads when it is first used:
        // 410 MiB on an H200. Smaller cards have fewer units that memory is set aside for.
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => 440 << 20,
    }
}

/// Bytes that this thread's pools hold of the device's memory; `None` on the host, which has no pools.
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
