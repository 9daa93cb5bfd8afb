//! The workspace of an unfinished quantization: a directory beside the future result, with the packed linears of every
//! calibrated block and the part of the result that is written. It survives a kill, and is removed when the result is
//! complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arch::tensors::block_of;
use crate::checkpoint::safetensors::{Dtype, SINGLE_FILE, Writer};
use crate::checkpoint::shards::Shards;
use crate::error::{Error, Result};
use crate::packed::{Codebook, Levels, PackedWeight, SubBlocks};
use crate::storage::atomic;
use crate::storage::json::read_json;
use crate::storage::lock::Locked;
use crate::storage::staging::Staging;

const PREFIX: &str = ".qzo-quantizing-";
const SETTINGS_FILE: &str = "settings.json";
const SHAPES_FILE: &str = "shapes.json";
const LOCK_FILE: &str = "lock";
const RESULT: &str = "result";

/// Directory of an unfinished quantization. One process at a time holds it.
pub struct Workspace {
    path: PathBuf,
    out: PathBuf,
    _lock: Locked,
}

/// The finished linears, to be taken by name. One block is in memory at a time.
pub struct FinishedLinears<'a> {
    workspace: &'a Workspace,
    block: Option<(usize, Vec<(String, PackedWeight)>)>,
}

/// Shape of a packed weight in `shapes.json`. Its contents are tensors in another file.
#[derive(Serialize, Deserialize)]
struct SavedShape {
    name: String,
    out_features: usize,
    in_features: usize,
    bits: u32,
    group_size: usize,
    levels: Levels<(), ()>,
    #[serde(rename = "ordered")]
    has_perm: bool,
}

impl Workspace {
    /// Opens or creates the workspace of the future directory `out`. `settings` are all settings that determine the
    /// result.
    ///
    /// # Errors
    /// A workspace with other settings exists, another process holds it, or an I/O error.
    pub fn open(out: &Path, settings: &Value) -> Result<Self> {
        let mut name = OsString::from(PREFIX);
        name.push(out.file_name().unwrap_or_default());
        let path = out.with_file_name(name);
        atomic::create_directory(&path)?;
        let lock = lock(&path, out)?;
        let file = path.join(SETTINGS_FILE);
        if file.exists() {
            let known = read_json(&file)?;
            if known != *settings {
                let differing = differences(&known, settings).join(", ");
                return Err(Error::invalid(
                    format!(
                        "{} holds an unfinished quantization with other settings: {differing}",
                        path.display()
                    ),
                    "finish it with its settings, delete it, or choose another output with -o",
                ));
            }
        } else {
            write(&file, settings)?;
        }
        Ok(Self { path, out: out.to_path_buf(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_finished(&self, block: usize) -> bool {
        self.block(block).join(SHAPES_FILE).exists()
    }

    /// Saves the packed linears of a block. After that, the block is finished.
    ///
    /// # Errors
    /// An I/O error.
    pub fn save(&self, block: usize, weights: &[(String, PackedWeight)]) -> Result<()> {
        let staging = Staging::new(&self.block(block))?;
        let tensors: Vec<_> = weights.iter().flat_map(|(name, weight)| tensors(name, weight)).collect();
        let header: Vec<_> = tensors
            .iter()
            .map(|(name, dtype, bytes)| (name.clone(), *dtype, vec![bytes.len() * 8 / dtype.bitsize()]))
            .collect();
        let mut writer = Writer::create(&staging.path().join(SINGLE_FILE), &header)?;
        for (name, _, bytes) in &tensors {
            writer.write(name, bytes)?;
        }
        writer.finish()?;
        let shapes: Vec<_> = weights.iter().map(|(name, weight)| SavedShape::new(name, weight)).collect();
        write(&staging.path().join(SHAPES_FILE), &shapes)?;
        staging.publish()
    }

    /// Loads the packed linears of a finished block.
    ///
    /// # Errors
    /// The block is not finished, or its files are damaged.
    pub fn load(&self, block: usize) -> Result<Vec<(String, PackedWeight)>> {
        let directory = self.block(block);
        let path = directory.join(SHAPES_FILE);
        let shapes: Vec<SavedShape> = serde_json::from_value(read_json(&path)?)
            .map_err(|e| Error::damaged(&path, format!("not a list of shapes as qzo writes it: {e}")))?;
        let shards = Shards::open(&directory)?;
        shapes.into_iter().map(|shape| Ok((shape.name.clone(), weight(&shards, shape)?))).collect()
    }

    /// The linears of the finished blocks.
    pub fn finished(&self) -> FinishedLinears<'_> {
        FinishedLinears { workspace: self, block: None }
    }

    /// Directory in which the result is written and which is then published as `out`. Files of an earlier process stay.
    ///
    /// # Errors
    /// `out` exists, or an I/O error.
    pub fn result(&self) -> Result<Staging> {
        Staging::kept(self.path.join(RESULT), &self.out)
    }

    /// Removes the directory and all progress.
    ///
    /// # Errors
    /// An I/O error.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).map_err(Error::io(&self.path, "removing"))
    }

    fn block(&self, block: usize) -> PathBuf {
        self.path.join(format!("block-{block:05}"))
    }
}

impl FinishedLinears<'_> {
    /// Takes a finished linear by its name.
    ///
    /// # Errors
    /// No finished block has the linear; those of [`Workspace::load`].
    pub fn take(&mut self, name: &str) -> Result<PackedWeight> {
        let missing = || Error::internal(format!("{name} was not quantized"));
        let index = block_of(name).ok_or_else(missing)?;
        let mut weights = match self.block.take() {
            Some((at, weights)) if at == index => weights,
            _ => self.workspace.load(index)?,
        };
        let position = weights.iter().position(|(known, _)| known == name).ok_or_else(missing)?;
        let (_, weight) = weights.swap_remove(position);
        self.block = Some((index, weights));
        Ok(weight)
    }
}

fn lock(path: &Path, out: &Path) -> Result<Locked> {
    let file = path.join(LOCK_FILE);
    let opened =
        File::options().create(true).append(true).open(&file).map_err(Error::io(&file, "opening"))?;
    Locked::new(opened, &file, || {
        Error::invalid(
            format!("another process is quantizing into {}: it holds {}", out.display(), file.display()),
            "wait for it to end, or choose another output with -o",
        )
    })
}

/// Names of the settings that differ.
fn differences(known: &Value, settings: &Value) -> Vec<String> {
    let settings = settings.as_object().into_iter().flatten();
    settings.filter(|(key, value)| known.get(key) != Some(value)).map(|(key, _)| key.clone()).collect()
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|e| Error::damaged(path, e.to_string()))?;
    // Written atomically, because the presence of this file means that all others are complete.
    atomic::write_atomically(path, &text)
}

impl SavedShape {
    fn new(name: &str, weight: &PackedWeight) -> Self {
        Self {
            name: name.to_owned(),
            out_features: weight.out_features,
            in_features: weight.in_features,
            bits: weight.bits,
            group_size: weight.group_size,
            levels: weight.levels.as_ref().map(|_| (), |_| ()),
            has_perm: weight.perm.is_some(),
        }
    }
}

fn tensors(name: &str, weight: &PackedWeight) -> Vec<(String, Dtype, Vec<u8>)> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let floats = |floats: &[f32]| floats.iter().flat_map(|float| float.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![
        (format!("{name}.codes"), Dtype::U32, words(&weight.codes)),
        (format!("{name}.scales"), Dtype::F32, floats(&weight.scales)),
    ];
    let mut levels = |part: &str, dtype, bytes| tensors.push((format!("{name}.{part}"), dtype, bytes));
    match &weight.levels {
        Levels::Zero(_) => {}
        Levels::Zeros(zeros) => levels("levels", Dtype::U8, zeros.clone()),
        Levels::Minimum(minimum) => levels("levels", Dtype::F32, floats(minimum)),
        Levels::SubBlocks(blocks) => {
            let count = weight.out_features * weight.sub_blocks();
            levels("factors", Dtype::I8, bytemuck::cast_slice(blocks.scales(count)).to_vec());
            if let Some((mins, min_scales)) = blocks.mins(count) {
                levels("minima", Dtype::U8, mins.to_vec());
                levels("units", Dtype::F32, floats(min_scales));
            }
        }
        Levels::Codebook(codebook) => levels("levels", Dtype::F32, floats(&codebook.entries)),
    }
    tensors.extend(weight.perm.as_ref().map(|perm| (format!("{name}.order"), Dtype::U32, words(perm))));
    // Wide types come first, so that each tensor is aligned to its type.
    tensors.sort_by_key(|(_, dtype, _)| std::cmp::Reverse(dtype.bitsize()));
    tensors
}

fn weight(shards: &Shards, shape: SavedShape) -> Result<PackedWeight> {
    let tensor = |part: &str, dtype: Dtype| {
        let tensor = shards.tensor(&format!("{}.{part}", shape.name))?;
        match tensor.dtype == dtype {
            true => Ok(tensor),
            false => Err(tensor.wrong(format!("expected {dtype:?}, got {:?}", tensor.dtype))),
        }
    };
    let words = |part: &str| -> Result<Vec<u32>> {
        let words = tensor(part, Dtype::U32)?.bytes.as_chunks().0;
        Ok(words.iter().map(|&word| u32::from_le_bytes(word)).collect())
    };
    let floats = |part: &str| tensor(part, Dtype::F32)?.floats();
    let levels = match shape.levels {
        Levels::Zero(zero) => Levels::Zero(zero),
        Levels::Zeros(()) => Levels::Zeros(tensor("levels", Dtype::U8)?.bytes.to_vec()),
        Levels::Minimum(()) => Levels::Minimum(floats("levels")?),
        Levels::SubBlocks(SubBlocks { width, zero, min_scales, .. }) => {
            let scales: Vec<i8> = bytemuck::cast_slice(tensor("factors", Dtype::I8)?.bytes).to_vec();
            let load_mins = |()| -> Result<(Vec<u8>, Vec<f32>)> {
                let mins = tensor("minima", Dtype::U8)?;
                match mins.bytes.len() == scales.len() {
                    true => Ok((mins.bytes.to_vec(), floats("units")?)),
                    false => Err(mins.wrong(format!("expected {} values", scales.len()))),
                }
            };
            let mins = min_scales.map(load_mins).transpose()?;
            Levels::SubBlocks(SubBlocks::new(width, zero, scales, mins))
        }
        Levels::Codebook(Codebook { width, num_codebooks, .. }) => {
            Levels::Codebook(Codebook { width, num_codebooks, entries: floats("levels")? })
        }
    };
    let weight = PackedWeight {
        out_features: shape.out_features,
        in_features: shape.in_features,
        bits: shape.bits,
        group_size: shape.group_size,
        codes: words("codes")?,
        scales: floats("scales")?,
        levels,
        perm: shape.has_perm.then(|| words("order")).transpose()?,
    };
    match weight.check() {
        Ok(()) => Ok(weight),
        Err(what) => {
            Err(tensor("codes", Dtype::U32)?.wrong(format!("does not fit the rest of its weight: {what}")))
        }
    }
}

#[cfg(test)]
mod tests;
