use serde_json::{Value, json};

use crate::support::training::Training;
use crate::support::{Answer, tree};

/// A run of the tiny model whose rows are prompts with an answer.
fn training(extra: &str) -> Training {
    let training = Training::tiny(extra);
    let rows = |count: u64| {
        let row = |i| json!({"prompt": format!("It was the {}", ["best", "worst", "age"][i as usize % 3]), "completion": " of"});
        (0..count).map(|i| format!("{}\n", row(i))).collect::<String>()
    };
    training.place.write("train.jsonl", rows(12));
    training.place.write("dev.jsonl", rows(6));
    let recipe = std::fs::read_to_string(training.place.path("run.toml")).unwrap();
    let recipe = recipe.replace("prompt = \"{text} It was\"\nchoices = [\" bad\", \" good\"]\n", "");
    training.place.write("run.toml", recipe);
    training
}

/// Counts the letter `e` in each generation.
const COUNT: &str = r#"#!/bin/sh
while IFS= read -r line; do
    text=${line#*\"generation\":\"}
    text=${text%%\",\"prompt\"*}
    printf '%s' "$text" | tr -cd e | wc -c
done
"#;

fn report(answer: Answer) -> Value {
    answer.json()
}

#[test]
fn a_score_of_a_program_improves_on_the_dev_rows() {
    let settings = "max_steps = 30\nprobes = 8\nzo_eps = 0.1\nlearning_rate = 1e-2\nmax_new_tokens = 8\ncommand = [\"sh\", \"count.sh\"]";
    let training = training(settings);
    training.place.write("count.sh", COUNT);
    let report = report(training.finetune("run", &["--json"]));
    let score = |stage: &str| report[stage]["score"].as_f64().unwrap();
    assert!(score("final") > score("before") + 2.0, "{report}");
    let metrics = std::fs::read_to_string(training.out("run").join("metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"eval_score\":"), "{metrics}");
    let resolved = std::fs::read_to_string(training.out("run").join("config.toml")).unwrap();
    assert!(
        resolved.contains("objective = \"command\"") && resolved.contains("method = \"zo\""),
        "{resolved}"
    );
    // The journal alone gives the same scales again.
    training.place.run("replay run -o again --device cpu", &[]).succeeded();
    assert!(tree(&training.place.path("again")) == tree(&training.out("run").join("final")));
}

#[test]
fn accuracy_and_f1_are_objectives_where_they_fit_the_task() {
    let choices = Training::tiny("max_steps = 2\nobjective = \"accuracy\"");
    let report = choices.finetune("run", &["--json"]).json();
    assert_eq!(report["final"]["score"], report["final"]["accuracy"]);
    choices
        .finetune("f1", &["--set", "train.objective=f1"])
        .refused(&["objective = \"f1\" does not fit the task choices"]);

    let generated = training("max_steps = 2\nobjective = \"f1\"\nmax_new_tokens = 4");
    let report = generated.finetune("run", &["--json"]).json();
    let f1 = report["final"]["score"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&f1), "{report}");
    generated.finetune("match", &["--set", "train.objective=exact_match"]).succeeded();
    generated
        .finetune("accuracy", &["--set", "train.objective=accuracy"])
        .refused(&["objective = \"accuracy\" does not fit the task prompt-completion"]);
    let exact = ["--set", "train.method=exact"];
    generated.finetune("exact", &exact).refused(&["train.objective is a setting of zo"]);
}

#[test]
fn a_program_that_fails_ends_the_run_with_its_message() {
    let training = training("max_steps = 2\nmax_new_tokens = 4\ncommand = [\"sh\", \"count.sh\"]");
    let refused = |script: &str, parts: &[&str]| {
        training.place.write("count.sh", script);
        training.finetune("run", &["--resume", "--set", "train.command_timeout=1"]).refused(parts);
    };
    refused(
        "echo broken >&2; exit 4",
        &["the command `sh count.sh` failed (exit status: 4)", "it said: broken"],
    );
    refused("echo 1", &["printed 1 scores for 6 generations"]);
    refused("sleep 30", &["took longer than 1 s"]);
    // Nothing is lost: with a program that works, the run goes on.
    training.place.write("count.sh", COUNT);
    training.finetune("run", &["--resume", "--set", "train.command_timeout=1"]).succeeded();
    let absent = ["--set", "train.command=[\"/nowhere/score\"]"];
    training.finetune("absent", &absent).refused(&["/nowhere/score: starting the command"]);
}
