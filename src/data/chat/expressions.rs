//! Rewrites the expressions of a template as `rewrite` describes, by Jinja2's precedence: words and comparisons bind
//! least, then sums, then `~`, then products, then values with their indices, filters and tests.

use super::tokens::{Node, is_operator};

/// Words that separate expressions.
const BOUNDARIES: [&str; 12] =
    ["and", "or", "not", "in", "if", "else", "elif", "for", "set", "recursive", "ignore", "import"];

/// Rewrites the expressions between two brackets or in a tag.
pub fn level(nodes: &[Node<'_>]) -> String {
    let is_order = |sign: &str| matches!(sign, "<" | ">" | "<=" | ">=");
    let mut before = "";
    let mut out = String::new();
    for (part, sign) in split(nodes, is_boundary) {
        let operand = sum(part);
        let is_ordered = (is_order(before) || is_order(sign)) && !operand.trim().is_empty();
        out += &if is_ordered { format!(" ({operand})|py_ordered ") } else { operand };
        out += sign;
        before = sign;
    }
    out
}

fn sum(nodes: &[Node<'_>]) -> String {
    let is_sign = |token: &str, before: Before<'_>| matches!(token, "+" | "-") && before.is_value();
    fold(&split(nodes, is_sign), concatenation, |sign| (sign == "+").then_some("py_add"))
}

fn concatenation(nodes: &[Node<'_>]) -> String {
    fold(&split(nodes, |token, _| token == "~"), product, |_| Some("py_concat"))
}

fn product(nodes: &[Node<'_>]) -> String {
    let parts = split(nodes, |token, _| matches!(token, "*" | "/" | "//" | "%"));
    fold(&parts, value, |sign| match sign {
        "*" => Some("py_mul"),
        "/" => Some("py_div"),
        "//" => Some("py_floordiv"),
        _ => Some("py_mod"),
    })
}

/// Joins operands from the left. Each part has the operator after it; an operator with a filter becomes the filter.
fn fold(
    parts: &[(&[Node<'_>], &str)],
    operand: fn(&[Node<'_>]) -> String,
    filter: impl Fn(&str) -> Option<&'static str>,
) -> String {
    let operands: Vec<String> = parts.iter().map(|(part, _)| operand(part)).collect();
    if operands.len() < 2 || operands.iter().any(|operand| operand.trim().is_empty()) {
        return operands.iter().zip(parts).map(|(operand, (_, sign))| operand.to_string() + sign).collect();
    }
    let mut folded = operands[0].clone();
    // The filter whose list of operands is still open. One list for a long sum keeps the nesting flat.
    let mut open = None;
    for (operand, (_, sign)) in operands[1..].iter().zip(parts) {
        let filter = filter(sign);
        if filter.is_some() && filter == open && filter != Some("py_mod") {
            folded += &format!(",{operand}");
            continue;
        }
        folded = closed(folded, open);
        match filter {
            Some(_) => folded += &format!(",{operand}"),
            None => folded = format!("({folded}{sign}{operand})"),
        }
        open = filter;
    }
    // The operands of `a\n~ b` keep their line feeds, so that errors name the right line.
    closed(folded, open)
}

/// Applies the filter of an open list to it.
fn closed(operands: String, filter: Option<&str>) -> String {
    match filter {
        Some(filter) => format!("([{operands}]|{filter})"),
        None => operands,
    }
}

/// The context of a token: the tokens before it between the same brackets.
#[derive(Clone, Copy)]
struct Before<'s> {
    /// The last token that is not white space; empty at the start.
    last: &'s str,
    in_test: bool,
}

impl Before<'_> {
    /// Whether the token follows a value, so that a sign is an operator between two values.
    fn is_value(self) -> bool {
        !self.last.is_empty() && !is_operator(self.last) && self.last != "~"
    }
}

fn is_boundary(token: &str, before: Before<'_>) -> bool {
    match token {
        "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=" => true,
        "not" | "in" if before.last == "is" || (before.last == "not" && before.in_test) => false,
        word => BOUNDARIES.contains(&word),
    }
}

/// Splits at tokens for which `is_end` holds. Each part has the token that ends it, the last part "".
fn split<'n, 's>(
    nodes: &'n [Node<'s>],
    is_end: impl Fn(&str, Before<'_>) -> bool,
) -> Vec<(&'n [Node<'s>], &'s str)> {
    let mut parts = Vec::new();
    let start_of_part = Before { last: "", in_test: false };
    let (mut start, mut before) = (0, start_of_part);
    for (at, node) in nodes.iter().enumerate() {
        if node.is_space() {
            continue;
        }
        let is_name = matches!(before.last, "." | "|");
        match node {
            Node::Leaf(token) if !is_name && is_end(token, before) => {
                parts.push((&nodes[start..at], *token));
                (start, before) = (at + 1, start_of_part);
            }
            Node::Leaf(token) => before = Before { last: token, in_test: before.in_test || *token == "is" },
            Node::Group(_, _, close) => before.last = close,
        }
    }
    parts.push((&nodes[start..], ""));
    parts
}

/// Rewrites a value with its signs, indices, calls, filters and tests.
fn value(nodes: &[Node<'_>]) -> String {
    let mut text = String::new();
    let mut last = "";
    // The start of the value that an index would belong to.
    let mut start = 0;
    for node in nodes {
        let is_part = matches!(last, "." | "|") || matches!(node.text(), "." | "|");
        match node {
            Node::Group(open, inner, close) => {
                let follows = !last.is_empty() && !is_operator(last) && last != "is";
                match slice(inner).filter(|_| *open == "[" && follows) {
                    Some(slice) => {
                        let sliced = text.split_off(start);
                        text += &format!("({sliced}|py_slice({slice}))");
                    }
                    None => {
                        start = if follows { start } else { text.len() };
                        text += &format!("{open}{}{close}", level(inner));
                    }
                }
                last = close;
            }
            Node::Leaf(token) if node.is_space() => text += token,
            Node::Leaf(token) => {
                start = if is_part { start } else { text.len() };
                text +=
                    &if token.starts_with(['\'', '"']) { with_backslashes(token) } else { token.to_string() };
                last = token;
            }
        }
    }
    text
}

/// Doubles the backslash of `\/`, which minijinja reads as JSON does. Python keeps the backslash of an unknown escape.
fn with_backslashes(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    let mut escaped = false;
    for c in literal.chars() {
        out.push_str(if escaped && c == '/' { "\\" } else { "" });
        out.push(c);
        escaped = c == '\\' && !escaped;
    }
    out
}

/// `start, stop, step` of the text between the brackets of a slice; `None` for an index.
fn slice(inner: &[Node<'_>]) -> Option<String> {
    let parts: Vec<_> = inner.split(|node| matches!(node, Node::Leaf(":"))).collect();
    if parts.len() < 2 || parts.len() > 3 {
        return None;
    }
    let bound = |part: Option<&&[Node<'_>]>| match level(part.copied().unwrap_or_default()).trim() {
        "" => "none".to_string(),
        bound => bound.to_string(),
    };
    Some(format!("{}, {}, {}", bound(parts.first()), bound(parts.get(1)), bound(parts.get(2))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::chat::tokens::{nodes, tokens};

    fn check(cases: &[(&str, &str)]) {
        for (expression, expected) in cases {
            assert_eq!(level(&nodes(&tokens(expression)).unwrap()), *expected);
        }
    }

    #[test]
    fn signs_become_filters_by_precedence() {
        check(&[
            ("a ~ 'b~c' ~ d.e|f(1 ~ 2)", "([a , 'b~c' , d.e|f(([1 , 2]|py_concat))]|py_concat)"),
            ("x * -2 ~ y is not none and z", "([([x , -2 ]|py_mul), y is not none ]|py_concat)and z"),
            ("set x = a + b ~ c - d + e", "set x =([(([ a ,([ b , c ]|py_concat)]|py_add)- d ), e]|py_add)"),
            ("not a + b == 'ab'", "not([ a , b ]|py_add)== 'ab'"),
            (
                "f(k=a ~ b, l=-1), a - 1, -1 + +1",
                "f(k=([a , b]|py_concat), l=-1),( a - 1),([ -1 , +1]|py_add)",
            ),
            ("a // b % c / d", "([([([a , b ]|py_floordiv), c ]|py_mod), d]|py_div)"),
            ("a < b + 1 == c", " (a )|py_ordered < (([ b , 1 ]|py_add))|py_ordered == c"),
            (r"'\\/\/'", r"'\\/\\/'"),
            ("x.in + y is not in [z]", "([x.in , y is not in [z]]|py_add)"),
            ("a ~", "a ~"),
        ]);
    }

    #[test]
    fn slices_become_filters() {
        check(&[
            ("m[1:]", "(m|py_slice(1, none, none))"),
            ("m.x(1)['k'][::-1].y", "(m.x(1)['k']|py_slice(none, none, -1)).y"),
            ("-'abc'[:n - 1] in [x]", "-('abc'|py_slice(none, (n - 1), none)) in [x]"),
            ("m[{'a': 1}]", "m[{'a': 1}]"),
        ]);
    }
}
