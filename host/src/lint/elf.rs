//! What an ELF file is made of, as far as the rules ask for it. Hostile input: everything goes through `object`.

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Sym};
use object::{Endianness, Object, ObjectSection};

/// What the rules ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Names of the dynamic symbols that others can use.
    pub(super) exports: Vec<String>,
    /// Names of the dynamic symbols that it needs, with the version they are asked for in, such as `GLIBC_2.34`.
    pub(super) imports: Vec<(String, Option<String>)>,
    pub(super) needed: Vec<String>,
    /// The search path, with what it is called in the file.
    pub(super) search: Vec<(&'static str, String)>,
    /// Functions that run when it is loaded.
    pub(super) constructors: u64,
    /// Functions that run when the process ends.
    pub(super) destructors: u64,
    pub(super) executable_stack: bool,
    pub(super) writable_code: bool,
    pub(super) text_relocations: bool,
    /// Bytes of sections with debug information.
    pub(super) debug_bytes: u64,
    /// Whether it has a table of its inner symbols.
    pub(super) symbol_table: bool,
}

/// Reads a file of 64 bits; others are refused before this.
pub(super) fn facts(bytes: &[u8]) -> Result<Facts, String> {
    read(bytes).map_err(|error| error.to_string())
}

fn read(bytes: &[u8]) -> Result<Facts, object::Error> {
    let mut facts = Facts::default();
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    // Where nothing is said about the stack, the kernel makes it executable.
    facts.executable_stack = true;
    for segment in header.program_headers(endian, bytes)? {
        let flags = segment.p_flags(endian);
        let executable = flags.0 & elf::PF_X.0 != 0;
        match segment.p_type(endian) {
            elf::PT_GNU_STACK => facts.executable_stack = executable,
            elf::PT_LOAD => facts.writable_code |= executable && flags.0 & elf::PF_W.0 != 0,
            _ => {}
        }
    }
    let sections = header.sections(endian, bytes)?;
    if let Some((entries, strings)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, strings)?;
        let text = |entry: &elf::Dyn64<Endianness>| {
            let text = entry.string(endian, strings)?;
            Ok::<_, object::Error>(String::from_utf8_lossy(text).into_owned())
        };
        for entry in entries {
            let value = entry.d_val(endian);
            match entry.tag(endian) {
                elf::DT_NEEDED => facts.needed.push(text(entry)?),
                elf::DT_RPATH => facts.search.push(("RPATH", text(entry)?)),
                elf::DT_RUNPATH => facts.search.push(("RUNPATH", text(entry)?)),
                elf::DT_TEXTREL => facts.text_relocations = true,
                elf::DT_FLAGS => facts.text_relocations |= value & elf::DF_TEXTREL.0 != 0,
                elf::DT_INIT_ARRAYSZ => facts.constructors = value / 8,
                elf::DT_FINI_ARRAYSZ => facts.destructors = value / 8,
                _ => {}
            }
        }
    }
    let versions = sections.versions(endian, bytes)?;
    let symbols = sections.symbols(endian, bytes, elf::SHT_DYNSYM)?;
    for (index, symbol) in symbols.enumerate() {
        let name = String::from_utf8_lossy(symbol.name(endian, symbols.strings())?).into_owned();
        if name.is_empty() {
            continue;
        }
        if symbol.is_undefined(endian) {
            let version = versions.as_ref().and_then(|versions| {
                let index = versions.version_index(endian, index).index();
                let version = versions.version(index).ok()??;
                Some(String::from_utf8_lossy(version.name()).into_owned())
            });
            facts.imports.push((name, version));
        } else if symbol.st_bind() != elf::STB_LOCAL && symbol.st_visibility() != elf::STV_HIDDEN {
            facts.exports.push(name);
        }
    }
    let file = object::File::parse(bytes)?;
    for section in file.sections() {
        let name = section.name().unwrap_or_default();
        if name.starts_with(".debug_") || name.starts_with(".zdebug_") {
            facts.debug_bytes += section.size();
        }
        facts.symbol_table |= name == ".symtab";
    }
    Ok(facts)
}
