use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::arch::{Activation, BlockKind, ModelConfig, QkNorm, RopeScaling, SlidingWindow, Yarn};
use crate::error::{Error, Result};

fn base() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4
    })
}

fn with(changes: Value) -> Result<ModelConfig> {
    let mut json = base();
    let object = json.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        object.insert(key.clone(), value.clone());
    }
    parse(Path::new("config.json"), &json)
}

#[test]
fn absent_keys_take_the_values_transformers_gives_them() {
    let config = with(json!({"head_dim": null, "rope_scaling": null, "eos_token_id": null})).unwrap();
    assert_eq!((config.head_dim, config.num_key_value_heads), (16, 4));
    assert_eq!((config.rope_theta, config.rms_norm_eps), (10_000.0, 1e-6));
    assert_eq!((config.max_position_embeddings, config.rope_scaling), (2048, None));
    assert!(!config.tie_word_embeddings && !config.qkv_bias && !config.o_bias && !config.mlp_bias);
    assert!(config.eos_token_ids.is_empty());
}

#[test]
fn old_and_new_keys_of_rope_mean_the_same() {
    let llama3 = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"});
    let old = with(json!({"rope_theta": 5e5, "rope_scaling": llama3})).unwrap();
    let mut parameters = llama3;
    parameters["rope_theta"] = json!(5e5);
    let new = with(json!({"rope_parameters": parameters, "dtype": "bfloat16"})).unwrap();
    assert_eq!(old, new);
    assert_eq!(old.rope_theta, 5e5);
    assert!(matches!(old.rope_scaling, Some(RopeScaling::Llama3 { factor: 8.0, .. })));

    let linear = with(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
    assert_eq!(linear.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    let default = with(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}})).unwrap();
    assert_eq!((default.rope_scaling, default.rope_theta), (None, 1e5));
}

#[test]
fn yarn_takes_what_is_not_given_from_the_paper() {
    let yarn = |keys: Value| {
        let mut scaling =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024});
        scaling.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        match with(json!({"rope_scaling": scaling, "max_position_embeddings": 4096})).unwrap().rope_scaling {
            Some(RopeScaling::Yarn(yarn)) => yarn,
            other => panic!("{other:?}"),
        }
    };
    // 0.1 · ln 4 + 1
    let plain = Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_position_embeddings: 1024,
        attention_factor: 1.138_629_4,
        truncate: true,
        queries: None,
    };
    assert_eq!(yarn(json!({})), plain);
    assert_eq!(yarn(json!({"mscale": 1.0, "mscale_all_dim": 1.0})).attention_factor, 1.0);
    let given = json!({"attention_factor": 1.5, "beta_fast": 16, "beta_slow": 2.0, "truncate": false});
    let given = yarn(given);
    assert_eq!((given.attention_factor, given.beta_fast, given.beta_slow), (1.5, 16.0, 2.0));
    assert!(!given.truncate);
    for wrong in [json!({"factor": 0.0}), json!({"beta_slow": 64.0}), json!({"attention_factor": -1.0})] {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0});
        scaling.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert!(with(json!({"rope_scaling": scaling})).is_err(), "{wrong}");
    }
    // It only begins beyond the context that the model has.
    assert_eq!(with(json!({"rope_scaling": {"type": "dynamic", "factor": 4.0}})).unwrap().rope_scaling, None);
}

#[test]
fn families_that_differ_from_llama_by_numbers() {
    let of = |family: &str, changes: Value| {
        let mut json = changes;
        json["architectures"] = json!([family]);
        with(json)
    };
    let granite = json!({"embedding_multiplier": 12, "residual_multiplier": 0.25, "attention_multiplier": 0.0625,
        "logits_scaling": 8.0, "rms_norm_eps": 1e-5});
    let config = of("GraniteForCausalLM", granite).unwrap();
    assert_eq!((config.query_pre_attn_scalar, config.logits_scaling), (256.0, 8.0));
    assert_eq!((config.input_scale(), config.norm_eps()), (48.0, 1.6e-4));
    let zero = of("GraniteForCausalLM", json!({"residual_multiplier": 0}));
    assert!(zero.unwrap_err().to_string().contains("multipliers"));
    // Llama has no such keys, whatever its file says.
    assert_eq!(with(json!({"logits_scaling": 8.0})).unwrap().logits_scaling, 1.0);

    let smol = of("SmolLM3ForCausalLM", json!({"num_hidden_layers": 4})).unwrap();
    assert_eq!(smol.rotated_layers, Some(vec![true, true, true, false]));
    assert!(smol.tie_word_embeddings && smol.rope_theta == 2e6 && smol.sliding_window.is_none());
    let windows = json!({"no_rope_layers": [0, 1], "use_sliding_window": true, "sliding_window": 8});
    let smol = of("SmolLM3ForCausalLM", windows).unwrap();
    assert_eq!(smol.rotated_layers, Some(vec![false, true]));
    assert_eq!(smol.sliding_window.unwrap().layers, [true, false]);
    assert!(of("SmolLM3ForCausalLM", json!({"no_rope_layers": [1]})).is_err());

    let olmo = of("Olmo2ForCausalLM", json!({"num_key_value_heads": 2})).unwrap();
    let norms: Vec<(String, usize)> =
        olmo.norms(0).into_iter().map(|norm| (norm.module, norm.width)).collect();
    let expected = [("post_attention_layernorm", 64), ("post_feedforward_layernorm", 64)];
    let expected = expected.into_iter().chain([("self_attn.q_norm", 64), ("self_attn.k_norm", 32)]);
    let expected = expected.map(|(module, width)| (format!("model.layers.0.{module}"), width));
    assert_eq!(norms, expected.collect::<Vec<_>>());

    let yarn = json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024});
    let olmo = of("Olmo3ForCausalLM", json!({"num_hidden_layers": 4, "rope_scaling": yarn})).unwrap();
    let window = olmo.sliding_window.unwrap();
    assert_eq!(
        (window.length, window.layers, window.rope_theta),
        (4096, vec![true, true, true, false], Some(5e5))
    );

    let mut yarn = yarn;
    yarn["llama_4_scaling_beta"] = json!(0.1);
    let ministral =
        of("Ministral3ForCausalLM", json!({"rope_parameters": yarn, "num_key_value_heads": 2})).unwrap();
    assert_eq!((ministral.head_dim, ministral.max_position_embeddings), (128, 1024));
    assert!(
        of("Ministral3ForCausalLM", json!({"num_key_value_heads": 2}))
            .unwrap_err()
            .to_string()
            .contains("rope_parameters")
    );
}

#[test]
fn end_tokens_may_be_one_or_many() {
    assert_eq!(with(json!({"eos_token_id": 2, "bos_token_id": 1})).unwrap().eos_token_ids, [2]);
    let many = with(json!({"eos_token_id": [5, 7], "num_key_value_heads": 2, "head_dim": 32})).unwrap();
    assert_eq!((many.eos_token_ids, many.num_key_value_heads, many.head_dim), (vec![5, 7], 2, 32));
}

#[test]
fn unsupported_settings_are_named() {
    for (changes, expected) in [
        (json!({"architectures": ["BloomForCausalLM"]}), "BloomForCausalLM"),
        (json!({"architectures": null, "model_type": "mamba"}), "mamba"),
        (
            json!({"architectures": ["Qwen3ForCausalLM"], "layer_types": ["full_attention", "chunked"]}),
            "chunked",
        ),
        (json!({"rope_scaling": {"rope_type": "proportional", "factor": 4.0}}), "proportional"),
        (json!({"hidden_act": "gelu"}), "gelu"),
        (json!({"architectures": ["Gemma3ForConditionalGeneration"]}), "Gemma3ForConditionalGeneration"),
        (json!({"architectures": ["OPTForCausalLM"], "ffn_dim": 96, "activation_function": "gelu"}), "gelu"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
    ] {
        let error = with(changes).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn an_unknown_family_is_told_which_are_known() {
    let error = with(json!({"architectures": ["BloomForCausalLM"]})).unwrap_err();
    let help = error.help().unwrap();
    assert!(["Llama", "Mistral", "Qwen2", "Qwen3"].iter().all(|name| help.contains(name)), "{help}");
}

#[test]
fn every_layer_of_mistral_has_a_window_unless_it_is_null() {
    let mistral = |changes: Value| {
        let mut json = changes;
        json["architectures"] = json!(["MistralForCausalLM"]);
        with(json).unwrap()
    };
    let window = |length| Some(SlidingWindow { length, layers: vec![true, true], rope_theta: None });
    let config = mistral(json!({"num_attention_heads": 16}));
    assert_eq!((config.num_key_value_heads, config.max_position_embeddings), (8, 131_072));
    assert_eq!(config.sliding_window, window(4096));
    let config = mistral(json!({"num_key_value_heads": null, "sliding_window": 7}));
    assert_eq!((config.num_key_value_heads, config.sliding_window), (4, window(7)));
    let config = mistral(json!({"num_key_value_heads": 2, "sliding_window": null}));
    assert_eq!(config.sliding_window, None);
}

#[test]
fn qwen_has_windows_only_where_it_is_told_to() {
    let qwen = |family: &str, changes: Value| {
        let mut json = changes;
        json["architectures"] = json!([family]);
        json["num_key_value_heads"] = json!(2);
        with(json).unwrap()
    };
    let config = qwen("Qwen2ForCausalLM", json!({"sliding_window": 4, "attention_bias": false}));
    assert_eq!((config.sliding_window, config.head_dim), (None, 16));
    assert!(config.qkv_bias && !config.o_bias && config.qk_norm.is_none());
    let layers = |config: ModelConfig| config.sliding_window.map(|window| window.layers);
    let windows = json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1});
    assert_eq!(layers(qwen("Qwen2ForCausalLM", windows)), Some(vec![false, true]));
    let listed = json!({"use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention"]});
    assert_eq!(layers(qwen("Qwen2ForCausalLM", listed)), Some(vec![true, false]));
    let config = qwen("Qwen3ForCausalLM", json!({}));
    assert!(config.qk_norm == Some(QkNorm::Heads) && !config.qkv_bias && !config.o_bias);
    assert_eq!((config.head_dim, config.sliding_window), (128, None));
}

#[test]
fn phi_is_fused_and_its_context_is_the_original_one() {
    let factors: Vec<f32> = vec![1.0, 1.5, 2.0, 2.5, 3.0, 3.5];
    let config = with(json!({
        "architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.75, "sliding_window": 9,
        "max_position_embeddings": 8192, "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "su", "rope_type": "longrope", "short_factor": factors, "long_factor": [9.0]}
    }))
    .unwrap();
    assert_eq!((config.rotary_dim, config.max_position_embeddings), (12, 4096));
    assert_eq!((config.block, config.rms_norm_eps), (BlockKind::Phi3, 1e-5));
    // √(1 + ln 2 / ln 4096)
    let attention_factor = 1.040_833;
    let (short_factor, long_factor, longest) = (factors, vec![9.0], 8192);
    let scaling = RopeScaling::LongRope { short_factor, attention_factor, long_factor, longest };
    assert_eq!(config.rope_scaling, Some(scaling));
    let names: Vec<String> = config.linears(1).iter().map(|linear| linear.weight()).collect();
    assert_eq!(names[0], "model.layers.1.self_attn.qkv_proj.weight");
    assert_eq!(names.len(), 4);
}

/// As `_compute_longrope_parameters` of transformers.
#[test]
fn longrope_of_other_families_has_a_factor_and_a_context_of_its_own() {
    for (factor, original, expected, context) in [
        // √(1 + ln 4 / ln 2048)
        (json!(4.0), json!(null), 1.087_115, 2048),
        // √(1 + ln 8 / ln 64)
        (json!(8.0), json!(64), 1.224_745, 64),
        // √(1 + ln 2 / ln 1024)
        (json!(null), json!(1024), 1.048_809, 1024),
        (json!(null), json!(null), 1.0, 2048),
    ] {
        let (short, long) = (vec![1.0; 8], vec![2.0; 8]);
        let scaling = json!({"type": "longrope", "short_factor": short, "long_factor": long, "factor": factor,
            "original_max_position_embeddings": original});
        let config = with(json!({"rope_scaling": scaling, "max_position_embeddings": 2048})).unwrap();
        let Some(RopeScaling::LongRope { attention_factor, .. }) = config.rope_scaling else { panic!() };
        assert!((attention_factor - expected).abs() < 1e-6, "{attention_factor} {expected}");
        assert_eq!(config.max_position_embeddings, context);
    }
}

#[test]
fn two_rotations_are_refused_unless_they_are_the_same() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512});
    let both = |new: Value, old: Value| with(json!({"rope_parameters": new, "rope_scaling": old}));
    let mut new = yarn.clone();
    new["rope_theta"] = json!(1e6);
    assert_eq!(both(new.clone(), yarn.clone()).unwrap().rope_theta, 1e6);
    assert!(both(new.clone(), json!(null)).is_ok() && both(new.clone(), json!({})).is_ok());
    for (new, old) in
        [(json!({"rope_type": "default", "rope_theta": 1e6}), yarn), (new, json!({"type": "yarn"}))]
    {
        let error = both(new, old).unwrap_err().to_string();
        assert!(error.contains("rope_parameters and rope_scaling say different things"), "{error}");
    }
}

#[test]
fn the_gemmas_differ_by_their_keys_and_defaults() {
    let gemma = |family: &str, changes: Value| {
        let mut json = changes;
        json["architectures"] = json!([family]);
        json["num_key_value_heads"] = json!(2);
        with(json).unwrap()
    };
    let first = gemma("GemmaForCausalLM", json!({"hidden_act": "gelu", "hidden_activation": null}));
    assert_eq!(
        (first.hidden_act, first.head_dim, first.block),
        (Activation::GeluTanh, 256, BlockKind::Llama)
    );
    assert_eq!((first.embedding_scale, first.norm_offset), (8.0, 1.0));
    assert!(first.tie_word_embeddings && first.sliding_window.is_none());
    let second = gemma("Gemma2ForCausalLM", json!({"head_dim": 16, "final_logit_softcapping": null}));
    assert_eq!((second.attn_logit_softcapping, second.final_logit_softcapping), (Some(50.0), None));
    assert_eq!((second.query_pre_attn_scalar, second.block), (256.0, BlockKind::Gemma2));
    let window = |layers: &[bool], rope_theta| {
        Some(SlidingWindow { length: 4096, layers: layers.to_vec(), rope_theta })
    };
    assert_eq!(second.sliding_window, window(&[true, false], None));
    let old = gemma("Gemma3ForCausalLM", json!({"rope_local_base_freq": 1e4, "sliding_window_pattern": 2}));
    assert_eq!((old.rope_theta, old.attn_logit_softcapping, old.qk_norm), (1e6, None, Some(QkNorm::Heads)));
    assert_eq!(old.sliding_window, window(&[true, false], Some(1e4)));
    let new = gemma(
        "Gemma3ForCausalLM",
        json!({
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        }),
    );
    assert_eq!(new, old);
}

#[test]
fn opt_has_its_own_names() {
    let opt = |changes: Value| {
        let mut json = changes;
        (json["architectures"], json["ffn_dim"]) = (json!(["OPTForCausalLM"]), json!(96));
        with(json).unwrap()
    };
    let names = |config: &ModelConfig| config.tensors().map(|(name, _)| name).collect::<Vec<_>>();
    let before = opt(json!({}));
    assert!(before.tie_word_embeddings && before.qkv_bias && before.o_bias && before.mlp_bias);
    let found = names(&before);
    for name in ["model.decoder.final_layer_norm.bias", "model.decoder.layers.1.fc2.bias"] {
        assert!(found.iter().any(|found| found == name), "{name}: {found:?}");
    }
    let after = opt(json!({"do_layer_norm_before": false, "word_embed_proj_dim": 32}));
    let found = names(&after);
    assert!(found.iter().any(|name| name == "model.decoder.project_out.weight"), "{found:?}");
    assert!(!found.iter().any(|name| name.starts_with("model.decoder.final_layer_norm")), "{found:?}");
}

#[test]
fn impossible_numbers_are_refused() {
    for changes in [
        json!({"hidden_size": 0}),
        json!({"hidden_size": -64}),
        json!({"hidden_size": "64"}),
        json!({"hidden_size": 1.5}),
        json!({"hidden_size": 66}),
        json!({"num_attention_heads": 0}),
        json!({"num_key_value_heads": 3}),
        json!({"num_key_value_heads": 0}),
        json!({"num_hidden_layers": 1e18 as u64}),
        json!({"vocab_size": u64::MAX, "hidden_size": 1u64 << 62}),
        json!({"head_dim": 1u64 << 30, "num_attention_heads": 1u64 << 30}),
        json!({"head_dim": 15}),
        json!({"rms_norm_eps": 0.0}),
        json!({"rope_theta": -1.0}),
        json!({"architectures": null}),
        json!({"architectures": ["MistralForCausalLM"], "num_key_value_heads": 2, "sliding_window": 0}),
        json!({"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2, "layer_types": ["full_attention"]}),
        json!({"rope_scaling": {"rope_type": "linear"}}),
        json!({"rope_scaling": {"rope_type": "linear", "factor": 0.0}}),
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}}),
    ] {
        let error = with(changes.clone()).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{changes}: {error}");
    }
}

#[test]
fn settings_may_be_written_as_python_accepts_them() {
    let strict = json!({
        "max_position_embeddings": 256, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": true,
        "attention_bias": false, "eos_token_id": [2, 3], "rope_theta": 10000, "rope_scaling": {"type": "linear", "factor": 2},
    });
    let loose = json!({
        "hidden_size": 64.0, "vocab_size": 100.0, "max_position_embeddings": 256.0, "num_key_value_heads": 2.0,
        "head_dim": 32.0, "tie_word_embeddings": 1, "attention_bias": 0, "eos_token_id": [2.0, -1, null, 3],
        "bos_token_id": -1, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {},
        "mlp_bias": null, "hidden_act": null, "rms_norm_eps": null, "layer_types": null, "sliding_window": null,
        "pad_token_id": -1, "unheard_of": {"of": [null]},
    });
    assert_eq!(with(loose).unwrap(), with(strict).unwrap());
    for id in [json!(-1), json!(null), json!([]), json!([-1, null])] {
        assert!(with(json!({"eos_token_id": id})).unwrap().eos_token_ids.is_empty());
    }
    for empty in [json!({}), json!(null)] {
        let config =
            with(json!({"rope_scaling": empty, "rope_parameters": empty, "rope_theta": 5e5})).unwrap();
        assert_eq!((config.rope_scaling, config.rope_theta), (None, 5e5));
    }
    let opt = json!({"architectures": ["OPTForCausalLM"], "ffn_dim": 96.0, "tie_word_embeddings": null,
        "do_layer_norm_before": 0, "_remove_final_layer_norm": null, "max_position_embeddings": 32.0});
    let config = with(opt).unwrap();
    assert!(config.tie_word_embeddings && config.final_norm().is_none());
    assert_eq!((config.intermediate_size, config.max_position_embeddings), (96, 32));
}
