//! What the tests through real libraries share: where `tests/run.sh` (or cargo) built them.
#![expect(dead_code, reason = "every test file uses a part of it")]

pub(crate) mod cli;

use std::path::{Path, PathBuf};

/// The directory with this build's libraries: `target/debug` or `target/release`.
pub(crate) fn build_directory() -> PathBuf {
    let executable = std::env::current_exe().expect("a test knows its own path");
    executable
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<test>")
        .to_owned()
}

pub(crate) fn existing(path: PathBuf, command: &str) -> PathBuf {
    assert!(
        path.exists(),
        "{} is not built: run {command}, or tests/run.sh, which does",
        path.display()
    );
    path
}

/// A library of this workspace, such as `native_engine`.
pub(crate) fn library(name: &str) -> PathBuf {
    existing(
        build_directory().join(format!("lib{name}.so")),
        "cargo build --workspace",
    )
}

/// A library of `examples/vendor`, built as a workspace of its own.
pub(crate) fn vendor_library(package: &str, name: &str) -> PathBuf {
    let target = build_directory().parent().expect("target").join("vendor");
    existing(
        target.join(format!("debug/lib{name}.so")),
        &format!(
            "cargo build --manifest-path examples/vendor/{package}/Cargo.toml --target-dir {}",
            target.display()
        ),
    )
}

/// Copies a library, with the bytes `from` replaced by `to` (equally long) wherever they stand.
pub(crate) fn patched(source: &Path, target: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(source).expect("the library can be read");
    let mut replaced = 0;
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|window| window == from) {
        bytes[at + found..at + found + to.len()].copy_from_slice(to);
        at += found + to.len();
        replaced += 1;
    }
    assert!(
        replaced > 0,
        "{:?} is not in {}",
        String::from_utf8_lossy(from),
        source.display()
    );
    std::fs::write(target, bytes).expect("the copy can be written");
}
