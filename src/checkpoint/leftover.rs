//! Tensors of a file that have no place in the model its config describes. Leaving out such a tensor would silently
//! give another model, so the file is refused, whatever its container and scheme.
//!
//! Tensors that cannot change the results are accepted and not used: those that the program computes itself
//! (`rotary_emb.inv_freq`, masks), biases that are zero, a head equal to the embeddings it is tied to, vision and audio
//! parts, and heads for multi-token prediction.

use std::collections::HashSet;
use std::path::Path;

use crate::arch::{ModelConfig, block_of, hf};
use crate::error::{Error, Result};

/// The name of the head's own weight, in every family.
pub const HEAD: &str = "lm_head.weight";

/// The most names that an error lists.
const SHOWN: usize = 4;

/// Whether tensors of this name are never used. transformers ignores the same ones.
pub fn is_ignored(name: &str) -> bool {
    let recomputed = name.contains(".rotary_emb.") || name.starts_with("rotary_emb.");
    let masks = [".attn.bias", ".masked_bias", "decoder.version"];
    recomputed || masks.iter().any(|end| name.ends_with(end)) || is_other_part(name)
}

/// Whether a tensor belongs to a vision or audio part or to multi-token prediction.
fn is_other_part(name: &str) -> bool {
    !hf::is_text(name) || name.starts_with("mtp.") || name.starts_with("model.mtp")
}

/// The modules of a model that have a weight, and so could have a bias.
pub struct Modules(HashSet<String>);

impl Modules {
    pub fn of(config: &ModelConfig) -> Self {
        let weights = config.tensors().map(|(name, _)| name);
        let mut modules: HashSet<String> =
            weights.filter_map(|name| name.strip_suffix(".weight").map(str::to_owned)).collect();
        modules.extend(HEAD.strip_suffix(".weight").map(str::to_owned));
        Self(modules)
    }

    pub fn has_bias(&self, name: &str) -> bool {
        name.strip_suffix(".bias").is_some_and(|module| self.0.contains(module))
    }
}

/// Refuses a file with leftover tensors. `names` are their Hugging Face names and names in the file; `describes` is the
/// source of the config, for the message.
///
/// # Errors
/// `names` is not empty.
pub fn refuse(path: &Path, describes: &str, config: &ModelConfig, names: &[(&str, &str)]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = names.iter().take(SHOWN).map(|(_, stored)| format!("`{stored}`")).collect();
    let more = match names.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let tensors = if names.len() == 1 { "1 tensor has" } else { &*format!("{} tensors have", names.len()) };
    Err(Error::unsupported(
        format!(
            "{}: {tensors} no place in the model that {describes} describes: {}{more}",
            path.display(),
            shown.join(", ")
        ),
        help(describes, config, names),
    ))
}

/// Advice for the most likely cause.
fn help(describes: &str, config: &ModelConfig, names: &[(&str, &str)]) -> String {
    let any = |is: &dyn Fn(&str) -> bool| names.iter().any(|(name, stored)| is(name) || is(stored));
    let other = match describes == hf::CONFIG_FILE {
        true => "give the config.json that belongs to these weights",
        false => "convert the original model again with its own config.json",
    };
    if any(&|name| name.contains("lora_")) {
        return "merge the LoRA adapter into the weights first: in Python, `model.merge_and_unload()` of PEFT, then \
                `save_pretrained`"
            .into();
    }
    if any(&|name| block_of(name).is_some_and(|block| block >= config.num_hidden_layers)) {
        return format!("{describes} says that there are {} layers: {other}", config.num_hidden_layers);
    }
    if any(&|name| name == HEAD) {
        return format!(
            "{describes} ties the head to the embeddings, but the two hold different values: set tie_word_embeddings to \
             false if the model has a head of its own, or remove the tensor"
        );
    }
    if any(&|name| name.ends_with(".bias")) {
        return format!(
            "the biases are not zero, and a {} has them only where {describes} says so (attention_bias, mlp_bias): \
             {other}",
            config.family.architecture()
        );
    }
    format!(
        "works: dense decoders without experts or adapters; {other}, or remove the tensors that are no part of the model"
    )
}
