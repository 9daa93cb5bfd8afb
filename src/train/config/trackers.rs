//! The programs for which a run also writes its metrics: `train.report_to`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::StrDeserializer;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A word of `train.report_to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Tensorboard,
    None,
}

/// The programs for which a run writes its metrics beside `metrics.jsonl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trackers {
    /// Event files for TensorBoard, in `tensorboard/` of the run directory.
    pub tensorboard: bool,
}

impl Serialize for Trackers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.tensorboard.then_some(Word::Tensorboard))
    }
}

impl<'de> Deserialize<'de> for Trackers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Trackers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"tensorboard\", \"none\" or a list of such words")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Trackers, E> {
                let word = Word::deserialize(StrDeserializer::<E>::new(word))?;
                Ok(Trackers { tensorboard: word == Word::Tensorboard })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut words: A) -> Result<Trackers, A::Error> {
                let mut trackers = Trackers::default();
                while let Some(word) = words.next_element::<Word>()? {
                    trackers.tensorboard |= word == Word::Tensorboard;
                }
                Ok(trackers)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for Trackers {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Trackers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let word = json_schema!({ "enum": ["tensorboard", "none"] });
        json_schema!({ "anyOf": [word, { "type": "array", "items": word }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Trackers, String> {
        #[derive(Deserialize)]
        struct Table {
            report_to: Trackers,
        }
        let table: Result<Table, _> = toml::from_str(&format!("report_to = {value}"));
        table.map(|table| table.report_to).map_err(|error| error.message().to_string())
    }

    #[test]
    fn a_word_or_a_list_names_the_programs() {
        let nothing = Trackers::default();
        for value in ["\"none\"", "[]", "[\"none\"]"] {
            assert_eq!(read(value), Ok(nothing), "{value}");
        }
        for value in ["\"tensorboard\"", "[\"tensorboard\"]", "[\"tensorboard\", \"none\"]"] {
            assert_eq!(read(value), Ok(Trackers { tensorboard: true }), "{value}");
        }
    }

    #[test]
    fn another_name_is_refused_with_the_known_ones() {
        for value in ["\"wandb\"", "[\"tensorboard\", \"wandb\"]"] {
            let error = read(value).unwrap_err();
            assert!(
                ["`wandb`", "`tensorboard`", "`none`"].iter().all(|name| error.contains(name)),
                "{error}"
            );
        }
        let error = read("3").unwrap_err();
        assert!(error.contains("\"tensorboard\", \"none\" or a list"), "{error}");
    }
}
