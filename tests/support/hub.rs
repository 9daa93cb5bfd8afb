//! A hub on this machine, which serves files from memory over the part of the Hugging Face hub's HTTP that clients use.
//! It can break off in the middle of a file and ask for a token, and it records the requests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::Workplace;

/// Serves until it is dropped.
pub struct Hub {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

/// A request of a client.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub path: String,
    /// For example `bytes=0-`.
    pub range: Option<String>,
    /// For example `Bearer hf_…`.
    pub authorization: Option<String>,
}

#[derive(Default)]
struct Shared {
    is_closing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Files by repository, then by name.
    repositories: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Tokens by repository.
    tokens: BTreeMap<String, String>,
    longest: Option<usize>,
    /// ETags by name of the file.
    etags: BTreeMap<String, String>,
    /// The server that has the large files.
    store: Option<SocketAddr>,
    requests: Vec<Request>,
}

impl Hub {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::new(Shared::default()));
        let server = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&listener, &shared)
        });
        Self { address, shared, server: Some(server) }
    }

    /// Adds a file to `org/name`, `datasets/org/name`, or one of these at a revision (`org/name@revision`).
    pub fn put(&self, repository: &str, name: &str, content: impl Into<Vec<u8>>) {
        let mut state = self.state();
        state.repositories.entry(repository.into()).or_default().insert(name.into(), content.into());
    }

    /// Serves a repository only to clients with the token.
    pub fn gate(&self, repository: &str, token: &str) {
        self.state().tokens.insert(repository.into(), format!("Bearer {token}"));
    }

    /// Breaks off every longer body after some bytes, as a bad connection does.
    pub fn break_off_after(&self, bytes: usize) {
        self.state().longest = Some(bytes);
    }

    pub fn break_off_no_more(&self) {
        self.state().longest = None;
    }

    /// Announces files of a name by `etag`, which is the SHA-256 of a large file.
    pub fn announce(&self, name: &str, etag: &str) {
        self.state().etags.insert(name.into(), etag.into());
    }

    /// Redirects requests for weights to another server, as the hub does.
    pub fn store_weights_at(&self, other: &Self) {
        self.state().store = Some(other.address);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// The program, with this hub in place of the one on the network.
    pub fn command(&self, place: &Workplace) -> Command {
        let mut command = place.command();
        command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", format!("http://{}", self.address));
        for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(proxy).env_remove(proxy.to_uppercase());
        }
        command
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::Relaxed);
        // Wakes the server, which waits for a client.
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.is_closing.load(Ordering::Relaxed) {
            return;
        }
        let (Ok(client), shared) = (client, Arc::clone(shared)) else { continue };
        // Clients keep several connections open at a time. One that is closed early does not matter.
        std::thread::spawn(move || answer(&client, &shared));
    }
}

/// Answers the one request of a connection.
fn answer(mut client: &TcpStream, shared: &Shared) -> Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = read_request(client)?;
    let (response, longest) = {
        let mut state = shared.state.lock().unwrap();
        state.requests.push(request.clone());
        (state.response(&request), state.longest)
    };
    let Response { status, headers, body } = response;
    write!(client, "HTTP/1.1 {status} .\r\nConnection: close\r\nContent-Length: {}\r\n", body.len())?;
    for (name, value) in headers {
        write!(client, "{name}: {value}\r\n")?;
    }
    client.write_all(b"\r\n")?;
    client.write_all(&body[..longest.unwrap_or(usize::MAX).min(body.len())])?;
    client.flush()
}

fn read_request(client: &TcpStream) -> Result<Request> {
    let mut lines = BufReader::new(client).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let mut request = Request { path, ..Request::default() };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "range" => request.range = Some(value.to_string()),
            "authorization" => request.authorization = Some(value.to_string()),
            _ => {}
        }
    }
    Ok(request)
}

#[derive(Default)]
struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Response {
    fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

impl State {
    /// The name of a repository that is asked for by its commit.
    fn named(&self, asked: String) -> String {
        let (repository, commit) = asked.split_once('@').unwrap_or((&asked, ""));
        let mut names = self.repositories.keys();
        let found =
            names.find(|name| name.split('@').next() == Some(repository) && commit_of(name) == commit);
        found.cloned().unwrap_or(asked)
    }

    fn response(&self, request: &Request) -> Response {
        let path = request.path.trim_start_matches('/');
        let (repository, file) = match path.strip_prefix("api/") {
            Some(path) => {
                let (repository, revision) = path.split_once("/revision/").unwrap_or((path, "main"));
                (self.named(at(repository.trim_start_matches("models/"), revision)), None)
            }
            None => {
                let Some((repository, rest)) = path.split_once("/resolve/") else {
                    return Response::empty(400);
                };
                let (revision, file) = rest.split_once('/').unwrap_or((rest, ""));
                (self.named(at(repository, revision)), Some(file))
            }
        };
        let Some(files) = self.repositories.get(&repository) else { return Response::empty(404) };
        if self.tokens.get(&repository).is_some_and(|token| request.authorization.as_ref() != Some(token)) {
            return Response::empty(401);
        }
        // Each revision has its own commit, which stays the same when files are added.
        let commit = commit_of(&repository);
        let Some(file) = file else {
            let names: Vec<_> = files.keys().map(|name| json!({ "rfilename": name })).collect();
            let body = json!({ "sha": commit, "siblings": names }).to_string().into_bytes();
            return Response {
                status: 200,
                headers: vec![("Content-Type", "application/json".into())],
                body,
            };
        };
        let Some(content) = files.get(file) else { return Response::empty(404) };
        // As long as the hash of git, which is the ETag of small files.
        let etag = match self.etags.get(file) {
            Some(etag) => etag.clone(),
            None => blake3::hash(content).to_hex()[..40].to_string(),
        };
        let mut headers = vec![("X-Repo-Commit", commit)];
        if let Some(store) = self.store.filter(|_| file.ends_with(".safetensors") || file.ends_with(".gguf"))
        {
            headers.push(("X-Linked-Size", content.len().to_string()));
            headers.push(("X-Linked-ETag", format!("\"{etag}\"")));
            headers.push(("ETag", "\"of-this-answer\"".into()));
            headers.push(("Location", format!("http://localhost:{}{}", store.port(), request.path)));
            return Response { status: 302, headers, body: Vec::new() };
        }
        headers.push(("ETag", format!("\"{etag}\"")));
        match request.range.as_deref().map(|range| bytes(range, content.len())) {
            None => Response { status: 200, headers, body: content.clone() },
            Some(Some(range)) => {
                let said = format!("bytes {}-{}/{}", range.start, range.end - 1, content.len());
                headers.push(("Content-Range", said));
                Response { status: 206, headers, body: content[range].to_vec() }
            }
            Some(None) => Response::empty(416),
        }
    }
}

fn commit_of(repository: &str) -> String {
    blake3::hash(repository.as_bytes()).to_hex()[..40].to_string()
}

fn at(repository: &str, revision: &str) -> String {
    match revision {
        "main" => repository.to_string(),
        _ => format!("{repository}@{revision}"),
    }
}

/// The part of a body that `bytes=first-last` asks for; `None` if a body of this length has no such part.
fn bytes(range: &str, length: usize) -> Option<Range<usize>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse::<usize>().map_or(length, |last| last + 1));
    (first < length).then(|| first..last.min(length))
}
