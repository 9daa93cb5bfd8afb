//! Models in several files, `<name>-00001-of-00003.gguf` and so on. The first has the key-values, all have some of
//! the tensors, and each says which one it is.
//!
//! Source: llama.cpp `src/llama.cpp` (`llama_split_path`), `tools/gguf-split`.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::header::{Header, Value};
use crate::error::{Error, Result};
use crate::storage::pages;

/// More than any model has: llama.cpp counts them in 16 bits.
const MOST_PARTS: usize = 1 << 16;

/// A file of a model.
pub struct Part {
    pub path: PathBuf,
    pub file: File,
    pub bytes: Mmap,
}

/// The names of all files of the model that a file belongs to, in their order, and its place among them; where its
/// name says that there are several.
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

/// All parts of a model, given its first file; their tensors in the first one's header.
///
/// # Errors
/// Another file than the first; one that is missing, damaged, or of another model.
pub fn open(path: &Path) -> Result<(Vec<Part>, Header)> {
    let (part, mut header) = open_part(path, 0)?;
    let mut parts = vec![part];
    let count = number(path, &header, "split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok((parts, header));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let named = names(&name).filter(|(_, all)| all.len() == count && count < MOST_PARTS);
    let Some((own, all)) = named else {
        return Err(Error::invalid(
            format!("{} is one of {count} files of a model, and not named like one", path.display()),
            format!(
                "name them …-00001-of-{count:05}.gguf and so on, or join them with `llama-gguf-split --merge`"
            ),
        ));
    };
    if own != 0 {
        let first = path.with_file_name(&all[0]);
        return Err(Error::invalid(
            format!("{} is file {} of {count} of a model", path.display(), own + 1),
            format!("name the first one: {}", first.display()),
        ));
    }
    for (index, name) in all.iter().enumerate().skip(1) {
        let path = path.with_file_name(name);
        let (part, other) = open_part(&path, index)?;
        for (key, expected) in [("split.no", index), ("split.count", count)] {
            let found = number(&path, &other, key)?;
            if found != Some(expected) {
                return Err(Error::damaged(&path, format!("{key} is {found:?}, expected {expected}")));
            }
        }
        header.tensors.extend(other.tensors);
        parts.push(part);
    }
    Ok((parts, header))
}

fn open_part(path: &Path, index: usize) -> Result<(Part, Header)> {
    let (file, bytes) = pages::open_mapped(path)?;
    let mut header = Header::parse(path, &bytes)?;
    header.tensors.iter_mut().for_each(|tensor| tensor.part = index);
    Ok((Part { path: path.to_path_buf(), file, bytes }, header))
}

fn number(path: &Path, header: &Header, key: &str) -> Result<Option<usize>> {
    match header.values.get(key) {
        None => Ok(None),
        Some(&Value::Unsigned(number)) if number <= MOST_PARTS as u64 => Ok(Some(number as usize)),
        Some(other) => Err(Error::damaged(path, format!("{key} is {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_model_are_told_by_their_names() {
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
