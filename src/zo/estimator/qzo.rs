//! Q-SPSA with directional-derivative clipping: Shang et al., "Fine-tuning Quantized Neural Networks
//! with Zeroth-order Optimization", arXiv 2505.13430, section 3.

use super::outcome::{Probe, StepOutcome};
use crate::error::{Error, Result};
use crate::zo::direction::{Direction, Distribution, MAX_ABS_NOISE, Move, ScaleMode, coefficient};

/// Settings of the estimator.
#[derive(Clone, Debug, PartialEq)]
pub struct Qzo {
    /// ε: distance along a direction between the current scales and those of either loss.
    pub eps: f64,
    /// C: bound of |d|; infinity switches clipping off.
    pub clip: f64,
    /// Directions per step, whose updates are averaged.
    pub probes: u32,
    pub distribution: Distribution,
    pub mode: ScaleMode,
}

impl Qzo {
    /// Checks the settings.
    ///
    /// # Errors
    /// A setting is outside its range; the error gives its name in the configuration.
    pub fn validate(&self) -> Result<()> {
        let eps = coefficient(self.distribution, self.eps);
        if !(self.eps > 0.0 && eps > 0.0 && is_usable(eps)) {
            return Err(Error::invalid(
                format!("zo_eps is {}: expected a positive number", self.eps),
                "1e-3 is usual in absolute mode, 1e-2 in relative mode",
            ));
        }
        if self.clip.is_nan() || self.clip <= 0.0 {
            return Err(Error::invalid(
                format!("clip is {}: expected a positive number", self.clip),
                "100 is the paper's setting; inf switches clipping off",
            ));
        }
        if self.probes == 0 {
            return Err(Error::invalid(
                "probes is 0: a step needs at least one direction",
                "set probes to 1 or more",
            ));
        }
        Ok(())
    }

    /// Estimates a step. For each probe: d = (L₊ − L₋)/2ε, d' = clip(d, −C, C), c = −lr·d'/probes.
    ///
    /// # Errors
    /// Those of [`Self::validate`] and of `losses`.
    pub fn estimate(
        &self,
        seed: u64,
        lr: f64,
        losses: &mut dyn FnMut(Move) -> Result<[f64; 2]>,
    ) -> Result<StepOutcome> {
        self.validate()?;
        let e = coefficient(self.distribution, self.eps);
        let mut probes = Vec::new();
        for probe in 0..self.probes {
            let perturbation = Move {
                direction: Direction { distribution: self.distribution, mode: self.mode, seed, probe },
                coefficient: e,
            };
            let [loss_plus, loss_minus] = losses(perturbation)?;
            let d = (loss_plus - loss_minus) / (2.0 * self.eps);
            let c = coefficient(self.distribution, -lr * self.clipped(d) / f64::from(self.probes));
            probes.push(Probe { loss_plus, loss_minus, projected_grad: d, coefficient: c });
        }
        let skipped = !probes.iter().all(|p| p.projected_grad.is_finite() && is_usable(p.coefficient));
        if skipped {
            probes.iter_mut().for_each(|p| p.coefficient = 0.0);
        }
        Ok(StepOutcome { probes, skipped })
    }

    /// Clips a directional derivative. NaN stays NaN, so that the step is skipped.
    fn clipped(&self, d: f64) -> f64 {
        if d.abs() > self.clip { self.clip.copysign(d) } else { d }
    }
}

/// Whether the product of the coefficient and any possible k is finite.
fn is_usable(coefficient: f32) -> bool {
    (coefficient * MAX_ABS_NOISE as f32).is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zo::direction::step_seed;

    const DISTRIBUTIONS: [Distribution; 2] = [Distribution::Gaussian, Distribution::Rademacher];
    const MODES: [ScaleMode; 2] = [ScaleMode::Absolute, ScaleMode::Relative];

    /// L(s) = ½ Σ curvature·(s − target)².
    struct Quadratic {
        scales: Vec<f32>,
        target: Vec<f32>,
    }

    impl Quadratic {
        fn new(n: usize) -> Self {
            let scales: Vec<f32> = (0..n).map(|i| 0.5 + 0.05 * i as f32).collect();
            let target = scales.iter().enumerate().map(|(i, s)| s * [0.7, 1.2, 1.05][i % 3]).collect();
            Self { scales, target }
        }

        fn curvature(i: usize) -> f64 {
            1.0 + 0.5 * (i % 4) as f64
        }

        fn loss(&self, perturbation: Move) -> f64 {
            let term = |(i, (&s, &target)): (usize, (&f32, &f32))| {
                let s = perturbation.apply(s, perturbation.k(0, i as u32));
                0.5 * Self::curvature(i) * (f64::from(s) - f64::from(target)).powi(2)
            };
            self.scales.iter().zip(&self.target).enumerate().map(term).sum()
        }

        /// The gradient with respect to s in absolute mode, to log s in relative mode.
        fn gradient(&self, mode: ScaleMode) -> Vec<f64> {
            let component = |(i, (&s, &target)): (usize, (&f32, &f32))| {
                let by_scale = Self::curvature(i) * (f64::from(s) - f64::from(target));
                match mode {
                    ScaleMode::Absolute => by_scale,
                    ScaleMode::Relative => by_scale * f64::from(s),
                }
            };
            self.scales.iter().zip(&self.target).enumerate().map(component).collect()
        }

        fn step(&mut self, update: Move) {
            for (i, s) in self.scales.iter_mut().enumerate() {
                *s = update.apply(*s, update.k(0, i as u32));
            }
        }
    }

    /// The losses at both signs.
    fn both(perturbation: Move, loss: impl Fn(Move) -> f64) -> Result<[f64; 2]> {
        Ok([loss(perturbation), loss(perturbation.reversed())])
    }

    fn paper(distribution: Distribution, mode: ScaleMode, probes: u32) -> Qzo {
        Qzo { eps: 1e-3, clip: 100.0, probes, distribution, mode }
    }

    fn probe_move(qzo: &Qzo, seed: u64, probe: usize, coefficient: f32) -> Move {
        let direction =
            Direction { distribution: qzo.distribution, mode: qzo.mode, seed, probe: probe as u32 };
        Move { direction, coefficient }
    }

    /// Estimate of the negative gradient from one step with lr 1: Σ over probes of coefficient·k.
    fn direction(qzo: &Qzo, quadratic: &Quadratic, seed: u64) -> Vec<f64> {
        let outcome = qzo
            .estimate(seed, 1.0, &mut |perturbation| both(perturbation, |signed| quadratic.loss(signed)))
            .unwrap();
        let along = |i: usize| {
            let moves = outcome.probes.iter().enumerate().map(|(p, probe)| {
                let update = probe_move(qzo, seed, p, probe.coefficient);
                f64::from(update.coefficient) * f64::from(update.k(0, i as u32))
            });
            moves.sum::<f64>()
        };
        // E[z·z] = 1 for z = k/√32; the coefficient of a gaussian k contains the factor 1/√32 already.
        (0..quadratic.scales.len()).map(along).collect()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn steps_converge_on_a_quadratic_in_both_modes() {
        for distribution in DISTRIBUTIONS {
            for mode in MODES {
                let qzo = paper(distribution, mode, 2);
                let mut quadratic = Quadratic::new(24);
                let still = probe_move(&qzo, 0, 0, 0.0);
                let before = quadratic.loss(still);
                for step in 0..600 {
                    let seed = step_seed(3, step);
                    let outcome = qzo
                        .estimate(seed, 0.015, &mut |perturbation| {
                            both(perturbation, |signed| quadratic.loss(signed))
                        })
                        .unwrap();
                    for (p, probe) in outcome.probes.iter().enumerate() {
                        quadratic.step(probe_move(&qzo, seed, p, probe.coefficient));
                    }
                }
                let after = quadratic.loss(still);
                assert!(after < 0.01 * before, "{distribution:?} {mode:?}: {before} to {after}");
            }
        }
    }

    #[test]
    fn the_mean_estimate_points_along_the_true_gradient() {
        let quadratic = Quadratic::new(24);
        for distribution in DISTRIBUTIONS {
            for mode in MODES {
                let qzo = paper(distribution, mode, 1);
                let gradient = quadratic.gradient(mode);
                let steps = 2000;
                let mut mean = vec![0.0; gradient.len()];
                for seed in 0..steps {
                    for (m, x) in mean.iter_mut().zip(direction(&qzo, &quadratic, seed)) {
                        *m -= x / steps as f64;
                    }
                }
                let cosine = dot(&mean, &gradient) / (dot(&mean, &mean) * dot(&gradient, &gradient)).sqrt();
                let length = dot(&mean, &gradient) / dot(&gradient, &gradient);
                assert!(cosine > 0.97, "{distribution:?} {mode:?}: cosine {cosine}");
                assert!((length - 1.0).abs() < 0.1, "{distribution:?} {mode:?}: length {length}");
            }
        }
    }

    #[test]
    fn more_probes_reduce_the_variance() {
        let quadratic = Quadratic::new(24);
        let variance = |probes| {
            let qzo = paper(Distribution::Gaussian, ScaleMode::Absolute, probes);
            let gradient = quadratic.gradient(qzo.mode);
            let squared_error = |seed| {
                let estimate = direction(&qzo, &quadratic, seed);
                let error: Vec<f64> = estimate.iter().zip(&gradient).map(|(x, g)| x + g).collect();
                dot(&error, &error)
            };
            (0..400).map(squared_error).sum::<f64>() / 400.0
        };
        let ratio = variance(1) / variance(8);
        assert!((6.0..10.0).contains(&ratio), "variance of 1 probe over 8 probes: {ratio}");
    }

    #[test]
    fn each_direction_of_a_step_is_evaluated_once() {
        let qzo = paper(Distribution::Gaussian, ScaleMode::Relative, 3);
        let mut asked = Vec::new();
        qzo.estimate(11, 1.0, &mut |perturbation| {
            asked.push(perturbation);
            Ok([0.0, 0.0])
        })
        .unwrap();
        let expected = |p| probe_move(&qzo, 11, p, coefficient(qzo.distribution, 1e-3));
        assert_eq!(asked, [0, 1, 2].map(expected));
    }

    #[test]
    fn clipping_bounds_the_directional_derivative_and_keeps_its_sign() {
        let with_losses = |qzo: &Qzo, plus: f64, minus: f64| {
            qzo.estimate(0, 0.5, &mut |_| Ok([plus, minus])).unwrap().probes[0]
        };
        let mut qzo = paper(Distribution::Rademacher, ScaleMode::Absolute, 1);
        let rising = with_losses(&qzo, 2.0, 1.0);
        assert!((rising.projected_grad - 500.0).abs() < 1e-9, "reported unclipped");
        assert_eq!(rising.coefficient, -50.0);
        assert_eq!(with_losses(&qzo, 1.0, 2.0).coefficient, 50.0);
        assert_eq!(with_losses(&qzo, 1.0, 1.0 - 2e-3 * 64.0).coefficient, -32.0);
        qzo.clip = f64::INFINITY;
        assert_eq!(with_losses(&qzo, 2.0, 1.0).coefficient, -250.0);
    }

    #[test]
    fn a_step_with_a_number_that_is_not_finite_is_skipped() {
        let qzo = paper(Distribution::Gaussian, ScaleMode::Relative, 2);
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for bad_call in 0..4 {
                let mut call = 0;
                let mut loss = || {
                    call += 1;
                    if call - 1 == bad_call { bad } else { f64::from(call) }
                };
                let mut losses = |_: Move| Ok([loss(), loss()]);
                let outcome = qzo.estimate(0, 1.0, &mut losses).unwrap();
                assert!(outcome.skipped, "{bad} in call {bad_call}");
                assert!(outcome.probes.iter().all(|probe| probe.coefficient.to_bits() == 0));
            }
        }
        let both_infinite = qzo.estimate(0, 1.0, &mut |_| Ok([f64::INFINITY; 2])).unwrap();
        assert!(both_infinite.skipped);
        let step_too_long = qzo
            .estimate(0, 1e39, &mut |perturbation| both(perturbation, |signed| f64::from(signed.coefficient)))
            .unwrap();
        assert!(step_too_long.skipped);
        let fine = qzo
            .estimate(0, 1.0, &mut |perturbation| {
                both(perturbation, |signed| 1.0 + f64::from(signed.coefficient))
            })
            .unwrap();
        assert!(!fine.skipped);
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        let fine = paper(Distribution::Gaussian, ScaleMode::Relative, 1);
        assert!(fine.validate().is_ok());
        for eps in [0.0, -1e-3, f64::NAN, f64::INFINITY, 1e-50, 1e38] {
            assert!(Qzo { eps, ..fine.clone() }.validate().is_err(), "eps {eps}");
        }
        for clip in [0.0, -1.0, f64::NAN] {
            assert!(Qzo { clip, ..fine.clone() }.validate().is_err(), "clip {clip}");
        }
        assert!(Qzo { clip: f64::INFINITY, ..fine.clone() }.validate().is_ok());
        assert!(Qzo { probes: 0, ..fine }.estimate(0, 1.0, &mut |_| Ok([0.0; 2])).is_err());
    }

    #[test]
    fn an_error_from_the_losses_ends_the_step() {
        let qzo = paper(Distribution::Gaussian, ScaleMode::Relative, 1);
        let failed = qzo.estimate(0, 1.0, &mut |_| Err(Error::device("device lost", "try again")));
        assert!(matches!(failed, Err(Error::Device { .. })));
    }
}
