//! The length and digest that the hub announces for a file, and whether a downloaded file has them. For large files the
//! hub's ETag is their SHA-256 (FIPS 180-4), so that every bit is checked; for others, the length.

use std::fs::File;
use std::path::Path;

use hf_hub::api::sync::Metadata;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A file as the hub announces it.
pub struct Announced {
    pub etag: String,
    pub commit: String,
    pub bytes: u64,
}

impl Announced {
    /// `None` where its ETag or commit cannot be a file's name: both become one in the cache.
    pub fn new(metadata: &Metadata) -> Option<Self> {
        let (etag, commit) = (metadata.etag().to_owned(), metadata.commit_hash().to_owned());
        let plain =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        (plain(&etag) && plain(&commit)).then_some(Self { etag, commit, bytes: metadata.size() as u64 })
    }

    /// The difference of a downloaded file from its announcement, if there is one.
    pub fn difference(&self, path: &Path) -> Result<Option<String>> {
        let mut file = File::open(path).map_err(Error::io(path, "reading"))?;
        let bytes = file.metadata().map_err(Error::io(path, "reading"))?.len();
        if bytes != self.bytes {
            return Ok(Some(format!("{bytes} bytes were received, {} announced", self.bytes)));
        }
        let is_sha256 = self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit());
        if is_sha256 {
            let mut digest = Sha256::new();
            std::io::copy(&mut file, &mut digest).map_err(Error::io(path, "reading"))?;
            let got = format!("{:x}", digest.finalize());
            if !got.eq_ignore_ascii_case(&self.etag) {
                return Ok(Some(format!("its SHA-256 is {got}, {} was announced", self.etag)));
            }
        }
        Ok(None)
    }
}
