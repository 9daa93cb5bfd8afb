//! The one error type. A message says what is wrong and where; `help` says what to do about it.
//! Nothing here prints: `main` does, once.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation on a file failed: missing file, no permission, full disk.
    #[error("{}: {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },

    /// A file's bytes contradict its format: cut short, overlapping, hostile.
    #[error("{}: {what}", path.display())]
    Damaged { path: PathBuf, what: String },

    /// A tensor is missing or is not as the model needs it.
    #[error("{}: tensor `{tensor}`: {what}", path.display())]
    Tensor { path: PathBuf, tensor: String, what: String },

    /// A line of a dataset or a configuration file is wrong.
    #[error("{}:{line}: {what}", path.display())]
    Line { path: PathBuf, line: usize, what: String },

    /// A row of a dataset in a file without lines is wrong. Rows are counted from 1.
    #[error("{}, row {row}: {what}", path.display())]
    Row { path: PathBuf, row: usize, what: String },

    /// The input is well formed, but qzo does not support it.
    #[error("{what}")]
    Unsupported { what: String, help: String },

    /// A device, driver or backend is missing or failed.
    #[error("{what}")]
    Device { what: String, help: Option<String> },

    /// The hub does not answer, refuses the request, or does not have the file or repository.
    #[error("{what}")]
    Hub { what: String, help: String },

    /// Losses were NaN or infinite for so long that training ended.
    #[error("{what}")]
    Diverged { what: String, help: String },

    /// A request contradicts itself or the input: a bad flag, key or value.
    #[error("{what}")]
    Invalid { what: String, help: String },

    /// An assumption of the program does not hold: a bug.
    #[error("internal error: {0}")]
    Internal(String),

    /// The command line itself is wrong: exit code 2.
    #[error("{0}")]
    Usage(String),

    /// Ctrl-C or SIGTERM ended the run, after everything was saved: exit code 130.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

impl Error {
    /// Returns the function that `map_err` needs: `map_err(Error::io(path, "reading"))`.
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    pub fn damaged(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.as_ref().to_path_buf(), what: what.into() }
    }

    pub fn tensor(path: impl AsRef<Path>, tensor: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Tensor { path: path.as_ref().to_path_buf(), tensor: tensor.into(), what: what.into() }
    }

    /// A trained value that the tensor's type in the file cannot hold.
    pub fn overflow(path: impl AsRef<Path>, tensor: &str, what: impl std::fmt::Display) -> Self {
        Self::diverged(
            format!("{}: tensor {tensor}: {what}", path.as_ref().display()),
            "the training has diverged: run it again with a lower train.learning_rate",
        )
    }

    pub fn line(path: impl AsRef<Path>, line: usize, what: impl Into<String>) -> Self {
        Self::Line { path: path.as_ref().to_path_buf(), line, what: what.into() }
    }

    pub fn row(path: impl AsRef<Path>, row: usize, what: impl Into<String>) -> Self {
        Self::Row { path: path.as_ref().to_path_buf(), row, what: what.into() }
    }

    pub fn unsupported(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), help: help.into() }
    }

    pub fn device(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Device { what: what.into(), help: Some(help.into()) }
    }

    pub fn hub(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Hub { what: what.into(), help: help.into() }
    }

    pub fn diverged(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Diverged { what: what.into(), help: help.into() }
    }

    /// An error that no input can cause. Its help asks the user to report it.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::Internal(what.into())
    }

    pub fn invalid(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), help: help.into() }
    }

    /// Puts `name`, the subject of the error, before the message of an [`Error::Invalid`].
    pub fn about(self, name: &str) -> Self {
        match self {
            Self::Invalid { what, help } => Self::Invalid { what: format!("{name}: {what}"), help },
            other => other,
        }
    }

    /// The user's next step, if the message alone does not say it.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Unsupported { help, .. }
            | Self::Hub { help, .. }
            | Self::Diverged { help, .. }
            | Self::Invalid { help, .. } => Some(help),
            Self::Device { help, .. } => help.as_deref(),
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Some("check the path"),
                std::io::ErrorKind::StorageFull => Some(
                    "free some disk space and run the command again; a run of finetune goes on with --resume",
                ),
                std::io::ErrorKind::PermissionDenied => {
                    Some("check the permissions of the file and its folder")
                }
                _ => None,
            },
            Self::Damaged { .. } | Self::Tensor { .. } => {
                Some("the file may be incomplete: fetch or copy it again and compare its size")
            }
            Self::Internal(_) => Some("this is a bug in qzo: please report it"),
            Self::Line { .. } | Self::Row { .. } | Self::Usage(_) | Self::Interrupted(_) => None,
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Interrupted(_) => 130,
            _ => 1,
        }
    }
}

/// The candidate most similar to `given`, for "did you mean"; `None` if none is similar enough.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(given, c), c))
        .min()
        .filter(|(distance, c)| *distance <= given.len().max(c.len()) / 2)
        .map(|(_, c)| c)
}
