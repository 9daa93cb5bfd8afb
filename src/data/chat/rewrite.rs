//! A template's source, brought into the form in which minijinja renders it as Jinja2 does.
//!
//! minijinja writes `none`, adds, concatenates and slices in a way of its own, and gives no hook for it. So the
//! expressions in question are put through filters of `operators`:
//!
//! | in the template | becomes |
//! |---|---|
//! | `a ~ b` | `([a, b]\|py_concat)` |
//! | `a + b - c` | `(([a, b]\|py_add) - c)` |
//! | `a * b` | `([a, b]\|py_mul)`, and so `//` and `%` |
//! | `a[1:n]` | `(a\|py_slice(1, n, none))` |
//! | `{% for x in a if b %}` | `{% for x in (a)\|py_iter if b %}` |
//! | `{% generation %}` | `{% with %}` |
//!
//! What does not look like a template is left as it is, for minijinja to complain about.

use minijinja::Error;

use super::expressions::level;
use super::python::refused;
use super::tokens::{self, Node, nodes, tokens};

/// Most tokens of an expression without a comma: parsers may take stack for each. Templates have some 20.
const MAX_TOKENS: usize = 4000;

/// A template that minijinja reads.
pub struct Rewritten {
    pub source: String,
    /// Bytes of the longest text outside of tags, which is what one instruction can write.
    pub longest_text: usize,
}

/// The template with LF for CR LF and CR, as Jinja2's lexer reads it, and with the changes above.
///
/// # Errors
/// An expression of more than 4000 tokens.
pub fn rewrite(template: &str) -> Result<Rewritten, Error> {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template.as_str();
    let mut longest_text = 0;
    while let Some((at, open)) = next_tag(rest) {
        out.push_str(&rest[..at]);
        longest_text = longest_text.max(at);
        rest = &rest[at..];
        let Some(len) = (match open {
            Open::Comment => rest.find("#}").map(|at| at + 2),
            Open::Raw(len) => Some(len),
            Open::Expression => tokens::end(rest, "}}"),
            Open::Statement => tokens::end(rest, "%}"),
        }) else {
            break;
        };
        let tag = &rest[..len];
        let counts = matches!(open, Open::Expression | Open::Statement);
        if counts && tokens(tag).split(|token| *token == ",").any(|part| count(part) > MAX_TOKENS) {
            return Err(refused(format!("an expression has more than {MAX_TOKENS} tokens")));
        }
        longest_text = longest_text.max(if counts { 0 } else { len });
        match open {
            Open::Comment => out.push_str(tag),
            Open::Raw(_) => out.push_str(&raw(tag)),
            Open::Expression => out.push_str(&in_tag(tag, expression)),
            Open::Statement => out.push_str(&in_tag(tag, statement)),
        }
        rest = &rest[len..];
    }
    longest_text = longest_text.max(rest.len());
    Ok(Rewritten { source: out + rest, longest_text })
}

fn count(tokens: &[&str]) -> usize {
    tokens.iter().filter(|token| !token.trim().is_empty()).count()
}

#[derive(Clone, Copy)]
enum Open {
    Comment,
    Expression,
    Statement,
    /// A whole raw block and its length.
    Raw(usize),
}

fn next_tag(text: &str) -> Option<(usize, Open)> {
    let at = text
        .match_indices('{')
        .map(|(at, _)| at)
        .find(|at| matches!(text.as_bytes().get(at + 1), Some(b'#' | b'{' | b'%')))?;
    let open = match text.as_bytes().get(at + 1) {
        Some(b'#') => Open::Comment,
        Some(b'{') => Open::Expression,
        _ => raw_block(&text[at..]).map_or(Open::Statement, Open::Raw),
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

/// Jinja2 keeps a line feed after `{% raw %}`, although it takes that after other tags.
fn raw(block: &str) -> String {
    match block.split_once("%}") {
        Some((tag, body)) if !tag.ends_with('-') && body.starts_with('\n') => format!("{tag}%}}\n{body}"),
        _ => block.to_string(),
    }
}

/// A tag's opening, what is between its delimiters and white space signs, and its closing.
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
    // `{{-1}}` and `{{ {} }}`: what was apart stays apart.
    format!("{open}{}{changed}{close}", if inner.starts_with('{') { " " } else { "" })
}

fn expression(text: &str) -> String {
    nodes(&tokens(text)).map_or_else(|| text.to_string(), |nodes| level(&nodes))
}

fn statement(text: &str) -> String {
    match text.trim() {
        "generation" => return text.replacen("generation", "with", 1),
        "endgeneration" => return text.replacen("endgeneration", "endwith", 1),
        _ => {}
    }
    let Some(nodes) = nodes(&tokens(text)) else { return text.to_string() };
    let Some(head) = nodes.iter().position(|node| !node.is_space()) else { return text.to_string() };
    let (start, rest) = nodes.split_at(head + 1);
    let start = level(start);
    match nodes[head].word() {
        Some("for") => start + &for_loop(rest),
        _ => start + &level(rest),
    }
}

/// `x in EXPRESSION`, perhaps with `if …` or `recursive` after it.
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
    fn generation_tags_become_a_scope() {
        check(&[("{%- generation -%}a{%+ endgeneration %}", "{%- with -%}a{%+ endwith %}")]);
    }
}
