//! The formats that a dense checkpoint can be quantized into.

use clap::ValueEnum;

use super::gguf::blocks::GgmlType;
use super::gguf::encode::BLOCK;
use super::scheme::Packing;
use super::scheme::aqlm::Aqlm;
use super::scheme::awq::Awq;
use super::scheme::bitsandbytes::FourBitLinear;
use super::scheme::codebook::CodebookScheme;
use super::scheme::compressed_tensors::{Actorder, CompressedTensors};
use super::scheme::gptq::Gptq;
use super::target::WriteTarget;
use crate::error::{Error, Result};
use crate::packed::FloatType;
use crate::quant::{QuantMethod, QuantizeConfig};

/// The formats that a dense checkpoint can be quantized into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum QuantizedFormat {
    /// Integers; read by transformers, vLLM, SGLang and many others
    Gptq,
    /// Integers; vLLM's own format, read by transformers too
    #[serde(rename = "compressed-tensors")]
    CompressedTensors,
    /// Integers of 4 bits with zero points; read by transformers, vLLM and SGLang
    Awq,
    /// NF4 with f32 scales; read by transformers and vLLM
    Bitsandbytes,
    /// Vectors with one scale per row; read by transformers with the aqlm package
    Aqlm,
    /// One file of blocks (Q4_0, Q4_1 with --asymmetric, Q8_0), floats as they are; read by llama.cpp
    Gguf,
    /// qzo's own: codebooks with scales per group
    Qzo,
}

impl QuantizedFormat {
    /// The format that holds the results of a method best.
    pub fn of(method: QuantMethod) -> Self {
        match method {
            QuantMethod::Rtn | QuantMethod::Gptq => Self::Gptq,
            QuantMethod::Nf4 => Self::Bitsandbytes,
            QuantMethod::Learned | QuantMethod::Vector => Self::Qzo,
        }
    }

    /// How to write weights that were stored as `dtype` and are quantized by `config`.
    ///
    /// # Errors
    /// The format cannot hold them.
    pub fn target(self, config: &QuantizeConfig, dtype: FloatType) -> Result<WriteTarget> {
        let target = match self {
            Self::Gguf => block_type(config).map(WriteTarget::Gguf),
            _ => self.packing(config, dtype).map(WriteTarget::Quantized),
        };
        target.map_err(|help| {
            let method = format!("{:?}", config.method).to_lowercase();
            let format = match self.to_possible_value() {
                Some(value) if self != Self::Gguf => format!("the format {}", value.get_name()),
                _ => "GGUF".into(),
            };
            Error::invalid(format!("{format} does not hold what {method} gives with these settings"), help)
        })
    }

    /// The packing of a directory.
    ///
    /// # Errors
    /// The format cannot hold the weights; the text is the help.
    fn packing(self, config: &QuantizeConfig, dtype: FloatType) -> Result<Box<dyn Packing>, &'static str> {
        let QuantizeConfig { bits, act_order, static_groups, .. } = *config;
        let (vector_size, group_size, symmetric) =
            (config.vector_size(), config.group_size(), !config.asymmetric);
        let code_bits = bits * vector_size as u32;
        match (self, config.method) {
            (Self::Gptq, QuantMethod::Rtn | QuantMethod::Gptq) => Ok(Box::new(Gptq {
                static_groups,
                damp_percent: config.damp_percent,
                ..Gptq::new(bits, group_size, symmetric, act_order && !static_groups)
            })),
            (Self::CompressedTensors, QuantMethod::Rtn | QuantMethod::Gptq) => {
                // The features of a single group have no order.
                let actorder = match (act_order && group_size.is_some(), static_groups) {
                    (false, _) => None,
                    (true, false) => Some(Actorder::Group),
                    (true, true) => Some(Actorder::Weight),
                };
                Ok(Box::new(CompressedTensors { bits, group_size, symmetric, actorder }))
            }
            (Self::Awq, QuantMethod::Rtn | QuantMethod::Gptq) => match (bits, symmetric) {
                _ if act_order && !static_groups => {
                    Err("add --static-groups, or leave --act-order out: AWQ's groups are of neighbours")
                }
                (4, false) => Ok(Box::new(Awq { group_size })),
                _ => Err("use --bits 4 --asymmetric: AWQ holds nothing else"),
            },
            (Self::Gptq | Self::CompressedTensors | Self::Awq, _) => {
                Err("use --method rtn or gptq, or leave --format out")
            }
            (Self::Bitsandbytes, QuantMethod::Nf4) => match group_size.unwrap_or(0) {
                block @ (32 | 64 | 128 | 256 | 512 | 1024 | 2048 | 4096) => {
                    Ok(Box::new(FourBitLinear::nf4(block, dtype)))
                }
                _ => Err("use a --group-size of 32, 64, 128, … 4096: the block sizes of bitsandbytes"),
            },
            (Self::Bitsandbytes, _) => Err("use --method nf4, or leave --format out"),
            (Self::Aqlm, QuantMethod::Vector) if group_size.is_none() => Ok(Box::new(Aqlm {
                nbits_per_codebook: code_bits,
                num_codebooks: 1,
                in_group_size: vector_size,
                out_group_size: 1,
            })),
            (Self::Aqlm, _) => Err("use --method vector with --group-size -1: AQLM has one scale per row"),
            (Self::Qzo, QuantMethod::Nf4 | QuantMethod::Learned | QuantMethod::Vector) => {
                let is_nf4 = config.method == QuantMethod::Nf4;
                Ok(Box::new(CodebookScheme {
                    bits: code_bits,
                    vector_size,
                    num_codebooks: 1,
                    group_size,
                    // NF4 has more digits than f16.
                    codebook_dtype: if is_nf4 { FloatType::F32 } else { FloatType::F16 },
                }))
            }
            (Self::Qzo, _) => Err("leave --format out: integers are stored as GPTQ"),
            (Self::Gguf, _) => Err("choose a format that is a directory"),
        }
    }
}

/// The block type of a GGUF file.
///
/// # Errors
/// No type holds the weights; the text is the help.
fn block_type(config: &QuantizeConfig) -> Result<GgmlType, &'static str> {
    if !matches!(config.method, QuantMethod::Rtn | QuantMethod::Gptq) {
        return Err("use --method rtn or gptq, or leave --format out");
    }
    if config.act_order && !config.static_groups {
        return Err("add --static-groups, or leave --act-order out: GGUF's blocks are of neighbours");
    }
    if config.group_size().is_some_and(|size| !size.is_multiple_of(BLOCK)) {
        return Err("use a --group-size of 32, 64, 128, …: GGUF has a scale for each 32 weights");
    }
    match (config.bits, config.asymmetric) {
        (4, false) => Ok(GgmlType::Q4_0),
        (4, true) => Ok(GgmlType::Q4_1),
        (8, false) => Ok(GgmlType::Q8_0),
        _ => Err("use --bits 4 (Q4_0, with --asymmetric Q4_1) or --bits 8 (Q8_0)"),
    }
}
