use serde_json::Value;

use crate::support::hub::Hub;
use crate::support::training::rows;
use crate::support::{Answer, Workplace, assert_same_files, fixture, tree};

const TEXTS: &str = "datasets/org/texts";

/// Quantizes a fixture, calibrated on `text` of a hub.
fn quantize(hub: &Hub, place: &Workplace, text: &str, out: &str) -> Answer {
    Answer::of(hub.command(place).args(words(text, out)).arg(fixture("llama/base")))
}

fn words(text: &str, out: &str) -> Vec<String> {
    let line = format!(
        "quantize --method gptq --group-size 32 --calibration {text} --calibration-samples 4 \
         --calibration-length 32 --device cpu -o {out}"
    );
    line.split_whitespace().map(str::to_string).collect()
}

fn weights(place: &Workplace, out: &str) -> Vec<u8> {
    std::fs::read(place.path(out).join("model.safetensors")).unwrap()
}

#[test]
fn a_calibration_text_is_fetched_from_a_dataset_only_once() {
    let (hub, place) = (Hub::start(), Workplace::new());
    place.write("text.jsonl", rows(60, 3));
    hub.put(TEXTS, "data/train.jsonl", rows(60, 3));
    quantize(&hub, &place, "text.jsonl", "local").succeeded();
    assert!(hub.requests().is_empty());
    quantize(&hub, &place, "org/texts/data/train.jsonl", "fetched").succeeded();
    assert!(weights(&place, "fetched") == weights(&place, "local"));

    let asked = hub.requests();
    assert!(!asked.is_empty());
    for request in &asked {
        assert_eq!(request.path, "/datasets/org/texts/resolve/main/data/train.jsonl");
        assert_eq!(request.authorization, None);
    }
    quantize(&hub, &place, "org/texts/data/train.jsonl", "cached").succeeded();
    assert_eq!(hub.requests().len(), asked.len());
    // A file that was fetched once can be used offline.
    let command = &mut place.command();
    let text = words("org/texts/data/train.jsonl", "offline");
    Answer::of(command.args(text).arg(fixture("llama/base"))).succeeded();
    assert!(weights(&place, "offline") == weights(&place, "local"));
}

#[test]
fn a_revision_of_a_dataset_is_another_text() {
    let (hub, place) = (Hub::start(), Workplace::new());
    hub.put(TEXTS, "train.jsonl", rows(60, 3));
    hub.put("datasets/org/texts@v2", "train.jsonl", rows(60, 4));
    quantize(&hub, &place, "org/texts/train.jsonl", "main").succeeded();
    quantize(&hub, &place, "org/texts@v2/train.jsonl", "v2").succeeded();
    assert!(weights(&place, "main") != weights(&place, "v2"));
}

#[test]
fn a_download_that_breaks_off_is_continued() {
    let (hub, place) = (Hub::start(), Workplace::new());
    let text = rows(60, 3);
    place.write("text.jsonl", &text);
    hub.put(TEXTS, "train.jsonl", text.clone());
    let part = text.len() / 2 - 10;
    hub.break_off_after(part);
    quantize(&hub, &place, "org/texts/train.jsonl", "fetched").succeeded();
    for start in [0, part, 2 * part] {
        let range = format!("bytes={start}-");
        assert!(hub.requests().iter().any(|r| r.range.as_ref() == Some(&range)), "{:?}", hub.requests());
    }
    quantize(&hub, &place, "text.jsonl", "local").succeeded();
    assert!(weights(&place, "fetched") == weights(&place, "local"));
}

#[test]
fn a_gated_dataset_is_read_with_the_token() {
    let (hub, place) = (Hub::start(), Workplace::new());
    hub.put(TEXTS, "train.jsonl", rows(60, 3));
    hub.gate(TEXTS, "hf_secret");
    let text = "org/texts/train.jsonl";
    let answer = quantize(&hub, &place, text, "out").refused(&[text, "401"]);
    assert!(answer.stderr.contains("HF_TOKEN"), "{answer:#?}");
    let mut command = hub.command(&place);
    command.env("HF_TOKEN", "hf_secret").args(words(text, "out")).arg(fixture("llama/base"));
    Answer::of(&mut command).succeeded();
}

#[test]
fn a_text_that_cannot_be_fetched_is_one_clear_error() {
    let (hub, place) = (Hub::start(), Workplace::new());
    hub.put(TEXTS, "train.jsonl", rows(60, 3));
    for absent in ["org/texts/absent.jsonl", "org/other/train.jsonl", "org/texts@v2/train.jsonl"] {
        let answer = quantize(&hub, &place, absent, "out").refused(&[absent, "404"]);
        assert!(answer.stderr.contains("check the id"), "{answer:#?}");
    }
    let text = "org/texts/train.jsonl";
    let mut offline = hub.command(&place);
    offline.env("HF_HUB_OFFLINE", "1").args(words(text, "out")).arg(fixture("llama/base"));
    let asked = hub.requests().len();
    Answer::of(&mut offline).refused(&[text, "not in the cache", "HF_HUB_OFFLINE"]);
    assert_eq!(hub.requests().len(), asked);

    let mut unreachable = hub.command(&place);
    drop(hub);
    unreachable.args(words(text, "out")).arg(fixture("llama/base"));
    let answer = Answer::of(&mut unreachable).refused(&[text]);
    assert!(answer.stderr.contains("check the network"), "{answer:#?}");
    assert!(!place.path("out").exists() && !place.path(".qzo-quantizing-out").exists());
}

const MODEL: &str = "org/tiny";
/// SHA-256 of the fixture's weights: `sha256sum tests/fixtures/llama/base/model.safetensors`.
const SHA256: &str = "90b23ff264b26cbb31bfce45ef504abad7d0af1c61eed5265febc19dd5f12767";

/// A hub with a model whose repository also has files that are not needed.
fn with_model() -> Hub {
    let hub = Hub::start();
    put_model(&hub, MODEL);
    hub
}

fn put_model(hub: &Hub, repository: &str) {
    for (name, bytes) in tree(&fixture("llama/base")) {
        hub.put(repository, name.to_str().unwrap(), bytes);
    }
    for unneeded in
        ["pytorch_model.bin", "consolidated.safetensors", "consolidated.00.pth", "original/params.json"]
    {
        hub.put(repository, unneeded, "not to be fetched");
    }
    hub.announce("model.safetensors", SHA256);
}

fn eval(hub: &Hub, place: &Workplace, model: &str) -> Answer {
    place.write("rows.jsonl", "{\"input_ids\": [1, 5, 9]}\n");
    Answer::of(hub.command(place).args(EVAL.split(' ')).arg(model))
}

const EVAL: &str = "eval --score rows.jsonl --json --device cpu";

fn measured(answer: Answer) -> Value {
    answer.json()["sequences"].clone()
}

#[test]
fn a_model_is_fetched_once_into_the_standard_cache() {
    let (hub, store, place) = (with_model(), with_model(), Workplace::new());
    hub.store_weights_at(&store);
    let fetched =
        Answer::of(hub.command(&place).env("HF_TOKEN", "hf_mine").args(["inspect", "--json", MODEL])).json();
    assert_eq!(fetched["format"], "Hugging Face");
    for asked in hub.requests() {
        assert_eq!(asked.authorization.as_deref(), Some("Bearer hf_mine"));
        for unneeded in ["pytorch_model", "consolidated", "original"] {
            assert!(!asked.path.contains(unneeded), "{}", asked.path);
        }
    }
    // hf-hub asks for the size (one byte) with the token, and fetches the weights without it.
    let asked = store.requests();
    let mut fetched = asked.iter().filter(|asked| asked.range.as_deref() != Some("bytes=0-0")).peekable();
    assert!(fetched.peek().is_some() && fetched.all(|asked| asked.authorization.is_none()), "{asked:?}");

    let cache = place.path("hf-home/hub/models--org--tiny");
    let commit = std::fs::read_to_string(cache.join("refs/main")).unwrap();
    let snapshot = cache.join("snapshots").join(commit);
    assert_same_files(&fixture("llama/base"), &snapshot);
    assert_eq!(
        std::fs::canonicalize(snapshot.join("model.safetensors")).unwrap(),
        cache.join("blobs").join(SHA256).canonicalize().unwrap()
    );

    let expected = measured(eval(&hub, &place, fixture("llama/base").to_str().unwrap()));
    let before = store.requests().len();
    assert_eq!(measured(eval(&hub, &place, MODEL)), expected);
    assert_eq!(store.requests().len(), before);
    drop(hub);
    assert_eq!(measured(Answer::of(place.command().args(EVAL.split(' ')).arg(MODEL))), expected);
}

#[test]
fn a_gguf_in_several_files_is_fetched_as_a_whole() {
    let (hub, place) = (Hub::start(), Workplace::new());
    for (name, bytes) in tree(&fixture("runs/split")) {
        hub.put(MODEL, name.to_str().unwrap(), bytes);
    }
    let model = "org/tiny/q4_1-00001-of-00003.gguf";
    let whole = fixture("runs/q4_1.gguf");
    let expected = measured(eval(&hub, &place, whole.to_str().unwrap()));
    assert_eq!(measured(eval(&hub, &place, model)), expected);
    drop(hub);
    assert_eq!(measured(Answer::of(place.command().args(EVAL.split(' ')).arg(model))), expected);
    std::fs::remove_dir_all(place.path("hf-home/hub/models--org--tiny/snapshots")).unwrap();
    Answer::of(place.command().args(EVAL.split(' ')).arg(model)).refused(&[model, "not in the cache"]);
}

/// The files that OPT has on the hub: PyTorch's shards, and no tokenizer.json.
#[test]
fn a_model_with_only_older_files_is_fetched_and_quantized() {
    let (hub, place) = (Hub::start(), Workplace::new());
    for (name, bytes) in tree(&fixture("families/opt-pickled-shards")) {
        hub.put("org/opt", name.to_str().unwrap(), bytes);
    }
    hub.put("org/opt", "tf_model.h5", "not to be fetched");
    let words = "quantize org/opt --group-size 16 -o opt".split(' ');
    Answer::of(hub.command(&place).args(words)).succeeded();
    assert!(hub.requests().iter().all(|asked| !asked.path.contains("tf_model")));
    let names: Vec<String> =
        tree(&place.path("opt")).into_keys().map(|name| name.display().to_string()).collect();
    assert!(names.contains(&"merges.txt".into()) && names.contains(&"model.safetensors".into()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("pytorch_model")), "{names:?}");
    place.write("texts.jsonl", "{\"text\": \"It was the best of times\"}\n");
    place.run("eval opt --score texts.jsonl --json --device cpu", &[]).json();
}

#[test]
fn a_model_whose_download_broke_off_is_continued_by_the_next_command() {
    let (hub, place) = (with_model(), Workplace::new());
    let whole = std::fs::metadata(fixture("llama/base/model.safetensors")).unwrap().len() as usize;
    let part = whole / 8;
    hub.break_off_after(part);
    eval(&hub, &place, MODEL).refused(&["org/tiny/model.safetensors"]);
    let offline = Answer::of(place.command().args(EVAL.split(' ')).arg(MODEL));
    offline.refused(&["org/tiny", "not in the cache"]);
    let left = place.path("hf-home/hub/models--org--tiny/blobs").join(SHA256).with_extension("part");
    let left = std::fs::metadata(left).unwrap().len();
    assert!(0 < left && left < whole as u64, "{left} of {whole}");
    hub.break_off_no_more();
    let before = hub.requests().len();
    let expected = measured(eval(&hub, &place, fixture("llama/base").to_str().unwrap()));
    assert_eq!(measured(eval(&hub, &place, MODEL)), expected);
    let continued = format!("bytes={left}-");
    assert!(hub.requests()[before..].iter().any(|asked| asked.range.as_ref() == Some(&continued)));
}

#[test]
fn a_file_with_another_hash_than_announced_is_thrown_away() {
    let (hub, place) = (with_model(), Workplace::new());
    let wrong = SHA256.replace('a', "b");
    hub.announce("model.safetensors", &wrong);
    eval(&hub, &place, MODEL).refused(&["org/tiny/model.safetensors", "SHA-256", &wrong]);
    let weights: Vec<_> = tree(&place.path("hf-home"))
        .into_keys()
        .filter(|name| name.to_string_lossy().contains(&wrong))
        .collect();
    assert!(weights.iter().all(|name| name.to_string_lossy().ends_with(".lock")), "{weights:?}");
    hub.announce("model.safetensors", SHA256);
    eval(&hub, &place, MODEL).succeeded();
}

#[test]
fn a_model_that_cannot_be_fetched_is_one_clear_error() {
    let (hub, place) = (with_model(), Workplace::new());
    put_model(&hub, "org/gated");
    hub.gate("org/gated", "hf_secret");
    for absent in ["org/absent", "org/tiny@v9", "org/tiny/absent.gguf"] {
        let answer = eval(&hub, &place, absent).refused(&[absent, "404"]);
        assert!(answer.stderr.contains("check the id"), "{answer:#?}");
    }
    let answer = eval(&hub, &place, "org/gated").refused(&["org/gated", "401"]);
    assert!(answer.stderr.contains("HF_TOKEN"), "{answer:#?}");
    // The file in which a login keeps the token, wherever the cache is.
    std::fs::create_dir_all(place.path("hf-home")).unwrap();
    place.write("hf-home/token", "hf_secret\n");
    let mut command = hub.command(&place);
    command.env("HF_HUB_CACHE", place.path("elsewhere")).args(EVAL.split(' ')).arg("org/gated");
    Answer::of(&mut command).succeeded();
    assert!(place.path("elsewhere/models--org--gated/refs/main").exists());
}

#[test]
fn a_gguf_in_a_repository_and_a_revision_of_a_model_are_found() {
    let (hub, place) = (with_model(), Workplace::new());
    hub.put(MODEL, "q4_1.gguf", std::fs::read(fixture("runs/q4_1.gguf")).unwrap());
    put_model(&hub, "org/tiny@v2");
    eval(&hub, &place, "org/tiny/q4_1.gguf").succeeded();
    assert!(hub.requests().iter().all(|asked| asked.path.ends_with("q4_1.gguf")));
    eval(&hub, &place, "org/tiny@v2").succeeded();
    let place_of = |name: &str| place.path("hf-home/hub/models--org--tiny/refs").join(name);
    assert!(place_of("main").exists() && place_of("v2").exists());
}
