//! How a run was made: command, device, versions, configuration.

use std::fmt::Write;

use super::read::ReportedRun;
use super::text::{Escaped, bytes, grouped, scientific, seconds};

/// The facts about a run.
pub fn facts(run: &ReportedRun) -> String {
    let (record, config) = (&run.record, &run.config);
    let known = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
    let card = record.device_bytes.map(|card| format!(", {} held on the device", bytes(card)));
    let memory = record.peak_bytes.map(|peak| format!("{}{}", bytes(peak), card.unwrap_or_default()));
    let time = Some(record.train_seconds).filter(|seconds| *seconds > 0.0).map(seconds);
    let speed = run.tokens_per_second().map(|speed| format!("{} tokens/s", grouped(speed.round() as u64)));
    let threads = Some(record.threads).filter(|threads| *threads > 0);
    let rows = [
        ("Model", Some(config.model.clone())),
        ("Task", run.task_name()),
        ("Prompt", config.data.prompt.clone()),
        ("Training rows", config.data.train.as_ref().map(ToString::to_string)),
        ("Dev rows", config.data.dev.as_ref().map(ToString::to_string)),
        ("Method", Some(config.train.method.name().to_string())),
        ("Steps", Some(format!("{} of {}", grouped(run.steps()), grouped(config.train.max_steps)))),
        ("Rows per step", Some(config.train.batch_size.to_string())),
        ("Learning rate", Some(scientific(config.train.highest_learning_rate(), 2))),
        ("Seed", Some(config.seed.to_string())),
        ("Started", known(&record.started).map(|started| started.replace('T', " ").replace('Z', " UTC"))),
        ("Time of training", time),
        ("Speed", speed),
        ("Peak memory", memory),
        ("Device", known(&record.device)),
        ("Threads", threads.map(|threads| threads.to_string())),
        ("Type of activations", known(&record.dtype)),
        ("qzo", known(&record.version)),
        ("Run directory", Some(run.directory.display().to_string())),
    ];
    let mut html = String::new();
    for (index, command) in record.commands.iter().enumerate() {
        let name = if index == 0 { "Command" } else { "Resumed with" };
        let _ = write!(
            html,
            "<p class=name>{name}</p><pre class=command><code>{}</code></pre>",
            Escaped(command)
        );
    }
    html.push_str("<dl class=facts>");
    for (name, value) in rows {
        let Some(value) = value else { continue };
        let _ = write!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", Escaped(value));
    }
    let toml = Escaped(run.config_text.trim_end());
    let _ =
        write!(html, "</dl><details><summary>config.toml</summary><pre><code>{toml}</code></pre></details>");
    html
}
