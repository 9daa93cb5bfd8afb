//! JSON settings as Python accepts them: `256.0` is 256, 0 is false, and null is the same as an absent key.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

/// Reads settings whose whole numbers may be written as floats.
///
/// # Errors
/// A key that is missing or is of another type.
pub fn read<T: DeserializeOwned>(json: &Value) -> serde_json::Result<T> {
    T::deserialize(numbers(json))
}

/// A copy in which whole floats are integers: serde reads a float from an integer, but not an integer from a float.
fn numbers(json: &Value) -> Value {
    match json {
        Value::Object(object) => {
            Value::Object(object.iter().map(|(key, value)| (key.clone(), numbers(value))).collect())
        }
        Value::Array(values) => values.iter().map(numbers).collect(),
        Value::Number(number) => whole(number),
        other => other.clone(),
    }
}

/// An integer where the number is whole and within ±2⁵³, where every integer is exact as a float.
fn whole(number: &Number) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(value) if number.is_f64() && value.fract() == 0.0 && value.abs() <= EXACT => {
            (value as i64).into()
        }
        _ => Value::Number(number.clone()),
    }
}

/// A flag, written as true or false, or as 1 or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag(pub bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(set) => Ok(Self(set)),
            Value::Number(number) if number.as_f64() == Some(0.0) => Ok(Self(false)),
            Value::Number(number) if number.as_f64() == Some(1.0) => Ok(Self(true)),
            other => Err(D::Error::custom(format!("{other}: expected true or false"))),
        }
    }
}

/// Whether a setting that may be absent or null is set.
pub fn is_set(flag: Option<Flag>) -> bool {
    flag == Some(Flag(true))
}

/// One token id or several. Null and negative numbers are no tokens and are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenIds(pub Vec<u32>);

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = match numbers(&Value::deserialize(deserializer)?) {
            Value::Array(values) => values,
            single => vec![single],
        };
        let id = |value: &Value| match (value.as_i64(), value) {
            (_, Value::Null) | (Some(..0), _) => Ok(None),
            (Some(id), _) if u32::try_from(id).is_ok() => Ok(Some(id as u32)),
            (_, other) => Err(D::Error::custom(format!("{other}: expected a token id"))),
        };
        let ids = values.iter().map(id).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(ids.into_iter().flatten().collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct LooseSettings {
        count: usize,
        signed: Option<i64>,
        float: Option<f64>,
        flag: Option<Flag>,
        #[serde(default)]
        ids: TokenIds,
        list: Option<Vec<f32>>,
    }

    fn settings(count: usize) -> LooseSettings {
        LooseSettings { count, signed: None, float: None, flag: None, ids: TokenIds::default(), list: None }
    }

    #[test]
    fn whole_floats_are_integers() {
        let read = |json: Value| read::<LooseSettings>(&json).unwrap();
        for count in [json!(256), json!(256.0), json!(2.56e2)] {
            assert_eq!(read(json!({"count": count, "signed": null, "other": [{}]})), settings(256));
        }
        let json = json!({"count": 1, "signed": -1.0, "float": 3, "list": [1, 2.5, 3.0]});
        let expected = LooseSettings {
            signed: Some(-1),
            float: Some(3.0),
            list: Some(vec![1.0, 2.5, 3.0]),
            ..settings(1)
        };
        assert_eq!(read(json), expected);
    }

    #[test]
    fn flags_may_be_numbers_and_token_ids_may_be_null() {
        let read = |json: Value| read::<LooseSettings>(&json).unwrap();
        for (flag, expected) in [(json!(true), true), (json!(1), true), (json!(0), false), (json!(1.0), true)]
        {
            let flag = read(json!({"count": 1, "flag": flag})).flag;
            assert_eq!((flag, is_set(flag)), (Some(Flag(expected)), expected));
        }
        assert!(!is_set(read(json!({"count": 1, "flag": null})).flag));
        for (ids, expected) in [
            (json!(null), vec![]),
            (json!(-1), vec![]),
            (json!(2.0), vec![2]),
            (json!([2, -1, null, 3.0]), vec![2, 3]),
            (json!([]), vec![]),
        ] {
            assert_eq!(read(json!({"count": 1, "ids": ids})).ids, TokenIds(expected));
        }
    }

    #[test]
    fn values_of_another_type_are_refused() {
        for json in [
            json!({}),
            json!({"count": null}),
            json!({"count": 1.5}),
            json!({"count": -1}),
            json!({"count": "many"}),
            json!({"count": "1"}),
            json!({"count": true}),
            json!({"count": 1e300}),
            json!({"count": 1, "flag": "false"}),
            json!({"count": 1, "flag": 2}),
            json!({"count": 1, "ids": "</s>"}),
            json!({"count": 1, "ids": 1.5}),
            json!({"count": 1, "ids": [true]}),
            json!({"count": 1, "ids": {}}),
        ] {
            assert!(read::<LooseSettings>(&json).is_err(), "{json}");
        }
    }
}
