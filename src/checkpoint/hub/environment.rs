//! Folders, token and settings that the hub's environment variables give, read in the same way as huggingface_hub does.
//!
//! Source: huggingface_hub 1.0 to 2.4, `constants.py` and `utils/_auth.py`.

use std::env::{home_dir, var_os};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// The cache: HF_HUB_CACHE, or HUGGINGFACE_HUB_CACHE, or the `hub` folder of [`home`].
pub fn cache() -> PathBuf {
    let set = var_os("HF_HUB_CACHE").or_else(|| var_os("HUGGINGFACE_HUB_CACHE"));
    set.map_or_else(|| home().join("hub"), expanded)
}

/// The hub's folder: HF_HOME, or `huggingface` in XDG_CACHE_HOME or ~/.cache.
fn home() -> PathBuf {
    let other = || {
        let caches = var_os("XDG_CACHE_HOME").map_or_else(|| Path::new("~").join(".cache"), PathBuf::from);
        caches.join("huggingface").into_os_string()
    };
    expanded(var_os("HF_HOME").unwrap_or_else(other))
}

/// The token: HF_TOKEN, or the file that a login left in HF_HOME, wherever the cache is.
pub fn token() -> Option<String> {
    let cleaned = |token: String| Some(token.trim().to_owned()).filter(|token| !token.is_empty());
    let set = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(|name| std::env::var(name).ok());
    let file = || var_os("HF_TOKEN_PATH").map_or_else(|| home().join("token"), expanded);
    set.and_then(cleaned).or_else(|| std::fs::read_to_string(file()).ok().and_then(cleaned))
}

/// The variable that forbids the network; `None` where the network may be used.
pub fn offline() -> Option<&'static str> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| (name, value));
    let (name, value) = set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE"))?;
    ["1", "ON", "YES", "TRUE"].contains(&&*value.to_uppercase()).then_some(name)
}

/// A path with `~` and variables replaced, as a shell does it.
fn expanded(path: OsString) -> PathBuf {
    with_variables(with_home(PathBuf::from(path)))
}

fn with_home(path: PathBuf) -> PathBuf {
    let mut parts = path.components();
    let Some(Component::Normal(first)) = parts.next() else { return path };
    let home = match first.to_str().and_then(|first| first.strip_prefix('~')) {
        None => None,
        Some("") => home_dir(),
        Some(user) => home_of(user),
    };
    home.map(|home| home.join(parts.as_path())).unwrap_or(path)
}

/// The home directory of a user of this machine.
fn home_of(user: &str) -> Option<PathBuf> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter(|fields| fields.first() == Some(&user)).find_map(|fields| fields.get(5).map(PathBuf::from))
}

/// Replaces `$NAME` and `${NAME}`. Variables that are not set stay as they are.
fn with_variables(path: PathBuf) -> PathBuf {
    let Some(mut rest) = path.to_str().filter(|text| text.contains('$')) else { return path };
    let mut whole = OsString::new();
    while let Some((before, after)) = rest.split_once('$') {
        let (name, end) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some(named) => named,
            None => {
                let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
                after.split_at(after.bytes().take_while(is_name).count())
            }
        };
        whole.push(before);
        match var_os(name) {
            Some(value) => whole.push(value),
            None => whole.push(&rest[before.len()..rest.len() - end.len()]),
        }
        rest = end;
    }
    whole.push(rest);
    whole.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_and_variables_are_replaced() {
        let home = home_dir().unwrap();
        let of = |text: &str| expanded(text.into());
        assert_eq!(of("~"), home);
        assert_eq!(of("~/a/b"), home.join("a/b"));
        assert_eq!(of("a/~/b"), Path::new("a/~/b"));
        assert_eq!(of("./~"), Path::new("./~"));
        assert_eq!(of("~nobody_has_this_name/a"), Path::new("~nobody_has_this_name/a"));
        let path = var_os("PATH").unwrap();
        for (text, start, end) in [("$PATH", "", ""), ("a${PATH}b", "a", "b"), ("$$PATH/$", "$", "/$")] {
            let mut expected = OsString::from(start);
            expected.push(&path);
            expected.push(end);
            assert_eq!(of(text), PathBuf::from(expected), "{text}");
        }
        for same in ["", "a", "$", "${", "${QZO_NOT_SET}/x", "$QZO_NOT_SET", "a$/b"] {
            assert_eq!(of(same), Path::new(same));
        }
    }
}
