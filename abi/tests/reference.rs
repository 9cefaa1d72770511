//! The reference for vendors has every object and method of the traits, nothing else, and says of each what has to be
//! said. Its code is compiled as documentation tests (`pages` in `src/lib.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tcw_abi::{ErrorKind, Handling};

const SOURCES: [&str; 3] = ["engine", "plugin", "services"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page(name: &str) -> String {
    read(format!("docs/src/vendors/{name}.md"))
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// `Object::method` of a file's public traits, and whether it is asynchronous.
fn methods(source: &str) -> BTreeMap<String, bool> {
    let (mut object, mut found) = (None, BTreeMap::new());
    for line in source.lines() {
        if let Some(name) = line.strip_prefix("pub trait ").or(line.strip_prefix("impl dyn ")) {
            object = Some(word(name));
        } else if line == "}" {
            object = None;
        } else if let Some(object) = object {
            let line = line.strip_prefix("    ").unwrap_or(line);
            let line = line.strip_prefix("pub ").unwrap_or(line);
            for (start, asynchronous) in [("async fn ", true), ("fn ", false)] {
                if let Some(method) = line.strip_prefix(start) {
                    found.insert(format!("{object}::{}", word(method)), asynchronous);
                }
            }
        }
    }
    found
}

/// `Object::method` of the mirror, and whether a call runs on when it is dropped.
fn modes() -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root().join("abi/src/ffi")).unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        let Some((_, declared)) = source.split_once("ffi_object! {") else {
            continue;
        };
        let mut object = None;
        for line in declared.lines().map(str::trim) {
            if let Some((name, rest)) = line.split_once(": Ffi")
                && object.is_none()
                && rest.contains("_TO")
            {
                object = Some(name);
            }
            for (start, runs_on) in [("call fn ", false), ("detached fn ", true)] {
                if let (Some(object), Some(method)) = (object, line.strip_prefix(start)) {
                    found.insert(format!("{object}::{}", word(method)), runs_on);
                }
            }
        }
    }
    found
}

/// The sections below headings that start with `marks`, by what is between the backquotes in the heading.
fn sections<'a>(text: &'a str, marks: &str) -> Vec<(&'a str, &'a str)> {
    let start = format!("\n{marks} `");
    let mut found = Vec::new();
    for (at, _) in text.match_indices(&start) {
        let rest = &text[at + start.len()..];
        let (name, rest) = rest.split_once('`').expect("a heading ends its name");
        // One `#` is no heading here: lines of examples that a reader need not see begin with it.
        let end = (2..=marks.len()).filter_map(|level| rest.find(&format!("\n{} ", &"####"[..level])));
        found.push((name, &rest[..end.min().unwrap_or(rest.len())]));
    }
    found
}

fn kinds() -> BTreeSet<&'static str> {
    ErrorKind::ALL.iter().map(|kind| kind.name()).collect()
}

/// What is between backquotes and looks like an error kind.
fn named_kinds(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|name| {
        let capitals = name.chars().filter(char::is_ascii_uppercase).count();
        capitals > 1 && capitals < name.len() && name.chars().all(|c| c.is_ascii_alphabetic())
    })
}

#[test]
fn every_method_has_its_entry_and_every_entry_its_method() {
    for source in SOURCES {
        let traits = methods(&read(format!("abi/src/{source}.rs")));
        assert!(traits.len() > 10, "{source}: {traits:?}");
        let page = page(&format!("reference-{source}"));
        let entries: Vec<&str> = sections(&page, "###").into_iter().map(|(name, _)| name).collect();
        let unique: BTreeSet<&str> = entries.iter().copied().collect();
        assert_eq!(unique, traits.keys().map(String::as_str).collect(), "{source}");
        assert_eq!(unique.len(), entries.len(), "{source}: an entry stands twice");

        let objects: BTreeSet<&str> = traits.keys().map(|name| word(name)).collect();
        let described: BTreeSet<&str> = sections(&page, "##").into_iter().map(|(name, _)| name).collect();
        assert_eq!(described, objects, "{source}");
    }
}

#[test]
fn every_entry_says_when_how_long_and_what_may_go_wrong() {
    let (modes, kinds) = (modes(), kinds());
    assert!(modes.len() > 60, "{modes:?}");
    for source in SOURCES {
        let traits = methods(&read(format!("abi/src/{source}.rs")));
        for (name, entry) in sections(&page(&format!("reference-{source}")), "###") {
            let labels: Vec<&str> = entry
                .lines()
                .filter_map(|line| line.strip_prefix("- **")?.split_once("**"))
                .map(|(label, _)| label)
                .collect();
            if !traits[name] {
                assert_eq!(labels, ["Constant."], "{name}");
                continue;
            }
            assert_eq!(labels, ["When:", "Bound:", "Dropped:", "Errors:"], "{name}");
            let (_, dropped) = entry.split_once("**Dropped:** ").unwrap();
            let runs_on = modes.get(name).copied().unwrap_or(false);
            let expected = if runs_on { "runs on" } else { "ends" };
            assert!(
                dropped.starts_with(expected),
                "{name} {expected}, says the mirror"
            );
            for kind in named_kinds(&entry[entry.find("**Errors:**").unwrap()..]) {
                assert!(kinds.contains(kind), "{name}: there is no error kind {kind}");
            }
        }
    }
}

#[test]
fn every_object_says_whose_thread_it_is_and_shows_each_method() {
    for source in SOURCES {
        let traits = methods(&read(format!("abi/src/{source}.rs")));
        for (object, text) in sections(&page(&format!("reference-{source}")), "##") {
            for label in ["**Runs on** ", "**Made by** ", "**Called by** "] {
                assert!(text.contains(label), "{object} does not say: {label}");
            }
            let example: String = text
                .split("```rust\n")
                .skip(1)
                .filter_map(|block| Some(block.split_once("\n```")?.0))
                .collect();
            for name in traits.keys().filter(|name| word(name) == object) {
                let method = &name[object.len() + 2..];
                assert!(
                    example.contains(&format!(".{method}(")) || example.contains(&format!("fn {method}(")),
                    "the example of {object} does not show {method}"
                );
            }
        }
    }
}

#[test]
fn the_table_of_errors_is_that_of_the_code() {
    let page = page("errors");
    let (_, table) = page.split_once("## Which kind").unwrap();
    let rows: BTreeMap<&str, &str> = table
        .split("\n## ")
        .next()
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .collect();
    assert_eq!(rows.keys().copied().collect::<BTreeSet<_>>(), kinds());
    for kind in ErrorKind::ALL {
        let outcome = match kind.handling() {
            Handling::AlreadyDecided => "as decided",
            Handling::WaitForSlot => "waits",
            Handling::Failed => "failed",
            Handling::Intermittent => "`intermittent-task`",
            Handling::Malformed => "`malformed-payload`",
            Handling::Unavailable => "`resource-unavailable`",
            Handling::NonFatal => "`internal-error`",
            Handling::Fatal => "`internal-error`, the worker stops",
        };
        let said = rows[kind.name()].rsplit('|').nth(1).map(str::trim);
        assert_eq!(said, Some(outcome), "{}", kind.name());
    }
}
