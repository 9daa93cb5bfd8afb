//! The results file of lm-evaluation-harness (`EvalResults` in `lm_eval/result_schema.py`, and what
//! `lm_eval/loggers/evaluation_tracker.py` adds), so that its tools read qzo's results.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::task::TaskReport;

/// The measurement that a results file describes, beside its report.
pub struct HarnessRun<'a> {
    pub model: &'a str,
    pub device: String,
    pub dtype: String,
    /// Names of the files or the dataset.
    pub data: &'a [String],
    /// Rows in the files.
    pub rows: usize,
    /// Solved examples before each prompt.
    pub num_fewshot: usize,
    pub limit: Option<usize>,
    pub started: SystemTime,
}

/// The contents of the file. `acc_mean` is MeZO's rule.
pub fn harness_file(report: &TaskReport, run: &HarnessRun<'_>) -> Value {
    let task = report.task.as_str();
    let of_task = |value: Value| json!({ task: value });
    let metrics = metrics(report);
    let mut results = Map::from_iter([("alias".into(), json!(task)), ("sample_len".into(), json!(report.n))]);
    for Metric { name, value, stderr, .. } in &metrics {
        results.insert(format!("{name},none"), json!(value));
        results.insert(format!("{name}_stderr,none"), stderr.map_or(json!("N/A"), |stderr| json!(stderr)));
    }
    let higher: Map<String, Value> =
        metrics.iter().map(|metric| (metric.name.to_string(), json!(metric.higher_is_better))).collect();
    let output_type = match (report.acc, report.f1) {
        (Some(_), _) => "multiple_choice",
        (None, Some(_)) => "generate_until",
        (None, None) => "loglikelihood",
    };
    json!({
        "results": of_task(Value::Object(results)),
        "group_subtasks": of_task(json!([])),
        "configs": of_task(json!({
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": { "data_files": run.data },
            "output_type": output_type,
            "doc_to_choice": report.choices,
            "num_fewshot": run.num_fewshot,
            "metadata": { "version": 1.0 },
        })),
        "versions": of_task(json!(1.0)),
        "n-shot": of_task(json!(run.num_fewshot)),
        "higher_is_better": of_task(Value::Object(higher)),
        "n-samples": of_task(json!({ "original": run.rows, "effective": report.n })),
        "config": {
            "model": "qzo",
            "model_args": { "pretrained": run.model, "dtype": run.dtype },
            "model_dtype": run.dtype,
            "batch_size": null,
            "batch_sizes": [],
            "device": run.device,
            "use_cache": null,
            "limit": run.limit,
            "bootstrap_iters": 0,
            "gen_kwargs": null,
        },
        "git_hash": null,
        "date": run.started.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64(),
        "qzo_version": env!("CARGO_PKG_VERSION"),
        "task_hashes": {},
        "model_source": "qzo",
        "model_name": run.model,
        "model_name_sanitized": sanitized(run.model),
        "system_instruction": null,
        "system_instruction_sha": null,
        "fewshot_as_multiturn": false,
        "chat_template": null,
        "chat_template_sha": null,
        "total_evaluation_time_seconds": run.started.elapsed().unwrap_or(Duration::ZERO).as_secs_f64().to_string(),
    })
}

struct Metric {
    name: &'static str,
    value: f64,
    stderr: Option<f64>,
    higher_is_better: bool,
}

fn metrics(report: &TaskReport) -> Vec<Metric> {
    let share = |p: f64| Some(TaskReport::standard_error(p, report.n));
    let accuracy = if report.f1.is_some() { "exact_match" } else { "acc_mean" };
    let better = [
        ("acc", report.acc, report.acc.and_then(share)),
        ("acc_norm", report.acc_norm, report.acc_norm.and_then(share)),
        (accuracy, report.accuracy, report.stderr),
        ("f1", report.f1, report.f1_stderr),
    ];
    let better = better.into_iter().filter_map(|(name, value, stderr)| {
        value.map(|value| Metric { name, value, stderr, higher_is_better: true })
    });
    let nll = Metric { name: "nll", value: report.nll, stderr: None, higher_is_better: false };
    better.chain([nll]).collect()
}

/// A model's name as lm-evaluation-harness writes it in file names.
fn sanitized(name: &str) -> String {
    let mut sanitized = String::new();
    for part in name.split_inclusive(|c| "\"<>:/|\\?*[]".contains(c)) {
        let word = part.trim_end_matches(|c| "\"<>:/|\\?*[]".contains(c));
        sanitized.push_str(word);
        if word.len() < part.len() && !(word.is_empty() && sanitized.ends_with("__")) {
            sanitized.push_str("__");
        }
    }
    sanitized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_each_metric_with_its_filter_and_standard_error() {
        let report = TaskReport {
            task: "choices".into(),
            n: 5,
            accuracy: Some(0.8),
            stderr: Some(0.2),
            acc: Some(0.6),
            acc_norm: Some(0.4),
            nll: 0.5,
            ..Default::default()
        };
        let run = HarnessRun {
            model: "org/some:model",
            device: "cpu".into(),
            dtype: "f32".into(),
            data: &["rows.jsonl".to_owned()],
            num_fewshot: 0,
            rows: 9,
            limit: Some(5),
            started: SystemTime::now(),
        };
        let file = harness_file(&report, &run);
        let results = &file["results"]["choices"];
        assert_eq!((&results["acc,none"], &results["acc_norm,none"]), (&json!(0.6), &json!(0.4)));
        assert_eq!((&results["acc_mean,none"], &results["acc_mean_stderr,none"]), (&json!(0.8), &json!(0.2)));
        assert_eq!(results["acc_stderr,none"], json!((0.6f64 * 0.4 / 4.0).sqrt()));
        assert_eq!(results["nll_stderr,none"], "N/A");
        assert_eq!(results.get("exact_match,none"), None);
        assert_eq!(file["n-samples"]["choices"], json!({ "original": 9, "effective": 5 }));
        assert_eq!(file["model_name_sanitized"], "org__some__model");
        assert_eq!(sanitized("/a//b"), "__a__b");

        let answers = TaskReport { f1: Some(0.5), f1_stderr: Some(0.1), acc: None, acc_norm: None, ..report };
        let results = &harness_file(&answers, &run)["results"]["choices"];
        assert_eq!((&results["exact_match,none"], &results["f1_stderr,none"]), (&json!(0.8), &json!(0.1)));
        assert!(results.get("acc,none").is_none() && results.get("acc_mean,none").is_none());
    }
}
