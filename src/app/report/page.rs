//! The page of a report.

use std::fmt::Write;
use std::path::Path;

use super::chart::colour;
use super::curves::charts;
use super::examples::examples;
use super::facts::facts;
use super::read::ReportedRun;
use super::results::{of_one, of_several, tiles};
use super::text::{Escaped, grouped};

/// Nothing is loaded, whatever the page holds.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The page about `runs`.
pub fn page(runs: &[ReportedRun]) -> String {
    let mut html = String::from("<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n");
    let title = Escaped(title(runs));
    let _ = write!(
        html,
        "<meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=Content-Security-Policy content=\"{POLICY}\">\n\
         <meta name=color-scheme content=\"light dark\">\n\
         <meta name=generator content=\"qzo {}\">\n<title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
        env!("CARGO_PKG_VERSION"),
        include_str!("style.css")
    );
    let _ = write!(html, "<header><p class=name>qzo report</p><h1>{title}</h1>");
    html.push_str(&subtitle(runs));
    html.push_str("</header>\n<main>\n");
    let mut section = |id: &str, title: &str, content: &str| {
        let _ = writeln!(html, "<section id={id}><h2>{title}</h2>{content}</section>");
    };
    match runs {
        [run] => section("results", "Results", &(tiles(run) + &of_one(run))),
        _ => section("results", "Results", &of_several(runs)),
    }
    section(
        "curves",
        "Training",
        &(if runs.len() > 1 { legend(runs) } else { String::new() } + &charts(runs)),
    );
    section("examples", "Examples", &examples(runs));
    match runs {
        [run] => section("facts", "How it was made", &facts(run)),
        _ => section("facts", "How they were made", &folded(runs)),
    }
    let _ = write!(
        html,
        "</main>\n<footer><p>Written by qzo {}.</p></footer>\n<script>\n{}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        include_str!("script.js")
    );
    html
}

/// The model and the rows it was tuned on.
fn title(runs: &[ReportedRun]) -> String {
    let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let of = |run: &ReportedRun| {
        let task = run.config.data.task.clone();
        let rows = task.or_else(|| {
            run.config.data.train.as_ref().and_then(|files| files.0.first()).map(|file| name(Path::new(file)))
        });
        format!("{} on {}", name(Path::new(&run.config.model)), rows.unwrap_or_else(|| "its task".into()))
    };
    let titles: Vec<String> = runs.iter().map(of).collect();
    match &titles[..] {
        [first, rest @ ..] if rest.iter().all(|title| title == first) => first.clone(),
        _ => format!("{} runs", runs.len()),
    }
}

fn subtitle(runs: &[ReportedRun]) -> String {
    let [run] = runs else {
        let names: Vec<&str> = runs.iter().map(|run| &*run.name).collect();
        return format!("<p class=lead>Compared: {}</p>", Escaped(names.join(", ")));
    };
    let method = run.config.train.method.name();
    let method = if method == "zo" { "zeroth order" } else { "exact gradients" };
    let task = run.task_name().map(|task| format!(" · task: {task}")).unwrap_or_default();
    format!("<p class=lead>{} · {method}{task}</p>{}", Escaped(&run.name), state(run))
}

/// Says that a run has not ended, if so.
fn state(run: &ReportedRun) -> String {
    match run.finished {
        true => String::new(),
        false => format!(
            "<p class=unfinished>Not finished: {} of {} steps are taken. The run is still in progress, or it was stopped; \
             <code>--resume</code> continues it.</p>",
            grouped(run.steps()),
            grouped(run.config.train.max_steps)
        ),
    }
}

fn legend(runs: &[ReportedRun]) -> String {
    let entry = |(index, run): (usize, &ReportedRun)| {
        format!("<li><i class=\"key c{}\"></i>{}</li>", colour(index), Escaped(&run.name))
    };
    format!("<ul class=legend>{}</ul>", runs.iter().enumerate().map(entry).collect::<String>())
}

/// The facts of several runs, each folded.
fn folded(runs: &[ReportedRun]) -> String {
    let one = |(index, run): (usize, &ReportedRun)| {
        let (colour, name) = (colour(index), Escaped(&run.name));
        format!(
            "<details class=run><summary><i class=\"key c{colour}\"></i>{name}</summary>{}{}</details>",
            state(run),
            facts(run)
        )
    };
    runs.iter().enumerate().map(one).collect()
}
