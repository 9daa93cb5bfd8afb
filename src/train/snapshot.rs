//! Snapshots: all trained parameters at one step, with the state of the optimizer, so that a resumed run need not repeat
//! every step. Without a usable snapshot, a run takes longer to resume and gives the same result.

use std::borrow::Cow;
use std::path::Path;

use ::safetensors::{Dtype, SafeTensors};
use half::bf16;

use crate::checkpoint::safetensors;
use crate::error::{Error, Result};
use crate::model::{Scales, Update};
use crate::storage::atomic::stream_atomically;
use crate::storage::pages::map;
use crate::zo::journal::Hash;

const STEP: &str = "step";
const RUN: &str = "run";
/// Name of the last tensor, which holds BLAKE3 over the names, lengths and bytes of the others.
const DIGEST: &str = "blake3";
/// Prefix of the names of the optimizer's state.
const STATE: &str = "optimizer.";

type NamedBytes<'a> = Vec<(String, &'a [u8])>;

/// A snapshot whose scales were restored into the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// Number of steps done when the snapshot was written.
    pub step: u64,
    pub digest: Hash,
    /// The optimizer's state: names and values.
    pub state: Vec<(String, Vec<bf16>)>,
}

/// Writes the parameters after `step` steps of the run, one weight in memory at a time, and the optimizer's `state`. `run`
/// is the hash that identifies the run. Returns the snapshot's digest.
pub fn save<S: Scales + ?Sized>(
    path: &Path,
    scales: &S,
    state: &[(String, Cow<'_, [bf16]>)],
    step: u64,
    run: &str,
) -> Result<Hash> {
    let mut tensors = Vec::new();
    for name in scales.trained() {
        tensors.push((name.clone(), Dtype::F32, vec![scales.scale_count(name)?]));
    }
    for tensor in scales.tensors() {
        tensors.push((tensor.name.clone(), Dtype::F32, vec![tensor.length]));
    }
    for (name, values) in state {
        tensors.push((format!("{STATE}{name}"), Dtype::BF16, vec![values.len()]));
    }
    tensors.push((DIGEST.into(), Dtype::U8, vec![blake3::OUT_LEN]));
    let about = [(RUN, run), (STEP, &step.to_string())];
    let (header, _) = safetensors::header(&about, &tensors)
        .map_err(|what| Error::internal(format!("{}: {what}", path.display())))?;

    let failed = || Error::io(path, "writing");
    let mut digest = Digest::default();
    stream_atomically(path, |file| {
        file.write_all(&header).map_err(failed())?;
        let weights = scales.trained().iter().map(|name| (name, true));
        for (name, is_weight) in weights.chain(scales.tensors().iter().map(|tensor| (&tensor.name, false))) {
            let values = if is_weight { scales.scales(name)? } else { scales.tensor(name)? };
            let bytes = bytemuck::cast_slice(&values);
            digest.add(name, bytes);
            file.write_all(bytes).map_err(failed())?;
        }
        for (name, values) in state {
            let bytes = bytemuck::cast_slice(values.as_ref());
            digest.add(&format!("{STATE}{name}"), bytes);
            file.write_all(bytes).map_err(failed())?;
        }
        file.write_all(&digest.finish()).map_err(failed())
    })?;
    Ok(digest.finish())
}

/// Restores a snapshot's scales into a model. Returns `None` if there is no undamaged snapshot of this run, or if it is
/// of a later step than `last_step` or `accept` rejects it.
pub fn restore<S: Scales + ?Sized>(
    path: &Path,
    scales: &mut S,
    last_step: u64,
    run: &str,
    accept: impl FnOnce(&Restored) -> bool,
) -> Result<Option<Restored>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = map(path)?;
    let weights = scales.trained().len();
    let tensors = scales.tensors().iter().map(|tensor| &tensor.name);
    let names: Vec<String> = scales.trained().iter().chain(tensors).cloned().collect();
    let Some((restored, values)) = parse(&bytes, run, &names) else {
        tracing::warn!(
            "{}: this snapshot is damaged or of another run; it is not used, and the run resumes from its journal alone",
            path.display()
        );
        return Ok(None);
    };
    if restored.step > last_step || !accept(&restored) {
        tracing::warn!(
            "{}: this snapshot does not match the journal; it is not used, and the run resumes from its journal alone",
            path.display()
        );
        return Ok(None);
    }
    for (index, (name, values)) in values.into_iter().enumerate() {
        let (name, values): (_, Vec<f32>) = (&*name, bytemuck::pod_collect_to_vec(values));
        scales.apply(match index < weights {
            true => Update::Dense { name, scales: &values },
            false => Update::Tensor { name, values: &values },
        })?;
    }
    Ok(Some(restored))
}

/// Parses a snapshot into its step and state, and the bytes of the parameters of each name. Returns `None` if anything differs
/// from what `save` writes.
fn parse<'a>(bytes: &'a [u8], run: &str, names: &[String]) -> Option<(Restored, NamedBytes<'a>)> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).ok()?;
    let about = metadata.metadata().as_ref()?;
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let mut digest = Digest::default();
    let mut scales = Vec::with_capacity(names.len());
    for name in names {
        let data = tensors.tensor(name).ok()?.data();
        digest.add(name, data);
        scales.push((name.clone(), data));
    }
    let mut state = Vec::new();
    for name in metadata.offset_keys() {
        let Some(short) = name.strip_prefix(STATE) else { continue };
        let data = tensors.tensor(&name).ok()?.data();
        digest.add(&name, data);
        state.push((short.to_owned(), bytemuck::pod_collect_to_vec(data)));
    }
    let stored = tensors.tensor(DIGEST).ok()?.data();
    if about.get(RUN)? != run || stored != digest.finish() {
        return None;
    }
    Some((Restored { step: about.get(STEP)?.parse().ok()?, digest: digest.finish(), state }, scales))
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
