use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::paths::{Modules, Paths, circles};
use crate::support::repository;
use crate::support::source::{Token, tokens, without_tests};

/// The modules in the order of `lib.rs`. A module imports only modules above it.
const MODULES: &[&str] = &[
    "error",
    "storage",
    "rng",
    "packed",
    "zo",
    "data",
    "device",
    "arch",
    "kernels",
    "quant",
    "checkpoint",
    "model",
    "quantize",
    "generate",
    "eval",
    "train",
    "config",
    "app",
    "cli",
];

fn height(module: &str) -> Option<usize> {
    MODULES.iter().position(|known| *known == module)
}

fn may_import(module: &str, other: &str) -> bool {
    module == other || height(other) < height(module)
}

struct SourceFile {
    /// Relative to `src/`.
    path: PathBuf,
    /// Without test code.
    tokens: Vec<Token>,
}

impl SourceFile {
    /// The top module of the file: `kernels` for `kernels/cpu/mod.rs` and for `kernels.rs`.
    fn module(&self) -> String {
        let first = self.path.components().next().unwrap().as_os_str().to_string_lossy();
        first.trim_end_matches(".rs").to_string()
    }

    /// Number of modules from the crate's root to the contents of this file.
    fn depth(&self) -> usize {
        let parts = self.path.components().count();
        if self.path.ends_with("mod.rs") { parts - 1 } else { parts }
    }

    /// First names of the paths that start at the crate's root, by `crate::` or by enough `super::`.
    fn imports(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        // `modules` holds the brace depth at which each enclosing inline module begins.
        let (mut braces, mut modules) = (0usize, Vec::new());
        let mut at = 0;
        while let Some(token) = self.tokens.get(at) {
            match token {
                Token::Sign('{') => {
                    let is_module = at >= 2 && self.tokens[at - 2].word() == Some("mod");
                    if is_module {
                        modules.push(braces);
                    }
                    braces += 1;
                }
                Token::Sign('}') => {
                    braces -= 1;
                    if modules.last() == Some(&braces) {
                        modules.pop();
                    }
                }
                Token::Word(word) if word == "crate" => collect_names(&self.tokens[at + 1..], &mut found),
                Token::Word(word) if word == "super" => {
                    let mut supers = 1;
                    while self.tokens.get(at + 3).and_then(Token::word) == Some("super") {
                        supers += 1;
                        at += 3;
                    }
                    if supers >= self.depth() + modules.len() {
                        collect_names(&self.tokens[at + 1..], &mut found);
                    }
                }
                _ => {}
            }
            at += 1;
        }
        found
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(Token::word)
    }

    fn is_under(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }
}

/// Collects the first name after `::`, or the first name of every branch of a `{…}`.
fn collect_names(after: &[Token], found: &mut BTreeSet<String>) {
    let [Token::Sign(':'), Token::Sign(':'), rest @ ..] = after else { return };
    match rest.first() {
        Some(Token::Word(name)) => {
            found.insert(name.clone());
        }
        Some(Token::Sign('{')) => {
            let mut depth = 0;
            for (at, token) in rest.iter().enumerate() {
                match token {
                    Token::Sign('{') => depth += 1,
                    Token::Sign('}') => depth -= 1,
                    Token::Word(name) if depth == 1 && (rest[at - 1].is('{') || rest[at - 1].is(',')) => {
                        found.insert(name.clone());
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
        }
        _ => {}
    }
}

fn source_files() -> Vec<SourceFile> {
    let root = repository().join("src");
    let mut texts = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(&root).unwrap().to_path_buf();
                texts.insert(relative, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut tests = Vec::new();
    let mut files = Vec::new();
    for (path, text) in texts {
        let (tokens, modules) = without_tests(&tokens(&text));
        tests.extend(modules.iter().flat_map(|(name, file)| test_files(&path, name, file.as_deref())));
        files.push(SourceFile { path, tokens });
    }
    files.retain(|file| !tests.iter().any(|test| file.path == *test || file.path.starts_with(test)));
    assert!(files.len() > 40, "only {} source files found", files.len());
    files
}

/// The possible paths of the module `name`, which `file` declares: its file, and the folder of its child modules.
/// `given` is the value of a `#[path]` attribute.
fn test_files(file: &Path, name: &str, given: Option<&str>) -> Vec<PathBuf> {
    let folder = file.parent().unwrap();
    let owns_folder = file.ends_with("mod.rs") || file.components().count() == 1 && file.ends_with("lib.rs");
    let modules = if owns_folder { folder.to_path_buf() } else { file.with_extension("") };
    match given {
        Some(given) => vec![folder.join(given)],
        None => vec![modules.join(format!("{name}.rs")), modules.join(name)],
    }
}

#[track_caller]
fn assert_none(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n  {}", offences.join("\n  "));
}

#[test]
fn every_module_imports_only_modules_above_it() {
    let mut offences = Vec::new();
    let mut seen = BTreeSet::new();
    for file in source_files() {
        let module = file.module();
        if ["main", "lib"].contains(&module.as_str()) {
            continue;
        }
        if height(&module).is_none() {
            offences.push(format!("{}: `{module}` is not in the list of modules", file.path.display()));
        }
        let imports = file.imports();
        // A name that is not a module would be an item of the crate's root, which defines only modules.
        let wrong = imports.iter().filter(|other| !may_import(&module, other));
        offences.extend(wrong.map(|other| format!("{}: imports `{other}`", file.path.display())));
        seen.insert(module);
    }
    assert_eq!(seen.len(), MODULES.len(), "{seen:?}");
    assert_none(offences);
}

#[test]
fn files_inside_a_module_do_not_import_each_other_in_a_circle() {
    let files = source_files();
    let modules = Modules::new(files.iter().map(|file| (&*file.path, Paths::of(&file.tokens))));
    let needs = files.iter().filter(|file| !["main", "lib"].contains(&file.module().as_str()));
    let needs: BTreeMap<_, _> = needs.map(|file| (file.path.clone(), modules.needs(&file.path))).collect();
    assert!(needs.values().map(BTreeSet::len).sum::<usize>() > 300, "too few imports were found");
    let describe = |circle: BTreeSet<PathBuf>| {
        let arrows = circle.iter().flat_map(|file| {
            needs[file]
                .intersection(&circle)
                .map(move |other| format!("{} → {}", file.display(), other.display()))
        });
        format!("a circle: {}", arrows.collect::<Vec<_>>().join(", "))
    };
    assert_none(circles(&needs).into_iter().map(describe).collect());
}

#[test]
fn only_storage_renames_and_syncs() {
    let mut seen = false;
    let mut offences = Vec::new();
    for file in source_files() {
        let renames = file.tokens.windows(4).any(|t| {
            t[0].word() == Some("fs") && t[1].is(':') && t[2].is(':') && t[3].word() == Some("rename")
        });
        // An unsafe call sets the length of a vector, not of a file.
        let is_unsafe = |at: usize| {
            let before = file.tokens[..at].iter().rposition(|t| !t.is('.') && t.word().is_none());
            before.is_some_and(|at| {
                at > 0 && file.tokens[at].is('{') && file.tokens[at - 1].word() == Some("unsafe")
            })
        };
        let syncs = ["sync_all", "sync_data", "set_len"].into_iter().filter(|call| {
            let mut calls = file.tokens.windows(2).enumerate();
            calls.any(|(at, t)| t[0].is('.') && t[1].word() == Some(call) && !is_unsafe(at))
        });
        let calls: Vec<&str> = renames.then_some("fs::rename").into_iter().chain(syncs).collect();
        seen |= !calls.is_empty();
        if !calls.is_empty() && !file.is_under("storage") {
            offences.push(format!("{}: {}", file.path.display(), calls.join(", ")));
        }
    }
    assert!(seen, "no call found at all");
    assert_none(offences);
}

/// A name has one meaning in the whole crate.
#[test]
fn names_of_public_types_are_unique() {
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for file in source_files() {
        for at in 0..file.tokens.len().saturating_sub(1) {
            let [Token::Word(kind), Token::Word(name)] = &file.tokens[at..at + 2] else { continue };
            let is_type = ["struct", "enum", "trait", "union"].contains(&kind.as_str())
                // A `type` without `pub` belongs to a trait or an implementation.
                || kind == "type" && at > 0 && (file.tokens[at - 1].word() == Some("pub") || file.tokens[at - 1].is(')'));
            let is_public =
                at > 0 && (file.tokens[at - 1].word() == Some("pub") || file.tokens[at - 1].is(')'));
            if is_type && is_public {
                places.entry(name.clone()).or_default().push(file.path.display().to_string());
            }
        }
    }
    assert!(places.len() > 200, "found only {} types", places.len());
    let twice = places.into_iter().filter(|(_, places)| places.len() > 1);
    assert_none(twice.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect());
}

/// The file of a command only converts its flags into a job of the library and prints the report.
#[test]
fn files_of_the_command_line_are_short() {
    let mut files: Vec<PathBuf> = source_files().into_iter().map(|file| file.path).collect();
    files.retain(|path| path.starts_with("cli"));
    assert!(files.len() > 10, "{files:?}");
    let lines = |path: &PathBuf| {
        let text = std::fs::read_to_string(repository().join("src").join(path)).unwrap();
        text.split("#[cfg(test)]").next().unwrap_or_default().lines().count()
    };
    let long = files.iter().map(|path| (path, lines(path))).filter(|(_, lines)| *lines >= 150);
    assert_none(long.map(|(path, lines)| format!("{}: {lines} lines", path.display())).collect());
}

#[test]
fn lib_rs_declares_the_modules_in_their_order() {
    let lib = std::fs::read_to_string(repository().join("src/lib.rs")).unwrap();
    let lib = tokens(&lib);
    let listed: Vec<&str> = lib
        .windows(2)
        .filter(|pair| pair[0].word() == Some("mod"))
        .filter_map(|pair| pair[1].word())
        .collect();
    assert_eq!(listed, MODULES);
}

#[test]
fn only_the_kernels_use_cubecl_and_simd() {
    let mut offences = Vec::new();
    for file in source_files().iter().filter(|file| !file.is_under("kernels")) {
        // The device module lists cubecl's adapters.
        let lists_adapters = file.module() == "device";
        let names = ["cubecl", "cubek", "burn_cubecl"]
            .into_iter()
            .filter(|name| !(lists_adapters && *name == "cubecl"));
        for name in names {
            if file.words().any(|word| word == name) {
                offences.push(format!("{}: uses {name}", file.path.display()));
            }
        }
        let arch = file.tokens.windows(4).any(|t| {
            matches!(t[0].word(), Some("std" | "core"))
                && t[1].is(':')
                && t[2].is(':')
                && t[3].word() == Some("arch")
        });
        if arch {
            offences.push(format!("{}: uses std::arch", file.path.display()));
        }
    }
    assert_none(offences);
}

#[test]
fn only_the_device_depends_on_the_backends_built_in() {
    let mut offences = Vec::new();
    let mut seen = false;
    for file in source_files() {
        let attributes = file.tokens.split(|token| token.is('#')).filter(|attribute| {
            attribute.windows(3).take(12).any(|t| {
                let [Token::Word(key), Token::Sign('='), Token::Text(name)] = t else { return false };
                key == "feature" && ["wgpu", "cuda", "vulkan"].contains(&name.as_str())
            })
        });
        let (count, path) = (attributes.count(), file.path.display().to_string());
        // In the kernels, features decide whether the cubecl kernels are built, and what only CUDA needs.
        let allowed = match path.as_str() {
            _ if file.module() == "device" => usize::MAX,
            "kernels/mod.rs" => 1,
            "kernels/cube/mod.rs" => 2,
            _ => 0,
        };
        seen |= count > 0;
        if count > allowed {
            offences.push(format!("{path}: {count} cfg(feature), {allowed} expected"));
        }
    }
    assert!(seen, "no cfg(feature) found at all");
    assert_none(offences);
}

#[test]
fn only_the_command_line_prints() {
    let macros = ["print", "println", "eprint", "eprintln", "dbg"];
    let mut offences = Vec::new();
    let mut seen = false;
    for file in source_files() {
        let calls = file.tokens.windows(2).filter(|t| t[1].is('!')).filter_map(|t| t[0].word());
        let streams =
            file.tokens.windows(4).filter(|t| t[0].word() == Some("io") && t[1].is(':') && t[2].is(':'));
        let mut printed = calls
            .filter(|word| macros.contains(word))
            .chain(streams.filter_map(|t| t[3].word()).filter(|word| ["stdout", "stderr"].contains(word)));
        let Some(call) = printed.next() else { continue };
        seen = true;
        if !file.is_under("cli") {
            offences.push(format!("{}: {call}", file.path.display()));
        }
    }
    assert!(seen, "no print found at all");
    assert_none(offences);
}

/// Tests the parser of this file: the tests above cannot check imports that it misses.
#[test]
fn imports_are_found_in_every_form() {
    let file = |path: &str, text: &str| {
        let (tokens, _) = without_tests(&tokens(text));
        SourceFile { path: path.into(), tokens }.imports().into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(file("a.rs", "use crate::b::{c, d}; // crate::x\nfn f() { crate::e::f() }"), "b e");
    assert_eq!(file("a.rs", "use crate::{b::{c, d}, e, self as z};"), "b e self");
    assert_eq!(file("a.rs", "const S: &str = \"crate::x\"; const C: char = '\"'; use crate::b;"), "b");
    assert_eq!(
        file("a.rs", "#[cfg(test)] mod tests { use crate::x; } pub(crate) fn f<'a>() { crate::b::c() }"),
        "b"
    );
    assert_eq!(file("a.rs", "#[cfg(test)]\npub fn f() { crate::x::y() }\nuse crate::b;"), "b");
    assert_eq!(file("a/mod.rs", "use super::b; mod m { use super::c; use super::super::d; }"), "b d");
    assert_eq!(file("a/c.rs", "use super::x; use super::super::b;"), "b");
    assert_eq!(file("a.rs", "r#\"crate::x \" \"#; '\\''; /* crate::y /* */ crate::z */ crate::b::c"), "b");
}
