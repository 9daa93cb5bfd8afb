//! Devices for tests.

use super::backend::Device;
use super::spec::DeviceSpec;

/// Opens the device for a test; gives `None` and writes a line to stderr if this machine has none. `QZO_TEST_DEVICES` (as
/// "wgpu,cuda") names the devices whose absence is a failure.
pub fn for_tests(name: &str) -> Option<Device> {
    let spec: DeviceSpec = name.parse().expect("a device name");
    match spec.resolve() {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var("QZO_TEST_DEVICES").unwrap_or_default();
            assert!(!required.split(',').any(|d| d == name), "{name} is required here: {error}");
            eprintln!("SKIPPED on {name}: {error}");
            None
        }
    }
}

/// Runs a test in a process of its own, because a failure on a device fails the rest of its process. `name` is the path of
/// the test in the crate, `stage` tells several processes of one test apart, and `variables` are put into the environment.
pub fn alone(name: &str, stage: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    const VARIABLE: &str = "QZO_TEST_ALONE";
    match std::env::var(VARIABLE) {
        Ok(running) if running == stage => body(),
        Ok(_) => {}
        Err(_) => {
            let program = std::env::current_exe().expect("this test's program");
            let mut child = std::process::Command::new(program);
            child.args([name, "--exact", "--nocapture"]).env(VARIABLE, stage);
            child.envs(variables.iter().copied());
            let output = child.output().expect("it starts");
            let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("1 passed") && output.status.success(), "{name}, {stage}:\n{text}");
        }
    }
}
