//! MODEL as people name it: a path, or `org/name`, `org/name@revision`, `org/name/file.gguf` on the
//! Hugging Face hub. Downloads lie in the hub's standard cache, which HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
//! HF_TOKEN and HF_HUB_OFFLINE govern as they do everywhere else.
//!
//! ```text
//! locate        a model's or a text's local path, after fetching what the cache does not have
//! rows          the local paths of a dataset's files, likewise
//! dataset       names of datasets, and which of their files hold a split
//! card          the files of each split, as a dataset's card has them
//! id            names on the hub, parsed
//! repository    downloads from one repository
//! folder        a repository's folder in the cache
//! announced     a file's length and digest as the hub announces them
//! environment   the folders and settings that environment variables name
//! ```

mod announced;
mod card;
mod dataset;
mod environment;
mod folder;
mod id;
mod locate;
mod repository;
mod rows;

pub use locate::{locate, locate_text};
pub use repository::OnDownload;
pub use rows::locate_rows;
