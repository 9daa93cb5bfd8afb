//! The program as its users meet it: every test here runs the built binary on small files and looks at
//! its exit code, its output and what it left on disk. Unit tests stand beside the code.
//!
//! ```text
//! layering     rooms import only the rooms above them; cubecl, features and prints stay where they belong
//! reference    per-token NLL of tiny models against transformers, on cpu and wgpu
//! formats      quantize and fine-tune every format: the right bytes change, and no others
//! quantize     every method: what it writes can be measured and trained; wrong use is one clear error
//! families     every family is quantized and trained, and its GGUF means what its directory means
//! export       a quantized model in another format: the same numbers, or a refusal; shards
//! hub          what is fetched, once, in parts and with a token, from a hub on this machine
//! resume       SIGKILL, SIGINT, cut and flipped journals, replay: the same bytes or a refusal
//! chats        chat templates and special tokens: what of a text reaches the model
//! contract     exit codes, JSON keys, precedence of settings, files of a run
//! bad_input    damaged files, wrong rows, full disks, missing drivers: one error, nothing written
//! one_reading  what was read is what counts: pipes, and files that change while a run reads them
//! paths        names that are no UTF-8, or have quotes, line ends and spaces
//! hub_cache    what huggingface_hub left in its cache is found, wherever its variables say that it is
//! durable      what counts as done is on the disk, as the order of system calls shows
//! data         rows and texts as people have them: each is read as meant, or refused
//! odd_models   models that are not what they say, or only look odd: the same of every command
//! memory       the plan is what is taken, and what cannot fit is refused
//! recipes      every file of configs/ parses
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
    mod durable;
    mod export;
    mod families;
    mod formats;
    mod hub;
    mod hub_cache;
    mod layering;
    mod memory;
    mod odd_models;
    mod one_reading;
    mod paths;
    mod quantize;
    mod recipes;
    mod reference;
    mod resume;
}
