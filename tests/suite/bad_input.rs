//! Wrong input: one error that says where, exit code 1, nothing written.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::training::Training;
use crate::support::{Answer, QZO, Workplace, assert_same_files, copy_tree, fixture, skipped, tree};

/// A copy of a model to damage.
fn copy(place: &Workplace, name: &str) -> PathBuf {
    let (from, to) = (fixture(name), place.path("model"));
    if from.is_dir() {
        copy_tree(&from, &to);
        return to;
    }
    let to = to.with_extension("gguf");
    std::fs::copy(from, &to).unwrap();
    to
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    edit(path, |bytes| {
        let mut value = serde_json::from_slice(bytes).unwrap();
        change(&mut value);
        *bytes = serde_json::to_vec(&value).unwrap();
    });
}

/// Every subcommand refuses `model` and writes nothing.
#[track_caller]
fn no_command_accepts(place: &Workplace, model: &Path, parts: &[&str]) {
    place.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n");
    let before = tree(&place.path(""));
    for line in [
        "inspect --json",
        "eval --score rows.jsonl --json --device cpu",
        "quantize -o out",
        "generate --prompt It --device cpu",
    ] {
        place.run(line, &[model.as_ref()]).refused(parts);
        assert!(tree(&place.path("")) == before, "{line} wrote something");
    }
}

#[test]
fn a_truncated_safetensors_file_is_refused() {
    for keep in [0, 4, 8, 500, 100_000] {
        let place = Workplace::new();
        let model = copy(&place, "llama/base");
        edit(&model.join("model.safetensors"), |bytes| bytes.truncate(keep));
        no_command_accepts(&place, &model, &["model.safetensors"]);
    }
}

#[test]
fn a_safetensors_header_with_wrong_lengths_or_shapes_is_refused() {
    let place = Workplace::new();
    let model = copy(&place, "llama/base");
    edit(&model.join("model.safetensors"), |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    no_command_accepts(&place, &model, &["model.safetensors"]);
    std::fs::copy(fixture("llama/base/model.safetensors"), model.join("model.safetensors")).unwrap();
    // A shape that differs from the config's, with the same number of bytes.
    edit(&model.join("model.safetensors"), |bytes| {
        let end = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
        let header = String::from_utf8(bytes[8..end].to_vec()).unwrap();
        let changed = header.replacen("[64,96]", "[96,64]", 1);
        assert!(changed != header, "{header}");
        bytes[8..end].copy_from_slice(changed.as_bytes());
    });
    no_command_accepts(&place, &model, &["model.safetensors", "proj.weight"]);
}

#[test]
fn a_truncated_gguf_is_refused() {
    let whole = std::fs::metadata(fixture("runs/q4_1.gguf")).unwrap().len() as usize;
    for keep in [0, 3, 20, 700, 3000, 8000, whole - 1] {
        let place = Workplace::new();
        let model = copy(&place, "runs/q4_1.gguf");
        edit(&model, |bytes| bytes.truncate(keep));
        no_command_accepts(&place, &model, &["model.gguf"]);
    }
}

#[test]
fn a_missing_shard_is_named() {
    let place = Workplace::new();
    let model = copy(&place, "llama/sharded-f16");
    std::fs::remove_file(model.join("model-00002-of-00003.safetensors")).unwrap();
    no_command_accepts(&place, &model, &["model-00002-of-00003.safetensors"]);
}

#[test]
fn an_index_that_points_outside_its_folder_is_refused() {
    for outside in ["../secret.safetensors", "/etc/passwd", "sub/../../secret.safetensors"] {
        let place = Workplace::new();
        let model = copy(&place, "llama/sharded-f16");
        std::fs::copy(fixture("llama/base/model.safetensors"), place.path("secret.safetensors")).unwrap();
        edit_json(&model.join("model.safetensors.index.json"), |index| {
            index["weight_map"]["model.norm.weight"] = outside.into();
        });
        no_command_accepts(&place, &model, &["model.safetensors.index.json", outside]);
    }
}

#[test]
fn an_index_that_names_a_tensor_its_shard_lacks_is_refused() {
    let place = Workplace::new();
    let model = copy(&place, "llama/sharded-f16");
    edit_json(&model.join("model.safetensors.index.json"), |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        let other = map.values().find(|shard| **shard != map["model.norm.weight"]).unwrap().clone();
        map["model.norm.weight"] = other;
    });
    no_command_accepts(&place, &model, &["model.norm.weight"]);
}

#[test]
fn a_directory_that_is_missing_or_not_a_model_is_refused() {
    let place = Workplace::new();
    std::fs::create_dir(place.path("empty")).unwrap();
    no_command_accepts(&place, &place.path("empty"), &["empty"]);
    no_command_accepts(&place, &place.path("absent"), &["absent"]);
    no_command_accepts(&place, Path::new("nobody/no-such-model"), &["nobody/no-such-model"]);
    no_command_accepts(&place, Path::new("absent.gguf"), &["absent.gguf"]);
    let model = copy(&place, "llama/base");
    edit(&model.join("config.json"), |bytes| bytes.truncate(40));
    no_command_accepts(&place, &model, &["config.json"]);
    std::fs::copy(fixture("llama/base/config.json"), model.join("config.json")).unwrap();
    edit_json(&model.join("config.json"), |config| {
        config["model_type"] = "mamba".into();
        config["architectures"][0] = "MambaForCausalLM".into();
    });
    no_command_accepts(&place, &model, &["amba"]);
}

#[test]
fn a_wrong_row_is_named_with_file_line_and_field_before_anything_is_written() {
    let good = "{\"text\": \"It was\", \"label\": 1}\n\n";
    for (row, parts) in [
        ("{\"label\": 1}", &["`text`"][..]),
        ("{\"text\": \"It\"}", &["`label`"]),
        ("{\"text\": [7], \"label\": 1}", &["`text`", "list"]),
        ("{\"text\": null, \"label\": 1}", &["`text`", "null"]),
        ("{\"text\": \"It\", \"label\": 2}", &["`label`", "2", "0 to 1"]),
        ("{\"text\": \"It\", \"label\": -1}", &["`label`", "-1"]),
        ("{\"text\": \"It\", \"label\": 0.5}", &["`label`", "0.5"]),
        ("{\"text\": \"It\", \"label\": \"awful\"}", &["`label`", "awful", "\" bad\""]),
        ("{\"text\": \"It\", \"label\": [1]}", &["`label`"]),
        ("{\"text\": \"It\", \"label\": 1", &["JSON"]),
        ("[\"It\", 1]", &["object"]),
    ] {
        let training = Training::tiny("max_steps = 1");
        training.place.write("train.jsonl", format!("{good}{row}\n"));
        let parts = [parts, &["train.jsonl:3:"]].concat();
        training.finetune("run", &[]).refused(&parts);
        assert!(!training.out("run").exists(), "{row}");
        let model = fixture("runs/q4_1.gguf");
        let task = [
            "--data",
            "train.jsonl",
            "--prompt",
            "{text} It was",
            "--choice",
            " bad",
            "--choice",
            " good",
            "--device",
            "cpu",
        ];
        training.place.qzo(["eval", model.to_str().unwrap()].iter().chain(&task)).refused(&parts);
    }
}

#[test]
fn a_wrong_row_to_score_is_named() {
    let place = Workplace::new();
    let model = fixture("runs/q4_1.gguf");
    for (row, parts) in [
        ("{\"input_ids\": [1, 128]}", &["128"][..]),
        ("{\"input_ids\": [1, -1]}", &["`input_ids`"]),
        ("{\"input_ids\": \"1 2\"}", &["`input_ids`"]),
        ("{\"input_ids\": [1]}", &["2"]),
        ("{\"input_ids\": []}", &["2"]),
        ("{\"words\": [1]}", &["`text`", "`input_ids`"]),
        ("{\"text\": 3}", &["`text`"]),
    ] {
        place.write("rows.jsonl", format!("{{\"input_ids\": [1, 2]}}\n{row}\n"));
        let answer = place.run("eval --score rows.jsonl --json --device cpu", &[model.as_ref()]);
        answer.refused(&[parts, &["rows.jsonl:2:"]].concat());
    }
    place.write("rows.jsonl", "");
    place.run("eval --score rows.jsonl --json --device cpu", &[model.as_ref()]).refused(&["rows.jsonl"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let long = "It was the best of times. ".repeat(20);
    let place = Workplace::new();
    let model = fixture("runs/q4_1.gguf");
    let model = model.to_str().unwrap();
    place.write("rows.jsonl", serde_json::json!({"text": long, "label": 1}).to_string());
    place.write("text.txt", &long);
    place.qzo(["generate", model, "--prompt", &long, "--device", "cpu"]).refused(&["128"]);
    place.qzo(["eval", model, "--score", "rows.jsonl", "--device", "cpu"]).refused(&["rows.jsonl:1:", "128"]);
    let task = ["--prompt", "{text} It was", "--choice", " bad", "--choice", " good"];
    place
        .qzo(["eval", model, "--data", "rows.jsonl", "--device", "cpu"].iter().chain(&task))
        .refused(&["rows.jsonl:1:", "128"]);
    place
        .qzo(["eval", model, "--perplexity", "text.txt", "--window", "129", "--device", "cpu"])
        .refused(&["129", "128"]);
    place
        .qzo(["eval", model, "--perplexity", "text.txt", "--window", "1", "--device", "cpu"])
        .refused(&["window"]);
    let training = Training::tiny("max_steps = 1");
    training.place.write("train.jsonl", serde_json::json!({"text": long, "label": 1}).to_string());
    training.finetune("run", &[]).refused(&["train.jsonl:1:", "128"]);
    training
        .finetune("run", &["--set", "data.max_seq_length=20"])
        .refused(&["train.jsonl", "max_seq_length"]);
    assert!(!training.out("run").exists());
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_written() {
    let training = Training::tiny("max_steps = 1");
    for (setting, name) in [
        ("train.batch_size=0", "batch_size"),
        ("train.learning_rate=nan", "learning_rate"),
        ("train.learning_rate=-1.0", "learning_rate"),
        ("train.zo_eps=0.0", "zo_eps"),
        ("train.zo_eps=inf", "zo_eps"),
        ("train.clip=0.0", "clip"),
        ("train.clip=nan", "clip"),
        ("train.probes=0", "probes"),
        ("train.estimator=adam", "adam"),
        ("train.scale_mode=log", "log"),
        ("train.max_steps=-1", "-1"),
        ("quantize.bits=5", "5"),
        ("quantize.group_size=0", "group_size"),
        ("device=tpu", "tpu"),
        ("dtype=f8", "f8"),
        ("data.choices=[\" bad\"]", "choices"),
        ("data.prompt={text", "prompt"),
        ("data.train=absent.jsonl", "absent.jsonl"),
        ("data.task=sst3", "sst3"),
        ("model=", "model"),
        ("model=absent", "absent"),
    ] {
        let answer = training.finetune("run", &["--set", setting]);
        assert!(!training.out("run").exists(), "{setting} wrote something: {answer:#?}");
        answer.refused(&[name]);
    }
}

#[test]
fn unsupported_settings_of_a_model_or_device_are_refused_before_anything_is_written() {
    let training = Training::new(&fixture("llama/base"), "max_steps = 1");
    let answer = training.finetune("run", &[]);
    assert!(!training.out("run").exists(), "an unquantized model without [quantize]: {answer:#?}");
    answer.refused(&["not quantized", "[quantize]"]);
    let training = Training::tiny("max_steps = 1");
    let answer = training.finetune("run", &["--dtype", "f16"]);
    assert!(!training.out("run").exists(), "a dtype that the device lacks: {answer:#?}");
    answer.refused(&["f16"]);
}

#[test]
fn a_gguf_without_quantized_weights_is_refused_before_a_step_is_taken() {
    let training = Training::new(&fixture("runs/f16.gguf"), "max_steps = 1");
    let answer = training.finetune("run", &[]);
    assert!(!training.out("run").exists(), "{answer:#?}");
    answer.refused(&["f16.gguf", "no quantized weights"]);
    let answer =
        training.place.run("quantize -o out", &[fixture("runs/f16.gguf").as_ref()]).refused(&["f16.gguf"]);
    assert!(!answer.stderr.contains("quantized already"), "it is not: {answer:#?}");
}

/// A copy of `llama/base` (f16) in which one tensor is filled with one number.
fn with_constant(place: &Workplace, tensor: &str, f16: u16) -> PathBuf {
    let model = copy(place, "llama/base");
    edit(&model.join("model.safetensors"), |bytes| {
        let (header, metadata) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
        let (start, end) = metadata.tensors()[tensor].data_offsets;
        bytes[header + 8 + start..header + 8 + end]
            .chunks_exact_mut(2)
            .for_each(|n| n.copy_from_slice(&f16.to_le_bytes()));
    });
    model
}

const NAN: u16 = 0x7e00;
const INFINITY: u16 = 0x7c00;

#[test]
fn weights_that_are_not_finite_are_not_quantized() {
    for number in [NAN, INFINITY] {
        let place = Workplace::new();
        let model = with_constant(&place, "model.layers.1.mlp.up_proj.weight", number);
        let answer = place.run("quantize --group-size 32 -o out", &[model.as_ref()]);
        assert!(!place.path("out").exists());
        answer.refused(&["model.layers.1.mlp.up_proj.weight"]);
    }
}

/// A copy of `llama/base` whose final norm is `number` everywhere, in f32: finite, but its products are not.
fn with_norm(place: &Workplace, number: f32) -> PathBuf {
    let model = copy(place, "llama/base");
    edit(&model.join("model.safetensors"), |bytes| {
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let (mut tensors, norm) = (file.tensors(), [number.to_le_bytes(); 64].concat());
        tensors.retain(|(name, _)| name != "model.norm.weight");
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![64], &norm).unwrap();
        tensors.push(("model.norm.weight".into(), view));
        *bytes = safetensors::serialize(tensors, None).unwrap();
    });
    model
}

#[test]
fn a_loss_that_stays_nan_ends_the_run_with_a_clear_error() {
    for number in [3e38f32, -3e38] {
        let place = Workplace::new();
        let model = with_norm(&place, number);
        place.run("quantize --group-size 32 -o quantized", &[model.as_ref()]).succeeded();
        let training =
            Training::new(&place.path("quantized"), "max_steps = 50\neval_steps = 0\nmax_skipped_steps = 4");
        // The first evaluation on a dev set finds it before the first step.
        training.finetune("measured", &[]).refused(&["NaN", "log-probability"]);
        let recipe = std::fs::read_to_string(training.place.path("run.toml")).unwrap();
        training.place.write("run.toml", recipe.replace("dev = \"dev.jsonl\"\n", ""));
        let answer = training.finetune("run", &[]);
        let answer = answer.refused(&["NaN or infinite", "5 steps in a row"]);
        assert!(answer.stderr.contains("learning_rate"), "what to do: {answer:#?}");
        assert!(!training.out("run").join("final").exists());
        let skipped = training.metrics("run").iter().filter(|line| line["skipped"] == true).count();
        assert_eq!(skipped, 5);
        // Another try ends in the same way.
        training.finetune("run", &["--resume"]).refused(&["NaN or infinite"]);
    }
}

#[test]
fn measuring_a_model_that_gives_nan_is_an_error_and_not_null_in_json() {
    let place = Workplace::new();
    let model = with_constant(&place, "model.norm.weight", NAN);
    place.write("rows.jsonl", "{\"input_ids\": [1, 2, 3], \"text\": \"It was\", \"label\": 0}\n");
    place.run("eval --score rows.jsonl --json --device cpu", &[model.as_ref()]).refused(&["NaN"]);
    let task = ["--prompt", "{text} It", "--choice", " bad", "--choice", " good"].map(std::ffi::OsStr::new);
    let args = [&[model.as_os_str()], &task[..]].concat();
    place.run("eval --data rows.jsonl --json --device cpu", &args).refused(&["NaN"]);
    place.run("generate --device cpu --temperature 1 --prompt It", &[model.as_ref()]).refused(&["NaN"]);
}

#[test]
fn steps_that_are_too_large_end_with_an_error_and_not_with_a_broken_checkpoint() {
    for learning_rate in ["1e6", "1e30", "1e300"] {
        let training = Training::tiny("max_steps = 60\neval_steps = 0\nmax_skipped_steps = 4");
        let setting = format!("train.learning_rate={learning_rate}");
        training.finetune("run", &["--set", &setting]).refused(&[]);
        assert!(!training.out("run").join("final").exists(), "{learning_rate}");
    }
}

/// Runs the program with a limit of `kib` KiB for each file, which it meets as it meets a full disk.
fn with_small_files(place: &Workplace, kib: usize, args: &str) -> Answer {
    place.shell(&format!("trap '' XFSZ; ulimit -f {kib}; exec {QZO} {args}"))
}

#[test]
fn a_run_that_cannot_write_ends_with_an_error_and_resumes_to_the_same_bytes() {
    let training = Training::tiny("max_steps = 120\neval_steps = 50\nsave_steps = 20");
    training.finetune("whole", &[]).succeeded();
    // metrics.jsonl outgrows 12 KiB within the run; snapshots and the journal do not.
    let answer = with_small_files(&training.place, 12, "finetune --config run.toml -o run");
    answer.refused(&["metrics.jsonl"]);
    assert!(!training.out("run").join("final").exists());
    // The checkpoint is larger than 100 KiB; all other files are smaller.
    let answer = with_small_files(&training.place, 100, "finetune --config run.toml -o run --resume");
    answer.refused(&["q4_1.gguf"]);
    assert!(!training.out("run").join("final").exists(), "half a checkpoint");
    training.finetune("run", &["--resume"]).succeeded();
    assert_same_files(&training.out("whole").join("final"), &training.out("run").join("final"));
    let names = |out: &str| tree(&training.out(out)).into_keys().collect::<Vec<_>>();
    assert_eq!(names("whole"), names("run"), "left behind by the failed runs");
}

#[test]
fn quantizing_to_a_full_disk_leaves_no_files() {
    let place = Workplace::new();
    let model = fixture("llama/base");
    let line = format!("quantize --group-size 32 -o out {}", model.display());
    with_small_files(&place, 40, &line).refused(&["model.safetensors"]);
    assert!(tree(&place.path("")).is_empty(), "{:?}", tree(&place.path("")).keys());
    place.run("quantize --group-size 32 -o out", &[model.as_ref()]).succeeded();
}

#[test]
fn a_full_disk_is_reported_as_such() {
    let place = Workplace::new();
    std::fs::create_dir(place.path("disk")).unwrap();
    let mounted = place.shell("mount -t tmpfs -o size=64k none disk");
    if mounted.code != Some(0) {
        return skipped("a full disk: mounting a small one is not permitted here");
    }
    let model = fixture("llama/base");
    let answer = place.run("quantize --group-size 32 -o disk/out", &[model.as_ref()]);
    let left = tree(&place.path("disk"));
    place.shell("umount disk").succeeded();
    let answer = answer.refused(&["disk/", "No space left on device"]);
    assert!(answer.stderr.contains("free some disk space"), "{answer:#?}");
    assert!(left.is_empty(), "{:?}", left.keys());
}

#[test]
fn a_missing_cuda_driver_is_one_clear_error() {
    let place = Workplace::new();
    let model = fixture("runs/q4_1.gguf");
    let training = Training::tiny("max_steps = 1");
    place.write("rows.jsonl", "{\"input_ids\": [1, 2]}\n");
    // On a machine with a card, the number of a card that no machine has.
    for device in ["cuda", "cuda:99"] {
        let answer = place.run(&format!("eval --score rows.jsonl --device {device}"), &[model.as_ref()]);
        if device == "cuda" && answer.code == Some(0) {
            continue;
        }
        let answer = answer.refused(&["CUDA"]);
        assert!(answer.stderr.contains("help:"), "{answer:#?}");
        training.finetune("run", &["--device", device]).refused(&["CUDA"]);
        assert!(!training.out("run").exists());
    }
}

#[test]
fn a_missing_vulkan_driver_is_one_clear_error_and_auto_falls_back_to_the_cpu() {
    let place = Workplace::new();
    let model = fixture("runs/q4_1.gguf");
    place.write("rows.jsonl", "{\"input_ids\": [1, 2]}\n");
    let without_vulkan = |device: &str| {
        let mut command = place.command();
        command.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
        command.args([
            "eval",
            model.to_str().unwrap(),
            "--score",
            "rows.jsonl",
            "--json",
            "--device",
            device,
        ]);
        Answer::of(&mut command)
    };
    let answer = without_vulkan("wgpu").refused(&["WGPU"]);
    assert!(answer.stderr.contains("help:") && answer.stderr.contains("mesa-vulkan-drivers"), "{answer:#?}");
    without_vulkan("wgpu:3").refused(&["WGPU"]);
    if !crate::support::has_device("cuda") {
        assert_eq!(without_vulkan("auto").json(), without_vulkan("cpu").json());
    }
}
