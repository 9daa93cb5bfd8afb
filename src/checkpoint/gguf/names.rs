//! llama.cpp's tensor names, and its order of the rows of q and k.
//!
//! For the architecture "llama", its RoPE rotates neighbouring pairs of features where Hugging Face rotates halves. Therefore
//! `convert_hf_to_gguf.py` (`LlamaModel.permute`) interleaves the rows of each head: row j of half h is stored at
//! 2j + h. For all others llama.cpp rotates halves, too, and rows keep their order.

use crate::arch::BlockKind;

/// The RoPE divisors of Llama 3.1. They belong to the config and are no weight.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The RoPE divisors of Phi-3, within the original context and beyond it.
pub const SHORT_FACTORS: &str = "rope_factors_short.weight";
pub const LONG_FACTORS: &str = "rope_factors_long.weight";

/// The names of a block's modules that all families share: llama.cpp's and Hugging Face's.
const BLOCK_PARTS: [(&str, &str); 10] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The names that depend on the kind of block; they override [`BLOCK_PARTS`].
fn own_parts(block: BlockKind) -> &'static [(&'static str, &'static str)] {
    match block {
        BlockKind::Llama | BlockKind::Opt { .. } => &[("ffn_norm", "post_attention_layernorm")],
        BlockKind::Phi3 => &[
            ("ffn_norm", "post_attention_layernorm"),
            ("attn_qkv", "self_attn.qkv_proj"),
            ("ffn_up", "mlp.gate_up_proj"),
        ],
        BlockKind::Olmo2 => &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
        BlockKind::Gemma2 => &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
    }
}

/// The Hugging Face name of a tensor; `None` where no model with such blocks has it.
pub fn to_hugging_face(name: &str, block: BlockKind) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let number: usize = layer.parse().ok()?;
    let (part, kind) = part.rsplit_once('.')?;
    let (_, part) = own_parts(block).iter().chain(&BLOCK_PARTS).find(|(ours, _)| *ours == part)?;
    // "+1" and "01" would parse too, and two tensors would share a name.
    let is_known = number.to_string() == layer && matches!(kind, "weight" | "bias");
    is_known.then(|| format!("model.layers.{layer}.{part}.{kind}"))
}

/// llama.cpp's name of a tensor; `None` where it has no such tensor.
pub fn from_hugging_face(name: &str, block: BlockKind) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let (ours, _) = own_parts(block).iter().chain(&BLOCK_PARTS).find(|(_, theirs)| *theirs == part)?;
    Some(format!("blk.{layer}.{ours}.{kind}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    HuggingFace,
    /// The rows of each head are interleaved as described above; `head_dim` is even.
    Interleaved {
        head_dim: usize,
    },
}

impl RowOrder {
    /// The order of a tensor's rows, by llama.cpp's name of it. `interleaved`: its architecture rotates neighbouring pairs.
    pub fn of(name: &str, head_dim: usize, interleaved: bool) -> Self {
        match interleaved && (name.contains(".attn_q.") || name.contains(".attn_k.")) {
            true => Self::Interleaved { head_dim },
            false => Self::HuggingFace,
        }
    }

    /// The index in the file of a row given by its index in Hugging Face order.
    pub fn in_file(self, row: usize) -> usize {
        match self {
            Self::HuggingFace => row,
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, j) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * j + half
            }
        }
    }
}
