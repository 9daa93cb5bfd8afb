//! Training on a score without a gradient: accuracy, F1 or exact match of generated answers, or the number that a program of
//! the user's gives each generation. Zeroth order needs nothing but its values.

use super::command::{ScoreCommand, ScoredText};
use super::config::ObjectiveKind;
use super::objective::{LossGradients, Objective};
use super::text::TrainingData;
use crate::data::chat::Turn;
use crate::data::{
    Batch, Example, LossKind, LossSum, Row, Sampler, ScoredExample, TokenizedDataset, TokenizedExample,
    Tokenizer, metrics,
};
use crate::error::{Error, Result};
use crate::eval::{TaskReport, evaluate};
use crate::generate::{GenerateOptions, generate_batch};
use crate::model::{BackwardPass, LanguageModel};
use crate::zo::direction::Signs;

/// A score of generated or chosen answers.
pub struct Score<'a> {
    pub kind: ObjectiveKind,
    /// The program of [`ObjectiveKind::Command`].
    pub command: Option<ScoreCommand>,
    pub tokenizer: &'a Tokenizer,
    pub options: GenerateOptions,
}

/// A score as an objective on the rows of a run, which are drawn as those of a loss are.
pub struct ScoredObjective<'a> {
    data: &'a TrainingData,
    score: Score<'a>,
    sampler: Sampler,
}

impl<'a> ScoredObjective<'a> {
    pub fn new(data: &'a TrainingData, score: Score<'a>, seed: u64) -> Self {
        Self { data, score, sampler: Sampler::new(seed, data.train.examples.len()) }
    }
}

impl Score<'_> {
    /// The score of each example, the higher the better, for one sign of the perturbation. `progress` is given the number of
    /// answers that are generated.
    fn of(
        &self,
        model: &dyn LanguageModel,
        data: &TrainingData,
        (set, rows): (&TokenizedDataset, &[Row]),
        examples: &[&TokenizedExample],
        sign: Signs,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f64>> {
        if set.loss_kind == LossKind::Classification {
            let batch = Batch::new(set.loss_kind, examples.iter().copied());
            let log_probs = model.log_probs((&batch).into(), &batch.targets, sign)?;
            let is_right = |example: &ScoredExample| {
                example.gold.contains(&example.best(&log_probs, |i| example.candidates[i].len()))
            };
            return Ok(batch.scoring.examples.iter().map(|e| f64::from(u8::from(is_right(e)))).collect());
        }
        let prompts: Vec<&[u32]> = examples.iter().map(|example| example.prompt()).collect();
        let options = GenerateOptions { signs: sign, ..self.options.clone() };
        let generated = generate_batch(model, self.tokenizer, &prompts, &options, progress)?;
        let row = |example: &TokenizedExample| {
            rows.get(example.row).ok_or_else(|| Error::internal("an example without its row"))
        };
        if let Some(command) = &self.command {
            let texts =
                examples.iter().zip(&prompts).zip(&generated).map(|((example, prompt), generated)| {
                    let prompt = self.tokenizer.decode(prompt, false)?;
                    Ok(ScoredText { prompt, generation: generated.text.trim(), row: row(example)? })
                });
            return command.scores(&texts.collect::<Result<Vec<_>>>()?);
        }
        let scores = examples.iter().zip(&generated).map(|(example, generated)| {
            let (text, golds) = (generated.text.trim(), golds(data.task.example(row(example)?)?));
            Ok(match self.kind {
                ObjectiveKind::F1 => metrics::f1(text, &golds),
                _ => metrics::exact_match(text, &golds),
            })
        });
        scores.collect()
    }
}

/// The right answers of an example.
fn golds(example: Example) -> Vec<String> {
    match example {
        Example::Generation { answers, .. } => answers,
        Example::Completion { completion, .. } => vec![completion],
        Example::Chat(chat) => {
            let content = |turn: &Turn| turn.fields.get("content")?.as_str().map(str::to_owned);
            chat.turns.iter().find(|turn| turn.is_learned).and_then(content).into_iter().collect()
        }
        Example::Classification { .. } | Example::Text(_) => Vec::new(),
    }
}

impl Objective for ScoredObjective<'_> {
    type Model = dyn LanguageModel;
    /// Indices of examples.
    type Batch = Vec<usize>;

    fn batch(&mut self, cursor: u64, size: usize) -> Vec<usize> {
        self.sampler.batch(cursor, size)
    }

    fn tokens(&self, batch: &Vec<usize>) -> usize {
        batch.iter().map(|&i| self.data.train.examples[i].rows()).sum()
    }

    fn losses(&self, model: &dyn LanguageModel, batch: &Vec<usize>, signs: Signs) -> Result<Vec<LossSum>> {
        let train = &self.data.train;
        let examples: Vec<&TokenizedExample> = batch.iter().map(|&i| &train.examples[i]).collect();
        let each = signs.parts().map(|noise| {
            let sign = noise.map_or(Signs::Neither, Signs::One);
            let rows = (train, &*self.data.train_rows);
            let scores = self.score.of(model, self.data, rows, &examples, sign, &mut |_| ())?;
            Ok(LossSum { sum: -scores.iter().sum::<f64>(), weight: scores.len() as f64 })
        });
        each.collect()
    }

    fn weight(&self, batch: &Vec<usize>) -> f64 {
        batch.len() as f64
    }

    fn gradient(
        &self,
        _model: &mut (dyn LanguageModel + 'static),
        _batch: &Vec<usize>,
        _backward: BackwardPass,
        _weight: f64,
        _sink: &mut dyn LossGradients,
    ) -> Result<()> {
        Err(Error::unsupported("a score has no gradient", "set train.method = \"zo\""))
    }

    fn evaluate(
        &self,
        model: &dyn LanguageModel,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<TaskReport>> {
        let (Some(dev), rows) = (&self.data.dev, &self.data.dev_rows) else { return Ok(None) };
        let is_accuracy = self.score.kind == ObjectiveKind::Accuracy;
        // A row is read, and then answered.
        let count = dev.examples.len();
        let of = if is_accuracy { count } else { 2 * count };
        let report = evaluate(model, &self.data.task, dev, &mut |done| progress(done, of))?;
        if is_accuracy {
            return Ok(Some(TaskReport { score: report.accuracy, ..report }));
        }
        let examples: Vec<&TokenizedExample> = dev.examples.iter().collect();
        let answered = &mut |done| progress(count + done, of);
        let scores = self.score.of(model, self.data, (dev, rows), &examples, Signs::Neither, answered)?;
        let score = scores.iter().sum::<f64>() / scores.len() as f64;
        Ok(Some(TaskReport { score: Some(score), ..report }))
    }

    fn recall(&self, n: usize, accuracy: Option<f64>, nll: f64) -> Option<TaskReport> {
        self.data.recalled(n, accuracy, nll)
    }
}
