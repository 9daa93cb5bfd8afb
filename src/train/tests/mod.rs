//! Tests of the loop, journal, snapshots and resume, with gradient descent on a quadratic as a second method.

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;

use quadratic::{Quadratic, Weights};

use super::metrics::{LoggedEval, Metrics};
use super::*;
use crate::error::{Error, Result};
use crate::model::{Scales, Update};
use crate::zo::direction::Signs;
use crate::zo::journal::{self, JournalHeader, JournalMethod, Record, StepTaken};

mod exact;
mod quadratic;

/// Gradient descent with momentum.
struct Descent {
    momentum: Vec<bf16>,
}

impl Method<Quadratic> for Descent {
    fn journal_method(&self) -> JournalMethod {
        JournalMethod::Exact
    }

    fn take(
        &mut self,
        now: StepStart,
        objective: &Quadratic,
        model: &mut Weights,
        targets: &[f32],
    ) -> Result<Record> {
        let [target] = targets else { panic!("{targets:?}") };
        let loss = objective.losses(model, target, Signs::Neither)?[0].mean();
        let mut squares = 0.0;
        let mut momentum = self.momentum.chunks_exact_mut(3);
        for name in model.names.clone() {
            let mut scales = model.scales(&name)?;
            for (scale, m) in scales.iter_mut().zip(momentum.next().unwrap()) {
                let gradient = *scale - target;
                squares += f64::from(gradient * gradient);
                *m = bf16::from_f32(0.5 * m.to_f32() + gradient);
                *scale -= now.learning_rate as f32 * m.to_f32();
            }
            model.apply(Update::Dense { name: &name, scales: &scales })?;
        }
        let (learning_rate, snapshot) = (now.learning_rate, now.snapshot);
        let taken = StepTaken::Exact { loss, grad_norm: squares.sqrt(), learning_rate, snapshot };
        Ok(Record { step: now.step, data_cursor: now.data_cursor, skipped: false, taken })
    }

    fn gradient(&self, record: &Record) -> Result<Gradient> {
        let StepTaken::Exact { grad_norm, .. } = record.taken else { panic!("{record:?}") };
        Ok(Gradient::Norm(grad_norm))
    }

    fn passes(&self) -> f64 {
        1.0
    }

    fn state(&self) -> Vec<(String, Cow<'_, [bf16]>)> {
        vec![("momentum".into(), Cow::from(&self.momentum))]
    }

    fn restore(&mut self, state: Vec<(String, Vec<bf16>)>) -> Result<()> {
        let [(_, momentum)] = <[_; 1]>::try_from(state).map_err(|_| Error::internal("not its state"))?;
        self.momentum = momentum;
        Ok(())
    }
}

fn config(max_steps: u64) -> TrainConfig {
    TrainConfig {
        max_steps,
        method: MethodKind::Zo,
        learning_rate: LearningRate::Fixed(0.05),
        save_steps: 4,
        eval_steps: 5,
        batch_size: 3,
        ..Default::default()
    }
}

/// Runs to `max_steps`, or stops after `stop_after` steps of this call. Returns the scales at the end.
fn run(path: &Path, max_steps: u64, stop_after: Option<u64>, error: f32) -> (Result<Outcome>, Weights) {
    let (directory, stop, config) = (RunDir::new(path), AtomicBool::new(false), config(max_steps));
    directory.create(true).unwrap();
    let [base_model, hash, tokenizer, data] = [[1; 32], [2; 32], [3; 32], [4; 32]];
    let header = JournalHeader { method: JournalMethod::Exact, base_model, config: hash, tokenizer, data };
    let run = Run { config: &config, seed: 7, header, directory: &directory, resolved: "", stop: &stop };
    let (mut method, mut weights) = (Descent { momentum: vec![bf16::ZERO; 6] }, Weights::new());
    let mut steps = 0;
    let outcome = run.train(&mut method, &mut Quadratic { error, far: vec![] }, &mut weights, &mut |event| {
        steps += u64::from(matches!(event, TrainEvent::Step { .. }));
        if stop_after == Some(steps) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    (outcome, weights)
}

/// The bytes of both snapshots.
fn snapshots(path: &Path) -> [Vec<u8>; 2] {
    ["snapshot.safetensors", "best.safetensors"].map(|name| std::fs::read(path.join(name)).unwrap())
}

/// The lines of `metrics.jsonl` without the only figure that differs from run to run.
fn metrics(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| line.split(",\"tokens_per_second").next().unwrap().replace('}', "")).collect()
}

#[test]
fn another_method_goes_through_loop_journal_snapshots_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let (outcome, expected) = run(&whole, 18, None, 0.0);
    let outcome = outcome.unwrap();
    assert!(outcome.after.unwrap().nll < 0.1 * outcome.before.unwrap().nll);
    let (header, records, _) = journal::read(&whole.join("journal")).unwrap();
    assert_eq!((header.method, records.len()), (JournalMethod::Exact, 18));
    let lines = std::fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    assert!(lines.contains("\"grad_norm\":") && !lines.contains("projected_grad"), "{lines}");

    // Each of the three interruptions writes a snapshot.
    for steps in [3, 4, 6] {
        let (outcome, _) = run(&parts, 18, Some(steps), 0.0);
        assert!(matches!(outcome, Err(Error::Interrupted(_))), "{outcome:?}");
    }
    let (outcome, got) = run(&parts, 18, None, 0.0);
    outcome.unwrap();
    assert_eq!(got.scales, expected.scales);
    assert_eq!(metrics(&parts), metrics(&whole));
    assert_eq!(snapshots(&parts), snapshots(&whole));
}

#[test]
fn steps_since_the_last_snapshot_are_taken_again_and_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, killed, other] = ["whole", "killed", "other"].map(|name| folder.path().join(name));
    let (_, expected) = run(&whole, 12, None, 0.0);
    for path in [&killed, &other] {
        run(path, 12, Some(5), 0.0).0.unwrap_err();
        // A kill after step 5 would leave an older snapshot, or none.
        std::fs::remove_file(path.join("snapshot.safetensors")).unwrap();
    }
    let (outcome, got) = run(&killed, 12, None, 0.0);
    outcome.unwrap();
    assert_eq!(got.scales, expected.scales);
    assert_eq!(snapshots(&killed), snapshots(&whole));
    assert_eq!(metrics(&killed), metrics(&whole));

    let (outcome, _) = run(&other, 12, None, 1e-3);
    let refused = outcome.unwrap_err().to_string();
    assert!(refused.contains("step 1 gives a loss of"), "{refused}");
}

#[test]
fn an_interruption_while_steps_are_repeated_ends_the_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    run(&path, 12, Some(6), 0.0).0.unwrap_err();
    std::fs::remove_file(path.join("snapshot.safetensors")).unwrap();
    let (outcome, weights) = run(&path, 12, Some(0), 0.0);
    let refused = outcome.unwrap_err().to_string();
    assert!(refused.contains("6 steps are saved"), "{refused}");
    assert_eq!(weights.scales, Weights::new().scales);
    // The steps that are repeated leave the journal as it is.
    assert_eq!(journal::read(&path.join("journal")).unwrap().1.len(), 6);
}

#[test]
fn a_resumed_run_knows_its_evaluations_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let directory = RunDir::new(folder.path());
    let line = |step| {
        let (gradient, tokens_per_second) = (Gradient::Norm(1.0).into(), None);
        Ok(MetricLine::Step { step, loss: None, gradient, lr: 0.0, tokens_per_second, skipped: false })
    };
    let (mut metrics, _) = Metrics::open(&directory, 0, Trackers::default(), &mut { line }).unwrap();
    let evaluations: Vec<_> = (0..1000)
        .map(|step| LoggedEval {
            step,
            eval_nll: 1.0 / (step + 3) as f64,
            eval_accuracy: None,
            eval_score: None,
            eval_n: 1,
        })
        .collect();
    for evaluation in &evaluations {
        metrics.write(&MetricLine::Eval(evaluation.clone())).unwrap();
    }
    let (_, known) = Metrics::open(&directory, 1000, Trackers::default(), &mut { line }).unwrap();
    let changed = known.iter().zip(&evaluations).filter(|(one, other)| one != other).count();
    assert_eq!((known.len(), changed), (1000, 0));
}

#[test]
fn a_snapshot_that_the_journal_does_not_name_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    run(&one, 12, Some(8), 0.0).0.unwrap_err();
    // A snapshot of the same run and step with other scales.
    run(&two, 12, Some(4), 1e-2).0.unwrap_err();
    std::fs::copy(two.join("snapshot.safetensors"), one.join("snapshot.safetensors")).unwrap();
    let (outcome, got) = run(&one, 12, None, 0.0);
    outcome.unwrap();
    assert_eq!(got.scales, run(&folder.path().join("whole"), 12, None, 0.0).1.scales);
}

#[test]
fn zeroth_order_trains_the_same_objective() {
    let folder = tempfile::tempdir().unwrap();
    let (directory, stop) = (RunDir::new(folder.path().join("run")), AtomicBool::new(false));
    directory.create(false).unwrap();
    let config = TrainConfig { learning_rate: LearningRate::Fixed(2e-2), ..config(200) };
    let mut method = config.zeroth_order();
    let method_of_header = Method::<Quadratic>::journal_method(&method);
    let [base_model, hash, tokenizer, data] = [[1; 32]; 4];
    let header = JournalHeader { method: method_of_header, base_model, config: hash, tokenizer, data };
    let run = Run { config: &config, seed: 7, header, directory: &directory, resolved: "", stop: &stop };
    let mut weights = Weights::new();
    let outcome = run
        .train(&mut method, &mut Quadratic { error: 0.0, far: vec![] }, &mut weights, &mut |_| ())
        .unwrap();
    assert!(outcome.after.unwrap().nll < 0.5 * outcome.before.unwrap().nll);
}
