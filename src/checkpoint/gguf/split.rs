//! Models in several files, `<name>-00001-of-00003.gguf` and so on. The first has the key-values; each has some of the
//! tensors and its own number.
//!
//! Source: llama.cpp `src/llama.cpp` (`llama_split_path`), `tools/gguf-split`.

use std::path::{Path, PathBuf};

use super::header::{GgufHeader, GgufValue};
use crate::arch::hf;
use crate::error::{Error, Result};
use crate::storage::pages::MappedFile;

/// The most files of a model: llama.cpp counts them in 16 bits.
const MOST_FILES: usize = 1 << 16;

/// The index of a file among those of its model, and the names of all of them in their order; `None` where its name does
/// not say that there are several.
pub fn names(name: &str) -> Option<(usize, Vec<String>)> {
    let (rest, of) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let five = |digits: &str| match digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit()) {
        true => digits.parse::<usize>().ok(),
        false => None,
    };
    let (number, of) = (five(number)?, five(of)?);
    let all = (1..=of).map(|number| format!("{prefix}-{number:05}-of-{of:05}.gguf")).collect();
    (1..=of).contains(&number).then(|| (number - 1, all))
}

/// Opens all files of a model, given its first one, and adds all tensors to the first one's header.
///
/// # Errors
/// A file that is not the first; one that is missing, damaged, or part of another model.
pub fn open(path: &Path) -> Result<(Vec<MappedFile>, GgufHeader)> {
    let (file, mut header) = open_file(path, 0)?;
    let mut files = vec![file];
    let count = number(path, &header, "split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok((files, header));
    }
    let name = files[0].name()?.to_string_lossy().into_owned();
    let named = names(&name).filter(|(_, all)| all.len() == count && count < MOST_FILES);
    let Some((own, all)) = named else {
        return Err(Error::invalid(
            format!("{} is one of {count} files of a model, but its name does not say which", path.display()),
            format!(
                "name them …-00001-of-{count:05}.gguf and so on, or join them with `llama-gguf-split --merge`"
            ),
        ));
    };
    if own != 0 {
        let first = path.with_file_name(&all[0]);
        return Err(Error::invalid(
            format!("{} is file {} of {count} of a model", path.display(), own + 1),
            format!("give the first one: {}", first.display()),
        ));
    }
    for (index, name) in all.iter().enumerate().skip(1) {
        let path = path.with_file_name(name);
        let (file, other) = open_file(&path, index)?;
        for (key, expected) in [("split.no", index), ("split.count", count)] {
            let found = number(&path, &other, key)?;
            if found != Some(expected) {
                return Err(Error::damaged(&path, format!("{key} is {found:?}, expected {expected}")));
            }
        }
        header.tensors.extend(other.tensors);
        files.push(file);
    }
    Ok((files, header))
}

/// The only .gguf file of a directory, or the first file where all are one model's.
///
/// # Errors
/// The directory holds no model, or several.
pub fn only_model(directory: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory).map_err(Error::io(directory, "listing"))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(directory, "listing"))?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            found.push(path);
        }
    }
    found.sort();
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let of_one_model = found.first().and_then(name).and_then(|first| names(&first));
    if of_one_model.is_some_and(|(_, all)| found.iter().filter_map(name).eq(all)) {
        found.truncate(1);
    }
    <[PathBuf; 1]>::try_from(found).map(|[path]| path).map_err(|found| {
        Error::invalid(
            format!("{}: no {} and {} .gguf files", directory.display(), hf::CONFIG_FILE, found.len()),
            match directory.join("final").is_dir() {
                true => "this is the directory of a run: give its final/ or best/",
                false => {
                    "give a directory with config.json and safetensors files, or the path of one .gguf file"
                }
            },
        )
    })
}

fn open_file(path: &Path, index: usize) -> Result<(MappedFile, GgufHeader)> {
    let file = MappedFile::open(path)?;
    let mut header = GgufHeader::parse(path, &file.bytes)?;
    header.tensors.iter_mut().for_each(|tensor| tensor.file = index);
    Ok((file, header))
}

fn number(path: &Path, header: &GgufHeader, key: &str) -> Result<Option<usize>> {
    match header.values.get(key) {
        None => Ok(None),
        Some(&GgufValue::Unsigned(number)) if number <= MOST_FILES as u64 => Ok(Some(number as usize)),
        Some(other) => Err(Error::damaged(path, format!("{key} is {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_model_are_known_by_their_names() {
        let (own, all) = names("a-b-00002-of-00003.gguf").unwrap();
        assert_eq!((own, all.len()), (1, 3));
        assert_eq!(all[2], "a-b-00003-of-00003.gguf");
        for not in [
            "a.gguf",
            "a-00001-of-00003.bin",
            "a-1-of-3.gguf",
            "a-00004-of-00003.gguf",
            "a-00000-of-00001.gguf",
        ] {
            assert_eq!(names(not), None, "{not}");
        }
    }
}
