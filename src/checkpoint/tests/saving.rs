//! Saving checkpoints with other scales.

use super::*;

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
