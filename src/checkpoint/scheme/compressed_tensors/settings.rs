//! The settings of compressed-tensors in config.json: its `QuantizationConfig`, in which groups of modules have
//! settings. A linear is quantized where it has such tensors, so `targets` and `ignore` are not read; all groups have
//! to say the same about weights.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::config::{group_size, read_settings};
use crate::arch::hf::loose::Flag;
use crate::error::{Error, Result};

const NAME: &str = "compressed-tensors";

const FORMAT: &str = "pack-quantized";

const WORKS: &str = "works: format \"pack-quantized\" with integers of 2, 3, 4 or 8 bits, strategy \"group\" or \
                     \"channel\", the same for all linears, and activations that are not quantized";

/// Settings of all linears, read or to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompressedTensors {
    pub bits: u32,
    /// `None`: one group per row (strategy "channel").
    pub group_size: Option<usize>,
    /// Whether the middle of the codes is the only zero point.
    pub symmetric: bool,
    pub actorder: Option<Actorder>,
}

/// Use of the order of the features' activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actorder {
    /// Groups may hold features that are no neighbours.
    Group,
    /// Used only to quantize: groups hold neighbours.
    Weight,
}

#[derive(Deserialize)]
struct CompressedTensorsSettings {
    config_groups: BTreeMap<String, Value>,
    format: Option<String>,
    quantization_status: Option<String>,
    kv_cache_scheme: Option<Value>,
    sparsity_config: Option<Value>,
    transform_config: Option<Value>,
}

#[derive(Deserialize)]
struct ModuleGroup {
    weights: Option<WeightArgs>,
    input_activations: Option<Value>,
    output_activations: Option<Value>,
    format: Option<String>,
}

/// The package's `QuantizationArgs`, with its defaults.
#[derive(Deserialize)]
struct WeightArgs {
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

impl CompressedTensors {
    /// # Errors
    /// Missing or impossible values; a variant of the format that is not supported.
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let unsupported = |what: String| {
            Error::unsupported(format!("{}: compressed-tensors with {what}", path.display()), WORKS)
        };
        let config: CompressedTensorsSettings = read_settings(path, json, NAME)?;
        let status = config.quantization_status.filter(|s| !matches!(&**s, "compressed" | "frozen"));
        let refused = if let Some(status) = status {
            Some(format!("quantization_status \"{status}\""))
        } else if config.kv_cache_scheme.is_some_and(|scheme| !scheme.is_null()) {
            Some("kv_cache_scheme: quantized keys and values".into())
        } else if config.transform_config.is_some_and(|transforms| !is_empty(&transforms)) {
            Some("transform_config: rotated weights".into())
        } else {
            config.sparsity_config.as_ref().and_then(sparsity)
        };
        if let Some(what) = refused {
            return Err(unsupported(what));
        }
        let mut same: Option<(&str, Self)> = None;
        for (name, group) in &config.config_groups {
            if group.is_array() {
                return Err(unsupported(format!("the preset \"{name}\" in place of its settings")));
            }
            let group: ModuleGroup = read_settings(path, group, NAME)?;
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

    /// The settings as the package's `ModelCompressor.update_config` writes them.
    pub fn to_json(self) -> Value {
        json!({
            "quant_method": NAME,
            "format": FORMAT,
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": self.bits,
                        "type": "int",
                        "symmetric": self.symmetric,
                        "strategy": if self.group_size.is_some() { "group" } else { "channel" },
                        "group_size": self.group_size,
                        "actorder": self.actorder.map(|order| match order {
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
}

fn parse_group(
    path: &Path,
    group: ModuleGroup,
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
    let said = weights.actorder.as_str().map(str::to_lowercase);
    let actorder = match (&weights.actorder, said.as_deref()) {
        (Value::Null | Value::Bool(false), _) => None,
        _ if group_size.is_none() => return Err(Error::damaged(path, "actorder with strategy \"channel\"")),
        (Value::Bool(true), _) | (_, Some("group" | "dynamic")) => Some(Actorder::Group),
        (_, Some("weight" | "static")) => Some(Actorder::Weight),
        (other, _) => return Err(unsupported(format!("actorder {other}"))),
    };
    Ok(CompressedTensors { bits, group_size, symmetric: weights.symmetric != Some(Flag(false)), actorder })
}

/// A description of the sparse weights, if there are any.
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
