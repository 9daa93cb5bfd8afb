//! Places of CUDA's run-time libraries and headers: the folders of toolkits and of NVIDIA's Python packages. They are
//! found without running or opening anything.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Gives the value of an environment variable.
type Variable = Box<dyn Fn(&str) -> Option<OsString>>;

/// The variables and the root folder that decide where libraries are looked for. Tests make their own.
pub struct SearchEnvironment {
    pub variable: Variable,
    /// The folder that holds `usr` and `opt`.
    pub root: PathBuf,
}

impl SearchEnvironment {
    /// The variables and the root folder of this process.
    pub fn this() -> Self {
        Self { variable: Box::new(|name| std::env::var_os(name)), root: "/".into() }
    }

    /// The folder that a variable names. A variable that is empty counts as unset.
    pub fn folder(&self, variable: &str) -> Option<PathBuf> {
        (self.variable)(variable).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// The toolkits and NVIDIA's Python packages that exist, as folders that hold `include` and `lib`, `lib64` or `bin`. They
    /// are in the order in which they are tried, each once.
    pub fn toolkits(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            ["CUDA_PATH", "CUDA_HOME"].iter().filter_map(|v| self.folder(v)).collect();
        found.extend(self.installed());
        let python = self.python_prefixes();
        // A Conda environment can hold the toolkit itself.
        found.extend(self.folder("CONDA_PREFIX"));
        found.extend(python.iter().flat_map(|prefix| site_packages(prefix)).flat_map(|site| {
            // The wheels of CUDA 13 share one folder; each wheel of CUDA 12 has its own.
            ["cu13", "cuda_nvrtc", "cublas", "cuda_runtime"].map(|part| site.join("nvidia").join(part))
        }));
        let mut seen = HashSet::new();
        found.retain(|dir| dir.is_dir() && seen.insert(dir.clone()));
        found
    }

    /// `/usr/local/cuda`, then its versions from the newest to the oldest, then `/opt/cuda`.
    fn installed(&self) -> Vec<PathBuf> {
        if cfg!(windows) {
            let all = entries(Path::new("C:/Program Files/NVIDIA GPU Computing Toolkit/CUDA"), |_| true);
            return newest_first(all);
        }
        let local = self.root.join("usr/local");
        let mut found = vec![local.join("cuda")];
        found.extend(newest_first(entries(&local, |name| name.starts_with("cuda-"))));
        found.push(self.root.join("opt/cuda"));
        found
    }

    /// Folders that hold `lib/python3.*`: first virtual environments, last the system's.
    fn python_prefixes(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|v| self.folder(v)).collect();
        let path = (self.variable)("PATH").unwrap_or_default();
        for python in std::env::split_paths(&path).map(|dir| dir.join("python3")).filter(|p| p.is_file()) {
            // The interpreter of a virtual environment is a link to another one, whose packages it may use, too.
            let prefix = |python: &Path| python.parent()?.parent().map(Path::to_path_buf);
            found.extend(prefix(&python));
            found.extend(python.canonicalize().ok().and_then(|real| prefix(&real)));
        }
        found.extend(self.folder("HOME").map(|home| home.join(".local")));
        found.extend(["usr/local", "usr"].map(|dir| self.root.join(dir)));
        found
    }
}

/// The folders of a toolkit that hold its libraries.
pub fn library_folders(toolkit: &Path) -> Vec<PathBuf> {
    if cfg!(windows) {
        return ["bin", "bin/x64", "bin/x86_64"].map(|dir| toolkit.join(dir)).to_vec();
    }
    let mut found = vec![toolkit.join("lib64"), toolkit.join("lib")];
    // "x86_64-linux" or "sbsa-linux". A library for another machine only fails to load.
    found.extend(entries(&toolkit.join("targets"), |_| true).into_iter().map(|target| target.join("lib")));
    found
}

/// The folders of a Python installation that hold packages: pip's and Debian's.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    if cfg!(windows) {
        return vec![prefix.join("Lib/site-packages")];
    }
    let versions = ["lib", "lib64"]
        .iter()
        .flat_map(|lib| newest_first(entries(&prefix.join(lib), |name| name.starts_with("python3"))));
    versions.flat_map(|dir| ["site-packages", "dist-packages"].map(|name| dir.join(name))).collect()
}

/// The entries of a folder whose names are wanted, by name.
fn entries(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        all.filter(|entry| wanted(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Sorts paths by the numbers in their names: `cuda-12.10` is newer than `cuda-12.9`.
fn newest_first(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let numbers = |path: &PathBuf| -> Vec<u32> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    paths.sort_by_key(|path| std::cmp::Reverse(numbers(path)));
    paths
}
