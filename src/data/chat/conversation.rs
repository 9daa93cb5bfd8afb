//! Conversations as datasets have them: `messages` with `role` and `content` (OpenAI, TRL), or `conversations` with `from`
//! and `value` (ShareGPT), and the tools that they may call.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::data::row::{Row, describe};
use crate::error::Result;

/// A conversation, ready for a chat template.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    pub turns: Vec<Turn>,
    /// Descriptions of the functions that the assistant may call.
    pub tools: Option<Value>,
}

/// One message, with all its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    pub fields: Map<String, Value>,
    /// Whether the turn is learned.
    pub is_learned: bool,
}

impl Turn {
    /// A turn of a role, which is learned if it is the assistant's.
    pub fn new(role: &str, content: &str) -> Self {
        let fields =
            [("role", role), ("content", content)].map(|(name, text)| (name.to_owned(), text.into()));
        Self { fields: fields.into_iter().collect(), is_learned: role == ASSISTANT }
    }

    /// The same turn with another text.
    pub fn with_content(&self, content: &str) -> Self {
        let mut turn = self.clone();
        turn.fields.insert("content".to_owned(), content.into());
        turn
    }

    pub fn is_of_assistant(&self) -> bool {
        self.fields.get("role").is_some_and(|role| role == ASSISTANT)
    }
}

const ASSISTANT: &str = "assistant";

impl Conversation {
    /// Reads the conversation in `field` of a row. A `system` text of the row begins it, and `tools` are kept.
    ///
    /// # Errors
    /// A message of another form, with its place.
    pub fn of_row(row: &Row, field: &str) -> Result<Self> {
        let mut turns = turns(row, field)?;
        let system = ["system", "system_prompt"].iter().find_map(|name| row.fields.get(*name));
        if let Some(system) = system.and_then(Value::as_str)
            && !system.trim().is_empty()
            && turns.first().is_none_or(|turn| turn.fields.get("role").is_none_or(|role| role != "system"))
        {
            turns.insert(0, Turn::new("system", system));
        }
        Ok(Self { turns, tools: tools(row)? })
    }

    /// The messages of a prompt, and those of a completion, of which alone the assistant's are learned.
    ///
    /// # Errors
    /// Those of [`Self::of_row`].
    pub fn of_prompt(row: &Row, prompt: &str, completion: &str) -> Result<Self> {
        let mut all = turns(row, prompt)?;
        all.iter_mut().for_each(|turn| turn.is_learned = false);
        all.extend(turns(row, completion)?);
        Ok(Self { turns: all, tools: tools(row)? })
    }
}

/// The messages in a field.
fn turns(row: &Row, field: &str) -> Result<Vec<Turn>> {
    let list = match row.field(field)? {
        Value::Array(list) => Cow::Borrowed(list),
        // A cell of CSV is a text.
        Value::String(text) if text.trim_start().starts_with('[') => {
            let list = serde_json::from_str::<Vec<Value>>(text);
            Cow::Owned(
                list.map_err(|error| row.error(format!("field `{field}`: text that is not JSON: {error}")))?,
            )
        }
        _ => return Err(row.wrong(field, "a list of messages")),
    };
    list.iter().enumerate().map(|(i, message)| turn(row, &format!("{field}[{i}]"), message)).collect()
}

fn turn(row: &Row, at: &str, message: &Value) -> Result<Turn> {
    let expected = |name: &str, what: &str, got: Option<&Value>| {
        let got = got.map_or_else(|| "nothing".to_owned(), describe);
        row.error(format!("field `{at}{name}`: expected {what}, got {got}"))
    };
    let Value::Object(given) = message else {
        return Err(expected("", "a message with `role` and `content`", Some(message)));
    };
    // Parquet has every field in every message; those that are null were not there.
    let mut fields = given.clone();
    fields.retain(|_, value| !value.is_null());
    let from = fields.remove("from");
    let role = match (fields.get("role"), from) {
        (Some(role), _) => {
            let role = role.as_str().filter(|role| !role.is_empty());
            role.ok_or_else(|| expected(".role", "a role such as user or assistant", fields.get("role")))?
                .to_owned()
        }
        (None, Some(from)) => {
            let role = from.as_str().and_then(sharegpt_role);
            role.ok_or_else(|| expected(".from", SHAREGPT_ROLES, Some(&from)))?.to_owned()
        }
        (None, None) => return Err(expected(".role", "a role such as user or assistant", None)),
    };
    let content = fields.remove("content").or_else(|| fields.remove("value"));
    let content = match content {
        Some(Value::String(text)) => Value::String(text),
        Some(Value::Array(parts)) => Value::String(joined(row, at, &parts)?),
        None if fields.contains_key("tool_calls") => Value::Null,
        other => return Err(expected(".content", "a text", other.as_ref())),
    };
    let weight = match fields.remove("weight") {
        None => true,
        Some(weight) if weight.as_f64() == Some(1.0) => true,
        Some(weight) if weight.as_f64() == Some(0.0) => false,
        Some(other) => return Err(expected(".weight", "0 or 1", Some(&other))),
    };
    let is_learned = weight && role == ASSISTANT;
    let first = [("role".to_owned(), role.into()), ("content".to_owned(), content)];
    fields.remove("role");
    Ok(Turn { fields: first.into_iter().chain(fields).collect(), is_learned })
}

/// The text of a content in parts, which must all be texts.
fn joined(row: &Row, at: &str, parts: &[Value]) -> Result<String> {
    let text = |(i, part): (usize, &Value)| match (part, part.get("text")) {
        (Value::String(text), _) | (_, Some(Value::String(text))) => Ok(text.clone()),
        _ => {
            let kind = part.get("type").map_or_else(|| describe(part), describe);
            Err(row.error(format!("field `{at}.content[{i}]`: expected a text, got {kind}")))
        }
    };
    parts.iter().enumerate().map(text).collect()
}

fn tools(row: &Row) -> Result<Option<Value>> {
    let tools = match row.fields.get("tools") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        // In parquet and CSV, the list is often JSON in a text.
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| row.error(format!("field `tools`: text that is not JSON: {error}")))?,
        Some(tools) => tools.clone(),
    };
    match tools {
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(_) => Ok(Some(tools)),
        _ => Err(row.wrong("tools", "a list of tools")),
    }
}

const SHAREGPT_ROLES: &str = "human, gpt, system or tool";

/// The role that ShareGPT's `from` stands for.
fn sharegpt_role(from: &str) -> Option<&'static str> {
    Some(match from.to_lowercase().as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "model" => ASSISTANT,
        "system" => "system",
        "tool" | "function" | "observation" | "function_response" => "tool",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::row::for_tests;

    fn read(field: &str, row: Value) -> Result<Conversation> {
        Conversation::of_row(&for_tests(1, &row.to_string()), field)
    }

    fn roles(chat: &Conversation) -> Vec<(&str, bool)> {
        chat.turns.iter().map(|turn| (turn.fields["role"].as_str().unwrap(), turn.is_learned)).collect()
    }

    #[test]
    fn messages_keep_their_fields_and_only_the_assistants_are_learned() {
        let call = json!({"role": "assistant", "content": null, "tool_calls": [{"name": "f"}], "name": null});
        let chat = json!({"messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            call,
            {"content": "4", "role": "tool", "tool_call_id": "x"},
            {"role": "assistant", "content": "no", "weight": 0},
            {"role": "assistant", "content": "yes", "weight": 1},
        ], "tools": "[{\"name\": \"f\"}]"});
        let chat = read("messages", chat).unwrap();
        let expected = [
            ("system", false),
            ("user", false),
            ("assistant", true),
            ("tool", false),
            ("assistant", false),
            ("assistant", true),
        ];
        assert_eq!(roles(&chat), expected);
        assert_eq!(chat.turns[1].fields["content"], "ab");
        assert_eq!(
            Value::Object(chat.turns[2].fields.clone()),
            json!({"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]})
        );
        assert_eq!(chat.turns[3].fields["tool_call_id"], "x");
        assert_eq!(chat.tools, Some(json!([{"name": "f"}])));
    }

    #[test]
    fn sharegpt_roles_are_translated_and_a_system_text_of_the_row_begins_the_chat() {
        let row = json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"});
        let chat = read("conversations", row).unwrap();
        assert_eq!(roles(&chat), [("system", false), ("user", false), ("assistant", true)]);
        assert_eq!(&chat.turns[2].fields, json!({"role": "assistant", "content": "b"}).as_object().unwrap());
    }

    #[test]
    fn messages_may_be_json_in_a_text() {
        let row = json!({"messages": "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]"});
        assert_eq!(roles(&read("messages", row).unwrap()), [("user", false), ("assistant", true)]);
    }

    #[test]
    fn a_message_of_another_form_is_named() {
        let error = |messages: Value| {
            let error = read("messages", json!({"messages": messages})).unwrap_err().to_string();
            error.strip_prefix("rows.jsonl:1: field ").unwrap().to_owned()
        };
        assert!(error(json!("[3")).starts_with("`messages`: text that is not JSON: EOF"));
        assert_eq!(error(json!("hi")), "`messages`: expected a list of messages, got the string \"hi\"");
        assert_eq!(
            error(json!([3])),
            "`messages[0]`: expected a message with `role` and `content`, got the number 3"
        );
        assert_eq!(
            error(json!([{"content": "a"}])),
            "`messages[0].role`: expected a role such as user or assistant, got nothing"
        );
        assert_eq!(
            error(json!([{"role": "user", "content": 3}])),
            "`messages[0].content`: expected a text, got the number 3"
        );
        assert_eq!(error(json!([{"role": "user"}])), "`messages[0].content`: expected a text, got nothing");
        assert_eq!(
            error(json!([{"role": "user", "content": [{"type": "image"}]}])),
            "`messages[0].content[0]`: expected a text, got the string \"image\""
        );
        assert_eq!(
            error(json!([{"from": "alice", "value": "a"}])),
            "`messages[0].from`: expected human, gpt, system or tool, got the string \"alice\""
        );
        assert_eq!(
            error(json!([{"role": "user", "content": "a", "weight": 2}])),
            "`messages[0].weight`: expected 0 or 1, got the number 2"
        );
    }
}
