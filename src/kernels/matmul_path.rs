//! Paths of a product with a packed weight.

/// Way in which [`linear`](super::linear) is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulPath {
    /// The path that the backend expects to be fastest at this size.
    Auto,
    /// The weight is unpacked into a scratch, then multiplied like any other.
    Dense(MatmulEngine),
    /// The weight is unpacked where the product reads it.
    Fused,
}

/// The library or routine that multiplies dense matrices on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulEngine {
    /// The fastest engine that the machine has for the type of the tensors.
    Fastest,
    Cublas,
    /// cubek's routines, named after their tiles (wmma or mma instructions, or plain units) and how they are fed.
    Cmma,
    Mma,
    TmaMma,
    Units,
    Naive,
}

impl MatmulPath {
    /// All paths that a benchmark compares.
    pub const ALL: &[Self] = &[
        Self::Dense(MatmulEngine::Cublas),
        Self::Dense(MatmulEngine::Cmma),
        Self::Dense(MatmulEngine::Mma),
        Self::Dense(MatmulEngine::TmaMma),
        Self::Dense(MatmulEngine::Units),
        Self::Fused,
    ];

    /// Name in the output of `qzo bench`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fused => "fused",
            Self::Dense(engine) => match engine {
                MatmulEngine::Fastest => "dense",
                MatmulEngine::Cublas => "cublas",
                MatmulEngine::Cmma => "cubek-cmma",
                MatmulEngine::Mma => "cubek-mma",
                MatmulEngine::TmaMma => "cubek-tma-mma",
                MatmulEngine::Units => "cubek-units",
                MatmulEngine::Naive => "cubek-naive",
            },
        }
    }
}

impl MatmulEngine {
    /// Whether it rounds f32 to tf32 on devices that have tf32.
    pub fn rounds_f32(self) -> bool {
        !matches!(self, Self::Fastest | Self::Cublas | Self::Units | Self::Naive)
    }
}
