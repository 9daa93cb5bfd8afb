//! The section of `qzo doctor` about the libraries for an NVIDIA card.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// The libraries and headers that CUDA kernels need, and cuBLAS, which is faster than they are.
#[derive(Debug, Serialize)]
pub struct CudaLibraries {
    /// `null` if no driver is installed.
    pub driver: Option<CudaDriver>,
    /// The compiler of kernels.
    pub nvrtc: CudaComponent,
    /// Dense products; optional.
    pub cublas: CudaComponent,
    /// The folder whose `include` the compiler uses.
    pub headers: CudaComponent,
    /// Advice on each thing that does not work or could be better.
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct CudaDriver {
    /// Version of the driver, like "580.95.05", if the system tells it.
    pub release: Option<String>,
    /// The newest CUDA that the driver works with, like "13.0".
    pub cuda: String,
}

/// A library or a folder: `path` and `version` if it was found, else `problem`.
#[derive(Debug, Default, Serialize)]
pub struct CudaComponent {
    /// Written as text with replacements for bytes that are not UTF-8, because it is only read by people.
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
            Some(CudaDriver { release: Some(release), cuda }) => {
                write!(f, "{release}, for CUDA up to {cuda}")?
            }
            Some(CudaDriver { release: None, cuda }) => write!(f, "for CUDA up to {cuda}")?,
            None => f.write_str("none")?,
        }
        for (name, part) in [("nvrtc", &self.nvrtc), ("cublas", &self.cublas), ("headers", &self.headers)] {
            write!(f, "\n  {name:8} {part}")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n  note: {note}"))
    }
}

impl fmt::Display for CudaComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().unwrap_or("unknown version");
        match (&self.path, &self.problem) {
            (Some(path), None) => write!(f, "{version}, {}", path.display()),
            (_, Some(problem)) => f.write_str(problem),
            (None, None) => f.write_str("none"),
        }
    }
}
