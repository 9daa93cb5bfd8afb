//! Devices, and their backends as types.

use std::fmt;

/// A device that works.
#[derive(Debug, Clone, PartialEq)]
pub enum Device {
    Cpu,
    #[cfg(feature = "wgpu")]
    Wgpu(burn_wgpu::WgpuDevice),
    #[cfg(feature = "cuda")]
    Cuda(burn_cuda::CudaDevice),
}

/// Runs `$body` with `$B` as the backend type and `$device` as its device. `$body` is compiled once for each backend of
/// the build.
macro_rules! with_backend {
    ($spec:expr, |$B:ident, $device:ident| $body:expr) => {
        match $spec {
            $crate::device::Device::Cpu => {
                type $B = burn_flex::Flex;
                let $device = burn_flex::FlexDevice;
                $body
            }
            #[cfg(feature = "wgpu")]
            $crate::device::Device::Wgpu(device) => {
                type $B = burn_wgpu::Wgpu;
                let $device = device.clone();
                $body
            }
            #[cfg(feature = "cuda")]
            $crate::device::Device::Cuda(device) => {
                type $B = burn_cuda::Cuda;
                let $device = device.clone();
                $body
            }
        }
    };
}
pub(crate) use with_backend;

impl Device {
    /// Whether the device is an NVIDIA card, on which products are unpacked at any number of rows.
    pub fn is_cuda(&self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => true,
            _ => false,
        }
    }

    /// Whether the device's memory is that of this process.
    pub fn is_host(&self) -> bool {
        *self == Self::Cpu
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            #[cfg(feature = "wgpu")]
            Self::Wgpu(_) => f.write_str("wgpu"),
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => write!(f, "cuda:{}", device.index),
        }
    }
}
