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
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("m.gguf"), "").unwrap();
    std::fs::write(path("rows.jsonl"), "").unwrap();
    let recipe = "model = \"m.gguf\"\n[data]\ntrain = \"rows.jsonl\"\ndev = \"absent.jsonl\"\n";
    std::fs::write(path("run.toml"), recipe).unwrap();
    let config = Config::load(&path("run.toml"), &[]).unwrap();
    assert_eq!(Path::new(&config.model), path("m.gguf"));
    assert_eq!(config.data.train, Some(path("rows.jsonl").into()));
    assert_eq!(config.data.dev, Some("absent.jsonl".into()));
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_its_line() {
    let error = load("model = \"m\"\n\n[train]\nmax_steps = \"many\"\n", &[]).unwrap_err().to_string();
    assert!(error.contains("run.toml:4:"), "{error}");
}

#[test]
fn a_run_is_as_long_as_its_steps_or_its_epochs_say() {
    let both = "model = \"m\"\n[train]\nmax_steps = 7\nnum_train_epochs = 2\n";
    assert!(load(both, &[]).unwrap_err().to_string().contains("are both set"));
    let steps = "model = \"m\"\n[train]\nmax_steps = 7\n";
    let config = load(steps, &["train.num_train_epochs=1.5"]).unwrap();
    assert_eq!((config.train.num_train_epochs, config.train.steps_of(1.5, 100)), (Some(1.5), 10));
    assert_eq!(load(&config.to_toml().unwrap(), &[]).unwrap(), config);
    let config = load("model = \"m\"\n[train]\nnum_train_epochs = 2\n", &["train.max_steps=3"]).unwrap();
    assert_eq!((config.train.num_train_epochs, config.train.max_steps), (None, 3));
    for wrong in ["0", "-1", "nan"] {
        let setting = format!("train.num_train_epochs={wrong}");
        assert!(load(steps, &[&setting]).unwrap_err().to_string().contains("expected a number above 0"));
    }
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
fn only_settings_that_determine_the_steps_change_the_fingerprint() {
    let fingerprint = |settings: &[&str]| load("model = \"m\"\n", settings).unwrap().fingerprint();
    let ignored = ["device=cpu", "output_dir=x", "train.eval_steps=1"];
    assert_eq!(fingerprint(&[]), fingerprint(&ignored));
    // The learning rate of exact gradients follows from the number of steps.
    for setting in ["seed=1", "train.max_steps=9", "train.parameters=rows", "train.max_grad_norm=inf"] {
        assert_ne!(fingerprint(&[]), fingerprint(&[setting]), "{setting}");
    }
    let zo = "train.zo_eps=0.5";
    assert_eq!(fingerprint(&[zo]), fingerprint(&[zo, "train.max_steps=9", "train.save_steps=1"]));
    assert_ne!(fingerprint(&[zo]), fingerprint(&["train.zo_eps=0.25"]));
}

#[test]
fn a_recipe_with_a_setting_of_zo_is_a_zo_run_and_any_other_is_exact() {
    let method = |text: &str, settings: &[&str]| load(text, settings).map(|config| config.train.method);
    assert_eq!(method("model = \"m\"\n", &[]).unwrap(), MethodKind::Exact);
    for setting in
        ["estimator=qzo", "zo_eps=0.5", "probes=2", "perturbation=gaussian", "clip=1", "scale_mode=absolute"]
    {
        let setting = format!("train.{setting}");
        assert_eq!(method("model = \"m\"\n", &[&setting]).unwrap(), MethodKind::Zo, "{setting}");
        let refused = method("model = \"m\"\n[train]\nmethod = \"exact\"\n", &[&setting]).unwrap_err();
        assert!(refused.to_string().contains("is a setting of zo"), "{refused}");
    }
    let refused = method("model = \"m\"\n[train]\noptimizer = \"lion\"\n", &["train.clip=3"]).unwrap_err();
    assert!(refused.to_string().contains("train.clip is a setting of zo"), "{refused}");
    let refused = method("model = \"m\"\n[train]\noptimizer = \"lion\"\nmethod = \"zo\"\n", &[]);
    assert!(refused.unwrap_err().to_string().contains("is a setting of exact"));
    let mixed = ["train.body=zo", "train.tail_blocks=4", "train.zo_eps=0.5"];
    assert_eq!(method("model = \"m\"\n", &mixed).unwrap(), MethodKind::Exact);
    // A resolved configuration names the settings of its method alone.
    for settings in [&["train.clip=3"][..], &["train.tail_blocks=4"], &mixed] {
        let config = load("model = \"m\"\n", settings).unwrap();
        assert_eq!(load(&config.to_toml().unwrap(), &[]).unwrap(), config);
    }
}
