//! Stand-ins for the backends that this build lacks.

#[cfg(not(feature = "cuda"))]
pub mod cuda {
    use std::path::PathBuf;

    use super::absent;
    use crate::device::backend::Device;
    use crate::device::report::CudaLibraries;
    use crate::error::Result;

    pub fn libraries() -> Option<CudaLibraries> {
        None
    }

    pub fn path_to_set() -> Option<PathBuf> {
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
pub mod adapter {
    use super::absent;
    use crate::device::backend::Device;
    use crate::error::Result;

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
fn absent<T>(name: &str) -> crate::error::Result<T> {
    Err(crate::error::Error::device(
        format!("this qzo was built without {name}"),
        format!("build it with --features {name}"),
    ))
}
