use std::fs;
use std::path::Path;

use super::file::Gguf;
use super::header::{GgufHeader, GgufValue};
use super::names::{self, RowOrder};
use crate::arch::BlockKind;
use crate::checkpoint::store::Store;
use crate::error::{Error, Result};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/checkpoints");

fn header(bytes: &[u8]) -> Result<GgufHeader> {
    GgufHeader::parse(Path::new("attack.gguf"), bytes)
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A key-value: key, number of the type, and payload.
fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key), &kind.to_le_bytes()[..], value].concat()
}

fn tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((dimensions.len() as u32).to_le_bytes());
    dimensions.iter().for_each(|d| bytes.extend(d.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    pairs.iter().chain(tensors).for_each(|part| bytes.extend(part));
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

const F32: u32 = 0;
const Q4_1: u32 = 3;

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let Err(error) = header(bytes) else { panic!("accepted") };
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn a_minimal_file_is_read() {
    let bytes = file(&[pair("a", 4, &7u32.to_le_bytes())], &[tensor("t", &[2, 3], F32, 0)], 24);
    let header = header(&bytes).unwrap();
    assert_eq!(header.values["a"], GgufValue::Unsigned(7));
    assert_eq!((&header.tensors[0].shape[..], header.tensors[0].range.len()), (&[3, 2][..], 24));
}

#[test]
fn another_kind_or_version_of_file_is_named() {
    refused(b"GGML\x03\0\0\0", "not a GGUF file");
    refused(b"GGUF\x01\0\0\0", "version 1");
    refused(b"GGUF\0\0\0\x03", "big-endian");
    refused(b"", "ends within its header");
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    for at in [8, 16] {
        let mut bytes = file(&[], &[], 0);
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        refused(&bytes, "18446744073709551615");
    }
}

#[test]
fn huge_string_length() {
    for length in [u64::MAX, 1 << 40, 1000] {
        refused(&file(&[length.to_le_bytes().repeat(2)], &[], 0), "string bytes");
        refused(&file(&[pair("a", 8, &length.to_le_bytes())], &[], 0), "string bytes");
    }
}

#[test]
fn huge_array_count() {
    for kind in [0u32, 6, 8, 12] {
        for count in [u64::MAX, u64::MAX / 8, 1 << 40] {
            let value = [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
            refused(&file(&[pair("a", 9, &value)], &[], 64), "array elements");
        }
    }
}

#[test]
fn nested_arrays_have_a_depth_limit() {
    let nested = |depth: usize| {
        let mut value = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat().repeat(depth);
        value.extend([&0u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat());
        file(&[pair("a", 9, &value)], &[], 0)
    };
    assert!(header(&nested(3)).is_ok());
    refused(&nested(4), "nested deeper");
    refused(&nested(100_000), "nested deeper");
}

#[test]
fn unknown_kinds_and_invalid_text() {
    refused(&file(&[pair("a", 13, &[0; 8])], &[], 0), "unknown kind 13");
    refused(&file(&[[&2u64.to_le_bytes()[..], &[0xff, 0xfe], &[0; 8]].concat()], &[], 0), "not UTF-8");
}

#[test]
fn duplicate_keys_and_names() {
    let key = pair("a", 4, &[0; 4]);
    refused(&file(&[key.clone(), key], &[], 0), "two values");
    let name = |offset| tensor("t", &[1], F32, offset);
    refused(&file(&[], &[name(0), name(32)], 64), "two tensors");
}

#[test]
fn overlapping_tensors() {
    let (a, b) = (tensor("a", &[16], F32, 0), tensor("b", &[1], F32, 32));
    refused(&file(&[], &[a, b], 64), "overlaps the tensor `a`");
}

#[test]
fn tensors_out_of_range() {
    refused(&file(&[], &[tensor("t", &[8], F32, 32)], 32), "beyond the end");
    refused(&file(&[], &[tensor("t", &[9], F32, 0)], 32), "beyond the end");
    refused(&file(&[], &[tensor("t", &[8], F32, u64::MAX - 31)], 32), "t");
    refused(&file(&[], &[tensor("t", &[1 << 60], F32, 0)], 32), "beyond the end");
}

#[test]
fn zero_too_many_and_overflowing_dimensions() {
    for dimensions in [&[0u64][..], &[32, 0], &[1 << 32, 1 << 32], &[u64::MAX, u64::MAX, 2], &[u64::MAX]] {
        refused(&file(&[], &[tensor("t", dimensions, F32, 0)], 64), "impossible");
    }
    refused(&file(&[], &[tensor("t", &[], F32, 0)], 64), "0 dimensions");
    refused(&file(&[], &[tensor("t", &[1; 5], F32, 0)], 64), "5 dimensions");
    let mut bytes = file(&[], &[tensor("t", &[1], F32, 0)], 64);
    bytes[24 + 9..24 + 13].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(&bytes, "4294967295 dimensions");
}

#[test]
fn rows_that_do_not_fill_blocks() {
    refused(&file(&[], &[tensor("t", &[48, 2], Q4_1, 0)], 64), "blocks of 32");
}

#[test]
fn bad_alignment() {
    for alignment in [0u32, 3, 33, 1 << 30] {
        let pairs = [pair("general.alignment", 4, &alignment.to_le_bytes())];
        refused(&file(&pairs, &[], 0), "power of two");
    }
    refused(&file(&[pair("general.alignment", 8, &string("32"))], &[], 0), "power of two");
    refused(&file(&[], &[tensor("t", &[1], F32, 4)], 64), "not a multiple of the alignment");
    let pairs = [pair("general.alignment", 4, &4u32.to_le_bytes())];
    assert!(header(&file(&pairs, &[tensor("t", &[1], F32, 4)], 64)).is_ok());
}

#[test]
fn other_tensor_types_are_unsupported_by_name() {
    for (kind, name) in [(20, "IQ4_NL"), (23, "IQ4_XS"), (99, "type 99")] {
        let Err(error) = header(&file(&[], &[tensor("t", &[256], kind, 0)], 512)) else { panic!() };
        assert!(matches!(error, Error::Unsupported { .. }));
        assert!(error.to_string().contains(&format!("tensor `t` is stored as {name}")), "{error}");
    }
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(FIXTURES).join(name)).unwrap()
}

fn open(bytes: &[u8]) -> Result<Gguf> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Gguf::open(file.path())
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = fixture("q4_1.gguf");
    let data = header(&bytes).unwrap().tensors.iter().map(|t| t.range.start).min().unwrap();
    let lengths = (0..data).step_by(7).chain((data..bytes.len()).step_by(997));
    for length in lengths.chain([bytes.len() - 33]) {
        assert!(open(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn no_flipped_bit_of_the_header_panics() {
    let bytes = fixture("q4_0.gguf");
    let data = header(&bytes).unwrap().tensors.iter().map(|t| t.range.start).min().unwrap();
    let mut refused = 0;
    for at in 0..data {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        if let Ok(gguf) = open(&damaged) {
            // A file that is accepted can be read.
            assert!(gguf.config().tensors().all(|(name, _)| gguf.dense(&name).is_ok()));
            let _ = gguf.tokenizer();
        } else {
            refused += 1;
        }
    }
    assert!(refused > data / 4, "{refused} of {data}");
}

/// The fixture with the payload of a scalar key replaced.
fn with_value(key: &str, value: &[u8]) -> Result<Gguf> {
    let mut bytes = fixture("q4_0.gguf");
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len() + 4;
    bytes[at..at + value.len()].copy_from_slice(value);
    open(&bytes)
}

#[test]
fn impossible_metadata_is_refused() {
    for (key, value, expected) in [
        ("llama.embedding_length", 0u32, "embedding_length is 0"),
        ("llama.embedding_length", 64, "dimension_count 8"),
        ("llama.attention.head_count", 0, "head_count is 0"),
        ("llama.attention.head_count", 5, "not a multiple"),
        ("llama.attention.head_count_kv", 3, "key/value heads"),
        ("llama.attention.head_count_kv", 1, "k_proj"),
        ("llama.block_count", 1, "9 tensors have no place"),
        ("llama.block_count", 3, "model.layers.2"),
        ("llama.block_count", u32::MAX, "num_hidden_layers"),
        ("llama.rope.dimension_count", 4, "dimension_count 4"),
        ("tokenizer.ggml.eos_token_id", 40, "beyond a vocabulary of 40"),
    ] {
        let Err(error) = with_value(key, &value.to_le_bytes()) else { panic!("{key} {value}") };
        assert!(error.to_string().contains(expected), "{key} {value}: {error}");
    }
    let Err(error) = with_value("general.architecture", &[&5u64.to_le_bytes()[..], b"bloom"].concat()) else {
        panic!()
    };
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("bloom"), "{error}");
}

#[test]
fn a_scale_that_is_not_finite_is_refused_when_the_weight_is_asked_for() {
    // The second float of a block of Q4_1 and of Q4_K is its minimum; the scale of Q6_K is at its end.
    for (file, stored, name, at) in [
        ("q4_1.gguf", "blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight", 0),
        ("q4_1.gguf", "blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight", 2),
        ("blocks.gguf", "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", 2),
        ("blocks.gguf", "blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", 208),
        ("blocks.gguf", "token_embd.weight", "model.embed_tokens.weight", 208),
    ] {
        let mut bytes = fixture(file);
        let tensors = header(&bytes).unwrap().tensors;
        let at = at + tensors.iter().find(|t| t.name == stored).unwrap().range.start;
        bytes[at..at + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
        let gguf = open(&bytes).unwrap();
        let mut errors = vec![gguf.weight(name).unwrap_err()];
        if name.contains("embed") {
            errors.push(
                gguf.rows_into(name, &[1, 0], &mut vec![0.0; 2 * gguf.config().hidden_size]).unwrap_err(),
            );
        }
        for error in errors {
            let text = error.to_string();
            assert!(text.contains("not finite") && text.contains(name), "{text}");
        }
    }
}

#[test]
fn names_map_only_for_known_tensors() {
    let name = |name| names::to_hugging_face(name, BlockKind::Llama);
    assert_eq!(name("blk.12.ffn_down.weight").unwrap(), "model.layers.12.mlp.down_proj.weight");
    assert_eq!(name("blk.0.attn_q.bias").unwrap(), "model.layers.0.self_attn.q_proj.bias");
    let gemma = |name| names::to_hugging_face(name, BlockKind::Gemma2).unwrap();
    assert_eq!(gemma("blk.1.ffn_norm.weight"), "model.layers.1.pre_feedforward_layernorm.weight");
    let phi = |name| names::to_hugging_face(name, BlockKind::Phi3).unwrap();
    assert_eq!(phi("blk.1.ffn_up.weight"), "model.layers.1.mlp.gate_up_proj.weight");
    for unknown in [
        "blk.01.attn_q.weight",
        "blk.+1.attn_q.weight",
        "blk.0.attn_q.scale",
        "blk.0.ffn_gate_exps.weight",
        "v.blk.0.x",
    ] {
        assert_eq!(name(unknown), None, "{unknown}");
    }
}

#[test]
fn row_order_is_the_inverse_of_interleaving() {
    let order = RowOrder::of("blk.0.attn_k.weight", 8, true);
    let rows: Vec<usize> = (0..16).map(|row| order.in_file(row)).collect();
    assert_eq!(rows, [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]);
    assert_eq!(RowOrder::of("blk.0.attn_v.weight", 8, true).in_file(5), 5);
    assert_eq!(RowOrder::of("blk.0.attn_k.weight", 8, false).in_file(5), 5);
}

/// llama.cpp refuses a file that has tensors its loader does not ask for: see `load_arch_tensors` of each of its models.
#[test]
fn models_that_llama_cpp_would_refuse_are_not_written() {
    use super::family::Architecture;
    use crate::arch::{Family, ModelConfig, RopeScaling};
    use crate::checkpoint::ModelShape;

    type Change = fn(&mut ModelConfig);
    let tied: Change = |config| config.tie_word_embeddings = true;
    let untied: Change = |config| config.tie_word_embeddings = false;
    let o_bias: Change = |config| config.o_bias = true;
    let mlp_bias: Change = |config| config.mlp_bias = true;
    let factors: Change = |config| config.rope_scaling = Some(RopeScaling::Factors(vec![1.0; 32]));
    for (family, change, expected) in [
        (Family::Llama, o_bias, None),
        (Family::Granite, mlp_bias, None),
        (Family::Mistral, factors, None),
        (Family::Qwen3, tied, None),
        (Family::Qwen3, o_bias, Some("a bias of o_proj")),
        (Family::SmolLm3, mlp_bias, Some("biases of the MLP")),
        (Family::Qwen2, factors, Some("RoPE scaling of the kind llama3")),
        (Family::Olmo3, tied, Some("tied to the embeddings")),
        (Family::Olmo2, untied, None),
        (Family::Gemma2, untied, Some("not tied to the embeddings")),
        (Family::Gemma, tied, None),
    ] {
        let mut config = ModelConfig { family, ..ModelShape::Tiny.config() };
        change(&mut config);
        match (Architecture::of_model(&config), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (result, _) => panic!("{family:?} {expected:?}: {:?}", result.err()),
        }
    }
}
