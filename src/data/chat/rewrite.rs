//! Changes a template's source so that minijinja renders it as Jinja2 does.
//!
//! minijinja writes `none`, adds, concatenates and slices differently, and has no hook for that. So the expressions in
//! question are passed through filters of `operators`:
//!
//! | in the template | becomes |
//! |---|---|
//! | `a ~ b` | `([a, b]\|py_concat)` |
//! | `a + b - c` | `(([a, b]\|py_add) - c)` |
//! | `a * b` | `([a, b]\|py_mul)`, likewise `//` and `%` |
//! | `a[1:n]` | `(a\|py_slice(1, n, none))` |
//! | `{% for x in a if b %}` | `{% for x in (a)\|py_iter if b %}` |
//! | `{% generation %}` | `{% filter py_generation %}{% with %}` |
//!
//! A text that is not a template stays unchanged, so that minijinja reports the error.

use minijinja::Error;

use super::expressions::level;
use super::python::refused;
use super::tokens::{self, Node, nodes, tokens};

/// Most tokens of an expression without a comma, because parsers may use stack for each. Real templates have about 20.
const MAX_TOKENS: usize = 4000;

/// A template that minijinja renders as Jinja2 does.
pub struct RewrittenTemplate {
    pub source: String,
    /// Bytes of the longest text outside of tags: the most that one instruction writes.
    pub longest_text: usize,
    /// Whether it has `generation` tags.
    pub is_marked: bool,
}

/// Rewrites a template. CR LF and CR become LF, as in Jinja2's lexer.
///
/// # Errors
/// An expression of more than 4000 tokens.
pub fn rewrite(template: &str) -> Result<RewrittenTemplate, Error> {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template.as_str();
    let (mut longest_text, mut is_marked) = (0, false);
    while let Some((at, open)) = next_tag(rest) {
        out.push_str(&rest[..at]);
        longest_text = longest_text.max(at);
        rest = &rest[at..];
        let Some(len) = (match open {
            TagKind::Comment => rest.find("#}").map(|at| at + 2),
            TagKind::Raw(len) => Some(len),
            TagKind::Expression => tokens::end(rest, "}}"),
            TagKind::Statement => tokens::end(rest, "%}"),
        }) else {
            break;
        };
        let tag = &rest[..len];
        let counts = matches!(open, TagKind::Expression | TagKind::Statement);
        if counts && tokens(tag).split(|token| *token == ",").any(|part| count(part) > MAX_TOKENS) {
            return Err(refused(format!("an expression has more than {MAX_TOKENS} tokens")));
        }
        longest_text = longest_text.max(if counts { 0 } else { len });
        match open {
            TagKind::Comment => out.push_str(tag),
            TagKind::Raw(_) => out.push_str(&raw(tag)),
            TagKind::Expression => out.push_str(&in_tag(tag, expression)),
            TagKind::Statement => match inner(tag).1.trim() {
                "generation" => {
                    is_marked = true;
                    out.push_str(&in_two_tags(tag, "filter py_generation", "with"));
                }
                "endgeneration" => out.push_str(&in_two_tags(tag, "endwith", "endfilter")),
                _ => out.push_str(&in_tag(tag, statement)),
            },
        }
        rest = &rest[len..];
    }
    longest_text = longest_text.max(rest.len());
    Ok(RewrittenTemplate { source: out + rest, longest_text, is_marked })
}

/// Number of tokens that are not white space.
fn count(tokens: &[&str]) -> usize {
    tokens.iter().filter(|token| !token.trim().is_empty()).count()
}

#[derive(Clone, Copy)]
enum TagKind {
    Comment,
    Expression,
    Statement,
    /// A whole raw block, with its length.
    Raw(usize),
}

/// The place and kind of the first tag.
fn next_tag(text: &str) -> Option<(usize, TagKind)> {
    let at = text
        .match_indices('{')
        .map(|(at, _)| at)
        .find(|at| matches!(text.as_bytes().get(at + 1), Some(b'#' | b'{' | b'%')))?;
    let open = match text.as_bytes().get(at + 1) {
        Some(b'#') => TagKind::Comment,
        Some(b'{') => TagKind::Expression,
        _ => raw_block(&text[at..]).map_or(TagKind::Statement, TagKind::Raw),
    };
    Some((at, open))
}

/// Length of `{% raw %}…{% endraw %}` at the start of `text`.
fn raw_block(text: &str) -> Option<usize> {
    let length_of = |text: &str, name: &str| {
        let len = text.find("%}")? + 2;
        (text.starts_with("{%") && inner(&text[..len]).1.trim() == name).then_some(len)
    };
    let start = length_of(text, "raw")?;
    let ends = text[start..].match_indices("{%").map(|(at, _)| start + at);
    ends.filter_map(|at| Some(at + length_of(&text[at..], "endraw")?)).next()
}

/// Doubles the line feed after `{% raw %}`. Jinja2 keeps it, although it removes the line feed after other tags.
fn raw(block: &str) -> String {
    match block.split_once("%}") {
        Some((tag, body)) if !tag.ends_with('-') && body.starts_with('\n') => format!("{tag}%}}\n{body}"),
        _ => block.to_string(),
    }
}

/// A tag's opening, the text between its delimiters and white space signs, and its closing.
fn inner(tag: &str) -> (&str, &str, &str) {
    let signs: &[char] = &['-', '+'];
    let start = if tag[2..].starts_with(signs) { 3 } else { 2 };
    let end = tag.len() - 2;
    let end = if end > start && tag[..end].ends_with(signs) { end - 1 } else { end.max(start) };
    (&tag[..start], &tag[start..end], &tag[end..])
}

fn in_tag(tag: &str, change: fn(&str) -> String) -> String {
    let (open, inner, close) = inner(tag);
    let changed = change(inner);
    // In `{{ {} }}`, the inner brace must not become part of the delimiter.
    format!("{open}{}{changed}{close}", if inner.starts_with('{') { " " } else { "" })
}

/// Two tags in the place of one. The white space around them is treated as it was around the one.
fn in_two_tags(tag: &str, first: &str, second: &str) -> String {
    let (open, _, close) = inner(tag);
    format!("{open} {first} %}}{{% {second} {close}")
}

fn expression(text: &str) -> String {
    nodes(&tokens(text)).map_or_else(|| text.to_string(), |nodes| level(&nodes))
}

fn statement(text: &str) -> String {
    let Some(nodes) = nodes(&tokens(text)) else { return text.to_string() };
    let Some(head) = nodes.iter().position(|node| !node.is_space()) else { return text.to_string() };
    let (start, rest) = nodes.split_at(head + 1);
    let start = level(start);
    match nodes[head].word() {
        Some("for") => start + &for_loop(rest),
        _ => start + &level(rest),
    }
}

/// Rewrites the rest of a `for` tag: `x in EXPRESSION`, and optionally `if …` or `recursive`.
fn for_loop(nodes: &[Node<'_>]) -> String {
    let Some(start) = nodes.iter().position(|node| node.word() == Some("in")) else { return level(nodes) };
    let (targets, iterated) = nodes.split_at(start + 1);
    let end = iterated.iter().position(|node| matches!(node.word(), Some("if" | "recursive")));
    let (iterated, rest) = iterated.split_at(end.unwrap_or(iterated.len()));
    format!("{} ({})|py_iter {}", level(targets), level(iterated).trim(), level(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(template: &str) -> String {
        rewrite(template).unwrap().source
    }

    fn check(cases: &[(&str, &str)]) {
        for (template, expected) in cases {
            assert_eq!(source(template), *expected);
        }
    }

    #[test]
    fn loops_iterate_as_python_does() {
        check(&[
            ("{%- for a, b in x.items() if a in b -%}", "{%- for a, b in (x.items())|py_iter if a in b -%}"),
            ("{% for a in b recursive %}", "{% for a in (b)|py_iter recursive %}"),
        ]);
    }

    #[test]
    fn comments_raw_blocks_and_texts_stay() {
        for same in [
            "a ~ b[1:] {# {{ a ~ b }} #}",
            "{% raw %}{{ a ~ b }}{% generation %}{%- endraw %}",
            "{{ 'a ~ b[1:] }}' }}",
            "{{ (a ~ b }}",
            "{{ 'a",
            "{%",
        ] {
            assert_eq!(source(same), same);
        }
    }

    #[test]
    fn line_ends_become_line_feeds() {
        assert_eq!(source("a\r\nb\rc\n\r\n{{ '\r\n' }}"), "a\nb\nc\n\n{{ '\n' }}");
    }

    #[test]
    fn generation_tags_become_a_filter_and_a_scope() {
        let expected = "{%- filter py_generation %}{% with -%}a{%+ endwith %}{% endfilter %}";
        check(&[("{%- generation -%}a{%+ endgeneration %}", expected)]);
        assert!(rewrite("{%generation%}a{%endgeneration%}").unwrap().is_marked);
        assert!(!rewrite("{% raw %}{% generation %}{% endraw %}").unwrap().is_marked);
    }
}
