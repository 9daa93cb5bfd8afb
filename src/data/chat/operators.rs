//! Operators of Python that differ in minijinja, as the filters that `rewrite` inserts.

use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};

use super::filters::{escaped, items};
use super::python::{MAX_ITEMS, MAX_TEXT, made, refused, text, too_long, type_name};

pub fn add(env: &mut Environment<'_>) {
    env.add_filter("py_concat", concatenate);
    env.add_filter("py_add", |operands: Vec<Value>| fold(operands, plus));
    env.add_filter("py_mul", |operands: Vec<Value>| fold(operands, times));
    env.add_filter("py_floordiv", |operands: Vec<Value>| fold(operands, floor_divide));
    env.add_filter("py_div", |operands: Vec<Value>| fold(operands, divide));
    env.add_filter("py_mod", modulo);
    env.add_filter("py_ordered", ordered);
    env.add_filter("format", format);
    env.add_filter("py_slice", slice);
    env.add_filter("py_iter", |value: &Value| items(value).map(Value::from));
}

fn fold(operands: Vec<Value>, operator: fn(Value, Value) -> Result<Value, Error>) -> Result<Value, Error> {
    let mut operands = operands.into_iter();
    let first = operands.next().unwrap_or_default();
    operands.try_fold(first, operator)
}

fn unsupported(sign: &str, a: &Value, b: &Value) -> Error {
    refused(format!("unsupported operand types for {sign}: '{}' and '{}'", type_name(a), type_name(b)))
}

/// `a ~ b ~ …`
fn concatenate(operands: Vec<Value>) -> Result<String, Error> {
    let mut out = String::new();
    for operand in &operands {
        out += &text(operand)?;
        if out.len() > MAX_TEXT {
            return Err(too_long());
        }
    }
    made(&out)?;
    Ok(out)
}

fn plus(a: Value, b: Value) -> Result<Value, Error> {
    match (a.kind(), b.kind()) {
        // A text that is not marked as safe is escaped for HTML before it is added to a safe one.
        (ValueKind::String, ValueKind::String) if a.is_safe() || b.is_safe() => {
            let safe = |value: Value| -> Result<Value, Error> {
                if value.is_safe() { Ok(value) } else { Ok(escaped(&text(&value)?).into()) }
            };
            Ok(Value::from_safe_string(concatenate(vec![safe(a)?, safe(b)?])?))
        }
        (ValueKind::String, ValueKind::String) => Ok(concatenate(vec![a, b])?.into()),
        (ValueKind::Seq | ValueKind::Iterable, ValueKind::Seq | ValueKind::Iterable) => {
            let mut all = items(&a)?;
            all.extend(items(&b)?);
            if all.len() > MAX_ITEMS { Err(refused("a list is too long")) } else { Ok(all.into()) }
        }
        _ => arithmetic("+", &a, &b, i128::checked_add, |a, b| a + b),
    }
}

/// Applies an operator to two numbers; true and false count as 1 and 0.
fn arithmetic(
    sign: &str,
    a: &Value,
    b: &Value,
    integers: fn(i128, i128) -> Option<i128>,
    floats: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if !is_number(a) || !is_number(b) {
        return Err(unsupported(sign, a, b));
    }
    if let (Some(a), Some(b)) = (integer(a), integer(b)) {
        let result = integers(a, b).ok_or_else(|| refused(format!("{a} {sign} {b}: no such number")))?;
        return Ok(i64::try_from(result).map_or_else(|_| result.into(), Value::from));
    }
    Ok(floats(float(a)?, float(b)?).into())
}

fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        _ if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn float(value: &Value) -> Result<f64, Error> {
    integer(value).map_or_else(|| f64::try_from(value.clone()), |integer| Ok(integer as f64))
}

fn times(a: Value, b: Value) -> Result<Value, Error> {
    let (repeated, count) = match (integer(&a), integer(&b)) {
        (None, Some(count)) if !matches!(a.kind(), ValueKind::Number) => (a, count),
        (Some(count), None) if !matches!(b.kind(), ValueKind::Number) => (b, count),
        _ => return arithmetic("*", &a, &b, i128::checked_mul, |a, b| a * b),
    };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    match repeated.kind() {
        ValueKind::String => {
            let text = text(&repeated)?;
            if text.len().saturating_mul(count) > MAX_TEXT {
                return Err(too_long());
            }
            let text = text.repeat(count);
            made(&text)?;
            Ok(if repeated.is_safe() { Value::from_safe_string(text) } else { text.into() })
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = items(&repeated)?;
            if items.len().saturating_mul(count) > MAX_ITEMS {
                return Err(refused("a list is too long"));
            }
            Ok(std::iter::repeat_n(items, count).flatten().collect::<Vec<_>>().into())
        }
        _ => Err(unsupported("*", &repeated, &Value::from(count))),
    }
}

fn divide(a: Value, b: Value) -> Result<Value, Error> {
    // The quotient of two integers is a float, too.
    arithmetic("/", &a, &float(&b)?.into(), |_, _| None, |a, b| a / b)
        .and_then(|quotient| if float(&b)? == 0.0 { Err(refused("division by zero")) } else { Ok(quotient) })
}

fn floor_divide(a: Value, b: Value) -> Result<Value, Error> {
    let floored = |a: i128, b: i128| {
        let quotient = a.checked_div(b)?;
        Some(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
    };
    arithmetic("//", &a, &b, floored, |a, b| (a / b).floor())
}

/// The value itself, if Python can compare values of its type with `<`.
fn ordered(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Undefined => Err(ErrorKind::UndefinedError.into()),
        ValueKind::None | ValueKind::Map => Err(refused(format!("'{}' has no order", type_name(&value)))),
        _ => Ok(value),
    }
}

/// The remainder, with the sign of `b`; of a text, `printf`-style formatting.
fn modulo(state: &State<'_, '_>, operands: Vec<Value>) -> Result<Value, Error> {
    let [a, b] = operands.as_slice() else { return Err(ErrorKind::InvalidOperation.into()) };
    if a.kind() == ValueKind::String {
        let arguments = if matches!(b.kind(), ValueKind::Seq) { items(b)? } else { vec![b.clone()] };
        return format(state, a, Rest(arguments));
    }
    let integers = |a: i128, b: i128| {
        let rest = a.checked_rem(b)?;
        Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
    };
    arithmetic("%", a, b, integers, |a, b| a - b * (a / b).floor())
}

/// `printf`-style formatting, in which `%s` writes a value as Python does.
pub fn format(state: &State<'_, '_>, template: &Value, arguments: Rest<Value>) -> Result<Value, Error> {
    check_widths(template.as_str().unwrap_or_default())?;
    let conversions = template.as_str().unwrap_or_default().replace("%%", "");
    let only_texts = conversions.match_indices('%').all(|(at, _)| conversions[at..].starts_with("%s"));
    let arguments = match only_texts {
        true => arguments.iter().map(|argument| text(argument).map(Value::from)).collect::<Result<_, _>>()?,
        false => arguments.0,
    };
    minijinja::filters::format(state, template, Rest(arguments))
}

/// Refuses a format with a field of a million characters or more, so that a short format cannot fill the memory.
pub fn check_widths(format: &str) -> Result<(), Error> {
    let is_wide = |digits: &str| digits.trim_start_matches('0').len() > 6;
    if format.split(|c: char| !c.is_ascii_digit()).any(is_wide) { Err(too_long()) } else { Ok(()) }
}

/// `value[start:stop:step]`.
fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    if !matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Iterable) {
        // Jinja2 looks up a slice like a key, and a missing key is undefined.
        return Ok(Value::UNDEFINED);
    }
    let bound =
        |value: &Value| if value.is_none() { Ok(None) } else { i64::try_from(value.clone()).map(Some) };
    let step = bound(step)?.unwrap_or(1);
    let items = items(value)?;
    let taken: Vec<Value> = indices(items.len(), bound(start)?, bound(stop)?, step)?
        .into_iter()
        .filter_map(|at| items.get(at).cloned())
        .collect();
    if value.kind() == ValueKind::String {
        return Ok(taken.iter().filter_map(Value::as_str).collect::<String>().into());
    }
    Ok(taken.into())
}

/// The indices of a slice, as CPython's `PySlice_AdjustIndices` finds them.
fn indices(len: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> Result<Vec<usize>, Error> {
    if step == 0 {
        return Err(refused("slice step cannot be zero"));
    }
    let len = len as i64;
    let (first, last) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let adjusted = |bound: Option<i64>, default: i64| match bound {
        None => default,
        Some(at) if at < 0 => at.saturating_add(len).max(first),
        Some(at) => at.min(last),
    };
    let (start, stop) = match step > 0 {
        true => (adjusted(start, first), adjusted(stop, last)),
        false => (adjusted(start, last), adjusted(stop, first)),
    };
    let next = |at: &i64| Some(at.saturating_add(step));
    let taken = std::iter::successors(Some(start), next)
        .take_while(|at| if step > 0 { *at < stop } else { *at > stop });
    Ok(taken.filter_map(|at| usize::try_from(at).ok()).collect())
}
