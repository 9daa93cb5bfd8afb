//! Rows and texts in the forms that people have them: each is read as it was meant, or refused.

use serde_json::{Value, json};

use crate::support::training::Training;
use crate::support::{Answer, Workplace, fixture};

/// `eval` of the tiny model.
fn eval(place: &Workplace, args: &[&str]) -> Answer {
    let model = fixture("runs/q4_1.gguf");
    place.qzo(["eval", model.to_str().unwrap(), "--device", "cpu", "--json"].iter().chain(args))
}

fn write_rows(place: &Workplace, name: &str, rows: &[Value]) {
    place.write(name, rows.iter().map(|row| format!("{row}\n")).collect::<String>());
}

#[test]
fn an_answer_that_shares_a_token_with_its_prompt_is_scored_and_warned_of() {
    let place = Workplace::new();
    let words = ["best", "worst", "age"];
    for (name, space) in [("at_end.jsonl", ""), ("at_start.jsonl", " ")] {
        let rows = words.map(|word| json!({"q": "It was the", "a": format!("{space}{word} of")}));
        write_rows(&place, name, &rows);
    }
    let score = |file, prompt| eval(&place, &["--data", file, "--prompt", prompt, "--completion", "a"]);
    let at_end = score("at_end.jsonl", "{q} ").succeeded();
    let at_start = score("at_start.jsonl", "{q}").json();
    let warning = "at_end.jsonl:1: the prompt's end and the answer's start are one token";
    assert_eq!(at_end.stderr.matches(&format!("warning: {warning}")).count(), 1, "{at_end:#?}");
    let at_end = at_end.json();
    assert_eq!(at_end["nll"], at_start["nll"]);
    assert_eq!(at_start["warnings"], json!([]));
    let warnings = at_end["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().starts_with(warning), "{warnings:?}");
    assert!(warnings[0].as_str().unwrap().contains("3 of 3 rows"), "{warnings:?}");

    let quiet = ["--data", "at_end.jsonl", "--prompt", "{q} ", "--completion", "a", "--quiet"];
    let quiet = eval(&place, &quiet).succeeded();
    assert!(quiet.stderr.is_empty() && quiet.stdout.contains("one token"), "{quiet:#?}");
}

#[test]
fn training_scores_an_answer_that_shares_a_token_with_its_prompt() {
    let run = |space: &str, prompt: &str| {
        let training = Training::tiny("max_steps = 2");
        let row = json!({"text": "It was the", "a": format!("{space}best of times")});
        training.place.write("train.jsonl", format!("{row}\n").repeat(8));
        training.place.write("dev.jsonl", format!("{row}\n"));
        let recipe = std::fs::read_to_string(training.place.path("run.toml")).unwrap();
        let recipe = recipe
            .replace("prompt = \"{text} It was\"", &format!("prompt = \"{prompt}\"\ncompletion = \"a\""))
            .replace("choices = [\" bad\", \" good\"]\n", "");
        training.place.write("run.toml", recipe);
        training.finetune("run", &["--json"]).json()["after"]["nll"].as_f64().unwrap()
    };
    assert_eq!(run("", "{text} "), run(" ", "{text}"));
}

#[test]
fn an_answer_without_a_space_after_its_prompt_is_warned_of() {
    let place = Workplace::new();
    write_rows(
        &place,
        "rows.jsonl",
        &[json!({"q": "It was the", "a": "best"}), json!({"q": "It", "a": "was"})],
    );
    let warnings = |prompt| {
        let task = ["--data", "rows.jsonl", "--prompt", prompt, "--completion", "a"];
        eval(&place, &task).json()["warnings"].clone()
    };
    assert_eq!(
        warnings("{q}"),
        json!([
            "rows.jsonl:1: \"It was the\" and \"best\" become \"It was thebest\": an answer is put directly after its \
                prompt, so write the space at its start"
        ])
    );
    assert_eq!(warnings("{q}:").as_array().unwrap().len(), 1);
    assert_eq!(warnings("{q}\n"), json!([]));
    assert_eq!(warnings("{q} ("), json!([]));
}

#[test]
fn a_number_is_a_label_by_its_text_if_all_choices_are_integers() {
    let place = Workplace::new();
    let rows = |labels: [Value; 3]| labels.map(|label| json!({"text": "It was", "stars": label}));
    let task =
        ["--prompt", "{text}:", "--choice", " 1", "--choice", " 2", "--choice", " 3", "--label", "stars"];
    let measure = |name: &str, labels: [Value; 3]| {
        write_rows(&place, name, &rows(labels));
        eval(&place, &[&["--data", name], &task[..]].concat())
    };
    let by_number = measure("numbers.jsonl", [json!(1), json!(3), json!(3.0)]).json();
    let by_text = measure("texts.jsonl", [json!(" 1"), json!("3"), json!(" 3")]).json();
    assert_eq!(by_number["nll"], by_text["nll"]);
    measure("zero.jsonl", [json!(1), json!(0), json!(2)])
        .refused(&["zero.jsonl:2: field `stars`: expected one of \" 1\", \" 2\", \" 3\", got the number 0"]);

    let mixed =
        ["--prompt", "{text}:", "--choice", " 1", "--choice", " 0", "--choice", " x", "--label", "stars"];
    write_rows(&place, "mixed.jsonl", &rows([json!(2), json!(1), json!(0)]));
    eval(&place, &[&["--data", "mixed.jsonl"], &mixed[..]].concat())
        .refused(&["mixed.jsonl:2: field `stars`: 1 is \" 0\" as an index and \" 1\" as text"]);
}

#[test]
fn rows_beyond_the_context_are_refused_unless_they_are_to_be_dropped_or_truncated() {
    let long = "It was the best of times. ".repeat(20);
    let rows = [json!({"text": "It", "label": 1}), json!({"text": long, "label": 0})];
    let training = Training::tiny("max_steps = 1");
    write_rows(&training.place, "dev.jsonl", &rows);
    let advice = ["dev.jsonl:2:", "context holds 128", "overlong = \"drop\" or \"truncate\""];
    training.finetune("refused", &[]).refused(&advice);
    let set = |overlong: &'static str| ["--set", "data.max_seq_length=64", "--set", overlong, "--json"];
    let dropped = training.finetune("dropped", &set("data.overlong=drop")).succeeded();
    assert!(dropped.stderr.contains("dev: 1 of 2 rows (1 dropped, 0 truncated)"), "{dropped:#?}");
    let dropped = dropped.json();
    assert_eq!([&dropped["after"]["n"], &dropped["after"]["dropped"]], [&json!(1), &json!(1)]);
    let truncated = training.finetune("truncated", &set("data.overlong=truncate")).json();
    assert_eq!([&truncated["after"]["n"], &truncated["after"]["truncated"]], [&json!(2), &json!(1)]);
    // Without max_seq_length, `overlong` is about the context.
    let context = training.finetune("context", &["--set", "data.overlong=drop", "--json"]).json();
    assert_eq!(context["after"]["n"], 1);

    let task = ["--data", "dev.jsonl", "--prompt", "{text} It was", "--choice", " bad", "--choice", " good"];
    eval(&training.place, &task).refused(&["dev.jsonl:2:", "--overlong"]);
    let report = eval(&training.place, &[&task[..], &["--overlong", "drop"]].concat()).json();
    assert_eq!([&report["n"], &report["dropped"]], [&json!(1), &json!(1)]);
    let report = eval(&training.place, &[&task[..], &["--overlong", "truncate"]].concat()).json();
    assert_eq!([&report["n"], &report["truncated"]], [&json!(2), &json!(1)]);
    let only_long = [&task[..], &["--overlong", "drop"]].concat();
    write_rows(&training.place, "dev.jsonl", &rows[1..]);
    eval(&training.place, &only_long).refused(&["dev.jsonl", "all 1 rows", "context holds"]);
}

#[test]
fn a_max_seq_length_beyond_the_context_is_warned_of() {
    let training = Training::tiny("max_steps = 1");
    let report = training.finetune("run", &["--set", "data.max_seq_length=5000", "--json"]).json();
    let warning = "max_seq_length = 5000 is more than the model's context of 128 tokens, which is the limit";
    assert_eq!(report["warnings"], json!([warning]));
}

#[test]
fn a_text_is_read_as_far_as_its_windows_and_without_its_byte_order_mark() {
    let place = Workplace::new();
    let text = "It was the best of times, it was the worst of times.\n".repeat(40);
    place.write("plain.txt", &text);
    place.write("marked.txt", format!("\u{feff}{text}"));
    let measure = |file| eval(&place, &["--perplexity", file, "--window", "64"]).json();
    assert_eq!(measure("marked.txt"), measure("plain.txt"));

    place.write("rows.txt", format!("{}\n", json!({"text": text})));
    let rows = eval(&place, &["--perplexity", "rows.txt", "--window", "64"]).json();
    assert!(rows["warnings"][0].as_str().unwrap().contains("rows.txt: looks like JSONL"), "{rows}");

    // 16 MB in lines and in one line. To tokenize either at once takes 1.9 GB or more.
    for (name, gap) in [("lines.txt", "\n"), ("line.txt", " ")] {
        place.write(name, format!("It was the best of times,{gap}it was the worst.{gap}").repeat(370_000));
        let model = fixture("runs/q4_1.gguf");
        let limited = format!(
            "ulimit -v 1000000; RAYON_NUM_THREADS=2 {} eval {} --perplexity {name} --windows 1 --window 64 --device cpu --json",
            env!("CARGO_BIN_EXE_qzo"),
            model.display()
        );
        let report = place.shell(&limited).json();
        assert_eq!(report["windows"], 1);
    }
}

#[test]
fn a_json_array_is_read_and_an_object_over_several_lines_refused() {
    let place = Workplace::new();
    let rows = json!([{"text": "It", "label": 1}, {"text": "was", "label": 0}]);
    let task = ["--data", "rows.json", "--prompt", "{text}:", "--choice", " a", "--choice", " b"];
    for text in [rows.to_string(), serde_json::to_string_pretty(&rows).unwrap()] {
        place.write("rows.json", text);
        assert_eq!(eval(&place, &task).json()["n"], 2);
    }
    place.write("rows.json", serde_json::to_string_pretty(&rows[0]).unwrap());
    eval(&place, &task).refused(&["rows.json:1:", "over several lines", "one array: [{…}, {…}]"]);
}
