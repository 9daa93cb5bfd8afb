//! The settings in which two runs differ, by their keys.

use serde::Deserialize;
use toml::{Table, Value};

use super::Config;
use super::differing::{differing, shown};
use crate::error::{Error, Result};

impl Config {
    /// The settings that decide the steps of a run and are others than those of `earlier`: "train.batch_size was 16, is 8".
    ///
    /// # Errors
    /// A value has no form in TOML.
    pub fn differences(&self, earlier: &Self) -> Result<Vec<String>> {
        let table = |config: &Self| {
            Table::try_from(config).map(Value::Table).map_err(|error| Error::internal(error.to_string()))
        };
        let (old, new) = (table(earlier)?, table(self)?);
        let decides = |(key, old): (&str, Option<&Value>)| {
            let mut probe = new.clone();
            put(&mut probe, key, old);
            Self::deserialize(probe).is_ok_and(|probe| probe.fingerprint() != self.fingerprint())
        };
        let found = differing(Some(&old), Some(&new)).into_iter();
        let found = found.filter(|(key, old, _)| decides((key, *old)));
        Ok(found.map(|(key, old, new)| format!("{key} was {}, is {}", shown(old), shown(new))).collect())
    }
}

/// Gives a key a value, or takes it away.
fn put(table: &mut Value, key: &str, value: Option<&Value>) {
    let Some(table) = table.as_table_mut() else { return };
    match (key.split_once('.'), value) {
        (Some((first, rest)), _) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            put(inner, rest, value);
        }
        (None, Some(value)) => drop(table.insert(key.into(), value.clone())),
        (None, None) => drop(table.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_decide_the_steps_are_told() {
        let earlier = Config::default();
        let mut config = earlier.clone();
        config.train.batch_size = 8;
        config.train.eval_steps = 7;
        config.output_dir = "elsewhere".into();
        config.data.max_seq_length = Some(40);
        let said = config.differences(&earlier).unwrap();
        assert_eq!(said, ["data.max_seq_length was left out, is 40", "train.batch_size was 16, is 8"]);
        assert_eq!(earlier.differences(&earlier).unwrap(), Vec::<String>::new());
    }
}
