//! The headers that kernels include: the place where cubecl looks for them, and other places.

use std::path::{Path, PathBuf};

use super::library::{Version, listed, packages};
use super::places::SearchEnvironment;
use crate::error::{Error, Result};

/// Headers that kernels include, and those of another package that these include.
const NEEDED: [&str; 4] = ["cuda_runtime.h", "cuda_fp16.h", "mma.h", "crt/mma.h"];

/// The folder whose `include` cubecl gives to NVRTC, whether the headers are there or not: `CUDA_PATH` if it is set, else
/// the first of some folders that exists (cubecl-cuda 0.10, `install::cuda_path`).
pub fn root(environment: &SearchEnvironment) -> Option<PathBuf> {
    if let Some(path) = (environment.variable)("CUDA_PATH").and_then(|path| path.into_string().ok()) {
        return Some(path.into());
    }
    if cfg!(windows) {
        return Some("C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA/".into());
    }
    if !cfg!(target_os = "linux") {
        return None;
    }
    let places = [("usr/local/cuda", "usr/local/cuda"), ("opt/cuda", "opt/cuda"), ("usr/bin/nvcc", "usr")];
    let (_, root) = places.iter().find(|(sign, _)| environment.root.join(sign).exists())?;
    Some(environment.root.join(root))
}

/// The headers that `root` lacks, as paths relative to it.
pub fn missing(root: &Path) -> Vec<PathBuf> {
    let files = NEEDED.iter().map(|name| Path::new("include").join(name));
    files.filter(|file| !root.join(file).is_file()).collect()
}

/// Checks that the folder in which cubecl looks has the headers, and gives it.
///
/// # Errors
/// Headers that are missing, with advice on how to install them.
pub fn check(environment: &SearchEnvironment, driver: Option<Version>) -> Result<PathBuf> {
    let install = match driver {
        // The wheels of CUDA 12 spread the headers over several folders, of which cubecl uses one.
        Some(Version { major: ..13, minor }) => format!("install the CUDA toolkit 12.{minor} or older"),
        _ => {
            let names = ["nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-cccl"];
            let packages = driver.map_or_else(|| listed(&names, "==13.*"), |_| packages(&names, driver));
            format!("install the CUDA toolkit, or the Python packages {packages}")
        }
    };
    let Some(root) = root(environment) else {
        let what = "CUDA's headers were not found in CUDA_PATH, /usr/local/cuda, /opt/cuda or /usr";
        return Err(Error::device(what, install));
    };
    let missing = missing(&root);
    if missing.is_empty() {
        return Ok(root);
    }
    let missing: Vec<String> = missing.iter().map(|file| file.display().to_string()).collect();
    let what = format!("{} lacks CUDA's headers {}", root.display(), missing.join(", "));
    let help = match better_root(environment) {
        Some(other) => format!("set CUDA_PATH={}, which has them", other.display()),
        None => format!("{install}; or set CUDA_PATH to a folder that has them"),
    };
    Err(Error::device(what, help))
}

/// The folder that `CUDA_PATH` should name: one that has the headers, if cubecl's own choice does not.
pub fn better_root(environment: &SearchEnvironment) -> Option<PathBuf> {
    if root(environment).is_some_and(|root| missing(&root).is_empty()) {
        return None;
    }
    let toolkits = environment.toolkits().into_iter().flat_map(|dir| {
        let targets = ["x86_64-linux", "sbsa-linux"].map(|target| dir.join("targets").join(target));
        [dir].into_iter().chain(targets)
    });
    toolkits.chain([environment.root.join("usr")]).find(|dir| missing(dir).is_empty())
}

/// The CUDA version of the headers in `root`.
pub fn version(root: &Path) -> Option<Version> {
    let text = std::fs::read_to_string(root.join("include/cuda_runtime_api.h")).ok()?;
    let number = text.lines().find_map(|line| line.trim().strip_prefix("#define CUDART_VERSION"))?;
    Version::from_number(number.trim().parse().ok()?)
}
