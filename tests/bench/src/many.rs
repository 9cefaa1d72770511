//! What one more library costs: a plugin that does nothing, loaded many times over.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::Build;
use crate::boundary::ping_pong;
use crate::pairs::{Figure, Target};
use crate::worker::{idle, span};

/// So many libraries.
const LIBRARIES: usize = 20;

/// Calls that a plugin gets for a task: `new_task_plugin`, `prepare`, `build_sandbox`, `started`, `stopped`, `finished`,
/// `dispose`.
const CALLS: f64 = 7.0;

/// A directory of libraries that differ in their names, and so in every byte's address and in all their statics.
fn libraries(build: &Build) -> TempDir {
    const NAME: &[u8] = b"nothing-00";
    let bytes = fs::read(&build.nothing).expect("the plugin that does nothing");
    let places: Vec<usize> = (0..bytes.len() - NAME.len())
        .filter(|&place| bytes[place..].starts_with(NAME))
        .collect();
    assert!(!places.is_empty(), "the name of the plugin is not in its library");
    let directory = tempfile::tempdir().expect("a directory");
    for number in 0..LIBRARIES {
        let mut bytes = bytes.clone();
        for place in &places {
            let name = format!("nothing-{number:02}");
            bytes[*place..place + NAME.len()].copy_from_slice(name.as_bytes());
        }
        let file = directory.path().join(format!("libnothing_{number:02}.so"));
        fs::write(&file, bytes).expect("a library");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its permissions");
    }
    directory
}

/// What one more plugin that does nothing adds to a task; the yardstick says as many words to another thread as the
/// plugin has calls.
pub(crate) fn per_task(build: &Build) -> Figure {
    const COUNT: usize = 40;
    let libraries = libraries(build);
    let figure = || {
        let with = span(build, &[&build.plugins, libraries.path()], 1, COUNT);
        let without = span(build, &[&build.plugins], 1, COUNT);
        (with - without) * 1000.0 / (COUNT * LIBRARIES) as f64
    };
    let yardstick = || ping_pong(None, 500) * CALLS;
    Figure::pairs(build.pairs, "us", Target::AtMost(150.0), figure, yardstick)
}

/// Threads of an idle worker that twenty libraries add.
pub(crate) fn threads(build: &Build) -> Figure {
    let (bare, full) = bare_and_full(build, |idle| idle.threads);
    Figure::alone(full - bare, "threads", Target::AtMost(40.0))
}

/// Resident memory of an idle worker that twenty libraries add.
pub(crate) fn memory(build: &Build) -> Figure {
    let (bare, full) = bare_and_full(build, |idle| idle.resident);
    Figure::alone(full - bare, "MB", Target::AtMost(20.0))
}

/// The host with the engine and the plugins that the task needs, and the same with twenty libraries more.
fn bare_and_full(build: &Build, measure: impl Fn(crate::worker::Idle) -> f64) -> (f64, f64) {
    let libraries = libraries(build);
    let of = |plugins: &[&Path]| measure(idle(build, plugins));
    (of(&[&build.plugins]), of(&[&build.plugins, libraries.path()]))
}
