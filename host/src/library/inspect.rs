//! What a file says about itself, without running any of its code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use object::{Architecture, BinaryFormat, Object, ObjectSection, ObjectSymbol};
use tcw_abi::manifest::{ABI_VERSION, FAMILY, MAGIC, Manifest, ManifestError, TARGET};

use super::{LibraryError, verify};

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// Who it is.
    pub manifest: Manifest,
    /// Such as `ELF x86_64`.
    pub format: String,
    /// The newest `GLIBC_…` that it needs; `None` if it needs none by name.
    pub glibc: Option<Version>,
    /// The libraries that it needs.
    pub needed: Vec<String>,
    /// Bytes.
    pub size: u64,
    machine: bool,
}

/// Two numbers with a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl std::str::FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().map_err(|_| ()));
        Ok(Version(parts.next().ok_or(())??, parts.next().unwrap_or(Ok(0))?))
    }
}

const NOT_A_LIBRARY: &str = "give a library that was built with tcw-abi, such as libnative_engine.so";

/// Reads what a file says about itself.
pub fn inspect(path: &Path, bytes: &[u8]) -> Result<Inspection, LibraryError> {
    let file = object::File::parse(bytes).map_err(|error| {
        let what = if bytes.is_empty() {
            "it is empty".to_owned()
        } else {
            format!("it is not a dynamic library: {error}")
        };
        LibraryError::new(path, what, NOT_A_LIBRARY)
    })?;
    let Some(section) = manifest_section(&file) else {
        return Err(LibraryError::new(
            path,
            "it is a dynamic library without a tcw manifest",
            "build it with tcw_abi::export_library!, or give another file",
        ));
    };
    let manifest = Manifest::parse(&section).map_err(|error: ManifestError| {
        LibraryError::new(
            path,
            error.to_string(),
            "the file is damaged or was made by hand: get it again from its vendor",
        )
    })?;
    let mut needed: Vec<String> = Vec::new();
    if let Ok(imports) = needed_libraries(bytes) {
        needed = imports;
    }
    Ok(Inspection {
        path: path.to_owned(),
        glibc: glibc_ceiling(&file),
        needed,
        format: format!("{:?} {}", file.format(), architecture(file.architecture())),
        size: bytes.len() as u64,
        machine: file.architecture() == native_architecture()
            && file.format() == BinaryFormat::native_object(),
        manifest,
    })
}

/// Reads a file and what it says about itself.
pub fn inspect_file(path: &Path) -> Result<Inspection, LibraryError> {
    let found = super::find::library(path)?;
    let (mut file, metadata) = verify::open_plain(&found.main)?;
    inspect(&found.main, &verify::bytes(&mut file, &found.main, &metadata)?)
}

/// Whether a file has a manifest at all.
pub(super) fn has_manifest(path: &Path) -> bool {
    let read =
        verify::open_plain(path).and_then(|(mut file, metadata)| verify::bytes(&mut file, path, &metadata));
    let Ok(bytes) = read else { return false };
    object::File::parse(&*bytes).is_ok_and(|file| manifest_section(&file).is_some())
}

impl Inspection {
    /// Refuses what this host cannot run: another family, major version, target, or a newer GLIBC.
    pub fn refuse_foreign(&self) -> Result<(), LibraryError> {
        let refuse = |found: String, remedy: String| Err(LibraryError::new(&self.path, found, remedy));
        let manifest = &self.manifest;
        if !self.machine || manifest.target != TARGET {
            return refuse(
                format!(
                    "it was built for {} ({}), and this host runs on {TARGET}",
                    manifest.target, self.format
                ),
                format!("get {} {} for {TARGET}", manifest.name, manifest.version),
            );
        }
        if manifest.abi.family != FAMILY {
            return refuse(
                format!(
                    "it speaks the ABI family '{}', and this host speaks '{FAMILY}'",
                    manifest.abi.family
                ),
                "use a host that knows this family, or a build of the library for tcw-abi 1.x".to_owned(),
            );
        }
        let ours = ABI_VERSION
            .split('.')
            .next()
            .and_then(|major| major.parse::<u64>().ok());
        if manifest.abi.major() != ours {
            return refuse(
                format!(
                    "it speaks version {} of the tcw ABI, and this host speaks {ABI_VERSION}",
                    manifest.abi.version
                ),
                if manifest.abi.major() > ours {
                    format!("update tcw-host, or get a build of {} for ABI 1.x", manifest.name)
                } else {
                    format!("get a newer build of {}", manifest.name)
                },
            );
        }
        if let (Some(needed), Some(here)) = (self.glibc, super::open::glibc_of_this_machine())
            && needed > here
        {
            return refuse(
                format!("it needs GLIBC {needed}, and this machine has {here}"),
                format!(
                    "use a newer system, or a build of {} for an older GLIBC",
                    manifest.name
                ),
            );
        }
        Ok(())
    }
}

fn manifest_section(file: &object::File<'_>) -> Option<Vec<u8>> {
    let section = file
        .section_by_name(tcw_abi::manifest::SECTION)
        .or_else(|| file.section_by_name("__tcwmf"))?;
    let data = section.data().ok()?;
    // Anything but a manifest in a section of that name is reported as such by the parser.
    Some(if data.is_empty() {
        MAGIC[..1].to_vec()
    } else {
        data.to_vec()
    })
}

fn glibc_ceiling(file: &object::File<'_>) -> Option<Version> {
    let object::File::Elf64(elf) = file else {
        return None;
    };
    let versions = elf
        .elf_section_table()
        .versions(object::Endianness::default(), elf.data())
        .ok()??;
    let mut newest = None;
    for symbol in file.dynamic_symbols().filter(ObjectSymbol::is_undefined) {
        let index = versions.version_index(object::Endianness::default(), symbol.index());
        if let Ok(Some(version)) = versions.version(index.index())
            && let Some(number) = version.name().strip_prefix(b"GLIBC_")
            && let Ok(number) = String::from_utf8_lossy(number).parse::<Version>()
        {
            newest = newest.max(Some(number));
        }
    }
    newest
}

fn needed_libraries(bytes: &[u8]) -> Result<Vec<String>, object::Error> {
    use object::read::elf::{Dyn, FileHeader};
    let header = object::elf::FileHeader64::<object::Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let mut needed = BTreeSet::new();
    if let Some((entries, strings)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, strings)?;
        for entry in entries {
            if entry.tag(endian) == object::elf::DT_NEEDED {
                needed.insert(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
            }
        }
    }
    Ok(needed.into_iter().collect())
}

fn architecture(architecture: Architecture) -> String {
    format!("{architecture:?}").to_lowercase()
}

fn native_architecture() -> Architecture {
    if cfg!(target_arch = "x86_64") {
        Architecture::X86_64
    } else if cfg!(target_arch = "aarch64") {
        Architecture::Aarch64
    } else {
        Architecture::Unknown
    }
}
