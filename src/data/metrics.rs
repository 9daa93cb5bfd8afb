//! Exact match and token F1 of an answer against gold answers, as the SQuAD v1.1 evaluation script and MeZO's
//! `metrics.py` compute them. Of several gold answers the one with the best result counts.

use std::collections::HashMap;

/// 1 if the answer equals a gold answer apart from case, punctuation, articles and spaces; else 0.
pub fn exact_match(answer: &str, golds: &[String]) -> f64 {
    let answer = normalize(answer);
    if golds.iter().any(|gold| normalize(gold) == answer) { 1.0 } else { 0.0 }
}

/// Harmonic mean of precision and recall over words, counted with their multiplicity.
pub fn f1(answer: &str, golds: &[String]) -> f64 {
    golds.iter().map(|gold| f1_against(answer, gold)).fold(0.0, f64::max)
}

fn f1_against(answer: &str, gold: &str) -> f64 {
    let (answer, gold) = (normalize(answer), normalize(gold));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in gold.split(' ').filter(|w| !w.is_empty()) {
        *left.entry(word).or_default() += 1;
    }
    let gold_words: usize = left.values().sum();
    let (mut words, mut same) = (0, 0);
    for word in answer.split(' ').filter(|w| !w.is_empty()) {
        words += 1;
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (f64::from(same) / f64::from(words), f64::from(same) / gold_words as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Sets a text in lower case, then removes ASCII punctuation, the words a, an and the, and extra spaces.
fn normalize(text: &str) -> String {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let word = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (run, after) = rest.split_at(word);
        kept.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        let gap = after.find(char::is_alphanumeric).unwrap_or(after.len());
        kept.push_str(&after[..gap]);
        rest = &after[gap..];
    }
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answer, gold answers, exact match and F1, computed by the functions of the SQuAD v1.1 script.
    #[derive(serde::Deserialize)]
    struct SquadCase(String, Vec<String>, f64, f64);

    #[test]
    fn exact_match_and_f1_agree_with_the_squad_script() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizers/squad_metrics.json");
        let cases: Vec<SquadCase> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(cases.len() >= 10, "{path} has only {} cases", cases.len());
        for SquadCase(answer, golds, em, f) in cases {
            assert_eq!(exact_match(&answer, &golds), em, "EM of {answer:?} against {golds:?}");
            assert!((f1(&answer, &golds) - f).abs() < 1e-12, "F1 of {answer:?} against {golds:?}");
        }
    }

    #[test]
    fn the_best_gold_answer_counts() {
        let golds = ["Denver".to_string(), "the Denver Broncos".to_string()];
        assert_eq!(exact_match("Denver Broncos!", &golds), 1.0);
        assert_eq!(f1("Broncos", &golds), 2.0 / 3.0);
        assert_eq!(f1("", &golds), 0.0);
    }
}
