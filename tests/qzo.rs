//! Tests of the program from outside: each runs the built binary on small files and checks its exit code, its output
//! and the files that it leaves. Unit tests are beside the code.
//!
//! ```text
//! layering     modules import only those above them, files in no circle; cubecl, features, prints and renames stay
//!              where they belong; a type's name is unique
//! reference    per-token NLL of tiny models against transformers, on cpu and wgpu
//! formats      quantize and fine-tune every format: the right bytes change, and no others
//! quantize     every method: its result can be measured and trained; wrong use is one clear error
//! families     every family is quantized and trained, and its GGUF gives the numbers of its directory
//! export       a quantized model in another format: the same numbers, or a refusal; shards
//! parameters   minima, norms and biases trained beside the scales: the right bytes change, and no others
//! scales       the tuned scales of a run in one small file: with the base model they give the run's bytes
//! hub          downloads from a hub on this machine: once, in parts and with a token
//! resume       SIGKILL, SIGINT, cut and flipped journals, replay: the same bytes or a refusal
//! exact        runs of exact gradients: what they train, what they say and what they refuse
//! chats        chat templates and special tokens: the tokens that reach the model
//! contract     exit codes, JSON keys, precedence of settings, files of a run
//! bad_input    damaged files, wrong rows, full disks, missing drivers: one error, nothing written
//! one_reading  input is read once: pipes, and files that change while a run reads them
//! paths        names that are not UTF-8, or that have quotes, line ends and spaces
//! hub_cache    the cache of huggingface_hub is found and read, wherever its variables put it
//! durable      results are on the disk before they count, as the order of system calls shows
//! data         rows and texts in the forms that people have them: each is read as it was meant, or refused
//! datasets     a model and its data are enough: every shape and format of rows, and datasets of the hub by their names
//! objectives   runs that improve a score without a gradient: accuracy, F1, or that of a program
//! odd_models   models that are not what their files say, or that only look odd: all commands agree
//! memory       a plan agrees with the memory that is used, and a run that cannot fit is refused
//! report       the page of a run shows everything, loads nothing and takes no text for markup; event files
//! recipes      every file of configs/ parses and fits the schema; completions and man pages
//! ```
//!
//! A device that is missing is skipped with a line on stderr; `QZO_TEST_DEVICES=wgpu` makes its absence a
//! failure. Fixtures are in `tests/fixtures/`; each folder is written by a script of `scripts/`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails; clippy sees only #[test] functions as tests"
)]

mod support;

mod suite {
    mod bad_input;
    mod chats;
    mod contract;
    mod data;
    mod datasets;
    mod durable;
    mod exact;
    mod export;
    mod families;
    mod formats;
    mod hub;
    mod hub_cache;
    mod layering;
    mod memory;
    mod objectives;
    mod odd_models;
    mod one_reading;
    mod parameters;
    mod paths;
    mod quantize;
    mod recipes;
    mod reference;
    mod report;
    mod resume;
    mod scales;
}
