//! The scheme that a directory's settings declare.

use std::path::Path;

use serde_json::Value;

use super::aqlm::{self, Aqlm};
use super::awq::Awq;
use super::bitsandbytes::{self, BitsAndBytes};
use super::codebook::{self, CodebookScheme};
use super::compressed_tensors::{self, CompressedTensors};
use super::gptq::{self, Gptq};
use super::mlx::{self, Mlx};
use super::traits::Scheme;
use crate::error::{Error, Result};
use crate::storage::json::parse_json;

/// File of the settings beside config.json, which quantizers wrote before transformers knew `quantization_config`.
pub const QUANTIZE_CONFIG_FILE: &str = "quantize_config.json";

/// The bytes of [`QUANTIZE_CONFIG_FILE`], where config.json has no settings and the directory has that file.
pub fn other_settings(directory: &Path, json: &Value) -> Result<Option<Vec<u8>>> {
    let keys = ["quantization", "quantization_config", "compression_config"];
    let path = directory.join(QUANTIZE_CONFIG_FILE);
    if keys.iter().any(|key| json.get(*key).is_some_and(|settings| !settings.is_null())) || !path.exists() {
        return Ok(None);
    }
    std::fs::read(&path).map(Some).map_err(Error::io(&path, "reading"))
}

/// Reads `quantization_config` of config.json (MLX calls it `quantization`, and compressed-tensors called it
/// `compression_config` at first), or else `other`, the bytes of [`QUANTIZE_CONFIG_FILE`].
pub fn read(directory: &Path, path: &Path, json: &Value, other: Option<&[u8]>) -> Result<Option<Scheme>> {
    let settings = |key| json.get(key).filter(|s: &&Value| !s.is_null());
    if let Some(settings) = settings("quantization") {
        return Ok(Some(Mlx::parse(path, settings)?.scheme()));
    }
    if let Some(settings) = settings("quantization_config") {
        return named(path, settings).map(Some);
    }
    if let Some(settings) = settings("compression_config") {
        return Ok(Some(CompressedTensors::parse(path, settings)?.scheme()));
    }
    let Some(bytes) = other else { return Ok(None) };
    let path = directory.join(QUANTIZE_CONFIG_FILE);
    let settings = parse_json(&path, bytes)?;
    match settings.get("quant_method").is_some_and(|method| !method.is_null()) {
        true => named(&path, &settings).map(Some),
        false => Ok(Some(Gptq::parse(&path, &settings)?.scheme())),
    }
}

/// Chooses the scheme by `quant_method`, which older files of bitsandbytes do not have.
fn named(path: &Path, settings: &Value) -> Result<Scheme> {
    let method = settings.get("quant_method").and_then(Value::as_str);
    let loads = |key| matches!(settings.get(key), Some(Value::Bool(true)));
    match method.or((loads("load_in_4bit") || loads("load_in_8bit")).then_some("bitsandbytes")) {
        Some("gptq") => Gptq::parse(path, settings).map(Gptq::scheme),
        Some("compressed-tensors") => CompressedTensors::parse(path, settings).map(CompressedTensors::scheme),
        Some("awq") => Awq::parse(path, settings).map(Awq::scheme),
        Some("aqlm") => Aqlm::parse(path, settings).map(Aqlm::scheme),
        Some("bitsandbytes") => BitsAndBytes::parse(path, settings).map(BitsAndBytes::scheme),
        Some("qzo") => CodebookScheme::parse(path, settings).map(CodebookScheme::scheme),
        Some(other) => Err(Error::unsupported(
            format!("{}: quantization method \"{other}\" is not supported", path.display()),
            "works: gptq, compressed-tensors, awq, aqlm, bitsandbytes 4-bit, mlx, qzo, GGUF files, and f32, f16 or \
             bf16 checkpoints (`qzo quantize` them)",
        )),
        None => Err(Error::damaged(path, "quantization_config names no quant_method")),
    }
}

/// The name of the scheme that the names of tensors point to, where the settings declare none.
pub fn undeclared(declared: Option<&Scheme>, names: &[&str]) -> Option<&'static str> {
    let known = [
        (gptq::PARTS[0], "GPTQ or AWQ"),
        (compressed_tensors::PACKED, "compressed-tensors"),
        (aqlm::PARTS[1], "AQLM"),
        (codebook::PARTS[2], "qzo's own scheme"),
        (bitsandbytes::ABSMAX, "bitsandbytes"),
        (".SCB", "bitsandbytes (8 bits)"),
        (mlx::BIASES, "MLX"),
        (".weight_scale_inv", "FP8"),
        (".weight_scale", "FP8 or compressed-tensors"),
    ];
    let has = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let found = known.into_iter().find(|(ending, _)| declared.is_none() && has(ending));
    found.map(|(_, scheme)| scheme)
}
