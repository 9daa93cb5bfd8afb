//! WGPU adapters, listed through the graphics interface that cubecl uses, too.

use super::backend::Device;
use crate::error::{Error, Result};
use burn_wgpu::WgpuDevice;
use wgpu::{AdapterInfo, DeviceType};

/// Opens the adapter of a number, or the default one.
pub fn open(index: Option<usize>) -> Result<Device> {
    let adapters = adapters();
    if adapters.is_empty() {
        return Err(Error::device(
            "WGPU is not usable: no Vulkan, Metal or DirectX 12 device was found",
            "install a graphics driver (on Debian, mesa-vulkan-drivers brings a software one), or use --device cpu",
        ));
    }
    let Some(index) = index else { return Ok(Device::Wgpu(WgpuDevice::DefaultDevice)) };
    match addresses(&adapters).into_iter().nth(index) {
        Some(device) => Ok(Device::Wgpu(device)),
        None => Err(Error::device(
            format!("there is no WGPU device {index}: {} found", adapters.len()),
            "run `qzo doctor` to list them",
        )),
    }
}

/// Opens the first adapter that is a card. A software rasterizer is slower than `cpu`.
pub fn first_card() -> Result<Device> {
    let adapters = adapters();
    let card = adapters.iter().position(|a| a.device_type != DeviceType::Cpu);
    match card {
        Some(index) => open(Some(index)),
        None => Err(Error::device("no graphics card was found", "use --device cpu")),
    }
}

/// The names of all adapters in one line.
pub fn describe() -> Result<String> {
    open(None)?;
    let names: Vec<String> = adapters()
        .iter()
        .enumerate()
        .map(|(i, a)| format!("wgpu:{i} {} ({:?})", a.name, a.backend))
        .collect();
    Ok(names.join(", "))
}

fn adapters() -> Vec<AdapterInfo> {
    // The interface that cubecl chooses on each system.
    let backends = if cfg!(target_os = "macos") {
        wgpu::Backends::METAL
    } else if cfg!(windows) {
        wgpu::Backends::DX12 | wgpu::Backends::VULKAN
    } else {
        wgpu::Backends::VULKAN
    };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    cubecl::future::block_on(instance.enumerate_adapters(backends)).iter().map(|a| a.get_info()).collect()
}

/// cubecl addresses an adapter by its type and its number within the type.
fn addresses(adapters: &[AdapterInfo]) -> Vec<WgpuDevice> {
    let nth_of_type =
        |i: usize| adapters[..i].iter().filter(|a| a.device_type == adapters[i].device_type).count();
    (0..adapters.len())
        .map(|i| match adapters[i].device_type {
            DeviceType::DiscreteGpu => WgpuDevice::DiscreteGpu(nth_of_type(i)),
            DeviceType::IntegratedGpu => WgpuDevice::IntegratedGpu(nth_of_type(i)),
            DeviceType::VirtualGpu => WgpuDevice::VirtualGpu(nth_of_type(i)),
            DeviceType::Cpu => WgpuDevice::Cpu,
            DeviceType::Other => WgpuDevice::DefaultDevice,
        })
        .collect()
}
