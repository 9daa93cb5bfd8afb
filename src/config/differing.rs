//! The keys in which two TOML values differ.

use toml::Value;

/// The keys, joined by points, whose values differ, with both values.
pub fn differing<'a>(
    old: Option<&'a Value>,
    new: Option<&'a Value>,
) -> Vec<(String, Option<&'a Value>, Option<&'a Value>)> {
    let tables = [old, new].map(|value| value.and_then(Value::as_table));
    if tables == [None, None] {
        return if old == new { Vec::new() } else { vec![(String::new(), old, new)] };
    }
    let mut keys: Vec<&String> = tables.iter().flatten().flat_map(|table| table.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let below = |key: &String| {
        let [old, new] = tables.map(|table| table.and_then(|table| table.get(key)));
        let joined = |inner: String| if inner.is_empty() { key.clone() } else { format!("{key}.{inner}") };
        differing(old, new)
            .into_iter()
            .map(move |(inner, old, new)| (joined(inner), old, new))
            .collect::<Vec<_>>()
    };
    keys.into_iter().flat_map(below).collect()
}

/// A value as a recipe states it.
pub fn shown(value: Option<&Value>) -> String {
    value.map_or("left out".into(), ToString::to_string)
}
