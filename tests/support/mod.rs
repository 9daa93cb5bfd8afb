//! A directory to work in, the program under test, and its answers.

pub mod gguf;
pub mod hub;
pub mod paths;
pub mod schema;
pub mod source;
pub mod trace;
pub mod training;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub const QZO: &str = match option_env!("CARGO_BIN_EXE_qzo") {
    Some(path) => path,
    None => panic!("cargo tells integration tests where the binary is"),
};

/// Longest time that a command may take. Every command of these tests takes seconds.
const LONGEST: Duration = Duration::from_secs(60);

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file or directory of `tests/fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    let path = repository().join("tests/fixtures").join(name);
    assert!(path.exists(), "no fixture {name}");
    path
}

/// A directory of a test's own. Commands run inside it, so that relative paths are in it.
pub struct Workplace(TempDir);

impl Workplace {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The program in this directory, without network and without the caller's settings.
    pub fn command(&self) -> Command {
        self.wrapped(QZO)
    }

    /// `program`, prepared as [`Workplace::command`] prepares the program under test.
    pub fn wrapped(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.0.path()).stdin(std::process::Stdio::null());
        for (name, _) in std::env::vars_os() {
            let of_caches = ["HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "TRANSFORMERS_OFFLINE"];
            if name.to_string_lossy().starts_with("HF_") || of_caches.iter().any(|cache| name == *cache) {
                command.env_remove(name);
            }
        }
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("hf-home"));
        // Mesa's layer for choosing a device looks for a Wayland display and warns without this variable.
        command.env("XDG_RUNTIME_DIR", self.0.path());
        command
    }

    /// Runs the program to its end.
    pub fn qzo<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Answer {
        Answer::of(self.command().args(args))
    }

    /// Runs a line of bash.
    pub fn shell(&self, line: &str) -> Answer {
        Answer::of(self.wrapped("bash").args(["-c", line]))
    }

    /// Runs the program with the words of `line`, which hold no spaces, and then `rest`.
    pub fn run(&self, line: &str, rest: &[&OsStr]) -> Answer {
        self.qzo(line.split_whitespace().map(OsStr::new).chain(rest.iter().copied()))
    }
}

/// The output of a process and its exit code.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// Runs `command` to its end. A command that takes too long is killed and fails the test.
    pub fn of(command: &mut Command) -> Self {
        let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + LONGEST;
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let text = |file: &mut std::fs::File| {
            let mut text = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut text)).unwrap();
            text
        };
        let (stdout, stderr) = (text(&mut stdout), text(&mut stderr));
        let Some(status) = status else { panic!("{command:?} hangs; it wrote: {stdout}{stderr}") };
        Self { code: status.code(), stdout, stderr }
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// The JSON object on stdout, which must hold nothing else.
    #[track_caller]
    pub fn json(self) -> Value {
        let answer = self.succeeded();
        let value: Value =
            serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:#?}"));
        assert!(value.is_object(), "{answer:#?}");
        value
    }

    /// Checks for exit code 1, one error of one line that contains all of `parts`, and no result on stdout.
    #[track_caller]
    pub fn refused(self, parts: &[&str]) -> Self {
        self.failed_with(1, parts)
    }

    #[track_caller]
    pub fn failed_with(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let errors: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error:")).collect();
        assert_eq!(errors.len(), 1, "expected one error: {self:#?}");
        for part in parts {
            assert!(errors[0].contains(part), "`{part}` is missing in: {}", errors[0]);
        }
        for word in ["panicked", "failed unexpectedly", "RUST_BACKTRACE"] {
            assert!(!self.stderr.contains(word), "{self:#?}");
        }
        assert_eq!(self.stdout, "", "a failure has no result: {self:#?}");
        self
    }
}

/// Every file below `directory` with its bytes; none if there is no such directory.
pub fn tree(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                files.insert(path.strip_prefix(directory).unwrap().to_path_buf(), bytes);
            }
        }
    }
    files
}

/// Fails with the names of files that differ, not with all their bytes.
#[track_caller]
pub fn assert_same_files(expected: &Path, got: &Path) {
    assert_same_tree(&tree(expected), &tree(got), &format!("{} and {}", expected.display(), got.display()));
}

#[track_caller]
pub fn assert_same_tree(expected: &BTreeMap<PathBuf, Vec<u8>>, got: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
    assert!(!expected.is_empty(), "{what}: nothing to compare");
    let names = |tree: &BTreeMap<PathBuf, Vec<u8>>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(got), "{what}: other files");
    for (name, bytes) in expected {
        let first = bytes.iter().zip(&got[name]).position(|(a, b)| a != b);
        assert!(bytes == &got[name], "{what}: {} differs, first at {first:?}", name.display());
    }
}

pub fn copy_tree(from: &Path, to: &Path) {
    for (name, bytes) in tree(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Whether tests of `device` can run here. If not, writes a line past the capture of test output, or fails if
/// `QZO_TEST_DEVICES` (as in "wgpu,cuda") asks for the device.
pub fn has_device(device: &str) -> bool {
    static WGPU: LazyLock<Result<(), String>> = LazyLock::new(|| probe("wgpu"));
    static CUDA: LazyLock<Result<(), String>> = LazyLock::new(|| probe("cuda"));
    let found = match device {
        "cpu" => return true,
        "wgpu" => &*WGPU,
        "cuda" => &*CUDA,
        other => panic!("no device {other}"),
    };
    let Err(reason) = found else { return true };
    let required = std::env::var("QZO_TEST_DEVICES").unwrap_or_default();
    assert!(!required.split(',').any(|d| d.trim() == device), "{device} is required here: {reason}");
    skipped(&format!("on {device}: {reason}"));
    false
}

/// Scores one token on the device. Only "not usable" and "built without" count as its absence.
fn probe(device: &str) -> Result<(), String> {
    let place = Workplace::new();
    let rows = place.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n");
    let model = fixture("llama/base");
    let line = format!("eval --json --device {device}");
    let answer = place.run(&line, &[model.as_ref(), "--score".as_ref(), rows.as_ref()]);
    let absent = answer.stderr.contains("not usable") || answer.stderr.contains("built without");
    match answer.code {
        Some(1) if absent => Err(answer.stderr.lines().next().unwrap_or_default().to_string()),
        _ => answer.succeeded().json().is_object().then_some(()).ok_or_else(String::new),
    }
}

/// Whether `QZO_TEST_TOOLS` (as in "strace,chromium") asks for the tool, so that its absence is a failure.
pub fn required(tool: &str) -> bool {
    let required = std::env::var("QZO_TEST_TOOLS").unwrap_or_default();
    required.split(',').any(|name| name.trim() == tool)
}

/// Writes a line past the capture of test output.
pub fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}");
}

/// Pseudorandom numbers for a test: a linear congruential generator with Knuth's MMIX constants.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to `limit - 1`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
