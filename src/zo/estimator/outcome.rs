//! The losses of a step's directions, and the moves that follow from them.

/// The losses along one direction, and the coefficient that follows from them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    pub loss_plus: f64,
    pub loss_minus: f64,
    /// d = (L₊ − L₋)/2ε before clipping.
    pub projected_grad: f64,
    /// Factor of the integer k in the update.
    pub coefficient: f32,
}

/// The outcome of an estimation, to be journalled and then applied: probe i moves the scales along direction i.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutcome {
    pub probes: Vec<Probe>,
    /// A loss or a coefficient was NaN or infinite: every coefficient is 0, so the scales do not move.
    pub skipped: bool,
}

impl StepOutcome {
    /// Mean of all losses.
    pub fn loss(&self) -> f64 {
        self.mean(|probe| (probe.loss_plus + probe.loss_minus) / 2.0)
    }

    /// Mean of the unclipped directional derivatives.
    pub fn projected_grad(&self) -> f64 {
        self.mean(|probe| probe.projected_grad)
    }

    pub fn is_finite(&self) -> bool {
        !self.skipped
    }

    fn mean(&self, value: impl Fn(&Probe) -> f64) -> f64 {
        self.probes.iter().map(value).sum::<f64>() / self.probes.len() as f64
    }
}
