use std::fs;

use super::super::safetensors::{Dtype, Writer};
use super::*;

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn open_bytes(bytes: &[u8]) -> Result<Shards> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(SINGLE_FILE), bytes).unwrap();
    Shards::open(directory.path())
}

const GOOD: &str = r#"{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;

#[test]
fn values_of_every_float_type_become_f32() {
    let header = r#"{"f":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
        "h":{"dtype":"F16","shape":[1],"data_offsets":[4,6]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[6,8]},
        "i":{"dtype":"I32","shape":[1],"data_offsets":[8,12]},"l":{"dtype":"I64","shape":[1],"data_offsets":[12,20]}}"#;
    let mut data = (-1.5f32).to_le_bytes().to_vec();
    data.extend(half::f16::from_f32(0.1).to_le_bytes());
    data.extend(half::bf16::from_f32(0.1).to_le_bytes());
    data.extend((-7i32).to_le_bytes());
    data.extend((1i64 << 40).to_le_bytes());
    let shards = open_bytes(&file(header, &data)).unwrap();
    assert_eq!(shards.tensor("f").unwrap().floats().unwrap(), [-1.5]);
    assert_eq!(shards.tensor("h").unwrap().floats().unwrap(), [0.099975586]);
    assert_eq!(shards.tensor("b").unwrap().floats().unwrap(), [0.100097656]);
    assert_eq!(shards.tensor("i").unwrap().integers().unwrap(), [-7]);
    assert!(shards.tensor("i").unwrap().floats().unwrap_err().to_string().contains("stored as I32"));
    assert!(shards.tensor("l").unwrap().integers().is_err());
    assert!(shards.tensor("f").unwrap().expect_shape(&[2]).is_err());
    let Err(error) = shards.tensor("ff") else { panic!("no such tensor") };
    assert!(error.to_string().contains("nearest name is `f`"), "{error}");
}

#[test]
fn hostile_headers_are_refused() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("empty file", Vec::new()),
        ("huge header length", u64::MAX.to_le_bytes().to_vec()),
        ("header length beyond the file", file(GOOD, &[0; 8])[..20].to_vec()),
        ("data cut short", file(GOOD, &[0; 7])),
        ("data left over", file(GOOD, &[0; 9])),
        ("overlap", file(overlap, &[0; 12])),
        ("hole", file(&tensor("F32", "[2]", "[4,12]"), &[0; 12])),
        ("end before start", file(&tensor("F32", "[2]", "[8,0]"), &[0; 8])),
        ("offset out of range", file(&tensor("F32", "[2]", "[0,800000000]"), &[0; 8])),
        ("shape product overflows", file(&tensor("F32", "[4294967296,4294967296,2]", "[0,8]"), &[0; 8])),
        ("shape and size disagree", file(&tensor("F32", "[3]", "[0,8]"), &[0; 8])),
        ("negative dimension", file(&tensor("F32", "[-2]", "[0,8]"), &[0; 8])),
        ("unknown dtype", file(&tensor("Q4", "[2]", "[0,8]"), &[0; 8])),
        ("not JSON", file("{{{{", &[])),
        ("deep nesting", file(&"[".repeat(100_000), &[])),
    ];
    for (name, bytes) in attacks {
        assert!(matches!(open_bytes(&bytes), Err(Error::Damaged { .. })), "{name}");
    }
    assert!(open_bytes(&file(GOOD, &[0; 8])).is_ok());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = file(GOOD, &[0; 8]);
    for length in 0..whole.len() {
        assert!(open_bytes(&whole[..length]).is_err(), "{length} bytes");
    }
}

fn open_index(index: &str) -> Result<Shards> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("shard.safetensors"), file(GOOD, &[0; 8])).unwrap();
    fs::write(directory.path().join(INDEX_FILE), index).unwrap();
    Shards::open(directory.path())
}

#[test]
fn an_index_cannot_point_outside_its_directory() {
    for name in ["../shard.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "c:x", "nul\\u0000"] {
        let Err(error) = open_index(&format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#)) else {
            panic!("{name}")
        };
        assert!(error.to_string().contains("not a plain file name"), "{name}: {error}");
    }
}

#[test]
fn a_missing_shard_or_tensor_and_a_damaged_index_are_named() {
    assert!(open_index(r#"{"weight_map":{"a":"shard.safetensors"}}"#).is_ok());
    for (index, expected) in [
        (r#"{"weight_map":{"a":"model-00002-of-00002.safetensors"}}"#, "`model-00002-of-00002.safetensors`"),
        (r#"{"weight_map":{"b":"shard.safetensors"}}"#, "tensor `b`"),
        (r#"{"weight_map":{}}"#, "no tensor"),
        (r#"{"weight_map":[]}"#, "not an index"),
        ("", "not an index"),
    ] {
        let Err(error) = open_index(index) else { panic!("{index}") };
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_directory_without_weights_says_which_files_were_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Shards::open(directory.path()).map(|_| ()).unwrap_err();
    assert!(
        open()
            .to_string()
            .contains("none of model.safetensors, model.safetensors.index.json, pytorch_model.bin")
    );
    fs::write(directory.path().join("gptq_model-4bit-128g.safetensors"), file(GOOD, &[0; 8])).unwrap();
    assert!(Shards::open(directory.path()).unwrap().contains("a"));
    fs::write(directory.path().join("another.safetensors"), file(GOOD, &[0; 8])).unwrap();
    assert!(open().to_string().contains("2 safetensors files without"));
}

#[test]
fn tensors_written_in_any_order_are_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(SINGLE_FILE);
    let tensors = [("a".to_owned(), Dtype::F32, vec![2, 1]), ("b".to_owned(), Dtype::I32, vec![1])];
    let mut writer = Writer::create(&path, &tensors).unwrap();
    writer.write("b", &7i32.to_le_bytes()).unwrap();
    assert!(writer.write("b", &[0; 4]).is_err(), "written twice");
    assert!(writer.write("c", &[0; 4]).is_err(), "unknown");
    writer.write("a", &[1f32.to_le_bytes(), 2f32.to_le_bytes()].concat()).unwrap();
    writer.finish().unwrap();
    let shards = Shards::open(directory.path()).unwrap();
    assert_eq!(shards.tensor("a").unwrap().floats().unwrap(), [1.0, 2.0]);
    assert_eq!(shards.tensor("a").unwrap().shape, [2, 1]);
    assert_eq!(shards.tensor("b").unwrap().integers().unwrap(), [7]);

    let other = directory.path().join("other");
    let mut writer = Writer::create(&other, &tensors).unwrap();
    assert!(writer.write("a", &[0; 4]).is_err(), "too short");
    assert!(writer.finish().unwrap_err().to_string().contains("`b`"));
}

#[test]
fn tensors_that_an_index_leaves_out_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let two = r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[1],"data_offsets":[4,6]}}"#;
    std::fs::write(dir.path().join("1.safetensors"), file(two, &[0; 6])).unwrap();
    let one = r#"{"b":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
    std::fs::write(dir.path().join("2.safetensors"), file(one, &[0; 4])).unwrap();
    let index = |map: &str| std::fs::write(dir.path().join(INDEX_FILE), format!(r#"{{"weight_map":{map}}}"#));
    index(r#"{"a":"1.safetensors","b":"2.safetensors"}"#).unwrap();
    let shards = Shards::open(dir.path()).unwrap();
    assert_eq!(shards.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(shards.tensor("b").unwrap().shape, [2]);
    index(r#"{"a":"1.safetensors"}"#).unwrap();
    let shards = Shards::open(dir.path()).unwrap();
    assert_eq!(shards.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(shards.tensor("b").unwrap().shape, [1]);
}
