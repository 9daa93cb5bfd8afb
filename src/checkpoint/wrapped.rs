//! Weights that were saved with a wrapper around the model (a compiled or distributed module), and LoRA adapters. They
//! are recognised by their names, so that the error can say how to get at the model.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::leftover::is_ignored;
use super::scales_file::is_scales_file;
use crate::arch::hf::CONFIG_FILE;
use crate::error::{Error, Result};
use crate::storage::json::read_json;

pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The names of an adapter's files of weights, in PEFT and in MLX.
const ADAPTER_WEIGHTS: [&str; 3] = ["adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors"];

/// The prefixes that wrappers put before tensors' names, each with the tool that does so.
const WRAPPERS: [(&str, &str); 7] = [
    ("_orig_mod", "torch.compile"),
    ("_fsdp_wrapped_module", "FSDP"),
    ("_checkpoint_wrapped_module", "activation checkpointing"),
    ("_forward_module", "a training framework (Lightning, DeepSpeed)"),
    ("base_model.model", "PEFT"),
    ("module", "DistributedDataParallel or DeepSpeed"),
    ("model.model", "a module around the model, such as Lightning's"),
];

/// Parts of tensors' names in a LoRA adapter that is not merged.
const ADAPTER_PARTS: [&str; 5] =
    [".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_magnitude_vector", ".base_layer."];

/// Prefixes of `embed_tokens.weight` in the files of the supported families.
const PREFIXES: [&str; 6] =
    ["", "model.", "decoder.", "model.decoder.", "model.language_model.", "language_model.model."];

/// # Errors
/// The directory holds a LoRA adapter, alone or beside a model that it changes.
pub fn check_directory(directory: &Path) -> Result<()> {
    let config = directory.join(ADAPTER_CONFIG);
    let has_adapter = ADAPTER_WEIGHTS.iter().any(|file| directory.join(file).exists());
    let has_model = has_model_weights(directory);
    // Beside a model, transformers loads an adapter only if it has a config.
    match config.exists() || has_adapter && !has_model {
        true => Err(adapter(directory, &config, has_model)),
        false => Ok(()),
    }
}

/// The error for a file of a directory that should be given instead; `None` for any other file.
pub fn single_file(path: &Path) -> Option<Error> {
    let name = path.file_name()?.to_string_lossy();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if is_scales_file(path) {
        return Some(Error::invalid(
            format!("{} holds tuned scales, not a model", path.display()),
            "make the tuned model with `qzo apply BASE SCALES -o OUT` and give that one",
        ));
    }
    if ADAPTER_WEIGHTS.contains(&&*name) || name == ADAPTER_CONFIG {
        return Some(adapter(directory, &directory.join(ADAPTER_CONFIG), false));
    }
    let endings = ["safetensors", "bin", "pt", "pth", "json"];
    let of_directory = path.extension().is_some_and(|end| endings.iter().any(|known| end == *known));
    // Old GGUF files may have any name.
    let mut start = [0; 4];
    let is_gguf =
        File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && start == *b"GGUF");
    (of_directory && !is_gguf).then(|| {
        Error::invalid(
            format!("{}: one file of a model in Hugging Face's format", path.display()),
            format!("give its directory, {}, which has a {CONFIG_FILE} too", directory.display()),
        )
    })
}

/// # Errors
/// The tensors' names say that they were saved with a wrapper around the model, or are a LoRA adapter's.
pub fn check_names(directory: &Path, names: &[&str]) -> Result<()> {
    let like = |name: &str| format!("{}: the weights have names like `{name}`", directory.display());
    let wrapped = names.iter().find(|name| wrappers(name).next().is_some());
    let unmerged = names.iter().find(|name| ADAPTER_PARTS.iter().any(|part| name.contains(part)));
    // LoRA tensors beside whole weights have no place: see `leftover`.
    let in_place = names.iter().any(|name| name.contains(".base_layer."));
    if let Some(name) = unmerged.filter(|_| in_place || wrapped.is_some()) {
        return Err(Error::unsupported(
            format!("{}, as those of a LoRA adapter that is not merged", like(name)),
            "merge it with PEFT where the model was trained: `model.merge_and_unload().save_pretrained(DIR)`",
        ));
    }
    if let Some(name) = wrapped {
        let by: Vec<&str> = wrappers(name).map(|(_, by)| *by).collect();
        let parts: Vec<&str> = wrappers(name).map(|(part, _)| *part).collect();
        return Err(Error::unsupported(
            format!("{}: they were saved from inside {}", like(name), by.join(" and ")),
            rename(&parts),
        ));
    }
    let embeddings = |name: &&'_ str| name.strip_suffix("embed_tokens.weight").is_some();
    let mut tables = names.iter().copied().filter(embeddings).filter(|name| !is_ignored(name));
    let of_model = |name: &str| PREFIXES.iter().any(|start| name == format!("{start}embed_tokens.weight"));
    match tables.clone().next() {
        Some(name) if !tables.any(of_model) => {
            let start = name.trim_end_matches("embed_tokens.weight");
            // Of this prefix, the longest known ending is the model's own; it may be empty.
            let stays =
                PREFIXES.iter().filter(|known| start.ends_with(*known)).map(|known| known.len()).max();
            let part = start[..start.len() - stays.unwrap_or(0)].trim_end_matches('.');
            let what = format!("{}: they were saved with a wrapper around the model", like(name));
            Err(Error::unsupported(what, rename(&[part])))
        }
        _ => Ok(()),
    }
}

/// The entries of [`WRAPPERS`] that are in a name.
fn wrappers(name: &str) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    WRAPPERS.iter().filter(move |(part, _)| {
        let begins = name.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
        // No model has a module of such a name, wherever it stands.
        begins || part.starts_with('_') && name.contains(&format!(".{part}."))
    })
}

fn rename(parts: &[&str]) -> String {
    // The head is inside such a module, too.
    let without = |part: &&str| match *part {
        "model.model" => ".removeprefix('model.')".to_owned(),
        part => format!(".replace('{part}.', '')"),
    };
    let without: String = parts.iter().map(without).collect();
    format!(
        "save the inner model with its `save_pretrained`; or rename the tensors, in Python with \
         safetensors.torch: `save_file({{k{without}: v for k, v in load_file(FILE).items()}}, FILE)`, and alike in an \
         index of shards"
    )
}

fn adapter(directory: &Path, config: &Path, beside_model: bool) -> Error {
    // Only for the message: without it, the base model is not named.
    let json = read_json(config).unwrap_or(Value::Null);
    let text = |key: &str| json.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let base = text("base_model_name_or_path").or(text("model"));
    let of = base.map_or(String::new(), |base| format!(" for {base}"));
    let (directory, base) = (directory.display(), base.unwrap_or("BASE"));
    if beside_model {
        return Error::unsupported(
            format!("{directory}: a LoRA adapter{of} beside a model's weights ({ADAPTER_CONFIG})"),
            format!(
                "merge it first (`merge_and_unload()` of PEFT, then `save_pretrained`); if the weights have it already, \
                 remove {ADAPTER_CONFIG} and the adapter's weights"
            ),
        );
    }
    let merge = match text("fine_tune_type").or(text("adapter_path")) {
        Some(_) => format!("mlx_lm.fuse --model {base} --adapter-path {directory} --save-path MERGED"),
        None => format!(
            "python -c \"from peft import AutoPeftModelForCausalLM as M; \
             M.from_pretrained('{directory}').merge_and_unload().save_pretrained('MERGED')\""
        ),
    };
    Error::unsupported(
        format!("{directory}: a LoRA adapter{of}, not a model"),
        format!(
            "merge it into its base model and give the result, MERGED, with the base's tokenizer: {merge}"
        ),
    )
}

/// The error for a repository of the hub that holds only an adapter.
pub fn repository(name: &str) -> Error {
    adapter(Path::new(name), Path::new(""), false)
}

fn has_model_weights(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).any(|name| {
        !ADAPTER_WEIGHTS.contains(&&*name)
            && (name.ends_with(".safetensors")
                || name.starts_with("pytorch_model")
                || name.ends_with(".gguf"))
    })
}
