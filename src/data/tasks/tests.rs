use super::*;
use crate::data::row::{Row, for_tests};

fn row(json: &str) -> Row {
    for_tests(1, json)
}

fn builtin(name: &str, json: &str) -> Example {
    Task::new(&TaskConfig::of_task(name)).unwrap().example(&row(json)).unwrap()
}

fn classification(prompt: &str, options: &[&str], gold: &[usize]) -> Example {
    Example::Classification {
        prompt: prompt.to_string(),
        options: options.iter().map(|o| o.to_string()).collect(),
        gold: gold.to_vec(),
    }
}

fn sentiment() -> Task {
    Task::new(&TaskConfig::of_choices("{text} It was", &[" terrible", " great"])).unwrap()
}

fn row_error(task: &Task, json: &str) -> String {
    let error = task.example(&row(json)).unwrap_err().to_string();
    error.split_once("rows.jsonl").unwrap().1.to_string()
}

#[test]
fn sentence_tasks_have_mezos_prompts() {
    assert_eq!(
        builtin("sst2", r#"{"sentence": " a gem . ", "label": 1, "idx": 0}"#),
        classification("a gem . It was", &[" terrible", " great"], &[1])
    );
    assert_eq!(
        builtin("rte", r#"{"premise": "P.", "hypothesis": "H.", "label": 1}"#),
        classification("P.\nDoes this mean that \"H.\" is true? Yes or No?\n", &["Yes", "No"], &[1])
    );
    assert_eq!(
        builtin("cb", r#"{"premise": "P.", "hypothesis": "H", "label": 2}"#),
        classification(
            "Suppose P. Can we infer that \"H\"? Yes, No, or Maybe?\n",
            &["Yes", "No", "Maybe"],
            &[2]
        )
    );
    assert_eq!(
        builtin("wsc", r#"{"text": "T.", "span1_text": "Ann", "span2_text": "She", "label": 0}"#),
        classification(
            "T.\nIn the previous sentence, does the pronoun \"she\" refer to Ann? Yes or No?\n",
            &["No", "Yes"],
            &[0]
        )
    );
    assert_eq!(
        builtin("wic", r#"{"word": "w", "sentence1": "A.", "sentence2": "B.", "label": 1}"#),
        classification(
            "Does the word \"w\" have the same meaning in these two sentences? Yes, No?\nA.\nB.\n",
            &["No", "Yes"],
            &[1]
        )
    );
    assert_eq!(
        builtin("multirc", r#"{"paragraph": "P", "question": "Q?", "answer": "A", "label": 1}"#),
        classification(
            "P\nQuestion: Q?\nI found this answer \"A\". Is that correct? Yes or No?\n",
            &["No", "Yes"],
            &[1]
        )
    );
}

#[test]
fn boolq_reads_the_fields_of_both_its_datasets() {
    let expected = |gold| classification("P. Is it?\n", &["Yes", "No"], &[gold]);
    assert_eq!(builtin("boolq", r#"{"passage": "P.", "question": "is it", "answer": true}"#), expected(0));
    assert_eq!(builtin("boolq", r#"{"passage": "P.", "question": "is it?", "answer": false}"#), expected(1));
    assert_eq!(builtin("boolq", r#"{"passage": "P.", "question": "is it?", "label": 1}"#), expected(0));
    assert_eq!(builtin("boolq", r#"{"passage": "P.", "question": "is it?", "label": 0}"#), expected(1));
}

#[test]
fn copa_joins_premise_and_choice_into_one_sentence() {
    let json = r#"{"premise": "My body cast a shadow. ", "choice1": "The sun was rising.", "choice2": "I sat.", "question": "cause", "label": 0}"#;
    assert_eq!(
        builtin("copa", json),
        classification("My body cast a shadow because", &[" the sun was rising.", " I sat."], &[0])
    );
    let json = json.replace("cause\"", "effect\"");
    assert!(
        matches!(builtin("copa", &json), Example::Classification { prompt, .. } if prompt.ends_with("shadow so"))
    );
}

#[test]
fn record_scores_the_query_with_every_entity() {
    let json = r#"{"passage": "Text.\n@highlight\nOne", "query": "It was @placeholder.", "entities": ["A", "B", "C"], "answers": ["B", "C"]}"#;
    assert_eq!(
        builtin("record", json),
        classification("Text.\n- One\n-", &[" It was A.", " It was B.", " It was C."], &[1, 2])
    );
}

#[test]
fn answers_to_generate_keep_every_gold_answer() {
    let json = r#"{"title": "T", "context": "C", "question": " Q? ", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}}"#;
    assert_eq!(
        builtin("squad", json),
        Example::Generation {
            prompt: "Title: T\nContext: C\nQuestion: Q?\nAnswer:".into(),
            answers: vec!["a".into(), "b".into()]
        }
    );
    let json =
        r#"{"passage": "P", "question": "Q?", "answers_spans": {"spans": ["3"], "types": ["number"]}}"#;
    assert_eq!(
        builtin("drop", json),
        Example::Generation { prompt: "Passage: P\nQuestion: Q?\nAnswer:".into(), answers: vec!["3".into()] }
    );
}

#[test]
fn a_label_is_an_index_a_bool_or_the_choice_itself() {
    for (label, gold) in [
        ("0", 0),
        ("1", 1),
        ("false", 0),
        ("true", 1),
        ("\" great\"", 1),
        ("\"great\"", 1),
        ("\"terrible\"", 0),
    ] {
        let example = sentiment().example(&row(&format!(r#"{{"text": "Hm.", "label": {label}}}"#))).unwrap();
        assert_eq!(example, classification("Hm. It was", &[" terrible", " great"], &[gold]), "{label}");
    }
}

#[test]
fn a_label_outside_the_choices_is_named_with_what_was_expected() {
    let expected = r#"an index from 0 to 1 or one of " terrible", " great""#;
    for (label, got) in [
        ("2", "the number 2"),
        ("-1", "the number -1"),
        ("0.5", "the number 0.5"),
        ("\"good\"", "the string \"good\""),
        ("null", "null"),
        ("[0]", "a list of 1"),
    ] {
        assert_eq!(
            row_error(&sentiment(), &format!(r#"{{"text": "Hm.", "label": {label}}}"#)),
            format!(":1: field `label`: expected {expected}, got {got}")
        );
    }
    assert_eq!(row_error(&sentiment(), r#"{"text": "Hm."}"#), ":1: no field `label`; the row has: text");
    assert_eq!(
        row_error(&sentiment(), r#"{"sentence": "Hm.", "label": 1}"#),
        ":1: no field `text`; the row has: sentence, label"
    );
    let sst2 = Task::Builtin(Builtin::Sst2);
    assert_eq!(
        row_error(&sst2, r#"{"text": "Hm.", "label": 1}"#),
        ":1: no field `sentence`; the row has: text, label"
    );
    assert!(row_error(&sst2, r#"{"sentence": "Hm.", "label": -1}"#).ends_with("got the number -1"));
}

#[test]
fn a_completion_follows_its_prompt() {
    let task = Task::new(&TaskConfig::of_completion("Q: {q} {{{n}}}\nA:", "a")).unwrap();
    assert_eq!(
        task.example(&row(r#"{"q": "Why?", "n": 3, "a": " So."}"#)).unwrap(),
        Example::Completion { prompt: "Q: Why? {3}\nA:".into(), completion: " So.".into() }
    );
    assert!(row_error(&task, r#"{"q": "Why?", "n": 3, "a": ""}"#).starts_with(":1: field `a`: expected"));
    assert_eq!(
        row_error(&task, r#"{"q": ["x"], "n": 3, "a": "b"}"#),
        ":1: field `q`: expected a string or a number, got a list of 1"
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let error = |config: TaskConfig| Task::new(&config).unwrap_err().to_string();
    let choices = |choices: &[&str]| TaskConfig::of_choices("{p}", choices);
    let completion = TaskConfig::of_completion("{p}", "c");
    let label = Some("l".to_string());
    assert_eq!(error(TaskConfig::default()), "choices, label and completion need a prompt");
    assert_eq!(error(TaskConfig::of_task("sst3")), "no task `sst3`; nearest is sst2");
    assert!(
        error(TaskConfig { label: label.clone(), ..TaskConfig::of_task("sst2") })
            .contains("has its own prompt")
    );
    assert_eq!(
        error(TaskConfig { choices: choices(&["a", "b"]).choices, ..completion.clone() }),
        "choices and completion exclude each other"
    );
    assert_eq!(error(TaskConfig { label, ..completion.clone() }), "label needs choices, not completion");
    assert_eq!(
        error(TaskConfig { prompt: None, ..choices(&["a", "b"]) }),
        "choices, label and completion need a prompt"
    );
    assert_eq!(
        error(TaskConfig { completion: None, ..completion }),
        "a prompt without choices and without completion"
    );
    assert_eq!(error(choices(&["a"])), "choices: expected two or more, got 1");
    assert_eq!(error(choices(&["a", "a"])), "choices: \"a\" is given twice");
    for (prompt, what) in [
        ("{a", "a `{` without its `}`"),
        ("a}", "a `}` without its `{`"),
        ("{}", "a placeholder without a field name"),
        ("{a{b}}", "a `{` without its `}`"),
    ] {
        assert_eq!(error(TaskConfig::of_choices(prompt, &["a", "b"])), format!("prompt `{prompt}`: {what}"));
    }
}
