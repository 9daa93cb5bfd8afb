//! The interface that other programs rely on: exit codes, JSON keys, precedence of settings, reproducible runs.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::training::{Training, rows};
use crate::support::{Answer, Workplace, fixture, skipped};

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = keys.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// Checks the keys of a command's answer. Every answer also has `warnings`.
#[track_caller]
fn assert_answer(answer: &Value, keys: &[&str]) {
    assert_keys(answer, &[keys, &["warnings"]].concat());
    assert_eq!(answer["warnings"], json!([]));
}

/// `eval` of the tiny model on rows of the training task.
fn eval(place: &Workplace, args: &[&str]) -> Answer {
    let model = fixture("runs/q4_1.gguf");
    place.write("rows.jsonl", rows(20, 3));
    place.qzo(["eval", model.to_str().unwrap(), "--device", "cpu"].iter().chain(args))
}

/// Keys of the report of a task with choices.
const CHOICES: &[&str] = &["task", "n", "accuracy", "stderr", "acc", "acc_norm", "nll", "choices"];

const TASK: &[&str] =
    &["--data", "rows.jsonl", "--prompt", "{text} It was", "--choice", " bad", "--choice", " good"];

#[test]
fn the_report_of_a_task_has_its_keys() {
    let place = Workplace::new();
    let report = eval(&place, &[TASK, &["--json"]].concat()).json();
    assert_answer(&report, CHOICES);
    assert_eq!(report["n"], 20);
    assert_eq!(report["choices"], json!([" bad", " good"]));
    let accuracy = report["accuracy"].as_f64().unwrap();
    let stderr = (accuracy * (1.0 - accuracy) / 19.0).sqrt();
    assert!((report["stderr"].as_f64().unwrap() - stderr).abs() < 1e-12);
    assert!(report["nll"].as_f64().unwrap() > 0.0);
}

#[test]
fn predictions_are_one_choice_per_row_and_agree_with_the_accuracy() {
    let place = Workplace::new();
    let report = eval(&place, &[TASK, &["--json", "--predictions"]].concat()).json();
    let of_rows = ["predictions", "acc_predictions", "acc_norm_predictions"];
    assert_answer(&report, &[CHOICES, &of_rows].concat());
    let predictions = report["predictions"].as_array().unwrap();
    let labels = rows(20, 3)
        .lines()
        .map(|row| serde_json::from_str::<Value>(row).unwrap()["label"].clone())
        .collect::<Vec<_>>();
    assert_eq!(predictions.len(), labels.len());
    for (accuracy, of_rows) in ["accuracy", "acc", "acc_norm"].into_iter().zip(of_rows) {
        let predictions = report[of_rows].as_array().unwrap();
        let correct = predictions.iter().zip(&labels).filter(|(p, l)| p == l).count();
        assert_eq!(report[accuracy].as_f64().unwrap(), correct as f64 / 20.0);
    }
    let three = eval(&place, &[TASK, &["--json", "--predictions", "--limit", "3"]].concat()).json();
    assert_eq!(three["predictions"], json!(predictions[..3]));
}

#[test]
fn a_results_file_holds_the_report_in_the_layout_of_lm_evaluation_harness() {
    let place = Workplace::new();
    let report =
        eval(&place, &[TASK, &["--json", "--limit", "9", "--output", "made/results.json"]].concat()).json();
    let file: Value =
        serde_json::from_slice(&std::fs::read(place.path("made/results.json")).unwrap()).unwrap();
    let results = &file["results"]["choices"];
    for (key, of_file) in [("accuracy", "acc_mean"), ("acc", "acc"), ("acc_norm", "acc_norm"), ("nll", "nll")]
    {
        assert_eq!(results[format!("{of_file},none")], report[key]);
    }
    assert_eq!(results["acc_mean_stderr,none"], report["stderr"]);
    assert_eq!(file["n-samples"]["choices"], json!({ "original": 20, "effective": 9 }));
    assert_eq!(file["config"]["limit"], 9);
    eval(&place, &[TASK, &["--output", "made"]].concat()).failed_with(1, &["made is a directory"]);
}

#[test]
fn generated_answers_are_reported_for_each_row() {
    let place = Workplace::new();
    let row = |question: &str| {
        let answers = json!({ "text": ["a film", "the film"] });
        json!({ "title": "T", "context": "A film.", "question": question, "answers": answers }).to_string()
            + "\n"
    };
    place.write("squad.jsonl", ["What?", "Which one of them?", "Who?"].map(row).concat());
    let task = ["--data", "squad.jsonl", "--task", "squad", "--json"];
    let keys = ["task", "n", "accuracy", "stderr", "f1", "f1_stderr", "nll", "choices"];
    assert_answer(&eval(&place, &task).json(), &keys);
    let report = eval(&place, &[&task[..], &["--predictions"]].concat()).json();
    assert_answer(&report, &[&keys[..], &["answers"]].concat());
    let answers = report["answers"].as_array().unwrap();
    assert!(answers.len() == 3 && answers.iter().all(|a| !a.as_str().unwrap().contains('\n')), "{answers:?}");
    assert_eq!(report["accuracy"], 0.0, "{answers:?}");
}

#[test]
fn a_label_may_be_the_choice_itself_in_a_field_of_another_name() {
    let place = Workplace::new();
    let named =
        rows(20, 3).replace("\"label\":0", "\"mood\":\"bad\"").replace("\"label\":1", "\"mood\":\" good\"");
    place.write("named.jsonl", named);
    let by_index = eval(&place, &[TASK, &["--json"]].concat()).json();
    let task = [&["--data", "named.jsonl", "--label", "mood", "--json"], &TASK[2..]].concat();
    assert_eq!(eval(&place, &task).json(), by_index);
}

#[test]
fn the_report_of_a_perplexity_has_its_keys_and_leaves_out_the_tail() {
    let place = Workplace::new();
    place.write("text.txt", "It was the best of times, it was the worst of times. ".repeat(8));
    let report = eval(&place, &["--perplexity", "text.txt", "--window", "32", "--json"]).json();
    assert_answer(&report, &["perplexity", "nll", "tokens", "window", "windows"]);
    let windows = report["windows"].as_u64().unwrap();
    assert!(windows > 2 && report["window"] == 32);
    assert_eq!(report["tokens"].as_u64().unwrap(), windows * 31);
    let (perplexity, nll) = (report["perplexity"].as_f64().unwrap(), report["nll"].as_f64().unwrap());
    assert!((perplexity.ln() - nll).abs() < 1e-9);
    let two =
        eval(&place, &["--perplexity", "text.txt", "--window", "32", "--windows", "2", "--json"]).json();
    assert_eq!(two["windows"], 2);
}

#[test]
fn the_report_of_scores_has_its_keys_and_ids_are_taken_unchanged() {
    let place = Workplace::new();
    place.write("seq.jsonl", "{\"text\": \"It was the best\"}\n{\"input_ids\": [5, 6, 7, 8]}\n");
    let report = eval(&place, &["--score", "seq.jsonl", "--json"]).json();
    assert_answer(&report, &["sequences"]);
    for (i, sequence) in report["sequences"].as_array().unwrap().iter().enumerate() {
        assert_keys(sequence, &["nll", "tokens", "token_nll"]);
        let nll: Vec<f64> =
            sequence["token_nll"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(sequence["tokens"].as_u64().unwrap() as usize, nll.len());
        assert!(i == 0 || nll.len() == 3, "no token is added to input_ids");
        assert!(
            (sequence["nll"].as_f64().unwrap() - nll.iter().sum::<f64>() / nll.len() as f64).abs() < 1e-5
        );
    }
}

#[test]
fn a_wrong_command_line_gives_exit_code_2_and_an_error_on_stderr() {
    let place = Workplace::new();
    let model = fixture("runs/q4_1.gguf");
    let model = model.to_str().unwrap();
    for args in [
        &["evaluate"][..],
        &[],
        &["eval", model],
        &["eval", model, "--data", "rows.jsonl", "--score", "rows.jsonl"],
        &["eval", model, "--data", "rows.jsonl", "--task", "sst2", "--prompt", "{text}"],
        &["eval", model, "--score", "rows.jsonl", "--device", "gpu"],
        &["eval", model, "--score", "rows.jsonl", "--dtype", "f64"],
        &["finetune"],
        &["finetune", "--config", "run.toml", "--lr", "1"],
        &["quantize", model, "--bits", "four"],
        &["generate", model],
        &["generate", model, "--prompt", "It", "--temperature", "-1"],
        &["replay", "run"],
    ] {
        let answer = place.qzo(args);
        assert_eq!(answer.code, Some(2), "{args:?}: {answer:#?}");
        assert!(answer.stdout.is_empty() && !answer.stderr.is_empty(), "{args:?}: {answer:#?}");
    }
    let answer = place.qzo(["--help"]).succeeded();
    assert!(answer.stderr.is_empty() && answer.stdout.contains("finetune"));
    assert!(place.qzo(["--version"]).succeeded().stdout.starts_with("qzo "));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_name() {
    let training = Training::tiny("max_steps = 1");
    for (text, line, nearest) in [
        ("model = \"m\"\n\n[train]\nlerning_rate = 1e-3\n", 4, "`learning_rate`"),
        ("model = \"m\"\n[data]\nprompts = \"x\"\n", 3, "`prompt`"),
        ("modell = \"m\"\n", 1, "`model`"),
        ("model = \"m\"\n[quantise]\nbits = 4\n", 2, "`quantize`"),
    ] {
        training.place.write("run.toml", text);
        training.finetune("run", &[]).refused(&[&format!("run.toml:{line}:"), nearest]);
    }
    training.place.write("run.toml", "model = \"m\"\n[train]\nmax_steps = \"many\"\n");
    training.finetune("run", &[]).refused(&["run.toml:3:"]);
    training.place.write("run.toml", "model = \"m\"\n[train\n");
    training.finetune("run", &[]).refused(&["run.toml:2:"]);
    let training = Training::tiny("max_steps = 1");
    training.finetune("run", &["--set", "train.zo_epsilon=1"]).refused(&["zo_epsilon", "`zo_eps`"]);
    training.finetune("run", &["--set", "max_steps"]).failed_with(2, &["--set", "max_steps"]);
    assert!(!training.out("run").exists());
}

fn resolved(training: &Training, out: &str) -> toml::Table {
    std::fs::read_to_string(training.out(out).join("config.toml")).unwrap().parse().unwrap()
}

#[test]
fn a_flag_wins_over_set_over_the_file_over_the_default() {
    let training = Training::tiny("max_steps = 2\neval_steps = 0\nzo_eps = 0.02\nprobes = 2");
    training.place.write("other.jsonl", rows(12, 4));
    let args = [
        "--set",
        "train.probes=3",
        "--set",
        "seed=5",
        "--set",
        "data.train=absent.jsonl",
        "--set",
        "model=absent",
    ];
    let model = fixture("runs/q4_0.gguf");
    let flags = ["--seed", "6", "--data", "other.jsonl", "--model", model.to_str().unwrap()];
    training.finetune("run", &[&args[..], &flags].concat()).succeeded();
    let config = resolved(&training, "run");
    let train = config["train"].as_table().unwrap();
    assert_eq!(config["seed"].as_integer(), Some(6), "flag over --set");
    assert_eq!(config["model"].as_str(), model.to_str(), "flag over --set");
    assert_eq!(config["output_dir"].as_str(), Some("run"), "the flag wins over the file");
    assert_eq!(config["data"]["train"].as_str(), Some("other.jsonl"), "flag over --set");
    assert_eq!(train["probes"].as_integer(), Some(3), "--set over the file");
    assert_eq!(train["zo_eps"].as_float(), Some(0.02), "the file wins over the default");
    assert_eq!(train["clip"].as_float(), Some(100.0), "the default");
    assert!(training.out("run/final/q4_0.gguf").exists(), "the model of the flag was trained");
}

#[test]
fn the_resolved_config_gives_the_same_run() {
    let training = Training::tiny("max_steps = 6\neval_steps = 3");
    training.finetune("run", &["--seed", "4", "--set", "train.clip=inf"]).succeeded();
    std::fs::copy(training.out("run/config.toml"), training.place.path("run.toml")).unwrap();
    training.finetune("again", &[]).succeeded();
    crate::support::assert_same_files(&training.out("run/final"), &training.out("again/final"));
    training.finetune("other", &["--seed", "5"]).succeeded();
    let bytes = |out: &str| std::fs::read(training.out(out).join("final/q4_1.gguf")).unwrap();
    assert!(bytes("run") != bytes("other"), "the seed changes nothing");
}

#[test]
fn a_run_leaves_its_files_and_reports_in_json() {
    let training = Training::tiny("max_steps = 6\neval_steps = 4\nsave_steps = 2");
    let report = training.finetune("run", &["--json"]).json();
    assert_eq!((&report["steps"], &report["output_dir"]), (&json!(6), &json!("run")));
    for evaluation in ["before", "after"] {
        assert_keys(&report[evaluation], &["task", "n", "accuracy", "stderr", "nll", "choices"]);
    }
    assert_keys(&report["final"], CHOICES);
    let nll = |key: &str| report[key]["nll"].as_f64().unwrap();
    assert!((report["rounding"].as_f64().unwrap() - (nll("final") - nll("after"))).abs() < 1e-12);
    for file in ["config.toml", "journal", "metrics.jsonl", "final/q4_1.gguf", "best/q4_1.gguf"] {
        assert!(training.out("run").join(file).exists(), "{file} is missing");
    }
    let metrics = training.metrics("run");
    let (evaluations, steps): (Vec<_>, Vec<_>) =
        metrics.iter().partition(|line| line.get("eval_nll").is_some());
    assert_eq!(steps.len(), 6);
    for (i, line) in steps.iter().enumerate() {
        assert_keys(line, &["step", "loss", "projected_grad", "lr", "tokens_per_second"]);
        assert_eq!((&line["step"], &line["lr"]), (&json!(i + 1), &json!(5e-3)));
    }
    assert_eq!(evaluations.iter().map(|e| e["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 4, 6]);
    assert_eq!(evaluations[0]["eval_nll"].as_f64().unwrap(), nll("before"));
    // `qzo eval` gives the same number for the checkpoint that will be served.
    let task = [
        "--prompt",
        "{text} It was",
        "--choice",
        " bad",
        "--choice",
        " good",
        "--data",
        "dev.jsonl",
        "--json",
        "--device",
        "cpu",
    ];
    let mut served = training.place.qzo(["eval", "run/final"].iter().chain(&task)).json();
    assert_eq!(served.as_object_mut().unwrap().remove("warnings"), Some(json!([])));
    assert_eq!(served, report["final"]);
}

#[test]
fn a_resumed_run_reports_the_same_as_an_uninterrupted_one() {
    let training = Training::tiny("max_steps = 8\neval_steps = 4\nsave_steps = 2");
    let whole = training.finetune("whole", &["--json"]).json();
    training.finetune("run", &["--set", "train.max_steps=3"]).succeeded();
    let resumed = training.finetune("run", &["--json", "--resume"]).json();
    for key in ["steps", "before", "after", "final", "rounding", "best_step"] {
        assert_eq!(resumed[key], whole[key], "{key}");
    }
}

#[test]
fn quiet_prints_the_result_only() {
    let training = Training::tiny("max_steps = 12\neval_steps = 4");
    let answer = training.finetune("run", &["--quiet"]).succeeded();
    assert_eq!(answer.stderr, "");
    assert!(answer.stdout.contains("12 steps"));
    let place = Workplace::new();
    assert_eq!(eval(&place, &[TASK, &["--quiet"]].concat()).succeeded().stderr, "");
}

#[test]
fn a_run_on_a_terminal_ends() {
    let training = Training::tiny("max_steps = 12\neval_steps = 4\nlogging_steps = 2");
    if Command::new("script").arg("--version").output().is_err() {
        return skipped("a run on a terminal: no script(1)");
    }
    let line = format!("timeout -s KILL 30 {} finetune --config run.toml", crate::support::QZO);
    let mut command = training.place.wrapped("script");
    let answer = Answer::of(command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm")).succeeded();
    assert!(answer.stdout.contains("12 steps in"), "{answer:#?}");
    assert!(answer.stdout.contains("step 8  dev "), "lines must stay above the bar: {answer:#?}");
}

fn generate(place: &Workplace, args: &[&str]) -> Answer {
    let model = fixture("runs/q4_1.gguf");
    place.qzo(
        ["generate", model.to_str().unwrap(), "--prompt", "It was the", "--device", "cpu"].iter().chain(args),
    )
}

#[test]
fn generation_is_greedy_unless_sampled_and_sampling_follows_its_seed() {
    let place = Workplace::new();
    let greedy = generate(&place, &["--json", "--max-new-tokens", "12"]).json();
    assert!(
        greedy["tokens"].as_array().map_or_else(|| greedy["tokens"].as_u64().unwrap() as usize, Vec::len)
            <= 12
    );
    let seeded = generate(&place, &["--json", "--max-new-tokens", "12", "--seed", "3"]).json();
    assert_eq!(seeded["tokens"], greedy["tokens"]);
    let plain = generate(&place, &["--max-new-tokens", "12"]).succeeded();
    assert_eq!(plain.stdout.trim_end_matches('\n'), greedy["text"].as_str().unwrap().trim_end_matches('\n'));
    let sample = |seed: &str| {
        generate(&place, &["--json", "--max-new-tokens", "12", "--temperature", "1.5", "--seed", seed]).json()
    };
    assert_eq!(sample("1"), sample("1"));
    assert!(
        (2..6).any(|seed| sample(&seed.to_string())["text"] != sample("1")["text"]),
        "the seed changes nothing"
    );
}

#[test]
fn chat_needs_a_template_and_uses_it() {
    let place = Workplace::new();
    let chat = generate(&place, &["--json", "--chat", "--max-new-tokens", "4"]).json();
    let plain = generate(&place, &["--json", "--max-new-tokens", "4"]).json();
    assert!(chat["prompt_tokens"].as_u64() > plain["prompt_tokens"].as_u64());
    let model = fixture("runs/q4_0.gguf");
    let args = ["generate", model.to_str().unwrap(), "--prompt", "It", "--chat", "--device", "cpu"];
    place.qzo(args).refused(&["chat template"]);
}

#[test]
fn inspect_lists_every_tensor_and_the_bits_per_weight() {
    let place = Workplace::new();
    let report = place.run("inspect --json", &[fixture("runs/q4_1.gguf").as_ref()]).json();
    assert_eq!((&report["format"], &report["trained_weights"]), (&json!("GGUF"), &json!(14)));
    assert_eq!(report["trained_bits_per_weight"], 5.0, "20 bytes for 32 weights");
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 21);
    let bytes: u64 = tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(report["bytes"].as_u64(), Some(bytes));
    let text = place.run("inspect", &[fixture("runs/q4_1.gguf").as_ref()]).succeeded().stdout;
    assert!(text.lines().count() > tensors.len() && text.contains("model.layers.0.mlp.down_proj.weight"));
}

#[test]
fn the_report_of_doctor_has_its_keys() {
    let place = Workplace::new();
    let report = place.qzo(["doctor", "--json"]).json();
    assert_answer(&report, &["cuda", "wgpu", "cpu", "auto", "cuda_libraries"]);
    let libraries = &report["cuda_libraries"];
    if libraries.is_null() {
        assert!(report["cuda"].as_str().unwrap().contains("built without"), "{report}");
        return;
    }
    assert_keys(libraries, &["driver", "nvrtc", "cublas", "headers", "notes"]);
    for name in ["nvrtc", "cublas", "headers"] {
        let part = &libraries[name];
        assert_keys(part, &["path", "version", "problem"]);
        assert!(part["path"].is_string() || part["problem"].is_string(), "{part}");
    }
    if report["cuda"].as_str().unwrap().contains("libcuda was not found") {
        assert!(libraries["driver"].is_null(), "{report}");
    } else {
        assert_keys(&libraries["driver"], &["release", "cuda"]);
    }
    let text = place.qzo(["doctor"]).succeeded().stdout;
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names[..4], ["cuda", "wgpu", "cpu", "auto"]);
    assert_eq!(names.contains(&"cublas"), libraries["driver"].is_object(), "{text}");
}

#[test]
fn doctor_names_a_chosen_library_that_cannot_be_opened() {
    let place = Workplace::new();
    let file = place.write("libcublas.so.13", "no library");
    let doctor = |name: &str| {
        let mut command = place.command();
        Answer::of(command.args(["doctor", "--json"]).env(name, &file)).json()["cuda_libraries"].take()
    };
    for (name, part) in [("QZO_CUBLAS", "cublas"), ("QZO_NVRTC_LIB", "nvrtc")] {
        let libraries = doctor(name);
        if libraries.is_null() {
            return skipped("libraries of CUDA: built without cuda");
        }
        let problem = libraries[part]["problem"].as_str().unwrap();
        for word in [name, "libcublas.so.13", "cannot be opened"] {
            assert!(problem.contains(word), "`{word}` is missing in: {problem}");
        }
    }
}

/// The program sets `CUDA_PATH` by itself.
#[cfg(target_os = "linux")]
#[test]
fn headers_of_a_python_package_are_used_if_the_toolkit_has_none() {
    let place = Workplace::new();
    let package = place.path("venv/lib/python3.11/site-packages/nvidia/cu13");
    std::fs::create_dir_all(package.join("include/crt")).unwrap();
    for name in ["cuda_runtime.h", "cuda_fp16.h", "mma.h", "crt/mma.h"] {
        std::fs::write(package.join("include").join(name), "").unwrap();
    }
    let version = "#define CUDART_VERSION 13000\n";
    std::fs::write(package.join("include/cuda_runtime_api.h"), version).unwrap();
    let doctor = |environment: &[(&str, &str)]| {
        let mut command = place.command();
        command.args(["doctor", "--json"]).env("CUDA_PATH", place.path("nothing"));
        command.env_remove("CUDA_HOME").env_remove("CONDA_PREFIX");
        for (name, folder) in environment {
            command.env(name, place.path(folder));
        }
        Answer::of(&mut command).json()["cuda_libraries"]["headers"].take()
    };
    let headers = doctor(&[("VIRTUAL_ENV", "venv")]);
    if headers.is_null() {
        return skipped("headers of CUDA: built without cuda");
    }
    assert!(headers["problem"].is_null(), "{headers}");
    // A toolkit on this machine would come before Python packages.
    if !std::path::Path::new("/usr/local/cuda/include/mma.h").exists() {
        assert_eq!(headers, json!({"path": package, "version": "13.0", "problem": null}));
        let problem = doctor(&[])["problem"].take();
        assert!(problem.is_null() || problem.as_str().unwrap().contains("nothing lacks"), "{problem}");
    }
}

#[test]
fn a_setting_that_is_not_used_is_warned_of_once() {
    let training = Training::tiny("max_steps = 1");
    let place = &training.place;
    let warned = |answer: Answer, warnings: &[&str]| {
        let answer = answer.succeeded();
        let said: Vec<&str> =
            answer.stderr.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
        assert_eq!(said, warnings, "{answer:#?}");
        assert_eq!(answer.json()["warnings"], json!(warnings));
    };
    let model = fixture("runs/q4_1.gguf");
    let model = model.to_str().unwrap();
    let unused = |flag: &str, command: &str| {
        format!("{flag} is not used: `qzo {command}` as it is called here does not depend on it")
    };
    warned(
        place.qzo(["inspect", model, "--json", "--device", "cpu", "--seed", "3"]),
        &[&unused("--device", "inspect"), &unused("--seed", "inspect")],
    );
    warned(eval(place, &[TASK, &["--json", "--seed", "1"]].concat()), &[&unused("--seed", "eval")]);
    let set = ["--set", "data.dev_size=4", "--set", "quantize.bits=4", "--json"];
    warned(
        training.finetune("run", &set),
        &[
            "dev_size = 4 is not used: there are other rows to evaluate on",
            "the [quantize] table is not used: the model is quantized already",
        ],
    );
    let generate =
        ["generate", model, "--prompt", "It", "--max-new-tokens", "1", "--device", "cpu", "--json"];
    warned(
        place.qzo(generate.iter().chain(&["--top-p", "0.5"])),
        &["--top-p is not used: --temperature 0 always takes the most likely token"],
    );
    let base = fixture("llama/base");
    let quantize = ["quantize", base.to_str().unwrap(), "--group-size", "32", "-o", "out", "--json"];
    warned(
        place.qzo(quantize.iter().chain(&["--calibration-samples", "7", "--dtype", "f32"])),
        &[&unused("--dtype", "quantize"), "calibration_samples is not used: there is no calibration text"],
    );
    place.qzo(["bench", "--shape", "tiny", "--data", "x.jsonl"]).failed_with(2, &["--config"]);
    place.qzo(["bench", "--config", "run.toml", "--bits", "3"]).failed_with(2, &["--bits"]);
}
