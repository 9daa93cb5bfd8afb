//! Settings of `[train]` that are a number or a word.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The factor of a step: a number, or `auto`, which chooses one that fits the method and the number of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LearningRate {
    #[default]
    Auto,
    Fixed(f64),
}

/// The decoder blocks that exact gradients train: a number, counted from the last block, or `all`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TailBlocks {
    #[default]
    All,
    Last(usize),
}

impl Serialize for LearningRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(rate) => serializer.serialize_f64(*rate),
        }
    }
}

impl<'de> Deserialize<'de> for LearningRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = LearningRate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or \"auto\"")
            }

            fn visit_f64<E: de::Error>(self, rate: f64) -> Result<LearningRate, E> {
                Ok(LearningRate::Fixed(rate))
            }

            fn visit_i64<E: de::Error>(self, rate: i64) -> Result<LearningRate, E> {
                Ok(LearningRate::Fixed(rate as f64))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<LearningRate, E> {
                match word {
                    "auto" => Ok(LearningRate::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for LearningRate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LearningRate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "number", "minimum": 0 }, { "const": "auto" }] })
    }
}

impl Serialize for TailBlocks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Last(blocks) => serializer.serialize_u64(*blocks as u64),
        }
    }
}

impl<'de> Deserialize<'de> for TailBlocks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = TailBlocks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of blocks from 1 on, or \"all\"")
            }

            fn visit_i64<E: de::Error>(self, blocks: i64) -> Result<TailBlocks, E> {
                match usize::try_from(blocks) {
                    Ok(blocks) if blocks > 0 => Ok(TailBlocks::Last(blocks)),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(blocks), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, blocks: u64) -> Result<TailBlocks, E> {
                self.visit_i64(i64::try_from(blocks).unwrap_or(i64::MAX))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<TailBlocks, E> {
                match word {
                    "all" => Ok(TailBlocks::All),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for TailBlocks {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TailBlocks".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "all" }] })
    }
}
