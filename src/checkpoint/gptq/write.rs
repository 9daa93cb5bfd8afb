//! Writes a Hugging Face directory again with its block linears as GPTQ. Which codes and scales, the
//! caller's quantizer decides; here they only get their place.

use std::path::Path;

use serde_json::{Value, json};

use super::super::hf_config::{CONFIG_FILE, read_json};
use super::super::huggingface::{HuggingFace, QUANTIZE_CONFIG_FILE};
use super::super::publish::Staging;
use super::super::safetensors::{Dtype, INDEX_FILE, SINGLE_FILE, Writer};
use super::super::{Checkpoint, Format, Weight};
use super::transpose;
use crate::error::{Error, Result};
use crate::kernels::packed::{Levels, PackedWeight};
use crate::kernels::packed::{put_code, words_per_row};
use crate::quant::rtn::FloatType;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GptqOptions {
    pub bits: u32,
    /// `None`: one group per row.
    pub group_size: Option<usize>,
    pub symmetric: bool,
    /// Recorded in the config, where other tools expect them.
    pub damp_percent: f64,
    pub true_sequential: bool,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self { bits: 4, group_size: Some(128), symmetric: true, damp_percent: 0.01, true_sequential: true }
    }
}

/// Streams `source` into the new directory `out`: every linear of the decoder blocks goes through
/// `quantize`, every other tensor and file is copied as it is. `quantize` is called once per linear, in
/// byte order of the names; one weight is in memory at a time.
///
/// # Errors
/// `source` is no dense Hugging Face directory; `out` exists; `quantize` failed or returned something
/// other than `options` says; a scale that does not fit f16. Nothing is left behind.
pub fn write_gptq(
    source: &Checkpoint,
    out: &Path,
    options: GptqOptions,
    quantize: &mut dyn FnMut(&str, Weight) -> Result<PackedWeight>,
) -> Result<()> {
    let directory = dense_directory(source)?;
    let linears = source.config().block_linears();
    let staging = Staging::new(out)?;
    write_weights(source, directory, &linears, &staging.path().join(SINGLE_FILE), options, quantize)?;
    write_configs(directory, staging.path(), options)?;
    directory.copy_other_files(staging.path(), &[CONFIG_FILE, QUANTIZE_CONFIG_FILE, INDEX_FILE])?;
    staging.publish()
}

fn dense_directory(source: &Checkpoint) -> Result<&HuggingFace> {
    source.huggingface().filter(|_| source.format() == Format::HuggingFace).ok_or_else(|| {
        Error::invalid(
            format!("{} is {} and quantized as it is", source.path().display(), source.format()),
            "quantize the original Hugging Face checkpoint (f32, f16 or bf16), or use this one directly",
        )
    })
}

fn write_weights(
    source: &Checkpoint,
    directory: &HuggingFace,
    linears: &[String],
    to: &Path,
    options: GptqOptions,
    quantize: &mut dyn FnMut(&str, Weight) -> Result<PackedWeight>,
) -> Result<()> {
    let mut header = Vec::new();
    for name in directory.shards().names() {
        let tensor = directory.shards().tensor(name)?;
        let is_linear = linears.binary_search_by(|linear| linear.as_str().cmp(name)).is_ok();
        match (is_linear, tensor.shape) {
            (true, &[out, input]) => header.extend(described(name, [out, input], options)),
            _ => header.push((name.to_owned(), tensor.dtype, tensor.shape.to_vec())),
        }
    }
    // Widest types first, so that every tensor is aligned (the order of the Python writer).
    header.sort_by_key(|(_, dtype, _)| std::cmp::Reverse(dtype.bitsize()));
    let mut writer = Writer::create(to, &header)?;
    for name in directory.shards().names() {
        if linears.binary_search_by(|linear| linear.as_str().cmp(name)).is_err() {
            writer.write(name, directory.shards().tensor(name)?.bytes)?;
        }
    }
    for name in linears {
        let packed = quantize(name, source.weight(name)?)?;
        let wrong = |what: String| Error::tensor(source.path(), name, what);
        check(&packed, &source.shape(name)?, options).map_err(wrong)?;
        for (part, bytes) in PARTS.iter().zip(encode(&packed, options.symmetric).map_err(wrong)?) {
            writer.write(&format!("{}{part}", module(name)), &bytes)?;
        }
    }
    writer.finish()
}

const PARTS: [&str; 4] = [".qweight", ".qzeros", ".scales", ".g_idx"];

fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

fn described(
    name: &str,
    [out_features, in_features]: [usize; 2],
    options: GptqOptions,
) -> [(String, Dtype, Vec<usize>); 4] {
    let groups = in_features.div_ceil(options.group_size.unwrap_or(in_features).max(1));
    let parts = [
        (Dtype::I32, vec![words_per_row(in_features, options.bits), out_features]),
        (Dtype::I32, vec![groups, words_per_row(out_features, options.bits)]),
        (Dtype::F16, vec![groups, out_features]),
        (Dtype::I32, vec![in_features]),
    ];
    let mut names = PARTS.iter().map(|part| format!("{}{part}", module(name)));
    parts.map(|(dtype, shape)| (names.next().unwrap_or_default(), dtype, shape))
}

fn check(packed: &PackedWeight, shape: &[usize], options: GptqOptions) -> Result<(), String> {
    let group_size = options.group_size.unwrap_or(packed.in_features);
    let got = ([packed.out_features, packed.in_features], packed.bits, packed.group_size);
    match got.0 == shape && got.1 == options.bits && got.2 == group_size {
        true => Ok(()),
        false => Err(format!(
            "expected {shape:?} at {} bits in groups of {group_size}, the quantizer gave {:?} at {} in {}",
            options.bits, got.0, got.1, got.2
        )),
    }
}

/// The bytes of qweight, qzeros, scales and g_idx.
fn encode(packed: &PackedWeight, symmetric: bool) -> Result<[Vec<u8>; 4], String> {
    let (out_features, groups) = (packed.out_features, packed.groups());
    let qweight = transpose(&packed.codes, out_features);
    let scales = transpose(&packed.scales, out_features);
    if let Some(scale) = scales.iter().find(|s| !FloatType::F16.round(**s).is_finite()) {
        return Err(format!("the scale {scale:e} does not fit f16"));
    }
    let words = words_per_row(out_features, packed.bits);
    let mut qzeros = vec![0u32; groups * words];
    for o in 0..out_features {
        for g in 0..groups {
            let zero = match &packed.levels {
                Levels::Zero(zero) => *zero,
                Levels::Zeros(zeros) => zeros[o * groups + g],
                Levels::Minimum(_) | Levels::Codebook(_) => {
                    return Err("GPTQ stores integer zero points, not minima or codebooks".into());
                }
            };
            let stored = match symmetric {
                true => zero.checked_sub(1).ok_or("a zero point of 0 in a symmetric GPTQ checkpoint")?,
                false => zero,
            };
            put_code(&mut qzeros[g * words..(g + 1) * words], o, packed.bits, u32::from(stored));
        }
    }
    let g_idx = (0..packed.in_features).map(|i| (i / packed.group_size) as u32);
    Ok([
        qweight.iter().flat_map(|w| w.to_le_bytes()).collect(),
        qzeros.iter().flat_map(|w| w.to_le_bytes()).collect(),
        scales.iter().flat_map(|s| half::f16::from_f32(*s).to_le_bytes()).collect(),
        g_idx.flat_map(u32::to_le_bytes).collect(),
    ])
}

fn write_configs(source: &HuggingFace, to: &Path, options: GptqOptions) -> Result<()> {
    let group_size = options.group_size.map_or(json!(-1), |size| json!(size));
    let quantization = json!({
        "quant_method": "gptq",
        "bits": options.bits,
        "group_size": group_size,
        "desc_act": false,
        "sym": options.symmetric,
        "lm_head": false,
        "damp_percent": options.damp_percent,
        "true_sequential": options.true_sequential,
        "static_groups": false,
        "pack_dtype": "int32",
        "checkpoint_format": if options.symmetric { "gptq" } else { "gptq_v2" },
    });
    let mut config = read_json(&source.directory().join(CONFIG_FILE))?;
    if let Some(config) = config.as_object_mut() {
        config.insert("quantization_config".into(), quantization.clone());
    }
    write_json(&to.join(CONFIG_FILE), &config)?;
    write_json(&to.join(QUANTIZE_CONFIG_FILE), &quantization)
}

fn write_json(path: &Path, json: &Value) -> Result<()> {
    let mut file = std::fs::File::create_new(path).map_err(Error::io(path, "creating"))?;
    let mut text = serde_json::to_vec_pretty(json)
        .map_err(|e| Error::damaged(path, format!("cannot be written: {e}")))?;
    text.push(b'\n');
    std::io::Write::write_all(&mut file, &text).map_err(Error::io(path, "writing"))?;
    file.sync_all().map_err(Error::io(path, "syncing"))
}
