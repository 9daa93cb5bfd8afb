//! Exact gradients of the quadratic.

use super::*;
use crate::model::BlockInputs;

/// Runs exact gradients to `max_steps`, or stops after `stop_after` steps of this call. Returns the scales at the end and
/// the events in which the run went back.
fn run_exact(
    path: &Path,
    config: &TrainConfig,
    far: &[(u64, f32)],
    stop_after: Option<u64>,
) -> (Result<Outcome>, Weights, Vec<[u64; 2]>) {
    let (directory, stop) = (RunDir::new(path), AtomicBool::new(false));
    directory.create(true).unwrap();
    let [base_model, hash, tokenizer, data] = [[1; 32], [2; 32], [3; 32], [4; 32]];
    let header = JournalHeader { method: JournalMethod::Exact, base_model, config: hash, tokenizer, data };
    let run = Run { config, seed: 7, header, directory: &directory, resolved: "", stop: &stop };
    let mut method = config.exact(7, 2, BlockInputs::OnDevice);
    let mut weights = if config.parameters.tensors.norms { Weights::with_norm() } else { Weights::new() };
    let (mut steps, mut returns) = (0, vec![]);
    let mut objective = Quadratic { error: 0.0, far: far.to_vec() };
    let outcome = run.train(&mut method, &mut objective, &mut weights, &mut |event| match event {
        TrainEvent::Step { .. } => {
            steps += 1;
            if stop_after == Some(steps) {
                stop.store(true, Ordering::Relaxed);
            }
        }
        TrainEvent::WentBack { step, to, .. } => returns.push([step, to]),
        _ => {}
    });
    (outcome, weights, returns)
}

fn exact_config(max_steps: u64) -> TrainConfig {
    TrainConfig {
        method: MethodKind::Exact,
        learning_rate: LearningRate::Fixed(0.1),
        max_grad_norm: f64::INFINITY,
        ..config(max_steps)
    }
}

#[test]
fn exact_gradients_train_and_resume_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts, killed] = ["whole", "parts", "killed"].map(|name| folder.path().join(name));
    for optimizer in [OptimizerKind::AdamW, OptimizerKind::Lion, OptimizerKind::Sgd] {
        let config = TrainConfig { optimizer, ..exact_config(60) };
        let (outcome, expected, _) = run_exact(&whole, &config, &[], None);
        let outcome = outcome.unwrap();
        // The scale that begins below 0 keeps its sign.
        assert!(expected.scales[1][0] < 0.0);
        let (before, after) = (outcome.before.unwrap().nll, outcome.after.unwrap().nll);
        assert!(after < 0.3 * before, "{optimizer:?}: {before} {after}");
        for steps in [3, 4, 20] {
            run_exact(&parts, &config, &[], Some(steps)).0.unwrap_err();
        }
        let (outcome, got, _) = run_exact(&parts, &config, &[], None);
        outcome.unwrap();
        assert_eq!(got.scales, expected.scales);
        assert_eq!(snapshots(&parts), snapshots(&whole));
        assert_eq!(metrics(&parts), metrics(&whole));

        run_exact(&killed, &config, &[], Some(9)).0.unwrap_err();
        std::fs::remove_file(killed.join("snapshot.safetensors")).unwrap();
        let (outcome, got, _) = run_exact(&killed, &config, &[], None);
        outcome.unwrap();
        assert_eq!(got.scales, expected.scales);
        for path in [&whole, &parts, &killed] {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

#[test]
fn tensors_beside_the_scales_train_and_resume_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts, alone] = ["whole", "parts", "alone"].map(|name| folder.path().join(name));
    let parameters = Parameters::of(&[ParameterKind::Norms]).unwrap();
    let config = TrainConfig { parameters, ..exact_config(20) };
    let (outcome, expected, _) = run_exact(&whole, &config, &[], None);
    let outcome = outcome.unwrap();
    assert!(outcome.after.unwrap().nll < 0.8 * outcome.before.unwrap().nll);
    // A step of a norm is a tenth of the learning rate times its root mean square, 1.186.
    let moved = (1.5 - expected.norm[0]).abs();
    assert!(moved > 0.01 && moved < 20.0 * 0.1 * 0.1 * 1.2, "{moved}");
    for steps in [3, 4, 6] {
        run_exact(&parts, &config, &[], Some(steps)).0.unwrap_err();
        std::fs::remove_file(parts.join("snapshot.safetensors")).unwrap();
    }
    let (outcome, got, _) = run_exact(&parts, &config, &[], None);
    outcome.unwrap();
    assert_eq!((got.scales, got.norm), (expected.scales.clone(), expected.norm));
    assert_eq!(snapshots(&parts), snapshots(&whole));
    // The scales do not notice.
    let (_, scales_alone, _) = run_exact(&alone, &exact_config(20), &[], None);
    assert_eq!(scales_alone.scales, expected.scales);
}

#[test]
fn accumulated_gradients_are_those_of_the_whole_batch() {
    let folder = tempfile::tempdir().unwrap();
    let mut objective = Quadratic { error: 0.0, far: vec![] };
    let taken = |targets: &[f32]| {
        let (mut method, mut weights) = (exact_config(1).exact(7, 2, BlockInputs::OnDevice), Weights::new());
        let now = StepStart {
            step: 0,
            seed: 1,
            learning_rate: 0.1,
            rate_left: 1.0,
            loss_limit: f64::INFINITY,
            data_cursor: 3,
            snapshot: [0; 32],
        };
        let record = method.take(now, &Quadratic { error: 0.0, far: vec![] }, &mut weights, targets).unwrap();
        (record, weights.scales)
    };
    let (whole, scales) = taken(&[0.5]);
    let (parts, of_parts) = taken(&[0.5, 0.5]);
    assert_eq!(whole, parts);
    assert_eq!(scales, of_parts);
    assert_ne!(scales, Weights::new().scales);
    // A batch that is not finite undoes the step, whichever it is.
    for targets in [[f32::NAN, 0.5], [0.5, f32::NAN]] {
        let (record, scales) = taken(&targets);
        assert!(record.skipped && record.loss().is_nan());
        assert_eq!(scales, Weights::new().scales);
    }
    let config = TrainConfig { gradient_accumulation_steps: Some(2), ..exact_config(6) };
    let batches = config.batches(&mut objective, 2);
    assert_eq!(batches, [objective.batch(6, 1), objective.batch(7, 2)]);
    let (outcome, ..) = run_exact(&folder.path().join("run"), &config, &[], None);
    outcome.unwrap();
}

#[test]
fn the_body_is_trained_by_zeroth_order_in_the_passes_of_the_tail() {
    let folder = tempfile::tempdir().unwrap();
    let base = TrainConfig { tail_blocks: TailBlocks::Last(1), ..exact_config(200) };
    let config = TrainConfig { body: Body::Zo, body_learning_rate: 2e-2, ..base.clone() };
    let [rests, whole, parts] = ["rests", "whole", "parts"].map(|name| folder.path().join(name));
    let (_, at_rest, _) = run_exact(&rests, &base, &[], None);
    assert_eq!(at_rest.scales[0], Weights::new().scales[0]);
    let (outcome, expected, _) = run_exact(&whole, &config, &[], None);
    let outcome = outcome.unwrap();
    assert_ne!(expected.scales[0], at_rest.scales[0]);
    assert!(outcome.after.unwrap().nll < 0.3 * outcome.before.unwrap().nll);
    run_exact(&parts, &config, &[], Some(6)).0.unwrap_err();
    std::fs::remove_file(parts.join("snapshot.safetensors")).unwrap();
    let (outcome, got, _) = run_exact(&parts, &config, &[], None);
    outcome.unwrap();
    assert_eq!(got.scales, expected.scales);
}

#[test]
fn a_run_that_diverges_goes_back_to_its_snapshot_with_half_the_learning_rate() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts, hopeless] = ["whole", "parts", "hopeless"].map(|name| folder.path().join(name));
    let config = exact_config(20);
    let far = [(9, 1e3), (14, f32::NAN)];
    let (outcome, expected, returns) = run_exact(&whole, &config, &far, None);
    outcome.unwrap();
    assert_eq!(returns, [[10, 8], [15, 12]]);
    let (_, records, _) = journal::read(&whole.join("journal")).unwrap();
    let rates: Vec<f64> = records
        .iter()
        .map(|record| match record.taken {
            StepTaken::Exact { learning_rate, .. } => learning_rate / config.learning_rate_at(record.step),
            StepTaken::Zo { .. } => panic!("{record:?}"),
        })
        .collect();
    assert_eq!([rates[9], rates[10], rates[14], rates[15]], [1.0, 0.5, 0.5, 0.25]);
    assert!(records[9].skipped && records[14].skipped && !records[10].skipped);

    // Interruptions on both sides of a snapshot, before the steps that run away and after them; then the same without what
    // they saved.
    for lost in [None, Some("interrupted.safetensors"), Some("snapshot.safetensors")] {
        for steps in [3, 2, 1, 4, 3] {
            run_exact(&parts, &config, &far, Some(steps)).0.unwrap_err();
            lost.map_or(Ok(()), |name| std::fs::remove_file(parts.join(name))).unwrap();
        }
        let (outcome, got, _) = run_exact(&parts, &config, &far, None);
        outcome.unwrap();
        assert_eq!(got.scales, expected.scales, "{lost:?}");
        assert_eq!(snapshots(&parts), snapshots(&whole), "{lost:?}");
        let [got, expected] = [&parts, &whole].map(|run| std::fs::read(run.join("journal")).unwrap());
        assert!(got == expected, "{lost:?}");
        assert!(!parts.join("interrupted.safetensors").exists());
        std::fs::remove_dir_all(&parts).unwrap();
    }

    // A gradient that is not finite, although the loss is, makes the run go back, too.
    let endless = folder.path().join("endless");
    let config_endless = TrainConfig { optimizer: OptimizerKind::Sgd, ..config.clone() };
    let (outcome, _, returns) = run_exact(&endless, &config_endless, &[(2, 3e38)], None);
    outcome.unwrap();
    assert_eq!(returns, [[3, 0]]);

    let far: Vec<(u64, f32)> = (10..14).map(|step| (step, 1e3)).collect();
    let (outcome, _, returns) = run_exact(&hopeless, &config, &far, None);
    let refused = outcome.unwrap_err().to_string();
    assert!(refused.contains("in step 14") && refused.contains("halved 3 times"), "{refused}");
    assert_eq!(returns.len(), 3);
}
