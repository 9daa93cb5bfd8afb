//! The choice of a token from a model's logits.

use super::options::GenerateOptions;
use crate::error::{Error, Result};
use crate::rng::{Stream, random_bits};

/// Chooses the token at `position` of the generated text.
pub fn choose(logits: &[f32], options: &GenerateOptions, position: u32) -> Result<u32> {
    if logits.iter().any(|l| l.is_nan()) {
        return Err(Error::invalid(
            "the model's logits are NaN",
            "check the checkpoint with `qzo inspect`, or use --dtype f32",
        ));
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let logit = |token: &u32| f64::from(logits[*token as usize]);
    if options.temperature <= 0.0 {
        // The first of equals, like argmax in other programs.
        let best =
            order.into_iter().reduce(|best, token| if logit(&token) > logit(&best) { token } else { best });
        return best.ok_or_else(|| Error::internal("a model without logits"));
    }
    order.sort_unstable_by(|a, b| logit(b).total_cmp(&logit(a)).then(a.cmp(b)));
    let max = order.first().map_or(0.0, logit);
    let weights: Vec<f64> = order.iter().map(|t| ((logit(t) - max) / options.temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0;
    let mut mass = 0.0;
    while kept < weights.len() && (kept == 0 || mass < options.top_p * total) {
        mass += weights[kept];
        kept += 1;
    }
    let [word, ..] = random_bits(options.seed, [position, 0, 0], Stream::Sampling);
    let mut left = f64::from(word) / 4294967296.0 * mass;
    for (token, weight) in order.iter().zip(&weights[..kept]) {
        left -= weight;
        if left < 0.0 {
            return Ok(*token);
        }
    }
    Ok(order[kept - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(temperature: f64, top_p: f64, seed: u64) -> GenerateOptions {
        GenerateOptions { temperature, top_p, seed, ..GenerateOptions::default() }
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_largest() {
        assert_eq!(choose(&[0.0, 3.0, 3.0, 1.0], &options(0.0, 1.0, 0), 0).unwrap(), 1);
    }

    #[test]
    fn samples_follow_the_softmax() {
        let logits = [1.0f32, 2.0, 0.0];
        let mut counts = [0f64; 3];
        for seed in 0..4000 {
            counts[choose(&logits, &options(1.0, 1.0, seed), 5).unwrap() as usize] += 1.0 / 4000.0;
        }
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            assert!((count - f64::from(logit).exp() / sum).abs() < 0.03, "{counts:?}");
        }
    }

    #[test]
    fn top_p_leaves_out_unlikely_tokens() {
        let logits = [1.0f32, 2.0, 0.0];
        assert!((0..200).all(|seed| choose(&logits, &options(1.0, 0.6, seed), 0).unwrap() == 1));
    }

    #[test]
    fn nan_logits_are_an_error() {
        assert!(choose(&[0.0, f32::NAN], &options(0.0, 1.0, 0), 0).is_err());
    }
}
