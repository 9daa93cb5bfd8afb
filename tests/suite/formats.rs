use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::training::Training;
use crate::support::{Workplace, fixture, gguf, tree};

/// A checkpoint of each storage type, with a file that the result can only have by a copy.
const SOURCES: &[(&str, &str)] = &[
    ("F32", "llama/head-dim-attention-bias"),
    ("F16", "llama/base"),
    ("BF16", "llama/tied-bf16"),
    ("F16", "llama/sharded-f16"),
];

fn source(place: &Workplace, name: &str) -> PathBuf {
    let path = place.path("source");
    crate::support::copy_tree(&fixture(name), &path);
    place.write("source/README.md", "# A model\r\nwith \u{fe0f} bytes\0to keep\n");
    place.write("source/chat_template.jinja", "{% for m in messages %}{{ m['content'] }}{% endfor %}");
    place.write("source/generation_config.json", "{\"eos_token_id\":[2, 3]}");
    path
}

fn is_weights(name: &Path) -> bool {
    let name = name.to_string_lossy();
    name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
}

/// The NLL of each token of the sequences in the fixture's expected.json.
fn token_nll(place: &Workplace, fixture_name: &str, model: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(fixture(fixture_name).join("expected.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let cases = cases.iter().filter(|case| case["input_ids"].as_array().unwrap().len() > 1);
    let rows = cases.map(|case| format!("{{\"input_ids\": {}}}\n", case["input_ids"])).collect::<String>();
    let rows = place.write("cases.jsonl", rows);
    let report =
        place.run("eval --json --device cpu", &[model.as_ref(), "--score".as_ref(), rows.as_ref()]).json();
    let sequences = report["sequences"].as_array().unwrap().iter();
    sequences.flat_map(|s| s["token_nll"].as_array().unwrap()).map(|nll| nll.as_f64().unwrap()).collect()
}

fn rms_difference(a: &[f64], b: &[f64]) -> f64 {
    assert!(a.len() == b.len() && !a.is_empty());
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64).sqrt()
}

#[test]
fn a_quantized_directory_keeps_every_other_file_and_loads() {
    for (dtype, name) in SOURCES {
        let place = Workplace::new();
        let source = source(&place, name);
        let inspected = place.run("inspect --json", &[source.as_ref()]).json();
        let embedding = |report: &Value| {
            let tensors = report["tensors"].as_array().unwrap();
            tensors.iter().find(|t| t["name"] == "model.embed_tokens.weight").unwrap().clone()
        };
        assert_eq!(embedding(&inspected)["dtype"], *dtype, "{name}");
        let before = tree(&source);
        place.run("quantize --bits 4 --group-size 32 -o quantized", &[source.as_ref()]).succeeded();
        assert!(before == tree(&source), "the source was changed");
        let quantized = tree(&place.path("quantized"));
        for (file, bytes) in &before {
            if is_weights(file) || file == Path::new("config.json") {
                continue;
            }
            let copy = quantized.get(file).unwrap_or_else(|| panic!("{name}: {} is missing", file.display()));
            assert!(copy == bytes, "{name}: {} is not a copy", file.display());
        }
        let json = |file: &str| serde_json::from_slice::<Value>(&quantized[Path::new(file)]).unwrap();
        let (mut config, original) = (json("config.json"), before[Path::new("config.json")].clone());
        let quantization =
            config.as_object_mut().unwrap().remove("quantization_config").expect("quantization_config");
        assert_eq!(
            config,
            serde_json::from_slice::<Value>(&original).unwrap(),
            "{name}: other keys of config.json"
        );
        for (key, value) in [
            ("quant_method", "gptq".into()),
            ("bits", 4.into()),
            ("group_size", 32.into()),
            ("sym", Value::from(true)),
            ("desc_act", false.into()),
        ] {
            assert_eq!(quantization[key], value, "{name}: {key}");
        }
        let report = place.run("inspect --json quantized", &[]).json();
        assert_eq!(report["format"], "GPTQ");
        assert_eq!(
            report["trained_weights"].as_u64().unwrap(),
            7 * report["num_hidden_layers"].as_u64().unwrap()
        );
        assert_eq!(embedding(&report), embedding(&inspected), "{name}: embeddings are left alone");
        assert_eq!(report["parameters"], inspected["parameters"]);
    }
}

#[test]
fn every_width_and_grouping_loads_and_more_bits_are_more_accurate() {
    for name in ["llama/base", "llama/sharded-f16"] {
        let place = Workplace::new();
        let exact = token_nll(&place, name, &fixture(name));
        // 96 and 88 inputs of down_proj are not multiples of 64 or 128.
        for group_size in ["32", "64", "128", "-1"] {
            for symmetry in ["", "--asymmetric"] {
                let mut errors = Vec::new();
                for bits in ["2", "3", "4", "8"] {
                    let out = format!("b{bits}g{group_size}{symmetry}");
                    let line =
                        format!("quantize --bits {bits} --group-size {group_size} {symmetry} -o {out}");
                    place.run(&line, &[fixture(name).as_ref()]).succeeded();
                    let report = place.run(&format!("inspect --json {out}"), &[]).json();
                    assert!(
                        report["trained_bits_per_weight"].as_f64().unwrap() >= bits.parse::<f64>().unwrap()
                    );
                    errors.push(rms_difference(&exact, &token_nll(&place, name, &place.path(&out))));
                }
                let what =
                    format!("{name}, groups of {group_size} {symmetry}: {errors:?} for 2, 3, 4, 8 bits");
                assert!(errors.is_sorted_by(|more, fewer| more > fewer), "{what}");
                // Random weights of this size have NLLs of 5 ± 1. A wrong zero point or order changes them by 1 and more.
                assert!(errors[3] < 0.1, "{what}");
            }
        }
    }
}

#[test]
fn a_model_that_is_quantized_is_not_quantized_again() {
    let place = Workplace::new();
    place.run("quantize -o once --group-size 32", &[fixture("llama/base").as_ref()]).succeeded();
    place.run("quantize once -o twice", &[]).refused(&["once", "quantized already"]);
    place.run("quantize -o again", &[fixture("runs/q4_1.gguf").as_ref()]).refused(&["quantized already"]);
    let before = tree(&place.path("once"));
    place.run("quantize -o once", &[fixture("llama/base").as_ref()]).refused(&["once", "exists"]);
    assert!(before == tree(&place.path("once")), "an existing directory was changed");
    assert!(!place.path("twice").exists() && !place.path("again").exists());
}

/// The bytes of `file` (of a checkpoint in GPTQ format) that hold scales.
fn gptq_scale_bytes(file: &[u8]) -> Vec<Range<usize>> {
    bytes_of(file, ".scales")
}

/// The bytes of a safetensors file that hold the tensors whose names have an ending.
fn bytes_of(file: &[u8], ending: &str) -> Vec<Range<usize>> {
    let (header, metadata) = SafeTensors::read_metadata(file).unwrap();
    let scales = metadata.tensors().into_iter().filter(|(name, _)| name.ends_with(ending));
    scales.map(|(_, info)| info.data_offsets.0 + header + 8..info.data_offsets.1 + header + 8).collect()
}

fn gguf_scale_bytes(file: &[u8]) -> Vec<Range<usize>> {
    let tensors = gguf::tensors(file);
    tensors.iter().filter(|t| t.name.starts_with("blk.")).flat_map(gguf::GgufTensor::scale_bytes).collect()
}

/// `tuned` differs from `base` only in bytes of `scales`, and in enough of them.
#[track_caller]
fn assert_only_scales_differ(base: &[u8], tuned: &[u8], scales: &[Range<usize>], what: &str) {
    assert_eq!(base.len(), tuned.len(), "{what}");
    assert!(!scales.is_empty(), "{what}: no scales found");
    let mut may_differ = vec![false; base.len()];
    scales.iter().for_each(|range| may_differ[range.clone()].fill(true));
    let other = (0..base.len()).find(|&i| base[i] != tuned[i] && !may_differ[i]);
    assert_eq!(other, None, "{what}: a byte that is no scale has changed");
    let changed = scales.iter().filter(|range| base[(*range).clone()] != tuned[(*range).clone()]).count();
    assert!(
        changed * 2 > scales.len(),
        "{what}: only {changed} of {} ranges of scales changed",
        scales.len()
    );
}

const TWO_STEPS: &str = "max_steps = 2\neval_steps = 0\nclip = 5.0";
const TWO_EXACT_STEPS: &str = "method = \"exact\"\nmax_steps = 2\neval_steps = 0\nwarmup_steps = 0";

#[test]
fn fine_tuning_a_gguf_changes_only_the_scales_of_its_blocks() {
    let names = ["runs/q4_0", "runs/q4_1", "runs/q8_0", "checkpoints/blocks"];
    for (name, steps) in
        names.into_iter().flat_map(|name| [TWO_STEPS, TWO_EXACT_STEPS].map(|steps| (name, steps)))
    {
        let model = fixture(&format!("{name}.gguf"));
        let training = Training::new(&model, steps);
        training.finetune("run", &[]).succeeded();
        let base = std::fs::read(&model).unwrap();
        let files = tree(&training.out("run").join("final"));
        assert_eq!(files.len(), 1, "{:?}", files.keys());
        let tuned = &files[Path::new(model.file_name().unwrap())];
        assert_only_scales_differ(&base, tuned, &gguf_scale_bytes(&base), name);
        for tensor in gguf::tensors(&base).iter().filter(|t| t.name.starts_with("blk.")) {
            let scales = tensor.scale_bytes();
            let changed = scales.iter().filter(|range| base[(*range).clone()] != tuned[(*range).clone()]);
            assert!(scales.is_empty() || changed.count() > 0, "{name}: {} was not trained", tensor.name);
        }
        training.place.run("inspect --json run/final", &[]).json();
    }
}

#[test]
fn fine_tuning_a_gptq_directory_changes_only_its_scales() {
    for (symmetry, bits) in [("", 4), ("--asymmetric", 4), ("", 2), ("--asymmetric", 3), ("--asymmetric", 8)]
    {
        let place = Workplace::new();
        let source = source(&place, "llama/base");
        place
            .run(
                &format!("quantize --bits {bits} {symmetry} --group-size 32 -o quantized"),
                &[source.as_ref()],
            )
            .succeeded();
        let base = tree(&place.path("quantized"));
        let steps = if bits == 4 { TWO_EXACT_STEPS } else { TWO_STEPS };
        let training = Training::new(&place.path("quantized"), steps);
        training.finetune("run", &[]).succeeded();
        let tuned = tree(&training.out("run").join("final"));
        assert_eq!(base.keys().collect::<Vec<_>>(), tuned.keys().collect::<Vec<_>>());
        for (name, bytes) in &base {
            let what = format!("{bits} bits {symmetry}: {}", name.display());
            if is_weights(name) {
                assert_only_scales_differ(bytes, &tuned[name], &gptq_scale_bytes(bytes), &what);
            } else {
                assert!(bytes == &tuned[name], "{what} is not a copy");
            }
        }
    }
}

#[test]
fn a_gguf_in_several_files_is_the_same_model_as_in_one() {
    let place = Workplace::new();
    let rows = place.write("rows.jsonl", "{\"input_ids\": [1, 5, 9, 40]}\n");
    let nll = |model: &Path| {
        let words = [model.as_ref(), "--score".as_ref(), rows.as_ref()];
        place.run("eval --json --device cpu", &words).json()["sequences"].clone()
    };
    let (whole, parts) = (fixture("runs/q4_1.gguf"), fixture("runs/split"));
    let first = parts.join("q4_1-00001-of-00003.gguf");
    assert_eq!(nll(&first), nll(&whole));
    assert_eq!(nll(&parts), nll(&whole));

    let training = Training::new(&first, TWO_STEPS);
    training.finetune("run", &[]).succeeded();
    let base = tree(&parts);
    let tuned = tree(&training.out("run").join("final"));
    assert_eq!(base.keys().collect::<Vec<_>>(), tuned.keys().collect::<Vec<_>>());
    for (name, bytes) in &base {
        let what = name.display().to_string();
        assert_only_scales_differ(bytes, &tuned[name], &gguf_scale_bytes(bytes), &what);
    }
    assert_ne!(nll(&training.out("run").join("final")), nll(&whole));

    let second = parts.join("q4_1-00002-of-00003.gguf");
    let refused = |model: &Path, says: &[&str]| place.run("inspect", &[model.as_ref()]).refused(says);
    let error = refused(&second, &["is file 2 of 3"]);
    assert!(error.stderr.contains("q4_1-00001-of-00003.gguf"), "{error:#?}");
    for name in ["q4_1-00001-of-00003.gguf", "q4_1-00002-of-00003.gguf"] {
        std::fs::copy(parts.join(name), place.path(name)).unwrap();
    }
    refused(&place.path("q4_1-00001-of-00003.gguf"), &["q4_1-00003-of-00003.gguf"]);
    std::fs::copy(&second, place.path("q4_1-00003-of-00003.gguf")).unwrap();
    refused(&place.path("q4_1-00001-of-00003.gguf"), &["split.no is Some(1), expected 2"]);
    std::fs::copy(&first, place.path("model.gguf")).unwrap();
    refused(&place.path("model.gguf"), &["its name does not say which"]);
}

#[test]
fn fine_tuning_a_checkpoint_of_another_package_changes_only_its_scales() {
    for (name, scales) in [
        ("ct-w4-group", &[".weight_scale"][..]),
        ("ct-w4-asym-actorder", &[".weight_scale"]),
        ("ct-w8-channel-ignore", &[".weight_scale"]),
        ("ct-w3-asym", &[".weight_scale"]),
        ("ct-w4-head", &["_proj.weight_scale"]),
        ("awq-gemm", &[".scales"]),
        ("bnb-fp4", &[".weight.absmax"]),
        ("mlx-mixed", &["_proj.scales", "_proj.biases"]),
    ] {
        let model = fixture(&format!("checkpoints/{name}"));
        let base = tree(&model);
        let training = Training::new(&model, TWO_STEPS);
        training.finetune("run", &[]).succeeded();
        let tuned = tree(&training.out("run").join("final"));
        assert_eq!(base.keys().collect::<Vec<_>>(), tuned.keys().collect::<Vec<_>>());
        for (file, bytes) in &base {
            let what = format!("{name}: {}", file.display());
            match is_weights(file) {
                true => {
                    let ranges: Vec<_> = scales.iter().flat_map(|ending| bytes_of(bytes, ending)).collect();
                    assert_only_scales_differ(bytes, &tuned[file], &ranges, &what);
                }
                false => assert!(bytes == &tuned[file], "{what} is not a copy"),
            }
        }
    }
}

/// Quantized scales become floats; the other tensors stay.
#[test]
fn fine_tuning_expands_scales_that_are_quantized() {
    let model = fixture("checkpoints/bnb-nf4-double");
    let training = Training::new(&model, TWO_STEPS);
    training.finetune("run", &[]).succeeded();
    let out = training.out("run").join("final");
    let tensors = |from: &Path| {
        let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
        let all = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors();
        let described = |view: &safetensors::tensor::TensorView| {
            (view.dtype(), view.shape().to_vec(), view.data().to_vec())
        };
        all.iter().map(|(name, view)| (name.clone(), described(view))).collect::<BTreeMap<_, _>>()
    };
    let (base, tuned) = (tensors(&model), tensors(&out));
    for (name, (dtype, shape, bytes)) in &base {
        if name.contains(".nested_") {
            assert!(!tuned.contains_key(name), "{name}");
        } else if name.ends_with(".absmax") {
            assert_eq!((*dtype, tuned[name].0), (safetensors::Dtype::U8, safetensors::Dtype::F32), "{name}");
            assert_eq!(*shape, tuned[name].1);
        } else if name.contains(".quant_state.") {
            let said: serde_json::Value = serde_json::from_slice(&tuned[name].2).unwrap();
            let expected = ["quant_type", "blocksize", "dtype", "shape"];
            assert_eq!(said.as_object().unwrap().keys().collect::<Vec<_>>(), expected);
        } else {
            assert!(*bytes == tuned[name].2, "{name}");
        }
    }
    let json = |from: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap()
    };
    let mut config = json(&model);
    config["quantization_config"]["bnb_4bit_use_double_quant"] = false.into();
    assert_eq!(config, json(&out));
    let rows = training.place.write("rows.jsonl", "{\"input_ids\": [1, 20, 30]}\n");
    training.place.run("eval --json --device cpu run/final --score", &[rows.as_ref()]).json();
}

#[test]
fn fine_tuning_an_unquantized_model_quantizes_it_in_the_run() {
    let training = Training::new(&fixture("llama/sharded-f16"), TWO_STEPS);
    training.finetune("run", &["--set", "quantize.group_size=64", "--set", "quantize.bits=4"]).succeeded();
    let place = &training.place;
    place
        .run("quantize --bits 4 --group-size 64 -o quantized", &[fixture("llama/sharded-f16").as_ref()])
        .succeeded();
    let (base, tuned) = (tree(&place.path("quantized")), tree(&training.out("run").join("final")));
    assert!(base == tree(&training.out("run").join("base")), "base/ is what `qzo quantize` writes");
    assert_eq!(base.keys().collect::<Vec<_>>(), tuned.keys().collect::<Vec<_>>());
    for (name, bytes) in base.iter().filter(|(name, _)| name.to_string_lossy().ends_with(".safetensors")) {
        assert_only_scales_differ(bytes, &tuned[name], &gptq_scale_bytes(bytes), "in the run");
    }
    let rows = place.write("rows.jsonl", "{\"input_ids\": [1, 40, 50]}\n");
    place.run("eval --json --device cpu run/final --score", &[rows.as_ref()]).json();
    place.run("replay run -o again", &[]).succeeded();
    assert!(tuned == tree(&place.path("again")), "replay from base/");
}
