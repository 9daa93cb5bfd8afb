use serde_json::Value;

use crate::support::training::Training;
use crate::support::{Workplace, fixture};

/// A text of words that the fixture's tokenizer has.
fn text() -> String {
    let words = ["the", "best", "of", "times", "it", "was", "age", "wisdom", "light", "darkness", "hope"];
    (0..4000).map(|i: usize| format!("{} ", words[(i * i + i / 7) % words.len()])).collect()
}

/// The arguments of every method and format, for a model that is 64 wide and 96 in its MLP.
const EVERY: &[(&str, &str)] = &[
    ("rtn", "--bits 4 --group-size 32"),
    ("rtn", "--bits 3 --group-size 32 --mse --asymmetric"),
    ("gptq", "--bits 4 --group-size 32 --asymmetric"),
    ("gptq", "--bits 2 --group-size 16 --act-order"),
    ("gptq", "--bits 3 --group-size -1 --act-order --static-groups --mse=false"),
    ("rtn", "--bits 4 --group-size 32 --format compressed-tensors"),
    ("rtn", "--bits 8 --group-size -1 --asymmetric --format compressed-tensors"),
    ("rtn", "--bits 3 --group-size 16 --asymmetric --format compressed-tensors"),
    ("gptq", "--bits 4 --group-size 16 --act-order --format compressed-tensors"),
    ("gptq", "--bits 2 --group-size 16 --act-order --static-groups --format compressed-tensors"),
    ("gptq", "--bits 4 --group-size -1 --act-order --format compressed-tensors"),
    ("rtn", "--bits 4 --group-size 32 --asymmetric --format awq"),
    ("gptq", "--bits 4 --group-size -1 --asymmetric --act-order --static-groups --format awq"),
    ("nf4", "--group-size 32"),
    ("nf4", "--group-size 32 --act-order"),
    ("nf4", "--group-size 32 --format qzo"),
    ("learned", "--bits 2 --group-size 32"),
    ("learned", "--bits 3 --group-size 16 --act-order"),
    ("vector", "--bits 2 --group-size 32"),
    ("vector", "--bits 3 --group-size 32"),
    ("vector", "--bits 4 --group-size -1"),
    ("vector", "--bits 2 --group-size -1 --format aqlm"),
];

#[test]
fn the_result_of_every_method_can_be_read_trained_and_written_again() {
    for (method, args) in EVERY {
        let place = Workplace::new();
        let text = place.write("text.txt", text());
        let mut line = format!("quantize --method {method} {args} --device cpu --json -o model");
        if *method != "rtn" {
            line +=
                &format!(" --calibration {} --calibration-samples 8 --calibration-length 64", text.display());
        }
        let report = place.run(&line, &[fixture("llama/base").as_ref()]).json();
        assert_eq!(
            report["linears"].as_array().unwrap().len(),
            if *method == "rtn" { 0 } else { 14 },
            "{line}"
        );
        let entries = std::fs::read_dir(place.path("")).unwrap();
        let left: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name()).filter(|n| n != "hf-home").collect();
        assert_eq!(left.len(), 2, "{line}: {left:?}");

        let model = place.path("model");
        let training = Training::new(&model, "max_steps = 3");
        let report = training.finetune("run", &["--json", "--quiet"]).json();
        assert_eq!(report["steps"], 3, "{line}");
        let nll = |report: &Value| report["nll"].as_f64().unwrap();
        let (before, last) = (nll(&report["before"]), nll(&report["final"]));
        assert!(before.is_finite() && last.is_finite() && before != last, "{line}: {report}");
        // The files have the same names, and only scales differ.
        let tensors = |path: &std::path::Path| {
            let bytes = std::fs::read(path.join("model.safetensors")).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let tensors = tensors.tensors().into_iter();
            tensors
                .map(|(name, view)| (name, view.data().to_vec()))
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        let (old, new) = (tensors(&model), tensors(&training.out("run/final")));
        let changed: Vec<&String> = old.keys().filter(|name| old[*name] != new[*name]).collect();
        assert_eq!(changed.len(), 14, "{line}: {changed:?}");
        let scales = [".scales", ".weight_scale", ".absmax"];
        assert!(
            changed.iter().all(|name| scales.iter().any(|end| name.ends_with(end))),
            "{line}: {changed:?}"
        );
    }
}

#[test]
fn a_recipe_quantizes_with_calibration() {
    let training = Training::new(&fixture("llama/base"), "max_steps = 2");
    training.place.write("text.txt", text());
    let recipe = std::fs::read_to_string(training.place.path("run.toml")).unwrap();
    let quantize = "[quantize]\nmethod = \"vector\"\nbits = 3\ngroup_size = 32\ncalibration = \"text.txt\"\n\
                    calibration_samples = 8\ncalibration_length = 32\n";
    training.place.write("run.toml", recipe + quantize);
    let report = training.finetune("run", &["--json", "--quiet"]).json();
    assert_eq!(report["steps"], 2);
    assert!(training.out("run/base/model.safetensors").exists());
}

#[test]
fn wrong_use_is_one_clear_error_before_any_work() {
    let place = Workplace::new();
    let long = place.write("long.txt", text());
    let short = place.write("short.txt", "the best of times");
    let rows = place.write("rows.jsonl", "{\"texts\": \"the best\"}\n");
    let bytes = place.write("bytes.txt", b"abc \xff\xfe");
    let at = |path: &std::path::Path| format!("--calibration {}", path.display());
    let cases = [
        ("--method gptq".to_string(), "needs calibration data"),
        ("--method vector --bits 2".to_string(), "needs calibration data"),
        ("--act-order".to_string(), "need calibration data"),
        (format!("--method gptq {}", at(&short)), "less than one window of 128"),
        (format!("--method gptq --calibration-length 129 {}", at(&long)), "context holds 128"),
        (format!("--method gptq --calibration-length 64 {}", at(&rows)), "no field `text`"),
        (format!("--method gptq --calibration-length 64 {}", at(&bytes)), "not UTF-8"),
        ("--method gptq --calibration nowhere.txt".to_string(), "no such file"),
        (format!("--method rtn {}", at(&long)), "uses no calibration data"),
        ("--method nf4 --bits 3".to_string(), "nf4 with 3 bits"),
        (format!("--method learned --bits 8 {}", at(&long)), "learned with 8 bits"),
        (format!("--method vector --bits 4 --vector-size 4 {}", at(&long)), "vectors of 4 weights at 4 bits"),
        ("--method nf4 --asymmetric".to_string(), "asymmetric"),
        ("--method nf4 --group-size 24".to_string(), "does not hold"),
        ("--method nf4 --group-size 64".to_string(), "blocks of 64"),
        ("--method rtn --format qzo".to_string(), "does not hold"),
        (format!("--method vector --bits 2 --format aqlm {}", at(&long)), "does not hold"),
        ("--format compressed-tensors --group-size 64".to_string(), "groups of 64 do not fill rows of 96"),
        ("--format awq --group-size 64 --asymmetric".to_string(), "groups of 64 do not fill rows of 96"),
        ("--format awq".to_string(), "format awq does not hold"),
        ("--format awq --bits 8 --asymmetric".to_string(), "format awq does not hold"),
        (
            format!("--method gptq --format awq --asymmetric --act-order {}", at(&long)),
            "format awq does not hold",
        ),
        ("--method nf4 --format compressed-tensors".to_string(), "format compressed-tensors does not hold"),
        (format!("--method gptq --damp-percent 7 {}", at(&long)), "damp_percent"),
        (format!("--method gptq --calibration-samples 0 {}", at(&long)), "0 samples"),
    ];
    for (args, expected) in cases {
        let line = format!("quantize {args} --device cpu -o out");
        place.run(&line, &[fixture("llama/base").as_ref()]).refused(&[expected]);
        assert!(!place.path("out").exists() && !place.path(".qzo-quantizing-out").exists(), "{line}");
    }
}

#[test]
fn only_calibration_opens_the_device() {
    let place = Workplace::new();
    let text = place.write("text.txt", text());
    // No machine has a device of this number.
    place.run("quantize --device cuda:99 -o rounded", &[fixture("llama/base").as_ref()]).succeeded();
    let line = format!("quantize --method gptq --calibration {} --device cuda:99 -o out", text.display());
    place.run(&line, &[fixture("llama/base").as_ref()]).refused(&["CUDA"]);
    assert!(!place.path("out").exists() && !place.path(".qzo-quantizing-out").exists());
}

#[test]
fn two_processes_do_not_quantize_into_one_directory() {
    let place = Workplace::new();
    let text = place.write("text.txt", text());
    let line = format!(
        "quantize --method gptq --group-size 32 --calibration {} --calibration-samples 4 \
         --calibration-length 64 --device cpu -o out",
        text.display()
    );
    let workspace = place.path(".qzo-quantizing-out");
    std::fs::create_dir(&workspace).unwrap();
    let lock = std::fs::File::create(workspace.join("lock")).unwrap();
    lock.lock().unwrap();
    let answer = place.run(&line, &[fixture("llama/base").as_ref()]);
    let answer = answer.refused(&["another process is quantizing into out", ".qzo-quantizing-out"]);
    assert!(answer.stderr.contains("choose another output with -o"), "{answer:#?}");
    assert_eq!(std::fs::read_dir(&workspace).unwrap().count(), 1);
    // The end of a process releases the lock, and the next process continues.
    drop(lock);
    place.run(&line, &[fixture("llama/base").as_ref()]).succeeded();
    assert!(place.path("out").exists() && !workspace.exists());
}
