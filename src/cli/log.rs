//! Sets up logs and warnings on standard error.

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::warnings::{self, Warnings};

/// Installs the tracing subscriber that prints logs and warnings.
pub fn log_to_stderr(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "qzo=warn,error",
        (false, 1) => "qzo=info,warn",
        (false, _) => "qzo=debug,info",
    };
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_filter(FilterFn::new(|event| !warnings::is_warning(event)))
        .with_filter(EnvFilter::new(level));
    let warnings = Warnings { quiet }.with_filter(FilterFn::new(warnings::is_warning));
    // A subscriber exists already only in tests, which call `run` more than once.
    let _ = tracing_subscriber::registry().with(log).with(warnings).try_init();
}
