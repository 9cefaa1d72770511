//! Places where tests look at what a process that is killed there would leave behind.

use std::sync::OnceLock;

type Hook = Box<dyn Fn(&str) + Send + Sync>;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Has a function called, with the place's name, whenever the embedded queue is about to write something down or has just
/// done so. There is one for the process, and it stays. For tests.
pub fn watch(hook: impl Fn(&str) + Send + Sync + 'static) {
    assert!(
        HOOK.set(Box::new(hook)).is_ok(),
        "one test in this process watches already"
    );
}

/// A place.
pub(super) fn point(name: &str) {
    if let Some(hook) = HOOK.get() {
        hook(name);
    }
}
