//! The configuration of a run, read from TOML in one pass. Each module defines its own table. Precedence: flag, then
//! `--set section.key=value`, then the file, then the `Default` of each table. `without_recipe` makes the configuration of
//! a run that has no file; `differences` tells the settings of two runs apart.

mod differences;
mod differing;
#[cfg(test)]
mod tests;
mod without_recipe;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use differing::{differing, shown};

use crate::data::{DataConfig, STDIN};
use crate::device::{DeviceSpec, DtypeSpec};
use crate::error::{Error, Result, nearest};
use crate::quant::QuantizeConfig;
use crate::train::{Body, MethodKind, ObjectiveKind, TrainConfig};
use crate::zo::schedule::Schedule;

/// A recipe: the configuration of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A directory, a .gguf file or a Hugging Face id.
    pub model: String,
    /// The run directory.
    pub output_dir: PathBuf,
    /// auto, cpu, wgpu or cuda; of several cards one by its number, as in cuda:1.
    #[schemars(with = "String")]
    pub device: DeviceSpec,
    /// Type of the arithmetic of activations: auto, f32, f16 or bf16.
    #[schemars(with = "String")]
    pub dtype: DtypeSpec,
    /// Seed of all random numbers.
    pub seed: u64,
    /// The dataset and its task.
    pub data: DataConfig,
    /// How the model is quantized, if it is not quantized yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<QuantizeConfig>,
    pub train: TrainConfig,
    /// The values that are chosen once the data is known.
    #[serde(skip)]
    pub open: OpenValues,
}

/// The values that a command without a recipe leaves to the data and the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenValues {
    pub max_steps: bool,
    pub dev: bool,
    pub quantize: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: String::new(),
            output_dir: PathBuf::from("runs/qzo"),
            device: DeviceSpec::Auto,
            dtype: DtypeSpec::Auto,
            seed: 0,
            data: DataConfig::default(),
            quantize: None,
            train: TrainConfig::default(),
            open: OpenValues::default(),
        }
    }
}

impl Config {
    /// Reads a file, then overrides its values by `settings` (`section.key=value`, later ones win).
    ///
    /// # Errors
    /// The file cannot be read, a key is unknown (the error names its line and the nearest known key), or a value has
    /// the wrong type or is outside its range.
    pub fn load(path: &Path, settings: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "reading"))?;
        // The file is first parsed without the settings, because only errors of the file itself have a line.
        toml::from_str::<Self>(&text).map_err(|error| at_line(path, &text, &error))?;
        let mut table: Table = toml::from_str(&text).map_err(|error| at_line(path, &text, &error))?;
        let mut config = Self::of_table(&mut table, settings)?;
        config.resolve_paths(path);
        config.validate()?;
        Ok(config)
    }

    /// Reads a table with its settings.
    fn of_table(table: &mut Table, settings: &[String]) -> Result<Self> {
        for setting in settings {
            set(table, setting)?;
            replace_length(table, setting);
        }
        check_length(table)?;
        choose_method(table)?;
        Self::deserialize(Value::Table(table.clone())).map_err(|error| {
            Error::invalid(
                explain(error.message()),
                format!("check --set and the flags: {}", settings.join(", ")),
            )
        })
    }

    /// The JSON schema of recipes.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).into()
    }

    /// The resolved configuration as TOML. The settings of a method that the run does not use are left out.
    ///
    /// # Errors
    /// A value has no form in TOML.
    pub fn to_toml(&self) -> Result<String> {
        let internal = |error: toml::ser::Error| Error::internal(error.to_string());
        let mut table = Table::try_from(self).map_err(internal)?;
        if let Some(train) = table.get_mut("train").and_then(Value::as_table_mut) {
            let unused: &[MethodKind] = match (self.train.method, self.train.body) {
                (MethodKind::Zo, _) => &[MethodKind::Exact],
                (MethodKind::Exact, Body::None) => &[MethodKind::Zo],
                (MethodKind::Exact, Body::Zo) => &[],
            };
            unused.iter().flat_map(|method| method.settings()).for_each(|key| drop(train.remove(*key)));
            if self.train.num_train_epochs.is_some() {
                train.remove("max_steps");
            }
        }
        toml::to_string_pretty(&table).map_err(internal)
    }

    /// Hash of the settings that determine the steps of a run: two runs with the same fingerprint, model and data take
    /// the same steps. Paths, devices and the intervals of evaluating and logging are not part of it; that of saving is, for
    /// exact gradients, since a run that diverges goes back to its last snapshot. The function names every key, as hashed or
    /// as ignored, so that a new one cannot be forgotten.
    pub fn fingerprint(&self) -> [u8; 32] {
        let Self { model: _, output_dir: _, device: _, dtype, seed, data, quantize: _, train, open: _ } =
            self;
        let TrainConfig {
            method,
            max_steps,
            num_train_epochs: _,
            batch_size,
            estimator,
            learning_rate,
            lr_scheduler_type: _,
            warmup_steps: _,
            min_lr_rate: _,
            gradient_accumulation_steps,
            zo_eps,
            clip,
            scale_mode,
            perturbation,
            probes,
            objective,
            command,
            command_timeout: _,
            max_new_tokens,
            tail_blocks,
            body,
            body_learning_rate,
            parameters,
            optimizer,
            max_grad_norm,
            eval_steps: _,
            save_steps,
            logging_steps: _,
            max_skipped_steps: _,
            report_to: _,
        } = train;
        // The rows, and the template where they are chats, are in the hash of the data.
        let data = DataConfig { train: None, dev: None, chat_template: None, ..data.clone() };
        let mut of_zo = serde_json::json!({
            "estimator": estimator,
            "zo_eps": zo_eps,
            "clip": clip.to_string(),
            "scale_mode": scale_mode,
            "perturbation": perturbation,
            "probes": probes,
        });
        if *objective != ObjectiveKind::Loss {
            of_zo["objective"] = serde_json::json!([objective, command, max_new_tokens]);
        }
        let of_method = match method {
            MethodKind::Zo => of_zo,
            MethodKind::Exact => serde_json::json!({
                "tail_blocks": tail_blocks,
                "body": (*body == Body::Zo).then_some((of_zo, body_learning_rate)),
                "parameters": parameters,
                "optimizer": optimizer,
                "max_grad_norm": max_grad_norm.to_string(),
                "save_steps": save_steps,
            }),
        };
        let Schedule { lr_scheduler_type, warmup_steps, min_lr_rate } = train.schedule();
        let hashed = serde_json::json!({
            "seed": seed,
            "dtype": dtype,
            "data": data,
            "method": method,
            "of_method": of_method,
            "batch_size": batch_size,
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "learning_rate": learning_rate,
            "lr_scheduler_type": lr_scheduler_type,
            "warmup_steps": warmup_steps,
            "min_lr_rate": min_lr_rate,
            "max_steps": train.depends_on_max_steps().then_some(max_steps),
        });
        *blake3::hash(hashed.to_string().as_bytes()).as_bytes()
    }

    /// Checks the values of all tables.
    ///
    /// # Errors
    /// The configuration names no model, or a value is outside its range.
    pub fn validate(&self) -> Result<()> {
        if self.model.is_empty() {
            return Err(Error::invalid("the configuration names no model", "set `model`, or give --model"));
        }
        if let Some(quantize) = &self.quantize {
            quantize.validate()?;
        }
        self.train.validate()
    }

    /// Resolves relative paths. They are relative to the current directory; a file that does not exist there is looked
    /// for in the folder of the configuration file, so that a recipe can be moved together with its model and data.
    fn resolve_paths(&mut self, config: &Path) {
        let folder = config.parent().unwrap_or(Path::new(""));
        let find = |path: &Path| {
            let other = folder.join(path);
            (path.is_relative() && !path.exists() && other.exists()).then_some(other)
        };
        let calibration = self.quantize.as_mut().and_then(|quantize| quantize.calibration.as_mut());
        for path in calibration.into_iter().chain(&mut self.data.chat_template) {
            if let Some(found) = find(path) {
                *path = found;
            }
        }
        let data = [&mut self.data.train, &mut self.data.dev].into_iter().flatten();
        for name in data.flat_map(|files| &mut files.0).filter(|name| *name != STDIN) {
            if let Some(found) = find(Path::new(name)) {
                *name = found.to_string_lossy().into_owned();
            }
        }
        if let Some(found) = find(Path::new(&self.model)).filter(|_| !self.model.is_empty()) {
            self.model = found.to_string_lossy().into_owned();
        }
    }
}

/// The two keys of `[train]` that state the length of a run.
const LENGTHS: [&str; 2] = ["max_steps", "num_train_epochs"];

/// Removes the length that a file states in one key if `setting` states it in the other.
fn replace_length(table: &mut Table, setting: &str) {
    let key = setting.split_once('=').and_then(|(key, _)| key.trim().strip_prefix("train."));
    if let Some(key) = key.filter(|key| LENGTHS.contains(key))
        && let Some(train) = table.get_mut("train").and_then(Value::as_table_mut)
    {
        train.retain(|other, _| other == key || !LENGTHS.contains(&other));
    }
}

/// # Errors
/// The length of the run is stated twice.
fn check_length(table: &Table) -> Result<()> {
    let is_set = |key: &&str| table.get("train").is_some_and(|train| train.get(*key).is_some());
    match LENGTHS.iter().all(is_set) {
        true => Err(Error::invalid(
            "train.max_steps and train.num_train_epochs are both set",
            "leave one of them out",
        )),
        false => Ok(()),
    }
}

/// Names the method of training where the recipe does not: a recipe with a setting of zo is a zo run. Exact gradients
/// with `body = "zo"` take the settings of both.
///
/// # Errors
/// A setting belongs to a method that the recipe does not use.
fn choose_method(table: &mut Table) -> Result<()> {
    let train = table.entry("train").or_insert_with(|| Value::Table(Table::new()));
    let Some(train) = train.as_table_mut() else { return Ok(()) };
    let first = |method: MethodKind| method.settings().iter().find(|key| train.contains_key(**key)).copied();
    let mixed = train.get("body").and_then(Value::as_str) == Some("zo");
    let (of_zo, of_exact) = (first(MethodKind::Zo).filter(|_| !mixed), first(MethodKind::Exact));
    let foreign = match (train.get("method").and_then(Value::as_str), of_zo, of_exact) {
        (Some("zo"), _, Some(key)) => Some((key, "exact", "zo")),
        (Some("exact"), Some(key), _) => Some((key, "zo", "exact")),
        (None, Some(zo), Some(key)) => {
            let what = format!("train.{zo} is a setting of zo, train.{key} one of exact");
            return Err(Error::invalid(
                what,
                "set train.method, and leave out the settings of the other method",
            ));
        }
        _ => None,
    };
    if let Some((key, method, chosen)) = foreign {
        return Err(Error::invalid(
            format!("train.{key} is a setting of {method}, but train.method is {chosen}"),
            format!("leave it out, or set train.method = \"{method}\""),
        ));
    }
    if train.contains_key("command") && !train.contains_key("objective") {
        train.insert("objective".into(), "command".into());
    }
    if !train.contains_key("method") {
        let method = if of_zo.is_some() { "zo" } else { "exact" };
        train.insert("method".into(), method.into());
    }
    Ok(())
}

/// Sets `key=value` in a table. The key is dotted; a value that is not TOML is a plain string.
fn set(table: &mut Table, setting: &str) -> Result<()> {
    let usage = || Error::Usage(format!("--set takes section.key=value, got `{setting}`"));
    let (key, text) = setting.split_once('=').ok_or_else(usage)?;
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
    let value = parsed.and_then(|mut t| t.remove("value")).unwrap_or_else(|| Value::String(text.to_string()));
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().filter(|last| !last.is_empty()).ok_or_else(usage)?;
    let mut table = table;
    for part in parts {
        let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut().ok_or_else(usage)?;
    }
    table.insert(last.to_string(), value);
    Ok(())
}

fn at_line(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
    Error::line(path, line, explain(error.message()))
}

/// Rewords serde's message on an unknown key: serde lists all known keys, but the nearest of them helps most.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(unknown) if message.starts_with("unknown field") => match nearest(unknown, quoted.clone()) {
            Some(known) => format!("unknown key `{unknown}`: did you mean `{known}`?"),
            None => {
                format!("unknown key `{unknown}`: expected one of {}", quoted.collect::<Vec<_>>().join(", "))
            }
        },
        _ => message.trim_end().replace('\n', "; "),
    }
}
