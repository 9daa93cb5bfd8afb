//! Tests of a device that fails in the middle of a run.

use std::path::Path;

use clap::Parser;

use super::{Cli, run};
use crate::device::{alone, for_tests};
use crate::error::Result;

const RECIPE: &str = r#"
output_dir = "run"
device = "wgpu"
dtype = "f32"
[data]
train = "train.jsonl"
prompt = "{text} It was"
choices = [" bad", " good"]
[train]
method = "zo"
batch_size = 4
learning_rate = 5e-3
max_steps = 6
save_steps = 2
"#;

/// Layout of the journal, drawn in `zo::journal`.
const HEADER_BYTES: u64 = 164;
const RECORD_BYTES: u64 = 52;

fn qzo(line: &str) -> Result<()> {
    run(Cli::parse_from(["qzo", "--quiet"].into_iter().chain(line.split_whitespace())))
}

fn prepare(folder: &Path) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runs/q4_1.gguf");
    std::fs::write(folder.join("run.toml"), format!("model = {model:?}{RECIPE}")).unwrap();
    let row = |i: u32| format!("{{\"text\": \"the best of times {i}\", \"label\": {}}}\n", i % 2);
    std::fs::write(folder.join("train.jsonl"), (0..32).map(row).collect::<String>()).unwrap();
}

#[test]
fn a_device_that_fails_within_a_step_ends_the_run_which_then_goes_on() {
    const NAME: &str = "cli::tests::a_device_that_fails_within_a_step_ends_the_run_which_then_goes_on";
    const STAGES: [(&str, &str); 3] = [("fails", "4"), ("goes on", ""), ("replays", "")];
    const PLACE: &str = "QZO_TEST_PLACE";
    if for_tests("wgpu").is_none() {
        return;
    }
    let records = || (std::fs::metadata("run/journal").unwrap().len() - HEADER_BYTES) / RECORD_BYTES;
    let fails = || {
        let error = qzo("finetune --config run.toml").unwrap_err();
        assert!(error.to_string().contains("refused a buffer of"), "{error}");
        assert_eq!(error.exit_code(), 1);
        // A step takes one pass: three steps are recorded, and the fourth left no trace.
        assert_eq!(records(), 3);
        assert_eq!(std::fs::metadata("run/journal").unwrap().len(), HEADER_BYTES + 3 * RECORD_BYTES);
        assert!(!Path::new("run/final").exists());
    };
    let goes_on = || {
        qzo("finetune --config run.toml --resume").unwrap();
        assert_eq!(records(), 6);
    };
    let replays = || {
        qzo("replay run -o again --device cpu").unwrap();
        let tuned = |folder: &str| std::fs::read(Path::new(folder).join("q4_1.gguf")).unwrap();
        assert!(tuned("run/final") == tuned("again"), "the resumed run differs from its replayed journal");
    };
    let bodies: [&dyn Fn(); 3] = [&fails, &goes_on, &replays];
    let fresh = tempfile::tempdir().unwrap();
    let place = std::env::var(PLACE).unwrap_or_else(|_| {
        prepare(fresh.path());
        fresh.path().to_str().unwrap().to_string()
    });
    for ((stage, refused), body) in STAGES.into_iter().zip(bodies) {
        let settings = [(PLACE, place.as_str()), ("QZO_TEST_REFUSED_PASS", refused)];
        alone(NAME, stage, &settings, || {
            std::env::set_current_dir(&place).unwrap();
            body();
        });
    }
}
