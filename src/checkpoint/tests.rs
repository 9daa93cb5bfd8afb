mod packages;

use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::quant::{self, FloatType, QuantizeConfig};

/// Written by `scripts/fixtures_checkpoints.py`.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/checkpoints");
/// Those with ct- and awq- by `scripts/fixtures_packages.py`.
const QUANTIZED: [&str; 10] = [
    "gptq-4bit-v1",
    "gptq-3bit-v2",
    "ct-w4-group",
    "ct-w4-asym-actorder",
    "ct-w8-channel-ignore",
    "ct-w3-asym",
    "awq-gemm",
    "q4_0.gguf",
    "q4_1.gguf",
    "q8_0.gguf",
];
const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";

fn fixture(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap()
}

/// What another implementation expands the file's tensors to.
fn expected(name: &str) -> BTreeMap<String, Vec<f32>> {
    let stem = name.trim_end_matches(".gguf");
    let directory = tempfile::tempdir().unwrap();
    fs::copy(fixture(&format!("{stem}.expected.safetensors")), directory.path().join("model.safetensors"))
        .unwrap();
    let shards = safetensors::Shards::open(directory.path()).unwrap();
    let values: BTreeMap<_, _> = shards
        .names()
        .map(|name| (name.to_owned(), shards.tensor(name).unwrap().floats().unwrap()))
        .collect();
    assert_eq!(values.len(), 21);
    values
}

fn packed(checkpoint: &Checkpoint, name: &str) -> PackedWeight {
    match checkpoint.weight(name).unwrap() {
        Weight::Packed(packed) => packed,
        Weight::Dense { .. } => panic!("{name} is dense"),
    }
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// The files of a fixture by the names a saved copy gives them.
fn original_files(name: &str) -> BTreeMap<String, Vec<u8>> {
    match fixture(name).is_dir() {
        true => files(&fixture(name)),
        false => BTreeMap::from([(name.to_owned(), fs::read(fixture(name)).unwrap())]),
    }
}

#[test]
fn dense_checkpoints_of_every_type_hold_the_same_model() {
    let exact = open("hf-f32");
    assert_eq!(exact.format(), Format::HuggingFace);
    for (name, dtype) in
        [("hf-f16", FloatType::F16), ("hf-bf16-sharded", FloatType::BF16), ("f16.gguf", FloatType::F16)]
    {
        let other = open(name);
        assert_eq!(other.tensors().count(), 21);
        for tensor in exact.tensors() {
            let norm_in_gguf = name == "f16.gguf" && tensor.shape.len() == 1;
            let round = |v: f32| if norm_in_gguf { v } else { dtype.round(v) };
            let values: Vec<f32> = exact.dense(&tensor.name).unwrap().into_iter().map(round).collect();
            assert_eq!(other.dense(&tensor.name).unwrap(), values, "{name} {}", tensor.name);
            assert_eq!(other.shape(&tensor.name).unwrap(), tensor.shape);
        }
        assert!(other.trained_names().is_empty());
        let (mut a, mut b) = (exact.config().clone(), other.config().clone());
        // generation_config.json and the GGUF's vocabulary add to these.
        (a.eos_token_ids, b.eos_token_ids) = Default::default();
        // GGUF keeps it in f32.
        b.rms_norm_eps = f64::from(b.rms_norm_eps as f32);
        a.rms_norm_eps = f64::from(a.rms_norm_eps as f32);
        assert_eq!(a, b, "{name}");
    }
    assert_eq!(exact.config().eos_token_ids, [2, 3]);
    assert_eq!(open("f16.gguf").config().eos_token_ids, [2, 39]);
}

#[test]
fn quantized_tensors_expand_to_what_other_tools_expand_them_to() {
    for name in QUANTIZED {
        let checkpoint = open(name);
        for (tensor, values) in expected(name) {
            assert_eq!(checkpoint.dense(&tensor).unwrap(), values, "{name} {tensor}");
        }
    }
}

#[test]
fn repacked_codes_lose_nothing() {
    for name in QUANTIZED {
        let checkpoint = open(name);
        let names = checkpoint.trained_names();
        assert_eq!(names.len(), if name == "ct-w8-channel-ignore" { 13 } else { 14 });
        assert!(names.is_sorted() && !names.iter().any(|n| n.contains("embed") || n.contains("lm_head")));
        for tensor in names {
            let values = checkpoint.dense(&tensor).unwrap();
            let packed = packed(&checkpoint, &tensor);
            assert_eq!(packed.scales.len(), packed.out_features * packed.groups());
            // d·(q + m/d) instead of d·q + m: two roundings of the largest term.
            let largest = packed.scales.iter().fold(0f32, |a, s| a.max(s.abs())) * 16.0;
            let tolerance = if name == "q4_1.gguf" { largest * 2.0 * f32::EPSILON } else { 0.0 };
            for (a, b) in packed.to_dense().iter().zip(&values) {
                assert!((a - b).abs() <= tolerance, "{name} {tensor}: {a} {b}");
            }
        }
    }
}

#[test]
fn saving_untouched_scales_gives_the_same_bytes() {
    for name in QUANTIZED {
        let checkpoint = open(name);
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        checkpoint.save_tuned(&out, &mut |name| Ok(packed(&checkpoint, name).scales)).unwrap();
        assert!(files(&out) == original_files(name), "{name}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        let again = Checkpoint::open(&out).unwrap();
        assert_eq!(again.fingerprint().unwrap(), checkpoint.fingerprint().unwrap());
    }
}

#[test]
fn tuned_scales_are_read_back_as_they_were_rounded() {
    for name in QUANTIZED {
        let checkpoint = open(name);
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        let tuned = |name: &str| -> Vec<f32> {
            let scales = packed(&checkpoint, name).scales;
            scales.iter().enumerate().map(|(i, s)| s * (1.0 + 0.01 * (i % 7) as f32) + 1e-6).collect()
        };
        checkpoint.save_tuned(&out, &mut |name| Ok(tuned(name))).unwrap();
        let again = Checkpoint::open(&out).unwrap();
        assert_ne!(again.fingerprint().unwrap(), checkpoint.fingerprint().unwrap());
        let trained = checkpoint.trained_names();
        let mut constant_groups = 0;
        for tensor in checkpoint.tensors() {
            if !trained.contains(&tensor.name) {
                assert_eq!(again.dense(&tensor.name).unwrap(), checkpoint.dense(&tensor.name).unwrap());
                continue;
            }
            let (before, after) = (packed(&checkpoint, &tensor.name), packed(&again, &tensor.name));
            let (scales, levels) = checkpoint.rounded_scales(&tensor.name, &tuned(&tensor.name)).unwrap();
            assert_eq!(after.codes, before.codes);
            assert_eq!(after.scales, scales);
            assert_eq!(after.levels, levels);
            for ((old, new), asked) in before.scales.iter().zip(&scales).zip(tuned(&tensor.name)) {
                constant_groups += usize::from(*old == 0.0);
                let expected = if *old == 0.0 { 0.0 } else { FloatType::F16.round(asked) };
                assert_eq!(*new, expected);
            }
        }
        assert_eq!(
            constant_groups,
            match name {
                "q4_1.gguf" => 2,
                "q4_0.gguf" | "q8_0.gguf" => 1,
                _ => 0,
            },
            "{name}"
        );
        // Of all files only the weights differ, and those not in length.
        for (file, bytes) in original_files(name) {
            let saved = fs::read(out.join(&file)).unwrap();
            assert_eq!(saved.len(), bytes.len());
            assert_eq!(saved != bytes, file.ends_with(".gguf") || file.ends_with(".safetensors"), "{file}");
        }
    }
}

#[test]
fn a_minimum_moves_with_its_scale() {
    let checkpoint = open("q4_1.gguf");
    let name = "model.layers.0.mlp.up_proj.weight";
    let before = packed(&checkpoint, name);
    let doubled: Vec<f32> = before.scales.iter().map(|s| s * 2.0).collect();
    let (scales, levels) = checkpoint.rounded_scales(name, &doubled).unwrap();
    let after = PackedWeight { scales, levels, ..before.clone() };
    let twice: Vec<f32> = before.to_dense().iter().map(|w| w * 2.0).collect();
    assert_eq!(after.to_dense(), twice);
}

#[test]
fn a_scale_that_does_not_fit_is_refused_by_name_and_leaves_nothing() {
    for name in QUANTIZED {
        let checkpoint = open(name);
        for bad in [f32::NAN, f32::INFINITY, 7e4] {
            let parent = tempfile::tempdir().unwrap();
            let error = checkpoint
                .save_tuned(&parent.path().join("out"), &mut |name| {
                    let mut scales = packed(&checkpoint, name).scales;
                    if name == Q_PROJ {
                        scales[3] = bad;
                    }
                    Ok(scales)
                })
                .unwrap_err();
            let text = error.to_string();
            assert!(text.contains("model.layers.1.self_attn.q_proj"), "{text}");
            assert!(text.contains("does not fit"), "{text}");
            assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "{name}");
        }
        let short = checkpoint.rounded_scales(Q_PROJ, &[1.0]).unwrap_err();
        let scales = packed(&checkpoint, Q_PROJ).scales.len();
        assert!(short.to_string().contains(&format!("expected {scales} scales, got 1")), "{short}");
    }
}

#[test]
fn an_existing_output_and_an_unquantized_model_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let mut untouched = |_: &str| -> Result<Vec<f32>> { panic!("nothing to ask for") };
    let error = open("q4_0.gguf").save_tuned(parent.path(), &mut untouched).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    for name in ["hf-f32", "f16.gguf"] {
        let error = open(name).save_tuned(&parent.path().join("out"), &mut untouched).unwrap_err();
        assert!(error.to_string().contains("no quantized weights"), "{error}");
    }
}

#[test]
fn rows_are_those_of_the_whole_table() {
    for name in ["hf-f32", "hf-f16", "hf-bf16-sharded", "f16.gguf", "q8_0.gguf", "q4_0.gguf", "q4_1.gguf"] {
        let checkpoint = open(name);
        for table in ["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.k_proj.weight"]
        {
            let whole = checkpoint.dense(table).unwrap();
            let rows = checkpoint.rows(table, &[3, 15, 0, 3]).unwrap();
            let expected: Vec<f32> =
                [3, 15, 0, 3].iter().flat_map(|r| &whole[r * 32..(r + 1) * 32]).copied().collect();
            assert_eq!(rows, expected, "{name} {table}");
            let error = checkpoint.rows(table, &[0, u32::MAX]).unwrap_err();
            assert!(error.to_string().contains("row 4294967295 of a table of"), "{error}");
        }
    }
}

#[test]
fn inspect_sees_each_weight_once_with_its_cost() {
    let summary = |name: &str, tensor: &str| open(name).tensors().find(|t| t.name == tensor).unwrap();
    let q4_1 = summary("q4_1.gguf", Q_PROJ);
    assert_eq!((q4_1.stored_name.as_str(), q4_1.dtype.as_str()), ("blk.1.attn_q.weight", "Q4_1"));
    assert_eq!((q4_1.bytes, q4_1.bits_per_weight), (640, 5.0));
    assert_eq!(summary("q4_0.gguf", Q_PROJ).bits_per_weight, 4.5);
    assert_eq!(summary("hf-bf16-sharded", Q_PROJ).dtype, "BF16");
    let gptq = summary("gptq-4bit-v1", Q_PROJ);
    assert_eq!((gptq.dtype.as_str(), &gptq.shape[..]), ("GPTQ 4-bit", &[32, 32][..]));
    // 512 of codes, 16 of zeros, 64 of scales, 128 of g_idx.
    assert_eq!(gptq.bytes, 720);
    let ct = summary("ct-w4-asym-actorder", Q_PROJ);
    assert_eq!(ct.dtype, "pack-quantized 4-bit");
    assert_eq!(ct.stored_name, "model.layers.1.self_attn.q_proj.weight_packed");
    // 512 of codes, 32 of zeros, 128 of scales, 16 of shape, 128 of g_idx.
    assert_eq!(ct.bytes, 816);
    let awq = summary("awq-gemm", Q_PROJ);
    assert_eq!((awq.dtype.as_str(), awq.bytes), ("AWQ 4-bit", 512 + 16 + 64));
    for name in QUANTIZED {
        assert_eq!(open(name).tensors().count(), 21, "{name}");
    }
}

#[test]
fn a_missing_name_gets_the_nearest_one() {
    let error = open("q4_0.gguf").dense("model.layers.0.self_attn.q_projj.weight").unwrap_err();
    assert!(error.to_string().contains("`model.layers.0.self_attn.q_proj.weight`"), "{error}");
    assert!(!open("hf-f32").contains("model.layers.2.mlp.up_proj.weight"));
    assert!(open("gptq-3bit-v2").contains(Q_PROJ));
}

#[test]
fn the_tokenizer_is_where_the_format_keeps_it() {
    assert_eq!(open("hf-f32").tokenizer_source().unwrap(), TokenizerSource::HuggingFace(fixture("hf-f32")));
    let TokenizerSource::Gguf(vocab) = open("q8_0.gguf").tokenizer_source().unwrap() else { panic!() };
    assert_eq!((vocab.model.as_str(), vocab.tokens.len()), ("llama", 40));
    assert_eq!(vocab.tokens[38..], ["token 38", "<|im_end|>"]);
    assert_eq!(vocab.scores.unwrap()[39], -39.0);
    assert_eq!((vocab.bos, vocab.eos, vocab.unk, vocab.add_bos), (Some(1), Some(2), None, Some(true)));
    assert_eq!(vocab.chat_template.as_deref(), Some("{{ messages }}"));
}

#[test]
fn a_path_without_a_model_says_what_is_expected() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path| Checkpoint::open(path).map(|c| c.format()).unwrap_err().to_string();
    assert!(open(directory.path()).contains("no config.json and 0 .gguf files"));
    assert!(open(&directory.path().join("absent")).contains("absent"));
    fs::copy(fixture("q4_0.gguf"), directory.path().join("model.gguf")).unwrap();
    assert_eq!(Checkpoint::open(directory.path()).unwrap().format(), Format::Gguf);
    fs::copy(fixture("q4_0.gguf"), directory.path().join("other.gguf")).unwrap();
    assert!(open(directory.path()).contains("2 .gguf files"));
    fs::write(directory.path().join("note.txt"), "hello").unwrap();
    assert!(open(&directory.path().join("note.txt")).contains("not a GGUF file"));
}

/// A copy of a fixture directory with its config changed.
fn with_config(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> Result<Checkpoint> {
    let directory = tempfile::tempdir().unwrap();
    for (file, bytes) in files(&fixture(name)) {
        fs::write(directory.path().join(file), bytes).unwrap();
    }
    let path = directory.path().join("config.json");
    let mut config = hf_config::read_json(&path).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    Checkpoint::open(directory.path())
}

#[test]
fn a_config_that_does_not_fit_the_weights_is_refused_naming_the_tensor() {
    for (key, value, tensor) in [
        ("intermediate_size", 96, "mlp.gate_proj.weight"),
        ("num_hidden_layers", 3, "model.layers.2.self_attn.q_proj.weight"),
        ("num_key_value_heads", 4, "self_attn.k_proj.weight"),
        ("vocab_size", 41, "model.embed_tokens.weight"),
        ("num_hidden_layers", 2_000_000_000, "model.layers.2.self_attn.q_proj.weight"),
    ] {
        for name in ["hf-f32", "gptq-4bit-v1"] {
            let Err(error) = with_config(name, |c| c[key] = value.into()) else { panic!("{key}") };
            let module = tensor.trim_end_matches(".weight");
            assert!(error.to_string().contains(module), "{key}: {error}");
        }
    }
    assert!(with_config("hf-f32", |c| c["attention_bias"] = true.into()).is_err());
    assert!(with_config("hf-f32", |c| c["tie_word_embeddings"] = true.into()).is_ok());
}

#[test]
fn quantization_settings_that_are_not_supported_are_named() {
    for (key, value, expected) in [
        ("quant_method", serde_json::json!("fp8"), "\"fp8\""),
        ("quant_method", serde_json::Value::Null, "no quant_method"),
        ("bits", serde_json::json!(5), "5 bits"),
        ("bits", serde_json::json!(8), "qweight"),
        ("bits", serde_json::json!("four"), "GPTQ quantization config"),
        ("group_size", serde_json::json!(0), "group_size 0"),
        ("group_size", serde_json::json!(-2), "group_size -2"),
        ("group_size", serde_json::json!(16), "qzeros"),
        ("checkpoint_format", serde_json::json!("marlin"), "marlin"),
        ("dynamic", serde_json::json!({"-:.*": {}}), "dynamic"),
        ("pack_dtype", serde_json::json!("int16"), "packing"),
    ] {
        let change = |c: &mut serde_json::Value| c["quantization_config"][key] = value.clone();
        let Err(error) = with_config("gptq-4bit-v1", change) else { panic!("{key} {value}") };
        assert!(error.to_string().contains(expected), "{key}: {error}");
    }
}

#[test]
fn groups_of_unequal_size_are_refused() {
    let desc_act = |c: &mut serde_json::Value| c["quantization_config"]["desc_act"] = true.into();
    assert!(with_config("gptq-4bit-v1", desc_act).is_ok(), "g_idx in order");

    let directory = tempfile::tempdir().unwrap();
    for (file, mut bytes) in files(&fixture("gptq-4bit-v1")) {
        if file == "model.safetensors" {
            let shards = safetensors::Shards::open(&fixture("gptq-4bit-v1")).unwrap();
            let (_, range) = shards.position("model.layers.0.mlp.down_proj.g_idx").unwrap();
            bytes[range.start] = 1;
        }
        fs::write(directory.path().join(file), bytes).unwrap();
    }
    let Err(error) = Checkpoint::open(directory.path()) else { panic!() };
    assert!(error.to_string().contains("group 0 does not have"), "{error}");
}

#[test]
fn what_is_written_is_what_the_quantizer_gave() {
    use crate::quant::Method::{Learned, Nf4, Rtn, Vector};
    // Beside the text that a method needs, which no quantizer of this test reads.
    let config = |method, bits, group_size| QuantizeConfig { method, bits, group_size, ..Default::default() };
    let mut cases = vec![];
    for bits in [2, 3, 4, 8] {
        for (group_size, asymmetric) in [(32, false), (24, true), (-1, false), (128, true)] {
            let config = QuantizeConfig { asymmetric, ..config(Rtn, bits, Some(group_size)) };
            cases.push((config, QuantizedFormat::Gptq, Format::Gptq));
        }
    }
    for bits in [2, 3, 4, 8] {
        for (group_size, asymmetric) in [(32, false), (8, true), (-1, false), (-1, true)] {
            let config = QuantizeConfig { asymmetric, ..config(Rtn, bits, Some(group_size)) };
            cases.push((config, QuantizedFormat::CompressedTensors, Format::CompressedTensors));
        }
    }
    for group_size in [32, 4, -1] {
        let config = QuantizeConfig { asymmetric: true, ..config(Rtn, 4, Some(group_size)) };
        cases.push((config, QuantizedFormat::Awq, Format::Awq));
    }
    cases.push((config(Nf4, 4, Some(32)), QuantizedFormat::Bitsandbytes, Format::BitsAndBytes));
    cases.push((config(Nf4, 4, Some(48)), QuantizedFormat::Qzo, Format::Qzo));
    for bits in [2, 3, 4] {
        for group_size in [-1, 16, 40] {
            for method in [Learned, Vector] {
                cases.push((config(method, bits, Some(group_size)), QuantizedFormat::Qzo, Format::Qzo));
            }
        }
        cases.push((config(Vector, bits, Some(-1)), QuantizedFormat::Aqlm, Format::Aqlm));
    }
    let long = QuantizeConfig { vector_size: Some(4), ..config(Vector, 3, Some(-1)) };
    cases.push((long, QuantizedFormat::Aqlm, Format::Aqlm));
    for source_name in ["hf-f32", "hf-bf16-sharded", "hf-f16"] {
        let source = open(source_name);
        for (config, into, format) in &cases {
            let parent = tempfile::tempdir().unwrap();
            let out = parent.path().join("out");
            let packing = into.packing(config, FloatType::F16).unwrap();
            let options = config.options(packing.scale_dtype());
            let mut given = BTreeMap::new();
            let mut quantize = |name: &str| {
                let shape = source.shape(name)?;
                let packed = quant::quantize(&source.dense(name)?, [shape[0], shape[1]], options)?;
                given.insert(name.to_owned(), packed.clone());
                Ok(packed)
            };
            write_quantized(&source, &out, packing.as_ref(), &mut quantize).unwrap();
            let written = Checkpoint::open(&out).unwrap();
            assert_eq!(written.format(), *format);
            assert_eq!(written.config(), source.config());
            assert_eq!(written.trained_names(), given.keys().cloned().collect::<Vec<_>>());
            for (name, packed) in &given {
                let mut read = self::packed(&written, name);
                if let (Levels::Zero(zero), Levels::Zeros(zeros)) = (&read.levels, &packed.levels) {
                    read.levels = Levels::Zeros(vec![*zero; zeros.len()]);
                }
                assert_eq!(&read, packed, "{name}");
            }
            for tensor in source.tensors().filter(|t| !given.contains_key(&t.name)) {
                assert_eq!(written.dense(&tensor.name).unwrap(), source.dense(&tensor.name).unwrap());
            }
            // Tuned: other scales, and nothing else.
            let (tuned, mut asked) = (parent.path().join("tuned"), 0);
            written
                .save_tuned(&tuned, &mut |name| {
                    asked += 1;
                    Ok(given[name].scales.iter().map(|scale| scale * 1.25).collect())
                })
                .unwrap();
            assert_eq!(asked, given.len());
            let tuned = Checkpoint::open(&tuned).unwrap();
            for (name, packed) in &given {
                let scales: Vec<f32> = packed.scales.iter().map(|scale| scale * 1.25).collect();
                let (scales, _) = written.rounded_scales(name, &scales).unwrap();
                let before = self::packed(&written, name);
                assert_eq!(self::packed(&tuned, name), PackedWeight { scales, ..before }, "{name}");
            }
        }
    }
}

/// Codes whose features were quantized in another order come back, in the order of their groups.
#[test]
fn activation_order_survives_the_file() {
    for into in [QuantizedFormat::Gptq, QuantizedFormat::CompressedTensors] {
        activation_order_survives(into);
    }
}

fn activation_order_survives(into: QuantizedFormat) {
    let source = open("hf-f32");
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let config = QuantizeConfig {
        method: quant::Method::Gptq,
        group_size: Some(16),
        act_order: true,
        asymmetric: true,
        ..Default::default()
    };
    let packing = into.packing(&config, FloatType::F16).unwrap();
    let mut given = BTreeMap::new();
    let mut quantize = |name: &str| {
        let shape = source.shape(name)?;
        let n = shape[1];
        let gram: Vec<f32> =
            (0..n * n).map(|i| if i / n == i % n { (i / n * 7 % 13) as f32 + 1.0 } else { 0.25 }).collect();
        let options = config.options(packing.scale_dtype());
        let (packed, _) = quant::calibrate(&source.dense(name)?, [shape[0], n], options, &gram)?;
        given.insert(name.to_owned(), packed.clone());
        Ok(packed)
    };
    write_quantized(&source, &out, packing.as_ref(), &mut quantize).unwrap();
    let settings = &hf_config::read_json(&out.join("config.json")).unwrap()["quantization_config"];
    match into {
        QuantizedFormat::Gptq => assert_eq!(settings["desc_act"], true),
        _ => assert_eq!(settings["config_groups"]["group_0"]["weights"]["actorder"], "group"),
    }
    let written = Checkpoint::open(&out).unwrap();
    for (name, packed) in &given {
        assert!(packed.order.is_some());
        // Within a group any order gives the same weights.
        assert_eq!(self::packed(&written, name).to_dense(), packed.to_dense(), "{name}");
    }
}

#[test]
fn writing_copies_every_other_file_and_leaves_nothing_when_it_fails() {
    let parent = tempfile::tempdir().unwrap();
    let from = parent.path().join("from");
    fs::create_dir(&from).unwrap();
    for (file, bytes) in files(&fixture("hf-bf16-sharded")) {
        fs::write(from.join(file), bytes).unwrap();
    }
    fs::write(parent.path().join("blob"), "tokens").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(parent.path().join("blob"), from.join("tokenizer.json")).unwrap();
    fs::write(from.join("pytorch_model.bin"), "stale").unwrap();
    fs::create_dir(from.join("onnx")).unwrap();

    let source = Checkpoint::open(&from).unwrap();
    let out = parent.path().join("out");
    let config = QuantizeConfig { group_size: Some(32), ..Default::default() };
    let packing = QuantizedFormat::Gptq.packing(&config, FloatType::F16).unwrap();
    let options = config.options(FloatType::F16);
    let mut quantize = |name: &str| {
        let shape = source.shape(name)?;
        quant::quantize(&source.dense(name)?, [shape[0], shape[1]], options)
    };
    let mut count = 0;
    let error = write_quantized(&source, &out, packing.as_ref(), &mut |_| {
        count += 1;
        Err(Error::Interrupted("for the test".into()))
    });
    assert!(matches!(error, Err(Error::Interrupted(_))) && count == 1);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 2, "from and blob");

    write_quantized(&source, &out, packing.as_ref(), &mut quantize).unwrap();
    let names: Vec<String> = files(&out).into_keys().collect();
    assert_eq!(names, ["config.json", "model.safetensors", "quantize_config.json", "tokenizer.json"]);
    assert!(out.join("tokenizer.json").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read(out.join("tokenizer.json")).unwrap(), b"tokens");
    let written = hf_config::read_json(&out.join("config.json")).unwrap();
    assert_eq!(written["quantization_config"]["checkpoint_format"], "gptq");
    assert_eq!(written["torch_dtype"], "bfloat16");
    assert_eq!(written.as_object().unwrap().keys().next_back().unwrap(), "quantization_config");

    for refused in [&out, &fixture("q4_0.gguf")] {
        let already = Checkpoint::open(refused).unwrap();
        let error = write_quantized(&already, &parent.path().join("twice"), packing.as_ref(), &mut quantize)
            .unwrap_err();
        assert!(error.to_string().contains("quantized as it is"), "{error}");
    }
    let other = QuantizeConfig { group_size: Some(64), ..config };
    let other = QuantizedFormat::Gptq.packing(&other, FloatType::F16).unwrap();
    let error =
        write_quantized(&source, &parent.path().join("other"), other.as_ref(), &mut quantize).unwrap_err();
    assert!(error.to_string().contains("in groups of 64"), "{error}");
}
