use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::support::training::{Training, rows};
use crate::support::{Answer, Workplace, fixture, tree};

#[cfg(target_os = "linux")]
fn not_utf8(name: &str) -> OsString {
    use std::os::unix::ffi::OsStrExt;
    OsStr::from_bytes(&[name.as_bytes(), b"\xff"].concat()).to_os_string()
}

/// The names of all files and folders in a place.
fn names(place: &Workplace) -> Vec<OsString> {
    let mut names: Vec<_> =
        std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
#[cfg(target_os = "linux")]
fn a_path_that_is_not_utf8_is_refused_by_name_before_any_work() {
    let training = Training::tiny("max_steps = 2\neval_steps = 0");
    let place = &training.place;
    place.write("text.jsonl", rows(60, 3));
    training.finetune("run", &[]).succeeded();
    for existing in ["d", "rows", "recipe"] {
        let from = if existing == "recipe" { "run.toml" } else { "train.jsonl" };
        std::fs::copy(place.path(from), place.path("").join(not_utf8(existing))).unwrap();
    }
    let (before, run) = (names(place), tree(&training.out("run")));
    let (base, gguf) = (fixture("llama/base"), fixture("runs/q4_1.gguf"));
    let (base, gguf) = (base.to_str().unwrap(), gguf.to_str().unwrap());
    let task = "--prompt {text} --choice a --choice b";
    for line in [
        format!("quantize {base} --group-size 32 -o d*"),
        format!("quantize {base} --group-size 32 --output=d*"),
        format!("quantize {base} --group-size 32 --format gguf -o new/d*/model.gguf"),
        format!("quantize {base} --method gptq --calibration rows* -o out"),
        "quantize d* -o out".to_string(),
        "finetune --config run.toml -o d*".to_string(),
        "finetune --config run.toml -o out --data rows*".to_string(),
        "finetune --config recipe* -o out".to_string(),
        "finetune --config run.toml -o out --model d*".to_string(),
        "finetune --config run.toml -o out --set output_dir=d*".to_string(),
        "plan --config recipe*".to_string(),
        "replay run -o d*".to_string(),
        "replay d* -o out".to_string(),
        "replay run -o out --model d*".to_string(),
        format!("export {gguf} --format gptq --allow-lossy -o d*"),
        "export d* --format gptq -o out".to_string(),
        "export run --format scales -o d*.safetensors".to_string(),
        format!("apply {gguf} d* -o out"),
        "inspect d*".to_string(),
        "generate d* --prompt x".to_string(),
        format!("eval {gguf} {task} --data rows*"),
        format!("eval {gguf} --perplexity rows*"),
        format!("eval {gguf} --score rows*"),
    ] {
        let words = line.split(' ').map(|word| match word.split_once('*') {
            Some((start, end)) => {
                let mut word = not_utf8(start);
                word.push(end);
                word
            }
            None => word.into(),
        });
        let answer = Answer::of(place.command().args(words));
        assert!(answer.stderr.contains("\\xFF"), "{line}: {answer:#?}");
        assert!(answer.stderr.contains("UTF-8"), "{line}: {answer:#?}");
        answer.failed_with(2, &["\\xFF"]);
        assert_eq!(names(place), before, "{line}");
    }
    assert!(tree(&training.out("run")) == run);
}

/// Names that careless quoting would break, each in its own way.
const ODD: &[&str] = &[
    "with space",
    "it's",
    "say \"x\"",
    "back\\slash",
    "back\\nslash",
    "line\nend",
    "tab\tbed",
    "-dash",
    "~",
    "~root",
    "$HOME",
    "a=b",
    "'''",
    "\"\"\"",
    "{braces}",
    "[table]",
    "#hash",
    "über",
    "tr\u{7f}ail",
    "x\u{1}y",
    " ",
    "a.b.c",
    "1",
    "true",
    "2026-01-01",
    "org",
    "*",
];

#[test]
fn odd_names_are_kept_unchanged() {
    let training = Training::tiny("max_steps = 2\neval_steps = 0");
    let place = &training.place;
    std::fs::create_dir(place.path("data")).unwrap();
    std::fs::create_dir(place.path("runs")).unwrap();
    training.finetune("plain", &[]).succeeded();
    let final_of = |out: &Path| tree(&out.join("final"));
    let expected = final_of(&training.out("plain"));
    for name in ODD {
        let data = place.path("data").join(name);
        std::fs::copy(place.path("train.jsonl"), &data).unwrap();
        let (out, relative) = (place.path("runs").join(name), format!("--data=data/{name}"));
        let mut command = place.command();
        command.args(["finetune", "--config", "run.toml", "--json", &relative]);
        let report = Answer::of(command.arg(format!("--output=runs/{name}"))).json();
        assert_eq!(report["output_dir"], format!("runs/{name}"));
        assert!(final_of(&out) == expected, "{name:?}");
        // The resolved recipe has the same names.
        let resolved = out.join("config.toml");
        let mut again = place.command();
        again.args(["finetune", "--resume", "--json", "--config"]).arg(resolved);
        assert_eq!(Answer::of(&mut again).json()["output_dir"], format!("runs/{name}"), "{name:?}");
        let mut replay = place.command();
        let rest = ["replay", "--json", &format!("--output=again/{name}"), "--"];
        Answer::of(replay.args(rest).arg(format!("runs/{name}"))).json();
        assert!(tree(&place.path("again").join(name)) == expected, "{name:?}");
    }
    let odd: std::collections::BTreeSet<OsString> = ODD.iter().map(OsString::from).collect();
    for folder in ["runs", "again"] {
        let found = std::fs::read_dir(place.path(folder)).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(found.collect::<std::collections::BTreeSet<_>>(), odd);
    }
}

#[test]
fn odd_names_of_models_and_results_are_kept_unchanged() {
    let place = Workplace::new();
    let plain = place.path("plain");
    let model = fixture("llama/base");
    let quantize = |out: &str, model: &Path| {
        let mut command = place.command();
        command.args(["quantize", "--group-size", "32", "--json", &format!("--output={out}"), "--"]);
        Answer::of(command.arg(model)).json()
    };
    quantize("plain", &model);
    let expected = tree(&plain);
    for name in ODD {
        let from = PathBuf::from("models").join(name);
        crate::support::copy_tree(&model, &place.path("models").join(name));
        assert_eq!(quantize(&format!("out/{name}"), &from)["output"], format!("out/{name}"));
        assert!(tree(&place.path("out").join(name)) == expected, "{name:?}");
        // In the current directory a name can look like a flag.
        let there = Path::new(".").join(name);
        crate::support::copy_tree(&model, &place.path(name));
        place.run("inspect --json --", &[there.as_ref()]).json();
        place.run("inspect --json --", &[OsStr::new(name)]).json();
        std::fs::remove_dir_all(place.path(name)).unwrap();
    }
    let made = std::fs::read_dir(place.path("out")).unwrap().count();
    assert_eq!(made, ODD.len(), "something else was left behind");
}

#[test]
#[cfg(target_os = "linux")]
fn a_parent_directory_may_have_any_name() {
    let place = Workplace::new();
    let odd = place.path("").join(not_utf8("d"));
    crate::support::copy_tree(&fixture("llama/base"), &odd.join("model"));
    let mut command = place.command();
    command.current_dir(&odd).args(["quantize", "model", "--group-size", "32", "-o", "out"]);
    Answer::of(&mut command).succeeded();
    assert!(odd.join("out/config.json").exists());
    assert_eq!(std::fs::read_dir(&odd).unwrap().count(), 2);
    // The same for the cache.
    let mut offline = place.command();
    offline.env("HF_HOME", &odd).args(["inspect", "--json", "org/tiny"]);
    let cache = odd.join("hub/models--org--tiny");
    crate::support::copy_tree(&fixture("llama/base"), &cache.join("snapshots").join("1".repeat(40)));
    std::fs::create_dir_all(cache.join("refs")).unwrap();
    std::fs::write(cache.join("refs/main"), "1".repeat(40)).unwrap();
    Answer::of(&mut offline).json();
}
