//! Settings and tensors of other packages' formats that are refused.

use serde_json::json;

use super::super::safetensors::{Dtype, Writer};
use super::super::shards::Shards;
use super::*;

#[test]
fn compressed_tensors_settings_that_are_not_supported_are_named() {
    const WEIGHTS: &str = "/config_groups/group_0/weights";
    let group = "/config_groups/group_0";
    let other = json!({"targets": ["re:.*mlp.*"], "weights": {"num_bits": 8, "strategy": "channel"}});
    for (at, key, value, expected) in [
        ("", "quantization_status", json!("initialized"), "quantization_status \"initialized\""),
        ("", "kv_cache_scheme", json!({"num_bits": 8}), "kv_cache_scheme"),
        ("", "sparsity_config", json!({"format": "sparse-24-bitmask"}), "sparse-24-bitmask"),
        ("", "sparsity_config", json!({"targets": ["Linear"]}), "sparse"),
        ("", "transform_config", json!({"config_groups": {"r1": {"type": "hadamard"}}}), "transform_config"),
        ("", "config_groups", json!({}), "has no group"),
        ("", "config_groups", json!([]), "quantization config"),
        ("", "config_groups", json!({"W4A16": ["Linear"]}), "preset \"W4A16\""),
        ("/config_groups", "group_1", other, "other settings in \"group_1\""),
        (group, "format", json!("int-quantized"), "format \"int-quantized\""),
        (group, "weights", json!(null), "weights that are not quantized"),
        (group, "weights", json!(7), "quantization config"),
        (group, "input_activations", json!({"num_bits": 8, "dynamic": true}), "input_activations"),
        (group, "output_activations", json!({"num_bits": 8}), "output_activations"),
        (WEIGHTS, "num_bits", json!(0), "0 bits"),
        (WEIGHTS, "num_bits", json!(-4), "-4 bits"),
        (WEIGHTS, "num_bits", json!(5), "5 bits"),
        (WEIGHTS, "num_bits", json!(i64::MAX), "bits"),
        (WEIGHTS, "num_bits", json!(1e300), "quantization config"),
        (WEIGHTS, "num_bits", json!(8), "weight_packed"),
        (WEIGHTS, "type", json!("float"), "type \"float\""),
        (WEIGHTS, "dynamic", json!("local"), "dynamic"),
        (WEIGHTS, "strategy", json!("tensor_group"), "strategy \"tensor_group\""),
        (WEIGHTS, "strategy", json!("nonsense"), "strategy \"nonsense\""),
        (WEIGHTS, "strategy", json!("channel"), "group_size 16 with strategy \"channel\""),
        (WEIGHTS, "group_size", json!(null), "without a group_size"),
        (WEIGHTS, "group_size", json!(0), "group_size 0"),
        (WEIGHTS, "group_size", json!(-2), "group_size -2"),
        (WEIGHTS, "group_size", json!(i64::MAX), "group_size"),
        (WEIGHTS, "group_size", json!(i32::MAX), "do not fill rows of 32"),
        (WEIGHTS, "group_size", json!(24), "do not fill rows of 32"),
        (WEIGHTS, "group_size", json!(8), "weight_scale"),
        (WEIGHTS, "actorder", json!("sideways"), "actorder \"sideways\""),
        (WEIGHTS, "actorder", json!("group"), "weight_g_idx"),
        (WEIGHTS, "symmetric", json!(false), "weight_zero_point"),
    ] {
        let change = |c: &mut serde_json::Value| {
            c.pointer_mut(&format!("/quantization_config{at}")).unwrap()[key] = value.clone();
        };
        let Err(error) = with_config("ct-w4-group", change) else { panic!("{key} {value}") };
        assert!(error.to_string().contains(expected), "{at}/{key} {value}: {error}");
    }
    // A group without a format of its own has the format of the config.
    for (format, works) in [("pack-quantized", true), ("marlin-24", false)] {
        let change = |c: &mut serde_json::Value| {
            let settings = &mut c["quantization_config"];
            settings["config_groups"]["group_0"]["format"] = json!(null);
            settings["format"] = format.into();
        };
        assert_eq!(with_config("ct-w4-group", change).is_ok(), works, "{format}");
    }
    // The settings of the fixture, as other versions of the package write them.
    for (key, value) in [
        ("strategy", json!(null)),
        ("strategy", json!("GROUP")),
        ("type", json!(null)),
        ("actorder", json!("static")),
        ("actorder", json!(false)),
        ("dynamic", json!(null)),
    ] {
        let change = |c: &mut serde_json::Value| {
            c["quantization_config"].pointer_mut(WEIGHTS).unwrap()[key] = value.clone();
        };
        assert!(with_config("ct-w4-group", change).is_ok(), "{key} {value}");
    }
}

#[test]
fn awq_settings_that_are_not_supported_are_named() {
    for (key, value, expected) in [
        ("version", json!("gemv"), "\"gemv\""),
        ("version", json!("gemv_fast"), "\"gemv_fast\""),
        ("version", json!("exllama"), "\"exllama\""),
        ("version", json!("marlin"), "\"marlin\""),
        ("backend", json!("llm-awq"), "\"llm-awq\""),
        ("zero_point", json!(false), "zero_point false"),
        ("bits", json!(8), "8 bits"),
        ("bits", json!(0), "0 bits"),
        ("bits", json!(-4), "-4 bits"),
        ("group_size", json!(0), "group_size 0"),
        ("group_size", json!(i32::MAX), "do not fill rows of 32"),
        ("group_size", json!(16), "qzeros"),
        ("group_size", json!("all"), "AWQ quantization config"),
    ] {
        let change = |c: &mut serde_json::Value| c["quantization_config"][key] = value.clone();
        let Err(error) = with_config("awq-gemm", change) else { panic!("{key} {value}") };
        assert!(error.to_string().contains(expected), "{key} {value}: {error}");
    }
    let upper = |c: &mut serde_json::Value| c["quantization_config"]["version"] = "GEMM".into();
    assert!(with_config("awq-gemm", upper).is_ok());
}

#[test]
fn mlx_modes_that_are_not_affine_are_named() {
    for at in ["", "/model.layers.0.self_attn.q_proj"] {
        let change = |c: &mut serde_json::Value| {
            c.pointer_mut(&format!("/quantization{at}")).unwrap()["mode"] = json!("mxfp4");
        };
        let Err(error) = with_config("mlx-mixed", change) else { panic!("{at}") };
        assert!(error.to_string().contains("MLX quantization of mode \"mxfp4\""), "{error}");
    }
}

/// Tensors that contradict the settings or the config.
#[test]
fn packed_tensors_of_another_type_or_shape_are_refused_by_name() {
    for (fixture_name, tensor, dtype, shape, expected) in [
        ("ct-w4-group", "weight_packed", Dtype::U32, vec![32, 4], "expected I32, got U32"),
        ("ct-w4-group", "weight_packed", Dtype::I32, vec![4, 32], "expected shape [32, 4]"),
        ("ct-w4-group", "weight_scale", Dtype::F16, vec![2, 32], "expected shape [32, 2]"),
        ("ct-w4-group", "weight_scale", Dtype::I16, vec![32, 2], "stored as I16"),
        ("ct-w4-group", "weight_shape", Dtype::I64, vec![1, 2], "expected shape [2]"),
        ("ct-w4-group", "weight_shape", Dtype::F64, vec![2], "expected integers"),
        ("ct-w4-group", "weight_shape", Dtype::I64, vec![2], "says [0, 0], expected [32, 32]"),
        ("ct-w4-asym-actorder", "weight_zero_point", Dtype::I8, vec![4, 8], "expected shape [4, 2]"),
        ("ct-w4-asym-actorder", "weight_zero_point", Dtype::F32, vec![4, 2], "expected I32, got F32"),
        ("ct-w4-asym-actorder", "weight_g_idx", Dtype::I32, vec![32], "group 1 does not have 16"),
        ("ct-w4-asym-actorder", "weight_g_idx", Dtype::I32, vec![4, 8], "expected shape [32]"),
        ("awq-gemm", "qweight", Dtype::U32, vec![32, 4], "expected I32, got U32"),
        ("awq-gemm", "qweight", Dtype::I32, vec![4, 32], "expected shape [32, 4]"),
        ("awq-gemm", "qzeros", Dtype::I32, vec![4], "expected shape [1, 4]"),
        ("awq-gemm", "scales", Dtype::F16, vec![32, 1], "expected shape [1, 32]"),
        ("mlx-mixed", "weight", Dtype::I32, vec![32, 2], "expected U32, got I32"),
        ("mlx-mixed", "weight", Dtype::U32, vec![32, 7], "[32, 7] holds no codes"),
        ("mlx-mixed", "weight", Dtype::U32, vec![30, 2], "expected shape [32, 2]"),
        ("mlx-mixed", "biases", Dtype::F16, vec![32, 2], "expected shape [32, 1]"),
        ("mlx-mixed", "biases", Dtype::BF16, vec![32, 1], "another type than the scales"),
        ("mlx-mixed", "scales", Dtype::F16, vec![32, 5], "5 groups do not fill rows of 32"),
        ("mlx-mixed", "scales", Dtype::F16, vec![32, 0], "0 groups do not fill rows of 32"),
    ] {
        let named = format!("model.layers.1.self_attn.q_proj.{tensor}");
        let directory = tempfile::tempdir().unwrap();
        let from = fixture(fixture_name);
        fs::copy(from.join("config.json"), directory.path().join("config.json")).unwrap();
        let shards = Shards::open(&from).unwrap();
        let mut parts: Vec<_> = shards.names().map(|name| shards.tensor(name).unwrap()).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.dtype.bitsize()));
        let changed = vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8];
        let header: Vec<_> = (parts.iter())
            .map(|part| match part.name == named {
                true => (named.clone(), dtype, shape.clone()),
                false => (part.name.to_owned(), part.dtype, part.shape.to_vec()),
            })
            .collect();
        let mut writer = Writer::create(&directory.path().join("model.safetensors"), &header).unwrap();
        for part in &parts {
            writer.write(part.name, if part.name == named { &changed } else { part.bytes }).unwrap();
        }
        writer.finish().unwrap();
        let Err(error) = Checkpoint::open(directory.path()) else { panic!("{named} {dtype:?} {shape:?}") };
        assert!(error.to_string().contains(&named) && error.to_string().contains(expected), "{error}");
    }
}
