//! A file of tuned scales: all that training changed, without the codes and tensors that the base model has already. The
//! tuned checkpoint is made again from this file and the base model. A safetensors file:
//!
//! ```text
//! __metadata__   format      "qzo-scales"
//!                version     "1"
//!                parameters  "scales": the kinds of its tensors, separated by commas
//!                base        fingerprint of the base model, 64 hexadecimal digits
//!                base_name   name of the base model, for messages only; may be absent
//!                qzo         version of the program that wrote the file
//! W.scales       f16, bf16 or f32 [out, groups], for every trained weight W by its Hugging Face name
//! blake3         u8 [32], the last tensor: BLAKE3 of all bytes before it
//! ```
//!
//! Rows and groups are in Hugging Face order whatever the checkpoint's format, and the type is that of the tuned
//! checkpoint, so no scale is rounded. A float minimum that moves with its scale follows from the stored scale, and is not
//! stored. Another kind of parameter takes an ending of its own and a word in `parameters`: a program that does not know
//! the word refuses the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::safetensors::{self, Dtype, TensorDescription};
use super::tensor::{StoredTensor, TensorPlace, missing};
use crate::error::{Error, Result};
use crate::storage::atomic::stream_atomically;
use crate::storage::pages::map;
use crate::storage::staging::Staging;

const FORMAT: (&str, &str) = ("format", "qzo-scales");
const VERSION: (&str, &str) = ("version", "1");
const PARAMETERS: (&str, &str) = ("parameters", "scales");
const BASE: &str = "base";
const BASE_NAME: &str = "base_name";
const PROGRAM: &str = "qzo";
/// Ending of the tensors' names, after the weight's.
const SCALES: &str = ".scales";
const DIGEST: &str = "blake3";

/// The model that was trained, before training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalesBase {
    /// See [`super::Checkpoint::fingerprint`].
    pub fingerprint: [u8; 32],
    /// A name for messages.
    pub name: Option<String>,
}

/// A file of scales, opened and checked against its digest.
pub struct ScalesFile {
    path: PathBuf,
    bytes: Mmap,
    base: ScalesBase,
    /// Weight → its scales.
    places: BTreeMap<String, TensorPlace>,
}

/// Writes the new file `out`. `weights` are the names of the weights, and the types and shapes of their scales;
/// `encoded` gives the bytes of a weight's scales. Returns the length of the file.
///
/// # Errors
/// `out` exists; those of `encoded`; an I/O error. Nothing is left behind.
pub fn write(
    out: &Path,
    base: &ScalesBase,
    weights: &[TensorDescription],
    encoded: &mut dyn FnMut(&str) -> Result<Vec<u8>>,
) -> Result<u64> {
    let named = |(name, dtype, shape): &TensorDescription| (format!("{name}{SCALES}"), *dtype, shape.clone());
    let mut tensors: Vec<_> = weights.iter().map(named).collect();
    tensors.push((DIGEST.into(), Dtype::U8, vec![blake3::OUT_LEN]));
    let fingerprint = blake3::Hash::from_bytes(base.fingerprint).to_hex();
    let mut about =
        vec![FORMAT, VERSION, PARAMETERS, (PROGRAM, env!("CARGO_PKG_VERSION")), (BASE, &fingerprint)];
    about.extend(base.name.as_deref().map(|name| (BASE_NAME, name)));
    let wrong = |what: String| Error::internal(format!("{}: {what}", out.display()));
    let (header, ends) = safetensors::header(&about, &tensors).map_err(wrong)?;

    let staging = Staging::new(out)?;
    let file = staging.path().join("scales");
    let mut digest = blake3::Hasher::new();
    let mut length = header.len() as u64;
    stream_atomically(&file, |file| {
        let failed = || Error::io(out, "writing");
        file.write_all(&header).map_err(failed())?;
        digest.update(&header);
        for ((name, ..), end) in weights.iter().zip(&ends) {
            let bytes = encoded(name)?;
            length += bytes.len() as u64;
            if length != *end {
                return Err(wrong(format!(
                    "{name} has {} bytes of scales, not as many as its shape",
                    bytes.len()
                )));
            }
            file.write_all(&bytes).map_err(failed())?;
            digest.update(&bytes);
        }
        file.write_all(digest.finalize().as_bytes()).map_err(failed())
    })?;
    staging.publish_file(&file)?;
    Ok(length + blake3::OUT_LEN as u64)
}

/// Whether the header of the file at `path` says that it is a file of scales.
pub fn is_scales_file(path: &Path) -> bool {
    let about = map(path).and_then(|bytes| safetensors::about(path, &bytes));
    about.is_ok_and(|about| about.get(FORMAT.0).is_some_and(|format| format == FORMAT.1))
}

impl ScalesFile {
    /// Opens a file and checks all of its bytes.
    ///
    /// # Errors
    /// Another kind of file; a newer version of this one; damage.
    pub fn open(path: &Path) -> Result<Self> {
        let no_scales = || {
            Error::invalid(
                format!("{} is no file of scales", path.display()),
                "give a file that `qzo export RUN --format scales` wrote",
            )
        };
        if path.is_dir() {
            return Err(no_scales());
        }
        let bytes = map(path)?;
        let about = safetensors::about(path, &bytes)?;
        let said = |key: &str| about.get(key).map_or("", String::as_str);
        if said(FORMAT.0) != FORMAT.1 {
            return Err(no_scales());
        }
        check_digest(path, &bytes)?;
        for (key, known) in [VERSION, PARAMETERS] {
            if said(key) != known {
                return Err(Error::unsupported(
                    format!("{}: {key} \"{}\", expected \"{known}\"", path.display(), said(key)),
                    format!("use qzo {}, which wrote it, or a later version", said(PROGRAM)),
                ));
            }
        }
        let damaged = |what: String| Error::damaged(path, what);
        let fingerprint = blake3::Hash::from_hex(said(BASE));
        let fingerprint =
            fingerprint.map_err(|e| damaged(format!("the fingerprint of its base model: {e}")))?;
        let base = ScalesBase { fingerprint: *fingerprint.as_bytes(), name: about.get(BASE_NAME).cloned() };
        let mut places = BTreeMap::new();
        for (name, place) in safetensors::places(path, &bytes)?.into_iter().filter(|(name, _)| name != DIGEST)
        {
            let weight = name.strip_suffix(SCALES);
            let weight = weight.ok_or_else(|| damaged(format!("tensor `{name}` holds no scales")))?;
            places.insert(weight.to_owned(), place);
        }
        Ok(Self { path: path.to_path_buf(), bytes, base, places })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn base(&self) -> &ScalesBase {
        &self.base
    }

    /// The names of the weights, byte-sorted.
    pub fn weights(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The scales of a weight, `[out, groups]`.
    ///
    /// # Errors
    /// The file has none of that weight, or they are no floats.
    pub fn scales(&self, weight: &str) -> Result<Vec<f32>> {
        let place = self.places.get(weight).ok_or_else(|| missing(&self.path, weight, self.weights()))?;
        let (dtype, shape, bytes) = (place.dtype, &place.shape[..], &self.bytes[place.range.clone()]);
        StoredTensor { path: &self.path, name: weight, dtype, shape, bytes }.floats()
    }
}

/// # Errors
/// The last bytes of the file are not the digest of all bytes before.
fn check_digest(path: &Path, bytes: &[u8]) -> Result<()> {
    let whole = bytes.split_last_chunk().is_some_and(|(before, digest)| blake3::hash(before) == *digest);
    match whole {
        true => Ok(()),
        false => {
            Err(Error::damaged(path, "the file is damaged: its bytes do not give the checksum at its end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WEIGHTS: [&str; 2] = ["model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"];

    fn written(directory: &Path) -> PathBuf {
        let out = directory.join("tuned.safetensors");
        let base = ScalesBase { fingerprint: [7; 32], name: Some("tiny.gguf".into()) };
        let weights = WEIGHTS.map(|name| (name.to_owned(), Dtype::F32, vec![2, 1]));
        let encoded = &mut |name: &str| Ok([name.len() as f32, 0.5].map(f32::to_le_bytes).concat());
        let bytes = write(&out, &base, &weights, encoded).unwrap();
        assert_eq!(bytes, fs::metadata(&out).unwrap().len());
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
        assert!(write(&out, &base, &weights, encoded).unwrap_err().to_string().contains("exists already"));
        out
    }

    #[test]
    fn a_file_gives_back_its_base_and_its_scales() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path());
        assert!(is_scales_file(&path));
        let file = ScalesFile::open(&path).unwrap();
        assert_eq!(file.base(), &ScalesBase { fingerprint: [7; 32], name: Some("tiny.gguf".into()) });
        assert_eq!(file.weights().collect::<Vec<_>>(), WEIGHTS);
        for name in WEIGHTS {
            assert_eq!(file.scales(name).unwrap(), [name.len() as f32, 0.5]);
        }
        assert!(file.scales("model.norm.weight").is_err());
    }

    #[test]
    fn a_flip_of_any_bit_and_a_cut_anywhere_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, bytes).unwrap();
            assert!(ScalesFile::open(&path).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(ScalesFile::open(&path).is_err(), "the first {at} bytes");
        }
    }

    #[test]
    fn a_newer_file_names_the_version_that_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = written(directory.path());
        let whole = fs::read(&path).unwrap();
        for (old, new) in [("\"version\":\"1\"", "\"version\":\"2\""), ("\"scales\"", "\"minima\"")] {
            let position = whole.windows(old.len()).position(|part| part == old.as_bytes()).unwrap();
            let mut bytes = whole[..whole.len() - blake3::OUT_LEN].to_vec();
            bytes[position..][..new.len()].copy_from_slice(new.as_bytes());
            bytes.extend(blake3::hash(&bytes).as_bytes());
            fs::write(&path, bytes).unwrap();
            let Err(error) = ScalesFile::open(&path) else { panic!("{new}") };
            assert!(error.to_string().contains("expected"), "{error}");
            assert!(error.help().unwrap().contains(env!("CARGO_PKG_VERSION")));
        }
    }
}
