//! All trained scales at one step, so that a resumed run need not replay its whole journal. A snapshot
//! is only a shortcut: a missing or damaged one costs time, never a result.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};

use crate::error::{Error, Result};
use crate::model::LanguageModel;
use crate::storage::atomic::stream_atomically;
use crate::storage::pages::map;

const STEP: &str = "step";
const RUN: &str = "run";
/// Name of the last tensor: BLAKE3 over the names, lengths and bytes of the others.
const DIGEST: &str = "blake3";

type NamedBytes<'a> = Vec<(String, &'a [u8])>;

/// Writes the model's scales as they are after `step` steps of the run `run` (a hash that names it), one
/// weight in memory at a time.
pub fn save(path: &Path, model: &dyn LanguageModel, step: u64, run: &str) -> Result<()> {
    let mut tensors = Vec::new();
    let mut end = 0;
    let mut add = |name: &str, dtype: Dtype, length: usize, bytes: usize| {
        let info = TensorInfo { dtype, shape: vec![length], data_offsets: (end, end + bytes) };
        tensors.push((name.to_string(), info));
        end += bytes;
    };
    for name in model.trained() {
        let length = model.scale_count(name)?;
        add(name, Dtype::F32, length, 4 * length);
    }
    add(DIGEST, Dtype::U8, blake3::OUT_LEN, blake3::OUT_LEN);
    let about = [(STEP, step.to_string()), (RUN, run.to_string())];
    let about: HashMap<String, String> = about.map(|(k, v)| (k.to_string(), v)).into();
    let impossible = |what: String| Error::invalid(format!("{}: {what}", path.display()), "");
    let header = Metadata::new(Some(about), tensors).map_err(|e| impossible(e.to_string()))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| impossible(e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let failed = || Error::io(path, "writing");
    stream_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed())?;
        file.write_all(&header).map_err(failed())?;
        let mut digest = Digest::default();
        for name in model.trained() {
            let scales = model.scales(name)?;
            let bytes = bytemuck::cast_slice(&scales);
            digest.add(name, bytes);
            file.write_all(bytes).map_err(failed())?;
        }
        file.write_all(&digest.finish()).map_err(failed())
    })
}

/// Puts a snapshot's scales into the model and returns its step; `None` where there is no usable
/// snapshot of this run up to `last_step`.
pub fn restore(path: &Path, model: &mut dyn LanguageModel, last_step: u64, run: &str) -> Result<Option<u64>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = map(path)?;
    let Some((step, scales)) = parse(&bytes, run, model.trained()) else {
        tracing::warn!("{}: damaged or of another run; replaying the journal instead", path.display());
        return Ok(None);
    };
    if step > last_step {
        tracing::warn!("{}: newer than the journal; replaying the journal instead", path.display());
        return Ok(None);
    }
    for (name, scales) in scales {
        model.set_scales(&name, bytemuck::pod_collect_to_vec(scales))?;
    }
    Ok(Some(step))
}

/// The step, and each weight's scales as bytes, where everything is as `save` wrote it.
fn parse<'a>(bytes: &'a [u8], run: &str, trained: &[String]) -> Option<(u64, NamedBytes<'a>)> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).ok()?;
    let metadata = metadata.metadata().as_ref()?;
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let mut digest = Digest::default();
    let mut scales = Vec::with_capacity(trained.len());
    for name in trained {
        let data = tensors.tensor(name).ok()?.data();
        digest.add(name, data);
        scales.push((name.clone(), data));
    }
    let stored = tensors.tensor(DIGEST).ok()?.data();
    if metadata.get(RUN)? != run || stored != digest.finish() {
        return None;
    }
    Some((metadata.get(STEP)?.parse().ok()?, scales))
}

#[derive(Default)]
struct Digest(blake3::Hasher);

impl Digest {
    fn add(&mut self, name: &str, data: &[u8]) {
        self.0.update(name.as_bytes());
        self.0.update(&(data.len() as u64).to_le_bytes());
        self.0.update(data);
    }

    fn finish(&self) -> [u8; blake3::OUT_LEN] {
        *self.0.finalize().as_bytes()
    }
}
