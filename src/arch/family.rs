//! The families of models, their kinds of decoder blocks, and the facts of each that hold in every file format. The
//! names that a format has for them stand in that format's files.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    /// The text model, alone or as a part of a vision model.
    Ministral3,
    Qwen2,
    Qwen3,
    Phi3,
    Gemma,
    Gemma2,
    /// The text model, alone or as a part of a vision model.
    Gemma3,
    SmolLm3,
    Granite,
    Olmo2,
    Olmo3,
    Opt,
}

/// The parts of a decoder block, and with them the names of its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// A norm before attention, and one before a gated MLP.
    Llama,
    /// Llama's, with q, k and v in one tensor and gate and up in another.
    Phi3,
    /// Llama's, with a norm after attention and one after the MLP, too.
    Gemma2,
    /// Llama's, with its norms after attention and after the MLP instead of before them.
    Olmo2,
    /// LayerNorms with biases, an MLP without a gate, learned positions instead of rotation. The norms are applied
    /// before attention and MLP, or after their sums with the residual.
    Opt { norm_before: bool, final_norm: bool },
}

/// The parts of a token's queries, and of its keys, that go through a norm together before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head.
    Heads,
    /// All heads.
    Whole,
}

impl Family {
    pub const ALL: [Self; 14] = [
        Self::Llama,
        Self::Mistral,
        Self::Ministral3,
        Self::Qwen2,
        Self::Qwen3,
        Self::Phi3,
        Self::Gemma,
        Self::Gemma2,
        Self::Gemma3,
        Self::SmolLm3,
        Self::Granite,
        Self::Olmo2,
        Self::Olmo3,
        Self::Opt,
    ];

    /// The class in transformers, by which reports and errors name the family, too.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Ministral3 => "Ministral3ForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Phi3 => "Phi3ForCausalLM",
            Self::Gemma => "GemmaForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
            Self::SmolLm3 => "SmolLM3ForCausalLM",
            Self::Granite => "GraniteForCausalLM",
            Self::Olmo2 => "Olmo2ForCausalLM",
            Self::Olmo3 => "Olmo3ForCausalLM",
            Self::Opt => "OPTForCausalLM",
        }
    }

    /// Whether it is one of the Gemmas, which scale embeddings, gate with GELU and, in Hugging Face's files, store the
    /// weights of norms less 1.
    pub fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }

    /// The kind of its decoder blocks. OPT's blocks also depend on the config; this is the kind of most OPT models.
    pub fn block(self) -> BlockKind {
        match self {
            Self::Phi3 => BlockKind::Phi3,
            Self::Gemma2 | Self::Gemma3 => BlockKind::Gemma2,
            Self::Opt => BlockKind::Opt { norm_before: true, final_norm: true },
            Self::Olmo2 | Self::Olmo3 => BlockKind::Olmo2,
            Self::Llama
            | Self::Mistral
            | Self::Ministral3
            | Self::Qwen2
            | Self::Qwen3
            | Self::Gemma
            | Self::SmolLm3
            | Self::Granite => BlockKind::Llama,
        }
    }

    /// The norms of its models' queries and keys; `None` where there are none.
    pub fn qk_norm(self) -> Option<QkNorm> {
        match self {
            Self::Qwen3 | Self::Gemma3 => Some(QkNorm::Heads),
            Self::Olmo2 | Self::Olmo3 => Some(QkNorm::Whole),
            _ => None,
        }
    }

    /// The factor of the token embeddings, where no key gives it.
    pub fn embedding_scale(self, hidden_size: usize) -> f32 {
        if self.is_gemma() { (hidden_size as f64).sqrt() as f32 } else { 1.0 }
    }
}
