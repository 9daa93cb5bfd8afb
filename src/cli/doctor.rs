use clap::Args;

use super::common::Common;
use crate::device;
use crate::error::Result;

/// Show which devices this machine offers and what is missing for the others
#[derive(Debug, Args)]
pub struct DoctorArgs {}

pub fn run(_: &DoctorArgs, common: &Common) -> Result<()> {
    let survey = device::survey();
    let auto = device::DeviceSpec::Auto.resolve()?.to_string();
    let libraries = device::cuda_libraries();
    let mut report: serde_json::Map<String, serde_json::Value> =
        survey.iter().map(|(name, found)| (name.to_string(), found.clone().into())).collect();
    report.insert("auto".to_string(), auto.clone().into());
    report.insert("cuda_libraries".to_string(), serde_json::json!(libraries));
    common.console().result(&report, || {
        let mut lines: Vec<String> = survey.iter().map(|(name, found)| format!("{name:5} {found}")).collect();
        lines.push(format!("auto  {auto}"));
        // Without a driver, the line of cuda already says what is missing, so the libraries are left out.
        lines.extend(libraries.filter(|found| found.driver.is_some()).map(|found| found.to_string()));
        lines.join("\n")
    })
}
