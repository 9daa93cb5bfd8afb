//! Scores of generations by a program of the user's own: it reads a JSON object a line on standard input and prints a number
//! a line.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use crate::data::Row;
use crate::error::{Error, Result};

/// A program with its arguments, and the time that one call of it may take.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreCommand {
    pub words: Vec<String>,
    pub timeout: Duration,
}

/// A generation to score.
#[derive(Debug)]
pub struct ScoredText<'a> {
    pub prompt: String,
    pub generation: &'a str,
    pub row: &'a Row,
}

/// Most characters of the program's messages that an error repeats.
const MOST_SHOWN: usize = 2000;

impl ScoreCommand {
    /// Runs the program once for all texts. The higher a score, the better.
    ///
    /// # Errors
    /// The program cannot be started, fails, takes too long, or prints anything but one finite number for each text; its
    /// messages are part of the error.
    pub fn scores(&self, texts: &[ScoredText<'_>]) -> Result<Vec<f64>> {
        let [program, arguments @ ..] = self.words.as_slice() else {
            return Err(Error::invalid("an empty command", HELP));
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io(program, "starting the command that scores"))?;
        let mut input = String::new();
        for text in texts {
            let line =
                json!({ "generation": text.generation, "prompt": text.prompt, "row": text.row.fields });
            input.push_str(&format!("{line}\n"));
        }
        let (out, errors) = self.talk(&mut child, input)?;
        let status = child.wait().map_err(Error::io(program, "waiting for the command"))?;
        if !status.success() {
            return Err(self.failed(&format!("failed ({status})"), &errors));
        }
        let scores: Vec<f64> = out
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| match line.trim().parse() {
                Ok(score) if f64::is_finite(score) => Ok(score),
                _ => Err(self.failed(&format!("printed \"{line}\", which is no number"), &errors)),
            })
            .collect::<Result<_>>()?;
        match scores.len() == texts.len() {
            true => Ok(scores),
            false => {
                let what = format!("printed {} scores for {} generations", scores.len(), texts.len());
                Err(self.failed(&what, &errors))
            }
        }
    }

    /// Gives the child its input and collects its output and its messages, each on a thread of its own, because a full pipe
    /// stops a program. The child is killed when its time is up.
    fn talk(&self, child: &mut Child, input: String) -> Result<(String, String)> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(mut stderr)) = (stdin, stdout, stderr) else {
            return Err(Error::internal("a child without pipes"));
        };
        // A program that does not read all of its input ends the pipe; what it prints decides.
        std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let (done, finished) = mpsc::channel();
        let messages = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let output = std::thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(stdout).split(b'\n').map_while(|line| line.ok()) {
                text.push_str(&String::from_utf8_lossy(&line));
                text.push('\n');
            }
            let _ = done.send(());
            text
        });
        let is_late = finished.recv_timeout(self.timeout).is_err();
        if is_late {
            let _ = child.kill();
            let _ = child.wait();
            let seconds = self.timeout.as_secs_f64();
            // A grandchild may keep the pipes open, so the threads are not waited for.
            return Err(self.failed(&format!("took longer than {seconds} s (train.command_timeout)"), ""));
        }
        let joined = |thread: std::thread::JoinHandle<String>| {
            thread.join().map_err(|_| Error::internal("a reader of the command's output panicked"))
        };
        Ok((joined(output)?, joined(messages)?))
    }

    fn failed(&self, what: &str, messages: &str) -> Error {
        let messages = messages.trim();
        let start = messages.chars().count().saturating_sub(MOST_SHOWN);
        let shown: String = messages.chars().skip(start).collect();
        let said = if shown.is_empty() { String::new() } else { format!("; it said: {shown}") };
        Error::invalid(format!("the command `{}` {what}{said}", self.words.join(" ")), HELP)
    }
}

const HELP: &str = "train.command reads a JSON object a line (generation, prompt, row) and prints a number for each, the \
                    higher the better";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::row::for_tests;

    fn run(script: &str, timeout: u64) -> Result<Vec<f64>> {
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        let row = for_tests(1, r#"{"id": 7}"#);
        let texts = ["one", "three"];
        let texts = texts.map(|generation| ScoredText { prompt: "p".into(), generation, row: &row });
        ScoreCommand { words, timeout: Duration::from_millis(timeout) }.scores(&texts)
    }

    #[test]
    fn a_number_is_read_for_each_text() {
        assert_eq!(run("cat >/dev/null; echo 1; echo; echo -2.5e-1", 5000).unwrap(), [1.0, -0.25]);
        let of_input = run(
            r#"while read -r line; do echo "$line" | grep -c '"generation":"three","prompt":"p","row":{"id":7}'; done; true"#,
            5000,
        );
        assert_eq!(of_input.unwrap(), [0.0, 1.0]);
        // A program that does not read its input.
        assert_eq!(run("echo 3; echo 4", 5000).unwrap(), [3.0, 4.0]);
    }

    #[test]
    fn a_failure_shows_what_the_program_said() {
        let error = |script: &str, timeout| run(script, timeout).unwrap_err().to_string();
        let failed = error("echo no model >&2; exit 3", 5000);
        assert!(failed.contains("exit status: 3") && failed.contains("it said: no model"), "{failed}");
        assert!(error("echo 1", 5000).contains("printed 1 scores for 2 generations"));
        assert!(error("echo 1; echo high", 5000).contains("printed \"high\", which is no number"));
        assert!(error("echo 1; echo nan", 5000).contains("printed \"nan\""));
        assert!(error("sleep 20", 50).contains("took longer than 0.05 s"));
        let absent = ScoreCommand { words: vec!["/nowhere/x".into()], timeout: Duration::from_secs(1) };
        assert!(absent.scores(&[]).unwrap_err().to_string().starts_with("/nowhere/x: starting the command"));
    }
}
