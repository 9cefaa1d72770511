//! What a payload can be needed for.
//!
//! Each purpose is defined by what the task has to do. For an engine that runs POSIX shell scripts nothing more is
//! needed than the `script` of its check file; for another, the check file has a payload for each purpose that it can
//! serve. Where a definition has a word in braces, such as `{text}`, the case chooses it, and the word in braces is
//! replaced wherever it stands in a string of the payload.

/// What a payload can be needed for.
#[derive(Debug)]
pub struct Purpose {
    /// Its key under `payloads` in the check file.
    pub name: &'static str,
    /// What the task has to do.
    pub about: &'static str,
    /// The same as a script for `/bin/sh`; `None` where no script can do it everywhere.
    pub script: Option<&'static str>,
}

macro_rules! purposes {
    ($($constant:ident = $name:literal, $about:literal, $script:expr;)*) => {
        $(
            #[doc = $about]
            pub const $constant: Purpose = Purpose { name: $name, about: $about, script: $script };
        )*

        /// Every purpose.
        pub const ALL: &[&Purpose] = &[$(&$constant),*];
    };
}

purposes! {
    PRINT = "print", "Prints the line `{text}`, and succeeds.",
        Some("printf '%s\\n' '{text}'");
    PRINT_AND_FAIL = "print-and-fail", "Prints the line `{text}`, and fails.",
        Some("printf '%s\\n' '{text}'; exit 1");
    PRINT_ERROR = "print-error", "Prints the line `{text}` on its standard error, and succeeds.",
        Some("printf '%s\\n' '{text}' >&2");
    SILENT = "silent", "Prints nothing, and succeeds.",
        Some(":");
    PRINT_BYTES = "print-bytes",
        "Prints exactly `{bytes}` bytes, any but NUL and as fast as it can, and succeeds.",
        Some("yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {bytes}");
    PRINT_AND_WAIT = "print-and-wait", "Prints the line `{text}`, and runs until it is ended from outside.",
        Some("printf '%s\\n' '{text}'; while :; do sleep 1; done");
    PRINT_AND_RESIST = "print-and-resist",
        "Prints the line `{text}`, and runs until it is ended from outside, whatever it is asked: it has to be forced.",
        Some("trap '' TERM INT HUP QUIT; printf '%s\\n' '{text}'; while :; do sleep 1; done");
    WAIT_FOR_FILE = "wait-for-file",
        "Prints the line `{text}`, runs until there is a file `{file}`, which a shell makes, and succeeds.",
        Some("printf '%s\\n' '{text}'; while [ ! -e '{file}' ]; do sleep 0.05; done");
    PRINT_AND_LEAVE = "print-and-leave",
        "Starts a process that keeps the output open and never ends by itself, prints the line `{text}`, and succeeds \
         while that process still runs.",
        Some("sleep 100000 & printf '%s\\n' '{text}'");
    PRINT_VARIABLE = "print-variable",
        "Prints the value of the environment variable `{variable}` and a newline, and succeeds; fails if there is no \
         such variable.",
        Some("[ \"${{variable}+set}\" = set ] || exit 1; printf '%s\\n' \"${{variable}}\"");
    WRITE_FILES = "write-files",
        "Writes `Hello World`, without a newline, into each of the files whose relative paths stand in `{files}`, \
         separated by single spaces; makes the folders; succeeds.",
        Some("for file in {files}; do case $file in */*) mkdir -p \"${file%/*}\";; esac; \
              printf 'Hello World' > \"$file\" || exit 1; done");
    WRITE_MANY = "write-many",
        "Writes `{count}` files `many/0`, `many/1` and so on, each with its own number as text, without a newline, and \
         succeeds.",
        Some("mkdir many && cd many || exit 1; i=0; while [ $i -lt {count} ]; do printf %s $i > $i || exit 1; \
              i=$((i + 1)); done");
    WRITE_EXECUTABLE = "write-executable",
        "Writes any bytes into the file `{file}` with the permissions 0750, and succeeds.",
        Some("umask 0; printf '#!/bin/sh\\n' > '{file}' && chmod 750 '{file}'");
    PRINT_FILE = "print-file", "Prints the bytes of the file `{file}`, and succeeds; fails if there is none.",
        Some("cat '{file}'");
    PRINT_MODE = "print-mode",
        "Prints the permission bits of the file `{file}` as three octal digits and a newline, and succeeds; fails if \
         there is none.",
        Some("stat -c %a '{file}'");
    PING_PROXY = "ping-proxy",
        "Prints the line `Pinging`, sends GET to the address `{url}`, prints the body of the answer, and succeeds if \
         its status is 200.",
        Some("echo Pinging; status=$(curl -s -o answer -w '%{http_code}' '{url}'); cat answer; [ \"$status\" = 200 ]");
    WRITE_VOLUME = "write-volume",
        "Writes into the volume that is mounted at `{mount}`, and succeeds if that worked.",
        Some("printf written > '{mount}/written-by-check'");
    CHECK_VOLUME = "check-volume",
        "Succeeds if the volume that is mounted at `{mount}` has what write-volume writes.",
        Some("[ -s '{mount}/written-by-check' ]");
    SHOW_DISPLAY = "show-display", "Shows the displays of the check file, and runs until it is ended from outside.",
        None;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_uses_every_word_in_braces_of_its_definition() {
        for purpose in ALL {
            let Some(script) = purpose.script else { continue };
            for word in [
                "text", "bytes", "variable", "files", "file", "url", "mount", "count",
            ] {
                let placeholder = format!("{{{word}}}");
                assert_eq!(
                    purpose.about.contains(&placeholder),
                    script.contains(&placeholder),
                    "{} and {placeholder}",
                    purpose.name
                );
            }
        }
    }
}
