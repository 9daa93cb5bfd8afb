use serde_json::json;

use super::*;
use crate::checkpoint::safetensors::Writer;
use crate::checkpoint::scheme::StoredLinear;
use crate::checkpoint::shards::Shards;

fn scheme() -> Gptq {
    Gptq { zeros_minus_one: true, ..Gptq::new(4, None, false, false) }
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// A linear of 8 outputs and 8 inputs in one group, in a directory of its own.
fn with_linear<T>(zeros: u32, codes: [u32; 8], test: impl FnOnce(&Shards) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    let header = [
        ("m.qweight".to_owned(), Dtype::I32, vec![1, 8]),
        ("m.qzeros".to_owned(), Dtype::I32, vec![1, 1]),
        ("m.scales".to_owned(), Dtype::BF16, vec![1, 8]),
    ];
    let mut writer = Writer::create(&directory.path().join("model.safetensors"), &header).unwrap();
    writer.write("m.qweight", &bytes(&codes)).unwrap();
    writer.write("m.qzeros", &bytes(&[zeros])).unwrap();
    let scales = (1..=8).flat_map(|s| half::bf16::from_f32(s as f32).to_le_bytes());
    writer.write("m.scales", &scales.collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
    test(&Shards::open(directory.path()).unwrap())
}

#[test]
fn the_first_input_is_in_the_lowest_bits_and_symmetric_zeros_are_7_in_the_file() {
    with_linear(0x7777_7777, [0x7654_3210; 8], |shards| {
        let packed = StoredLinear::open(&scheme().scheme(), shards, "m", [8, 8]).unwrap().packed().unwrap();
        assert_eq!(packed.levels, Levels::Zero(8));
        let row: Vec<f32> = (0..8).map(|i| packed.value(2, i)).collect();
        assert_eq!(row, [-24.0, -21.0, -18.0, -15.0, -12.0, -9.0, -6.0, -3.0]);
    });
}

#[test]
fn zeros_that_wrapped_in_whole_words_come_back() {
    // Zero points 0, 8, 8, …: 0x8888_8880 − 0x1111_1111 borrows.
    with_linear(0x8888_8880u32.wrapping_sub(0x1111_1111), [0; 8], |shards| {
        let packed = StoredLinear::open(&scheme().scheme(), shards, "m", [8, 8]).unwrap().packed().unwrap();
        assert_eq!(packed.levels, Levels::Zeros(vec![0, 8, 8, 8, 8, 8, 8, 8]));
    });
}

#[test]
fn tensors_of_another_shape_are_refused_by_name() {
    with_linear(0, [0; 8], |shards| {
        for (shape, expected) in [([16, 8], "m.qweight"), ([8, 9], "m.qweight"), ([8, 0], "m.qweight")] {
            let scheme = Gptq { group_size: Some(8), ..scheme() };
            let Err(error) = StoredLinear::open(&scheme.scheme(), shards, "m", shape) else {
                panic!("{shape:?}")
            };
            assert!(error.to_string().contains(expected), "{error}");
        }
        let scheme = Gptq { group_size: Some(4), ..scheme() };
        let Err(error) = StoredLinear::open(&scheme.scheme(), shards, "m", [8, 8]) else { panic!() };
        assert!(error.to_string().contains("m.qzeros"), "{error}");
    });
}

#[test]
fn scales_keep_the_type_of_the_file() {
    with_linear(0x7777_7777, [0; 8], |shards| {
        let linear = StoredLinear::open(&scheme().scheme(), shards, "m", [8, 8]).unwrap();
        let rounded = linear.scales().rounded(&[1.001; 8]).unwrap();
        assert_eq!(rounded, [1.0; 8]);
        // bf16 reaches further than f16.
        assert!(linear.scales().encode(&[1e30; 8]).is_ok());
        assert!(linear.scales().encode(&[f32::MAX; 8]).is_err());
    });
}

#[test]
fn settings_are_read_with_their_defaults() {
    let parse = |json| Gptq::parse(Path::new("config.json"), &json);
    assert_eq!(parse(json!({"bits": 4, "group_size": -1})).unwrap(), scheme());
    let v2 = parse(json!({"bits": 3, "group_size": 64, "checkpoint_format": "gptq_v2", "dynamic": {}}));
    assert_eq!(v2.unwrap(), Gptq { zeros_minus_one: false, ..Gptq::new(3, Some(64), false, false) });
    let loose = json!({"bits": 4.0, "group_size": -1.0, "desc_act": null, "sym": null, "dynamic": null, "planar": null,
        "checkpoint_format": null, "pack_dtype": null, "is_marlin_format": 0, "damp_percent": "?"});
    assert_eq!(parse(loose).unwrap(), scheme());
    let Gptq { symmetric, desc_act, .. } =
        parse(json!({"bits": 4, "group_size": -1, "sym": 1, "desc_act": 1})).unwrap();
    assert!(symmetric && desc_act);
    assert_eq!(
        parse(json!({"bits": 4, "format": "gptq_v2"})).unwrap(),
        Gptq { group_size: Some(128), zeros_minus_one: false, ..scheme() }
    );
    for wrong in [json!({"group_size": 64}), json!({"bits": 4.5}), json!({"bits": 4, "sym": "false"})] {
        assert!(parse(wrong.clone()).is_err(), "{wrong}");
    }
}
