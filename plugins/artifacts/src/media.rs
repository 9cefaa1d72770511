//! What an extension says about a file: its content type, and whether compressing it again is a waste.

/// What is compressed already: generic-worker's list.
const COMPRESSED: &[&str] = &[
    "7z", "aab", "apk", "br", "bz2", "deb", "dmg", "flv", "gif", "gz", "jar", "jpeg", "jpg", "lz", "lz4",
    "mz", "npz", "pkg", "png", "swf", "sz", "tbz", "tgz", "wasm", "webp", "whl", "woff", "woff2", "xpi",
    "xz", "zip", "zst", "zz",
];

/// The types of what builds and tests leave. The same everywhere: a machine's own table would make the type of an
/// artifact depend on the worker.
const TYPES: &[(&str, &str)] = &[
    ("7z", "application/x-7z-compressed"),
    ("apk", "application/vnd.android.package-archive"),
    ("avif", "image/avif"),
    ("br", "application/x-brotli"),
    ("bz2", "application/x-bzip2"),
    ("c", "text/plain; charset=utf-8"),
    ("cfg", "text/plain; charset=utf-8"),
    ("conf", "text/plain; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("deb", "application/vnd.debian.binary-package"),
    ("diff", "text/x-diff; charset=utf-8"),
    ("dmg", "application/x-apple-diskimage"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("h", "text/plain; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/vnd.microsoft.icon"),
    ("ini", "text/plain; charset=utf-8"),
    ("jar", "application/java-archive"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonl", "application/jsonl"),
    ("log", "text/plain"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("msi", "application/x-msi"),
    ("otf", "font/otf"),
    ("patch", "text/x-diff; charset=utf-8"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("py", "text/x-python; charset=utf-8"),
    ("rpm", "application/x-rpm"),
    ("rst", "text/x-rst; charset=utf-8"),
    ("sh", "application/x-sh"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tgz", "application/gzip"),
    ("toml", "application/toml"),
    ("tsv", "text/tab-separated-values; charset=utf-8"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xml", "text/xml; charset=utf-8"),
    ("xpi", "application/x-xpinstall"),
    ("xz", "application/x-xz"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

/// The content type of the file at `path`, published as `name`.
pub(crate) fn content_type(path: &str, name: &str) -> &'static str {
    [path, name]
        .iter()
        .filter_map(|place| extension(place))
        .find_map(|extension| {
            let row = TYPES.binary_search_by(|(known, _)| (*known).cmp(extension.as_str()));
            row.ok().map(|row| TYPES[row].1)
        })
        .unwrap_or("application/octet-stream")
}

/// Whether the file at `path` is compressed already.
pub(crate) fn is_compressed(path: &str) -> bool {
    extension(path).is_some_and(|extension| COMPRESSED.binary_search(&extension.as_str()).is_ok())
}

fn extension(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (_, extension) = file.rsplit_once('.')?;
    Some(extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        assert!(COMPRESSED.is_sorted());
        assert!(TYPES.is_sorted_by(|(a, _), (b, _)| a < b));
    }

    #[test]
    fn an_extension_decides_whatever_its_case() {
        for (path, content_type_of, compressed) in [
            ("logs/build.log", "text/plain", false),
            ("a.TXT", "text/plain; charset=utf-8", false),
            ("target.tar.gz", "application/gzip", true),
            ("Image.PNG", "image/png", true),
            ("folder.zip/binary", "application/octet-stream", false),
            ("no-extension", "application/octet-stream", false),
        ] {
            assert_eq!(content_type(path, ""), content_type_of, "{path}");
            assert_eq!(is_compressed(path), compressed, "{path}");
        }
        assert_eq!(
            content_type("out", "public/report.html"),
            "text/html; charset=utf-8"
        );
    }
}
