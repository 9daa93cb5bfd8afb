use std::path::PathBuf;

use qzo::config::Config;
use serde_json::{Value, json};

use crate::support::schema::errors;
use crate::support::{Workplace, repository};

/// Every file of `configs/`.
fn recipes() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join("configs")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    assert!(!found.is_empty(), "configs/ holds no recipe");
    found
}

#[test]
fn every_recipe_parses_and_names_a_model() {
    for path in recipes() {
        let config = Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(!config.model.is_empty(), "{} names no model", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with('#') && text.contains("qzo finetune --config"),
            "{}: its header does not say the command that runs it",
            path.display()
        );
    }
}

#[test]
fn the_schema_takes_every_recipe_and_refuses_what_the_program_refuses() {
    let place = Workplace::new();
    let schema: Value = serde_json::from_str(&place.run("config --schema", &[]).succeeded().stdout).unwrap();
    let errors = |value: &Value| errors(&schema, &schema, value, "recipe");
    let read = |text: &str| serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap();
    for path in recipes() {
        let recipe = read(&std::fs::read_to_string(&path).unwrap());
        assert_eq!(errors(&recipe), Vec::<String>::new(), "{}", path.display());
    }
    for wrong in [
        json!({"modle": "m"}),
        json!({"train": {"max_steps": "many"}}),
        json!({"train": {"perturbation": "uniform"}}),
        json!({"train": {"method": "magic"}}),
        json!({"train": {"report_to": "wandb"}}),
        json!({"data": {"choices": " good"}}),
        json!({"quantize": {"method": "gtpq"}}),
    ] {
        assert!(!errors(&wrong).is_empty(), "{wrong}");
    }
    // Editors show what each key means.
    let described = schema["$defs"]["TrainConfig"]["properties"].as_object().unwrap();
    let silent: Vec<&String> =
        described.iter().filter(|(_, key)| key["description"].is_null()).map(|(name, _)| name).collect();
    assert!(silent.is_empty(), "no description: {silent:?}");
}

#[test]
fn a_recipe_is_shown_with_every_key() {
    let place = Workplace::new();
    let recipe = repository().join("configs/llama2-7b.toml");
    let shown =
        place.run("config --set train.max_steps=7 --config", &[recipe.as_os_str()]).succeeded().stdout;
    let config: toml::Value = toml::from_str(&shown).unwrap();
    assert_eq!(config["train"]["max_steps"].as_integer(), Some(7));
    assert_eq!(config["train"]["method"].as_str(), Some("zo"));
    place.write("shown.toml", &shown);
    assert_eq!(place.run("config --config shown.toml", &[]).succeeded().stdout, shown);
}

#[test]
fn shells_get_completions_and_man_gets_pages() {
    let place = Workplace::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.qzo(["completions", shell]).succeeded().stdout;
        assert!(script.contains("finetune") && script.contains("allow-lossy"), "{shell}: {script}");
    }
    place.run("man pages", &[]).succeeded();
    for page in ["qzo.1", "qzo-finetune.1", "qzo-quantize.1", "qzo-eval.1"] {
        let text = std::fs::read_to_string(place.path("pages").join(page)).unwrap();
        assert!(text.starts_with(".ie") || text.contains(".TH"), "{page}");
    }
}
