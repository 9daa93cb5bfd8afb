//! The paths in a source file, and the files that define the items to which they refer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::source::Token;

/// Segments of a path: `["crate", "zo", "direction", "Move"]`.
pub type Segments = Vec<String>;

/// The paths in one file.
#[derive(Debug, Default)]
pub struct Paths {
    /// Names that `use` declarations import, and their paths.
    imports: BTreeMap<String, Segments>,
    /// Names that `pub use` declarations re-export, and their paths.
    exports: BTreeMap<String, Segments>,
    /// All paths that are imported or used in code, without re-exports.
    pub named: Vec<Segments>,
}

impl Paths {
    pub fn of(tokens: &[Token]) -> Self {
        let mut paths = Self::default();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at].word() == Some("use") {
                let end = at + tokens[at..].iter().position(|t| t.is(';')).unwrap_or(tokens.len() - at);
                let is_public = at > 0 && (tokens[at - 1].word() == Some("pub") || tokens[at - 1].is(')'));
                for (segments, name) in tree(&tokens[at + 1..end]) {
                    if !is_public {
                        paths.named.push(segments.clone());
                    }
                    let known = if is_public { &mut paths.exports } else { &mut paths.imports };
                    known.insert(name, segments);
                }
                at = end;
            } else if tokens[at].word().is_some() && !follows_path(tokens, at) {
                let (segments, length) = path(&tokens[at..]);
                if segments.len() > 1 {
                    paths.named.push(segments);
                }
                at += length;
            } else {
                at += 1;
            }
        }
        let unresolved = std::mem::take(&mut paths.named);
        paths.named = unresolved.into_iter().map(|segments| paths.resolved(segments)).collect();
        paths
    }

    /// Replaces the first segment of a path by the path from which it was imported, for example `staging` in
    /// `staging::Staging`.
    fn resolved(&self, segments: Segments) -> Segments {
        match self.imports.get(&segments[0]) {
            Some(from) if segments.len() > 1 && !RELATIVE.contains(&&*segments[0]) => {
                [&from[..], &segments[1..]].concat()
            }
            _ => segments,
        }
    }
}

const RELATIVE: [&str; 3] = ["crate", "super", "self"];

fn follows_path(tokens: &[Token], at: usize) -> bool {
    at > 0 && (tokens[at - 1].is(':') || tokens[at - 1].is('.'))
}

/// Parses the path at the start of `tokens`. Returns its segments, and its number of tokens.
fn path(tokens: &[Token]) -> (Segments, usize) {
    let mut segments = vec![tokens[0].word().unwrap().to_owned()];
    let mut length = 1;
    while let [Token::Sign(':'), Token::Sign(':'), Token::Word(word), ..] = &tokens[length..] {
        segments.push(word.clone());
        length += 3;
    }
    (segments, length)
}

/// The leaves of a `use` tree: the path of each, and the name that it imports.
fn tree(tokens: &[Token]) -> Vec<(Segments, String)> {
    let mut leaves = Vec::new();
    collect(&[], tokens, &mut leaves);
    leaves
}

fn collect(prefix: &[String], tokens: &[Token], leaves: &mut Vec<(Segments, String)>) {
    let open = tokens.iter().position(|t| t.is('{'));
    let head = &tokens[..open.unwrap_or(tokens.len())];
    let words: Vec<String> = head.iter().filter_map(Token::word).map(str::to_owned).collect();
    let alias = words.iter().position(|word| word == "as");
    let mut segments = [prefix, &words[..alias.unwrap_or(words.len())]].concat();
    if let Some(open) = open {
        let inner = &tokens[open + 1..tokens.len() - 1];
        let mut depth = 0;
        for branch in inner.split(|token| {
            depth += i32::from(token.is('{')) - i32::from(token.is('}'));
            depth == 0 && token.is(',')
        }) {
            collect(&segments, branch, leaves);
        }
        return;
    }
    if tokens.is_empty() {
        return;
    }
    if segments.last().is_some_and(|last| last == "self") && segments.len() > 1 {
        segments.pop();
    }
    if tokens.last().is_some_and(|token| token.is('*')) {
        segments.push("*".into());
    }
    if let Some(name) = alias.map(|at| &words[at + 1]).or(segments.last()).cloned() {
        leaves.push((segments, name));
    }
}

/// The files of the crate, by their modules: `["zo", "journal"]` → `zo/journal/mod.rs`.
pub struct Modules<'a> {
    files: BTreeMap<Segments, (&'a Path, Paths)>,
}

impl<'a> Modules<'a> {
    pub fn new(files: impl Iterator<Item = (&'a Path, Paths)>) -> Self {
        Self { files: files.map(|(path, paths)| (module_of(path), (path, paths))).collect() }
    }

    /// The other files of the same top module from which a file imports.
    pub fn needs(&self, file: &Path) -> BTreeSet<PathBuf> {
        let module = module_of(file);
        let Some((_, paths)) = self.files.get(&module) else { return BTreeSet::new() };
        let found = paths.named.iter().filter_map(|segments| self.definition(segments, &module, 0));
        let others = found.filter(|other| other != file);
        others.filter(|other| module_of(other).first() == module.first()).collect()
    }

    /// The file that defines the item to which a path in the module `from` refers.
    fn definition(&self, segments: &[String], from: &[String], depth: usize) -> Option<PathBuf> {
        let (mut module, mut rest) = (from.to_vec(), segments);
        match rest.first()?.as_str() {
            "crate" => (module, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let is_child = self.files.contains_key(&[from, &[first.to_owned()]].concat());
                if !is_child {
                    return None;
                }
            }
        }
        while let Some(next) = rest.first() {
            let child = [&module[..], std::slice::from_ref(next)].concat();
            if !self.files.contains_key(&child) {
                break;
            }
            (module, rest) = (child, &rest[1..]);
        }
        let (path, paths) = self.files.get(&module)?;
        let exported = rest.first().and_then(|name| paths.exports.get(name));
        let source = exported.filter(|_| depth < 8);
        source.and_then(|source| self.definition(source, &module, depth + 1)).or(Some(path.to_path_buf()))
    }
}

/// The module of a file: `["zo", "journal"]` for `zo/journal/mod.rs`.
fn module_of(file: &Path) -> Segments {
    let mut parts: Segments =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if ["mod", "lib", "main"].contains(&parts.last().unwrap().as_str()) {
        parts.pop();
    }
    parts
}

/// The groups of files that import each other in a circle, where `needs` holds the imports of each file.
pub fn circles(needs: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<BTreeSet<PathBuf>> {
    let reached = |from: &PathBuf| {
        let (mut seen, mut unvisited) = (BTreeSet::new(), vec![from]);
        while let Some(file) = unvisited.pop() {
            for next in needs.get(file).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    unvisited.push(next);
                }
            }
        }
        seen
    };
    let reachable: BTreeMap<&PathBuf, BTreeSet<PathBuf>> =
        needs.keys().map(|file| (file, reached(file))).collect();
    let circle = |file: &PathBuf| -> BTreeSet<PathBuf> {
        reachable[file]
            .iter()
            .filter(|other| reachable.get(other).is_some_and(|back| back.contains(file)))
            .cloned()
            .collect()
    };
    let found: BTreeSet<BTreeSet<PathBuf>> =
        needs.keys().map(circle).filter(|circle| !circle.is_empty()).collect();
    found.into_iter().collect()
}
