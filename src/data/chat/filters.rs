//! Filters and tests of Jinja2, in transformers' setup, that differ from minijinja's.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error};

use super::python::{JsonDump, MAX_ITEMS, MAX_TEXT, made, refused, text, too_long, type_name};

pub fn add(env: &mut Environment<'_>) {
    minijinja_contrib::add_to_environment(env);
    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: &Value| text(value));
    env.add_filter("list", |value: &Value| items(value).map(Value::from));
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("join", join);
    env.add_filter("trim", trim);
    env.add_filter("replace", replace);
    env.add_filter("indent", indent);
    env.add_filter("items", pairs);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("upper", |value: &Value| text(value).map(|text| text.to_uppercase()));
    env.add_filter("lower", |value: &Value| text(value).map(|text| text.to_lowercase()));
    env.add_filter("capitalize", |value: &Value| text(value).map(|text| capitalized(&text)));
    env.add_filter("first", |value: &Value| {
        items(value).map(|items| items.into_iter().next().unwrap_or_default())
    });
    env.add_filter("wordcount", |value: &Value| text(value).map(|text| words(&text)));
    env.add_filter("center", |value: &Value, width: Option<usize>| {
        text(value).map(|text| centered(&text, width))
    });
    env.add_function("dict", dict);
    env.add_filter("round", round);
    env.add_filter("int", int);
    env.add_filter("float", float);

    env.add_test("iterable", is_iterable);
    env.add_test("sequence", is_iterable);
    env.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    env.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}

/// Whether Python can iterate over the value, which it cannot over None.
fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
    )
}

/// The items that Python iterates over: characters, items or keys; none of an undefined value.
pub fn items(value: &Value) -> Result<Vec<Value>, Error> {
    if !is_iterable(value) {
        return Err(refused(format!("'{}' object is not iterable", type_name(value))));
    }
    let is_text = value.kind() == ValueKind::String;
    let mut items = Vec::new();
    for item in value.try_iter()? {
        if items.len() == MAX_ITEMS && !is_text {
            return Err(refused(format!("a list has more than {MAX_ITEMS} items")));
        }
        items.push(item);
    }
    Ok(items)
}

/// transformers' `tojson`: `json.dumps(x, ensure_ascii=False)`, with nothing escaped for HTML.
fn tojson(value: &Value, rest: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let option = |at: usize, name: &str| match rest.get(at) {
        Some(value) => Ok(value.clone()),
        None => options.get::<Option<Value>>(name).map(Option::unwrap_or_default),
    };
    let (ensure_ascii, indent, separators, sort_keys) =
        (option(0, "ensure_ascii")?, option(1, "indent")?, option(2, "separators")?, option(3, "sort_keys")?);
    options.assert_all_used()?;
    let indent = match indent.kind() {
        ValueKind::Undefined | ValueKind::None => None,
        ValueKind::String => Some(text(&indent)?),
        _ => Some(" ".repeat(usize::try_from(i64::try_from(indent)?.max(0)).unwrap_or_default().min(64))),
    };
    let separators = match separators.kind() {
        ValueKind::Undefined | ValueKind::None if indent.is_some() => (",".to_string(), ": ".to_string()),
        ValueKind::Undefined | ValueKind::None => (", ".to_string(), ": ".to_string()),
        _ => (text(&separators.get_item_by_index(0)?)?, text(&separators.get_item_by_index(1)?)?),
    };
    JsonDump { ensure_ascii: ensure_ascii.is_true(), sort_keys: sort_keys.is_true(), indent, separators }
        .dump(value)
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| refused(format!("object of type '{}' has no len()", type_name(value))))
}

fn join(value: &Value, separator: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let separator = match separator.or(options.get("d")?) {
        Some(separator) => text(&separator)?,
        None => String::new(),
    };
    let attribute: Option<Value> = options.get("attribute")?;
    options.assert_all_used()?;
    let mut out = String::new();
    for (at, item) in items(value)?.iter().enumerate() {
        out.push_str(if at > 0 { &separator } else { "" });
        match &attribute {
            Some(attribute) => out.push_str(&text(&item.get_item(attribute)?)?),
            None => out.push_str(&text(item)?),
        }
        if out.len() > MAX_TEXT {
            return Err(too_long());
        }
    }
    made(&out)?;
    Ok(out)
}

/// `str.isspace` for one character.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn trim(value: &Value, chars: Option<String>) -> Result<String, Error> {
    let text = text(value)?;
    Ok(match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_string(),
        None => text.trim_matches(is_space).to_string(),
    })
}

fn replace(value: &Value, from: &Value, to: &Value, count: Option<i64>) -> Result<String, Error> {
    replaced(&text(value)?, &text(from)?, &text(to)?, count)
}

/// `str.replace`.
pub fn replaced(text: &str, from: &str, to: &str, count: Option<i64>) -> Result<String, Error> {
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let found = text.matches(from).take(count).count();
    if found.saturating_mul(to.len()) > MAX_TEXT {
        return Err(too_long());
    }
    let replaced = text.replacen(from, to, found);
    made(&replaced)?;
    Ok(replaced)
}

fn indent(
    value: &Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let text = text(value)?;
    let width = match width.or(options.get("width")?) {
        Some(width) if width.as_str().is_some() => width.to_string(),
        Some(width) => {
            " ".repeat(usize::try_from(i64::try_from(width)?.max(0)).unwrap_or_default().min(MAX_TEXT))
        }
        None => " ".repeat(4),
    };
    let first = first.or(options.get("first")?).unwrap_or_default();
    let blank = blank.or(options.get("blank")?).unwrap_or_default();
    options.assert_all_used()?;
    // A text that ends with a line feed has an empty last line.
    let mut out = String::new();
    for (at, line) in text.split('\n').enumerate() {
        out.push_str(if at > 0 { "\n" } else { "" });
        let is_indented = if at == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if is_indented { &width } else { "" });
        out.push_str(line);
        if out.len() > MAX_TEXT {
            return Err(too_long());
        }
    }
    made(&out)?;
    Ok(out)
}

fn pairs(value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::Map => {
            value.try_iter()?.map(|key| Ok(Value::from(vec![key.clone(), value.get_item(&key)?]))).collect()
        }
        _ => Err(refused("Can only get item pairs from a mapping.")),
    }
}

fn escape(value: &Value) -> Result<Value, Error> {
    Ok(if value.is_safe() { value.clone() } else { Value::from_safe_string(escaped(&text(value)?)) })
}

/// Escapes a text for HTML as MarkupSafe does.
pub fn escaped(text: &str) -> String {
    [("&", "&amp;"), (">", "&gt;"), ("<", "&lt;"), ("'", "&#39;"), ("\"", "&#34;")]
        .iter()
        .fold(text.to_string(), |text, (from, to)| text.replace(from, to))
}

pub fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect())
        .unwrap_or_default()
}

fn words(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

fn centered(text: &str, width: Option<usize>) -> String {
    let width = width.unwrap_or(80).min(MAX_ITEMS);
    let space = width.saturating_sub(text.chars().count());
    // CPython puts an odd space to the left if the width is odd, too.
    let left = space / 2 + (space & width & 1);
    format!("{}{text}{}", " ".repeat(left), " ".repeat(space - left))
}

/// Python's `dict(pairs, **names)`; `pairs` may be a dict.
fn dict(pairs: Option<Value>, names: Kwargs) -> Result<Value, Error> {
    let mut all = Vec::new();
    let pairs = pairs.unwrap_or_default();
    for item in items(&pairs)? {
        all.push(match pairs.kind() {
            ValueKind::Map => (item.clone(), pairs.get_item(&item)?),
            _ => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
        });
    }
    for name in names.args() {
        all.push((name.into(), names.get(name)?));
    }
    Ok(all.into_iter().collect::<Value>())
}

fn round(
    value: &Value,
    precision: Option<i32>,
    method: Option<String>,
    options: Kwargs,
) -> Result<Value, Error> {
    let precision = precision.or(options.get("precision")?).unwrap_or_default();
    let method = method.or(options.get("method")?).unwrap_or_else(|| "common".to_string());
    options.assert_all_used()?;
    let number = f64::try_from(value.clone())?;
    let scale = 10f64.powi(precision);
    Ok(match method.as_str() {
        "common" if value.is_integer() && precision >= 0 => value.clone(),
        // Formatting rounds decimal digits to even, as Python does.
        "common" if precision >= 0 => {
            format!("{number:.*}", precision.min(400) as usize).parse().unwrap_or(number).into()
        }
        "common" => ((number * scale).round_ties_even() / scale).into(),
        "ceil" => ((number * scale).ceil() / scale).into(),
        "floor" => ((number * scale).floor() / scale).into(),
        _ => return Err(refused("method must be common, ceil or floor")),
    })
}

fn int(value: &Value, default: Option<Value>, base: Option<u32>, options: Kwargs) -> Result<Value, Error> {
    let default = default.or(options.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(options.get("base")?).unwrap_or(10);
    options.assert_all_used()?;
    let truncated =
        |number: f64| if number.is_finite() { Value::from(number as i128) } else { default.clone() };
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => truncated(f64::try_from(value.clone())?),
        ValueKind::String => {
            let text = text(value)?.trim_matches(is_space).replace('_', "");
            match i64::from_str_radix(&text, base.clamp(2, 36)) {
                Ok(number) => number.into(),
                Err(_) => text.parse().map_or_else(|_| default.clone(), truncated),
            }
        }
        _ => default,
    })
}

fn float(value: &Value, default: Option<Value>) -> Result<Value, Error> {
    let default = default.unwrap_or_else(|| Value::from(0.0));
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone())?.into(),
        ValueKind::String => text(value)?.trim_matches(is_space).parse::<f64>().map_or(default, Value::from),
        _ => default,
    })
}
