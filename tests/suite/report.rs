//! The report of a run: one page that shows everything, loads nothing and takes no text for markup; event files.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::training::{Training, rows};
use crate::support::{Answer, fixture, required, skipped};

const HOSTILE: &str = "</script><img src=x onerror=\"document.title='broken'\"> best & worst";

/// The page of the runs.
fn report(training: &Training, runs: &[&str]) -> String {
    let written = training.place.qzo(["report", "-o", "page.html", "--json"].iter().chain(runs)).json();
    assert_eq!(written, json!({"output": "page.html", "runs": runs.len(), "warnings": []}));
    std::fs::read_to_string(training.place.path("page.html")).unwrap()
}

/// Checks that a page makes a browser load nothing.
#[track_caller]
fn assert_loads_nothing(page: &str) {
    let tags: Vec<&str> = page.split('<').skip(1).filter_map(|rest| rest.split('>').next()).collect();
    assert!(tags.len() > 100, "too few elements were found");
    for tag in tags {
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        assert!(
            !["link", "img", "iframe", "object", "embed", "base", "image", "use"].contains(&name),
            "<{tag}>"
        );
        assert!(
            ![" src", " href", " onerror", " onload"].iter().any(|loader| tag.contains(loader)),
            "<{tag}>"
        );
    }
    for loader in ["@import", "url(", "http:", "https:", "fetch(", "import("] {
        assert!(!page.contains(loader), "{loader} in the page");
    }
    assert!(page.contains("default-src 'none'"));
}

#[track_caller]
fn assert_has(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "`{part}` is missing in the page");
    }
}

/// The lines of `examples.jsonl`.
fn examples(training: &Training, out: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(training.out(out).join("examples.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn record(training: &Training, out: &str) -> Value {
    serde_json::from_slice(&std::fs::read(training.out(out).join("run.json")).unwrap()).unwrap()
}

#[test]
fn the_page_of_a_run_shows_every_part_and_loads_nothing() {
    let training = Training::tiny("max_steps = 12\neval_steps = 4");
    let printed = training.finetune("run", &["--json"]).json();
    let page = report(&training, &["run"]);
    assert_loads_nothing(&page);
    assert_has(
        &page,
        &["<title>q4_1.gguf on train.jsonl</title>", "<th>Before</th>", "<th>Best</th>", "<th>After</th>"],
    );
    for stage in ["before", "after", "final"] {
        assert_has(&page, &[&format!("<td>{:.4}</td>", printed[stage]["nll"].as_f64().unwrap())]);
    }
    for chart in ["Training loss", "Dev loss", "Dev accuracy", "Learning rate", "Projected gradient", "Speed"]
    {
        assert_has(&page, &[&format!("<h3>{chart}</h3>")]);
    }
    assert_eq!(page.matches("<article>").count(), 10);
    let command = "qzo finetune --config run.toml -o run --json</code>";
    assert_has(
        &page,
        &[command, "<summary>config.toml</summary>", "batch_size = 4", "Peak memory", "<dd>cpu</dd>"],
    );
    assert_has(&page, &["<dt>before</dt>", "<dt>after</dt>", "<dt>right</dt>", "✓", "✗"]);
    assert!(!page.contains("Not finished"));
    assert_eq!(record(&training, "run")["train_seconds"], printed["train_seconds"]);
}

#[test]
fn the_default_name_is_inside_the_only_run_or_here_for_several() {
    let training = Training::tiny("max_steps = 2");
    training.finetune("a", &[]).succeeded();
    training.finetune("b", &["--seed", "2"]).succeeded();
    let answer = training.place.qzo(["report", "a"]).succeeded();
    assert!(answer.stdout.contains("report.html") && training.out("a/report.html").exists());
    training.place.qzo(["report", "a", "b"]).succeeded();
    let page = std::fs::read_to_string(training.place.path("report.html")).unwrap();
    assert_loads_nothing(&page);
    assert_has(&page, &["Compared: a, b", "data-name=\"a\"", "data-name=\"b\"", "class=legend", "Seed"]);
}

#[test]
fn what_is_no_run_or_no_name_of_a_page_is_refused() {
    let training = Training::tiny("max_steps = 1");
    training.place.write("empty.txt", "");
    let report = |args: &[&str]| training.place.qzo([&["report"], args].concat());
    report(&["missing"]).refused(&["missing", "not the directory of a run", "config.toml"]);
    report(&["empty.txt"]).refused(&["empty.txt", "not the directory of a run"]);
    report(&[]).failed_with(2, &[]);
    training.finetune("run", &[]).succeeded();
    report(&["run", "-o", "run/journal"]).refused(&["run/journal", ".html"]);
    report(&["run", "-o", "missing/page.html"]).refused(&["page.html"]);
    training.place.write("run/run.json", "{");
    report(&["run"]).refused(&["run.json"]);
}

#[test]
fn hostile_texts_stay_text() {
    let training = Training::tiny("max_steps = 2");
    let row = |label| format!("{}\n", json!({"text": HOSTILE, "label": label}));
    training.place.write("dev.jsonl", row(0) + &row(1));
    let name = "a<b>'&";
    training.finetune(name, &[]).succeeded();
    // An answer of the tiny model cannot be chosen here, so it is put into the file.
    let mut answers = examples(&training, name);
    answers[0]["before"] = HOSTILE.into();
    answers[0]["gold"] = json!([HOSTILE]);
    training.place.write(&format!("{name}/examples.jsonl"), format!("{}\n", answers[0]));
    let mut made = record(&training, name);
    made["commands"] = json!([HOSTILE]);
    made["device"] = HOSTILE.into();
    training.place.write(&format!("{name}/run.json"), made.to_string());
    let page = report(&training, &[name]);
    assert_loads_nothing(&page);
    assert!(!page.contains(HOSTILE) && !page.contains(name), "a text is not escaped");
    assert!(page.matches("&lt;/script&gt;&lt;img src=x onerror=&quot;").count() >= 5, "{page}");
    assert_eq!(page.matches("</script>").count(), 1);
    in_browser(&training, |dom, log| {
        assert!(!dom.contains("<img") && !dom.contains("<title>broken"), "{dom}");
        assert_eq!(log, "");
    });
}

#[test]
fn a_run_that_has_not_ended_has_a_page_that_says_so() {
    let training = Training::tiny("max_steps = 6\neval_steps = 2");
    training.finetune("run", &[]).succeeded();
    let run = training.out("run");
    std::fs::remove_dir_all(run.join("final")).unwrap();
    assert_has(&report(&training, &["run"]), &["Not finished: 6 of 6 steps"]);
    // As a run of an earlier version left it, with numbers that were not finite, and cut in a line.
    std::fs::remove_file(run.join("run.json")).unwrap();
    std::fs::remove_file(run.join("examples.jsonl")).unwrap();
    let metrics = concat!(
        "{\"step\":0,\"eval_nll\":0.75,\"eval_accuracy\":0.5,\"eval_n\":16}\n",
        "{\"step\":1,\"loss\":0.5,\"projected_grad\":1e300,\"lr\":0.005,\"tokens_per_second\":3.5}\n",
        "{\"step\":2,\"loss\":null,\"projected_grad\":null,\"lr\":0.005,\"skipped\":true}\n",
        "{\"step\":3,\"loss\":NaN,\"lr\":0.005}\n",
        "{\"step\":4,\"loss\":0.25,\"projected_grad\":-2.0,\"lr\":0.0}\n",
        "{\"step\":4,\"eval_nll\":null,\"eval_accuracy\":null,\"eval_n\":16}\n",
        "{\"step\":5,\"lo",
    );
    std::fs::write(run.join("metrics.jsonl"), metrics).unwrap();
    let page = report(&training, &["run"]);
    assert_has(
        &page,
        &["Not finished: 4 of 6 steps", "1 step skipped, because a loss was not finite: 2", "50.0"],
    );
    assert_has(&page, &["<title>step 2</title>", "No examples"]);
    assert!(!page.contains("NaN") && !page.contains("inf "), "a number that is none is drawn");
    std::fs::remove_file(run.join("metrics.jsonl")).unwrap();
    assert_has(&report(&training, &["run"]), &["Not finished: 0 of 6 steps", "No evaluation"]);
}

#[test]
fn the_records_of_a_resumed_run_are_those_of_an_uninterrupted_one() {
    let training = Training::tiny("max_steps = 8\neval_steps = 4\nsave_steps = 2");
    training.finetune("whole", &[]).succeeded();
    training.finetune("run", &["--set", "train.max_steps=3"]).succeeded();
    let refused = training.finetune("run", &["--resume", "--seed", "9"]);
    assert_eq!(refused.code, Some(1), "another seed is another run");
    training.finetune("run", &["--resume"]).succeeded();
    assert_eq!(examples(&training, "run"), examples(&training, "whole"));
    let (whole, resumed) = (record(&training, "whole"), record(&training, "run"));
    let first = "qzo finetune --config run.toml -o run --set train.max_steps=3";
    assert_eq!(resumed["commands"], json!([first, "qzo finetune --config run.toml -o run --resume"]));
    for key in ["before", "after", "final", "best_step", "device", "dtype", "version"] {
        assert_eq!(resumed[key], whole[key], "{key}");
        assert!(!whole[key].is_null(), "{key}");
    }
    assert!(whole["train_seconds"].as_f64().unwrap() > 0.0 && whole["threads"].as_u64().unwrap() > 0);
    assert!(whole["started"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn answers_are_the_predictions_and_completions_are_generated() {
    let training = Training::tiny("max_steps = 2");
    training.finetune("chosen", &[]).succeeded();
    let found = examples(&training, "chosen");
    assert_eq!(found.len(), 10);
    let task = ["--prompt", "{text} It was", "--choice", " bad", "--choice", " good", "--data", "dev.jsonl"];
    let predicted = |model: &str| {
        let args = ["eval", model, "--device", "cpu", "--json", "--predictions"];
        let choices = training.place.qzo(args.iter().chain(&task)).json()["predictions"].take();
        let texts = choices
            .as_array()
            .unwrap()
            .iter()
            .map(|choice| ["bad", "good"][choice.as_u64().unwrap() as usize]);
        texts.collect::<Vec<_>>()
    };
    let model = fixture("runs/q4_1.gguf");
    let (before, after) = (predicted(model.to_str().unwrap()), predicted("chosen/final"));
    let dev: Vec<Value> = rows(16, 2).lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    for (i, example) in found.iter().enumerate() {
        let row = i * 16 / 10;
        assert_eq!(example["prompt"], format!("{} It was", dev[row]["text"].as_str().unwrap()));
        let gold = ["bad", "good"][dev[row]["label"].as_u64().unwrap() as usize];
        assert_eq!(example["gold"], json!([gold]));
        assert_eq!((&example["before"], &example["after"]), (&json!(before[row]), &json!(after[row])));
    }

    let recipe = std::fs::read_to_string(training.place.path("run.toml")).unwrap();
    let recipe = recipe.replace("choices = [\" bad\", \" good\"]", "completion = \"reply\"");
    training.place.write("run.toml", recipe);
    let row = |i| format!("{}\n", json!({"text": format!("the age {i}"), "reply": " of wisdom"}));
    for file in ["train.jsonl", "dev.jsonl"] {
        training.place.write(file, (0..8).map(row).collect::<String>());
    }
    training.finetune("generated", &[]).succeeded();
    let found = examples(&training, "generated");
    assert_eq!((found.len(), &found[7]["gold"]), (8, &json!(["of wisdom"])));
    for (model, key) in [(model.to_str().unwrap(), "before"), ("generated/final", "after")] {
        let args = [
            "generate",
            model,
            "--prompt",
            "the age 7 It was",
            "--max-new-tokens",
            "64",
            "--device",
            "cpu",
            "--json",
        ];
        let text = training.place.qzo(args).json()["text"].take();
        assert_eq!(found[7][key].as_str().unwrap(), text.as_str().unwrap().trim(), "{key}");
    }
}

#[test]
fn event_files_are_written_if_a_recipe_asks_for_them() {
    let training = Training::tiny("max_steps = 3\nreport_to = \"wandb\"");
    training.finetune("run", &[]).refused(&["run.toml:", "`wandb`", "`tensorboard`"]);
    let tracked = ["--set", "train.report_to=[\"tensorboard\"]"];
    let training = Training::tiny("max_steps = 3");
    training.finetune("run", &tracked).succeeded();
    let events = training.out("run/tensorboard/events.out.tfevents.qzo");
    let whole = std::fs::metadata(&events).unwrap().len();
    training.finetune("run", &[&tracked[..], &["--resume"]].concat()).succeeded();
    assert_eq!(std::fs::metadata(&events).unwrap().len(), whole, "a resumed run writes nothing twice");
    training.finetune("plain", &[]).succeeded();
    assert!(!training.out("plain/tensorboard").exists());
}

/// Opens `page.html` in a browser without a window, and hands its elements after the scripts have run to `check`, with
/// what the page wrote to the console.
fn in_browser(training: &Training, check: impl Fn(&str, &str)) {
    let found =
        Command::new("chromium").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(!required("chromium"), "chromium is required here");
        return skipped("a report in a browser: no chromium");
    }
    let mut command = training.place.wrapped("chromium");
    command.args([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", training.place.path("profile").display()));
    command.arg(format!("file://{}", training.place.path("page.html").display()));
    let answer = Answer::of(&mut command).succeeded();
    let log: Vec<&str> = answer.stderr.lines().filter(|line| line.contains("CONSOLE")).collect();
    check(&answer.stdout, &log.join("\n"));
}

#[test]
fn a_browser_shows_the_charts_without_an_error() {
    let training = Training::tiny("max_steps = 30\neval_steps = 10");
    training.finetune("a", &[]).succeeded();
    training.finetune("b", &["--seed", "3"]).succeeded();
    report(&training, &["a", "b"]);
    // The browser writes to the console what a page's scripts report: seen by an error that is put in.
    let page = std::fs::read_to_string(training.place.path("page.html")).unwrap();
    in_browser(&training, |dom, log| {
        assert_eq!(dom.matches("<polyline").count(), 2 * 6, "{dom}");
        // The script makes one for each chart.
        assert_eq!(dom.matches("class=\"tip\"").count(), 6, "the script has not run");
        assert_eq!(log, "");
    });
    training.place.write("page.html", page.replace("<script>", "<script>missing();"));
    in_browser(&training, |_, log| assert!(log.contains("missing is not defined"), "{log}"));
}

#[test]
fn the_page_of_exact_gradients_has_their_norm() {
    let training = Training::new(&fixture("runs/q4_1.gguf"), "method = \"exact\"\nmax_steps = 3");
    training.finetune("run", &[]).succeeded();
    let page = report(&training, &["run"]);
    assert_has(&page, &["exact gradients", "<h3>Gradient norm</h3>"]);
    assert!(!page.contains("Projected gradient"));
    assert!(Path::new(&training.out("run/run.json")).exists());
}
