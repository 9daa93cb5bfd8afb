use std::io::Write;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

/// Written by PyTorch (scripts/fixtures/models.py); its values are compared with transformers' in the tests of whole models.
const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/families/opt-pickled/pytorch_model.bin");

fn open(bytes: &[u8]) -> Result<BTreeMap<String, TensorPlace>> {
    places(Path::new("pytorch_model.bin"), bytes)
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(vec![]));
    for (name, content) in entries {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// `{"a": tensor}` of f16 in storage "0".
fn dictionary(offset: u8, sizes: &[u8], strides: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&[b'X'][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let numbers = |numbers: &[u8]| {
        let items = numbers.iter().flat_map(|n| [b'K', *n]);
        [b"(".to_vec(), items.collect(), b"t".to_vec()].concat()
    };
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nHalfStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        b"K\x08tQ".to_vec(),
    ];
    [
        b"\x80\x02}q\x00".to_vec(),
        text("a"),
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.concat(),
        vec![b'K', offset],
        numbers(sizes),
        numbers(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

fn with(pickle: &[u8]) -> Vec<u8> {
    archive(&[("model/data.pkl", pickle), ("model/byteorder", b"little"), ("model/data/0", &[7; 16])])
}

fn refusal(bytes: &[u8]) -> String {
    open(bytes).unwrap_err().to_string()
}

#[test]
fn a_tensor_lies_where_its_storage_does() {
    let bytes = with(&dictionary(2, &[2, 3], &[3, 1]));
    let TensorPlace { dtype, shape, range } = open(&bytes).unwrap().remove("a").unwrap();
    assert_eq!((dtype, &shape[..], range.len()), (Dtype::F16, &[2, 3][..], 12));
    assert_eq!(bytes[range], [7; 12]);
    // An empty tensor: the strides of dimensions of 0 or 1 do not matter.
    assert_eq!(open(&with(&dictionary(0, &[0, 3], &[3, 1]))).unwrap()["a"].range.len(), 0);
    assert_eq!(open(&with(&dictionary(0, &[1, 3], &[9, 1]))).unwrap()["a"].range.len(), 6);
}

#[test]
fn tensors_outside_their_storage_or_in_another_order_are_refused() {
    for (pickle, expected) in [
        (dictionary(3, &[2, 3], &[3, 1]), "lies beyond the end of data/0"),
        (dictionary(0, &[2, 3], &[1, 2]), "not contiguous"),
        (dictionary(0, &[255; 9], &[1; 9]), "not contiguous"),
        (dictionary(0, &[3], &[3, 1]), "a tensor with arguments of unexpected types"),
    ] {
        assert!(refusal(&with(&pickle)).contains(expected), "{expected}: {}", refusal(&with(&pickle)));
    }
    let whole = dictionary(0, &[2, 3], &[3, 1]);
    let elsewhere = archive(&[("model/data.pkl", &whole), ("model/data/1", &[7; 16])]);
    assert!(refusal(&elsewhere).contains("no data/0"));
    let big = archive(&[("model/data.pkl", &whole), ("model/byteorder", b"big"), ("model/data/0", &[7; 16])]);
    assert!(refusal(&big).contains("big-endian"));
}

#[test]
fn files_without_a_dictionary_of_tensors_are_refused() {
    for (bytes, expected) in [
        (b"".to_vec(), "not a zip file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), "not a zip file"),
        (b"PK".to_vec(), "as a zip file"),
        (archive(&[("model/code", b"")]), "no dictionary of tensors"),
        (with(b""), "at byte 0: it ends within an instruction"),
        (with(b"\x80\x02N."), "no dictionary of tensors"),
        (with(b"\x80\x02i"), "at byte 2: instruction 0x69"),
        (with(b"cposix\nsystem\nX\x02\x00\x00\x00ls\x85R."), "no dictionary of tensors"),
        (with(&[&[b')'; 10][..], &[0x85; 100][..]].concat()), "tuples nested deeper"),
        (with(b"X\xff\xff\xff\xffab"), "it ends within an instruction"),
        (with(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab"), "it ends within an instruction"),
        (with(b"}(K\x01t."), "no dictionary of tensors"),
        (with(b"}(s"), "an instruction without its operands"),
        (with(b"h\x05"), "a memo entry that was never set"),
        (with(b"K\x01Q"), "a persistent reference that is no storage"),
    ] {
        let error = refusal(&bytes);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn files_of_pytorch_with_random_damage_are_read_or_refused() {
    let whole = std::fs::read(FIXTURE).unwrap();
    assert!(open(&whole).unwrap().len() > 30);
    for length in (0..whole.len()).step_by(97) {
        assert!(open(&whole[..length]).is_err(), "{length} bytes");
    }
    // The dictionary comes first, the zip file's directory last.
    let (end, directory) = (6_000, whole.len() - 6_000);
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut refused = 0;
    for _ in 0..5000 {
        let mut damaged = whole.clone();
        for _ in 0..=random(3) {
            let at = if random(2) == 0 { random(end) } else { directory + random(end) };
            damaged[at] = match random(3) {
                0 => random(256) as u8,
                1 => damaged[at] ^ 1 << random(8),
                _ => [0, 0xff, 0x7f, 0x80][random(4)],
            };
        }
        match open(&damaged) {
            Err(_) => refused += 1,
            Ok(places) => {
                assert!(places.values().all(|place| place.range.end <= whole.len()));
                let bytes = |p: &TensorPlace| p.shape.iter().product::<usize>() * p.dtype.bitsize() / 8;
                assert!(places.values().all(|place| place.range.len() == bytes(place)));
            }
        }
    }
    assert!(refused > 2000, "{refused} refused");
}
