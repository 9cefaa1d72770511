//! What follows from the file alone.

use std::path::Path;

use tcw_abi::host::ROOT_SYMBOL;

use super::elf::Facts;
use super::{Findings, Level, Limits};
use crate::library::Inspection;
use crate::library::find::Found;

/// What every machine with a C library of GNU has, under the same names: the C library itself and the compiler's.
const SYSTEM: &[&str] = &[
    "ld-linux-aarch64.so.1",
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
];

/// The compiler's own, and that of Rust's standard library, which remembers the arguments of the process.
const USUAL_CONSTRUCTORS: u64 = 2;

/// The compiler's own.
const USUAL_DESTRUCTORS: u64 = 1;

/// A library above this has something in it that nobody meant to ship.
const LARGE: u64 = 16 << 20;

/// Calls with which a library changes what the whole worker shares. Rust's standard library imports some of them
/// for what is never called, so the import alone proves nothing.
const SHARED: &[(&str, &[&str])] = &[
    (
        "signal handlers are the host's",
        &["bsd_signal", "sigaction", "signal", "sigset", "sysv_signal"],
    ),
    (
        "the working directory is the process's",
        &["chdir", "chroot", "fchdir"],
    ),
    ("the umask is the process's", &["umask"]),
    (
        "the environment is the process's",
        &["clearenv", "putenv", "setenv", "unsetenv"],
    ),
    (
        "only the host ends the process",
        &["_Exit", "_exit", "exit", "quick_exit"],
    ),
    (
        "a fork of a process with threads may only call exec",
        &["daemon", "fork", "system", "vfork"],
    ),
    (
        "whose process it is, is the host's",
        &[
            "setegid",
            "seteuid",
            "setgid",
            "setgroups",
            "setregid",
            "setresgid",
            "setresuid",
            "setreuid",
            "setuid",
        ],
    ),
    ("the locale is the process's", &["setlocale"]),
    ("stdout is the host's", &["printf", "puts", "putchar", "vprintf"]),
];

pub(super) fn judge(
    found: &Found,
    inspection: &Inspection,
    facts: &Facts,
    limits: Limits,
    findings: &mut Findings,
) {
    manifest(inspection, findings);
    exports(facts, findings);
    panics(facts, findings);
    size(inspection, facts, limits, findings);
    glibc(inspection, facts, limits, findings);
    needed(found, facts, findings);
    memory(facts, findings);
    constructors(facts, findings);
    shared(facts, findings);
}

fn manifest(inspection: &Inspection, findings: &mut Findings) {
    let manifest = &inspection.manifest;
    for (what, value, remedy) in [
        ("vendor", &manifest.vendor, "`authors` in Cargo.toml"),
        ("licence", &manifest.license, "`license` in Cargo.toml"),
        ("version", &manifest.version, "`version` in Cargo.toml"),
    ] {
        if value.trim().is_empty() {
            let text = format!("the manifest says no {what}; it is taken from {remedy}");
            findings.add(Level::Warning, "manifest", text);
        }
    }
    if manifest.version == "0.0.0" {
        let text = "the version is 0.0.0, so operators cannot tell one build from another";
        findings.add(Level::Warning, "manifest", text);
    }
    if !manifest.engine && manifest.plugins.is_empty() {
        findings.add(
            Level::Error,
            "manifest",
            "it provides neither an engine nor a plugin",
        );
    }
}

fn exports(facts: &Facts, findings: &mut Findings) {
    if !facts.exports.iter().any(|name| name == ROOT_SYMBOL) {
        let text =
            format!("it does not export {ROOT_SYMBOL}; build it as a cdylib with tcw_abi::export_library!");
        findings.add(Level::Error, "exports", text);
    }
    let others: Vec<&str> = facts
        .exports
        .iter()
        .map(String::as_str)
        .filter(|name| *name != ROOT_SYMBOL)
        .collect();
    if !others.is_empty() {
        let text = format!(
            "it exports more than it has to: {}. Keep them inside (no #[no_mangle]; C code with \
             -fvisibility=hidden)",
            some(&others)
        );
        findings.add(Level::Warning, "exports", text);
    }
}

fn panics(facts: &Facts, findings: &mut Findings) {
    // Nothing else raises in a Rust library, and what aborts instead does not link it. This survives stripping.
    let raises = facts
        .imports
        .iter()
        .map(|(name, _)| name)
        .chain(&facts.exports)
        .any(|name| name == "_Unwind_RaiseException");
    if !raises {
        let text = "it does not import _Unwind_RaiseException: it was built with panic = \"abort\", so one panic ends the \
                    whole worker. Build it with panic = \"unwind\"";
        findings.add(Level::Error, "panic", text);
    }
}

fn size(inspection: &Inspection, facts: &Facts, limits: Limits, findings: &mut Findings) {
    let size = inspection.size;
    match limits.size {
        Some(limit) if size > limit => {
            let text = format!(
                "it has {}, more than the {} that are allowed",
                bytes(size),
                bytes(limit)
            );
            findings.add(Level::Error, "size", text);
        }
        None if size > LARGE => {
            let text = format!("it has {}; strip it, and build it with LTO", bytes(size));
            findings.add(Level::Warning, "size", text);
        }
        _ => findings.add(Level::Note, "size", bytes(size)),
    }
    if facts.debug_bytes > 0 {
        let text = format!(
            "{} of it are debug information; `strip = true` in the release profile removes it",
            bytes(facts.debug_bytes)
        );
        findings.add(Level::Warning, "stripped", text);
    } else if facts.symbol_table {
        let text = "it has a table of its inner symbols, which only a debugger needs";
        findings.add(Level::Note, "stripped", text);
    }
}

fn glibc(inspection: &Inspection, facts: &Facts, limits: Limits, findings: &mut Findings) {
    let Some(needed) = inspection.glibc else {
        findings.add(Level::Note, "glibc", "it needs no version of GLIBC by name");
        return;
    };
    let name = format!("GLIBC_{needed}");
    let newest: Vec<&str> = facts
        .imports
        .iter()
        .filter(|(_, version)| version.as_deref() == Some(&name))
        .map(|(name, _)| name.as_str())
        .collect();
    match limits.glibc {
        Some(limit) if needed > limit => {
            let text = format!(
                "it needs GLIBC {needed}, newer than {limit}, for {}; build it on an older system",
                some(&newest)
            );
            findings.add(Level::Error, "glibc", text);
        }
        _ => {
            let text = format!("it needs GLIBC {needed} or newer, for {}", some(&newest));
            findings.add(Level::Note, "glibc", text);
        }
    }
}

fn needed(found: &Found, facts: &Facts, findings: &mut Findings) {
    let entries = || {
        facts
            .search
            .iter()
            .flat_map(|(kind, path)| path.split(':').map(move |entry| (kind, entry)))
    };
    let relative = |entry: &str| {
        ["$ORIGIN", "${ORIGIN}"]
            .iter()
            .any(|origin| entry == *origin || entry.starts_with(&format!("{origin}/")))
    };
    for (kind, entry) in entries().filter(|(_, entry)| !relative(entry)) {
        let text = format!(
            "its {kind} has '{entry}': whoever can write there puts code into the worker. Only $ORIGIN, the library's \
             own directory, belongs there"
        );
        findings.add(Level::Error, "search-path", text);
    }
    let finds_companions = entries().any(|(_, entry)| relative(entry));
    for name in facts
        .needed
        .iter()
        .filter(|name| !SYSTEM.contains(&name.as_str()))
    {
        let companion = found
            .directory
            .as_deref()
            .is_some_and(|directory| is_file_in(directory, name));
        match (companion, finds_companions) {
            (true, true) => {
                let text = format!("it needs {name}, which is shipped with it");
                findings.add(Level::Note, "needed", text);
            }
            (true, false) => {
                let text = format!(
                    "it needs {name}, which lies beside it and is not found there: link it with -Wl,-rpath,'$ORIGIN'"
                );
                findings.add(Level::Error, "needed", text);
            }
            (false, _) => {
                let text = format!(
                    "it needs {name}, which not every machine has: link it statically, or ship it in one directory \
                     with the library"
                );
                findings.add(Level::Warning, "needed", text);
            }
        }
    }
}

fn is_file_in(directory: &Path, name: &str) -> bool {
    // A name with a slash is a path of its own.
    !name.contains('/') && directory.join(name).is_file()
}

fn memory(facts: &Facts, findings: &mut Findings) {
    if facts.executable_stack {
        let text = "it asks for an executable stack, for the whole worker. An object of assembler without \
                    .note.GNU-stack is the usual reason; link with -Wl,-z,noexecstack";
        findings.add(Level::Error, "memory", text);
    }
    if facts.text_relocations {
        let text = "its code has to be changed when it is loaded (TEXTREL): compile all of it with -fPIC";
        findings.add(Level::Error, "memory", text);
    }
    if facts.writable_code {
        findings.add(
            Level::Error,
            "memory",
            "it has a segment that is writable and executable",
        );
    }
}

fn constructors(facts: &Facts, findings: &mut Findings) {
    if facts.constructors > USUAL_CONSTRUCTORS {
        let text = format!(
            "{} functions of its own run when it is loaded, before anything about it is checked and outside of every \
             fence: crates such as `ctor`, or C++ objects with static storage",
            facts.constructors - USUAL_CONSTRUCTORS
        );
        findings.add(Level::Warning, "constructors", text);
    }
    if facts.destructors > USUAL_DESTRUCTORS {
        let text = format!(
            "{} functions of its own run when the process ends, while its threads still run",
            facts.destructors - USUAL_DESTRUCTORS
        );
        findings.add(Level::Warning, "constructors", text);
    }
}

fn shared(facts: &Facts, findings: &mut Findings) {
    for (rule, names) in SHARED {
        let used: Vec<&str> = facts
            .imports
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| names.contains(name))
            .collect();
        if !used.is_empty() {
            let text = format!(
                "it imports {}: {rule}. Rust's standard library may be why, and may never call it",
                some(&used)
            );
            findings.add(Level::Note, "shared-state", text);
        }
    }
}

/// The first few of a list.
fn some(names: &[&str]) -> String {
    const MOST: usize = 8;
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(MOST);
    let mut text = names[..names.len() - more].join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}

fn bytes(size: u64) -> String {
    if size < 1 << 20 {
        format!("{:.1} KiB", size as f64 / 1024.0)
    } else {
        format!("{:.1} MiB", size as f64 / f64::from(1 << 20))
    }
}
