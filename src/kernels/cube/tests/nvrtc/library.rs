//! NVIDIA's run-time compiler, opened by name (NVRTC API, `nvrtc.h` of the CUDA toolkit).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::{Library, Symbol};

type Program = *mut c_void;
type CText = *const c_char;

pub struct Nvrtc {
    library: Library,
    /// NVRTC looks for its built-in functions by name only, so they have to be open already.
    _builtins: Option<Library>,
    include: Vec<PathBuf>,
}

impl Nvrtc {
    /// Opens the library in the folder that `QZO_NVRTC` names (see `scripts/checks/get_nvrtc.sh`), else in the CUDA toolkit.
    pub fn open() -> Result<Self, String> {
        let roots: Vec<PathBuf> = match std::env::var_os("QZO_NVRTC") {
            Some(dir) => entries(&Path::new(&dir).join("nvidia")).collect(),
            None => vec![std::env::var_os("CUDA_PATH").unwrap_or("/usr/local/cuda".into()).into()],
        };
        let files: Vec<PathBuf> = roots
            .iter()
            .flat_map(|root| [root.join("lib"), root.join("lib64")])
            .flat_map(|lib| entries(&lib).collect::<Vec<_>>())
            .collect();
        let find = |prefix: &str| {
            let named = |path: &&PathBuf| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            };
            files.iter().find(named)
        };
        let path = find("libnvrtc.so")
            .ok_or("libnvrtc was not found (set QZO_NVRTC, see scripts/checks/get_nvrtc.sh)")?;
        let open = |path: &PathBuf| {
            // SAFETY: the initialisers of NVIDIA's compiler libraries only set up their own state.
            let library = unsafe { Library::new(path) };
            library.map_err(|error| format!("{}: {error}", path.display()))
        };
        let builtins = find("libnvrtc-builtins.so").map(open).transpose()?;
        let include = roots.iter().flat_map(|root| [root.join("include"), root.join("include/cccl")]);
        Ok(Self {
            library: open(path)?,
            _builtins: builtins,
            include: include.filter(|dir| dir.exists()).collect(),
        })
    }

    /// Compiles to machine code with cubecl's options; an error is the compiler's log.
    pub fn compile(&self, source: &str, architecture: u16) -> Result<(), String> {
        let suffix = if architecture >= 90 { "a" } else { "" };
        let mut options = vec![format!("--gpu-architecture=sm_{architecture}{suffix}"), "-lineinfo".into()];
        options.extend(self.include.iter().map(|dir| format!("--include-path={}", dir.display())));
        let options: Vec<CString> = options.into_iter().map(c_string).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let source = c_string(source.to_string())?;
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the types are those of `nvrtc.h`; every pointer is to something that outlives the calls,
        // with the counts given, and the log's buffer has the size that NVRTC asked for.
        unsafe {
            type Create =
                unsafe extern "C" fn(*mut Program, CText, CText, c_int, *const CText, *const CText) -> c_int;
            let create: Symbol<'_, Create> = self.symbol("nvrtcCreateProgram")?;
            let none = std::ptr::null();
            if create(&mut program, source.as_ptr(), none, 0, none.cast(), none.cast()) != 0 {
                return Err("nvrtcCreateProgram failed".into());
            }
            let compile: Symbol<'_, unsafe extern "C" fn(Program, c_int, *const CText) -> c_int> =
                self.symbol("nvrtcCompileProgram")?;
            let status = compile(program, pointers.len() as c_int, pointers.as_ptr());
            let size_of_log: Symbol<'_, unsafe extern "C" fn(Program, *mut usize) -> c_int> =
                self.symbol("nvrtcGetProgramLogSize")?;
            let get_log: Symbol<'_, unsafe extern "C" fn(Program, *mut c_char) -> c_int> =
                self.symbol("nvrtcGetProgramLog")?;
            let mut size = 0;
            size_of_log(program, &mut size);
            let mut log = vec![0u8; size + 1];
            get_log(program, log.as_mut_ptr().cast());
            let destroy: Symbol<'_, unsafe extern "C" fn(*mut Program) -> c_int> =
                self.symbol("nvrtcDestroyProgram")?;
            destroy(&mut program);
            let log =
                CStr::from_bytes_until_nul(&log).map_or(String::new(), |log| log.to_string_lossy().into());
            if status == 0 { Ok(()) } else { Err(log) }
        }
    }

    /// Looks up a function.
    ///
    /// # Safety
    /// `T` must be the function's type.
    unsafe fn symbol<T>(&self, name: &str) -> Result<Symbol<'_, T>, String> {
        // SAFETY: by this function's contract.
        unsafe { self.library.get(name) }.map_err(|error| error.to_string())
    }
}

fn c_string(text: String) -> Result<CString, String> {
    CString::new(text).map_err(|error| error.to_string())
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}
