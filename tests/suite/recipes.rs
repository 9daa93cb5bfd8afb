use qzo::config::Config;

use crate::support::repository;

#[test]
fn every_recipe_parses_and_names_a_model() {
    let folder = repository().join("configs");
    let mut found = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let config = Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(!config.model.is_empty(), "{} names no model", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with('#') && text.contains("qzo finetune --config"),
            "{}: its header does not say the command that runs it",
            path.display()
        );
        found += 1;
    }
    assert!(found > 0, "{} holds no recipe", folder.display());
}
