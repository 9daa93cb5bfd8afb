//! What compressed-tensors says in config.json: its `QuantizationConfig`, in which groups of modules have
//! settings. Which linears are quantized is seen from their tensors, so that `targets` and `ignore` are not
//! read; several groups have to say the same about weights.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::group_size;
use super::{Actorder, CompressedTensors};
use crate::arch::hf::loose::{self, Flag};
use crate::error::{Error, Result};

const FORMAT: &str = "pack-quantized";

const WORKS: &str = "works: format \"pack-quantized\" with integers of 2, 3, 4 or 8 bits, strategy \"group\" or \
                     \"channel\", the same for all linears, and activations that are not quantized";

#[derive(Deserialize)]
struct Config {
    config_groups: BTreeMap<String, Value>,
    format: Option<String>,
    quantization_status: Option<String>,
    kv_cache_scheme: Option<Value>,
    sparsity_config: Option<Value>,
    transform_config: Option<Value>,
}

#[derive(Deserialize)]
struct Group {
    weights: Option<Weights>,
    input_activations: Option<Value>,
    output_activations: Option<Value>,
    format: Option<String>,
}

/// The package's `QuantizationArgs`, with its defaults.
#[derive(Deserialize)]
struct Weights {
    num_bits: Option<i64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    symmetric: Option<Flag>,
    group_size: Option<i64>,
    strategy: Option<String>,
    #[serde(default)]
    dynamic: Value,
    #[serde(default)]
    actorder: Value,
}

pub fn parse(path: &Path, json: &Value) -> Result<CompressedTensors> {
    let damaged =
        |e: serde_json::Error| Error::damaged(path, format!("compressed-tensors quantization config: {e}"));
    let unsupported = |what: String| {
        Error::unsupported(format!("{}: compressed-tensors with {what}", path.display()), WORKS)
    };
    let config: Config = loose::read(json).map_err(damaged)?;
    match config.quantization_status.as_deref() {
        None | Some("compressed" | "frozen") => {}
        Some(other) => return Err(unsupported(format!("quantization_status \"{other}\""))),
    }
    if config.kv_cache_scheme.is_some_and(|scheme| !scheme.is_null()) {
        return Err(unsupported("kv_cache_scheme: quantized keys and values".into()));
    }
    if let Some(what) = config.sparsity_config.as_ref().and_then(sparsity) {
        return Err(unsupported(what));
    }
    if config.transform_config.is_some_and(|transforms| !is_empty(&transforms)) {
        return Err(unsupported("transform_config: rotated weights".into()));
    }
    let mut same: Option<(&str, CompressedTensors)> = None;
    for (name, group) in &config.config_groups {
        if group.is_array() {
            return Err(unsupported(format!("the preset \"{name}\" in place of its settings")));
        }
        let group: Group = loose::read(group).map_err(damaged)?;
        let scheme = parse_group(path, group, config.format.as_deref(), &unsupported)?;
        match same {
            Some((first, other)) if other != scheme => {
                return Err(unsupported(format!("other settings in \"{name}\" than in \"{first}\"")));
            }
            _ => same = Some((name, scheme)),
        }
    }
    same.map(|(_, scheme)| scheme).ok_or_else(|| Error::damaged(path, "config_groups has no group"))
}

fn parse_group(
    path: &Path,
    group: Group,
    format: Option<&str>,
    unsupported: &dyn Fn(String) -> Error,
) -> Result<CompressedTensors> {
    let format = group.format.as_deref().or(format).unwrap_or("fakequant");
    if format != FORMAT {
        return Err(unsupported(format!("format \"{format}\"")));
    }
    for (key, activations) in
        [("input_activations", group.input_activations), ("output_activations", group.output_activations)]
    {
        if activations.is_some_and(|activations| !activations.is_null()) {
            return Err(unsupported(format!("quantized activations ({key})")));
        }
    }
    let Some(weights) = group.weights else {
        return Err(unsupported("weights that are not quantized".into()));
    };
    let bits = match weights.num_bits.unwrap_or(8) {
        bits @ (2 | 3 | 4 | 8) => bits as u32,
        bits => return Err(unsupported(format!("{bits} bits"))),
    };
    if let Some(kind) = weights.kind.filter(|kind| !kind.eq_ignore_ascii_case("int")) {
        return Err(unsupported(format!("weights of type \"{kind}\"")));
    }
    if !matches!(weights.dynamic, Value::Null | Value::Bool(false)) && weights.dynamic != 0 {
        return Err(unsupported(format!("dynamic {} for weights", weights.dynamic)));
    }
    let stated = weights.group_size.map(|size| group_size(path, size)).transpose()?;
    let group_size = match (weights.strategy.map(|s| s.to_lowercase()).as_deref(), stated) {
        (None | Some("group"), Some(Some(size))) => Some(size),
        (Some("group"), _) => return Err(Error::damaged(path, "strategy \"group\" without a group_size")),
        (None, Some(None)) | (Some("channel"), None | Some(None)) => None,
        (Some("channel"), Some(Some(size))) => {
            return Err(Error::damaged(path, format!("group_size {size} with strategy \"channel\"")));
        }
        (other, _) => return Err(unsupported(format!("strategy \"{}\"", other.unwrap_or("tensor")))),
    };
    let actorder = match &weights.actorder {
        Value::Null | Value::Bool(false) => None,
        _ if group_size.is_none() => return Err(Error::damaged(path, "actorder with strategy \"channel\"")),
        Value::Bool(true) => Some(Actorder::Group),
        Value::String(order) if matches!(&*order.to_lowercase(), "group" | "dynamic") => {
            Some(Actorder::Group)
        }
        Value::String(order) if matches!(&*order.to_lowercase(), "weight" | "static") => {
            Some(Actorder::Weight)
        }
        other => return Err(unsupported(format!("actorder {other}"))),
    };
    Ok(CompressedTensors { bits, group_size, symmetric: weights.symmetric != Some(Flag(false)), actorder })
}

/// What is sparse, if anything is.
fn sparsity(config: &Value) -> Option<String> {
    match config.get("format").and_then(Value::as_str) {
        Some("dense") => None,
        Some(format) => Some(format!("sparse weights (sparsity_config of format \"{format}\")")),
        None if is_empty(config) => None,
        None => Some("sparse weights (sparsity_config)".into()),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(|object| object.values().all(is_empty))
}

/// As the package's `ModelCompressor.update_config`.
pub fn write(scheme: &CompressedTensors) -> Value {
    json!({
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": scheme.bits,
                    "type": "int",
                    "symmetric": scheme.symmetric,
                    "strategy": if scheme.group_size.is_some() { "group" } else { "channel" },
                    "group_size": scheme.group_size,
                    "actorder": scheme.actorder.map(|order| match order {
                        Actorder::Group => "group",
                        Actorder::Weight => "weight",
                    }),
                    "block_structure": null,
                    "dynamic": false,
                    "observer": "minmax",
                    "observer_kwargs": {},
                },
                "input_activations": null,
                "output_activations": null,
                "format": FORMAT,
            },
        },
        "ignore": ["lm_head"],
        "kv_cache_scheme": null,
        "global_compression_ratio": null,
    })
}
