//! A file of tuned scales: all that training changed, without the codes and tensors that the base model has already. The
//! tuned checkpoint is made again from this file and the base model. A safetensors file:
//!
//! ```text
//! __metadata__   format      "qzo-scales"
//!                version     "1"
//!                parameters  the kinds of its tensors, separated by commas: "scales", "minima", "norms", "biases"
//!                base        fingerprint of the base model, 64 hexadecimal digits
//!                base_name   name of the base model, for messages only; may be absent
//!                qzo         version of the program that wrote the file
//! W.scales       f16, bf16 or f32 [out, groups], for every trained weight W by its Hugging Face name
//! W.minima       of the same type and shape, where the minima of W were trained
//! T.norms        f16, bf16 or f32 [width], for every trained tensor T of a norm by its Hugging Face name
//! T.biases       f16, bf16 or f32 [out], for every trained bias T of a linear
//! blake3         u8 [32], the last tensor: BLAKE3 of all bytes before it
//! ```
//!
//! Rows and groups are in Hugging Face order whatever the checkpoint's format, and the type is that of the tuned
//! checkpoint, so no value is rounded. A float minimum that only moves with its scale follows from the stored scale, and is
//! not stored. Another kind of parameter takes an ending of its own and a word in `parameters`: a program that does not know
//! the word refuses the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::safetensors::{self, Dtype, TensorDescription};
use super::tensor::{StoredTensor, TensorPlace, missing};
use crate::arch::{TensorKind, TensorKinds, TrainedTensor};
use crate::error::{Error, Result};
use crate::storage::atomic::stream_atomically;
use crate::storage::pages::map;
use crate::storage::staging::Staging;

const FORMAT: (&str, &str) = ("format", "qzo-scales");
const VERSION: (&str, &str) = ("version", "1");
const PARAMETERS: &str = "parameters";
const BASE: &str = "base";
const BASE_NAME: &str = "base_name";
const PROGRAM: &str = "qzo";
/// The kind of parameter that every file has, and the ending of its tensors' names, after the weight's. Other kinds have
/// their words as endings, too.
const SCALES: &str = "scales";
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
    kinds: TensorKinds,
    /// The tensors that were trained beside the scales, byte-sorted, and their places.
    tensors: BTreeMap<String, (TrainedTensor, TensorPlace)>,
}

/// Gives the bytes of a trained tensor by its name: the scales of a weight, or a tensor of a kind beside them.
type EncodeTensor<'a> = dyn FnMut(&str, Option<TensorKind>) -> Result<Vec<u8>> + 'a;

/// Writes the new file `out`. `weights` are the names of the weights, and the types and shapes of their scales; `tensors`
/// are those that were trained beside them, minima by the names of their weights. `encoded` gives the bytes of a weight's
/// scales, or of a tensor of another kind. Returns the length of the file.
///
/// # Errors
/// `out` exists; those of `encoded`; an I/O error. Nothing is left behind.
pub fn write(
    out: &Path,
    base: &ScalesBase,
    weights: &[TensorDescription],
    tensors: &[(TensorKind, TensorDescription)],
    encoded: &mut EncodeTensor<'_>,
) -> Result<u64> {
    let beside = tensors.iter().map(|(kind, tensor)| (Some(*kind), tensor));
    let all: Vec<_> = weights.iter().map(|weight| (None, weight)).chain(beside).collect();
    let named = |(kind, (name, dtype, shape)): &(Option<TensorKind>, &TensorDescription)| {
        (format!("{name}.{}", word(*kind)), *dtype, shape.clone())
    };
    let words: Vec<_> =
        TensorKind::ALL.into_iter().filter(|kind| tensors.iter().any(|(of, _)| of == kind)).collect();
    let words: Vec<_> = std::iter::once(None).chain(words.into_iter().map(Some)).map(word).collect();
    let parameters = words.join(",");
    let mut tensors: Vec<_> = all.iter().map(named).collect();
    tensors.push((DIGEST.into(), Dtype::U8, vec![blake3::OUT_LEN]));
    let fingerprint = blake3::Hash::from_bytes(base.fingerprint).to_hex();
    let mut about = vec![
        FORMAT,
        VERSION,
        (PARAMETERS, &parameters),
        (PROGRAM, env!("CARGO_PKG_VERSION")),
        (BASE, &fingerprint),
    ];
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
        for ((kind, (name, ..)), end) in all.iter().zip(&ends) {
            let bytes = encoded(name, *kind)?;
            length += bytes.len() as u64;
            if length != *end {
                return Err(wrong(format!(
                    "{name} has {} bytes of {}, not as many as its shape",
                    bytes.len(),
                    word(*kind)
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

/// The word for a kind of parameter; without one, for scales.
fn word(kind: Option<TensorKind>) -> &'static str {
    kind.map_or(SCALES, TensorKind::name)
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
        let newer = |key: &str, known: &str| {
            Error::unsupported(
                format!("{}: {key} \"{}\", expected {known}", path.display(), said(key)),
                format!("use qzo {}, which wrote it, or a later version", said(PROGRAM)),
            )
        };
        if said(VERSION.0) != VERSION.1 {
            return Err(newer(VERSION.0, &format!("\"{}\"", VERSION.1)));
        }
        let mut kinds = TensorKinds::default();
        for (index, known) in said(PARAMETERS).split(',').enumerate() {
            match TensorKind::ALL.into_iter().find(|kind| kind.name() == known) {
                Some(kind) if index > 0 => kinds.insert(kind),
                None if index == 0 && known == SCALES => {}
                _ => {
                    return Err(newer(
                        PARAMETERS,
                        "\"scales\" and perhaps \"minima\", \"norms\" and \"biases\"",
                    ));
                }
            }
        }
        let damaged = |what: String| Error::damaged(path, what);
        let fingerprint = blake3::Hash::from_hex(said(BASE));
        let fingerprint =
            fingerprint.map_err(|e| damaged(format!("the fingerprint of its base model: {e}")))?;
        let base = ScalesBase { fingerprint: *fingerprint.as_bytes(), name: about.get(BASE_NAME).cloned() };
        let (mut places, mut tensors) = (BTreeMap::new(), BTreeMap::new());
        for (name, place) in safetensors::places(path, &bytes)?.into_iter().filter(|(name, _)| name != DIGEST)
        {
            let Some((weight, word)) = name.rsplit_once('.') else {
                return Err(damaged(format!("tensor `{name}` holds no scales")));
            };
            if word == SCALES {
                places.insert(weight.to_owned(), place);
                continue;
            }
            let length = place.shape.iter().product();
            let tensor = match kinds.iter().find(|kind| kind.name() == word) {
                Some(TensorKind::Minima) => TrainedTensor::minima(weight, length),
                Some(kind) => TrainedTensor { name: weight.to_owned(), kind, length },
                None => return Err(damaged(format!("tensor `{name}` is of no kind that the file states"))),
            };
            tensors.insert(tensor.name.clone(), (tensor, place));
        }
        Ok(Self { path: path.to_path_buf(), bytes, base, places, kinds, tensors })
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
        self.floats(weight, place)
    }

    /// The kinds of tensors that were trained beside the scales.
    pub fn kinds(&self) -> TensorKinds {
        self.kinds
    }

    /// The tensors that were trained beside the scales, byte-sorted.
    pub fn tensors(&self) -> Vec<TrainedTensor> {
        self.tensors.values().map(|(tensor, _)| tensor.clone()).collect()
    }

    /// The values of such a tensor; minima as the checkpoint states them.
    ///
    /// # Errors
    /// The file has no such tensor, or its values are no floats.
    pub fn values(&self, tensor: &TrainedTensor) -> Result<Vec<f32>> {
        let names = self.tensors.keys().map(String::as_str);
        let found = self.tensors.get(&tensor.name);
        let (_, place) = found.ok_or_else(|| missing(&self.path, &tensor.name, names))?;
        self.floats(&tensor.name, place)
    }

    fn floats(&self, name: &str, place: &TensorPlace) -> Result<Vec<f32>> {
        let (dtype, shape, bytes) = (place.dtype, &place.shape[..], &self.bytes[place.range.clone()]);
        StoredTensor { path: &self.path, name, dtype, shape, bytes }.floats()
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

    const NORM: &str = "model.layers.0.input_layernorm.weight";

    fn written(directory: &Path) -> PathBuf {
        let out = directory.join("tuned.safetensors");
        let base = ScalesBase { fingerprint: [7; 32], name: Some("tiny.gguf".into()) };
        let weights = WEIGHTS.map(|name| (name.to_owned(), Dtype::F32, vec![2, 1]));
        let beside = [(TensorKind::Norms, (NORM.to_owned(), Dtype::F32, vec![2]))];
        let encoded = &mut |name: &str, _| Ok([name.len() as f32, 0.5].map(f32::to_le_bytes).concat());
        let bytes = write(&out, &base, &weights, &beside, encoded).unwrap();
        assert_eq!(bytes, fs::metadata(&out).unwrap().len());
        assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
        assert!(
            write(&out, &base, &weights, &beside, encoded)
                .unwrap_err()
                .to_string()
                .contains("exists already")
        );
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
        let [norm] = &file.tensors()[..] else { panic!("{:?}", file.tensors()) };
        assert_eq!((&*norm.name, norm.kind, norm.length), (NORM, TensorKind::Norms, 2));
        assert_eq!(file.values(norm).unwrap(), [NORM.len() as f32, 0.5]);
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
        for (old, new) in
            [("\"version\":\"1\"", "\"version\":\"2\""), ("\"scales,norms\"", "\"scales,signs\"")]
        {
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
