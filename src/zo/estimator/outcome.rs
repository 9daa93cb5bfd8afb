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
