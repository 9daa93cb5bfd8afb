//! What an unfinished quantization has done so far: a directory beside the one it will become, with the
//! packed linears of every finished block. It survives a kill, and goes with the result.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hf_config::read_json;
use super::publish::Staging;
use super::safetensors::{Dtype, SINGLE_FILE, Shards, Writer};
use crate::error::{Error, Result};
use crate::kernels::packed::{Codebook, Levels, PackedWeight};

const PREFIX: &str = ".qzo-quantizing-";
const SETTINGS_FILE: &str = "settings.json";
const SHAPES_FILE: &str = "shapes.json";

pub struct Workspace {
    path: PathBuf,
}

/// What tensors alone do not say about a packed weight.
#[derive(Serialize, Deserialize)]
struct Shape {
    name: String,
    out_features: usize,
    in_features: usize,
    bits: u32,
    group_size: usize,
    levels: LevelsShape,
    ordered: bool,
}

#[derive(Serialize, Deserialize)]
enum LevelsShape {
    Zero(u8),
    Zeros,
    Minimum,
    Codebook { width: usize, books: usize },
}

impl Workspace {
    /// The workspace of the directory `out` that is to be; `settings` are all that decides the result.
    ///
    /// # Errors
    /// One with other settings is there.
    pub fn open(out: &Path, settings: &Value) -> Result<Self> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let path = out.with_file_name(format!("{PREFIX}{name}"));
        let file = path.join(SETTINGS_FILE);
        if file.exists() {
            let known = read_json(&file)?;
            if known != *settings {
                let differs = differences(&known, settings).join(", ");
                return Err(Error::invalid(
                    format!("{} holds an unfinished quantization with another {differs}", path.display()),
                    "finish it with its own settings, delete it, or choose another output with -o",
                ));
            }
        } else {
            fs::create_dir_all(&path).map_err(Error::io(&path, "creating the directory"))?;
            write(&file, settings)?;
        }
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_finished(&self, block: usize) -> bool {
        self.block(block).join(SHAPES_FILE).exists()
    }

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
        let shapes: Vec<Shape> = weights.iter().map(|(name, weight)| shape(name, weight)).collect();
        write(&staging.path().join(SHAPES_FILE), &shapes)?;
        staging.publish()
    }

    /// # Errors
    /// The block is not finished, or damaged.
    pub fn load(&self, block: usize) -> Result<Vec<(String, PackedWeight)>> {
        let directory = self.block(block);
        let path = directory.join(SHAPES_FILE);
        let shapes: Vec<Shape> = serde_json::from_value(read_json(&path)?)
            .map_err(|e| Error::damaged(&path, format!("not what was written here: {e}")))?;
        let shards = Shards::open(&directory)?;
        shapes.into_iter().map(|shape| Ok((shape.name.clone(), weight(&shards, shape)?))).collect()
    }

    /// Once the result is there.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).map_err(Error::io(&self.path, "removing"))
    }

    fn block(&self, block: usize) -> PathBuf {
        self.path.join(format!("block-{block:05}"))
    }
}

fn differences(known: &Value, settings: &Value) -> Vec<String> {
    let settings = settings.as_object().into_iter().flatten();
    settings.filter(|(key, value)| known.get(key) != Some(value)).map(|(key, _)| key.clone()).collect()
}

fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|e| Error::damaged(path, e.to_string()))?;
    // Whole or not at all: the file is what says that the rest is there.
    let new = path.with_extension("new");
    fs::write(&new, text).map_err(Error::io(&new, "writing"))?;
    fs::rename(&new, path).map_err(Error::io(path, "renaming to"))
}

fn shape(name: &str, weight: &PackedWeight) -> Shape {
    Shape {
        name: name.to_owned(),
        out_features: weight.out_features,
        in_features: weight.in_features,
        bits: weight.bits,
        group_size: weight.group_size,
        levels: match &weight.levels {
            Levels::Zero(zero) => LevelsShape::Zero(*zero),
            Levels::Zeros(_) => LevelsShape::Zeros,
            Levels::Minimum(_) => LevelsShape::Minimum,
            Levels::Codebook(book) => LevelsShape::Codebook { width: book.width, books: book.books },
        },
        ordered: weight.order.is_some(),
    }
}

fn tensors(name: &str, weight: &PackedWeight) -> Vec<(String, Dtype, Vec<u8>)> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let floats = |floats: &[f32]| floats.iter().flat_map(|float| float.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![
        (format!("{name}.codes"), Dtype::U32, words(&weight.codes)),
        (format!("{name}.scales"), Dtype::F32, floats(&weight.scales)),
    ];
    let levels = match &weight.levels {
        Levels::Zero(_) => None,
        Levels::Zeros(zeros) => Some((Dtype::U8, zeros.clone())),
        Levels::Minimum(minimum) => Some((Dtype::F32, floats(minimum))),
        Levels::Codebook(book) => Some((Dtype::F32, floats(&book.entries))),
    };
    tensors.extend(levels.map(|(dtype, bytes)| (format!("{name}.levels"), dtype, bytes)));
    tensors.extend(weight.order.as_ref().map(|order| (format!("{name}.order"), Dtype::U32, words(order))));
    // Aligned, as readers like it.
    tensors.sort_by_key(|(_, dtype, _)| std::cmp::Reverse(dtype.bitsize()));
    tensors
}

fn weight(shards: &Shards, shape: Shape) -> Result<PackedWeight> {
    let tensor = |part: &str| shards.tensor(&format!("{}.{part}", shape.name));
    let words = |part: &str| -> Result<Vec<u32>> {
        Ok(tensor(part)?.bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect())
    };
    let levels = match shape.levels {
        LevelsShape::Zero(zero) => Levels::Zero(zero),
        LevelsShape::Zeros => Levels::Zeros(tensor("levels")?.bytes.to_vec()),
        LevelsShape::Minimum => Levels::Minimum(tensor("levels")?.floats()?),
        LevelsShape::Codebook { width, books } => {
            Levels::Codebook(Codebook { width, books, entries: tensor("levels")?.floats()? })
        }
    };
    let weight = PackedWeight {
        out_features: shape.out_features,
        in_features: shape.in_features,
        bits: shape.bits,
        group_size: shape.group_size,
        codes: words("codes")?,
        scales: tensor("scales")?.floats()?,
        levels,
        order: shape.ordered.then(|| words("order")).transpose()?,
    };
    let (codes, scales) =
        (weight.out_features * weight.words_per_row(), weight.out_features * weight.groups());
    match weight.codes.len() == codes && weight.scales.len() == scales {
        true => Ok(weight),
        false => Err(tensor("codes")?.wrong("is not of the size that was written here")),
    }
}
