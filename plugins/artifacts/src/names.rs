//! Which names artifacts can have, and how text from a task is shown in its log.

/// The queue's bound.
const LONGEST: usize = 1024;

/// Why nothing can have that name.
pub(crate) fn flaw(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        Some("it has characters that are not printable ASCII")
    } else if name.len() > LONGEST {
        Some("it is longer than 1024 characters")
    } else if name.starts_with('/') {
        Some("it begins with a slash")
    } else if name.split('/').any(str::is_empty) {
        // Storage and browsers do not agree on what these mean.
        Some("it has a slash at its end, or two in a row")
    } else if name.split('/').any(|part| part == "." || part == "..") {
        Some("it has '.' or '..' between slashes")
    } else {
        None
    }
}

/// A path without what does not change where it leads: `./a//b/` is `a/b`, `/a` stays `/a`.
pub(crate) fn tidy(path: &str) -> String {
    let root = if path.starts_with('/') { "/" } else { "" };
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    format!("{root}{}", parts.join("/"))
}

/// The name of a folder's file.
pub(crate) fn beneath(folder: &str, file: &str) -> String {
    match folder {
        "" => file.to_owned(),
        "/" => format!("/{file}"),
        folder => format!("{folder}/{file}"),
    }
}

/// Text on one line, so that no file name writes lines of the worker's.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let (plain, escaped) = if c.is_control() {
                (None, Some(c.escape_default()))
            } else {
                (Some(c), None)
            };
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_url_or_a_storage_would_change_are_refused() {
        for good in ["public/a.txt", "a", "a b", "public/..a/.b", "private/x?y#z%"] {
            assert_eq!(flaw(good), None, "{good}");
        }
        for bad in [
            "", "/a", "a/", "a//b", "a/../b", "..", "./a", "é", "a\nb", "a\u{7f}",
        ] {
            assert!(flaw(bad).is_some(), "{bad:?}");
        }
        assert_eq!(flaw(&"x".repeat(1024)), None);
        assert!(flaw(&"x".repeat(1025)).is_some());
    }

    #[test]
    fn paths_are_tidied_but_still_lead_to_the_same_place() {
        for (path, tidied) in [
            ("./a//b/", "a/b"),
            ("/a/", "/a"),
            ("/", "/"),
            (".", ""),
            ("a/../b", "a/../b"),
        ] {
            assert_eq!(tidy(path), tidied);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_log() {
        assert_eq!(
            shown("a\n[taskcluster:error] \u{1b}[2Jé"),
            "a\\n[taskcluster:error] \\u{1b}[2Jé"
        );
    }
}
