//! What is released does not change: everything that crosses the boundary, compared with what was recorded.
//!
//! The record has two parts: the declarations as they stand in the sources (the mirror's traits and structures, the
//! error kinds with their numbers, the types that cross as JSON with their keys, the names of features), and the
//! layouts that `abi_stable` makes of them. `tests/abi-history/README.md` says what to do when they differ.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use abi_stable::StableAbi;
use abi_stable::type_layout::{TLData, TLField, TypeLayout};
use tcw_abi::__private::FfiLibraryRef;
use tcw_abi::manifest;

/// The sources with declarations that cross, in the order of the record; then those of the mirror.
const DECLARATIONS: [&str; 6] = [
    "error.rs",
    "engine.rs",
    "plugin.rs",
    "services.rs",
    "diagnostics.rs",
    "manifest.rs",
];

fn history() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/abi-history")
}

/// Such as `1.0`.
fn version() -> &'static str {
    manifest::ABI_VERSION.rsplit_once('.').expect("three numbers").0
}

/// Whether an item crosses the boundary, by its attributes and its first line.
fn crosses(attributes: &[&str], first: &str) -> bool {
    let marks = ["Serialize", "repr(C)", "sabi_trait"];
    let heads = [
        "ffi_object! {",
        "kinds! {",
        "plain!(",
        "json!(",
        "one_handle!(",
        "pub mod feature {",
    ];
    attributes
        .iter()
        .any(|attribute| marks.iter().any(|mark| attribute.contains(mark)))
        || heads.iter().any(|head| first.starts_with(head))
}

/// The items of a source that cross, without their comments.
fn declarations(text: &str) -> String {
    let mut found = String::new();
    let mut attributes = Vec::new();
    let mut lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//") && !line.is_empty());
    while let Some(first) = lines.next() {
        if first.starts_with("#[") {
            attributes.push(first);
            continue;
        }
        let mut item = vec![first];
        // An item that is not done on its first line ends with the next line that is not indented.
        if first.ends_with(['{', '(']) {
            for line in lines.by_ref() {
                item.push(line);
                if !line.starts_with(' ') {
                    break;
                }
            }
        }
        if crosses(&attributes, first) {
            for line in attributes.drain(..).chain(item) {
                found.push_str(line);
                found.push('\n');
            }
        }
        attributes.clear();
    }
    found
}

/// The first part of the record.
fn sources(directory: &Path) -> String {
    let mut files: Vec<PathBuf> = fs::read_dir(directory.join("ffi"))
        .expect("the sources are there")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| !path.ends_with("mod.rs") && !path.ends_with("tests.rs"))
        .collect();
    files.sort();
    files.splice(0..0, DECLARATIONS.map(|name| directory.join(name)));
    let mut record = String::new();
    for file in files {
        let items = declarations(&fs::read_to_string(&file).expect("a source can be read"));
        if !items.is_empty() {
            let name = file.strip_prefix(directory).expect("below it");
            write!(record, "== {}\n{items}", name.display()).expect("memory is enough");
        }
    }
    record
}

/// The second part: a paragraph for each of our types and of async-ffi's that can be reached from the root, sorted.
/// Those of other crates have a name and a size in the fields they stand in; the crates are pinned.
fn layouts() -> String {
    let mut paragraphs = BTreeSet::new();
    let mut seen = HashSet::new();
    let mut waiting = vec![<FfiLibraryRef as StableAbi>::LAYOUT];
    while let Some(layout) = waiting.pop() {
        if !seen.insert(layout.get_utypeid()) {
            continue;
        }
        let ours = ["tcw-abi", "async-ffi"].contains(&layout.package().as_str());
        let mut paragraph = format!(
            "{} {} in {}: {:?}, size {}, alignment {}\n",
            layout.package(),
            layout.full_type(),
            layout.mod_path(),
            layout.repr_attr(),
            layout.size(),
            layout.alignment()
        );
        if let TLData::PrefixType(prefix) = layout.data() {
            writeln!(paragraph, "  always there: {} fields", prefix.first_suffix_field).expect("memory");
        }
        for field in fields(layout) {
            writeln!(
                paragraph,
                "  {}: {}, size {}",
                field.name(),
                field.full_type(),
                field.layout().size()
            )
            .expect("memory");
            waiting.push(field.layout());
            for function in field.function_range().iter() {
                // Its first line is the signature.
                let text = function.to_string();
                writeln!(paragraph, "    {}", text.lines().next().unwrap_or_default()).expect("memory");
                waiting.extend(function.param_type_layouts.iter().map(|layout| layout()));
                waiting.extend(function.return_type_layout().map(|layout| layout()));
            }
        }
        if ours {
            paragraphs.insert(paragraph);
        }
    }
    let all: String = paragraphs.into_iter().collect();
    all.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

fn fields(layout: &'static TypeLayout) -> Vec<TLField> {
    let own = layout
        .get_fields()
        .map(|fields| fields.to_vec())
        .unwrap_or_default();
    own.into_iter().chain(layout.phantom_fields().to_vec()).collect()
}

fn record() -> String {
    format!(
        "The ABI {}, as tests/abi-history/README.md explains.\n\n{}\n== layouts, on a machine of 64 bits\n{}",
        version(),
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")),
        layouts()
    )
}

/// The first line that differs, for both.
fn difference(recorded: &str, now: &str) -> String {
    let (mut old, mut new) = (recorded.lines(), now.lines());
    loop {
        match (old.next(), new.next()) {
            (None, None) => return "nothing".to_owned(),
            (a, b) if a == b => {}
            (a, b) => {
                return format!(
                    "recorded: {}\n     now: {}",
                    a.unwrap_or("(the end)"),
                    b.unwrap_or("(the end)")
                );
            }
        }
    }
}

#[test]
#[cfg(target_pointer_width = "64")]
fn what_is_released_is_as_it_was_recorded() {
    let path = history().join(version()).join("fingerprint.txt");
    let now = record();
    if std::env::var_os("TCW_RECORD_ABI").is_some() {
        fs::write(&path, &now).expect("the record can be written");
    }
    let recorded = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        recorded == now,
        "the ABI {} is not what was recorded for it.\n\
         What is released never changes; what may be added, and how, stands at the top of abi/src/lib.rs,\n\
         and what to do now in tests/abi-history/README.md. The first difference:\n\n{}\n",
        version(),
        difference(&recorded, &now)
    );
}

#[test]
fn the_copies_of_released_sources_are_as_they_were() {
    let mut copies = 0;
    for entry in fs::read_dir(history()).expect("the history is there") {
        let directory = entry.expect("a file").path();
        let Ok(recorded) = fs::read_to_string(directory.join("fingerprint.txt")) else {
            continue;
        };
        let copy = sources(&directory.join("abi/src"));
        assert!(
            recorded.contains(&copy),
            "{} was edited: it is a record, see tests/abi-history/README.md",
            directory.display()
        );
        copies += 1;
    }
    assert!(copies > 0);
}

/// The extraction finds what it is for: one thing of every sort.
#[test]
fn the_record_has_every_sort_of_declaration() {
    let record = record();
    for line in [
        "    FatalInternal = 21,",
        "    pub task_group_id: String,",
        "    pub const ENVIRONMENT: &str = \"environment\";",
        "    detached fn start() -> Arc<dyn Sandbox> => FfiSandboxObject;",
        "    pub fallback: u32,",
        "    fn record(&self, record: RString);",
        "    set_log_level: AFunctionPointer",
    ] {
        assert!(record.contains(line.trim()), "{line}");
    }
}
