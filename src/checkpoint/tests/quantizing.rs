//! Dense directories written again in each scheme.

use super::*;
use crate::storage::json;

/// Writes a quantized copy, as `qzo quantize` does.
fn write_quantized(
    source: &Checkpoint,
    out: &Path,
    target: &WriteTarget,
    packed: &mut dyn FnMut(&str) -> Result<PackedWeight>,
) -> Result<()> {
    target.check(source)?;
    let names = source.config().block_linears();
    let linears = &mut Linears {
        names: &names,
        packed: PackedLinears::Made(packed),
        replaced: BTreeMap::new(),
        on_tensor: &mut |_| {},
    };
    write(source, Staging::new(out)?, target, MAX_SHARD_BYTES, linears).map(|_| ())
}

#[test]
fn the_quantizers_weights_are_read_back() {
    use crate::quant::QuantMethod::{Learned, Nf4, Rtn, Vector};
    // The calibration text only has to be named: no quantizer of this test reads it.
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
            let target = into.target(config, FloatType::F16).unwrap();
            let options = config.options(target.scale_dtype());
            let mut given = BTreeMap::new();
            let mut quantize = |name: &str| {
                let shape = source.shape(name)?;
                let packed = quant::quantize(&source.dense(name)?, [shape[0], shape[1]], options)?;
                given.insert(name.to_owned(), packed.clone());
                Ok(packed)
            };
            write_quantized(&source, &out, &target, &mut quantize).unwrap();
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
            // A tuned copy differs in its scales alone.
            let (tuned, mut asked) = (parent.path().join("tuned"), 0);
            written
                .save_tuned(&tuned, &[], &mut |name| {
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

/// Features that were quantized in another order are read back in the order of their groups.
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
        method: quant::QuantMethod::Gptq,
        group_size: Some(16),
        act_order: true,
        asymmetric: true,
        ..Default::default()
    };
    let target = into.target(&config, FloatType::F16).unwrap();
    let mut given = BTreeMap::new();
    let mut quantize = |name: &str| {
        let shape = source.shape(name)?;
        let n = shape[1];
        let gram: Vec<f32> =
            (0..n * n).map(|i| if i / n == i % n { (i / n * 7 % 13) as f32 + 1.0 } else { 0.25 }).collect();
        let options = config.options(target.scale_dtype());
        let (packed, _) = quant::calibrate(&source.dense(name)?, [shape[0], n], options, &gram)?;
        given.insert(name.to_owned(), packed.clone());
        Ok(packed)
    };
    write_quantized(&source, &out, &target, &mut quantize).unwrap();
    let settings = &json::read_json(&out.join("config.json")).unwrap()["quantization_config"];
    match into {
        QuantizedFormat::Gptq => assert_eq!(settings["desc_act"], true),
        _ => assert_eq!(settings["config_groups"]["group_0"]["weights"]["actorder"], "group"),
    }
    let written = Checkpoint::open(&out).unwrap();
    for (name, packed) in &given {
        assert!(packed.perm.is_some());
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
    let target = QuantizedFormat::Gptq.target(&config, FloatType::F16).unwrap();
    let options = config.options(FloatType::F16);
    let mut quantize = |name: &str| {
        let shape = source.shape(name)?;
        quant::quantize(&source.dense(name)?, [shape[0], shape[1]], options)
    };
    let mut count = 0;
    let error = write_quantized(&source, &out, &target, &mut |_| {
        count += 1;
        Err(Error::Interrupted("for the test".into()))
    });
    assert!(matches!(error, Err(Error::Interrupted(_))) && count == 1);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 2, "from and blob");

    write_quantized(&source, &out, &target, &mut quantize).unwrap();
    let names: Vec<String> = files(&out).into_keys().collect();
    assert_eq!(names, ["config.json", "model.safetensors", "quantize_config.json", "tokenizer.json"]);
    assert!(out.join("tokenizer.json").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read(out.join("tokenizer.json")).unwrap(), b"tokens");
    let written = json::read_json(&out.join("config.json")).unwrap();
    assert_eq!(written["quantization_config"]["checkpoint_format"], "gptq");
    assert_eq!(written["torch_dtype"], "bfloat16");
    assert_eq!(written.as_object().unwrap().keys().next_back().unwrap(), "quantization_config");

    for refused in [&out, &fixture("q4_0.gguf")] {
        let already = Checkpoint::open(refused).unwrap();
        let error =
            write_quantized(&already, &parent.path().join("twice"), &target, &mut quantize).unwrap_err();
        assert!(error.to_string().contains("quantized already"), "{error}");
    }
    let other = QuantizeConfig { group_size: Some(64), ..config };
    let other = QuantizedFormat::Gptq.target(&other, FloatType::F16).unwrap();
    let error = write_quantized(&source, &parent.path().join("other"), &other, &mut quantize).unwrap_err();
    assert!(error.to_string().contains("in groups of 64"), "{error}");
}

/// Only linears need to fit the packing: tables and other parts' tensors of any shape are copied.
#[test]
fn tensors_that_are_not_packed_may_have_any_shape() {
    let parent = tempfile::tempdir().unwrap();
    let from = parent.path().join("from");
    fs::create_dir(&from).unwrap();
    for (file, bytes) in files(&fixture("../llama/base")) {
        fs::write(from.join(file), bytes).unwrap();
    }
    let whole = Checkpoint::open(&from).unwrap();
    let mut tensors: Vec<_> = whole.tensors().map(|t| (t.name, t.shape)).collect();
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![7]));
    tensors.push(("vision_tower.table".into(), vec![3, 5]));
    let bytes = |name: &str, shape: &[usize]| match whole.dense(name) {
        Ok(values) => float::encode(FloatType::F32, values),
        Err(_) => vec![0; 4 * shape.iter().product::<usize>()],
    };
    let header: Vec<_> =
        tensors.iter().map(|(name, shape)| (name.clone(), safetensors::Dtype::F32, shape.clone())).collect();
    let mut writer = safetensors::Writer::create(&parent.path().join("new"), &header).unwrap();
    for (name, shape) in &tensors {
        writer.write(name, &bytes(name, shape)).unwrap();
    }
    writer.finish().unwrap();
    drop(whole);
    fs::rename(parent.path().join("new"), from.join("model.safetensors")).unwrap();
    let source = Checkpoint::open(&from).unwrap();
    let config = QuantizeConfig { group_size: Some(32), ..Default::default() };
    for format in [QuantizedFormat::Gptq, QuantizedFormat::CompressedTensors, QuantizedFormat::Gguf] {
        let target = format.target(&config, FloatType::F16).unwrap();
        let options = config.options(target.scale_dtype());
        let out = parent.path().join(if format == QuantizedFormat::Gguf { "out.gguf" } else { "out" });
        let mut quantize = |name: &str| {
            let shape = source.shape(name)?;
            quant::quantize(&source.dense(name)?, [shape[0], shape[1]], options)
        };
        write_quantized(&source, &out, &target, &mut quantize).unwrap();
        assert!(Checkpoint::open(&out).unwrap().contains("model.embed_tokens.weight"));
        assert_eq!(Checkpoint::open(&out).unwrap().contains("vision_tower.table"), out.is_dir());
        let _ = fs::remove_dir_all(&out);
    }
}

/// Linears that were written before are not quantized again, and the result is the same.
#[test]
fn an_interrupted_write_is_continued() {
    let parent = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&fixture("../llama/base")).unwrap();
    let names = source.config().block_linears();
    let config = QuantizeConfig { group_size: Some(32), bits: 8, ..Default::default() };
    for (format, shards) in [
        (QuantizedFormat::Gptq, MAX_SHARD_BYTES),
        (QuantizedFormat::CompressedTensors, 40_000),
        (QuantizedFormat::Gguf, MAX_SHARD_BYTES),
    ] {
        let target = format.target(&config, FloatType::F16).unwrap();
        let options = config.options(target.scale_dtype());
        let write = |staging: Staging, fail_at: usize| {
            let (mut asked, mut was_there, mut bytes) = (0, 0, 0);
            let packed = &mut |name: &str| {
                asked += 1;
                if asked == fail_at {
                    return Err(Error::Interrupted("for the test".into()));
                }
                let shape = source.shape(name)?;
                quant::quantize(&source.dense(name)?, [shape[0], shape[1]], options)
            };
            let on_tensor = &mut |passed: Passed| {
                was_there += usize::from(passed.was_there);
                bytes += passed.bytes;
                assert!(bytes <= passed.of);
            };
            let result = super::write(
                &source,
                staging,
                &target,
                shards,
                &mut Linears {
                    names: &names,
                    packed: PackedLinears::Made(packed),
                    replaced: BTreeMap::new(),
                    on_tensor,
                },
            );
            (result.is_ok(), asked, was_there)
        };
        let end = if format == QuantizedFormat::Gguf { "gguf" } else { "" };
        // A GGUF file has the name of the output.
        let at = |directory: &str| {
            fs::create_dir_all(parent.path().join(directory)).unwrap();
            parent.path().join(directory).join(format!("{format:?}")).with_extension(end)
        };
        let (whole, out, unfinished) = (at("whole"), at("out"), at("unfinished"));
        assert_eq!(write(Staging::new(&whole).unwrap(), 0), (true, names.len(), 0));
        let kept = || Staging::kept(unfinished.clone(), &out).unwrap();
        let (done, asked, _) = write(kept(), names.len());
        assert!(!done && asked == names.len() && !out.exists());
        let (done, asked, was_there) = write(kept(), 0);
        assert!(done && asked < names.len() && was_there > 0, "{format:?} {asked} {was_there}");
        if whole.is_dir() {
            assert!(files(&out) == files(&whole), "{format:?}");
        } else {
            assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap(), "{format:?}");
        }
    }
}

#[test]
fn a_codebook_that_is_not_finite_is_refused_by_name() {
    use crate::quant::QuantMethod::{Nf4, Vector};
    let source = open("hf-f32");
    for (method, group_size, into, part) in [
        (Nf4, 32, QuantizedFormat::Bitsandbytes, ".weight.quant_map"),
        (Nf4, 32, QuantizedFormat::Qzo, ".codebook"),
        (Vector, -1, QuantizedFormat::Aqlm, ".codebooks"),
    ] {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        let config = QuantizeConfig { method, group_size: Some(group_size), ..Default::default() };
        let target = into.target(&config, FloatType::F32).unwrap();
        let options = config.options(target.scale_dtype());
        let mut quantize = |name: &str| {
            let shape = source.shape(name)?;
            quant::quantize(&source.dense(name)?, [shape[0], shape[1]], options)
        };
        write_quantized(&source, &out, &target, &mut quantize).unwrap();
        let tensor = format!("{}{part}", Q_PROJ.trim_end_matches(".weight"));
        let (_, range) = shards::Shards::open(&out).unwrap().position(&tensor).unwrap();
        let weights = out.join("model.safetensors");
        let mut bytes = fs::read(&weights).unwrap();
        bytes[range.start..range.start + 4].fill(0xff);
        fs::write(&weights, bytes).unwrap();
        let error = Checkpoint::open(&out).unwrap().weight(Q_PROJ).unwrap_err();
        assert!(error.to_string().contains(&tensor) && error.to_string().contains("not finite"), "{error}");
    }
}
