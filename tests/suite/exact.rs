//! Runs of exact gradients through the program: what they train, what they say, and what they refuse.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;

use crate::support::training::Training;

/// The scales of a run's last snapshot, by weight.
fn scales(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(run.join("snapshot.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let scales = tensors.iter().filter(|(name, _)| name.ends_with(".weight"));
    scales.map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec())).collect()
}

const EXACT: &str = "method = \"exact\"\nmax_steps = 12\neval_steps = 0\nlearning_rate = 3e-3";

#[test]
fn a_run_says_which_method_it_takes_and_lowers_the_loss() {
    let training =
        Training::tiny("max_steps = 40\neval_steps = 0\nmethod = \"exact\"\nlearning_rate = \"auto\"");
    let answer = training.finetune("run", &["--json"]).succeeded();
    assert!(answer.stderr.contains("method exact, since the loss has a gradient"), "{answer:#?}");
    let losses: Vec<f64> = training.metrics("run").iter().filter_map(|line| line["loss"].as_f64()).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[30..]) < 0.9 * mean(&losses[..10]), "{losses:?}");
    let of_zo = training.finetune("zo", &["--set", "train.method=zo", "--set", "train.learning_rate=5e-3"]);
    assert!(of_zo.succeeded().stderr.contains("method zo, as the recipe says"));
}

#[test]
fn the_blocks_before_the_tail_rest_or_are_trained_by_zeroth_order() {
    let training = Training::tiny(EXACT);
    training.finetune("still", &["--set", "train.learning_rate=0"]).succeeded();
    training.finetune("tail", &["--set", "train.tail_blocks=1"]).succeeded();
    // The settings of zeroth order are the body's.
    let body = ["train.tail_blocks=1", "train.body=zo", "train.zo_eps=2e-2"];
    training.finetune("both", &body.map(|setting| ["--set", setting]).concat()).succeeded();
    let [still, tail, both] = ["still", "tail", "both"].map(|out| scales(&training.out(out)));
    let last =
        still.keys().map(|name| name.split('.').nth(2).unwrap().parse::<usize>().unwrap()).max().unwrap();
    for (name, scales) in &still {
        let in_tail = name.contains(&format!(".{last}."));
        assert_eq!(tail[name] != *scales, in_tail, "{name}");
        assert!(both[name] != *scales, "{name}");
    }
}

#[test]
fn factors_and_optimizers_move_the_scales_in_ways_of_their_own() {
    let training = Training::tiny(EXACT);
    let mut seen = vec![];
    for setting in
        ["parameters=scales", "parameters=rows", "parameters=factors", "optimizer=lion", "optimizer=sgd"]
    {
        training.finetune("run", &["--set", &format!("train.{setting}")]).succeeded();
        let scales = scales(&training.out("run"));
        assert!(!seen.contains(&scales), "{setting}");
        seen.push(scales);
        std::fs::remove_dir_all(training.out("run")).unwrap();
    }
}

/// Sums of gradients are taken in another order, which AdamW enlarges where a gradient is almost 0.
#[test]
fn rows_in_parts_give_the_losses_of_the_whole() {
    let training = Training::tiny(EXACT);
    training.finetune("whole", &[]).succeeded();
    training.finetune("parts", &["--set", "train.gradient_accumulation_steps=3"]).succeeded();
    let [whole, parts] = ["whole", "parts"].map(|out| training.metrics(out));
    let losses = |lines: &[serde_json::Value]| -> Vec<f64> {
        lines.iter().filter_map(|line| line["loss"].as_f64()).collect()
    };
    let [whole, parts] = [losses(&whole), losses(&parts)];
    assert_eq!([whole.len(), parts.len()], [12; 2]);
    for (step, (whole, parts)) in whole.iter().zip(&parts).enumerate() {
        let tolerance = if step == 0 { 1e-5 } else { 1e-2 };
        assert!((whole - parts).abs() < tolerance * whole, "step {step}: {whole} {parts}");
    }
    training
        .finetune("none", &["--set", "train.gradient_accumulation_steps=5"])
        .refused(&["gradient_accumulation_steps is 5", "1 to batch_size, 4"]);
    // A resumed run keeps its parts, whatever fits by then.
    let config = std::fs::read_to_string(training.out("parts").join("config.toml")).unwrap();
    assert!(config.contains("gradient_accumulation_steps = 3") && !config.contains("zo_eps"), "{config}");
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let training = Training::tiny(EXACT);
    for (setting, said) in [
        ("train.zo_eps=0.1", "train.zo_eps is a setting of zo"),
        ("train.tail_blocks=0", "a number of blocks from 1 on"),
        ("train.tail_blocks=some", "a number of blocks from 1 on, or \"all\""),
        ("train.body=zo", "there are none"),
        ("train.max_grad_norm=0", "max_grad_norm is 0"),
        ("train.min_lr_rate=2", "min_lr_rate"),
        ("train.optimizer=adagrad", "adamw"),
        ("train.learning_rate=fast", "a number or \"auto\""),
    ] {
        training.finetune("run", &["--set", setting]).refused(&[said]);
        assert!(!training.out("run").exists(), "{setting}");
    }
    let sgd = ["--set", "train.optimizer=sgd", "--set", "train.learning_rate=auto"];
    training.finetune("run", &sgd).refused(&["sgd has no learning rate"]);
}

#[test]
fn a_plan_gives_the_bytes_of_both_methods() {
    let training = Training::tiny(EXACT);
    let plan = training.place.qzo(["plan", "--config", "run.toml", "--json"]).json();
    let names: Vec<&str> =
        plan["methods"].as_array().unwrap().iter().map(|of| of["method"].as_str().unwrap()).collect();
    assert_eq!(names, ["zo", "exact"]);
    // The memory of the process itself is measured for each.
    let [of_method, total] = [&plan["methods"][1], &plan].map(|of| of["total_bytes"].as_f64().unwrap());
    assert!((of_method / total - 1.0).abs() < 0.05, "{plan}");
    assert!(
        plan["parts"]["optimizer"].as_u64().unwrap() > 0
            && plan["parts"]["block_inputs"].as_u64().unwrap() > 0
    );
    let text = training.place.qzo(["plan", "--config", "run.toml"]).succeeded().stdout;
    assert!(
        text.contains("train.method = \"zo\": ") && text.contains("train.method = \"exact\": "),
        "{text}"
    );
}
