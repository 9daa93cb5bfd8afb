use crate::support::hub::Hub;
use crate::support::training::rows;
use crate::support::{Answer, Workplace, fixture};

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
fn calibration_text_comes_from_a_dataset_and_once_only() {
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
    // Offline, what was fetched once is there still.
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
fn a_download_that_breaks_off_continues_where_it_was() {
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
fn a_gated_dataset_opens_with_the_token() {
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
