//! A decoder of Llama 2 13B's dimensions on a card that only records launches: their number and the host's time.

use std::sync::Arc;
use std::time::Instant;

use super::recorder::{B, displacement};
use super::runtime::{Card, Launch, Recorder};
use crate::checkpoint::{Checkpoint, ModelShape};
use crate::data::{Sequence, Target};
use crate::device::ComputeType;
use crate::model::{self, LanguageModel, ModelInput, Tables, Update};
use crate::zo::direction::Signs;

/// Launches of one decoder block in one pass: seven products and the unpacking of their weights, and five others.
const LAUNCHES_PER_LAYER: usize = 19;

/// The decoder with fewer layers than the model has, 4 bits per weight and a scale for each 128.
pub fn decoder_on(card: &Card, layers: usize, compute: ComputeType) -> Box<dyn LanguageModel> {
    decoder_with(Tables::InFile, card, layers, compute)
}

pub fn decoder_with(
    tables: Tables,
    card: &Card,
    layers: usize,
    compute: ComputeType,
) -> Box<dyn LanguageModel> {
    let mut config = ModelShape::Llama2_13b.config();
    config.num_hidden_layers = layers;
    let checkpoint = Arc::new(Checkpoint::random(config, 4, 128));
    model::load::load_on::<B>(checkpoint, card.clone(), compute, tables, &mut |_, _| ()).unwrap()
}

pub fn decoder_on_recorder(layers: usize, compute: ComputeType) -> Box<dyn LanguageModel> {
    decoder_on(&Card { architecture: 90 }, layers, compute)
}

/// Sequences of one length, and the tokens scored in them.
pub struct Tokens {
    tokens: Vec<u32>,
    sequences: Vec<Sequence>,
    targets: Vec<Target>,
}

impl Tokens {
    /// Scores two tokens after each sequence, or with `each_row` after each token.
    pub fn new(sequences: usize, length: usize, each_row: bool) -> Self {
        let rows = sequences * length;
        let scored = (0..rows).filter(|row| each_row || (row + 1).is_multiple_of(length));
        let targets = scored.flat_map(|row| [1, 2].map(|token| Target { row: row as u32, token }));
        Self {
            tokens: (0..rows as u32).map(|i| i * 7919 % 32_000).collect(),
            sequences: (0..rows).step_by(length).map(|i| Sequence::alone(i..i + length)).collect(),
            targets: targets.collect(),
        }
    }

    pub fn log_probs(&self, model: &dyn LanguageModel, perturb: Signs) -> Vec<f32> {
        let input = ModelInput { tokens: &self.tokens, sequences: &self.sequences };
        model.log_probs(input, &self.targets, perturb).unwrap()
    }

    /// Runs both signs and moves the scales.
    pub fn step(&self, model: &mut dyn LanguageModel) {
        let answers = self.log_probs(model, Signs::Both(displacement()));
        assert_eq!(answers, vec![0.0; 2 * self.targets.len()]);
        model.apply(Update::Moves(&[displacement()])).unwrap();
    }
}

/// Launches of training: few tokens and many, of which few or all are scored.
pub fn launched(card: &Card) -> Vec<Launch> {
    for compute in [ComputeType::F16, ComputeType::Bf16] {
        let mut model = decoder_on(card, 1, compute);
        for tokens in [Tokens::new(16, 256, false), Tokens::new(8, 16, true), Tokens::new(4, 256, true)] {
            tokens.step(model.as_mut());
        }
    }
    Recorder::take(card)
}

/// Wall time of a second `run`, when everything it launches is compiled: the host's part, as nothing is computed.
pub fn host_seconds(mut run: impl FnMut()) -> f64 {
    run();
    let clock = Instant::now();
    run();
    clock.elapsed().as_secs_f64()
}

fn names(launches: &[Launch]) -> Vec<&'static str> {
    launches.iter().map(|launch| launch.name).collect()
}

#[test]
fn a_layer_takes_few_launches() {
    let card = Card { architecture: 90 };
    let tokens = Tokens::new(16, 256, false);
    let pass = |layers| {
        let model = decoder_on(&card, layers, ComputeType::F16);
        // Launches of loading are not part of a pass.
        Recorder::take(&card);
        tokens.log_probs(model.as_ref(), Signs::One(displacement()));
        let launches = Recorder::take(&card);
        let refused = launches.iter().find(|launch| launch.source.starts_with("#error"));
        assert!(refused.is_none(), "{}: {}", refused.unwrap().name, refused.unwrap().source);
        launches
    };
    let (two, three) = (pass(2), pass(3));
    let more = three.len() - two.len();
    // The first two layers are in both; the launches behind them are those of the third.
    let same = two.iter().zip(&three).take_while(|(a, b)| a.source == b.source).count();
    let third = names(&three[same.min(two.len())..][..more]).join("\n");
    assert!(
        more > 0 && more <= LAUNCHES_PER_LAYER,
        "{more} launches, at most {LAUNCHES_PER_LAYER} expected:\n{third}"
    );
}

/// The host's part of a step; run by hand: `cargo test --release -- --ignored --nocapture host_part`.
#[test]
#[ignore = "measures, and asserts nothing"]
fn the_host_part_of_a_step() {
    let mut model = decoder_on_recorder(40, ComputeType::F16);
    let tokens = Tokens::new(16, 256, false);
    let seconds = host_seconds(|| tokens.step(model.as_mut()));
    eprintln!("{seconds:.3} s on the host for a step of 40 layers and 4096 tokens");
}
