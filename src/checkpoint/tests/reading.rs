//! Checkpoints' values, compared with other implementations'.

use half::{bf16, f16};

use super::*;
use crate::packed::SubBlocks;

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
fn quantized_tensors_expand_to_the_same_values_as_in_other_tools() {
    for name in QUANTIZED.into_iter().chain(BITSANDBYTES) {
        let checkpoint = open(name);
        for (tensor, values) in expected(name) {
            assert_eq!(checkpoint.dense(&tensor).unwrap(), values, "{name} {tensor}");
        }
    }
}

#[test]
fn repacked_codes_lose_nothing() {
    for name in QUANTIZED.into_iter().chain(BITSANDBYTES) {
        let checkpoint = open(name);
        let names = checkpoint.trained_names();
        assert_eq!(names.len(), if name == "ct-w8-channel-ignore" { 13 } else { 14 });
        assert!(names.is_sorted() && !names.iter().any(|n| n.contains("embed") || n.contains("lm_head")));
        for tensor in names {
            let values = checkpoint.dense(&tensor).unwrap();
            let packed = packed(&checkpoint, &tensor);
            assert_eq!(packed.scales.len(), packed.out_features * packed.groups());
            // d·(q + m/d) instead of d·q + m: two roundings of the largest term.
            let largest = match &packed.levels {
                Levels::Minimum(_) => (1u32 << packed.bits) as f32,
                Levels::SubBlocks(SubBlocks { min_scales: Some(_), .. }) => 63.0 * 32.0,
                _ => 0.0,
            };
            let scale = packed.scales.iter().fold(0f32, |a, s| a.max(s.abs()));
            let tolerance = scale * largest * 2.0 * f32::EPSILON;
            for (a, b) in packed.to_dense().iter().zip(&values) {
                assert!((a - b).abs() <= tolerance, "{name} {tensor}: {a} {b}");
            }
        }
    }
}

#[test]
fn rows_are_those_of_the_whole_table() {
    let dense = ["hf-f32", "hf-f16", "hf-bf16-sharded", "f16.gguf"];
    for name in dense.into_iter().chain(["q8_0.gguf", "q4_0.gguf", "q4_1.gguf", "blocks.gguf", "mlx-mixed"]) {
        let checkpoint = open(name);
        let width = checkpoint.config().hidden_size;
        for table in ["model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.k_proj.weight"]
        {
            let whole = checkpoint.dense(table).unwrap();
            // More rows than one task has, and more than are read before pages are released.
            let rows: Vec<u32> = (0..70).map(|i| [3, 15, 0, 3, 7][i % 5]).collect();
            let of = |factor: f32| -> Vec<f32> {
                let row = |row: &u32| &whole[*row as usize * width..(*row as usize + 1) * width];
                rows.iter().flat_map(row).map(|value| value * factor).collect()
            };
            let got = |factor, dtype| checkpoint.rows(table, &rows, factor, dtype).unwrap();
            assert_eq!(got(1.0, FloatType::F32), DenseValues::F32(of(1.0)), "{name} {table}");
            let scaled = of(11.3);
            assert_eq!(got(11.3, FloatType::F32), DenseValues::F32(scaled.clone()), "{name} {table}");
            let halves = scaled.iter().map(|value| f16::from_f32(*value)).collect();
            assert_eq!(got(11.3, FloatType::F16), DenseValues::F16(halves), "{name} {table}");
            let halves = scaled.iter().map(|value| bf16::from_f32(*value)).collect();
            assert_eq!(got(11.3, FloatType::BF16), DenseValues::Bf16(halves), "{name} {table}");
            let error = checkpoint.rows(table, &[0, u32::MAX], 1.0, FloatType::F32).unwrap_err();
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
    let q6_k = summary("blocks.gguf", Q_PROJ);
    assert_eq!((q6_k.dtype.as_str(), q6_k.bits_per_weight), ("Q6_K", 6.5625));
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
    // 2-bit codes, a scale and a bias for each row; the table's codes have 8 bits.
    let (mlx, table) = (summary("mlx-mixed", Q_PROJ), summary("mlx-mixed", "model.embed_tokens.weight"));
    assert_eq!((mlx.dtype.as_str(), mlx.bytes), ("MLX affine", 32 * (8 + 4)));
    assert_eq!((table.bytes, table.bits_per_weight), (40 * (32 + 4), 9.0));
    for name in QUANTIZED.into_iter().chain(BITSANDBYTES) {
        assert_eq!(open(name).tensors().count(), 21, "{name}");
    }
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

/// Old GPTQ tools write their settings to a file beside config.json.
#[test]
fn the_fingerprint_knows_settings_in_a_file_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("gptq-4bit-v1")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let config = dir.path().join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    let mut settings = json.as_object_mut().unwrap().remove("quantization_config").unwrap();
    std::fs::write(&config, json.to_string()).unwrap();
    let mut of = |key: &str, value: serde_json::Value| {
        settings[key] = value;
        std::fs::write(dir.path().join("quantize_config.json"), settings.to_string()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        (checkpoint.fingerprint().unwrap(), checkpoint.stamp().unwrap())
    };
    let (one, other) = (of("made_by", "a".into()), of("made_by", "b".into()));
    assert!(one.0 != other.0 && one.1 != other.1);
    assert_eq!(of("made_by", "a".into()).0, one.0);
}
