//! Memory: a plan agrees with the memory that is used, and a run that cannot fit is refused before anything is loaded.

use crate::support::training::Training;
use crate::support::{Answer, Workplace, has_device};

/// The program itself needs more memory than a tiny model, so that a larger shape is measured. At sizes between these
/// two, the allocator keeps activations after they are freed, in blocks of up to 16 MiB: two more than are in use.
#[test]
fn the_peak_of_training_steps_agrees_with_the_plan() {
    let place = Workplace::new();
    for tokens in ["512", "32768"] {
        let mut command = place.command();
        command.args([
            "bench", "--shape", "tiny", "--steps", "1", "--tokens", tokens, "--device", "cpu", "--json",
        ]);
        let report = Answer::of(command.env("RAYON_NUM_THREADS", "2")).json();
        let bytes = |key: &str| report[key].as_f64().unwrap();
        // The allocator's margins are as large as a model of this size. At 7 GB they no longer count.
        let (difference, margin) = (bytes("peak_bytes") - bytes("plan_bytes"), 4e6);
        assert!(difference.abs() < 0.05 * bytes("plan_bytes") + margin, "{tokens} tokens: {report}");
    }
}

/// The memory of a card's pools is known to the byte; the driver's own share is not.
#[test]
fn the_pools_of_a_card_agree_with_the_plan() {
    if !has_device("wgpu") {
        return;
    }
    // Both signs in one pass with fused products; then one sign with unpacked weights.
    for tokens in ["200", "600"] {
        let place = Workplace::new();
        let args = ["bench", "--shape", "tiny", "--steps", "1", "--device", "wgpu", "--json", "--tokens"];
        let report = place.qzo(args.iter().chain([&tokens])).json();
        let planned = report["plan_bytes"].as_f64().unwrap() - report["plan"]["program"].as_f64().unwrap();
        let ratio = report["allocated_bytes"].as_f64().unwrap() / planned;
        assert!((0.97..1.03).contains(&ratio), "{tokens} tokens: {ratio} of the plan: {report}");
    }
}

/// A step with a backward pass is counted at its widest point.
#[test]
fn the_pools_of_a_card_agree_with_the_plan_of_exact_gradients() {
    if !has_device("wgpu") {
        return;
    }
    let workplace = Workplace::new();
    let report_of = |place: &str| {
        let args =
            "bench --shape tiny --steps 2 --device wgpu --json --tokens 2048 --method exact --block-inputs";
        let report = workplace.qzo(args.split(' ').chain([place])).json();
        let planned = report["plan_bytes"].as_f64().unwrap() - report["plan"]["program"].as_f64().unwrap();
        let ratio = report["allocated_bytes"].as_f64().unwrap() / planned;
        assert!((0.95..1.05).contains(&ratio), "{place}: {ratio} of the plan: {report}");
        report
    };
    // The place changes no number.
    let [device, host] = ["device", "host"].map(report_of);
    assert_eq!(device["losses"], host["losses"]);
    let args = "bench --shape tiny --device cpu --method exact --block-inputs host";
    workplace.qzo(args.split(' ')).refused(&["cpu keeps the inputs of the blocks in host memory"]);
}

#[test]
fn a_plan_gives_the_bytes_of_each_part() {
    let training = Training::tiny("max_steps = 5");
    let plan = training.place.qzo(["plan", "--config", "run.toml", "--json"]).json();
    let parts = plan["parts"].as_object().unwrap();
    let sum: u64 = parts.values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(plan["total_bytes"], sum);
    for part in ["codes", "scales", "activations", "logits", "workspace", "program"] {
        assert!(parts[part].as_u64().unwrap() > 0, "{part}: {plan}");
    }
    assert_eq!(plan["fits"], true);
    assert!(plan["batch"]["tokens"].as_u64().unwrap() >= 4);
}

#[test]
fn a_run_that_cannot_fit_is_refused_with_a_batch_size_that_fits() {
    let training = Training::tiny("max_steps = 1\neval_steps = 0");
    let plan = training.place.qzo(["plan", "--config", "run.toml", "--json"]).json();
    let Some(available) = plan["available_bytes"].as_u64() else {
        eprintln!("SKIPPED: this system does not tell how much memory is free");
        return;
    };
    let row = plan["parts"]["activations"].as_u64().unwrap() / 4;
    let batch = &format!("train.batch_size={}", 4 * available / row);
    let plan = training.place.qzo(["plan", "--config", "run.toml", "--json", "--set", batch]).json();
    assert_eq!(plan["fits"], false, "{plan}");
    let refused = training.finetune("run", &["--set", batch]).refused(&["needs", "free"]);
    assert!(refused.stderr.contains("set train.batch_size = "), "{refused:#?}");
    assert!(!training.out("run").exists(), "{refused:#?}");
    let fitting = plan["help"].as_str().unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let fitting = format!("train.batch_size={fitting}");
    let plan = training.place.qzo(["plan", "--config", "run.toml", "--json", "--set", &fitting]).json();
    assert_eq!(plan["fits"], true, "{plan}");
}
