//! Finds NVRTC and cuBLAS wherever a toolkit or a Python package put them, and opens the first that the
//! driver can work with.

use std::ffi::{OsString, c_int};
use std::fmt;
use std::path::{Path, PathBuf};

use libloading::Library;

use super::places::{self, SearchEnvironment};
use crate::error::{Error, Result};

/// A version of CUDA or of one of its libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// Reads CUDA's own form: 12080 is 12.8.
    pub fn from_number(number: u32) -> Option<Self> {
        (number >= 1000).then_some(Self { major: number / 1000, minor: number % 1000 / 10 })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A library that was opened.
#[derive(Debug)]
pub struct CudaLibrary {
    /// "nvrtc" or "cublas".
    pub stem: &'static str,
    pub library: Library,
    /// The library's file if the system tells it; else the name by which it was opened.
    pub path: PathBuf,
    /// The version that the library reports.
    pub version: Option<Version>,
}

/// A library that qzo knows how to find.
struct KnownLibrary {
    stem: &'static str,
    /// The environment variable by which a user can name the file.
    variable: &'static str,
    /// The Python package with the library of CUDA 13 or later. That of CUDA 12 has `-cu12` at its end.
    package: &'static str,
}

const KNOWN: [KnownLibrary; 2] = [
    KnownLibrary { stem: "nvrtc", variable: "QZO_NVRTC_LIB", package: "nvidia-cuda-nvrtc" },
    KnownLibrary { stem: "cublas", variable: "QZO_CUBLAS", package: "nvidia-cublas" },
];

/// Opens `stem` ("nvrtc" or "cublas"): the file that `QZO_NVRTC_LIB` or `QZO_CUBLAS` names, if the variable is set; else
/// the first file that the driver works with, of those that the system's loader knows and those in toolkits and Python
/// packages; else the first of them. Each call searches again, so that the caller should keep the result.
///
/// # Errors
/// No such library, with the places that were searched; a named file that cannot be opened, with the reason.
pub fn cuda_library(stem: &str) -> Result<CudaLibrary> {
    find(stem, &SearchEnvironment::this(), driver_version())
}

/// The newest CUDA that the driver works with; `None` without a driver.
pub fn driver_version() -> Option<Version> {
    // SAFETY: only tries to open the driver's library by name.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return None;
    }
    let mut number: c_int = 0;
    // SAFETY: the library is there, and the call only writes the number.
    let status = unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut number) };
    let version = Version::from_number(u32::try_from(number).ok()?)?;
    (status == cudarc::driver::sys::CUresult::CUDA_SUCCESS).then_some(version)
}

/// Whether a driver works with a library of this version. A newer NVRTC writes PTX that the driver does not read (CUDA
/// 12.5 and 12.6 write the same). cuBLAS holds machine code, so that only its major version counts.
pub fn driver_fits(driver: Version, stem: &str, library: Version) -> bool {
    const SAME_PTX: [Version; 2] = [Version { major: 12, minor: 5 }, Version { major: 12, minor: 6 }];
    match stem {
        "nvrtc" => library <= driver || [driver, library] == SAME_PTX,
        _ => library.major <= driver.major,
    }
}

/// Advice on how to install a library that the driver works with.
pub fn advice(stem: &str, driver: Option<Version>) -> String {
    let Some(wanted) = KNOWN.iter().find(|wanted| wanted.stem == stem) else { return String::new() };
    let packages = packages(&[wanted.package], driver);
    format!(
        "install the CUDA toolkit, or the Python package {packages}, or name the file in {}",
        wanted.variable
    )
}

/// Python packages as arguments of pip, limited to versions that the driver works with.
pub fn packages(names: &[&str], driver: Option<Version>) -> String {
    let list = |ending: &str| listed(names, ending);
    match driver {
        None => format!("{} (CUDA 13) or {} (CUDA 12)", list(""), list("-cu12")),
        Some(Version { major, minor }) if major < 13 => list(&format!("-cu12<{major}.{}", minor + 1)),
        Some(Version { major, minor }) => list(&format!("<{major}.{}", minor + 1)),
    }
}

/// Names in quotes, each with the same ending.
pub fn listed(names: &[&str], ending: &str) -> String {
    names.iter().map(|name| format!("'{name}{ending}'")).collect::<Vec<_>>().join(" ")
}

/// Whether a variable names the file, so that its version is the user's choice.
pub fn is_chosen(stem: &str) -> bool {
    let named = |wanted: &KnownLibrary| {
        wanted.stem == stem && SearchEnvironment::this().folder(wanted.variable).is_some()
    };
    KNOWN.iter().any(named)
}

/// Searches `environment` as [`cuda_library`] searches that of this process.
pub(super) fn find(
    stem: &str,
    environment: &SearchEnvironment,
    driver: Option<Version>,
) -> Result<CudaLibrary> {
    let Some(wanted) = KNOWN.iter().find(|wanted| wanted.stem == stem) else {
        return Err(Error::internal(format!("no rule to find lib{stem}")));
    };
    if let Some(path) = environment.folder(wanted.variable) {
        return open(wanted.stem, &path).map(ready).map_err(|error| {
            let what =
                format!("{} names {}, which cannot be opened: {error}", wanted.variable, path.display());
            Error::device(what, format!("correct {}, or unset it to let qzo search", wanted.variable))
        });
    }
    let (files, looked) = candidates(stem, environment);
    let mut broken = Vec::new();
    let opened = files.iter().filter_map(|file| {
        let failed = |error: String| {
            // Names for the system's loader often fail.
            if file.components().count() > 1 {
                broken.push(error);
            }
        };
        open(wanted.stem, file).map_err(failed).ok()
    });
    let fits = |found: &CudaLibrary| {
        driver.zip(found.version).is_none_or(|(driver, version)| driver_fits(driver, stem, version))
    };
    let found = first_that(opened, fits);
    found.map(ready).ok_or_else(|| {
        let mut what = format!("lib{stem} was not found by the system's loader");
        if !looked.is_empty() {
            let looked: Vec<String> = looked.iter().map(|dir| dir.display().to_string()).collect();
            what += &format!(", nor in {}", looked.join(", "));
        }
        if !broken.is_empty() {
            what += &format!("; cannot be opened: {}", broken.join("; "));
        }
        Error::device(what, advice(stem, driver))
    })
}

/// The first that fits, else the first. Those after it are not looked at.
pub(super) fn first_that<T>(mut found: impl Iterator<Item = T>, fits: impl Fn(&T) -> bool) -> Option<T> {
    let first = found.next()?;
    if fits(&first) {
        return Some(first);
    }
    found.find(fits).or(Some(first))
}

/// File names for the system's loader, then files that exist; and the folders that were searched.
pub(super) fn candidates(stem: &str, environment: &SearchEnvironment) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let names = names(stem);
    let toolkits = environment.toolkits();
    let folders: Vec<PathBuf> =
        toolkits.iter().flat_map(|dir| places::library_folders(dir)).filter(|dir| dir.is_dir()).collect();
    let files = folders.iter().flat_map(|dir| names.iter().map(|name| dir.join(name)));
    let files: Vec<PathBuf> = files.filter(|file| file.is_file()).collect();
    (names.iter().map(PathBuf::from).chain(files).collect(), folders)
}

/// File names of a library, newest first. Only the folder of a toolkit has the name without a version.
fn names(stem: &str) -> Vec<OsString> {
    const MAJORS: [u32; 3] = [13, 12, 11];
    let numbered = MAJORS.map(|major| match (cfg!(windows), stem) {
        (true, "nvrtc") => format!("nvrtc64_{major}0_0.dll"),
        (true, _) => format!("{stem}64_{major}.dll"),
        (false, _) => format!("lib{stem}.so.{major}"),
    });
    let plain = (!cfg!(windows)).then(|| format!("lib{stem}.so"));
    numbered.into_iter().chain(plain).map(OsString::from).collect()
}

/// Opens one file. For libcublas, the library that it asks for by name is opened first, from the same folder.
fn open(stem: &'static str, file: &Path) -> Result<CudaLibrary, String> {
    if stem == "cublas" {
        let other = |file: &Path| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            file.with_file_name(name.replacen("cublas", "cublasLt", 1))
        };
        keep_open(&other(file));
    }
    // SAFETY: the initialisers of NVIDIA's libraries only set up their own state.
    let library = unsafe { Library::new(file) }.map_err(|error| {
        // The loader's message, which its wrapper leaves out.
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    })?;
    let (version, symbol): (_, &[u8]) = match stem {
        "nvrtc" => (nvrtc_version(&library), b"nvrtcVersion\0"),
        _ => (cublas_version(&library), b"cublasGetProperty\0"),
    };
    let path = path_of(&library, symbol, file);
    Ok(CudaLibrary { stem, library, path, version })
}

/// Opens the built-in functions of NVRTC, which it looks for by name when it first compiles.
fn ready(found: CudaLibrary) -> CudaLibrary {
    if let (Some(version), "nvrtc") = (found.version, found.stem) {
        let file = found.path.canonicalize().unwrap_or(found.path.clone());
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let base = name.split(".so").next().unwrap_or_default();
        let builtins = base.replacen("nvrtc", "nvrtc-builtins", 1);
        keep_open(&file.with_file_name(format!("{builtins}.so.{version}")));
    }
    found
}

/// Opens a library that another one will ask for by its name: the loader then takes the open one. It is never closed,
/// because the time of that request is not known.
fn keep_open(file: &Path) {
    // With a name alone, the loader finds both libraries or neither.
    if file.components().count() > 1 && file.is_file() {
        // SAFETY: the initialisers of NVIDIA's libraries only set up their own state.
        if let Ok(library) = unsafe { Library::new(file) } {
            std::mem::forget(library);
        }
    }
}

fn nvrtc_version(library: &Library) -> Option<Version> {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: the function's type in `nvrtc.h`; it writes two numbers.
    let status = unsafe {
        let get: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> =
            library.get(b"nvrtcVersion\0").ok()?;
        get(&mut major, &mut minor)
    };
    if status != 0 {
        return None;
    }
    Some(Version { major: u32::try_from(major).ok()?, minor: u32::try_from(minor).ok()? })
}

fn cublas_version(library: &Library) -> Option<Version> {
    // `libraryPropertyType` of `library_types.h`.
    const MAJOR: c_int = 0;
    const MINOR: c_int = 1;
    let property = |which: c_int| {
        let mut value: c_int = 0;
        // SAFETY: the function's type in `cublas_api.h`; it needs no handle and writes one number.
        let status = unsafe {
            let get: libloading::Symbol<'_, unsafe extern "C" fn(c_int, *mut c_int) -> c_int> =
                library.get(b"cublasGetProperty\0").ok()?;
            get(which, &mut value)
        };
        if status == 0 { u32::try_from(value).ok() } else { None }
    };
    Some(Version { major: property(MAJOR)?, minor: property(MINOR)? })
}

/// The file from which `symbol` was loaded; `name` if the system does not tell.
fn path_of(library: &Library, symbol: &[u8], name: &Path) -> PathBuf {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        // SAFETY: the symbol is not called, only its address is used; `dladdr` fills `info` or returns 0,
        // and the name it gives belongs to the library, which is open.
        let found = unsafe {
            let address =
                library.get::<unsafe extern "C" fn()>(symbol).ok().map(|f| *f as *const libc::c_void);
            let mut info: libc::Dl_info = std::mem::zeroed();
            address
                .filter(|address| libc::dladdr(*address, &mut info) != 0 && !info.dli_fname.is_null())
                .map(|_| std::ffi::CStr::from_ptr(info.dli_fname).to_bytes().to_vec())
        };
        if let Some(found) = found {
            return PathBuf::from(std::ffi::OsStr::from_bytes(&found));
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (library, symbol);
    name.to_path_buf()
}
