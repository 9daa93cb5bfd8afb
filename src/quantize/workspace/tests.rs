use serde_json::json;

use super::*;

fn weight() -> PackedWeight {
    PackedWeight {
        out_features: 2,
        in_features: 12,
        bits: 3,
        group_size: 8,
        codes: vec![0o7654321; 2],
        scales: vec![0.5; 4],
        levels: Levels::Codebook(Codebook { width: 2, num_codebooks: 1, entries: vec![0.25; 16] }),
        perm: Some((0..12).rev().collect()),
    }
}

fn name(block: usize, linear: &str) -> String {
    format!("model.layers.{block}.{linear}.weight")
}

#[test]
fn one_process_at_a_time_holds_a_workspace() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    let first = Workspace::open(&out, &json!({})).unwrap();
    let Err(error) = Workspace::open(&out, &json!({})) else { panic!("two processes hold it") };
    assert!(error.to_string().contains("another process is quantizing into"), "{error}");
    assert!(error.help().unwrap().contains("-o"));
    drop(first);
    Workspace::open(&out, &json!({})).unwrap().remove().unwrap();
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn every_kind_of_levels_is_saved_and_loaded() {
    let parent = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(&parent.path().join("out"), &json!({})).unwrap();
    let blocks = |mins| Levels::SubBlocks(SubBlocks::new(4, 3, vec![-2; 6], mins));
    let kinds = [
        Levels::Zero(4),
        Levels::Zeros(vec![1, 2, 3, 4]),
        Levels::Minimum(vec![0.5; 4]),
        blocks(None),
        blocks(Some((vec![7; 6], vec![-0.5; 4]))),
    ];
    for (block, levels) in kinds.into_iter().enumerate() {
        let saved = [(name(block, "a"), PackedWeight { codes: vec![9; 4], levels, ..weight() })];
        workspace.save(block, &saved).unwrap();
        assert_eq!(workspace.load(block).unwrap(), saved);
    }
}

#[test]
fn finished_linears_can_be_taken_in_any_order() {
    let parent = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(&parent.path().join("out"), &json!({})).unwrap();
    let scaled = |scale| PackedWeight { scales: vec![scale; 4], ..weight() };
    for block in [0, 1, 10] {
        let scale = block as f32;
        let saved = [(name(block, "a"), scaled(scale)), (name(block, "b"), scaled(scale + 0.5))];
        workspace.save(block, &saved).unwrap();
    }
    let mut finished = workspace.finished();
    for (block, linear) in [(0, "a"), (0, "b"), (1, "b"), (10, "a"), (1, "a")] {
        let scale = block as f32 + if linear == "b" { 0.5 } else { 0.0 };
        assert_eq!(finished.take(&name(block, linear)).unwrap(), scaled(scale));
    }
    for absent in [name(0, "c"), "lm_head.weight".into()] {
        let error = finished.take(&absent).unwrap_err();
        assert!(error.to_string().contains("was not quantized"), "{error}");
    }
}

/// The names in files must not change, so that a newer version can continue an unfinished quantization.
#[test]
fn shapes_are_saved_under_unchanging_names() {
    let blocks = |mins| Levels::SubBlocks(SubBlocks { width: 4, zero: 3, integers: (), min_scales: mins });
    let pairs = Levels::Codebook(Codebook { width: 2, num_codebooks: 1, entries: () });
    for (levels, expected) in [
        (Levels::Zero(4), r#"{"Zero":4}"#),
        (Levels::Zeros(()), r#""Zeros""#),
        (Levels::Minimum(()), r#""Minimum""#),
        (blocks(None), r#"{"Blocks":{"width":4,"zero":3,"minima":false}}"#),
        (blocks(Some(())), r#"{"Blocks":{"width":4,"zero":3,"minima":true}}"#),
        (pairs, r#"{"Codebook":{"width":2,"books":1}}"#),
    ] {
        assert_eq!(serde_json::to_string(&levels).unwrap(), expected);
        assert_eq!(serde_json::from_str::<Levels<(), ()>>(expected).unwrap(), levels);
    }
    let saved = serde_json::to_string(&SavedShape::new("w", &weight())).unwrap();
    assert_eq!(
        saved,
        r#"{"name":"w","out_features":2,"in_features":12,"bits":3,"group_size":8,"levels":{"Codebook":{"width":2,"books":1}},"ordered":true}"#
    );
}

/// A block whose files contradict each other or hold impossible values is refused.
#[test]
fn a_damaged_block_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(&parent.path().join("out"), &json!({})).unwrap();
    workspace.save(0, &[(name(0, "a"), weight())]).unwrap();
    assert_eq!(workspace.load(0).unwrap(), [(name(0, "a"), weight())]);
    let path = workspace.block(0).join(SHAPES_FILE);
    let good = read_json(&path).unwrap();
    for (key, value, expected) in [
        ("name", json!("model.layers.0.z.weight"), "z.weight"),
        ("out_features", json!(3), "words of codes"),
        ("in_features", json!(u64::MAX), "in_features is"),
        ("bits", json!(4), "16 values of codebooks, expected 32"),
        ("bits", json!(64), "codes of 64 bits"),
        ("group_size", json!(0), "group_size is 0"),
        ("group_size", json!(4), "scales"),
        ("levels", json!({ "Codebook": { "width": 0, "books": 1 } }), "vectors of 0"),
        ("levels", json!({ "Codebook": { "width": 2, "books": 2 } }), "words of codes"),
        ("levels", json!("Zeros"), "expected U8"),
        ("levels", json!("Other"), "not a list of shapes"),
    ] {
        let mut shapes = good.clone();
        shapes[0][key] = value.clone();
        write(&path, &shapes).unwrap();
        let error = workspace.load(0).unwrap_err();
        assert!(error.to_string().contains(expected), "{key} {value}: {error}");
    }
    write(&path, &good).unwrap();
    let tensors = workspace.block(0).join(SINGLE_FILE);
    let whole = fs::read(&tensors).unwrap();
    for (part, expected) in
        [("scales", "a scale that"), ("levels", "entry of a codebook"), ("order", "an order that")]
    {
        let range = {
            let shards = Shards::open(&workspace.block(0)).unwrap();
            shards.position(&format!("{}.{part}", name(0, "a"))).unwrap().1
        };
        let mut damaged = whole.clone();
        damaged[range.start..range.start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&tensors, &damaged).unwrap();
        let error = workspace.load(0).unwrap_err();
        assert!(error.to_string().contains(expected), "{part}: {error}");
    }
    fs::write(&tensors, &whole[..whole.len() - 1]).unwrap();
    assert!(workspace.load(0).is_err());
}
