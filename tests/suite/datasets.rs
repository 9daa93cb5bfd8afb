use serde_json::{Value, json};

use crate::support::hub::Hub;
use crate::support::training::rows;
use crate::support::{Answer, Workplace, fixture, tree};

const MODEL: &str = "runs/q4_1.gguf";
const STEPS: [&str; 4] = ["--set", "train.max_steps=2", "--set", "train.batch_size=4"];

fn model() -> String {
    fixture(MODEL).to_str().unwrap().to_owned()
}

/// `finetune` of the tiny model on data alone.
fn finetune(place: &Workplace, args: &[&str]) -> Answer {
    place.qzo(["finetune", &model(), "--device", "cpu"].iter().chain(&STEPS).chain(args))
}

fn chat(question: &str, answer: &str) -> Value {
    json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
}

fn lines(rows: impl IntoIterator<Item = Value>) -> String {
    rows.into_iter().map(|row| format!("{row}\n")).collect()
}

/// A template of words that the tiny model's vocabulary has.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

#[test]
fn a_model_and_a_file_are_enough() {
    let place = Workplace::new();
    place.write("chats.jsonl", lines((0..30).map(|i| chat(&format!("What is {i}?"), "It was the best"))));
    place.write("template.jinja", TEMPLATE);
    let answer =
        finetune(&place, &["--data", "chats.jsonl", "--chat-template", "template.jinja"]).succeeded();
    for said in [
        "3 of 30 rows are set aside for evaluation (seed 0)",
        "train: 27 of 27 rows",
        "the first row, with what is learned in ⟦ ⟧:",
        "⟦ It was the best</s>⟧",
        "2 steps of 4 rows",
    ] {
        assert!(answer.stderr.contains(said), "{said}: {}", answer.stderr);
    }
    assert!(answer.stdout.contains("is ready to serve"), "{answer:#?}");
    let run = place.path("runs/q4_1-chats");
    assert!(run.join("final/q4_1.gguf").exists());
    let resolved = std::fs::read_to_string(run.join("config.toml")).unwrap();
    for line in ["dev_size = 3", "max_steps = 2", "train = \"chats.jsonl\"", "overlong = \"truncate\""] {
        assert!(resolved.contains(line), "{line}: {resolved}");
    }
    // The same command again continues the run, or refuses to overwrite it.
    let again = ["--data", "chats.jsonl", "--chat-template", "template.jinja"];
    finetune(&place, &again).refused(&["runs/q4_1-chats exists already"]);
    finetune(&place, &[&again[..], &["--resume"]].concat()).succeeded();
    // Another template gives other tokens.
    place.write("template.jinja", TEMPLATE.replace("</s>", ""));
    finetune(&place, &[&again[..], &["--resume"]].concat()).refused(&["data"]);
}

#[test]
fn a_dense_model_is_quantized_and_the_length_follows_from_the_rows() {
    let place = Workplace::new();
    place.write("pairs.csv", "prompt,completion\nIt was, the best\nof times, it was\n");
    let base = fixture("llama/base");
    let args =
        ["finetune", base.to_str().unwrap(), "--data", "pairs.csv", "--device", "cpu", "-o", "out", "--json"];
    let report = place.qzo(args).json();
    assert_eq!(report["steps"], 60);
    let resolved = std::fs::read_to_string(place.path("out/config.toml")).unwrap();
    assert!(resolved.contains("bits = 4") && resolved.contains("group_size = 64"), "{resolved}");
    assert!(report["final"]["nll"].as_f64().unwrap() < report["before"]["nll"].as_f64().unwrap(), "{report}");
}

#[test]
fn every_shape_and_format_of_rows_is_trained_on() {
    let place = Workplace::new();
    place.write("template.jinja", TEMPLATE);
    let twice = |row: Value| [row.clone(), row];
    let shapes = [
        ("messages", chat("It was", "the best")),
        (
            "conversations",
            json!({"conversations": [{"from": "human", "value": "It"}, {"from": "gpt", "value": "was"}]}),
        ),
        ("alpaca", json!({"instruction": "It", "input": "", "output": "was"})),
        ("prompt-completion", json!({"prompt": "It", "completion": " was"})),
        ("question-answer", json!({"question": "It", "answer": "was"})),
        ("text", json!({"text": "It was the best of times"})),
    ];
    for (name, row) in shapes {
        place.write("rows.json", json!(twice(row)).to_string());
        let args = ["--data", "rows.json", "--chat-template", "template.jinja", "-o", name, "--json"];
        assert_eq!(finetune(&place, &args).json()["final"]["task"], name);
    }
    let data = |name: &str| fixture(&format!("rows/{name}")).to_str().unwrap().to_owned();
    for name in
        ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.jsonl.zst", "rows.csv", "rows.tsv", "zstd.parquet"]
    {
        let args = ["--data", &data(name), "--format", "text", "-o", &format!("of-{name}"), "--json"];
        assert_eq!(finetune(&place, &args).json()["final"]["n"], 1, "{name}");
    }
    let stdin = format!("zcat {} | {}", data("rows.jsonl.gz"), crate::support::QZO);
    let args = "--data - --format text --device cpu --set train.max_steps=1 -o piped --json";
    let piped = place.shell(&format!("{stdin} finetune {} {args}", model())).json();
    assert_eq!(piped["final"]["n"], 1);
    let two = ["--data", &data("rows.csv"), "--data", &data("none.parquet"), "--format", "text", "-o", "two"];
    let two = finetune(&place, &two).succeeded();
    assert!(two.stderr.contains("1 of 6 rows are set aside"), "{two:#?}");
}

#[test]
fn rows_that_say_too_little_are_refused_with_the_command_that_is_needed() {
    let place = Workplace::new();
    place.write("labels.jsonl", rows(8, 1));
    let labels =
        finetune(&place, &["--data", "labels.jsonl"]).refused(&["labels.jsonl:1: ", "the field `label`"]);
    assert!(labels.stderr.contains("--prompt \"{text} It was\" --choice \" terrible\""), "{labels:#?}");
    let prompt =
        ["--data", "labels.jsonl", "--prompt", "{text} It was", "--choice", " bad", "--choice", " good"];
    finetune(&place, &prompt).succeeded();

    place.write("chats.jsonl", lines([chat("a", "b"), json!({"messages": [{"role": "user"}]})]));
    place.write("template.jinja", TEMPLATE);
    let args = ["--data", "chats.jsonl", "--chat-template", "template.jinja", "-o", "x"];
    finetune(&place, &args)
        .refused(&["chats.jsonl:2: field `messages[0].content`: expected a text, got nothing"]);
    place.write("good.jsonl", lines([chat("a", "b"), chat("c", "d")]));
    let base = fixture("llama/base");
    let without = place.qzo(["finetune", base.to_str().unwrap(), "--data", "good.jsonl", "--device", "cpu"]);
    let without = without.refused(&["the model has no chat template"]);
    assert!(without.stderr.contains("data.chat_template"), "{without:#?}");
    place.write("other.csv", "a,b\n1,2\n");
    finetune(&place, &["--data", "other.csv"])
        .refused(&["other.csv:2: rows with the fields a, b have no shape"]);
    finetune(&place, &["--data", "absent.jsonl"]).refused(&["absent.jsonl: no such file"]);
    assert!(!place.path("x").exists() && !place.path("runs/q4_1-other").exists());
    place.qzo(["finetune", &model()]).failed_with(2, &["give the training rows"]);
    place.qzo(["finetune", "--data", "other.csv"]).failed_with(2, &["give a model and its data"]);
}

const CONVERTED: &str = "datasets/nyu-mll/glue@refs%2Fconvert%2Fparquet";

/// A hub with SST-2 as it is converted to parquet.
fn with_sst2() -> Hub {
    let hub = Hub::start();
    let parquet = |name: &str| std::fs::read(fixture(&format!("rows/sst2-{name}.parquet"))).unwrap();
    for file in ["sst2/train/0000", "sst2/train/0001", "sst2/validation/0000", "cola/train/0000"] {
        let name = if file.contains("validation") { "validation" } else { "train" };
        hub.put(CONVERTED, &format!("{file}.parquet"), parquet(name));
    }
    hub.put("datasets/nyu-mll/glue", "README.md", "not to be fetched");
    hub
}

fn eval(hub: &Hub, place: &Workplace, args: &[&str]) -> Answer {
    let model = model();
    Answer::of(hub.command(place).args(["eval", &model, "--device", "cpu", "--json"]).args(args))
}

#[test]
fn a_task_brings_its_dataset_from_the_hub() {
    let (hub, place) = (with_sst2(), Workplace::new());
    let report = eval(&hub, &place, &["--task", "sst2"]).json();
    assert_eq!((&report["task"], &report["n"]), (&json!("sst2"), &json!(40)));
    assert!(
        hub.requests().iter().all(|asked| !asked.path.contains("train") && !asked.path.contains("README"))
    );
    let again = hub.requests().len();
    assert_eq!(eval(&hub, &place, &["--task", "sst2"]).json(), report);
    // Only the list of files is asked for again.
    assert_eq!(hub.requests().len(), again + 1);
    // The rows by the dataset's name, and offline.
    let named = ["--task", "sst2", "--data", "nyu-mll/glue:sst2", "--split", "validation"];
    assert_eq!(eval(&hub, &place, &named).json(), report);
    drop(hub);
    let model = model();
    let offline = |split: &str| {
        let args = [
            "eval",
            &model,
            "--device",
            "cpu",
            "--json",
            "--task",
            "sst2",
            "--data",
            "nyu-mll/glue:sst2",
            "--split",
            split,
        ];
        place.qzo(args)
    };
    assert_eq!(offline("validation").json(), report);
    offline("train").refused(&["nyu-mll/glue: the split train is not in the cache"]);
}

#[test]
fn a_run_takes_as_many_rows_of_a_dataset_as_the_papers() {
    let (hub, place) = (with_sst2(), Workplace::new());
    let model = model();
    let run = |args: &[&str]| {
        let mut command = hub.command(&place);
        command.args(["finetune", &model, "--device", "cpu"]).args(STEPS).args(args);
        Answer::of(&mut command)
    };
    let own = run(&["--task", "sst2", "-o", "own"]).succeeded();
    // Two files of 60 rows: a fifth of them, because there are fewer than 1000 + 500.
    assert!(own.stderr.contains("24 of 120 rows are set aside"), "{own:#?}");
    let resolved = std::fs::read_to_string(place.path("own/config.toml")).unwrap();
    for line in ["train = \"nyu-mll/glue:sst2\"", "train_size = 1000", "dev_size = 24"] {
        assert!(resolved.contains(line), "{line}: {resolved}");
    }
    let sized = ["--task", "sst2", "-o", "sized", "--set", "data.train_size=10", "--set", "data.dev_size=20"];
    let sized = run(&sized).succeeded();
    assert!(
        sized.stderr.contains("train: 10 of 10 rows") && sized.stderr.contains("dev: 20 of 20 rows"),
        "{sized:#?}"
    );
    let split = ["--task", "sst2", "-o", "split", "--set", "data.dev_split=validation"];
    let split = run(&split).succeeded();
    assert!(
        split.stderr.contains("train: 120 of 120 rows") && split.stderr.contains("dev: 40 of 40 rows"),
        "{split:#?}"
    );
}

#[test]
fn a_dataset_that_cannot_be_had_is_one_clear_error() {
    let (hub, place) = (with_sst2(), Workplace::new());
    let data = |name: &'static str| eval(&hub, &place, &["--task", "sst2", "--data", name]);
    let configs = data("nyu-mll/glue").refused(&["nyu-mll/glue has several configs"]);
    assert!(configs.stderr.contains("name one of cola, sst2"), "{configs:#?}");
    data("nyu-mll/glue:mnli").refused(&["nyu-mll/glue has no config mnli"]);
    let split = eval(&hub, &place, &["--task", "sst2", "--data", "nyu-mll/glue:sst2", "--split", "test"]);
    let split = split.refused(&["nyu-mll/glue has no split test"]);
    assert!(split.stderr.contains("it has train, validation"), "{split:#?}");
    let absent = data("org/absent").refused(&["org/absent", "404"]);
    assert!(absent.stderr.contains("check the id"), "{absent:#?}");
    hub.gate(CONVERTED, "hf_secret");
    let gated = data("nyu-mll/glue:sst2").refused(&["nyu-mll/glue", "401"]);
    assert!(gated.stderr.contains("HF_TOKEN"), "{gated:#?}");
}

#[test]
fn a_dataset_that_the_hub_has_not_converted_is_read_from_its_own_files() {
    let (hub, place) = (Hub::start(), Workplace::new());
    let choices = ["--prompt", "{text} It was", "--choice", " bad", "--choice", " good"];
    hub.put("datasets/org/own", "data/train.jsonl", rows(9, 1));
    hub.put("datasets/org/own", "data/test.jsonl", rows(5, 2));
    hub.put("datasets/org/own@v2", "rows.csv", "text,label\nIt,0\n");
    let measure = |args: &[&str]| eval(&hub, &place, &[args, &choices].concat());
    assert_eq!(measure(&["--data", "org/own", "--split", "test"]).json()["n"], 5);
    assert_eq!(measure(&["--data", "org/own", "--split", "train"]).json()["n"], 9);
    assert_eq!(measure(&["--data", "org/own@v2", "--split", "train"]).json()["n"], 1);
    assert_eq!(measure(&["--data", "org/own/data/test.jsonl"]).json()["n"], 5);
    measure(&["--data", "org/own"]).refused(&["org/own has no split validation"]);

    // Names that only the card of the dataset explains.
    let card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: validation\n    path: \"held/*.csv\"\n---\n";
    hub.put("datasets/org/card", "README.md", card);
    hub.put("datasets/org/card", "held/a.csv", "text,label\nIt,0\n");
    hub.put("datasets/org/card", "validation.csv", "no rows");
    let report = measure(&["--data", "org/card"]).json();
    assert_eq!(report["n"], 1);
    measure(&["--data", "org/card", "--split", "train"]).refused(&["org/card has no split train"]);
    drop(hub);
    let model = model();
    let offline = ["eval", &model, "--device", "cpu", "--json", "--data", "org/card"];
    assert_eq!(place.qzo([&offline[..], &choices].concat()).json(), report);
}

/// The command in this project's name, with a tiny model under that id.
#[test]
fn the_recipe_for_llama2_13b_runs_from_an_empty_cache() {
    let (hub, place) = (with_sst2(), Workplace::new());
    for (name, bytes) in tree(&fixture("llama/base")) {
        hub.put("meta-llama/Llama-2-13b-hf", name.to_str().unwrap(), bytes);
    }
    let recipe = crate::support::repository().join("configs/llama2-13b.toml");
    let mut command = hub.command(&place);
    command.args(["finetune", "--device", "cpu", "--set", "train.max_steps=2", "--config"]).arg(recipe);
    let answer = Answer::of(&mut command).succeeded();
    assert!(answer.stderr.contains("step 2  dev"), "{answer:#?}");
    assert!(place.path("runs/llama2-13b/final/model.safetensors").exists());
}

#[test]
fn solved_examples_stand_before_every_prompt() {
    let (hub, place) = (with_sst2(), Workplace::new());
    let shots = |k: &str, more: &[&str]| {
        let args = ["--task", "sst2", "--limit", "4", "--overlong", "truncate", "--num-fewshot", k];
        eval(&hub, &place, &[&args[..], more].concat())
    };
    let none = shots("0", &[]).json();
    // The dataset's split `train`, by the seed.
    let two = shots("2", &["--output", "results.json"]).json();
    assert_ne!(two["nll"], none["nll"]);
    assert_ne!(shots("2", &["--seed", "1"]).json()["nll"], two["nll"]);
    let file: Value = serde_json::from_slice(&std::fs::read(place.path("results.json")).unwrap()).unwrap();
    assert_eq!((&file["n-shot"]["sst2"], &file["results"]["sst2"]["nll,none"]), (&json!(2), &two["nll"]));

    // The same rows and the same examples, written out.
    place.write("rows.jsonl", lines([json!({"text": "It was", "label": 1})]));
    place.write("shots.jsonl", lines([json!({"text": "the best", "label": 0})]));
    place.write("whole.jsonl", lines([json!({"text": "the best of\n\nIt was", "label": 1})]));
    let choices = ["--prompt", "{text}", "--choice", " of", "--choice", " the"];
    let measure = |args: &[&str]| eval(&hub, &place, &[args, &choices].concat());
    let shot = measure(&["--data", "rows.jsonl", "--num-fewshot", "1", "--fewshot-data", "shots.jsonl"]);
    assert_eq!(shot.json()["nll"], measure(&["--data", "whole.jsonl"]).json()["nll"]);
    measure(&["--data", "rows.jsonl", "--num-fewshot", "1"])
        .refused(&["other rows than those that are measured"]);
}
