//! Python's methods of texts and lists that minijinja lacks or that differ in it.

use minijinja::value::{Rest, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::filters::{capitalized, is_space, items, replaced};
use super::operators::check_widths;
use super::python::{refused, text};

pub fn call(state: &State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => of_text(state, value, method, args),
        ValueKind::Seq | ValueKind::Iterable => of_list(value, method, args),
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn of_text(state: &State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => stripped(text, method, args)?.into(),
        "split" | "rsplit" => split(text, method == "split", args)?.into(),
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found =
                if method == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            Value::from(
                match found {
                    Some((before, after)) => [before, separator, after],
                    None if method == "partition" => [text, "", ""],
                    None => ["", "", text],
                }
                .map(Value::from)
                .to_vec(),
            )
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if method == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| refused("substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "replace" => {
            let (from, to, count): (&str, &str, Option<i64>) = from_args(args)?;
            replaced(text, from, to, count)?.into()
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "capitalize" => capitalized(text).into(),
        "isspace" => (!text.is_empty() && text.chars().all(is_space)).into(),
        "join" => joined(text, args)?.into(),
        _ => {
            if method == "format" {
                check_widths(text)?;
            }
            return pycompat::unknown_method_callback(state, value, method, args);
        }
    })
}

fn stripped<'t>(text: &'t str, method: &str, args: &[Value]) -> Result<&'t str, Error> {
    let (chars,): (Option<&str>,) = from_args(args)?;
    let is_stripped = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if method == "rstrip" { text } else { text.trim_start_matches(is_stripped) };
    Ok(if method == "lstrip" { text } else { text.trim_end_matches(is_stripped) })
}

fn split(text: &str, from_start: bool, args: &[Value]) -> Result<Vec<Value>, Error> {
    let (separator, most, options): (Option<Value>, Option<i64>, minijinja::value::Kwargs) = from_args(args)?;
    let separator: Option<Value> = separator.or(options.get("sep")?).filter(|separator| !separator.is_none());
    let most: Option<i64> = most.or(options.get("maxsplit")?);
    options.assert_all_used()?;
    // `splitn` takes the number of parts, Python the number of cuts.
    let parts =
        most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut found: Vec<&str> = match separator.as_ref().map(|separator| (separator, separator.as_str())) {
        Some((_, Some(""))) => return Err(refused("empty separator")),
        Some((_, Some(separator))) if from_start => text.splitn(parts, separator).collect(),
        Some((_, Some(separator))) => text.rsplitn(parts, separator).collect(),
        Some((separator, None)) => return Err(refused(format!("must be str or None, not {separator}"))),
        None => words(text, from_start, parts),
    };
    if !from_start {
        found.reverse();
    }
    Ok(found.into_iter().map(Value::from).collect())
}

/// Splits a text at white space into at most `parts`, from its start or from its end. The last part is the rest.
fn words(text: &str, from_start: bool, parts: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        let cut = if from_start { rest.find(is_space) } else { rest.rfind(is_space) };
        match cut.filter(|_| words.len() + 1 < parts) {
            Some(at) if from_start => {
                words.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(is_space);
            }
            Some(at) => {
                let (before, word) = rest.split_at(at);
                words.push(word.trim_start_matches(is_space));
                rest = before.trim_end_matches(is_space);
            }
            None => {
                // Python strips only the side from which it cuts.
                let whole = if from_start {
                    text.trim_start_matches(is_space)
                } else {
                    text.trim_end_matches(is_space)
                };
                words.push(if words.len() + 1 < parts { rest } else { tail(whole, rest, from_start) });
                break;
            }
        }
    }
    words
}

/// `rest` with the white space that `whole` has at the far end.
fn tail<'t>(whole: &'t str, rest: &'t str, from_start: bool) -> &'t str {
    let trimmed =
        if from_start { whole.trim_end_matches(is_space) } else { whole.trim_start_matches(is_space) };
    let space = whole.len() - trimmed.len();
    match from_start {
        true => &whole[whole.len() - space - rest.len()..],
        false => &whole[..space + rest.len()],
    }
}

fn joined(separator: &str, args: &[Value]) -> Result<String, Error> {
    let (list,): (&Value,) = from_args(args)?;
    let parts = items(list)?;
    if let Some(other) = parts.iter().find(|part| part.as_str().is_none()) {
        return Err(refused(format!("expected str instance, {} found", super::python::type_name(other))));
    }
    let bytes: usize =
        parts.iter().map(|part| part.as_str().unwrap_or_default().len() + separator.len()).sum();
    if bytes > super::python::MAX_TEXT {
        return Err(super::python::too_long());
    }
    let parts = parts.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(parts.join(separator))
}

fn of_list(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let items = items(value)?;
    let (sought, _): (&Value, Rest<Value>) = match method {
        "index" | "count" => from_args(args)?,
        _ => return Err(ErrorKind::UnknownMethod.into()),
    };
    if method == "count" {
        return Ok(items.iter().filter(|item| *item == sought).count().into());
    }
    let at = items.iter().position(|item| item == sought);
    at.map(Value::from).ok_or_else(|| refused(format!("{} is not in list", text(sought).unwrap_or_default())))
}
