use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::device::{ComputeType, DeviceSpec};
use crate::model;
use crate::quant::CodeKind;

fn run(workspace: &Workspace) -> Vec<QuantizeEvent> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/base");
    let checkpoint = Arc::new(Checkpoint::open(&path).unwrap());
    // Samples of different lengths, which need several passes.
    let token = |i: u32| (i * i + 7 * i) % 120 + 4;
    let samples: Vec<Vec<u32>> =
        (0..50).map(|s| (0..90 + s % 7).map(|i| token(31 * s + i)).collect()).collect();
    let kind = CodeKind::Integer { bits: 3, symmetric: false, mse: true };
    let options = QuantOptions { kind, group_size: Some(32), ..QuantOptions::default() };
    let calibration = Calibration { checkpoint: &checkpoint, samples: &samples, options, workspace };
    let device = "cpu".parse::<DeviceSpec>().unwrap().resolve().unwrap();
    let mut blocks = model::block_by_block(Arc::clone(&checkpoint), &device, ComputeType::F32).unwrap();
    let mut events = vec![];
    check_memory(&checkpoint).unwrap();
    calibration.run(blocks.as_mut(), &mut |event| events.push(event)).unwrap();
    events
}

/// Compares a run that was killed after its first block with an uninterrupted one.
#[test]
fn a_killed_run_continues_after_its_last_block_and_gives_the_same_weights() {
    let directory = tempfile::tempdir().unwrap();
    let settings = json!({ "bits": 3 });
    let whole = Workspace::open(&directory.path().join("whole"), &settings).unwrap();
    let events = run(&whole);
    let linears = events.iter().filter(|event| matches!(event, QuantizeEvent::Linear(_))).count();
    assert_eq!(linears, 14);
    for event in &events {
        if let QuantizeEvent::Linear(LinearReport { name, error }) = event {
            assert!(error.feedback < error.nearest, "{name}: {error:?}");
        }
    }

    let killed = Workspace::open(&directory.path().join("killed"), &settings).unwrap();
    killed.save(0, &whole.load(0).unwrap()).unwrap();
    let events = run(&killed);
    assert!(matches!(events[0], QuantizeEvent::Begins { done: 1, .. }));
    assert_eq!(events.iter().filter(|event| matches!(event, QuantizeEvent::Linear(_))).count(), 7);
    for block in 0..2 {
        assert_eq!(killed.load(block).unwrap(), whole.load(block).unwrap());
    }
    drop(killed);
    let other = Workspace::open(&directory.path().join("killed"), &json!({ "bits": 4 }));
    let Err(error) = other else { panic!("settings differ") };
    assert!(error.to_string().contains("other settings: bits"), "{error}");
}

#[test]
fn too_little_memory_is_refused_with_both_sizes() {
    fits(3_000_000_000, None).unwrap();
    fits(3_000_000_000, Some(3_000_000_000)).unwrap();
    let error = fits(3_000_000_000, Some(2_900_000_000)).unwrap_err();
    assert!(error.to_string().contains("needs 3.0 GB"), "{error}");
    assert!(error.to_string().contains("2.9 GB are free"), "{error}");
    assert!(error.help().unwrap().contains("--method rtn"));
}
