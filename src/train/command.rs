//! Scores of generations by a program of the user's own: it reads a JSON object a line on standard input and prints a number
//! a line.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

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
/// Time for the last messages of a program that has ended.
const LAST_MESSAGES: Duration = Duration::from_millis(500);
/// Longest time that a call may take, whatever the recipe says.
const LONGEST: Duration = Duration::from_secs(1 << 32);

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
        let mut command = Command::new(program);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io(program, "starting the command that scores"))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(Error::internal("a child without pipes"));
        };
        let mut input = String::new();
        for text in texts {
            let line =
                json!({ "generation": text.generation, "prompt": text.prompt, "row": text.row.fields });
            input.push_str(&format!("{line}\n"));
        }
        // Each pipe has a thread of its own, because a full pipe stops a program. A program that does not read all of its
        // input ends the pipe; what it prints decides.
        std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let (out, messages) = (Heard::on(stdout), Heard::on(stderr));
        let deadline = Instant::now() + self.timeout.min(LONGEST);
        let status = if out.has_ended(deadline) { exit_status(&mut child, deadline)? } else { None };
        let Some(status) = status else {
            kill(&mut child);
            let what = format!("took longer than {} s (train.command_timeout)", self.timeout.as_secs_f64());
            return Err(self.failed(&what, &messages.text()));
        };
        // What the program has started may keep this pipe open.
        messages.has_ended(Instant::now() + LAST_MESSAGES);
        let (out, errors) = (out.text(), messages.text());
        if !status.success() {
            return Err(self.failed(&format!("failed ({status})"), &errors));
        }
        let scores: Vec<f64> = out
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| match line.trim().parse() {
                Ok(score) if f64::is_finite(score) => Ok(score),
                _ => Err(self.failed(&format!("printed \"{line}\", which is not a finite number"), &errors)),
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

    fn failed(&self, what: &str, messages: &str) -> Error {
        let messages = messages.trim();
        let start = messages.chars().count().saturating_sub(MOST_SHOWN);
        let shown: String = messages.chars().skip(start).collect();
        let said = if shown.is_empty() { String::new() } else { format!("; it said: {shown}") };
        Error::invalid(format!("the command `{}` {what}{said}", self.words.join(" ")), HELP)
    }
}

/// The output of a program on one of its pipes.
struct Heard {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Ends with the pipe.
    open: mpsc::Receiver<()>,
}

impl Heard {
    /// Reads a pipe to its end, on a thread of its own.
    fn on(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (held, open) = mpsc::channel();
        let to = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let _held: mpsc::Sender<()> = held;
            let mut part = [0; 1 << 12];
            while let Ok(count @ 1..) = pipe.read(&mut part) {
                to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&part[..count]);
            }
        });
        Self { bytes, open }
    }

    /// Waits for the end of the pipe. Returns false if it has not come by the deadline.
    fn has_ended(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        self.open.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Disconnected)
    }

    /// The text that has come so far.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// Ends a program and what it has started.
fn kill(child: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits for the end of a program; `None` if it has not come by the deadline.
fn exit_status(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        let status =
            child.try_wait().map_err(|error| Error::internal(format!("waiting for the command: {error}")))?;
        if status.is_some() || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(1));
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
    fn what_a_program_leaves_running_does_not_hold_up_the_run() {
        let clock = Instant::now();
        assert_eq!(run("sleep 20 >/dev/null & echo 1; echo 2", 10_000).unwrap(), [1.0, 2.0]);
        assert!(clock.elapsed() < Duration::from_secs(9));
    }

    #[test]
    fn a_failure_shows_what_the_program_said() {
        let error = |script: &str, timeout| run(script, timeout).unwrap_err().to_string();
        let failed = error("echo no model >&2; exit 3", 5000);
        assert!(failed.contains("exit status: 3") && failed.contains("it said: no model"), "{failed}");
        assert!(error("echo 1", 5000).contains("printed 1 scores for 2 generations"));
        assert!(error("echo 1; echo high", 5000).contains("printed \"high\", which is not a finite number"));
        assert!(error("echo 1; echo nan", 5000).contains("printed \"nan\""));
        let late = error("echo loading >&2; sleep 20", 200);
        assert!(late.contains("took longer than 0.2 s") && late.contains("it said: loading"), "{late}");
        // A program that has closed its output and does not end.
        assert!(error("echo 1; echo 2; exec >&-; sleep 20", 200).contains("took longer"));
        let absent = ScoreCommand { words: vec!["/nowhere/x".into()], timeout: Duration::from_secs(1) };
        assert!(absent.scores(&[]).unwrap_err().to_string().starts_with("/nowhere/x: starting the command"));
    }
}
