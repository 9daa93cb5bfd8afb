//! The choice that a row's label names, by its text or by its index. A label that could mean two choices is refused,
//! because the wrong one would train on shifted labels.

use serde_json::Value;

use crate::data::row::Row;
use crate::error::{Error, Result};

/// The index of the choice that `field` of `row` names.
///
/// A string is the choice; spaces around it do not matter. If all choices are integers, a number is the choice; if all
/// are words like yes and no, a bool is the choice. Otherwise a number or bool is an index.
///
/// # Errors
/// A label that names no choice, or is one choice's text and another's index.
pub fn label_index(row: &Row, field: &str, choices: &[String]) -> Result<usize> {
    let label = row.field(field)?;
    let found = match label {
        Value::String(text) => Reading::of_text(text, choices),
        Value::Bool(truth) => Reading::of(*truth, choices, yes_or_no, |truth| Some(usize::from(truth))),
        Value::Number(_) => match integer(label) {
            Some(number) => Reading::of(
                number,
                choices,
                |choice| choice.parse().ok(),
                |number| usize::try_from(number).ok(),
            ),
            None => Reading::None,
        },
        _ => Reading::None,
    };
    let quoted = |choices: &[String]| {
        choices.iter().map(|choice| format!("\"{choice}\"")).collect::<Vec<_>>().join(", ")
    };
    match found {
        Reading::One(index) => {
            if let [no, yes, ..] = choices
                && label.is_boolean()
                && choices.iter().any(|choice| yes_or_no(choice.trim()).is_none())
            {
                tracing::warn!(
                    "a label `{field}` that is true or false is taken as an index: false is \"{no}\", true is \"{yes}\""
                );
            }
            Ok(index)
        }
        Reading::None => Err(row.wrong(
            field,
            &format!("an index from 0 to {} or one of {}", choices.len() - 1, quoted(choices)),
        )),
        Reading::NoText => Err(row.wrong(field, &format!("one of {}", quoted(choices)))),
        Reading::Two { index, text } => Err(ambiguous(row, field, label, &choices[index], &choices[text])),
    }
}

/// The number of a class, from 0 to `classes - 1`, in `field` of `row`.
///
/// # Errors
/// A missing field, and any other value.
pub fn class_index(row: &Row, field: &str, classes: usize) -> Result<usize> {
    let index = match row.field(field)? {
        Value::Bool(truth) => Some(usize::from(*truth)),
        label => integer(label).and_then(|index| usize::try_from(index).ok()),
    };
    index
        .filter(|&index| index < classes)
        .ok_or_else(|| row.wrong(field, &format!("a number from 0 to {}", classes - 1)))
}

/// The number as an integer. 1.0 counts as one: spreadsheet programs write it if a column has empty cells.
fn integer(label: &Value) -> Option<i64> {
    let float = || label.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 1e9).map(|x| x as i64);
    label.as_i64().or_else(float)
}

/// The truth value that a word stands for.
fn yes_or_no(choice: &str) -> Option<bool> {
    match choice.to_lowercase().as_str() {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Choices that a label may name.
enum Reading {
    One(usize),
    /// Neither an index nor a choice.
    None,
    /// No choice has this text, and it cannot be an index: all choices are values of the label's type.
    NoText,
    /// One choice by its index and another by its text.
    Two {
        index: usize,
        text: usize,
    },
}

impl Reading {
    fn of_text(text: &str, choices: &[String]) -> Self {
        if let Some(exact) = choices.iter().position(|choice| choice == text) {
            return Self::One(exact);
        }
        let mut same = (0..choices.len()).filter(|&i| choices[i].trim() == text.trim());
        match (same.next(), same.next()) {
            (Some(first), None) => Self::One(first),
            (Some(first), Some(second)) => Self::Two { index: first, text: second },
            (None, _) => Self::None,
        }
    }

    /// Reads a label that may be the index of a choice or its value.
    fn of<T: Copy + PartialEq>(
        label: T,
        choices: &[String],
        value: impl Fn(&str) -> Option<T>,
        index: impl Fn(T) -> Option<usize>,
    ) -> Self {
        let values: Vec<Option<T>> = choices.iter().map(|choice| value(choice.trim())).collect();
        let mut same = (0..choices.len()).filter(|&i| values[i] == Some(label));
        let text = same.next();
        if let (Some(first), Some(second)) = (text, same.next()) {
            return Self::Two { index: first, text: second };
        }
        let at = index(label).filter(|&index| index < choices.len());
        match (text, at) {
            _ if values.iter().all(Option::is_some) => text.map_or(Self::NoText, Self::One),
            (Some(text), Some(index)) if text != index => Self::Two { index, text },
            (found, other) => found.or(other).map_or(Self::None, Self::One),
        }
    }
}

fn ambiguous(row: &Row, field: &str, label: &Value, index: &str, text: &str) -> Error {
    row.error(match label.is_string() {
        true => format!(
            "field `{field}`: {label} could be \"{index}\" or \"{text}\"; write one of them, with its spaces"
        ),
        false => format!(
            "field `{field}`: {label} is \"{index}\" as an index and \"{text}\" as text; \
             write the choice itself, as a string"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::row::for_tests;

    fn read(label: &str, choices: &[&str]) -> Result<usize, String> {
        let row = for_tests(1, &format!("{{\"label\": {label}}}"));
        let choices: Vec<String> = choices.iter().map(|choice| choice.to_string()).collect();
        label_index(&row, "label", &choices)
            .map_err(|error| error.to_string().strip_prefix("rows.jsonl").unwrap().to_string())
    }

    #[test]
    fn a_number_is_a_choice_if_all_choices_are_integers() {
        let stars = [" 1", " 2", " 3", " 4"];
        assert_eq!(read("1", &stars), Ok(0));
        assert_eq!(read("4", &stars), Ok(3));
        assert_eq!(read("4.0", &stars), Ok(3));
        assert_eq!(read("\"2\"", &stars), Ok(1));
        assert_eq!(
            read("0", &stars).unwrap_err(),
            ":1: field `label`: expected one of \" 1\", \" 2\", \" 3\", \" 4\", got the number 0"
        );
        assert_eq!(read("1", &["1", "0"]), Ok(0));
        assert_eq!(read("0", &["1", "0"]), Ok(1));
        assert_eq!(read("1", &["-1", "1"]), Ok(1));
        assert_eq!(read("-1", &["-1", "1"]), Ok(0));
        assert_eq!(read("10", &[" 10", " 20"]), Ok(0));
    }

    #[test]
    fn a_number_is_an_index_if_some_choice_is_not_an_integer() {
        assert_eq!(read("1", &[" bad", " good"]), Ok(1));
        assert_eq!(read("1.0", &[" bad", " good"]), Ok(1));
        assert_eq!(read("1", &["0", "1", "unknown"]), Ok(1));
        assert_eq!(read("2", &["0", "1", "unknown"]), Ok(2));
        assert_eq!(read("2", &["1", "0", "unknown"]), Ok(2));
        assert_eq!(read("7", &["7", "unknown"]), Ok(0));
    }

    #[test]
    fn a_number_that_could_mean_two_choices_is_refused_with_both() {
        assert_eq!(
            read("1", &["1", "0", "unknown"]).unwrap_err(),
            ":1: field `label`: 1 is \"0\" as an index and \"1\" as text; write the choice itself, as a string"
        );
        assert_eq!(read("\"1\"", &["1", "0", "unknown"]), Ok(0));
    }

    #[test]
    fn a_bool_is_a_choice_if_all_choices_say_yes_or_no() {
        assert_eq!(read("true", &[" Yes", " No"]), Ok(0));
        assert_eq!(read("false", &[" True", " False"]), Ok(1));
        assert_eq!(read("true", &[" 1", " 0"]), Ok(0));
        assert_eq!(read("true", &[" terrible", " great"]), Ok(1));
        assert!(
            read("true", &["Yes", "No", "Maybe"])
                .unwrap_err()
                .contains("true is \"No\" as an index and \"Yes\" as text")
        );
    }

    #[test]
    fn a_string_is_a_choice_whatever_spaces_surround_it() {
        assert_eq!(read("\" good \"", &[" bad", " good"]), Ok(1));
        assert_eq!(read("\"a\"", &[" a", "a"]), Ok(1));
        assert!(read("\"a \"", &[" a", "a"]).unwrap_err().contains("could be \" a\" or \"a\""));
        assert!(read("\"x\"", &[" a", "b"]).is_err());
    }
}
