//! The configuration of a run: each module's own table, read from TOML in one pass. Precedence: flag, then
//! `--set section.key=value`, then the file, then the defaults, which stand in each table's `Default`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::data::DataConfig;
use crate::device::{DeviceSpec, DtypeSpec};
use crate::error::{Error, Result, nearest};
use crate::quant::QuantizeConfig;
use crate::train::TrainConfig;
use crate::zo::schedule::LrScheduler;

/// A recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A directory, a .gguf file or a Hugging Face id.
    pub model: String,
    /// The run directory.
    pub output_dir: PathBuf,
    /// auto, cpu, wgpu[:n] or cuda[:n].
    #[schemars(with = "String")]
    pub device: DeviceSpec,
    /// Type of the arithmetic of activations: auto, f32, f16 or bf16.
    #[schemars(with = "String")]
    pub dtype: DtypeSpec,
    /// Seed of everything random.
    pub seed: u64,
    /// The rows, and the task that they are of.
    pub data: DataConfig,
    /// How the model is quantized, if it is not quantized yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<QuantizeConfig>,
    pub train: TrainConfig,
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
        }
    }
}

impl Config {
    /// Reads a file and lays `settings` (`section.key=value`, later ones win) over it.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key (with its line and the nearest known one), a value of
    /// the wrong type or outside its range.
    pub fn load(path: &Path, settings: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "reading"))?;
        // Once as it stands, for errors with a line; once more with the settings laid over.
        toml::from_str::<Self>(&text).map_err(|error| at_line(path, &text, &error))?;
        let mut table: Table = toml::from_str(&text).map_err(|error| at_line(path, &text, &error))?;
        for setting in settings {
            set(&mut table, setting)?;
        }
        let mut config = Self::deserialize(Value::Table(table)).map_err(|error| {
            Error::invalid(
                explain(error.message()),
                format!("check --set and the flags: {}", settings.join(", ")),
            )
        })?;
        config.find_files_beside(path);
        config.validate()?;
        Ok(config)
    }

    /// The JSON schema of recipes.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).into()
    }

    /// The resolved configuration as TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| Error::internal(error.to_string()))
    }

    /// Identifies what decides the course of a run: two runs that share it, the model and the data take
    /// the same steps. Places, devices and how often something is saved or logged are not part of it. Every key is
    /// named here, on one side or the other, so that a new one cannot be forgotten.
    pub fn fingerprint(&self) -> [u8; 32] {
        let Self { model: _, output_dir: _, device: _, dtype, seed, data, quantize: _, train } = self;
        let TrainConfig {
            method,
            max_steps,
            batch_size,
            estimator,
            learning_rate,
            lr_scheduler_type,
            warmup_steps,
            zo_eps,
            clip,
            scale_mode,
            perturbation,
            probes,
            eval_steps: _,
            save_steps: _,
            logging_steps: _,
            max_skipped_steps: _,
        } = train;
        let data = DataConfig { train: None, dev: None, ..data.clone() };
        let decays = *lr_scheduler_type != LrScheduler::Constant;
        let decisive = serde_json::json!({
            "seed": seed,
            "dtype": dtype,
            "data": data,
            "method": method,
            "batch_size": batch_size,
            "estimator": estimator,
            "learning_rate": learning_rate,
            "lr_scheduler_type": lr_scheduler_type,
            "warmup_steps": warmup_steps,
            "max_steps": decays.then_some(max_steps),
            "zo_eps": zo_eps,
            "clip": clip.to_string(),
            "scale_mode": scale_mode,
            "perturbation": perturbation,
            "probes": probes,
        });
        *blake3::hash(decisive.to_string().as_bytes()).as_bytes()
    }

    /// # Errors
    /// No model, or a value outside its range.
    pub fn validate(&self) -> Result<()> {
        if self.model.is_empty() {
            return Err(Error::invalid("the configuration names no model", "set `model`, or give --model"));
        }
        if let Some(quantize) = &self.quantize {
            quantize.validate()?;
        }
        self.train.validate()
    }

    /// Paths are relative to the current directory; what is not there is looked for beside the
    /// configuration file, so that a recipe can be moved together with its model and data.
    fn find_files_beside(&mut self, config: &Path) {
        let beside = config.parent().unwrap_or(Path::new(""));
        let find = |path: &Path| {
            let other = beside.join(path);
            (path.is_relative() && !path.exists() && other.exists()).then_some(other)
        };
        let calibration = self.quantize.as_mut().and_then(|quantize| quantize.calibration.as_mut());
        let data = [&mut self.data.train, &mut self.data.dev].into_iter().flatten();
        for path in data.chain(calibration) {
            if let Some(found) = find(path) {
                *path = found;
            }
        }
        if let Some(found) = find(Path::new(&self.model)).filter(|_| !self.model.is_empty()) {
            self.model = found.to_string_lossy().into_owned();
        }
    }
}

/// `key=value` with a dotted key; the value is TOML, or else a plain string.
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

/// serde lists every known key after an unknown one; the nearest is what helps.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, settings: &[&str]) -> Result<Config> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path, &settings.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_name() {
        let error = load("model = \"m\"\n[train]\nlerning_rate = 1e-3\n", &[]).unwrap_err().to_string();
        assert!(error.contains("run.toml:3:") && error.contains("`learning_rate`"), "{error}");
    }

    #[test]
    fn settings_win_over_the_file_and_defaults_fill_the_rest() {
        let config = load(
            "model = \"m\"\n[train]\nzo_eps = 0.5\nmax_steps = 7\n",
            &["train.zo_eps=0.25", "data.prompt={text} is", "seed=3", "train.clip=inf"],
        )
        .unwrap();
        assert_eq!((config.train.zo_eps, config.train.max_steps, config.seed), (0.25, 7, 3));
        assert_eq!(config.data.prompt.as_deref(), Some("{text} is"));
        assert_eq!(config.train.batch_size, TrainConfig::default().batch_size);
        assert!(config.train.clip.is_infinite());
    }

    #[test]
    fn files_beside_the_recipe_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        std::fs::write(place("m.gguf"), "").unwrap();
        std::fs::write(place("rows.jsonl"), "").unwrap();
        let recipe = "model = \"m.gguf\"\n[data]\ntrain = \"rows.jsonl\"\ndev = \"absent.jsonl\"\n";
        std::fs::write(place("run.toml"), recipe).unwrap();
        let config = Config::load(&place("run.toml"), &[]).unwrap();
        assert_eq!(Path::new(&config.model), place("m.gguf"));
        assert_eq!(config.data.train, Some(place("rows.jsonl")));
        assert_eq!(config.data.dev, Some("absent.jsonl".into()));
    }

    #[test]
    fn a_wrong_type_names_the_line() {
        let error = load("model = \"m\"\n\n[train]\nmax_steps = \"many\"\n", &[]).unwrap_err().to_string();
        assert!(error.contains("run.toml:4:"), "{error}");
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        let error = load("model = \"m\"\n", &["train.zo_epsilon=1"]).unwrap_err().to_string();
        assert!(error.contains("zo_eps"), "{error}");
    }

    #[test]
    fn the_resolved_configuration_reads_back_as_itself() {
        let config = load("model = \"m\"\n[quantize]\nbits = 3\n[data]\nchoices = [\" a\"]\n", &[]).unwrap();
        assert_eq!(load(&config.to_toml().unwrap(), &[]).unwrap(), config);
    }

    #[test]
    fn only_what_decides_the_course_changes_the_fingerprint() {
        let of = |settings: &[&str]| load("model = \"m\"\n", settings).unwrap().fingerprint();
        assert_eq!(of(&[]), of(&["device=cpu", "output_dir=x", "train.max_steps=9", "train.save_steps=1"]));
        assert_ne!(of(&[]), of(&["seed=1"]));
        assert_ne!(of(&[]), of(&["train.zo_eps=0.5"]));
    }
}
