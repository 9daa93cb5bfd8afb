//! The `[quantize]` table: how a model that is not quantized yet becomes so.

use serde::{Deserialize, Serialize};

use super::rtn::{FloatType, RtnOptions};
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Round to nearest: needs no data.
    #[default]
    Rtn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeConfig {
    pub method: Method,
    /// 2, 3, 4 or 8.
    pub bits: u32,
    /// Input features that share a scale; −1: a whole row.
    pub group_size: i64,
    /// One zero point per group instead of the middle of the range.
    pub asymmetric: bool,
}

impl Default for QuantizeConfig {
    fn default() -> Self {
        Self { method: Method::Rtn, bits: 4, group_size: 128, asymmetric: false }
    }
}

impl QuantizeConfig {
    /// # Errors
    /// Bits or a group size that no format here can hold.
    pub fn validate(&self) -> Result<()> {
        if ![2, 3, 4, 8].contains(&self.bits) {
            return Err(Error::invalid(format!("bits is {}", self.bits), "use 2, 3, 4 or 8"));
        }
        if self.group_size != -1 && !(8..=65_536).contains(&self.group_size) {
            return Err(Error::invalid(
                format!("group_size is {}", self.group_size),
                "use 32, 64, 128, or -1 for one scale per row",
            ));
        }
        Ok(())
    }

    /// `None`: a whole row.
    pub fn group_size(&self) -> Option<usize> {
        usize::try_from(self.group_size).ok()
    }

    pub fn rtn(&self) -> RtnOptions {
        RtnOptions {
            bits: self.bits,
            group_size: self.group_size(),
            symmetric: !self.asymmetric,
            scale_dtype: FloatType::F16,
        }
    }
}
