//! Whatever stops a run, its resumption ends in the bytes of an uninterrupted run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::QZO;
use crate::support::training::{Training, rows};
use crate::support::{
    Answer, Dice, Workplace, assert_same_files, assert_same_tree, copy_tree, fixture, has_device, tree,
};

/// Layout of the journal: see `zo/journal`.
const HEADER_BYTES: usize = 164;
const RECORD_BYTES: usize = 52;
const EXACT_RECORD_BYTES: usize = 80;

const KILLS: usize = 20;

fn journal_bytes(run: &Path) -> usize {
    std::fs::metadata(run.join("journal")).map_or(0, |m| m.len() as usize)
}

fn start(training: &Training, out: &str) -> Child {
    let mut command = training.command(out, &["--resume"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the journal has `bytes`, or the process has ended.
fn wait_for_journal(run: &Path, bytes: usize, child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while journal_bytes(run) < bytes && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "no step in 60 s");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Kills a process with SIGKILL. Gives false if the process had already ended.
fn kill(mut child: Child) -> bool {
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

/// `metrics.jsonl` without its times: the steps in the order of the file, and the evaluations by step.
fn course(training: &Training, out: &str) -> (Vec<Value>, BTreeMap<u64, Vec<Value>>) {
    let (mut steps, mut evaluations) = (Vec::new(), BTreeMap::<u64, Vec<Value>>::new());
    for mut line in training.metrics(out) {
        line.as_object_mut().unwrap().remove("tokens_per_second");
        match line.get("eval_nll") {
            Some(_) => evaluations.entry(line["step"].as_u64().unwrap()).or_default().push(line),
            None => steps.push(line),
        }
    }
    (steps, evaluations)
}

#[track_caller]
fn assert_same_run(training: &Training, whole: &str, other: &str) {
    let (expected, got) = (training.out(whole), training.out(other));
    assert_same_files(&expected.join("final"), &got.join("final"));
    assert_same_files(&expected.join("best"), &got.join("best"));
    let journal = |run: &Path| std::fs::read(run.join("journal")).unwrap();
    assert!(journal(&expected) == journal(&got), "the journals differ");
    let (expected, got) = (course(training, whole), course(training, other));
    let numbers: Vec<u64> = got.0.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "each step once, in order");
    assert_eq!(expected, got);
}

#[test]
fn a_run_killed_at_20_instants_ends_in_the_bytes_of_an_uninterrupted_one() {
    killed_at_20_instants("max_steps = 600\neval_steps = 150\nsave_steps = 40", 600, RECORD_BYTES);
}

/// The steps since the last snapshot are taken again, and must give the journalled losses.
#[test]
fn an_exact_run_killed_at_20_instants_ends_in_the_bytes_of_an_uninterrupted_one() {
    let recipe =
        "method = \"exact\"\nmax_steps = 400\neval_steps = 100\nsave_steps = 15\nlearning_rate = 1e-3";
    killed_at_20_instants(recipe, 400, EXACT_RECORD_BYTES);
}

fn killed_at_20_instants(recipe: &str, steps: usize, record_bytes: usize) {
    let training = Training::tiny(recipe);
    training.finetune("whole", &[]).succeeded();
    let run = training.out("killed");
    let full = HEADER_BYTES + steps * record_bytes;
    let mut dice = Dice::new(20);
    let mut within = 0;
    for _ in 0..KILLS {
        let mut child = start(&training, "killed");
        // Most kills come during or between steps, a few during the start.
        if dice.below(5) > 0 {
            let steps = 1 + dice.below(25) as usize;
            let target = journal_bytes(&run).max(HEADER_BYTES) + steps * record_bytes;
            wait_for_journal(&run, target.min(full), &mut child);
        }
        std::thread::sleep(Duration::from_micros(dice.below(15_000)));
        let running = kill(child);
        within += usize::from(running && (HEADER_BYTES..full).contains(&journal_bytes(&run)));
    }
    assert!(within >= KILLS / 2, "only {within} of {KILLS} kills fell into the run");
    training.finetune("killed", &["--resume"]).succeeded();
    assert_same_run(&training, "whole", "killed");
}

#[test]
fn a_run_killed_while_it_writes_its_checkpoints_ends_in_the_same_bytes() {
    let training = Training::tiny("max_steps = 20\neval_steps = 5\nsave_steps = 7");
    training.finetune("whole", &[]).succeeded();
    let run = training.out("killed");
    let full = HEADER_BYTES + 20 * RECORD_BYTES;
    let mut dice = Dice::new(3);
    let mut killed = 0;
    for _ in 0..KILLS {
        let mut child = start(&training, "killed");
        wait_for_journal(&run, full, &mut child);
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        killed += usize::from(kill(child));
    }
    assert!(killed > 0, "every process had ended before its kill");
    training.finetune("killed", &["--resume"]).succeeded();
    assert_same_run(&training, "whole", "killed");
    // Half-written checkpoints are as large as the model, so that a resumed run removes them.
    let files = |out: &str| tree(&training.out(out)).into_keys().collect::<Vec<PathBuf>>();
    assert_eq!(files("whole"), files("killed"), "left behind by killed processes");
}

#[test]
fn probes_rademacher_and_absolute_scales_resume_to_the_same_bytes() {
    let training = Training::tiny(
        "max_steps = 30\nprobes = 3\nperturbation = \"rademacher\"\nscale_mode = \"absolute\"\nzo_eps = 1e-3\nsave_steps = 4\neval_steps = 0",
    );
    training.finetune("whole", &[]).succeeded();
    let mut child = start(&training, "killed");
    wait_for_journal(&training.out("killed"), HEADER_BYTES + 10 * (32 + 3 * 20), &mut child);
    kill(child);
    training.finetune("killed", &["--resume"]).succeeded();
    assert_same_run(&training, "whole", "killed");
}

#[test]
fn an_interrupt_finishes_the_step_saves_and_exits_with_130() {
    let training = Training::tiny("max_steps = 400\neval_steps = 150\nsave_steps = 0");
    training.finetune("whole", &[]).succeeded();
    let run = training.out("stopped");
    // The shell interrupts its child once the journal holds 50 steps.
    let line = format!(
        "{QZO} finetune --config run.toml -o stopped --json & while [ $(stat -c %s stopped/journal 2>/dev/null || echo 0) -lt {} ]; do sleep 0.01; done; kill -INT $!; wait $!",
        HEADER_BYTES + 50 * RECORD_BYTES
    );
    let answer = training.place.shell(&line).failed_with(130, &["interrupted", "--resume"]);
    let steps = (journal_bytes(&run) - HEADER_BYTES) / RECORD_BYTES;
    assert_eq!((journal_bytes(&run) - HEADER_BYTES) % RECORD_BYTES, 0, "a step is incomplete");
    assert!((50..400).contains(&steps), "{steps} steps");
    assert!(answer.stderr.contains(&format!("{steps} steps are saved")), "{answer:#?}");
    assert!(!run.join("final").exists(), "an interrupted run is not finished");
    let resumed = training.finetune("stopped", &["--resume"]).succeeded();
    assert!(resumed.stderr.contains(&format!("resumed after step {steps} (0 replayed)")), "{resumed:#?}");
    assert_same_run(&training, "whole", "stopped");
}

#[test]
fn a_finished_run_resumes_to_the_same_bytes_and_to_more_steps() {
    let training = Training::tiny("max_steps = 12\neval_steps = 5\nsave_steps = 5");
    training.finetune("whole", &["--set", "train.max_steps=20"]).succeeded();
    training.finetune("longer", &[]).succeeded();
    let before = tree(&training.out("longer").join("final"));
    training.finetune("longer", &["--resume"]).succeeded();
    assert_same_tree(&before, &tree(&training.out("longer").join("final")), "final/ after a resume");
    training.finetune("longer", &["--resume", "--set", "train.max_steps=20"]).succeeded();
    // The shorter run has one more evaluation, at its end, so that only the checkpoints and the journal are the same.
    assert_same_files(&training.out("whole").join("final"), &training.out("longer").join("final"));
    let journal = |out: &str| std::fs::read(training.out(out).join("journal")).unwrap();
    assert!(journal("whole") == journal("longer"), "the journals differ");
}

#[test]
fn fewer_steps_than_were_taken_are_not_reported_as_done() {
    let training = Training::tiny("max_steps = 12\neval_steps = 0");
    training.finetune("run", &[]).succeeded();
    let before = tree(&training.out("run"));
    training.finetune("run", &["--resume", "--set", "train.max_steps=6"]).refused(&["12", "6"]);
    assert_same_tree(&before, &tree(&training.out("run")), "a refused resume");
}

#[test]
fn a_damaged_or_missing_snapshot_only_costs_time() {
    let training = Training::tiny("max_steps = 20\neval_steps = 0\nsave_steps = 6");
    training.finetune("whole", &[]).succeeded();
    let stages: [fn(&Path); 3] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        },
        |path| std::fs::write(path, b"").unwrap(),
    ];
    for (i, stage) in stages.iter().enumerate() {
        let out = format!("stage{i}");
        copy_tree(&training.out("whole"), &training.out(&out));
        stage(&training.out(&out).join("snapshot.safetensors"));
        let answer = training.finetune(&out, &["--resume"]).succeeded();
        assert!(answer.stderr.contains("(20 replayed)"), "{answer:#?}");
        assert_same_files(&training.out("whole").join("final"), &training.out(&out).join("final"));
    }
}

/// Replays `run` into a new directory of `place`.
fn replay(place: &Workplace, run: &Path, out: &str, args: &[&str]) -> Answer {
    let run = run.to_str().unwrap();
    place.qzo(["replay", run, "-o", out].iter().chain(args))
}

fn replays_to_the_final_checkpoint(device: &str) {
    for extra in [
        "scale_mode = \"relative\"",
        "scale_mode = \"absolute\"\nzo_eps = 1e-3\nlearning_rate = 1e-4",
        "perturbation = \"rademacher\"\nprobes = 2",
    ] {
        // Settings come by flags, because `extra` may replace the learning rate and a key must not occur twice.
        let training = Training::tiny("max_steps = 40\neval_steps = 0");
        let sets: Vec<String> =
            extra.lines().map(|line| format!("train.{}", line.replace(' ', ""))).collect();
        let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        training.finetune("run", &args).succeeded();
        let report =
            replay(&training.place, &training.out("run"), "again", &["--json", "--device", device]).json();
        assert_eq!(report["steps"], 40);
        assert_same_files(&training.out("run").join("final"), &training.out("again"));
        let base = std::fs::read(fixture("runs/q4_1.gguf")).unwrap();
        assert!(
            std::fs::read(training.out("again").join("q4_1.gguf")).unwrap() != base,
            "nothing was trained"
        );
    }
}

#[test]
fn a_replay_gives_the_bytes_of_the_run_on_cpu() {
    replays_to_the_final_checkpoint("cpu");
}

#[test]
fn a_replay_gives_the_bytes_of_the_run_on_wgpu() {
    if has_device("wgpu") {
        replays_to_the_final_checkpoint("wgpu");
    }
}

#[test]
fn a_replay_gives_the_bytes_of_the_run_on_cuda() {
    if has_device("cuda") {
        replays_to_the_final_checkpoint("cuda");
    }
}

#[test]
fn a_replay_stops_at_the_given_step_and_changes_nothing_that_exists() {
    let training = Training::tiny("max_steps = 10\neval_steps = 0");
    training.finetune("run", &[]).succeeded();
    training.finetune("short", &["--set", "train.max_steps=4"]).succeeded();
    let run = training.out("run");
    replay(&training.place, &run, "four", &["--step", "4"]).succeeded();
    assert_same_files(&training.out("short").join("final"), &training.out("four"));
    let before = tree(&training.out("four"));
    replay(&training.place, &run, "four", &[]).refused(&["four", "exists"]);
    assert_same_tree(&before, &tree(&training.out("four")), "an existing directory");
    replay(&training.place, &run, "eleven", &["--step", "11"]).refused(&["10 steps", "11"]);
    let other = fixture("runs/q4_0.gguf");
    replay(&training.place, &run, "other", &["--model", other.to_str().unwrap()]).refused(&["base model"]);
    assert!(!training.out("eleven").exists() && !training.out("other").exists());
}

/// A short run, the checkpoints that its steps replay to, and its journal.
struct Reference {
    training: Training,
    /// The checkpoint after each number of steps.
    checkpoints: Vec<BTreeMap<PathBuf, Vec<u8>>>,
    journal: Vec<u8>,
}

const STEPS: usize = 6;

impl Reference {
    fn new() -> Self {
        let training = Training::tiny(&format!("max_steps = {STEPS}\neval_steps = 3\nsave_steps = 2"));
        training.finetune("whole", &[]).succeeded();
        let run = training.out("whole");
        let checkpoints = (0..=STEPS).map(|steps| {
            let (out, steps) = (format!("steps{steps}"), steps.to_string());
            replay(&training.place, &run, &out, &["--step", &steps]).succeeded();
            tree(&training.out(&out))
        });
        let checkpoints: Vec<_> = checkpoints.collect();
        let journal = std::fs::read(run.join("journal")).unwrap();
        assert_eq!(journal.len(), HEADER_BYTES + STEPS * RECORD_BYTES);
        assert_same_tree(&tree(&run.join("final")), &checkpoints[STEPS], "the whole journal");
        Self { training, checkpoints, journal }
    }

    /// Makes a copy of the finished run with another journal, and gives the name of its directory.
    fn with_journal(&self, journal: &[u8]) -> &'static str {
        const OUT: &str = "damaged";
        let _ = std::fs::remove_dir_all(self.training.out(OUT));
        copy_tree(&self.training.out("whole"), &self.training.out(OUT));
        std::fs::write(self.training.out(OUT).join("journal"), journal).unwrap();
        OUT
    }

    fn replay(&self, out: &str) -> (Answer, BTreeMap<PathBuf, Vec<u8>>) {
        let _ = std::fs::remove_dir_all(self.training.out("replayed"));
        let answer = replay(&self.training.place, &self.training.out(out), "replayed", &[]);
        (answer, tree(&self.training.out("replayed")))
    }

    #[track_caller]
    fn resume_gives_the_same(&self, out: &str) -> Answer {
        let answer = self.training.finetune(out, &["--resume"]).succeeded();
        assert_same_run(&self.training, "whole", out);
        answer
    }

    /// Replay and resume both refuse the run, and neither changes a file.
    #[track_caller]
    fn is_refused(&self, out: &str, parts: &[&str]) {
        let before = tree(&self.training.out(out));
        let (answer, files) = self.replay(out);
        answer.refused(parts);
        assert!(files.is_empty(), "a refused replay wrote {:?}", files.keys());
        self.training.finetune(out, &["--resume"]).refused(parts);
        assert_same_tree(&before, &tree(&self.training.out(out)), "a refused resume");
    }
}

#[test]
fn a_journal_cut_at_any_byte_is_refused_or_reported_and_ends_the_same() {
    let reference = Reference::new();
    // Cuts in the first record stand for cuts in the records before the last two.
    let last_two = HEADER_BYTES + (STEPS - 2) * RECORD_BYTES;
    for cut in (0..=HEADER_BYTES + RECORD_BYTES).chain(last_two..reference.journal.len()) {
        let out = reference.with_journal(&reference.journal[..cut]);
        if cut < HEADER_BYTES {
            // Only one in eight is resumed as well, because the header alone decides.
            if cut % 8 == 0 {
                reference.is_refused(out, &["header is cut short"]);
            } else {
                let (answer, files) = reference.replay(out);
                answer.refused(&["header is cut short"]);
                assert!(files.is_empty());
            }
            continue;
        }
        let (steps, torn) = ((cut - HEADER_BYTES) / RECORD_BYTES, (cut - HEADER_BYTES) % RECORD_BYTES);
        let report = format!("{torn} torn bytes at offset {}", cut - torn);
        let (answer, files) = reference.replay(out);
        let answer = answer.succeeded();
        assert_eq!(answer.stderr.contains(&report), torn > 0, "cut at {cut}: {answer:#?}");
        assert!(answer.stdout.contains(&format!("{steps} steps")), "cut at {cut}: {answer:#?}");
        assert_same_tree(&reference.checkpoints[steps], &files, &format!("replay cut at {cut}"));
        let answer = reference.resume_gives_the_same(out);
        assert_eq!(answer.stderr.contains(&report), torn > 0, "cut at {cut}: {answer:#?}");
    }
}

#[test]
fn a_flipped_bit_of_the_journal_never_gives_another_checkpoint() {
    let reference = Reference::new();
    let last = HEADER_BYTES + (STEPS - 1) * RECORD_BYTES;
    let mut dice = Dice::new(8);
    for offset in (0..reference.journal.len()).step_by(3) {
        let mut journal = reference.journal.clone();
        journal[offset] ^= 1 << dice.below(8);
        let out = reference.with_journal(&journal);
        if offset < HEADER_BYTES {
            reference.is_refused(out, &["journal"]);
        } else if offset < last {
            let start = offset - (offset - HEADER_BYTES) % RECORD_BYTES;
            reference.is_refused(out, &["journal record", &format!("at byte {start}")]);
        } else {
            // It looks like a record that a crash left half on the disk.
            let (answer, files) = reference.replay(out);
            let report = format!("{RECORD_BYTES} torn bytes at offset {last}");
            assert!(answer.succeeded().stderr.contains(&report));
            assert_same_tree(&reference.checkpoints[STEPS - 1], &files, "replay without the last record");
            assert!(reference.resume_gives_the_same(out).stderr.contains(&report));
        }
    }
}

#[test]
fn records_that_are_swapped_doubled_or_of_another_run_are_refused() {
    let reference = Reference::new();
    let header = &reference.journal[..HEADER_BYTES];
    let record = |i: usize| &reference.journal[HEADER_BYTES + i * RECORD_BYTES..][..RECORD_BYTES];
    let swapped = [header, record(1), record(0), record(2), record(3)].concat();
    reference.is_refused(reference.with_journal(&swapped), &["at byte 164"]);
    let doubled = [header, record(0), record(0), record(1), record(2)].concat();
    reference.is_refused(reference.with_journal(&doubled), &["at byte 216"]);
    reference.training.finetune("other", &["--seed", "1"]).succeeded();
    let other = std::fs::read(reference.training.out("other").join("journal")).unwrap();
    let mixed =
        [&reference.journal[..HEADER_BYTES + RECORD_BYTES], &other[HEADER_BYTES + RECORD_BYTES..]].concat();
    reference.is_refused(reference.with_journal(&mixed), &["at byte 216"]);
}

#[test]
fn a_run_does_not_go_on_with_other_inputs() {
    let training = Training::tiny("max_steps = 5\neval_steps = 0");
    training.finetune("run", &[]).succeeded();
    training.place.write("other.jsonl", rows(48, 7));
    let other = fixture("runs/q4_0.gguf");
    let before = tree(&training.out("run"));
    for (args, difference) in [
        (&["--model", other.to_str().unwrap()][..], "base model"),
        (&["--set", "train.learning_rate=1e-3"], "train.learning_rate was 0.005, is 0.001"),
        (&["--set", "train.probes=2"], "probes"),
        (&["--set", "train.perturbation=rademacher"], "perturbation"),
        (&["--set", "train.scale_mode=absolute"], "scale_mode"),
        (&["--seed", "9"], "seed was 0, is 9"),
        (&["--data", "other.jsonl"], "data"),
    ] {
        let more = ["--resume", "--set", "train.max_steps=9"];
        training.finetune("run", &[args, &more].concat()).refused(&[difference]);
        assert_same_tree(
            &before,
            &tree(&training.out("run")),
            &format!("a resume with another {difference}"),
        );
    }
}

#[test]
fn a_run_that_quantized_its_model_does_not_go_on_with_another() {
    let training = Training::new(&fixture("llama/base"), "max_steps = 5\neval_steps = 0");
    let quantized = ["--set", "quantize.group_size=32"];
    training.finetune("run", &quantized).succeeded();
    let before = tree(&training.out("run"));
    let other = training.out("other-model");
    copy_tree(&fixture("llama/base"), &other);
    let weights = other.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    // Flips the lowest bit of a number in the middle of the weights.
    let middle = (bytes.len() / 2) & !1;
    bytes[middle] ^= 1;
    std::fs::write(weights, bytes).unwrap();
    let more = ["--resume", "--set", "train.max_steps=9"];
    let with_model = ["--model", other.to_str().unwrap()];
    training.finetune("run", &[&quantized[..], &with_model, &more].concat()).refused(&["model"]);
    assert_same_tree(&before, &tree(&training.out("run")), "a resume with another model");
    training.finetune("run", &[&["--set", "quantize.bits=8"], &more[..]].concat()).refused(&["quantize"]);
    assert_same_tree(&before, &tree(&training.out("run")), "a resume with other bits");
    training.finetune("run", &[&quantized[..], &more].concat()).succeeded();
}

#[test]
fn a_second_process_cannot_write_the_same_run() {
    let training = Training::tiny("max_steps = 100000\neval_steps = 0");
    let mut child = start(&training, "run");
    wait_for_journal(&training.out("run"), HEADER_BYTES + 3 * RECORD_BYTES, &mut child);
    let config = std::fs::read(training.out("run").join("config.toml")).unwrap();
    let answer = training.finetune("run", &["--resume", "--set", "train.logging_steps=77"]);
    assert!(kill(child), "the first process ended by itself");
    answer.refused(&["another qzo process"]);
    assert!(
        config == std::fs::read(training.out("run").join("config.toml")).unwrap(),
        "config.toml was rewritten"
    );
}

#[test]
fn an_existing_output_directory_is_left_alone_without_resume() {
    let training = Training::tiny("max_steps = 5\neval_steps = 0");
    training.finetune("run", &[]).succeeded();
    let before = tree(&training.out("run"));
    training.finetune("run", &[]).refused(&["run", "exists already"]);
    assert_same_tree(&before, &tree(&training.out("run")), "the run");
    std::fs::create_dir(training.out("mine")).unwrap();
    training.place.write("mine/notes.txt", "mine");
    training.finetune("mine", &[]).refused(&["exists already"]);
    assert_eq!(tree(&training.out("mine")).len(), 1);
    training.place.write("file", "mine");
    training.finetune("file", &[]).refused(&["exists already"]);
    assert_eq!(std::fs::read(training.out("file")).unwrap(), b"mine");
}
