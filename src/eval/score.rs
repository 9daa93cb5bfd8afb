//! Scores sequences: −log p of each of their tokens, for comparison with other programs.

use serde::Serialize;
use serde_json::Value;

use super::{log_probs, passes};
use crate::data::{Dataset, Row, Sequence, Target, Tokenizer};
use crate::error::Result;
use crate::model::{LanguageModel, ModelInput};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoreReport {
    pub sequences: Vec<SequenceScore>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SequenceScore {
    /// Mean of `token_nll`, in nats.
    pub nll: f64,
    /// Length of `token_nll`: one less than the sequence.
    pub tokens: usize,
    /// `token_nll[i]` = −log p(token i+1 | tokens ≤ i).
    pub token_nll: Vec<f32>,
}

/// Scores every row of `data`. A row holds `text`, which is tokenized with the tokenizer's special tokens, or
/// `input_ids`, to which nothing is added. `progress` is given the number of rows done.
///
/// # Errors
/// A row of another form, beyond the model's context or outside its vocabulary, and a failure of the model.
pub fn score(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    data: &Dataset,
    progress: &mut dyn FnMut(usize),
) -> Result<ScoreReport> {
    let (context, vocab) = (model.config().max_position_embeddings, model.config().vocab_size);
    let all =
        data.rows.iter().map(|row| tokens(row, tokenizer, context, vocab)).collect::<Result<Vec<_>>>()?;
    let mut sequences = Vec::with_capacity(all.len());
    for pass in passes(all.iter().map(Vec::len)) {
        let (mut tokens, mut rows, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in &all[pass.clone()] {
            let start = tokens.len();
            tokens.extend_from_slice(&sequence[..sequence.len() - 1]);
            rows.push(Sequence::alone(start..tokens.len()));
            let next = (start as u32..).zip(&sequence[1..]);
            targets.extend(next.map(|(row, &token)| Target { row, token }));
        }
        let log_probs = log_probs(model, ModelInput { tokens: &tokens, sequences: &rows }, &targets)?;
        sequences.extend(rows.into_iter().map(|sequence| {
            let token_nll: Vec<f32> = log_probs[sequence.rows].iter().map(|l| -l).collect();
            let sum: f64 = token_nll.iter().map(|l| f64::from(*l)).sum();
            SequenceScore { nll: sum / token_nll.len() as f64, tokens: token_nll.len(), token_nll }
        }));
        progress(pass.end);
    }
    Ok(ScoreReport { sequences })
}

fn tokens(row: &Row, tokenizer: &Tokenizer, context: usize, vocab: usize) -> Result<Vec<u32>> {
    let tokens = match row.fields.get("input_ids") {
        Some(ids) => {
            let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids = ids.as_array().and_then(|ids| ids.iter().map(id).collect::<Option<Vec<u32>>>());
            ids.ok_or_else(|| row.wrong("input_ids", "an array of token ids"))?
        }
        None if row.fields.contains_key("text") => tokenizer.encode(row.text("text")?, true)?,
        None => return Err(row.error("expected a field `text` or `input_ids`")),
    };
    if tokens.len() < 2 {
        return Err(row.error(format!("{} tokens: at least 2 are needed to score one", tokens.len())));
    }
    if tokens.len() - 1 > context {
        return Err(row.error(format!("{} tokens, but the model's context holds {context}", tokens.len())));
    }
    match tokens.iter().find(|&&token| token as usize >= vocab) {
        Some(token) => Err(row.error(format!("token {token} is outside the model's vocabulary of {vocab}"))),
        None => Ok(tokens),
    }
}
