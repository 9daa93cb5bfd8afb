//! The parameters that exact gradients train: `train.parameters`.

use std::fmt;

use clap::ValueEnum;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor, value::StrDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::arch::{TensorKind, TensorKinds};
use crate::model::ScaleForm;

/// A word of `train.parameters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ParameterKind {
    /// Every scale by itself.
    Scales,
    /// One factor for the scales of each row.
    Rows,
    /// One factor for the scales of each row, and one for those of each group of columns.
    Factors,
    /// The float minima of groups, where the format has them (GGUF's Q4_1 and Q5_1, MLX).
    Minima,
    /// The norms inside the trained blocks.
    Norms,
    /// The biases of the linears inside the trained blocks.
    Biases,
}

impl ParameterKind {
    const FORMS: [(Self, ScaleForm); 3] = [
        (Self::Scales, ScaleForm::Scales),
        (Self::Rows, ScaleForm::Rows),
        (Self::Factors, ScaleForm::Factors),
    ];

    const TENSORS: [(Self, TensorKind); 3] = [
        (Self::Minima, TensorKind::Minima),
        (Self::Norms, TensorKind::Norms),
        (Self::Biases, TensorKind::Biases),
    ];

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }
}

/// The parameters that exact gradients train: the scales in one form, and tensors beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    pub form: ScaleForm,
    pub tensors: TensorKinds,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { form: ScaleForm::Scales, tensors: TensorKinds::default() }
    }
}

impl Parameters {
    /// The parameters that these words name; the scales, if no word names a form of them.
    ///
    /// # Errors
    /// No word, one that stands twice, or two forms of the scales.
    pub fn of(words: &[ParameterKind]) -> Result<Self, String> {
        if words.is_empty() {
            return Err("parameters names nothing to train".into());
        }
        let (mut forms, mut tensors) = (Vec::new(), TensorKinds::default());
        for (index, word) in words.iter().enumerate() {
            if words[..index].contains(word) {
                return Err(format!("parameters names \"{}\" twice", word.name()));
            }
            let tensor = ParameterKind::TENSORS.iter().find(|(known, _)| known == word);
            tensor.into_iter().for_each(|(_, kind)| tensors.insert(*kind));
            forms.extend(ParameterKind::FORMS.iter().filter(|(known, _)| known == word));
        }
        match forms[..] {
            [] => Ok(Self { form: ScaleForm::Scales, tensors }),
            [(_, form)] => Ok(Self { form, tensors }),
            [(first, _), (second, _), ..] => Err(format!(
                "parameters names \"{}\" and \"{}\", but the scales are trained in one form",
                first.name(),
                second.name()
            )),
        }
    }

    /// The words for the parameters: the form of the scales first.
    fn words(self) -> impl Iterator<Item = ParameterKind> {
        let form = ParameterKind::FORMS.into_iter().filter(move |(_, form)| *form == self.form);
        let tensors = ParameterKind::TENSORS.into_iter().filter(move |(_, kind)| self.tensors.has(*kind));
        form.map(|(word, _)| word).chain(tensors.map(|(word, _)| word))
    }
}

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let words: Vec<ParameterKind> = self.words().collect();
        match words[..] {
            [word] => word.serialize(serializer),
            _ => words.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Parameters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a list of words for what is trained")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Parameters, E> {
                let word = ParameterKind::deserialize(StrDeserializer::<E>::new(word))?;
                Parameters::of(&[word]).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut words: A) -> Result<Parameters, A::Error> {
                let mut all = Vec::new();
                while let Some(word) = words.next_element()? {
                    all.push(word);
                }
                Parameters::of(&all).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for Parameters {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Parameters".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = generator.subschema_for::<ParameterKind>();
        let list = json_schema!({ "type": "array", "items": word, "minItems": 1, "uniqueItems": true });
        json_schema!({ "anyOf": [word, list] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Parameters, String> {
        serde_json::from_str(value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_word_or_a_list_says_what_is_trained() {
        let tensors = TensorKinds { norms: true, ..TensorKinds::default() };
        assert_eq!(read("\"scales\""), Ok(Parameters::default()));
        assert_eq!(read("\"rows\""), Ok(Parameters { form: ScaleForm::Rows, ..Parameters::default() }));
        for value in ["\"norms\"", "[\"norms\"]", "[\"norms\", \"scales\"]"] {
            assert_eq!(read(value), Ok(Parameters { tensors, ..Parameters::default() }), "{value}");
        }
        for value in ["\"scales\"", "\"factors\"", "[\"rows\",\"minima\",\"norms\",\"biases\"]"] {
            assert_eq!(serde_json::to_string(&read(value).unwrap()).unwrap(), value);
        }
    }

    #[test]
    fn contradicting_words_are_refused() {
        for (value, expected) in [
            ("[\"scales\", \"rows\"]", "names \"scales\" and \"rows\""),
            ("[\"norms\", \"norms\"]", "names \"norms\" twice"),
            ("[]", "names nothing"),
            ("[\"scale\"]", "unknown variant `scale`"),
            ("\"norm\"", "expected one of `scales`, `rows`"),
            ("3", "expected a word or a list of words"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
        }
    }
}
