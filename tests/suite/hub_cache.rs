//! The caches of huggingface_hub: bytes in `blobs`, a folder of links for every commit in `snapshots`, and in `refs` a
//! file for every branch, tag or abbreviation that was asked for by name.

use std::path::{Path, PathBuf};

use crate::support::hub::Hub;
use crate::support::training::rows;
use crate::support::{Answer, Workplace, copy_tree, fixture, tree};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const MODEL: &str = "models--org--tiny";

/// Puts a repository's files at a commit into the cache `hub`, with the names by which the commit was asked for.
fn lay_out(hub: &Path, repository: &str, commit: &str, revisions: &[&str], files: &Path) {
    let folder = hub.join(repository);
    for (name, bytes) in tree(files) {
        let blob = blake3::hash(&bytes).to_hex()[..40].to_string();
        std::fs::create_dir_all(folder.join("blobs")).unwrap();
        std::fs::write(folder.join("blobs").join(&blob), bytes).unwrap();
        let link = folder.join("snapshots").join(commit).join(&name);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(name.components().count() + 1);
        std::os::unix::fs::symlink(format!("{up}blobs/{blob}"), link).unwrap();
    }
    for revision in revisions {
        let path = folder.join("refs").join(revision);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, commit).unwrap();
    }
    std::fs::create_dir_all(folder.join(".no_exist").join(commit)).unwrap();
    std::fs::write(folder.join(".no_exist").join(commit).join("adapter_config.json"), "").unwrap();
    std::fs::create_dir_all(hub.join(".locks").join(repository)).unwrap();
    std::fs::write(hub.join("CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n").unwrap();
}

/// Files of a model and a .gguf file of the same repository.
fn files(place: &Workplace) -> PathBuf {
    let files = place.path("files");
    copy_tree(&fixture("llama/base"), &files);
    std::fs::copy(fixture("runs/q4_1.gguf"), files.join("q4_1.gguf")).unwrap();
    std::fs::create_dir(files.join("sub")).unwrap();
    std::fs::copy(fixture("runs/q4_0.gguf"), files.join("sub/q4_0.gguf")).unwrap();
    files
}

fn inspect(place: &Workplace, model: &str) -> Answer {
    place.qzo(["inspect", "--json", model])
}

#[test]
fn every_revision_that_is_in_the_cache_is_found() {
    let place = Workplace::new();
    let hub = place.path("hf-home/hub");
    // The commit was only asked for by its hash, so that there are no refs.
    lay_out(&hub, MODEL, COMMIT, &[], &files(&place));
    inspect(&place, &format!("org/tiny@{COMMIT}")).json();
    for absent in ["org/tiny", "org/tiny@main", &format!("org/tiny@{}", &COMMIT[..7]), "org/tiny@v1"] {
        inspect(&place, absent).refused(&[absent, "not in the cache"]);
    }
    let other = COMMIT.replace('0', "f");
    let absent = format!("org/tiny@{other}");
    inspect(&place, &absent).refused(&[&absent, "not in the cache"]);

    let names = [
        "main",
        "v1.0",
        "v1.0+fp16",
        "feature/long/name",
        "refs/pr/1",
        "refs/heads/x/y",
        "refs/convert/gguf",
        &COMMIT[..7],
    ];
    for (at, name) in names.iter().enumerate() {
        let commit = format!("{at:040x}");
        lay_out(&hub, MODEL, &commit, &[name], &place.path("files"));
        inspect(&place, &format!("org/tiny@{name}")).json();
        inspect(&place, &format!("org/tiny@{commit}")).json();
        inspect(&place, &format!("org/tiny@{}", name.replace('/', "%2F"))).json();
    }
    inspect(&place, "org/tiny").json();
    for revision in ["main", "v1.0", "refs/pr/1", "refs/convert/gguf", "feature%2Flong%2Fname", COMMIT] {
        for (file, kind) in [("q4_1.gguf", "Q4_1"), ("sub/q4_0.gguf", "Q4_0")] {
            let answer = inspect(&place, &format!("org/tiny@{revision}/{file}"));
            assert!(answer.json().to_string().contains(kind), "{revision} {file}");
        }
    }
}

#[test]
fn a_ref_is_followed_in_a_copy_that_has_files_in_place_of_links() {
    let place = Workplace::new();
    let folder = place.path("hf-home/hub").join(MODEL);
    copy_tree(&fixture("llama/base"), &folder.join("snapshots").join(COMMIT));
    inspect(&place, &format!("org/tiny@{COMMIT}")).json();
    std::fs::create_dir(folder.join("refs")).unwrap();
    std::fs::write(folder.join("refs/main"), format!("{COMMIT}\n")).unwrap();
    inspect(&place, "org/tiny").json();
    // A link without its bytes counts as missing.
    std::fs::remove_file(folder.join("snapshots").join(COMMIT).join("config.json")).unwrap();
    std::os::unix::fs::symlink("../../blobs/gone", folder.join("snapshots").join(COMMIT).join("config.json"))
        .unwrap();
    inspect(&place, "org/tiny").refused(&["not in the cache"]);
}

#[test]
fn a_text_of_a_dataset_is_found_by_its_commit_and_by_a_revision_with_slashes() {
    let place = Workplace::new();
    std::fs::create_dir_all(place.path("texts/data")).unwrap();
    place.write("texts/data/train.jsonl", rows(60, 3));
    lay_out(
        &place.path("hf-home/hub"),
        "datasets--org--texts",
        COMMIT,
        &["refs/convert/text"],
        &place.path("texts"),
    );
    for (at, revision) in [COMMIT, "refs/convert/text"].iter().enumerate() {
        let line = format!(
            "quantize --method gptq --group-size 32 --calibration org/texts@{revision}/data/train.jsonl \
             --calibration-samples 4 --calibration-length 32 --device cpu -o out{at}"
        );
        place.run(&line, &[fixture("llama/base").as_ref()]).succeeded();
    }
}

#[test]
fn the_cache_is_in_the_place_that_the_variables_name() {
    let place = Workplace::new();
    let root = place.path("");
    let root = root.to_str().unwrap().trim_end_matches('/');
    let files = fixture("llama/base");
    // The variables, and the place of the cache that they name.
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[], "home/.cache/huggingface/hub"),
        (&[("XDG_CACHE_HOME", "@/xdg")], "xdg/huggingface/hub"),
        (&[("XDG_CACHE_HOME", "~/xdg")], "home/xdg/huggingface/hub"),
        (&[("HF_HOME", "@/hf")], "hf/hub"),
        (&[("HF_HOME", "~/hf")], "home/hf/hub"),
        (&[("HF_HOME", "~")], "home/hub"),
        (&[("HF_HOME", "$WORK/hf"), ("XDG_CACHE_HOME", "@/xdg")], "work/hf/hub"),
        (&[("HF_HOME", "${WORK}/a$WORK_")], "work/a$WORK_/hub"),
        (&[("HF_HOME", "relative/hf")], "relative/hf/hub"),
        (&[("HUGGINGFACE_HUB_CACHE", "~/old"), ("HF_HOME", "@/hf")], "home/old"),
        (&[("HF_HUB_CACHE", "~/new"), ("HUGGINGFACE_HUB_CACHE", "@/old"), ("HF_HOME", "@/hf")], "home/new"),
        (&[("HF_HUB_CACHE", "${WORK}/$UNSET/c")], "work/$UNSET/c"),
        (&[("HF_HUB_CACHE", "$WORK")], "work"),
    ];
    for (variables, at) in cases {
        lay_out(&place.path(at), MODEL, COMMIT, &["main"], &files);
        let mut command = place.command();
        for unset in ["HF_HOME", "XDG_CACHE_HOME", "HUGGINGFACE_HUB_CACHE", "UNSET", "WORK_"] {
            command.env_remove(unset);
        }
        command.env("HOME", format!("{root}/home")).env("WORK", format!("{root}/work"));
        command.envs(variables.iter().map(|(name, value)| (name, value.replace('@', root))));
        Answer::of(command.args(["inspect", "--json", "org/tiny"])).json();
        std::fs::remove_dir_all(place.path(at)).unwrap();
        Answer::of(&mut command).refused(&["not in the cache"]);
    }
}

#[test]
fn offline_mode_has_the_values_of_huggingface_hub() {
    let place = Workplace::new();
    let asked = |variables: &[(&str, &str)]| {
        let mut command = place.command();
        command.env_remove("HF_HUB_OFFLINE").env_remove("TRANSFORMERS_OFFLINE");
        // No server listens there.
        command.env("HF_ENDPOINT", "http://127.0.0.1:9").envs(variables.iter().copied());
        Answer::of(command.args(["inspect", "--json", "org/tiny"]))
    };
    for yes in ["1", "on", "ON", "Yes", "TRUE", "true"] {
        asked(&[("HF_HUB_OFFLINE", yes)]).refused(&["not in the cache"]);
        asked(&[("TRANSFORMERS_OFFLINE", yes)]).refused(&["not in the cache"]);
        asked(&[("TRANSFORMERS_OFFLINE", yes), ("HF_HUB_OFFLINE", "")]).refused(&["not in the cache"]);
        asked(&[("TRANSFORMERS_OFFLINE", yes), ("HF_HUB_OFFLINE", "0")]).refused(&["fetching"]);
    }
    for no in ["", "0", "off", "no", "false", "2"] {
        asked(&[("HF_HUB_OFFLINE", no)]).refused(&["fetching"]);
    }
}

#[test]
fn a_commit_whose_download_broke_off_counts_as_incomplete() {
    let (hub, place) = (Hub::start(), Workplace::new());
    for (name, bytes) in tree(&fixture("llama/base")) {
        hub.put("org/tiny", name.to_str().unwrap(), bytes);
    }
    let commit = blake3::hash(b"org/tiny").to_hex()[..40].to_string();
    let model = format!("org/tiny@{commit}");
    let fetch = || Answer::of(hub.command(&place).args(["inspect", "--json", &model]));
    hub.break_off_after(600);
    fetch().refused(&["org/tiny"]);
    inspect(&place, &model).refused(&[&model, "not in the cache"]);
    hub.break_off_no_more();
    fetch().json();
    inspect(&place, &model).json();
}
