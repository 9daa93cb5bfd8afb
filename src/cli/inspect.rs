use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::{Common, open};
use crate::checkpoint::TensorSummary;
use crate::error::Result;

/// Show what a model is, tensor by tensor, and how many bits its weights take
#[derive(Debug, Args)]
pub struct InspectArgs {
    model: String,
}

pub fn run(args: &InspectArgs, common: &Common) -> Result<()> {
    let console = common.console();
    let checkpoint = open::checkpoint(&args.model, console)?;
    let config = checkpoint.config();
    let tensors: Vec<TensorSummary> = checkpoint.tensors().collect();
    let trained = checkpoint.trained_names();
    let is_trained = |tensor: &TensorSummary| trained.binary_search(&tensor.name).is_ok();
    let elements = |tensor: &TensorSummary| tensor.shape.iter().product::<usize>();
    let parameters: usize = tensors.iter().map(elements).sum();
    let bytes: usize = tensors.iter().map(|t| t.bytes).sum();
    let (trained_elements, trained_bytes) = tensors
        .iter()
        .filter(|t| is_trained(t))
        .fold((0, 0), |(elements_so_far, bytes), t| (elements_so_far + elements(t), bytes + t.bytes));
    let bits = |bytes: usize, elements: usize| bytes as f64 * 8.0 / elements.max(1) as f64;
    let report = json!({
        "path": checkpoint.path(),
        "format": checkpoint.format().to_string(),
        "architecture": config.architecture,
        "parameters": parameters,
        "bytes": bytes,
        "bits_per_weight": bits(bytes, parameters),
        "trained_weights": trained.len(),
        "trained_parameters": trained_elements,
        "trained_bits_per_weight": bits(trained_bytes, trained_elements),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "max_position_embeddings": config.max_position_embeddings,
        "tensors": tensors.iter().map(|t| json!({
            "name": t.name,
            "dtype": t.dtype,
            "shape": t.shape,
            "bytes": t.bytes,
            "bits_per_weight": t.bits_per_weight,
            "trained": is_trained(t),
        })).collect::<Vec<_>>(),
    });
    console.result(&report, || {
        let mut text = String::new();
        for t in &tensors {
            let mark = if is_trained(t) { "trained" } else { "" };
            let shape = format!("{:?}", t.shape);
            let _ = writeln!(
                text,
                "{:<52} {:<20} {shape:<16} {:>6.3} bits  {mark}",
                t.name, t.dtype, t.bits_per_weight
            );
        }
        let _ = writeln!(
            text,
            "\n{} {}: {} layers, hidden {}, vocabulary {}, context {}",
            checkpoint.format(),
            config.architecture,
            config.num_hidden_layers,
            config.hidden_size,
            config.vocab_size,
            config.max_position_embeddings
        );
        let _ = writeln!(
            text,
            "{parameters} parameters in {bytes} bytes: {:.3} bits per weight",
            bits(bytes, parameters)
        );
        let _ = write!(
            text,
            "{} quantized weights can be trained: {trained_elements} parameters at {:.3} bits",
            trained.len(),
            bits(trained_bytes, trained_elements)
        );
        text
    })
}
