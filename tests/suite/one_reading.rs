use crate::support::training::{Training, rows};
use crate::support::{Answer, QZO, assert_same_files, assert_same_tree, fixture, tree};

/// Runs `finetune` into `run` in bash, which can give the program pipes.
fn finetune(training: &Training, rest: &str) -> Answer {
    training.place.shell(&format!("{QZO} finetune --config run.toml -o run {rest}"))
}

const MORE: &str = "--resume --set train.max_steps=6";

#[test]
fn data_from_a_pipe_is_bound_to_the_run_by_its_bytes() {
    let training = Training::tiny("max_steps = 4\neval_steps = 0");
    training.place.write("other.jsonl", rows(48, 7));
    training.finetune("whole", &["--set", "train.max_steps=6"]).succeeded();
    finetune(&training, "--data <(cat train.jsonl)").succeeded();
    let before = tree(&training.out("run"));
    for other in ["--data <(cat other.jsonl)", "--data /dev/stdin < other.jsonl", "--data other.jsonl"] {
        finetune(&training, &format!("{MORE} {other}")).refused(&["another run", "data"]);
        assert_same_tree(&before, &tree(&training.out("run")), other);
    }
    finetune(&training, &format!("{MORE} --data <(cat train.jsonl)")).succeeded();
    assert_same_files(&training.out("whole").join("final"), &training.out("run").join("final"));
    // The same bytes count, whatever they come from.
    let again = "--resume --set train.max_steps=7 --data";
    finetune(&training, &format!("{again} /dev/stdin < train.jsonl")).succeeded();
    finetune(&training, "--resume --set train.max_steps=8").succeeded();
}

#[test]
fn data_that_changes_while_the_run_starts_is_bound_by_the_bytes_that_were_parsed() {
    let training = Training::tiny("max_steps = 4\neval_steps = 0");
    training.place.write("other.jsonl", rows(48, 7));
    // A named pipe that gives one text to its first reader and another one to the next, if there is one. The pause lets the
    // first reader see the end of its text.
    let line = format!(
        "mkfifo changing; (cat train.jsonl > changing; sleep 0.5; cat other.jsonl > changing) & \
         {QZO} finetune --config run.toml -o run --data changing; code=$?; \
         timeout 5 cat changing > rest; wait; exit $code"
    );
    training.place.shell(&line).succeeded();
    assert_eq!(
        std::fs::read_to_string(training.place.path("rest")).unwrap(),
        rows(48, 7),
        "it was read twice"
    );
    finetune(&training, MORE).succeeded();
    let before = tree(&training.out("run"));
    finetune(&training, "--resume --set train.max_steps=8 --data other.jsonl").refused(&["data"]);
    assert_same_tree(&before, &tree(&training.out("run")), "a resume with other data");
}

#[test]
fn a_dev_set_is_bound_to_the_run_because_it_decides_the_best_step() {
    let training = Training::tiny("max_steps = 4\neval_steps = 2");
    training.place.write("other.jsonl", rows(16, 7));
    finetune(&training, "--set data.dev=<(cat dev.jsonl)").succeeded();
    let before = tree(&training.out("run"));
    for other in ["other.jsonl", "<(cat other.jsonl)"] {
        finetune(&training, &format!("{MORE} --set data.dev={other}")).refused(&["another run", "data"]);
        assert_same_tree(&before, &tree(&training.out("run")), other);
    }
    finetune(&training, MORE).succeeded();
}

#[test]
fn the_calibration_text_is_bound_to_the_run_by_its_bytes() {
    let training = Training::new(&fixture("llama/base"), "max_steps = 2\neval_steps = 0");
    training.place.write("text.txt", "It was the best of times, it was the worst of times. ".repeat(40));
    training.place.write("other.txt", "It was the age of wisdom, it was the age of foolishness. ".repeat(40));
    let quantize = "--set quantize.method=gptq --set quantize.group_size=32 \
                    --set quantize.calibration_samples=4 --set quantize.calibration_length=32";
    let with = |text: &str, rest: &str| {
        finetune(&training, &format!("{quantize} --set quantize.calibration={text} {rest}"))
    };
    with("<(cat text.txt)", "").succeeded();
    let before = tree(&training.out("run"));
    for other in ["other.txt", "<(cat other.txt)"] {
        with(other, MORE).refused(&["calibration"]);
        assert_same_tree(&before, &tree(&training.out("run")), other);
    }
    // The same text in another file.
    with("<(cat text.txt)", MORE).succeeded();
    with("text.txt", "--resume --set train.max_steps=7").succeeded();
}

#[test]
fn texts_and_rows_from_a_pipe_give_the_numbers_of_a_file() {
    let training = Training::tiny("");
    training.place.write("text.txt", "It was the best of times, it was the worst of times. ".repeat(40));
    training.place.write("score.jsonl", "{\"text\": \"It was the best of times\"}\n");
    let model = fixture("runs/q4_1.gguf");
    let eval = |rest: &str| {
        let line = format!("{QZO} eval {} --json --device cpu {rest}", model.display());
        training.place.shell(&line).json()
    };
    let task = "--prompt '{text} It was' --choice ' bad' --choice ' good' --data";
    for (what, file) in
        [("--window 64 --perplexity", "text.txt"), ("--score", "score.jsonl"), (task, "dev.jsonl")]
    {
        let expected = eval(&format!("{what} {file}"));
        assert_eq!(eval(&format!("{what} <(cat {file})")), expected, "{what}");
        assert_eq!(eval(&format!("{what} /dev/stdin < {file}")), expected, "{what}");
    }
}
