use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::path::{Path, PathBuf};

use super::library::{self, Version, driver_fits};
use super::places::SearchEnvironment;
use super::survey::{Versions, release_in};
use super::{alias, headers};

/// The folders and variables of a made-up machine.
struct MadeUpMachine {
    root: tempfile::TempDir,
    variables: HashMap<String, String>,
}

impl MadeUpMachine {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), variables: HashMap::new() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Adds files that hold some text, so that none is a library.
    fn with(self, files: &[&str]) -> Self {
        for file in files {
            std::fs::create_dir_all(self.at(file).parent().unwrap()).unwrap();
            std::fs::write(self.at(file), "made up").unwrap();
        }
        self
    }

    /// Sets a variable to a folder of this machine.
    fn set(mut self, name: &str, folder: &str) -> Self {
        self.variables.insert(name.to_string(), self.at(folder).display().to_string());
        self
    }

    fn environment(&self) -> SearchEnvironment {
        let variables = self.variables.clone();
        SearchEnvironment {
            variable: Box::new(move |name| variables.get(name).map(Into::into)),
            root: self.root.path().to_path_buf(),
        }
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.root.path()).unwrap_or(path).display().to_string()
    }

    fn candidates(&self, stem: &str) -> Vec<String> {
        let (files, _) = library::candidates(stem, &self.environment());
        files.iter().map(|file| self.relative(file)).collect()
    }
}

fn version(major: u32, minor: u32) -> Version {
    Version { major, minor }
}

#[test]
fn libraries_are_looked_for_in_order() {
    let made = MadeUpMachine::new()
        .with(&[
            "own/lib64/libnvrtc.so.12",
            "own/lib64/libnvrtc.so.13",
            "own/lib64/libnvrtc-builtins.so.13.0",
            "usr/local/cuda/lib64/libnvrtc.so.12",
            "usr/local/cuda-12.9/targets/x86_64-linux/lib/libnvrtc.so",
            "usr/local/cuda-12.10/lib64/libnvrtc.so.12",
            "usr/local/cuda-13.0/lib64/libnvrtc.so.13",
            "opt/cuda/lib64/libnvrtc.so.13",
            "conda/lib/libnvrtc.so.12",
            "venv/lib/python3.9/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            "venv/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
            "home/.local/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
            "usr/lib/python3/dist-packages/nvidia/cu13/lib/libnvrtc.so.13",
        ])
        .set("CUDA_PATH", "own")
        .set("VIRTUAL_ENV", "venv")
        .set("CONDA_PREFIX", "conda")
        .set("HOME", "home");
    let expected = [
        "libnvrtc.so.13",
        "libnvrtc.so.12",
        "libnvrtc.so.11",
        "libnvrtc.so",
        "own/lib64/libnvrtc.so.13",
        "own/lib64/libnvrtc.so.12",
        "usr/local/cuda/lib64/libnvrtc.so.12",
        "usr/local/cuda-13.0/lib64/libnvrtc.so.13",
        "usr/local/cuda-12.10/lib64/libnvrtc.so.12",
        "usr/local/cuda-12.9/targets/x86_64-linux/lib/libnvrtc.so",
        "opt/cuda/lib64/libnvrtc.so.13",
        "conda/lib/libnvrtc.so.12",
        "venv/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
        "venv/lib/python3.9/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "home/.local/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "usr/lib/python3/dist-packages/nvidia/cu13/lib/libnvrtc.so.13",
    ];
    if cfg!(unix) {
        assert_eq!(made.candidates("nvrtc"), expected);
    }
}

#[cfg(unix)]
#[test]
fn packages_of_the_interpreter_on_the_path_are_found_through_its_link() {
    let made = MadeUpMachine::new()
        .with(&[
            "python/bin/python3.12",
            "python/lib/python3.12/site-packages/nvidia/cublas/lib/libcublas.so.12",
            "env/lib/python3.12/site-packages/nvidia/cu13/lib/libcublas.so.13",
            "env/bin/pip",
        ])
        .set("PATH", "env/bin");
    std::os::unix::fs::symlink(made.at("python/bin/python3.12"), made.at("env/bin/python3")).unwrap();
    let root = made.root.path().canonicalize().unwrap();
    let found: Vec<String> = made.candidates("cublas").split_off(4);
    let found: Vec<String> =
        found.iter().map(|file| file.replace(&format!("{}/", root.display()), "")).collect();
    assert_eq!(
        found,
        [
            "env/lib/python3.12/site-packages/nvidia/cu13/lib/libcublas.so.13",
            "python/lib/python3.12/site-packages/nvidia/cublas/lib/libcublas.so.12",
        ]
    );
}

#[cfg(unix)]
#[test]
fn a_library_that_cannot_be_opened_is_named() {
    let made = MadeUpMachine::new()
        .with(&["own/lib/libcublas.so.13", "chosen/libcublas.so.13"])
        .set("CUDA_PATH", "own");
    // A library of the system would be found first.
    if library::cuda_library("cublas").is_err() {
        let error = library::find("cublas", &made.environment(), None).unwrap_err();
        let text = format!("{error} | {}", error.help().unwrap());
        for part in ["own/lib/libcublas.so.13", "'nvidia-cublas'", "'nvidia-cublas-cu12'", "QZO_CUBLAS"] {
            assert!(text.contains(part), "{text}");
        }
        let looked = format!("nor in {};", made.at("own/lib").display());
        assert!(text.contains(&looked), "{text}");
    }
    let made = made.set("QZO_CUBLAS", "chosen/libcublas.so.13");
    let error = library::find("cublas", &made.environment(), None).unwrap_err().to_string();
    let start = format!("QZO_CUBLAS names {}, which cannot", made.at("chosen/libcublas.so.13").display());
    assert!(error.starts_with(&start), "{error}");
}

#[test]
fn the_first_library_that_the_driver_can_work_with_is_taken() {
    let choose = |versions: &[(u32, u32)], driver: (u32, u32)| {
        let versions = versions.iter().map(|(major, minor)| version(*major, *minor));
        let fits = |found: &Version| driver_fits(version(driver.0, driver.1), "nvrtc", *found);
        library::first_that(versions, fits).map(|found| (found.major, found.minor))
    };
    assert_eq!(choose(&[(13, 1), (12, 9), (12, 4)], (12, 9)), Some((12, 9)));
    assert_eq!(choose(&[(13, 1), (12, 9), (12, 4)], (13, 1)), Some((13, 1)));
    assert_eq!(choose(&[(13, 1), (12, 9)], (12, 2)), Some((13, 1)));
    assert_eq!(choose(&[], (12, 2)), None);
}

#[test]
fn a_driver_works_with_older_ptx_and_with_machine_code_of_its_major_version() {
    let cases = [
        ("nvrtc", (13, 0), (13, 0), true),
        ("nvrtc", (13, 0), (12, 8), true),
        ("nvrtc", (13, 0), (13, 1), false),
        ("nvrtc", (12, 4), (12, 5), false),
        ("nvrtc", (12, 9), (12, 10), false),
        // Both write PTX 8.5.
        ("nvrtc", (12, 5), (12, 6), true),
        ("nvrtc", (12, 5), (12, 8), false),
        ("cublas", (13, 0), (13, 10), true),
        ("cublas", (12, 9), (13, 0), false),
    ];
    for (stem, driver, found, fits) in cases {
        let (driver, found) = (version(driver.0, driver.1), version(found.0, found.1));
        assert_eq!(driver_fits(driver, stem, found), fits, "{stem} {found} on a driver for {driver}");
    }
    assert_eq!(Version::from_number(12080), Some(version(12, 8)));
    assert_eq!(Version::from_number(13010), Some(version(13, 1)));
    assert_eq!(Version::from_number(0), None);
}

#[test]
fn the_advice_names_packages_that_the_driver_can_work_with() {
    let advice = |driver| library::advice("nvrtc", driver);
    assert!(advice(Some(version(13, 0))).contains("'nvidia-cuda-nvrtc<13.1'"));
    assert!(advice(Some(version(12, 4))).contains("'nvidia-cuda-nvrtc-cu12<12.5'"));
    assert!(advice(None).contains("'nvidia-cuda-nvrtc' (CUDA 13) or 'nvidia-cuda-nvrtc-cu12' (CUDA 12)"));
}

#[test]
fn versions_that_do_not_work_together_are_noted() {
    let fine = Versions {
        driver: Some(version(13, 0)),
        nvrtc: Some(version(13, 0)),
        cublas: Some(version(13, 2)),
        headers: Some(version(13, 0)),
    };
    assert_eq!(fine.notes(), Vec::<String>::new());
    assert_eq!(Versions::default().notes(), Vec::<String>::new());
    let old = Versions { driver: Some(version(12, 8)), ..fine }.notes();
    assert_eq!(old.len(), 2, "{old:?}");
    for part in ["NVRTC 13.0", "CUDA 12.8", "UNSUPPORTED_PTX_VERSION", "'nvidia-cuda-nvrtc-cu12<12.9'"] {
        assert!(old[0].contains(part), "{old:?}");
    }
    assert!(old[1].contains("cuBLAS 13.2") && old[1].contains("'nvidia-cublas-cu12<12.9'"), "{old:?}");
    let mixed = Versions { headers: Some(version(12, 6)), ..fine }.notes();
    assert!(mixed.len() == 1 && mixed[0].contains("the headers belong to CUDA 12.6"), "{mixed:?}");
}

#[test]
fn the_release_of_the_driver_is_read() {
    let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder)\nGCC version: gcc 13.3.0\n";
    assert_eq!(release_in(text).as_deref(), Some("580.95.05"));
    let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.223.02  Sat Oct  7 15:39:11 UTC 2023";
    assert_eq!(release_in(text).as_deref(), Some("470.223.02"));
    assert_eq!(release_in("something else\n1.2"), None);
}

const HEADERS: [&str; 4] =
    ["include/cuda_runtime.h", "include/cuda_fp16.h", "include/mma.h", "include/crt/mma.h"];

fn headers_in(folder: &str) -> Vec<String> {
    HEADERS.iter().map(|file| format!("{folder}/{file}")).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn headers_are_looked_for_where_cubecl_looks() {
    let root = |made: &MadeUpMachine| headers::root(&made.environment()).map(|root| made.relative(&root));
    // The first folder that exists counts, whatever it holds.
    let mut made = MadeUpMachine::new();
    assert_eq!(root(&made), None);
    made = made.with(&["usr/include/cuda_runtime.h"]);
    assert_eq!(root(&made), None, "without nvcc, /usr is no toolkit");
    for (file, expected) in
        [("usr/bin/nvcc", "usr"), ("opt/cuda/x", "opt/cuda"), ("usr/local/cuda/x", "usr/local/cuda")]
    {
        made = made.with(&[file]);
        assert_eq!(root(&made).as_deref(), Some(expected));
    }
    made = made.set("CUDA_PATH", "nowhere");
    assert_eq!(root(&made).as_deref(), Some("nowhere"));
    // An empty variable counts as set.
    made.variables.insert("CUDA_PATH".to_string(), String::new());
    assert_eq!(root(&made).as_deref(), Some(""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_toolkit_without_headers_is_named_and_replaced() {
    let site = "venv/lib/python3.11/site-packages/nvidia/cu13";
    let made =
        MadeUpMachine::new().with(&["usr/local/cuda/lib64/libnvrtc.so.13", "usr/local/cuda/include/mma.h"]);
    let better =
        |made: &MadeUpMachine| headers::better_root(&made.environment()).map(|root| made.relative(&root));
    let check = |made: &MadeUpMachine| {
        let answer = headers::check(&made.environment(), Some(version(13, 0)));
        answer.map_err(|error| format!("{error} | {}", error.help().unwrap()))
    };
    assert_eq!(better(&made), None);
    let error = check(&made).unwrap_err();
    for part in ["usr/local/cuda lacks", "include/crt/mma.h", "'nvidia-cuda-crt<13.1'", "CUDA_PATH"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("include/mma.h"), "{error}");
    let files = headers_in(site);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    // A wheel is missing.
    let made = made.with(&files[..3]).set("VIRTUAL_ENV", "venv");
    assert_eq!(better(&made), None);
    let made = made.with(&files);
    assert_eq!(better(&made).as_deref(), Some(site));
    assert!(check(&made).unwrap_err().contains(&format!("{site}, which has them")));
    // If cubecl's own choice has the headers, it stays.
    let files = headers_in("usr/local/cuda");
    let made = made.with(&files.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(better(&made), None);
    assert_eq!(made.relative(&check(&made).unwrap()), "usr/local/cuda");
}

#[test]
fn the_version_of_headers_is_read() {
    let made = MadeUpMachine::new();
    std::fs::create_dir(made.at("include")).unwrap();
    let text = "/** */\n#define CUDART_VERSION  13000\n#define CUDART_VERSION_OTHER x\n";
    std::fs::write(made.at("include/cuda_runtime_api.h"), text).unwrap();
    assert_eq!(headers::version(made.root.path()), Some(version(13, 0)));
    assert_eq!(headers::version(&made.at("elsewhere")), None);
}

/// The alias is for the C library. Its name must lead to the library's own functions.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn an_open_library_gets_another_name() {
    const NAME: &str = "libqzo-of-another-name.so";
    let open = || {
        // SAFETY: at most the alias is opened, which does nothing then.
        unsafe { libloading::Library::new(NAME) }
    };
    assert!(open().is_err());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.split_whitespace().find(|word| word.ends_with("/libc.so.6")).unwrap();
    alias::make(NAME, Path::new(libc)).unwrap();
    let library = open().unwrap();
    // SAFETY: the type of `getpid` in `unistd.h`.
    let pid = unsafe { library.get::<unsafe extern "C" fn() -> c_int>(b"getpid\0").unwrap()() };
    assert_eq!(pid, std::process::id() as c_int);
}

/// NVRTC from a Python package has no name that cudarc knows. cudarc must use it, and it must find its built-in
/// functions.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn cudarc_takes_the_nvrtc_that_was_found() {
    let Some(folder) = std::env::var_os("QZO_NVRTC") else {
        eprintln!("SKIPPED: QZO_NVRTC names no folder with NVRTC (scripts/checks/get_nvrtc.sh)");
        return;
    };
    // In a process of its own, in which no other test has made its own choice.
    if std::env::var_os("QZO_ALONE").is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", "device::cuda::tests::cudarc_takes_the_nvrtc_that_was_found"]);
        let answer = alone.env("QZO_ALONE", "1").output().unwrap();
        let text = String::from_utf8_lossy(&answer.stdout);
        assert!(answer.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let made = MadeUpMachine::new();
    let site = made.at("venv/lib/python3.11/site-packages");
    std::fs::create_dir_all(site.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&folder, &site).unwrap();
    let made = made.set("VIRTUAL_ENV", "venv");
    let found = library::find("nvrtc", &made.environment(), None).unwrap();
    alias::make(alias::NVRTC, &found.path).unwrap();

    // SAFETY: only tries to open the library by name.
    assert!(unsafe { cudarc::nvrtc::sys::is_culib_present() });
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there; the call writes two numbers.
    unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) }.result().unwrap();
    assert_eq!(found.version, Some(version(major as u32, minor as u32)));

    let root = headers::better_root(&made.environment()).unwrap();
    assert_eq!(headers::version(&root), found.version);
    let source =
        "#include <cuda_runtime.h>\n#include <mma.h>\nextern \"C\" __global__ void f(float *x) { *x = 1.f; }";
    let program = cudarc::nvrtc::result::create_program(&CString::new(source).unwrap(), None).unwrap();
    let options = [format!("--include-path={}/include", root.display()), "--gpu-architecture=sm_80".into()];
    // SAFETY: the program was just created.
    unsafe { cudarc::nvrtc::result::compile_program(program, &options) }.unwrap();
    // SAFETY: the same, and nothing uses it afterwards.
    unsafe { cudarc::nvrtc::result::destroy_program(program) }.unwrap();
}
