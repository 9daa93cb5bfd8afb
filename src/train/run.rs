//! The run directory: where each part of a run lies, and its metrics.
//!
//! ```text
//! config.toml        the resolved configuration
//! base/, base.json   the quantized model and where it comes from, where the run quantized it itself
//! journal            every step, durable before the scales move
//! metrics.jsonl      every step and every evaluation
//! snapshot.safetensors, best.safetensors    f32 scales, to resume from and to write best/ from
//! best/, final/      checkpoints in the format the model came in
//! ```

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::storage::atomic::{self, STAGING_PREFIX, write_atomically};

#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the directory for a new run; with `resume`, an existing one is kept as it is.
    ///
    /// # Errors
    /// Something is there already and it is not to be resumed.
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

    /// What was written about the origin of `base/`.
    ///
    /// # Errors
    /// It is there, but cannot be read.
    pub fn read_origin<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>> {
        let path = self.origin();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&path, "reading")(error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::damaged(&path, error.to_string()))
    }

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

    pub fn snapshot(&self) -> PathBuf {
        self.0.join("snapshot.safetensors")
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

    /// Removes what a killed run was writing. Only for the holder of the journal's lock: another process
    /// may be at work otherwise.
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

    pub fn write_config(&self, text: &str) -> Result<()> {
        write_atomically(&self.config(), text.as_bytes())
    }
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Metric {
    Eval {
        /// Steps done when it was measured.
        step: u64,
        eval_nll: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        eval_accuracy: Option<f64>,
        eval_n: usize,
    },
    Step {
        /// Counted from 1.
        step: u64,
        /// Mean of the losses at both signs; absent where one was not finite.
        loss: Option<f64>,
        projected_grad: Option<f64>,
        lr: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens_per_second: Option<f64>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
    },
}

impl Metric {
    fn step(&self) -> u64 {
        match self {
            Self::Eval { step, .. } | Self::Step { step, .. } => *step,
        }
    }

    fn is_eval(&self) -> bool {
        matches!(self, Self::Eval { .. })
    }
}

/// `metrics.jsonl`, open at its end.
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// For a run that has done `done` steps according to its journal: keeps what belongs to those, lets
    /// `missing` say what a killed run did not get to write, and drops the evaluation at `done`, which
    /// is made again.
    pub fn open(
        run: &RunDir,
        done: u64,
        missing: &mut dyn FnMut(u64) -> Metric,
    ) -> Result<(Self, Vec<Metric>)> {
        let path = run.metrics();
        let mut kept: Vec<Metric> = match File::open(&path) {
            Ok(file) => {
                let lines = BufReader::new(file).lines().map_while(|line| line.ok());
                let metrics = lines.filter_map(|line| serde_json::from_str::<Metric>(&line).ok());
                metrics.filter(|m| m.step() < done || (m.step() == done && !m.is_eval())).collect()
            }
            Err(_) => Vec::new(),
        };
        let logged = kept.iter().filter(|m| !m.is_eval()).map(Metric::step).max().unwrap_or(0);
        kept.extend((logged + 1..=done).map(missing));
        let lines: Vec<String> = kept.iter().filter_map(|m| serde_json::to_string(m).ok()).collect();
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        write_atomically(&path, text.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path, "opening"))?;
        Ok((Self { path, file }, kept))
    }

    pub fn write(&mut self, metric: &Metric) -> Result<()> {
        let mut line = serde_json::to_vec(metric).unwrap_or_default();
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io(&self.path, "writing"))?;
        // Steps are in the journal, too. Which evaluation was the best, no other file says.
        match metric.is_eval() {
            true => self.file.sync_data().map_err(Error::io(&self.path, "syncing")),
            false => Ok(()),
        }
    }
}
