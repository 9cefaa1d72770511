//! Who a library is, readable from the file without running any of its code.
//!
//! A manifest is JSON behind a magic, in a section of its own: `.tcwmf` in ELF and PE files, `__DATA,__tcwmf` in
//! Mach-O. [`export_library!`](crate::export_library) writes it at compile time; it has no pointers, so it survives
//! link-time optimisation and stripping, and can be read on any machine.

use serde::{Deserialize, Serialize};

/// What a manifest starts with; the JSON follows.
pub const MAGIC: &[u8] = b"tcw-manifest-1\n";

/// The section in ELF and PE files.
pub const SECTION: &str = ".tcwmf";

/// The ABI family of this crate. `c` is reserved for libraries in other languages, with the symbol `tcw_library_v1`.
pub const FAMILY: &str = "rust";

/// The version of the ABI: the same as the crate's.
pub const ABI_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The compiler that this crate was built with.
pub const RUSTC: &str = env!("TCW_RUSTC");

/// The target that this crate was built for.
pub const TARGET: &str = env!("TCW_TARGET");

/// Who a library is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Lower-case letters, digits and hyphens.
    pub name: String,
    /// The library's own version.
    pub version: String,
    /// Who ships it.
    #[serde(default)]
    pub vendor: String,
    /// An SPDX expression.
    #[serde(default)]
    pub license: String,
    /// Whether it provides an engine, which has the library's name.
    #[serde(default)]
    pub engine: bool,
    /// The names of the plugins that it provides.
    #[serde(default)]
    pub plugins: Vec<String>,
    /// Which ABI it speaks.
    pub abi: Abi,
    /// The version of the SDK it was built with.
    #[serde(default)]
    pub sdk: String,
    /// The compiler it was built with.
    #[serde(default)]
    pub rustc: String,
    /// The target it was built for.
    pub target: String,
}

/// Which ABI a library speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abi {
    /// [`FAMILY`].
    pub family: String,
    /// Such as `1.0.0`.
    pub version: String,
}

impl Abi {
    /// The number before the first dot; `None` if there is none.
    pub fn major(&self) -> Option<u64> {
        self.version.split('.').next()?.parse().ok()
    }
}

/// Why the bytes of a section are not a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// They do not start with [`MAGIC`].
    Magic,
    /// What follows is not the JSON of a manifest.
    Json(String),
}

impl std::fmt::Display for ManifestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ManifestError::Magic => write!(f, "the section {SECTION} does not start with a manifest's magic"),
            ManifestError::Json(error) => write!(f, "the manifest is not what a manifest has to be: {error}"),
        }
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Reads the bytes of the section. Unknown keys are ignored: a newer SDK may write more. A linker may pad the
    /// section with zeros.
    pub fn parse(section: &[u8]) -> Result<Manifest, ManifestError> {
        let json = section.strip_prefix(MAGIC).ok_or(ManifestError::Magic)?;
        let end = json.iter().position(|byte| *byte == 0).unwrap_or(json.len());
        let manifest: Manifest =
            serde_json::from_slice(&json[..end]).map_err(|error| ManifestError::Json(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Names become keys, paths and lines on terminals; a manifest that was made by hand may hold anything.
    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |what: String| Err(ManifestError::Json(what));
        for (index, name) in std::iter::once(&self.name).chain(&self.plugins).enumerate() {
            if !text::is_name(name) {
                return wrong(format!(
                    "{name:?} is no name: lower-case letters, digits and hyphens"
                ));
            }
            if index > 0 && self.plugins[..index - 1].contains(name) {
                return wrong(format!("the plugin {name:?} stands there twice"));
            }
        }
        let texts = [
            &self.version,
            &self.vendor,
            &self.license,
            &self.abi.family,
            &self.abi.version,
            &self.sdk,
            &self.rustc,
            &self.target,
        ];
        match texts.into_iter().find(|text| text.chars().any(char::is_control)) {
            Some(text) => wrong(format!("{text:?} has control characters")),
            None => Ok(()),
        }
    }
}

/// Text made at compile time. Used by [`export_library!`](crate::export_library) only.
#[doc(hidden)]
pub mod text {
    /// A piece of a manifest.
    #[derive(Clone, Copy)]
    pub enum Piece {
        /// As it is.
        Raw(&'static str),
        /// Inside a JSON string: quotes, backslashes and control characters are escaped or left out.
        Escaped(&'static str),
    }

    const fn escapes(byte: u8) -> bool {
        byte == b'"' || byte == b'\\'
    }

    /// How long the pieces are together, behind the magic.
    pub const fn length(pieces: &[Piece]) -> usize {
        let mut total = super::MAGIC.len();
        let mut i = 0;
        while i < pieces.len() {
            match pieces[i] {
                Piece::Raw(text) => total += text.len(),
                Piece::Escaped(text) => {
                    let bytes = text.as_bytes();
                    let mut j = 0;
                    while j < bytes.len() {
                        if bytes[j] >= 0x20 {
                            total += if escapes(bytes[j]) { 2 } else { 1 };
                        }
                        j += 1;
                    }
                }
            }
            i += 1;
        }
        total
    }

    /// The magic and the pieces. `N` is their [`length`].
    pub const fn join<const N: usize>(pieces: &[Piece]) -> [u8; N] {
        let mut out = [0; N];
        let mut at = 0;
        while at < super::MAGIC.len() {
            out[at] = super::MAGIC[at];
            at += 1;
        }
        let mut i = 0;
        while i < pieces.len() {
            let (text, escape) = match pieces[i] {
                Piece::Raw(text) => (text, false),
                Piece::Escaped(text) => (text, true),
            };
            let bytes = text.as_bytes();
            let mut j = 0;
            while j < bytes.len() {
                if !escape || bytes[j] >= 0x20 {
                    if escape && escapes(bytes[j]) {
                        out[at] = b'\\';
                        at += 1;
                    }
                    out[at] = bytes[j];
                    at += 1;
                }
                j += 1;
            }
            i += 1;
        }
        assert!(at == N);
        out
    }

    /// Whether a name can be a library's or a plugin's: it is a configuration key and a part of paths.
    pub const fn is_name(name: &str) -> bool {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > 64 || !bytes[0].is_ascii_lowercase() {
            return false;
        }
        let mut i = 0;
        while i < bytes.len() {
            if !(bytes[i].is_ascii_lowercase() || bytes[i].is_ascii_digit() || bytes[i] == b'-') {
                return false;
            }
            i += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::text::{Piece, is_name, join, length};
    use super::*;

    const PIECES: &[Piece] = &[
        Piece::Raw(
            "{\"name\":\"x\",\"version\":\"1\",\"target\":\"t\",\"abi\":{\"family\":\"rust\",\"version\":\"1.2.3\"},\"vendor\":\"",
        ),
        Piece::Escaped("A \"quoted\" \\ name\n"),
        Piece::Raw("\"}"),
    ];
    static BYTES: [u8; length(PIECES)] = join(PIECES);

    #[test]
    fn what_is_joined_at_compile_time_can_be_parsed() {
        let manifest = Manifest::parse(&BYTES).unwrap();
        assert_eq!(manifest.vendor, "A \"quoted\" \\ name");
        assert_eq!(manifest.abi.major(), Some(1));
        assert!(!manifest.engine);
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(Manifest::parse(b"{}"), Err(ManifestError::Magic));
        assert!(matches!(
            Manifest::parse(b"tcw-manifest-1\n{\"name\":1}"),
            Err(ManifestError::Json(_))
        ));
    }

    #[test]
    fn names_and_texts_that_would_do_harm_are_refused() {
        let made = |name: &str, plugins: &str, vendor: &str| {
            let json = format!(
                "tcw-manifest-1\n{{\"name\":\"{name}\",\"version\":\"1\",\"target\":\"t\",\"plugins\":[{plugins}],\
                 \"vendor\":\"{vendor}\",\"abi\":{{\"family\":\"rust\",\"version\":\"1.0.0\"}}}}"
            );
            Manifest::parse(json.as_bytes()).map(|manifest| manifest.name)
        };
        assert_eq!(made("a-b", "\"x\",\"y\"", "V"), Ok("a-b".to_owned()));
        let harmful = [
            ("../x", "", "V"),
            ("a.b", "", "V"),
            ("a", "\"x\",\"x\"", "V"),
            ("a", "\"X\"", "V"),
            ("a", "", "\\u001b[2J"),
        ];
        for (name, plugins, vendor) in harmful {
            let answer = made(name, plugins, vendor);
            assert!(
                matches!(answer, Err(ManifestError::Json(_))),
                "{name} {plugins} {vendor}: {answer:?}"
            );
        }
    }

    #[test]
    fn names_are_plain() {
        assert!(is_name("task-log") && is_name("a1"));
        assert!(!is_name("") && !is_name("A") && !is_name("1a") && !is_name("a_b") && !is_name("../x"));
    }
}
