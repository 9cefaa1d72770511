//! The verdict about one library does not depend on what was loaded before it.

use crate::{Scene, host_is_next};

const LIBRARIES: [&str; 4] = ["draft-a", "draft-b", "1.0", "next"];

fn verdict(version: &str) -> bool {
    !(host_is_next() && version.starts_with("draft"))
}

#[tokio::test]
async fn every_library_gets_the_same_verdict_after_every_other() {
    let scene = Scene::new();
    let libraries = LIBRARIES.map(|version| (version, scene.installed(version)));
    for (before, first) in &libraries {
        for (after, second) in &libraries {
            assert_eq!(scene.loader.load(first).is_ok(), verdict(before), "{before}");
            assert_eq!(scene.loader.load(second).is_ok(), verdict(after), "{after} after {before}");
        }
    }
}

#[tokio::test]
async fn drafts_that_are_loaded_together_answer_for_themselves() {
    let scene = Scene::new();
    for version in LIBRARIES.into_iter().filter(|version| verdict(version)) {
        let library = scene.load(version).unwrap();
        let provider = library.root.engine_provider().await.unwrap();
        assert_eq!(provider.description().configuration_schema["type"], "object", "{version}");
    }
}
