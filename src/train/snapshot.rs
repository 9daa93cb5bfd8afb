//! All trained scales at one step, so that a resumed run need not replay its whole journal. A snapshot
//! is only a shortcut: a missing or damaged one costs time, never a result.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::checkpoint::STAGING_PREFIX;
use crate::error::{Error, Result};
use crate::model::LanguageModel;

const STEP: &str = "step";
const RUN: &str = "run";
const DIGEST: &str = "blake3";

type NamedScales = Vec<(String, Vec<f32>)>;

/// Writes the model's scales as they are after `step` steps of the run `run` (a hash that names it).
pub fn save(path: &Path, model: &dyn LanguageModel, step: u64, run: &str) -> Result<()> {
    let mut tensors = Vec::new();
    for name in model.trained() {
        tensors.push((name.clone(), model.scales(name)?));
    }
    let digest = digest(tensors.iter().map(|(name, scales)| (name.as_str(), bytemuck::cast_slice(scales))));
    let views = tensors
        .iter()
        .map(|(name, scales)| {
            let view = TensorView::new(Dtype::F32, vec![scales.len()], bytemuck::cast_slice(scales));
            view.map(|view| (name.as_str(), view))
        })
        .collect::<Result<Vec<_>, _>>();
    let metadata = [(STEP, step.to_string()), (RUN, run.to_string()), (DIGEST, digest)];
    let metadata: HashMap<String, String> = metadata.map(|(k, v)| (k.to_string(), v)).into();
    let bytes = views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|error| Error::invalid(format!("{}: {error}", path.display()), ""))?;
    write_atomically(path, &bytes)
}

/// Puts a snapshot's scales into the model and returns its step; `None` where there is no usable
/// snapshot of this run up to `last_step`.
pub fn restore(path: &Path, model: &mut dyn LanguageModel, last_step: u64, run: &str) -> Result<Option<u64>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "reading")(error)),
    };
    let Some((step, scales)) = parse(&bytes, run, model.trained()) else {
        tracing::warn!("{}: damaged or of another run; replaying the journal instead", path.display());
        return Ok(None);
    };
    if step > last_step {
        tracing::warn!("{}: newer than the journal; replaying the journal instead", path.display());
        return Ok(None);
    }
    for (name, scales) in scales {
        model.set_scales(&name, scales)?;
    }
    Ok(Some(step))
}

fn parse(bytes: &[u8], run: &str, trained: &[String]) -> Option<(u64, NamedScales)> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).ok()?;
    let metadata = metadata.metadata().as_ref()?;
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let views = trained.iter().map(|name| Some((name.as_str(), tensors.tensor(name).ok()?.data())));
    let views: Vec<(&str, &[u8])> = views.collect::<Option<_>>()?;
    if metadata.get(RUN)? != run || *metadata.get(DIGEST)? != digest(views.iter().copied()) {
        return None;
    }
    let scales = views.iter().map(|(name, data)| (name.to_string(), bytemuck::pod_collect_to_vec(data)));
    Some((metadata.get(STEP)?.parse().ok()?, scales.collect()))
}

fn digest<'a>(tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hash = blake3::Hasher::new();
    for (name, data) in tensors {
        hash.update(name.as_bytes());
        hash.update(&(data.len() as u64).to_le_bytes());
        hash.update(data);
    }
    hash.finalize().to_hex().to_string()
}

/// A whole file or the old one: temporary file in the same directory, fsync, rename, fsync directory.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix(STAGING_PREFIX);
        #[cfg(unix)]
        {
            // The default, 0600, would outlive the rename.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(Error::io(path, "writing"))
}
