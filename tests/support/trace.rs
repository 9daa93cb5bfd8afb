//! Finds files that a power cut could have damaged, from the system calls of a program as strace records them. A file
//! counts from the moment when a rename or a link gives it its name. By then its bytes must be on the disk, and soon
//! afterwards the directory with the name. Bytes are on the disk once an `fsync` or `fdatasync` that began after they
//! were written has ended; a name is on the disk once its directory is synced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::{Answer, required, skipped, tree};

const CALLS: &[&str] = &[
    "open",
    "openat",
    "creat",
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "copy_file_range",
    "sendfile",
    "splice",
    "ftruncate",
    "truncate",
    "fallocate",
    "mmap",
    "munmap",
    "msync",
    "fsync",
    "fdatasync",
    "syncfs",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "ioctl",
];

/// Whether system calls can be recorded here. If not, writes a line, or fails if `QZO_TEST_TOOLS` asks for strace.
pub fn has_strace() -> bool {
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        let log = tempfile::NamedTempFile::new().unwrap();
        let tried = strace(log.path()).args([ONLY_THESE, "true"]).output();
        tried.is_ok_and(|output| output.status.success())
    });
    assert!(*FOUND || !required("strace"), "strace is required here");
    if !*FOUND {
        skipped("the order of system calls: no strace that works");
    }
    *FOUND
}

/// Stops the program only at the calls of interest, which is faster. Signals cannot be injected with it.
const ONLY_THESE: &str = "--seccomp-bpf";

fn strace(log: &Path) -> Command {
    let calls: Vec<String> = CALLS.iter().map(|call| format!("?{call}")).collect();
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-qq", "-s", "64", "-e", "signal=none", "-e"]);
    command.arg(format!("trace={}", calls.join(","))).arg("-o").arg(log);
    command
}

/// Runs `command` to its end and judges its system calls below `root`, in which it runs.
pub fn run(command: &Command, root: &Path) -> (Answer, Verdict) {
    let root = root.canonicalize().unwrap();
    let there = paths(&root);
    let (answer, record) = record(command, &root);
    (answer, judge(&record, &root, there))
}

/// Every file and folder below `root`.
pub fn paths(root: &Path) -> BTreeSet<PathBuf> {
    let files = tree(root).into_keys().map(|name| root.join(name));
    files.flat_map(|path| path.ancestors().map(Path::to_path_buf).collect::<Vec<_>>()).collect()
}

/// The system calls of `command`.
pub fn record(command: &Command, root: &Path) -> (Answer, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut tracer = strace(log.path());
    tracer.arg(ONLY_THESE);
    let answer = Answer::of(&mut under(tracer, command, root));
    (answer, String::from_utf8_lossy(&std::fs::read(log.path()).unwrap()).into_owned())
}

/// Runs `command` until it is about to rename a file for the `nth` time, and kills it. Gives false if it ended before.
pub fn kill_at_rename(command: &Command, root: &Path, nth: usize) -> bool {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut tracer = strace(log.path());
    tracer.arg("-e").arg(format!("inject=?rename,?renameat,?renameat2:signal=KILL:when={nth}"));
    Answer::of(&mut under(tracer, command, root)).code != Some(0)
}

fn under(mut traced: Command, command: &Command, root: &Path) -> Command {
    traced.arg(command.get_program()).args(command.get_args()).stdin(std::process::Stdio::null());
    traced.current_dir(command.get_current_dir().unwrap_or(root));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    traced
}

/// The result of judging the system calls of a run.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Damage that a power cut could have done, one sentence each.
    pub faults: Vec<String>,
    /// Paths, relative to the root, whose names come from a rename or a link.
    pub published: BTreeSet<PathBuf>,
    /// All paths that were ever published.
    pub seen: BTreeSet<PathBuf>,
}

impl Verdict {
    /// Checks that nothing could have been lost, and that each of `names` was published.
    #[track_caller]
    pub fn is_durable(&self, names: &[&str]) {
        assert!(self.faults.is_empty(), "a power cut could have lost:\n{}", self.faults.join("\n"));
        for name in names {
            assert!(self.published.contains(Path::new(name)), "{name} is not in {:?}", self.published);
        }
    }
}

/// One system call, with the lines of the record at which it began and ended.
#[derive(Debug)]
struct Call {
    name: String,
    arguments: Vec<String>,
    result: String,
    begun: usize,
    ended: usize,
}

impl Call {
    fn succeeded(&self) -> bool {
        !self.result.is_empty() && !self.result.starts_with('-') && !self.result.starts_with('?')
    }

    /// The path of the file descriptor at an argument.
    fn file(&self, at: usize) -> Option<PathBuf> {
        descriptor(self.arguments.get(at)?)
    }

    /// The path at an argument, which follows a directory's descriptor if the call takes one.
    fn path(&self, at: usize, takes_directory: bool, root: &Path) -> Option<PathBuf> {
        let (base, text) = match takes_directory {
            true => (descriptor(self.arguments.get(at)?)?, self.arguments.get(at + 1)?),
            false => (root.to_path_buf(), self.arguments.get(at)?),
        };
        Some(plain(&base.join(text.trim_matches('"'))))
    }
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// The path in a text like `3</tmp/file>`.
fn descriptor(text: &str) -> Option<PathBuf> {
    let (_, path) = text.split_once('<')?;
    Some(PathBuf::from(path.rsplit_once('>')?.0))
}

/// The calls of a record, in the order in which they began; those that never ended are left out.
fn calls(record: &str) -> Vec<Call> {
    let (mut calls, mut unfinished) = (Vec::new(), BTreeMap::<String, (String, usize)>::new());
    for (at, line) in record.lines().enumerate() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(process.to_owned(), (begin.to_owned(), at));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((begin, begun)) = unfinished.remove(process) else { continue };
            let end = resumed.split_once(" resumed>").map_or("", |(_, end)| end);
            calls.extend(call(&format!("{begin}{end}"), begun, at));
        } else {
            calls.extend(call(rest, at, at));
        }
    }
    calls.sort_by_key(|call| call.begun);
    calls
}

fn call(text: &str, begun: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, rest) = arguments(rest)?;
    let result = rest.trim_start().strip_prefix('=')?.trim().to_owned();
    Some(Call { name: name.into(), arguments, result, begun, ended })
}

/// The arguments up to the closing parenthesis, and the text after it.
fn arguments(text: &str) -> Option<(Vec<String>, &str)> {
    let (mut all, mut one, mut depth, mut quoted, mut escaped) = (vec![], String::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if quoted => {
                quoted = c != '"' || escaped;
                escaped = c == '\\' && !escaped;
            }
            '"' => quoted = true,
            ')' if depth == 0 => {
                all.push(one.trim().to_owned());
                return Some((all, &text[at + 1..]));
            }
            ',' if depth == 0 => {
                all.push(one.trim().to_owned());
                one.clear();
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        one.push(c);
    }
    None
}

/// Times of a file, counted in changes.
#[derive(Debug, Default, Clone, Copy)]
struct Bytes {
    changed: u64,
    durable: u64,
    /// The last change that must be on the disk before a run takes another step.
    awaited: u64,
}

struct Disk<'a> {
    root: &'a Path,
    there: BTreeSet<PathBuf>,
    time: u64,
    files: BTreeMap<PathBuf, Bytes>,
    /// Names that are not on the disk yet, with the time of each.
    names: BTreeMap<PathBuf, u64>,
    /// Shared maps that can be written through: their addresses and files.
    maps: BTreeMap<String, PathBuf>,
    verdict: Verdict,
}

pub fn judge(record: &str, root: &Path, there: BTreeSet<PathBuf>) -> Verdict {
    let calls = calls(record);
    let mut moments: Vec<(usize, bool, usize)> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        moments.push((call.begun, false, at));
        moments.push((call.ended, true, at));
    }
    moments.sort_unstable();
    let mut disk = Disk {
        root,
        there,
        time: 0,
        files: BTreeMap::new(),
        names: BTreeMap::new(),
        maps: BTreeMap::new(),
        verdict: Verdict::default(),
    };
    // The time at which each sync began. Bytes that were written later are not covered by it.
    let mut begun = BTreeMap::new();
    for (_, is_end, at) in moments {
        let call = &calls[at];
        if !call.succeeded() {
            continue;
        }
        match is_end {
            false => {
                begun.insert(at, disk.time);
                disk.begins(call);
            }
            true => disk.ends(call, begun[&at]),
        }
    }
    disk.ended();
    disk.verdict
}

impl Disk<'_> {
    fn is_within(&self, path: &Path) -> bool {
        path.starts_with(self.root) && !path.to_string_lossy().ends_with("(deleted)")
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
    }

    fn fault(&mut self, text: String) {
        if !self.verdict.faults.contains(&text) {
            self.verdict.faults.push(text);
        }
    }

    /// The two paths of a rename.
    fn renamed(&self, call: &Call) -> Option<(PathBuf, PathBuf)> {
        let at = call.name != "rename";
        let from = call.path(0, at, self.root)?;
        let to = call.path(if at { 2 } else { 1 }, at, self.root)?;
        (self.is_within(&from) || self.is_within(&to)).then_some((from, to))
    }

    fn begins(&mut self, call: &Call) {
        match call.name.as_str() {
            "rename" | "renameat" | "renameat2" => {
                if let Some((from, to)) = self.renamed(call) {
                    self.is_published(&from, &to);
                }
            }
            "unlink" | "unlinkat" | "rmdir" => {
                if let Some(path) = call.path(0, call.name == "unlinkat", self.root) {
                    self.is_removed(&path);
                }
            }
            "write" | "pwrite64" | "writev" => {
                if let Some(path) = call.file(0).filter(|path| self.is_within(path)) {
                    self.is_appended(&path);
                }
            }
            _ => {}
        }
    }

    /// A file may only be removed once the names of the files in its place are on the disk.
    fn is_removed(&mut self, path: &Path) {
        let is_published = |name: &Path| self.verdict.published.contains(&relative(self.root, name));
        let waiting: Vec<PathBuf> = self
            .names
            .keys()
            .filter(|name| self.is_within(path) && is_published(name) && !name.starts_with(path))
            .cloned()
            .collect();
        for name in waiting {
            let (path, name) = (self.shown(path), self.shown(&name));
            self.fault(format!("{path} is removed before the name {name} is on the disk"));
        }
    }

    /// A record in one file may only say that other files are written once they are on the disk.
    fn is_appended(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "journal" {
            let bytes = self.files.get(path).copied().unwrap_or_default();
            if bytes.changed > bytes.durable {
                let path = self.shown(path);
                self.fault(format!("{path}: the next record is written before the last one is on the disk"));
            }
            let waiting: Vec<PathBuf> =
                self.files.iter().filter(|(_, b)| b.awaited > b.durable).map(|(p, _)| p.clone()).collect();
            for path in waiting {
                let path = self.shown(&path);
                self.fault(format!("{path}: an evaluation is not on the disk when the next step is taken"));
            }
        }
        if let Some(of) = name.strip_suffix(".written") {
            let of = path.with_file_name(of);
            let bytes = self.files.get(&of).copied().unwrap_or_default();
            if bytes.durable == 0 || self.names.contains_key(&of) {
                let path = self.shown(&of);
                self.fault(format!("{path}: parts are entered as written that are not on the disk"));
            }
        }
    }

    /// A published file or folder must be on the disk with everything in it.
    fn is_published(&mut self, from: &Path, to: &Path) {
        let dirty: Vec<PathBuf> = self
            .files
            .iter()
            .filter(|(path, bytes)| path.starts_with(from) && bytes.changed > bytes.durable)
            .map(|(path, _)| path.clone())
            .collect();
        for path in dirty {
            let (path, to) = (self.shown(&path), self.shown(to));
            self.fault(format!("{path} is not on the disk when it becomes {to}"));
        }
        // A ref in the hub's cache stands for the files in the other folders of the same repository.
        let stands_for = to.ancestors().find(|above| above.ends_with("refs")).and_then(Path::parent);
        let parts = stands_for.map(|folder| [folder.join("snapshots"), folder.join("blobs")]);
        let is_part = |path: &Path| {
            let is_lock = path.extension().is_some_and(|extension| extension == "lock");
            parts.iter().flatten().any(|part| path.starts_with(part)) && !is_lock
        };
        let names: Vec<PathBuf> = self
            .names
            .keys()
            .filter(|name| name.starts_with(from) && *name != from || is_part(name))
            .cloned()
            .collect();
        for name in names {
            let (name, to) = (self.shown(&name), self.shown(to));
            self.fault(format!("the name {name} is not on the disk when it becomes part of {to}"));
        }
    }

    fn changed(&mut self, path: &Path) {
        if self.is_within(path) {
            self.time += 1;
            self.files.entry(path.to_path_buf()).or_default().changed = self.time;
        }
    }

    fn named(&mut self, path: &Path) {
        if self.is_within(path) {
            self.time += 1;
            self.names.insert(path.to_path_buf(), self.time);
        }
    }

    fn ends(&mut self, call: &Call, begun: u64) {
        let at = call.name.ends_with("at");
        match call.name.as_str() {
            "open" | "openat" | "creat" => {
                let flags = call.arguments.get(if call.name == "openat" { 2 } else { 1 });
                let flags = flags.map_or("O_CREAT|O_TRUNC", String::as_str);
                let Some(path) = descriptor(&call.result).filter(|path| self.is_within(path)) else { return };
                if flags.contains("O_CREAT") && self.there.insert(path.clone()) {
                    self.named(&path);
                    self.changed(&path);
                } else if flags.contains("O_TRUNC") {
                    self.changed(&path);
                }
            }
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "ftruncate" | "fallocate" => {
                let Some(path) = call.file(0) else { return };
                self.changed(&path);
                let is_evaluation = path.ends_with("metrics.jsonl") && call.arguments[1].contains("eval_nll");
                if let Some(bytes) = self.files.get_mut(&path).filter(|_| is_evaluation) {
                    bytes.awaited = bytes.changed;
                }
            }
            // These write to the second descriptor, `sendfile` to the first.
            "copy_file_range" | "splice" => call.file(2).iter().for_each(|path| self.changed(path)),
            "sendfile" => call.file(0).iter().for_each(|path| self.changed(path)),
            "ioctl" if call.arguments.get(1).is_some_and(|what| what.contains("CLONE")) => {
                call.file(0).iter().for_each(|path| self.changed(path));
            }
            "mmap" if call.arguments.len() == 6 => {
                let is_written =
                    call.arguments[2].contains("PROT_WRITE") && call.arguments[3].contains("MAP_SHARED");
                if let Some(path) = call.file(4).filter(|path| is_written && self.is_within(path)) {
                    self.changed(&path);
                    self.maps.insert(call.result.clone(), path);
                }
            }
            // The time at which the map was written through is not known.
            "munmap" => {
                if let Some(path) = self.maps.remove(&call.arguments[0]) {
                    self.changed(&path);
                }
            }
            "msync" => {
                if let Some(path) = self.maps.get(&call.arguments[0]).cloned() {
                    self.synced(&path, begun);
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(path) = call.file(0) {
                    self.synced(&path, begun);
                }
            }
            "syncfs" => {
                let all: Vec<PathBuf> = self.files.keys().cloned().collect();
                all.iter().for_each(|path| self.synced(path, begun));
                self.names.retain(|_, since| *since > begun);
            }
            "mkdir" | "mkdirat" => {
                let path = call.path(0, at, self.root);
                if let Some(path) = path.filter(|path| self.is_within(path)) {
                    self.there.insert(path.clone());
                    self.named(&path);
                }
            }
            "rename" | "renameat" | "renameat2" => {
                if let Some((from, to)) = self.renamed(call) {
                    self.moves(&from, &to);
                }
            }
            "link" | "linkat" | "symlink" | "symlinkat" => {
                let (place, takes_directory) = match call.name.as_str() {
                    "linkat" => (2, true),
                    "symlinkat" => (1, true),
                    _ => (1, false),
                };
                let path = call.path(place, takes_directory, self.root);
                if let Some(path) = path.filter(|path| self.is_within(path)) {
                    self.there.insert(path.clone());
                    self.named(&path);
                    self.verdict.published.insert(relative(self.root, &path));
                    self.verdict.seen.insert(relative(self.root, &path));
                }
            }
            "unlink" | "unlinkat" | "rmdir" => {
                if let Some(path) = call.path(0, call.name == "unlinkat", self.root) {
                    self.there.remove(&path);
                    self.files.remove(&path);
                    self.names.remove(&path);
                    self.verdict.published.remove(&relative(self.root, &path));
                }
            }
            _ => {}
        }
    }

    fn synced(&mut self, path: &Path, begun: u64) {
        if let Some(bytes) = self.files.get_mut(path) {
            // A change during the sync counts as later than its beginning.
            bytes.durable = bytes.durable.max(begun.min(bytes.changed));
        }
        self.names.retain(|name, since| name.parent() != Some(path) || *since > begun);
    }

    fn moves(&mut self, from: &Path, to: &Path) {
        let moved = |path: &Path| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => Some(to.to_path_buf()),
            Ok(rest) => Some(to.join(rest)),
            Err(_) => None,
        };
        self.files.remove(to);
        for (path, bytes) in std::mem::take(&mut self.files) {
            self.files.insert(moved(&path).unwrap_or(path), bytes);
        }
        self.names.remove(from);
        for (path, since) in std::mem::take(&mut self.names) {
            self.names.insert(moved(&path).unwrap_or(path), since);
        }
        self.there = self.there.iter().map(|path| moved(path).unwrap_or_else(|| path.clone())).collect();
        let published = std::mem::take(&mut self.verdict.published);
        let root = self.root;
        let renamed =
            published.into_iter().map(|name| moved(&root.join(&name)).map_or(name, |to| relative(root, &to)));
        self.verdict.published = renamed.collect();
        self.verdict.published.insert(relative(root, to));
        self.verdict.seen.insert(relative(root, to));
        self.named(to);
    }

    /// At the end everything must be on the disk, apart from files that are never read again.
    fn ended(&mut self) {
        let is_exempt = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name == "lock" || name.ends_with(".lock") || name == "metrics.jsonl"
        };
        let dirty: Vec<PathBuf> =
            self.files.iter().filter(|(_, b)| b.changed > b.durable).map(|(p, _)| p.clone()).collect();
        for path in dirty.iter().filter(|path| !is_exempt(path)) {
            let path = self.shown(path);
            self.fault(format!("{path} is not on the disk at the end"));
        }
        let names: Vec<PathBuf> = self.names.keys().cloned().collect();
        for path in names.iter().filter(|path| !is_exempt(path)) {
            let path = self.shown(path);
            self.fault(format!("the name {path} is not on the disk at the end"));
        }
    }
}

fn relative(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_path_buf()
}
