//! Enough of Rust's syntax to see the names in a file: comments and test code are removed, strings stay whole.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

impl Token {
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }

    pub fn is(&self, sign: char) -> bool {
        *self == Self::Sign(sign)
    }
}

/// Tokens of a source file.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let (token, length) = match rest {
            ['/', '/', ..] => (None, rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())),
            ['/', '*', ..] => (None, block_comment(rest)),
            ['"', ..] => text(rest, 1),
            ['b', '"', ..] => text(rest, 2),
            ['r', '"' | '#', ..] if raw_hashes(&rest[1..]).is_some() => raw_text(rest, 1),
            ['b', 'r', '"' | '#', ..] if raw_hashes(&rest[2..]).is_some() => raw_text(rest, 2),
            ['\'', ..] => (None, character_or_lifetime(rest)),
            [c, ..] if c.is_alphanumeric() || *c == '_' => {
                let word: String = rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
                let length = word.chars().count();
                (Some(Token::Word(word)), length)
            }
            [c, ..] if c.is_whitespace() => (None, 1),
            [c, ..] => (Some(Token::Sign(*c)), 1),
            [] => break,
        };
        tokens.extend(token);
        at += length;
    }
    tokens
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// A string literal whose opening quote ends at `start`.
fn text(rest: &[char], start: usize) -> (Option<Token>, usize) {
    let mut end = start;
    while end < rest.len() && rest[end] != '"' {
        end += if rest[end] == '\\' { 2 } else { 1 };
    }
    (Some(Token::Text(rest[start..end.min(rest.len())].iter().collect())), end + 1)
}

fn raw_hashes(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    (rest.get(hashes) == Some(&'"')).then_some(hashes)
}

fn raw_text(rest: &[char], prefix: usize) -> (Option<Token>, usize) {
    let hashes = raw_hashes(&rest[prefix..]).unwrap_or(0);
    let start = prefix + hashes + 1;
    let closes = |at: usize| rest[at] == '"' && rest[at + 1..].iter().take(hashes).all(|c| *c == '#');
    let end = (start..rest.len()).find(|at| closes(*at)).unwrap_or(rest.len());
    (Some(Token::Text(rest[start..end].iter().collect())), end + 1 + hashes)
}

/// Length of `'a'` or `'\n'`, or of the sign alone in `'static`.
fn character_or_lifetime(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', ..] => rest[3..].iter().position(|c| *c == '\'').map_or(rest.len(), |end| end + 4),
        ['\'', _, '\'', ..] => 3,
        _ => 1,
    }
}

/// The tokens without the items under `#[cfg(test)]`, and the removed modules that are in files of their own: their
/// names, and the path that `#[path]` gives.
pub fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<(String, Option<String>)>) {
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        if !starts_cfg_test(&tokens[at..]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let item = &tokens[at..at + item_length(&tokens[at..])];
        at += item.len();
        if let Some(position) = item.iter().position(|t| t.word() == Some("mod"))
            && item.last().is_some_and(|t| t.is(';'))
        {
            let path = item.windows(3).find_map(|t| match t {
                [Token::Word(word), Token::Sign('='), Token::Text(path)] if word == "path" => {
                    Some(path.clone())
                }
                _ => None,
            });
            modules.extend(item.get(position + 1).and_then(Token::word).map(|name| (name.to_string(), path)));
        }
    }
    (kept, modules)
}

fn starts_cfg_test(tokens: &[Token]) -> bool {
    let words = tokens.iter().take(7).map(|t| match t {
        Token::Word(word) => word.clone(),
        Token::Text(text) => format!("{text:?}"),
        Token::Sign(sign) => sign.to_string(),
    });
    words.eq(["#", "[", "cfg", "(", "test", ")", "]"])
}

/// Number of tokens of an item: its attributes, and everything up to a `;` or the `}` of its first braces.
fn item_length(tokens: &[Token]) -> usize {
    let mut depth = 0i32;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']') => depth -= 1,
            Token::Sign('}') => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            Token::Sign(';') if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}
