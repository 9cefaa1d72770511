//! What the policy forbids is refused: in two lines, with the differences in a file.

use std::fs;

use crate::{Scene, host_is_next};

/// The change that the library was built with, and what the long report has to say about it.
const CHANGES: [(&str, &str); 4] = [
    ("changed-return", "Error:mismatched type\nExpected:\n    u64\nFound:\n    u32\n"),
    ("changed-parameters", "type:bool"),
    ("changed-method-order", "field_name:set_size"),
    ("changed-field-order", "field_name:fallback"),
];

#[tokio::test]
async fn a_changed_entity_is_refused_in_two_lines_and_all_differences_are_in_a_file() {
    for (version, named) in CHANGES {
        let scene = Scene::new();
        let Err(error) = scene.load(version) else {
            panic!("{version} was loaded")
        };
        let directory = scene.directory.path().display().to_string();
        let store = format!("{directory}/state/libraries/");
        let report = fs::read_dir(&store)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_string_lossy().ends_with(".layout.txt"))
            .unwrap();
        assert_eq!(
            error.to_string(),
            format!(
                "{directory}/lib{version}.so: its ABI differs from this host's in what was already released\n  \
                 get a build against a released tcw-abi; all differences are in {}",
                report.display()
            )
        );
        let report = fs::read_to_string(report).unwrap();
        assert!(
            report.starts_with("as a newer library:\n") && report.contains("\nas an older library:\n"),
            "{report}"
        );
        assert!(report.contains(named), "{named:?} is not in the report about {version}:\n{report}");
        assert!(report.lines().count() > 20, "{report}");
    }
}

#[tokio::test]
async fn a_refused_library_changes_nothing_for_the_next_one() {
    let scene = Scene::new();
    for (version, _) in CHANGES {
        assert!(scene.load(version).is_err());
        assert!(scene.load("1.0").is_ok());
        assert!(scene.load("next").is_ok());
    }
}

/// A draft is not the next version: it has something else at the same place.
#[tokio::test]
async fn two_versions_of_the_future_refuse_each_other() {
    let scene = Scene::new();
    for draft in ["draft-a", "draft-b"] {
        assert_eq!(scene.load(draft).is_err(), host_is_next(), "{draft}");
    }
}
