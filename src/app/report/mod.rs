//! A page about one or more runs: a single HTML file that loads nothing from elsewhere.
//!
//! ```text
//! read       the files of a run
//! results    the evaluations of a run as a table
//! curves     the metrics of runs as charts
//! chart      a chart as SVG; axis has its ticks and labels
//! examples   rows with the answers before and after
//! facts      command, device, versions, configuration
//! page       the whole page; style.css and script.js are put into it
//! text       escaping, and numbers with their units
//! ```

mod axis;
mod chart;
mod curves;
mod examples;
mod facts;
mod page;
mod read;
mod results;
mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::check_html;
use crate::error::{Error, Result};
use crate::storage::atomic::write_atomically;

/// A report on runs.
#[derive(Debug, Clone)]
pub struct ReportJob {
    /// The run directories.
    pub runs: Vec<PathBuf>,
    /// The file to write. Default: `report.html` in the directory of the only run; of several runs, in the current
    /// directory.
    pub output: Option<PathBuf>,
}

/// The written report.
#[derive(Debug, Clone, Serialize)]
pub struct RunsReport {
    pub output: PathBuf,
    /// Number of runs.
    pub runs: usize,
}

/// Writes a page about runs. They may still be in progress. An earlier page is replaced.
///
/// # Errors
/// No run is named; a directory is not that of a run; the output's name does not end in .html; it cannot be written.
pub fn report(job: &ReportJob) -> Result<RunsReport> {
    let output = match (&job.output, &job.runs[..]) {
        (_, []) => return Err(Error::invalid("no run is named", "give one or more run directories")),
        (Some(output), _) => output.clone(),
        (None, [run]) => run.join("report.html"),
        (None, _) => Path::new("report.html").to_path_buf(),
    };
    check_html(&output)?;
    let runs = read::runs(&job.runs)?;
    write_atomically(&output, page::page(&runs).as_bytes())?;
    Ok(RunsReport { output, runs: runs.len() })
}
