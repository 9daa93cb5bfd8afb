//! The run directory and the names of its parts.
//!
//! ```text
//! config.toml        the resolved configuration
//! base/, base.json   the quantized model and its origin, if the run quantized the model itself
//! journal            every step, durable before the scales move
//! metrics.jsonl      every step and every evaluation
//! tensorboard/       the same for TensorBoard, if the recipe asks for it
//! run.json, examples.jsonl    command, device, results; some answers before and after: what a report shows
//! snapshot.safetensors, best.safetensors    f32 scales, to resume from and to write best/ from
//! interrupted.safetensors    the same where Ctrl-C ended the run, if that lies after the snapshot
//! best/, final/      checkpoints in the format the model came in
//! ```

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::storage::atomic::{self, STAGING_PREFIX, write_atomically};

/// The directory of a run.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the directory of a new run. With `resume`, an existing directory is kept as it is.
    ///
    /// # Errors
    /// Without `resume`, a directory with contents, or a file, exists at the path; or an I/O error.
    pub fn create(&self, resume: bool) -> Result<()> {
        let occupied = std::fs::read_dir(&self.0).is_ok_and(|mut entries| entries.next().is_some());
        if (occupied || self.0.is_file()) && !resume {
            return Err(Error::invalid(
                format!("{} exists already", self.0.display()),
                "continue that run with --resume, or choose another directory with -o",
            ));
        }
        atomic::create_directory(&self.0)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    pub fn base(&self) -> PathBuf {
        self.0.join("base")
    }

    /// Reads the origin of `base/`; `None` if the run has recorded none.
    ///
    /// # Errors
    /// The file exists, but cannot be read.
    pub fn read_origin<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>> {
        let path = self.origin();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, "reading")(error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::damaged(&path, error.to_string()))
    }

    /// Records the origin of `base/`.
    ///
    /// # Errors
    /// An I/O error.
    pub fn write_origin(&self, origin: &impl Serialize) -> Result<()> {
        let path = self.origin();
        let text = serde_json::to_vec(origin).map_err(|error| Error::damaged(&path, error.to_string()))?;
        write_atomically(&path, &text)
    }

    fn origin(&self) -> PathBuf {
        self.0.join("base.json")
    }

    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    pub fn tensorboard(&self) -> PathBuf {
        self.0.join("tensorboard")
    }

    pub fn record(&self) -> PathBuf {
        self.0.join("run.json")
    }

    pub fn examples(&self) -> PathBuf {
        self.0.join("examples.jsonl")
    }

    pub fn snapshot(&self) -> PathBuf {
        self.0.join("snapshot.safetensors")
    }

    pub fn interrupted(&self) -> PathBuf {
        self.0.join("interrupted.safetensors")
    }

    /// Removes the scales of an earlier interruption, if there are any.
    ///
    /// # Errors
    /// An I/O error.
    pub fn remove_interrupted(&self) -> Result<()> {
        let path = self.interrupted();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io(&path, "removing")),
        }
    }

    pub fn best_snapshot(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    pub fn best(&self) -> PathBuf {
        self.0.join("best")
    }

    pub fn last(&self) -> PathBuf {
        self.0.join("final")
    }

    /// Removes the unfinished files of a killed run. The caller must hold the journal's lock, because otherwise another
    /// process may still be writing them.
    ///
    /// # Errors
    /// An I/O error.
    pub fn remove_abandoned(&self) -> Result<()> {
        let entries = std::fs::read_dir(&self.0).map_err(Error::io(&self.0, "listing"))?;
        for entry in entries {
            let entry = entry.map_err(Error::io(&self.0, "listing"))?;
            if !entry.file_name().as_encoded_bytes().starts_with(STAGING_PREFIX.as_bytes()) {
                continue;
            }
            let path = entry.path();
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(Error::io(&path, "removing"))?;
        }
        Ok(())
    }

    /// Writes the resolved configuration.
    ///
    /// # Errors
    /// An I/O error.
    pub fn write_config(&self, text: &str) -> Result<()> {
        write_atomically(&self.config(), text.as_bytes())
    }
}
