//! From "cuda:0", "wgpu", "cpu" or "auto" to a backend that was seen to work. The only place that
//! knows which backends this binary was built with; everything is probed before a backend is touched,
//! because the drivers' loaders panic where a library is missing.

#[cfg(feature = "wgpu")]
mod adapter;
#[cfg(feature = "cuda")]
mod cuda;
pub mod faults;
pub mod host;
pub mod pools;
pub mod report;

#[cfg(feature = "cuda")]
pub use cuda::{CudaLibrary, Version, cuda_library};

use std::fmt;
use std::str::FromStr;

#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
use crate::error::Error;
use crate::error::Result;

/// A device that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// The first that works: cuda, then a wgpu card (not a software one), then cpu.
    #[default]
    Auto,
    Cpu,
    Wgpu(Option<usize>),
    Cuda(usize),
}

/// A device that works.
#[derive(Debug, Clone, PartialEq)]
pub enum Device {
    Cpu,
    #[cfg(feature = "wgpu")]
    Wgpu(burn_wgpu::WgpuDevice),
    #[cfg(feature = "cuda")]
    Cuda(burn_cuda::CudaDevice),
}

/// The floating-point type of activations and unpacked weights; on the CPU that of the packed products'
/// inputs in training. Losses and scales are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    #[default]
    F32,
    F16,
    Bf16,
}

/// A compute type that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DtypeSpec {
    /// The fastest whose rounding stays well below the noise of a batch: see the README.
    #[default]
    Auto,
    Fixed(ComputeType),
}

/// Runs `$body` with `$B` as the backend type and `$device` as its device: once per backend built in.
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
            // Before anything is asked of it.
            faults::watch();
            pools::allocate_exactly();
        }
        Ok(device)
    }
}

impl Device {
    /// Bytes of its memory that are free, where its driver tells.
    pub fn free_memory(&self) -> Option<u64> {
        match self {
            Self::Cpu => host::available(),
            // Neither Vulkan nor Metal tells what other programs have left.
            #[cfg(feature = "wgpu")]
            Self::Wgpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => cuda::free_memory(device.index),
        }
    }

    /// Whether it is an NVIDIA card, on which products are unpacked at any number of rows.
    pub fn is_cuda(&self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => true,
            _ => false,
        }
    }

    /// Whether its memory is this process's own.
    pub fn is_host(&self) -> bool {
        *self == Self::Cpu
    }
}

impl From<ComputeType> for burn::tensor::DType {
    fn from(dtype: ComputeType) -> Self {
        match dtype {
            ComputeType::F32 => Self::F32,
            ComputeType::F16 => Self::F16,
            ComputeType::Bf16 => Self::BF16,
        }
    }
}

/// One line per backend for `qzo doctor`: its name, and what was found or what is missing.
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

/// The libraries that CUDA kernels need, for `qzo doctor`; `None` in a build without them.
pub fn cuda_libraries() -> Option<report::CudaLibraries> {
    cuda::libraries()
}

/// The folder that a program should name in `CUDA_PATH` before it starts anything, because NVIDIA's headers
/// lie there and not where cubecl would look; `None` where there is nothing to set.
pub fn cuda_path_to_set() -> Option<std::path::PathBuf> {
    cuda::path_to_set()
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::*;

    pub fn libraries() -> Option<report::CudaLibraries> {
        None
    }

    pub fn path_to_set() -> Option<std::path::PathBuf> {
        None
    }

    pub fn open(_: usize) -> Result<Device> {
        absent("cuda")
    }

    pub fn describe() -> Result<String> {
        absent("cuda")
    }
}

#[cfg(not(feature = "wgpu"))]
mod adapter {
    use super::*;

    pub fn open(_: Option<usize>) -> Result<Device> {
        absent("wgpu")
    }

    pub fn first_card() -> Result<Device> {
        absent("wgpu")
    }

    pub fn describe() -> Result<String> {
        absent("wgpu")
    }
}

#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
fn absent<T>(name: &str) -> Result<T> {
    Err(Error::device(
        format!("this qzo was built without {name}"),
        format!("build it with --features {name}"),
    ))
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => match index.parse::<usize>() {
                Ok(index) => (name, Some(index)),
                Err(_) => return Err(format!("`{index}` is not a device number, as in {name}:0")),
            },
            None => (text, None),
        };
        match (name, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            _ => Err(format!("no such device: `{text}` (expected auto, cpu, wgpu[:n] or cuda[:n])")),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Wgpu(None) => f.write_str("wgpu"),
            Self::Wgpu(Some(index)) => write!(f, "wgpu:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
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

impl fmt::Display for ComputeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for ComputeType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" | "float32" => Ok(Self::F32),
            "f16" | "float16" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            _ => Err(format!("no such dtype: `{text}` (expected f32, f16 or bf16)")),
        }
    }
}

impl fmt::Display for DtypeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(dtype) => dtype.fmt(f),
        }
    }
}

impl FromStr for DtypeSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Fixed)
                .map_err(|error: String| error.replace("(expected ", "(expected auto, ")),
        }
    }
}

impl serde::Serialize for DtypeSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DtypeSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for DeviceSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DeviceSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The device for a test, or `None` with a loud line where this machine has none. `QZO_TEST_DEVICES`
/// (as "wgpu,cuda") names those whose absence is a failure.
#[cfg(test)]
pub fn for_tests(name: &str) -> Option<Device> {
    let spec: DeviceSpec = name.parse().expect("a device name");
    match spec.resolve() {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var("QZO_TEST_DEVICES").unwrap_or_default();
            assert!(!required.split(',').any(|d| d == name), "{name} is required here: {error}");
            eprintln!("SKIPPED on {name}: {error}");
            None
        }
    }
}

/// Runs a test in a process of its own, because what fails on a device fails the rest of its process. `name`
/// is the test's own, from the crate on; `stage` says which of several such processes it is, and `variables`
/// what it finds in its environment.
#[cfg(test)]
pub fn alone(name: &str, stage: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    const VARIABLE: &str = "QZO_TEST_ALONE";
    match std::env::var(VARIABLE) {
        Ok(running) if running == stage => body(),
        Ok(_) => {}
        Err(_) => {
            let program = std::env::current_exe().expect("this test's program");
            let mut child = std::process::Command::new(program);
            child.args([name, "--exact", "--nocapture"]).env(VARIABLE, stage);
            child.envs(variables.iter().copied());
            let output = child.output().expect("it starts");
            let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("1 passed") && output.status.success(), "{name}, {stage}:\n{text}");
        }
    }
}
