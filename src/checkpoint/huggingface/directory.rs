//! A Hugging Face directory, opened: config and tensors are checked against each other, and every tensor has a place in
//! the model.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::arch::hf::{self, CONFIG_FILE};
use crate::arch::{ModelConfig, block_of};
use crate::checkpoint::leftover::{self, HEAD, Modules};
use crate::checkpoint::scheme::{self, Scheme, StoredLinear};
use crate::checkpoint::shards::Shards;
use crate::checkpoint::tensor::{StoredTensor, missing, module};
use crate::checkpoint::wrapped;
use crate::error::{Error, Result};
use crate::storage::json;

pub struct HuggingFace {
    pub(super) directory: PathBuf,
    pub(super) config: ModelConfig,
    /// The bytes of config.json that `config` was parsed from.
    pub(super) config_bytes: Vec<u8>,
    /// The bytes of the file with the quantization's settings, where config.json has none.
    pub(super) settings_bytes: Option<Vec<u8>>,
    pub(super) shards: Shards,
    pub(super) scheme: Option<Scheme>,
    /// The quantized linears: name (`….weight`) → `[out, in]`.
    pub(super) packed: BTreeMap<String, [usize; 2]>,
    /// The config of the text part, in a model that has other parts.
    pub(super) text_config: Option<Value>,
}

impl HuggingFace {
    /// Reads the settings, maps the weights and checks the one against the other.
    ///
    /// # Errors
    /// A damaged or unsupported config, quantization scheme or weight file; a tensor of the model
    /// that is missing or of another shape.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(CONFIG_FILE);
        let config_bytes = fs::read(&path).map_err(Error::io(&path, "reading"))?;
        let json = json::parse_json(&path, &config_bytes)?;
        let mut config = hf::parse(&path, &json)?;
        for id in hf::generation_eos(&directory.join("generation_config.json"))? {
            if !config.eos_token_ids.contains(&id) {
                config.eos_token_ids.push(id);
            }
        }
        let settings_bytes = scheme::other_settings(directory, &json)?;
        let scheme = scheme::read(directory, &path, &json, settings_bytes.as_deref())?;
        let mut shards = Shards::open(directory)?;
        if scheme.is_some() && shards.are_pickled() {
            return Err(Error::unsupported(
                format!("{}: quantized weights in PyTorch's files", directory.display()),
                "load the model in transformers and save it with `save_pretrained`, which writes safetensors",
            ));
        }
        let names: Vec<&str> = shards.names().collect();
        wrapped::check_names(directory, &names)?;
        if let Some(other) = scheme::undeclared(scheme.as_ref(), &names) {
            return Err(Error::unsupported(
                format!(
                    "{}: holds tensors of {other}, and {CONFIG_FILE} does not say that the weights are quantized",
                    directory.display()
                ),
                "give the config.json (and quantize_config.json) that the quantizer wrote beside these weights",
            ));
        }
        complete_names(&mut shards)?;
        let mut text_config = hf::text(&json);
        if let Some(text) = &mut text_config
            && !shards.names().any(|name| name.starts_with(HEAD_MODULE))
        {
            // The head is tied. That may stand in the part's config, in that of the whole, or nowhere.
            config.tie_word_embeddings = true;
            text["tie_word_embeddings"] = true.into();
        }
        // A head that is the very bytes of the embeddings it is tied to is left out.
        if config.tie_word_embeddings && shards.position(HEAD) == shards.position(&embeddings(&config)) {
            shards.remove(HEAD);
        }
        let mut opened = Self {
            directory: directory.to_path_buf(),
            config,
            config_bytes,
            settings_bytes,
            shards,
            scheme,
            packed: BTreeMap::new(),
            text_config,
        };
        opened.find_packed()?;
        opened.check_leftover()?;
        Ok(opened)
    }

    /// The names of the quantized linears, byte-sorted.
    pub(super) fn packed_names(&self) -> impl Iterator<Item = &str> {
        self.packed.keys().map(String::as_str)
    }

    /// Whether the tensor is a quantized table or head, which are not trained.
    pub(super) fn is_packed_table(&self, name: &str) -> bool {
        self.packed.contains_key(name) && block_of(name).is_none()
    }

    /// The names of the stored tensors that are no part of a quantized linear, byte-sorted.
    pub(super) fn unpacked_names(&self) -> impl Iterator<Item = &str> {
        let is_copied = move |name: &&str| self.text_config.is_none() || hf::is_text(name);
        self.shards.names().filter(|name| !self.is_part(name)).filter(is_copied)
    }

    /// The names of the tensors of a vision-language model's other parts, byte-sorted.
    pub(super) fn other_names(&self) -> impl Iterator<Item = &str> {
        let has_others = self.text_config.is_some();
        self.shards.names().filter(move |name| has_others && !hf::is_text(name))
    }

    /// Opens a quantized linear.
    pub(super) fn layer(&self, name: &str) -> Result<StoredLinear<'_>> {
        let found = self.scheme.as_ref().zip(self.packed.get(name));
        let not_quantized = || Error::tensor(&self.directory, name, "is not quantized");
        let (scheme, shape) = found.ok_or_else(not_quantized)?;
        StoredLinear::open(scheme, &self.shards, module(name), *shape)
    }

    pub(super) fn tensor(&self, name: &str) -> Result<StoredTensor<'_>> {
        let known = self.shards.names().chain(self.packed_names());
        self.shards.get(name).ok_or_else(|| missing(&self.directory, name, known))
    }

    /// Finds the quantized linears, and checks the shape of every tensor that the model needs.
    fn find_packed(&mut self) -> Result<()> {
        let tensors: Vec<_> = self.config.tensors().collect();
        for (name, shape) in tensors {
            let marker = self.scheme.as_ref().and_then(|scheme| Some((scheme, scheme.parts.first()?)));
            match (marker, &shape[..]) {
                (Some((scheme, part)), &[out, input])
                    if self.shards.contains(&format!("{}{part}", module(&name))) =>
                {
                    let layer = StoredLinear::open(scheme, &self.shards, module(&name), [out, input])?;
                    self.check_table(&name, &layer)?;
                    self.packed.insert(name, [out, input]);
                }
                _ => {
                    let tensor = self.tensor(&name)?;
                    tensor.expect_shape(&shape)?;
                    tensor.float_type()?;
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// A quantized table whose rows cannot be read one by one; a quantized tensor outside the blocks where a tuned copy
    /// is repacked, which would expand it.
    fn check_table(&self, name: &str, layer: &StoredLinear<'_>) -> Result<()> {
        let tables = [Some(self.config.embed_tokens()), self.config.embed_positions()];
        let is_table = tables.contains(&Some(module(name)));
        let is_expanded = block_of(name).is_none() && layer.repacking().is_some();
        if is_table && layer.row(0).is_none() || is_expanded {
            return Err(Error::unsupported(
                format!("{}: `{name}` is quantized", self.directory.display()),
                "works: embeddings that are F32, F16 or BF16, in MLX or in GGUF; with double quantization of \
                 bitsandbytes an lm_head of F32, F16 or BF16, too",
            ));
        }
        Ok(())
    }

    /// # Errors
    /// A tensor that the config does not account for; [`leftover`] says which ones are accepted.
    fn check_leftover(&self) -> Result<()> {
        let config = &self.config;
        let plain: HashSet<String> =
            config.tensors().map(|(name, _)| name).filter(|name| !self.packed.contains_key(name)).collect();
        let modules = Modules::of(config);
        let mut left = Vec::new();
        for name in self.shards.names().filter(|name| !plain.contains(*name) && !leftover::is_ignored(name)) {
            let tensor = self.tensor(name)?;
            let is_accounted_for = match self.is_part(name) {
                true => self.scheme.as_ref().is_none_or(|scheme| scheme.linears.accounts_for(&tensor)),
                false if modules.has_bias(name) => tensor.is_zero(),
                false if name == HEAD => {
                    self.shards.have_same_values(&tensor, &self.tensor(&embeddings(config))?)
                }
                false => false,
            };
            left.extend((!is_accounted_for).then_some((name, name)));
        }
        leftover::refuse(&self.directory, CONFIG_FILE, config, &left)
    }

    /// Whether a stored tensor is a part of a quantized linear.
    fn is_part(&self, name: &str) -> bool {
        let parts = self.scheme.as_ref().map_or(&[][..], |scheme| scheme.parts);
        let mut modules = parts.iter().filter_map(|part| name.strip_suffix(part));
        modules.any(|module| self.packed.contains_key(&format!("{module}.weight")))
    }
}

/// The beginning of the names of the head's tensors.
const HEAD_MODULE: &str = "lm_head.";

/// The name of the token embeddings.
fn embeddings(config: &ModelConfig) -> String {
    format!("{}.weight", config.embed_tokens())
}

/// Gives the tensors the names that they have in a causal language model. Files of a model without its head, such as
/// older ones of OPT, leave out the prefix `model.`; those of a vision model have a longer one.
fn complete_names(shards: &mut Shards) -> Result<()> {
    if shards.names().any(|name| hf::text_name(name).is_some()) {
        return shards.rename(|name| hf::text_name(name).unwrap_or_else(|| name.to_owned()));
    }
    if shards.names().any(|name| name.starts_with("model.")) {
        return Ok(());
    }
    shards.rename(|name| if name == HEAD { name.to_owned() } else { format!("model.{name}") })
}
