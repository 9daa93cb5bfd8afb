//! Flags that are keys of recipes: other programs have them as flags, here they are given with `--set`.

use clap::Command;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::config::Config;

/// Names of settings in other programs, and what recipes call them.
const OTHER_NAMES: [(&str, &str); 10] = [
    ("batch", "train.batch_size"),
    ("cutoff_len", "data.max_seq_length"),
    ("epochs", "train.num_train_epochs"),
    ("iters", "train.max_steps"),
    ("lr", "train.learning_rate"),
    ("max_length", "data.max_seq_length"),
    ("num_epochs", "train.num_train_epochs"),
    ("per_device_train_batch_size", "train.batch_size"),
    ("sequence_len", "data.max_seq_length"),
    ("steps", "train.max_steps"),
];

/// Adds to the error of an unknown flag of `program` how its setting is given, if it is one.
pub fn with_tip(mut error: Error, program: &Command) -> Error {
    let usage = error.get(ContextKind::Usage).map(ContextValue::to_string).unwrap_or_default();
    // Only commands that read a recipe have `--set`.
    let takes_set = program.get_subcommands().any(|command| {
        usage.contains(&format!("{} {} ", program.get_name(), command.get_name()))
            && command.get_arguments().any(|argument| argument.get_id() == "set")
    });
    let key = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if takes_set && error.kind() == ErrorKind::UnknownArgument => {
            key(flag)
        }
        _ => None,
    };
    if let Some(key) = key {
        error.remove(ContextKind::SuggestedArg);
        let tip = format!("it is a key of recipes: --set {key}=VALUE");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The key of recipes that a flag means.
fn key(flag: &str) -> Option<String> {
    let name = flag.strip_prefix("--")?.replace('-', "_");
    let other = OTHER_NAMES.iter().find(|(other, _)| *other == name).map(|(_, key)| (*key).to_owned());
    other.or_else(|| {
        let schema = Config::schema();
        let is_key = |table: &str| schema["$defs"][table]["properties"].get(&name).is_some();
        let tables = [("TrainConfig", "train"), ("DataConfig", "data"), ("QuantizeConfig", "quantize")];
        let (_, section) = tables.into_iter().find(|(table, _)| is_key(table))?;
        Some(format!("{section}.{name}"))
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::Cli;

    fn message(line: &str) -> String {
        let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
        with_tip(error, &Cli::command()).to_string()
    }

    #[test]
    fn a_flag_that_is_a_key_of_recipes_is_explained() {
        let message_of = |flag: &str| message(&format!("qzo finetune m --data d {flag} 3"));
        for (flag, key) in [
            ("--max-steps", "train.max_steps"),
            ("--epochs", "train.num_train_epochs"),
            ("--lr", "train.learning_rate"),
            ("--max_seq_length", "data.max_seq_length"),
            ("--bits", "quantize.bits"),
        ] {
            let message = message_of(flag);
            assert!(message.contains(&format!("--set {key}=VALUE")), "{message}");
        }
        assert!(!message_of("--nonsense").contains("key of recipes"));
        assert!(!message("qzo inspect m --max-steps 3").contains("--set"));
    }

    #[test]
    fn every_name_of_another_program_stands_for_a_key() {
        for (other, name) in OTHER_NAMES {
            let (_, own) = name.split_once('.').unwrap();
            assert_eq!(key(&format!("--{own}")), Some(name.to_owned()));
            assert_eq!(key(&format!("--{}", other.replace('_', "-"))), Some(name.to_owned()));
        }
    }
}
