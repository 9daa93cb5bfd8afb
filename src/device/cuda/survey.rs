//! Collects the parts of CUDA that were found, and advice on those that are missing or do not fit together.

use super::headers;
use super::library::{self, CudaLibrary, Version, advice, driver_fits};
use super::places::SearchEnvironment;
use crate::device::report::{CudaComponent, CudaDriver, CudaLibraries};
use crate::error::{Error, Result};

pub fn libraries() -> Option<CudaLibraries> {
    let environment = SearchEnvironment::this();
    let driver = library::driver_version();
    let (nvrtc, cublas) = (library::cuda_library("nvrtc"), library::cuda_library("cublas"));
    let root = headers::root(&environment);
    let versions = Versions {
        driver,
        nvrtc: nvrtc.as_ref().ok().and_then(|found| found.version),
        cublas: cublas.as_ref().ok().and_then(|found| found.version),
        headers: root.as_deref().and_then(headers::version),
    };
    let headers = match headers::check(&environment, driver) {
        Ok(root) => CudaComponent {
            path: Some(root),
            version: versions.headers.map(|v| v.to_string()),
            problem: None,
        },
        Err(error) => CudaComponent { path: root, version: None, problem: Some(full(&error)) },
    };
    let mut notes = versions.notes();
    if cublas.is_err() {
        notes.push(format!(
            "without cuBLAS, which is optional, large products use cubek's kernels; to use cuBLAS, {}",
            advice("cublas", driver)
        ));
    }
    Some(CudaLibraries {
        driver: driver.map(|cuda| CudaDriver { release: release(), cuda: cuda.to_string() }),
        nvrtc: part(nvrtc, full),
        // A note says how to install it.
        cublas: part(cublas, Error::to_string),
        headers,
        notes,
    })
}

/// The versions of the driver and libraries that were found.
#[derive(Clone, Copy, Default)]
pub struct Versions {
    pub driver: Option<Version>,
    pub nvrtc: Option<Version>,
    pub cublas: Option<Version>,
    pub headers: Option<Version>,
}

impl Versions {
    /// A note on each pair that does not work together.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let (Some(driver), Some(nvrtc)) = (self.driver, self.nvrtc)
            && !driver_fits(driver, "nvrtc", nvrtc)
        {
            notes.push(format!("{}: {}", too_new(driver, nvrtc), advice("nvrtc", Some(driver))));
        }
        if let (Some(driver), Some(cublas)) = (self.driver, self.cublas)
            && !driver_fits(driver, "cublas", cublas)
        {
            let advice = advice("cublas", Some(driver));
            notes.push(format!("cuBLAS {cublas} does not work with a driver for CUDA {driver}: {advice}"));
        }
        if let (Some(nvrtc), Some(headers)) = (self.nvrtc, self.headers)
            && nvrtc.major != headers.major
        {
            notes.push(format!(
                "the headers belong to CUDA {headers}, NVRTC to {nvrtc}: set CUDA_PATH and QZO_NVRTC_LIB to the same CUDA if kernels do not compile"
            ));
        }
        notes
    }
}

/// Says that no kernel would load.
pub fn too_new(driver: Version, nvrtc: Version) -> String {
    format!(
        "NVRTC {nvrtc} writes kernels that a driver for CUDA {driver} does not load (UNSUPPORTED_PTX_VERSION)"
    )
}

fn part(found: Result<CudaLibrary>, text: impl Fn(&Error) -> String) -> CudaComponent {
    match found {
        Ok(found) => CudaComponent {
            path: Some(found.path),
            version: found.version.map(|version| version.to_string()),
            problem: None,
        },
        Err(error) => CudaComponent { problem: Some(text(&error)), ..CudaComponent::default() },
    }
}

/// An error with its advice.
fn full(error: &Error) -> String {
    match error.help() {
        Some(help) => format!("{error} ({help})"),
        None => error.to_string(),
    }
}

/// The driver's own version, from its kernel module.
fn release() -> Option<String> {
    release_in(&std::fs::read_to_string("/proc/driver/nvidia/version").ok()?)
}

/// The version in a text like "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build …".
pub fn release_in(text: &str) -> Option<String> {
    let number = |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    text.lines().next()?.split_whitespace().find(number).map(str::to_string)
}
