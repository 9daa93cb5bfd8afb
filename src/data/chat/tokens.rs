//! The tokens of a template's tags, and trees of them, in which brackets are nodes.

/// Length of the tag at the start of `text`. It ends with the first `close` outside of strings and brackets.
pub fn end(text: &str, close: &str) -> Option<usize> {
    let mut at = 2;
    let mut depth = 0usize;
    while at < text.len() {
        let rest = &text[at..];
        if depth == 0 && rest.starts_with(close) {
            return Some(at + close.len());
        }
        let token = token(rest);
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += token.len();
    }
    None
}

/// All tokens of `text`, white space included.
pub fn tokens(mut text: &str) -> Vec<&str> {
    let mut all = Vec::new();
    while !text.is_empty() {
        let token = token(text);
        all.push(token);
        text = &text[token.len()..];
    }
    all
}

/// The first token of a text that is not empty.
fn token(text: &str) -> &str {
    let length_while = |is: fn(char) -> bool| text.find(|c| !is(c)).unwrap_or(text.len());
    let first = text.chars().next().unwrap_or_default();
    let len = match first {
        '\'' | '"' => text_literal(text, first),
        c if c.is_whitespace() => length_while(char::is_whitespace),
        c if c.is_ascii_digit() => number(text),
        c if is_name(c) => length_while(is_name),
        c if ["**", "//", "==", "!=", "<=", ">="].iter().any(|sign| text.starts_with(sign)) => {
            2 * c.len_utf8()
        }
        c => c.len_utf8(),
    };
    &text[..len]
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn number(text: &str) -> usize {
    let digits = |from: usize| from + text[from..].find(|c| !is_name(c)).unwrap_or(text.len() - from);
    let whole = digits(0);
    let has_fraction =
        text[whole..].starts_with('.') && text[whole + 1..].starts_with(|c: char| c.is_ascii_digit());
    if has_fraction { digits(whole + 1) } else { whole }
}

fn text_literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A token, or a pair of brackets with the nodes between them.
pub enum Node<'s> {
    Leaf(&'s str),
    Group(&'s str, Vec<Node<'s>>, &'s str),
}

impl<'s> Node<'s> {
    pub fn text(&self) -> &'s str {
        match self {
            Self::Leaf(token) | Self::Group(token, ..) => token,
        }
    }

    pub fn word(&self) -> Option<&'s str> {
        match self {
            Self::Leaf(token) => Some(*token).filter(|token| token.starts_with(is_name)),
            Self::Group(..) => None,
        }
    }

    pub fn is_space(&self) -> bool {
        matches!(self, Self::Leaf(token) if token.starts_with(char::is_whitespace))
    }
}

/// Deepest nesting of brackets that is read. Real templates have fewer than 10.
const DEPTH: usize = 100;

/// Makes a tree of tokens; `None` if brackets do not match.
pub fn nodes<'s>(tokens: &[&'s str]) -> Option<Vec<Node<'s>>> {
    let mut open: Vec<(&str, Vec<Node<'_>>)> = Vec::new();
    let mut nodes = Vec::new();
    for token in tokens {
        match *token {
            "(" | "[" | "{" if open.len() == DEPTH => return None,
            "(" | "[" | "{" => open.push((token, std::mem::take(&mut nodes))),
            ")" | "]" | "}" => {
                let (start, before) = open.pop()?;
                if !matches!((start, *token), ("(", ")") | ("[", "]") | ("{", "}")) {
                    return None;
                }
                let inner = std::mem::replace(&mut nodes, before);
                nodes.push(Node::Group(start, inner, token));
            }
            _ => nodes.push(Node::Leaf(token)),
        }
    }
    open.is_empty().then_some(nodes)
}

/// Whether the token is an operator, after which a value follows.
pub fn is_operator(token: &str) -> bool {
    matches!(token, "*" | "/" | "//" | "%" | "**" | "-" | "+")
}
