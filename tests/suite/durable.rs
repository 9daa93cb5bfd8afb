//! Results are on the disk before they count: a power cut at any instant leaves the old file or the new one, never a
//! name without its bytes. The order of system calls shows this.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::hub::Hub;
use crate::support::trace::{Verdict, has_strace, judge, kill_at_rename, paths, record, run};
use crate::support::training::{Training, rows};
use crate::support::{Workplace, assert_same_tree, copy_tree, fixture, tree};

#[track_caller]
fn traced(place: &Workplace, command: &Command) -> Verdict {
    let (answer, verdict) = run(command, &place.path(""));
    answer.succeeded();
    verdict
}

#[track_caller]
fn qzo(place: &Workplace, line: &str, last: &[&Path]) -> Verdict {
    let mut command = place.command();
    command.args(line.split_whitespace()).args(last);
    traced(place, &command)
}

const BLOCKS: &str = "--calibration text.jsonl --calibration-samples 4 --calibration-length 32";

#[test]
fn a_run_its_journal_its_snapshots_and_its_checkpoints_are_on_the_disk() {
    if !has_strace() {
        return;
    }
    let training = Training::tiny("max_steps = 6\neval_steps = 2\nsave_steps = 2");
    // In a new directory inside another new one.
    let verdict = traced(&training.place, &training.command("runs/of/today", &[]));
    let names = [
        "journal",
        "config.toml",
        "metrics.jsonl",
        "snapshot.safetensors",
        "best.safetensors",
        "final",
        "best",
    ];
    let names: Vec<String> = names.iter().map(|name| format!("runs/of/today/{name}")).collect();
    verdict.is_durable(&names.iter().map(String::as_str).collect::<Vec<_>>());

    let more = ["--resume", "--set", "train.max_steps=9"];
    let verdict = traced(&training.place, &training.command("runs/of/today", &more));
    verdict.is_durable(&["runs/of/today/final", "runs/of/today/best", "runs/of/today/snapshot.safetensors"]);
    qzo(&training.place, "replay runs/of/today -o replays/one", &[]).is_durable(&["replays/one"]);
}

#[test]
fn a_journal_whose_last_record_may_not_be_on_the_disk_is_synced_before_it_counts() {
    if !has_strace() {
        return;
    }
    let training = Training::tiny("max_steps = 6\neval_steps = 2\nsave_steps = 2");
    training.finetune("run", &[]).succeeded();
    let root = training.place.path("").canonicalize().unwrap();
    // The process that wrote the record may have ended before its sync.
    let journal = root.join("run/journal");
    let before = format!("1 write(3<{}>, \"\", 52) = 52\n", journal.display());
    let there = paths(&root);
    let more = ["--resume", "--set", "train.max_steps=8"];
    let (answer, log) = record(&training.command("run", &more), &root);
    answer.succeeded();
    let verdict = judge(&format!("{before}{log}"), &root, there);
    assert!(verdict.faults.is_empty(), "{:#?}", verdict.faults);
}

#[test]
fn the_base_of_a_run_that_quantizes_its_model_is_on_the_disk() {
    if !has_strace() {
        return;
    }
    let training = Training::new(&fixture("llama/base"), "max_steps = 2\neval_steps = 0");
    let verdict = traced(&training.place, &training.command("run", &["--set", "quantize.group_size=32"]));
    verdict.is_durable(&["run/base", "run/base.json", "run/journal", "run/final"]);
}

#[test]
fn quantized_models_are_on_the_disk_and_so_is_every_block_that_counts() {
    if !has_strace() {
        return;
    }
    let place = Workplace::new();
    place.write("text.jsonl", rows(60, 3));
    let model = fixture("llama/base");
    let rounded = "quantize --group-size 32 --device cpu";
    qzo(&place, &format!("{rounded} -o made/for/it"), &[&model]).is_durable(&["made/for/it"]);
    qzo(&place, &format!("{rounded} --max-shard-size 100KB -o shards"), &[&model]).is_durable(&["shards"]);
    qzo(&place, &format!("{rounded} --format gguf -o new/model.gguf"), &[&model])
        .is_durable(&["new/model.gguf"]);
    for method in ["gptq", "learned"] {
        let line = format!("quantize --method {method} --group-size 32 {BLOCKS} --device cpu -o {method}");
        let mut command = place.command();
        command.args(line.split_whitespace()).arg(&model);
        let (answer, verdict) = run(&command, &place.path(""));
        answer.succeeded();
        verdict.is_durable(&[method]);
        assert!(
            verdict.seen.contains(Path::new(&format!(".qzo-quantizing-{method}/block-00000"))),
            "{verdict:?}"
        );
        assert!(verdict.seen.contains(Path::new(&format!(".qzo-quantizing-{method}/settings.json"))));
    }
}

#[test]
fn a_process_killed_at_any_rename_continues_and_its_result_is_on_the_disk() {
    if !has_strace() {
        return;
    }
    let training = Training::new(&fixture("llama/base"), "max_steps = 4\neval_steps = 2\nsave_steps = 2");
    let place = &training.place;
    place.write("text.jsonl", rows(60, 3));
    let quantize = |out: &str| {
        let mut command = place.command();
        let line = format!("quantize --method gptq --group-size 32 {BLOCKS} --device cpu -o {out}");
        command.args(line.split_whitespace()).arg(fixture("llama/base"));
        command
    };
    let tune = |out: &str| training.command(out, &["--resume", "--set", "quantize.group_size=32"]);
    type Made<'a> = &'a dyn Fn(&str) -> Command;
    let commands: [(&str, Made<'_>); 2] = [("quantized", &quantize), ("tuned", &tune)];
    for (what, command) in commands {
        let whole = format!("{what}-whole");
        traced(place, &command(&whole)).is_durable(&[]);
        let weights = |out: &str| match what {
            "tuned" => tree(&place.path(out).join("final")),
            _ => tree(&place.path(out)),
        };
        for nth in 1.. {
            let out = format!("{what}-{nth}");
            let is_killed = kill_at_rename(&command(&out), &place.path(""), nth);
            if !is_killed {
                assert!(nth > 3, "{what} was killed only {} times", nth - 1);
                break;
            }
            traced(place, &command(&out)).is_durable(&[]);
            assert_same_tree(&weights(&whole), &weights(&out), &out);
        }
    }
}

#[test]
fn a_run_that_is_continued_has_its_old_or_its_new_checkpoint_whenever_it_is_killed() {
    if !has_strace() {
        return;
    }
    let training = Training::tiny("max_steps = 2\neval_steps = 1\nsave_steps = 1");
    training.finetune("run", &[]).succeeded();
    let copy = |to: &str| copy_tree(&training.out("run"), &training.out(to));
    let more = |out: &str| training.command(out, &["--resume", "--set", "train.max_steps=4"]);
    let checkpoints = |out: &str| ["final", "best"].map(|name| tree(&training.out(out).join(name)));
    copy("whole");
    traced(&training.place, &more("whole")).is_durable(&["whole/final"]);
    let (old, new) = (checkpoints("run"), checkpoints("whole"));
    assert_ne!(old[0], new[0]);
    for nth in 1.. {
        let out = format!("killed-{nth}");
        copy(&out);
        let is_killed = kill_at_rename(&more(&out), &training.place.path(""), nth);
        for ((now, old), new) in checkpoints(&out).iter().zip(&old).zip(&new) {
            assert!(now == old || now == new, "killed at rename {nth}");
        }
        if !is_killed {
            assert!(nth > 3, "killed only {} times", nth - 1);
            break;
        }
        traced(&training.place, &more(&out)).is_durable(&[]);
        assert_eq!(checkpoints(&out), new, "killed at rename {nth}");
    }
}

#[test]
fn exported_models_are_on_the_disk() {
    if !has_strace() {
        return;
    }
    let place = Workplace::new();
    place
        .qzo(["quantize", "--group-size", "32", "-o", "gptq", fixture("llama/base").to_str().unwrap()])
        .succeeded();
    qzo(&place, "export gptq --format gguf -o out/model.gguf", &[]).is_durable(&["out/model.gguf"]);
    qzo(&place, "export gptq --format compressed-tensors -o a/b/c", &[]).is_durable(&["a/b/c"]);
    let training = Training::tiny("max_steps = 2");
    training.finetune("run", &[]).succeeded();
    let place_of_run = &training.place;
    qzo(place_of_run, "export run --format scales -o s/t.safetensors", &[]).is_durable(&["s/t.safetensors"]);
    let gguf = fixture("runs/q4_1.gguf");
    let apply = ["apply", gguf.to_str().unwrap(), "s/t.safetensors", "-o", "tuned"].join(" ");
    qzo(place_of_run, &apply, &[]).is_durable(&["tuned"]);
    let gguf = fixture("runs/q4_0.gguf");
    qzo(&place, "export --format huggingface --allow-lossy -o dense", &[&gguf]).is_durable(&["dense"]);
}

#[test]
fn a_file_from_the_hub_is_on_the_disk_before_its_name() {
    if !has_strace() {
        return;
    }
    let (hub, place) = (Hub::start(), Workplace::new());
    for (name, bytes) in tree(&fixture("llama/base")) {
        hub.put("org/tiny", name.to_str().unwrap(), bytes);
    }
    hub.put("org/tiny", "q4_1.gguf", std::fs::read(fixture("runs/q4_1.gguf")).unwrap());
    let fetched = |model: &str| {
        let mut command = hub.command(&place);
        command.args(["inspect", "--json", model]);
        traced(&place, &command)
    };
    fetched("org/tiny").is_durable(&["hf-home/hub/models--org--tiny/refs/main"]);
    fetched("org/tiny/q4_1.gguf").is_durable(&["hf-home/hub/models--org--tiny/refs/main"]);
    std::fs::remove_dir_all(place.path("hf-home")).unwrap();
    fetched("org/tiny/q4_1.gguf").is_durable(&["hf-home/hub/models--org--tiny/refs/main"]);
}

/// The faults that the checker finds in a record of a few calls.
fn faults(record: &str) -> Vec<String> {
    let lines: Vec<String> = record.lines().map(|line| line.trim().to_owned()).collect();
    judge(&lines.join("\n"), Path::new("/r"), BTreeSet::new()).faults
}

#[test]
fn the_checker_finds_a_file_that_is_synced_too_early_or_not_at_all() {
    let whole = r#"1 openat(AT_FDCWD</r>, "a", O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC, 0666) = 3</r/a>
        1 write(3</r/a>, "x) = 1, \"<", 4) = 4
        1 fsync(3</r/a>) = 0
        1 rename("a", "b") = 0
        1 openat(AT_FDCWD</r>, "/r", O_RDONLY|O_CLOEXEC) = 3</r>
        1 fsync(3</r>) = 0"#;
    assert_eq!(faults(whole), Vec::<String>::new());
    let without = |line: &str| whole.lines().filter(|l| !l.contains(line)).collect::<Vec<_>>().join("\n");
    assert_eq!(
        faults(&without("fsync(3</r/a>)")),
        ["a is not on the disk when it becomes b", "b is not on the disk at the end"]
    );
    assert_eq!(faults(&without("fsync(3</r>)")), ["the name b is not on the disk at the end"]);
    let failed = whole.replace("fsync(3</r/a>) = 0", "fsync(3</r/a>) = -1 EIO (Input/output error)");
    assert_eq!(faults(&failed).len(), 2);
    let later = whole.replace("1 rename(", "1 pwrite64(3</r/a>, \"y\", 1, 0) = 1\n1 rename(");
    assert_eq!(faults(&later).len(), 2);
}

#[test]
fn a_sync_covers_only_bytes_that_were_written_before_it_began() {
    let record = |order: [usize; 4]| {
        let lines = [
            "1 fdatasync(3</r/journal> <unfinished ...>",
            "1 <... fdatasync resumed>) = 0",
            "2 write(4</r/journal>, \"b\"..., 52 <unfinished ...>",
            "2 <... write resumed>) = 52",
        ];
        let first = "1 write(3</r/journal>, \"a\"..., 52) = 52";
        let lines: Vec<&str> = order.iter().map(|&line| lines[line]).collect();
        format!("{first}\n{}", lines.join("\n"))
    };
    let at_the_end = "journal is not on the disk at the end";
    let too_early = "journal: the next record is written before the last one is on the disk";
    assert_eq!(faults(&record([0, 1, 2, 3])), [at_the_end]);
    assert_eq!(faults(&record([0, 2, 3, 1])), [too_early, at_the_end]);
    assert_eq!(faults(&record([2, 0, 1, 3])), [too_early, at_the_end]);
    assert_eq!(faults(&record([2, 3, 0, 1])), [too_early]);
}

#[test]
fn the_checker_finds_names_within_a_directory_and_of_new_directories() {
    let record = r#"1 mkdir("new", 0777) = 0
        1 mkdir("new/staged", 0777) = 0
        1 openat(AT_FDCWD</r>, "new/staged/a", O_WRONLY|O_CREAT|O_EXCL, 0666) = 3</r/new/staged/a>
        1 fsync(3</r/new/staged/a>) = 0
        1 rename("/r/new/staged", "/r/new/out") = 0
        1 fsync(4</r/new>) = 0"#;
    assert_eq!(
        faults(record),
        [
            "the name new/staged/a is not on the disk when it becomes part of new/out",
            "the name new is not on the disk at the end",
            "the name new/out/a is not on the disk at the end",
        ]
    );
}

#[test]
fn the_checker_finds_maps_evaluations_logs_and_early_removals() {
    let map = r#"1 openat(AT_FDCWD</r>, "a.lock", O_RDWR|O_CREAT, 0666) = 3</r/a.lock>
        1 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 3</r/m>, 0) = 0x7f00
        1 msync(0x7f00, 4096, MS_SYNC) = 0
        1 munmap(0x7f00, 4096) = 0"#;
    assert_eq!(faults(map), ["m is not on the disk at the end"]);
    let evaluation = r#"1 write(5</r/metrics.jsonl>, "{\"step\":2,\"eval_nll\":1.0}\n", 26) = 26
        1 write(3</r/journal>, "a", 52) = 52
        1 fdatasync(3</r/journal>) = 0"#;
    assert_eq!(
        faults(evaluation),
        ["metrics.jsonl: an evaluation is not on the disk when the next step is taken"]
    );
    let log = r#"1 write(3</r/model>, "a", 52) = 52
        2 write(4</r/model.written>, "name", 4) = 4
        1 fsync(3</r/model>) = 0
        1 fsync(3</r/model.written>) = 0"#;
    assert_eq!(faults(log), ["model: parts are entered as written that are not on the disk"]);
    let removed = r#"1 rename("/r/a", "/r/out") = 0
        1 unlink("/r/work") = 0
        1 fsync(3</r>) = 0"#;
    assert_eq!(faults(removed), ["work is removed before the name out is on the disk"]);
}
