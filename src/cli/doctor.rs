use clap::Args;

use super::Common;
use crate::device;
use crate::error::Result;

/// Show which devices this machine offers and what is missing for the others
#[derive(Debug, Args)]
pub struct DoctorArgs {}

pub fn run(_: &DoctorArgs, common: &Common) -> Result<()> {
    let survey = device::survey();
    let auto = device::DeviceSpec::Auto.resolve()?.to_string();
    let mut report: serde_json::Map<String, serde_json::Value> =
        survey.iter().map(|(name, found)| (name.to_string(), found.clone().into())).collect();
    report.insert("auto".to_string(), auto.clone().into());
    common.console().result(&report, || {
        let lines = survey.iter().map(|(name, found)| format!("{name:5} {found}"));
        lines.chain([format!("auto  {auto}")]).collect::<Vec<_>>().join("\n")
    })
}
