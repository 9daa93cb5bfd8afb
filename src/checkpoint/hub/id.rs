//! Names of repositories, revisions and files on the hub.

/// Whether a part of an id, a path or a URL has no special meaning in any of them.
pub fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
}

/// A repository, a revision of it, and perhaps one of its files.
#[derive(Debug, PartialEq, Eq)]
pub struct HubId {
    pub repo: String,
    pub revision: String,
    pub file: Option<String>,
}

impl HubId {
    /// The id as it was given, without the file.
    pub fn name(&self) -> String {
        match self.revision.as_str() {
            "main" => self.repo.clone(),
            revision => format!("{}@{revision}", self.repo),
        }
    }

    /// Parses an id; `None` where the text is none. Only files with one of the `endings` can be named. A revision before a
    /// file has one part, or three where it begins with `refs`; `%2F` stands for a `/` in it.
    pub fn parse(text: &str, endings: &[&str]) -> Option<Self> {
        let is_file = |text: &str| endings.iter().any(|ending| text.ends_with(ending));
        let (org, rest) = text.split_once('/')?;
        let (name, revision, file) = match rest.split_at(rest.find(['@', '/']).unwrap_or(rest.len())) {
            (name, "") => (name, "main", None),
            (name, rest) if rest.starts_with('/') => (name, "main", Some(&rest[1..])),
            (name, rest) if is_file(rest) => {
                let parts = if rest.starts_with("@refs/") { 3 } else { 1 };
                let slash = rest.match_indices('/').nth(parts - 1);
                let (revision, file) = rest.split_at(slash.map_or(rest.len(), |(at, _)| at));
                (name, &revision[1..], file.strip_prefix('/'))
            }
            (name, rest) => (name, &rest[1..], None),
        };
        let revision = revision.replace("%2F", "/").replace("%2f", "/");
        let is_ok = is_plain(org)
            && is_plain(name)
            && revision.split('/').all(|part| is_plain(&part.replace(['+', '='], "-")))
            && file.is_none_or(|file| is_file(file) && file.split('/').all(is_plain));
        is_ok.then(|| Self { repo: format!("{org}/{name}"), revision, file: file.map(str::to_string) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(repo: &str, revision: &str, file: Option<&str>) -> Option<HubId> {
        Some(HubId { repo: repo.into(), revision: revision.into(), file: file.map(Into::into) })
    }

    #[test]
    fn hub_ids_name_a_repository_a_revision_or_a_file() {
        assert_eq!(HubId::parse("org/name", &[".gguf"]), id("org/name", "main", None));
        assert_eq!(HubId::parse("org/name@v1.0", &[".gguf"]), id("org/name", "v1.0", None));
        assert_eq!(
            HubId::parse("org/name/x.Q4_0.gguf", &[".gguf"]),
            id("org/name", "main", Some("x.Q4_0.gguf"))
        );
        for (text, revision, file) in [
            ("org/name@refs/pr/1", "refs/pr/1", None),
            ("org/name@a/b/c", "a/b/c", None),
            ("org/name@a%2Fb/x.gguf", "a/b", Some("x.gguf")),
            ("org/name@v1/sub/x.gguf", "v1", Some("sub/x.gguf")),
            ("org/name@refs/pr/1/sub/x.gguf", "refs/pr/1", Some("sub/x.gguf")),
            ("org/name@refs/pr/x.gguf", "refs/pr/x.gguf", None),
            ("org/name@x.gguf", "x.gguf", None),
            ("org/name@v1.0+fp16", "v1.0+fp16", None),
        ] {
            assert_eq!(HubId::parse(text, &[".gguf"]), id("org/name", revision, file), "{text}");
        }
        for not in
            ["org/name@", "org/name@/x", "org/name@a//b", "org/name@../x", "org/name@a/../b", "org/@v1"]
        {
            assert_eq!(HubId::parse(not, &[".gguf"]), None, "{not}");
        }
        for not in
            ["name", "./name", "/abs/path", "org/", "../x", "org/name/config.json", "a/../b.gguf", "a b/c"]
        {
            assert_eq!(HubId::parse(not, &[".gguf"]), None, "{not}");
        }
    }
}
