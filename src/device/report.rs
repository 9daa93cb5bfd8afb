//! The part of `qzo doctor` about the libraries of an NVIDIA card.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// The libraries and headers that CUDA kernels need beside a card, and cuBLAS, which makes them faster.
#[derive(Debug, Serialize)]
pub struct CudaLibraries {
    /// `null` where no driver is installed.
    pub driver: Option<Driver>,
    /// The compiler of kernels.
    pub nvrtc: Part,
    /// Optional: dense products.
    pub cublas: Part,
    /// The folder whose `include` the compiler is given.
    pub headers: Part,
    /// Advice: each thing that does not work or could be better, with what to do about it.
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Driver {
    /// As "580.95.05", where the system tells.
    pub release: Option<String>,
    /// The newest CUDA that it can work with, as "13.0".
    pub cuda: String,
}

/// A library or a folder: `path` and `version` where it was found, else `problem`.
#[derive(Debug, Default, Serialize)]
pub struct Part {
    /// The path as text, for a report alone: bytes that are not UTF-8 are replaced.
    #[serde(serialize_with = "shown")]
    pub path: Option<PathBuf>,
    pub version: Option<String>,
    pub problem: Option<String>,
}

fn shown<S: serde::Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(to)
}

impl fmt::Display for CudaLibraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA libraries\n  driver   ")?;
        match &self.driver {
            Some(Driver { release: Some(release), cuda }) => write!(f, "{release}, for CUDA up to {cuda}")?,
            Some(Driver { release: None, cuda }) => write!(f, "for CUDA up to {cuda}")?,
            None => f.write_str("none")?,
        }
        for (name, part) in [("nvrtc", &self.nvrtc), ("cublas", &self.cublas), ("headers", &self.headers)] {
            write!(f, "\n  {name:8} {part}")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n  note: {note}"))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().unwrap_or("unknown version");
        match (&self.path, &self.problem) {
            (Some(path), None) => write!(f, "{version}, {}", path.display()),
            (_, Some(problem)) => f.write_str(problem),
            (None, None) => f.write_str("none"),
        }
    }
}
