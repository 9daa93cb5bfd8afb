use serde_json::{Map, Value};

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rows").join(name)
}

fn fields(path: &Path) -> Vec<Map<String, Value>> {
    Dataset::read(path).unwrap().rows.into_iter().map(|row| row.fields).collect()
}

#[test]
fn every_format_gives_the_same_rows() {
    let expected = fields(&fixture("rows.jsonl"));
    assert_eq!(expected.len(), 3);
    for name in [
        "rows.json",
        "rows.jsonl.gz",
        "rows.jsonl.zst",
        "rows.csv",
        "rows.tsv",
        "none.parquet",
        "snappy.parquet",
        "gzip.parquet",
        "zstd.parquet",
        "brotli.parquet",
        "lz4.parquet",
    ] {
        assert_eq!(fields(&fixture(name)), expected, "{name}");
        assert!(has_rows(&fixture(name)), "{name}");
    }
}

#[test]
fn lists_and_structs_of_parquet_are_read() {
    let expected = std::fs::read(fixture("nested.expected.json")).unwrap();
    let expected: Vec<Map<String, Value>> = serde_json::from_slice(&expected).unwrap();
    let read = Dataset::read(&fixture("nested.parquet")).unwrap();
    assert!(read.rows[1].place().ends_with("nested.parquet, row 2"));
    assert_eq!(read.rows.into_iter().map(|row| row.fields).collect::<Vec<_>>(), expected);
}

#[test]
fn a_compressed_or_renamed_file_is_recognised_by_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let expected = fields(&fixture("rows.jsonl"));
    for (from, to) in [
        ("rows.jsonl", "rows.txt"),
        ("rows.json", "rows"),
        ("rows.jsonl.gz", "rows.jsonl"),
        ("rows.jsonl.zst", "rows.bin"),
        ("snappy.parquet", "download"),
    ] {
        let path = dir.path().join(to);
        std::fs::copy(fixture(from), &path).unwrap();
        assert_eq!(fields(&path), expected, "{to}");
    }
    assert!(!has_rows(Path::new("rows.txt")) && !has_rows(Path::new("rows.gz")));
}

#[test]
fn several_files_are_one_dataset() {
    let paths = ["rows.jsonl", "rows.csv"].map(fixture);
    let both = Dataset::read_all(&paths).unwrap();
    assert_eq!(both.rows.len(), 6);
    assert!(both.rows[3].place().contains("rows.csv:"));
    let [first, second] = paths.each_ref().map(|path| Dataset::read(path).unwrap().digest);
    assert_eq!(both.digest, *blake3::hash([first, second].as_flattened()).as_bytes());
    assert_eq!(Dataset::read_all(&paths[..1]).unwrap().digest, first);
}

#[test]
fn a_file_that_is_missing_empty_or_damaged_is_named() {
    let error = |path: &Path| Dataset::read(path).unwrap_err().to_string();
    assert!(error(Path::new("/nowhere/train.jsonl")).starts_with("/nowhere/train.jsonl: reading: "));
    let dir = tempfile::tempdir().unwrap();
    for (name, keep) in
        [("rows.jsonl.gz", 40), ("rows.jsonl.zst", 60), ("snappy.parquet", 900), ("zstd.parquet", 3)]
    {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, &bytes[..keep]).unwrap();
        assert!(error(&path).contains("damaged or cut short"), "{}", error(&path));
    }
    let path = dir.path().join("empty.jsonl");
    std::fs::write(&path, "\n").unwrap();
    assert!(error(&path).ends_with("empty.jsonl: no rows"));
    let path = dir.path().join("header.csv");
    std::fs::write(&path, "text,label\n").unwrap();
    assert!(error(&path).ends_with("header.csv: no rows"));
}

/// Every byte of a parquet file, flipped, gives rows or an error.
#[test]
fn a_flipped_byte_of_parquet_ends_nothing() {
    let (dir, bytes) = (tempfile::tempdir().unwrap(), std::fs::read(fixture("snappy.parquet")).unwrap());
    let path = dir.path().join("rows.parquet");
    std::panic::set_hook(Box::new(|_| ()));
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        std::fs::write(&path, &flipped).unwrap();
        let _ = Dataset::read(&path);
    }
    let _ = std::panic::take_hook();
}
