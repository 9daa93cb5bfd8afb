//! Saving checkpoints with other scales.

use super::*;
use crate::arch::{TensorKind, TensorKinds, TrainedTensor};
use crate::packed::LevelsKind;

#[test]
fn saving_untouched_scales_gives_the_same_bytes() {
    for name in QUANTIZED {
        let checkpoint = open(name);
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("out");
        checkpoint.save_tuned(&out, &[], &mut |name| Ok(packed(&checkpoint, name).scales)).unwrap();
        assert!(files(&out) == original_files(name), "{name}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        let again = Checkpoint::open(&out).unwrap();
        assert_eq!(again.fingerprint().unwrap(), checkpoint.fingerprint().unwrap());
    }
}

#[test]
fn tuned_tensors_are_read_back_and_nothing_else_changes() {
    let mut found = [0; 3];
    for name in QUANTIZED {
        let checkpoint = open(name);
        let parent = tempfile::tempdir().unwrap();
        let has_minima = |name: &String| packed(&checkpoint, name).levels.kind() == LevelsKind::Minimum;
        let minima = checkpoint.trained_names().iter().any(has_minima);
        let biases = checkpoint.config().qkv_bias;
        let kinds = TensorKinds { minima, norms: true, biases };
        let tensors = checkpoint.trained_tensors(kinds, 1).unwrap();
        let stored = |tensor: &TrainedTensor| match tensor.kind {
            TensorKind::Minima => checkpoint.store().minima(tensor.weight()).unwrap(),
            _ => checkpoint.dense(&tensor.name).unwrap(),
        };
        let scales = |name: &str| packed(&checkpoint, name).scales;
        let save = |out: &Path, change: f32| {
            checkpoint
                .save_tuned(out, &tensors, &mut |name| match TrainedTensor::find(&tensors, name) {
                    Some(tensor) => Ok(stored(tensor).iter().map(|value| value * change).collect()),
                    None => Ok(scales(name)),
                })
                .unwrap();
        };
        let [same, other] = ["same", "other"].map(|name| parent.path().join(name));
        save(&same, 1.0);
        assert!(files(&same) == original_files(name), "{name}");
        save(&other, 1.5);
        let again = Checkpoint::open(&other).unwrap();
        for tensor in checkpoint.tensors() {
            let is_tuned = TrainedTensor::find(&tensors, &tensor.name).is_some();
            let own_minima = TrainedTensor::minima_of(&tensors, &tensor.name);
            if let Some(minima) = own_minima {
                let got = again.store().minima(&tensor.name).unwrap();
                for (got, before) in got.iter().zip(stored(minima)) {
                    assert!((got - 1.5 * before).abs() <= 4e-3 * before.abs(), "{got} {before}");
                }
                let (before, after) = (packed(&checkpoint, &tensor.name), packed(&again, &tensor.name));
                assert_eq!((before.scales, before.codes), (after.scales, after.codes));
                found[0] += 1;
                continue;
            }
            let (before, after) =
                (checkpoint.dense(&tensor.name).unwrap(), again.dense(&tensor.name).unwrap());
            for (before, after) in before.iter().zip(after) {
                let expected = if is_tuned { 1.5 * before } else { *before };
                assert!(
                    (after - expected).abs() <= 4e-3 * expected.abs() * f32::from(is_tuned as u8),
                    "{name}"
                );
            }
            found[1] += usize::from(is_tuned && !tensor.name.ends_with("bias"));
            found[2] += usize::from(is_tuned && tensor.name.ends_with("bias"));
        }
    }
    assert!(found[0] > 10 && found[1] > 20, "{found:?}");
}

#[test]
fn minima_of_formats_without_any_are_refused_by_the_name_of_the_format() {
    let kinds = TensorKinds { minima: true, ..TensorKinds::default() };
    for (name, format) in [("gptq-4bit-v1", "GPTQ 4-bit"), ("q8_0.gguf", "Q8_0")] {
        let error = open(name).trained_tensors(kinds, 2).unwrap_err();
        assert!(error.to_string().contains(format), "{error}");
        assert!(error.help().unwrap().contains("leave \"minima\" out"), "{error:?}");
    }
    let kinds = TensorKinds { biases: true, ..TensorKinds::default() };
    let error = open("q4_1.gguf").trained_tensors(kinds, 2).unwrap_err();
    assert!(error.to_string().contains("has no biases"), "{error}");
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
        checkpoint.save_tuned(&out, &[], &mut |name| Ok(tuned(name))).unwrap();
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
                "blocks.gguf" => 3,
                "q4_1.gguf" => 2,
                "q4_0.gguf" | "q8_0.gguf" => 1,
                _ => 0,
            },
            "{name}"
        );
        // Only the files of weights differ, and not in length.
        for (file, bytes) in original_files(name) {
            let saved = fs::read(out.join(&file)).unwrap();
            assert_eq!(saved.len(), bytes.len());
            assert_eq!(saved != bytes, file.ends_with(".gguf") || file.ends_with(".safetensors"), "{file}");
        }
    }
}

#[test]
fn a_minimum_moves_with_its_scale() {
    for (file, linear) in [
        ("q4_1.gguf", "0.mlp.up_proj"),
        ("mlx-mixed", "0.mlp.up_proj"),
        ("mlx-mixed", "1.self_attn.k_proj"),
        // Q5_1, Q5_K, Q4_K, Q2_K
        ("blocks.gguf", "1.self_attn.o_proj"),
        ("blocks.gguf", "0.mlp.up_proj"),
        ("blocks.gguf", "0.self_attn.q_proj"),
        ("blocks.gguf", "1.mlp.up_proj"),
    ] {
        let (checkpoint, name) = (open(file), format!("model.layers.{linear}.weight"));
        let before = packed(&checkpoint, &name);
        let doubled: Vec<f32> = before.scales.iter().map(|s| s * 2.0).collect();
        let (scales, levels) = checkpoint.rounded_scales(&name, &doubled).unwrap();
        let after = PackedWeight { scales, levels, ..before.clone() };
        let twice: Vec<f32> = before.to_dense().iter().map(|w| w * 2.0).collect();
        assert_eq!(after.to_dense(), twice);
    }
}

#[test]
fn a_scale_that_does_not_fit_is_refused_by_name_and_leaves_nothing() {
    for name in QUANTIZED {
        let checkpoint = open(name);
        for bad in [f32::NAN, f32::INFINITY, 7e4] {
            let parent = tempfile::tempdir().unwrap();
            let error = checkpoint
                .save_tuned(&parent.path().join("out"), &[], &mut |name| {
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
    let error = open("q4_0.gguf").save_tuned(parent.path(), &[], &mut untouched).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    for name in ["hf-f32", "f16.gguf"] {
        let error = open(name).save_tuned(&parent.path().join("out"), &[], &mut untouched).unwrap_err();
        assert!(error.to_string().contains("no quantized weights"), "{error}");
    }
}
