//! Compares logits with those of transformers (scripts/fixtures/models.py), on every available backend.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::{LanguageModel, ModelInput, Tables, compute_type, load};
use crate::checkpoint::{Checkpoint, ModelShape};
use crate::data::{Sequence, Target};
use crate::device::{ComputeType, Device, DtypeSpec};
use crate::zo::direction::{Direction, Distribution, Move, ScaleMode, Signs, coefficient};

/// Tests of functions that take a device: one for each of them and each device, where there is one.
macro_rules! on_every_device {
    (@ $device:ident: $($test:ident,)*) => {
        mod $device {
            fn run(test: fn(&crate::device::Device)) {
                if let Some(device) = crate::device::for_tests(stringify!($device)) {
                    test(&device)
                }
            }
            $(#[test]
            fn $test() {
                run(super::$test)
            })*
        }
    };
    ($($test:ident,)*) => {
        on_every_device!(@ cpu: $($test,)*);
        on_every_device!(@ wgpu: $($test,)*);
        on_every_device!(@ cuda: $($test,)*);
    };
}

mod gradients;

/// Difference between f32 results whose sums are taken in different orders.
const TOLERANCE: f64 = 1e-4;

fn root() -> PathBuf {
    // The variable at run time comes first, because the GPU suite runs this binary in another checkout.
    std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").to_string()).into()
}

fn fixtures() -> Vec<PathBuf> {
    let folders = ["llama", "families"].map(|folder| root().join("tests/fixtures").join(folder));
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut found: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    assert!(found.len() >= 29, "{found:?}");
    found
}

fn open(path: &Path, device: &Device) -> Box<dyn LanguageModel> {
    let checkpoint = Arc::new(Checkpoint::open(path).unwrap());
    load(checkpoint, device, ComputeType::F32, Tables::InFile, &mut |_, _| ()).unwrap()
}

fn cases(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path.join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ids(case: &Value) -> Vec<u32> {
    case["input_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Some cases are padded on either side in transformers. Their ids here are not padded, and the logits must agree.
fn logits_agree_with_transformers(device: &Device) {
    for path in fixtures() {
        let model = open(&path, device);
        let vocab = model.config().vocab_size;
        for case in cases(&path) {
            let ids = ids(&case);
            let whole = [Sequence::alone(0..ids.len())];
            let got = model.logits(ModelInput { tokens: &ids, sequences: &whole }).unwrap();
            let first = case["first_row"].as_u64().unwrap() as usize;
            for (row, want) in (first..).zip(case["logits"].as_array().unwrap()) {
                for (token, want) in want.as_array().unwrap().iter().enumerate() {
                    let error = (f64::from(got[row * vocab + token]) - want.as_f64().unwrap()).abs();
                    assert!(error < TOLERANCE, "{} {} row {row}: {error:e}", path.display(), case["name"]);
                }
            }
        }
    }
}

fn sequences_in_one_batch_do_not_see_each_other(device: &Device) {
    for path in fixtures() {
        let model = open(&path, device);
        let cases: Vec<Value> = cases(&path).into_iter().filter(|c| ids(c).len() > 1).collect();
        let (mut tokens, mut sequences, mut targets, mut want) = (vec![], vec![], vec![], vec![]);
        for case in &cases {
            let ids = ids(case);
            let start = tokens.len();
            tokens.extend_from_slice(&ids[..ids.len() - 1]);
            sequences.push(Sequence::alone(start..tokens.len()));
            targets.extend((start as u32..).zip(&ids[1..]).map(|(row, &token)| Target { row, token }));
            want.extend(case["token_nll"].as_array().unwrap().iter().map(|nll| nll.as_f64().unwrap()));
        }
        let got = model
            .log_probs(ModelInput { tokens: &tokens, sequences: &sequences }, &targets, Signs::Neither)
            .unwrap();
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(-got) - want).abs() < TOLERANCE, "{}: {got} {want}", path.display());
        }
    }
}

fn noise() -> Move {
    let (distribution, mode) = (Distribution::Gaussian, ScaleMode::Relative);
    let direction = Direction { distribution, mode, seed: 5, probe: 0 };
    Move { direction, coefficient: coefficient(distribution, 0.1) }
}

/// Compares one pass over two continuations of a shared prefix at both signs with separate passes.
fn shared_prefixes_and_both_signs_change_nothing(device: &Device) {
    for path in fixtures() {
        let model = open(&path, device);
        let ids = cases(&path).iter().map(ids).max_by_key(Vec::len).unwrap();
        let (prefix, rest) = (&ids[..4], &ids[4..12]);
        let noise = noise();
        let alone = |tail: &[u32], noise: Move| {
            let tokens = [prefix, tail].concat();
            let sequences = [Sequence::alone(0..tokens.len())];
            let targets: Vec<Target> = (3..tokens.len() as u32).map(|row| Target { row, token: 1 }).collect();
            let input = ModelInput { tokens: &tokens, sequences: &sequences };
            model.log_probs(input, &targets, Signs::One(noise)).unwrap()
        };
        let mut want = vec![];
        for noise in [noise, noise.reversed()] {
            want.extend([alone(&rest[..2], noise), alone(rest, noise)].concat());
        }
        let tokens = [prefix, &rest[..2], rest].concat();
        let continued = |rows| Sequence { rows, prefix: 0..4 };
        let sequences = [Sequence::alone(0..4), continued(4..6), continued(6..14)];
        let targets = [3, 4, 5, 3, 6, 7, 8, 9, 10, 11, 12, 13].map(|row| Target { row, token: 1 });
        let input = ModelInput { tokens: &tokens, sequences: &sequences };
        let got = model.log_probs(input, &targets, Signs::Both(noise)).unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!(f64::from(got - want).abs() < TOLERANCE, "{}: {got} {want}", path.display());
        }
    }
}

/// The batch has too many tokens for both signs to share a pass.
fn signs_in_separate_passes_change_nothing(device: &Device) {
    let checkpoint = Arc::new(Checkpoint::synthetic(ModelShape::Tiny, 4, 64));
    let model = load(checkpoint, device, ComputeType::F32, Tables::InFile, &mut |_, _| ()).unwrap();
    let noise = noise();
    let sequences: Vec<_> = (0..1100).step_by(50).map(|start| Sequence::alone(start..start + 50)).collect();
    let tokens: Vec<u32> = (0..1100).map(|i| i * 7919 % 250).collect();
    let targets: Vec<Target> = (0..1100).step_by(7).map(|row| Target { row, token: row % 11 }).collect();
    let input = ModelInput { tokens: &tokens, sequences: &sequences };
    let alone =
        [noise, noise.reversed()].map(|noise| model.log_probs(input, &targets, Signs::One(noise)).unwrap());
    assert_ne!(alone[0], alone[1]);
    let got = model.log_probs(input, &targets, Signs::Both(noise)).unwrap();
    for (got, alone) in got.into_iter().zip(alone.concat()) {
        assert!((got - alone).abs() <= 1e-5 * alone.abs(), "{got} {alone}");
    }
    assert!(model.log_probs(input, &[], Signs::Both(noise)).unwrap().is_empty());
}

fn tables_on_the_device_give_the_logits_of_tables_in_the_file(device: &Device) {
    for dtype in [ComputeType::F32, ComputeType::F16, ComputeType::Bf16] {
        if compute_type(device, DtypeSpec::Fixed(dtype)).is_err() {
            continue;
        }
        for path in fixtures() {
            let checkpoint = Arc::new(Checkpoint::open(&path).unwrap());
            let [in_file, on_device] = [Tables::InFile, Tables::OnDevice]
                .map(|tables| load(checkpoint.clone(), device, dtype, tables, &mut |_, _| ()).unwrap());
            let ids = cases(&path).iter().map(ids).max_by_key(Vec::len).unwrap();
            let logits = |model: &dyn LanguageModel, ids: &[u32]| {
                model.logits(ModelInput { tokens: ids, sequences: &[Sequence::alone(0..ids.len())] })
            };
            let [want, got] = [&in_file, &on_device].map(|model| logits(model.as_ref(), &ids).unwrap());
            // On the device, a table of a wider type is rounded before it is scaled, not after.
            let tolerance = match dtype {
                ComputeType::F32 => 0.0,
                ComputeType::F16 => 0.1,
                ComputeType::Bf16 => 0.3,
            };
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() <= tolerance, "{} in {dtype}: {got} {want}", path.display());
            }
            let beyond = [0, in_file.config().vocab_size as u32];
            for model in [&in_file, &on_device] {
                let error = logits(model.as_ref(), &beyond).unwrap_err().to_string();
                assert!(error.contains(&format!("row {} of a table of {}", beyond[1], beyond[1])), "{error}");
            }
        }
    }
}

/// Texts of different lengths grow together, some of them idle at times. One outgrows its room, others begin late or end
/// early, and a number is given again.
fn growing_sequences_give_the_logits_of_the_whole(device: &Device) {
    for path in fixtures() {
        let model = open(&path, device);
        let vocab = model.config().vocab_size;
        let ids = cases(&path).iter().map(ids).max_by_key(Vec::len).unwrap();
        let forward: Vec<u32> = ids.iter().cycle().take(128).copied().collect();
        let texts = [forward.clone(), forward.into_iter().rev().collect()];
        let wanted = texts.each_ref().map(|tokens| {
            model.logits(ModelInput { tokens, sequences: &[Sequence::alone(0..tokens.len())] }).unwrap()
        });
        let mut session = model.session(Signs::Neither);
        // Each part: sequence, text, and the tokens of the text that are fed.
        let mut feed = |parts: &[(usize, usize, Range<usize>)]| {
            let tokens =
                parts.iter().map(|(sequence, text, range)| (*sequence, &texts[*text][range.clone()]));
            let logits = session.feed(&tokens.collect::<Vec<_>>()).unwrap();
            assert_eq!(logits.len(), parts.len() * vocab);
            for (got, (sequence, text, range)) in logits.chunks(vocab).zip(parts) {
                let want = &wanted[*text][(range.end - 1) * vocab..range.end * vocab];
                let error = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
                let at = format!("{}, sequence {sequence} after {range:?}", path.display());
                assert!(f64::from(error) < TOLERANCE, "{at}: {error:e}");
            }
            // A sequence that has all its text ends.
            let ended = parts.iter().filter(|(_, _, range)| range.end == 128 || range.end == 31);
            ended.for_each(|(sequence, _, _)| session.end(*sequence));
        };
        feed(&[(0, 0, 0..20), (1, 1, 0..30), (2, 0, 0..10)]);
        feed(&[(0, 0, 20..21), (1, 1, 30..31), (2, 0, 10..11)]);
        feed(&[(0, 0, 21..110), (2, 0, 11..12)]);
        feed(&[(1, 0, 0..1), (5, 1, 0..50), (0, 0, 110..111)]);
        feed(&[(2, 0, 12..15), (5, 1, 50..51), (1, 0, 1..2)]);
        feed(&[(0, 0, 111..128), (1, 0, 2..3), (2, 0, 15..16)]);
        feed(&[(7, 1, 0..128), (5, 1, 51..52)]);
        feed(&[(1, 0, 3..4), (2, 0, 16..17), (5, 1, 52..53)]);
    }
}

on_every_device! {
    logits_agree_with_transformers,
    sequences_in_one_batch_do_not_see_each_other,
    shared_prefixes_and_both_signs_change_nothing,
    signs_in_separate_passes_change_nothing,
    tables_on_the_device_give_the_logits_of_tables_in_the_file,
    growing_sequences_give_the_logits_of_the_whole,
}
