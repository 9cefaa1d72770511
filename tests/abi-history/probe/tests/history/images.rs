//! One library loaded several times: as two versions, as copies, under several names.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use probe::library::Library;
use probe::services::Host;
use serde_json::json;

use crate::{Scene, built};

/// Makes an engine, and answers how many the library's image says that it made.
async fn engines(library: &Library, scene: &Scene) -> String {
    let provider = library.root.engine_provider().await.unwrap();
    let host = Arc::new(Host::new(scene.directory.path()));
    let engine = provider.new_engine(host, json!({})).await.unwrap();
    engine.description().features[1].clone()
}

/// The 1.0 library with another version in its manifest, and so bytes of its own.
fn install(path: &Path, version: &str) {
    let mut bytes = fs::read(built("1.0")).unwrap();
    let (old, new) = (b"\"version\":\"0.1.0\"", format!("\"version\":\"{version}\""));
    assert_eq!(old.len(), new.len());
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
    bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn two_versions_of_one_library_have_their_own_statics() {
    let scene = Scene::new();
    let path = scene.path("librecorded.so");
    install(&path, "0.2.0");
    let old = scene.loader.load(&path).unwrap();
    fs::remove_file(&path).unwrap();
    install(&path, "0.2.1");
    let new = scene.loader.load(&path).unwrap();

    assert_eq!((&*old.manifest.version, &*new.manifest.version), ("0.2.0", "0.2.1"));
    assert_eq!(engines(&old, &scene).await, "recorded/engine-1");
    assert_eq!(engines(&old, &scene).await, "recorded/engine-2");
    assert_eq!(engines(&new, &scene).await, "recorded/engine-1");
    assert_eq!(engines(&old, &scene).await, "recorded/engine-3");
}

#[tokio::test]
async fn a_copy_and_a_hard_link_are_the_same_library() {
    let scene = Scene::new();
    fs::create_dir(scene.path("other")).unwrap();
    let path = scene.path("librecorded.so");
    install(&path, "0.3.0");
    let copy = scene.path("other/librecorded.so");
    fs::copy(&path, &copy).unwrap();
    let link = scene.path("liblinked.so");
    fs::hard_link(&path, &link).unwrap();

    for (number, path) in [&path, &copy, &link, &path].into_iter().enumerate() {
        let library = scene.loader.load(path).unwrap();
        let expected = format!("recorded/engine-{}", number + 1);
        assert_eq!(engines(&library, &scene).await, expected, "{}", path.display());
    }
    let stored: Vec<_> = fs::read_dir(scene.path("state/libraries")).unwrap().collect();
    assert_eq!(stored.len(), 1, "{stored:?}");
}
