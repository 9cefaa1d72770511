//! Which calls there are, so that no test of all of them forgets one.

use std::collections::BTreeSet;

/// The names of the queue's own calls.
pub(crate) fn of_the_queue() -> BTreeSet<&'static str> {
    names(include_str!("../../src/queue/embedded/route.rs"))
}

/// The names of the Auth service's calls.
pub(crate) fn of_auth() -> BTreeSet<&'static str> {
    names(include_str!("../../src/queue/embedded/client_calls.rs"))
}

/// What the function `name` answers, whose `match` the compiler keeps complete.
fn names(source: &'static str) -> BTreeSet<&'static str> {
    let (_, body) = source
        .split_once("fn name(&self) -> &'static str {")
        .expect("calls have names");
    let (body, _) = body.split_once("\n    }\n").expect("the function ends");
    let arms = body.lines().filter(|line| line.contains("=>"));
    let names: BTreeSet<&str> = arms
        .map(|arm| arm.split('"').nth(1).expect("each arm is a name"))
        .collect();
    assert!(names.contains("ping"), "{names:?}");
    names
}
