//! The bounds that the pages for vendors promise are those of the host.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tcw_host::services::{fetch, http};
use tcw_host::task::Deadlines;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A duration as the pages write it.
fn written(duration: Duration) -> String {
    let (amount, unit) = match duration.as_secs() {
        seconds if seconds % 60 == 0 => (seconds / 60, "minute"),
        seconds => (seconds, "second"),
    };
    format!("{amount} {unit}{}", if amount == 1 { "" } else { "s" })
}

/// The seconds of a private constant of the host.
fn constant(file: &str, name: &str) -> Duration {
    let source = read(file);
    let start = format!("{name}: Duration = Duration::from_secs(");
    let (_, rest) = source.split_once(&start).unwrap_or_else(|| {
        panic!("{file} has no {name} any more: change this test, and the page if need be")
    });
    let (value, _) = rest.split_once(')').expect("the end of a call");
    let seconds = value
        .split('*')
        .map(|factor| factor.trim().parse::<u64>().expect("a number"));
    Duration::from_secs(seconds.product())
}

/// What the configuration says if it says nothing.
fn start_timeout() -> Duration {
    let schema: serde_json::Value =
        serde_json::from_str(&read("host/src/config/schema.json")).expect("the configuration's schema");
    let default = &schema["properties"]["libraries"]["properties"]["startTimeout"]["default"];
    let seconds = default.as_str().and_then(|text| text.strip_suffix(" s"));
    Duration::from_secs(seconds.expect("seconds").parse().expect("a number"))
}

#[test]
fn the_table_of_bounds_is_what_the_host_waits_for() {
    let page = read("docs/src/vendors/reference-engine.md");
    let (_, table) = page
        .split_once("| call | bound |\n|---|---|\n")
        .expect("the table");
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let said: Vec<&str> = rows
        .iter()
        .filter_map(|row| Some(row.rsplit('|').nth(1)?.trim()))
        .collect();
    let deadlines = Deadlines::default();
    let bounds = [
        deadlines.query,
        deadlines.call,
        deadlines.hook_grace,
        deadlines.call_grace,
        deadlines.exception,
        start_timeout(),
        constant("host/src/worker/recovery.rs", "RECOVERY"),
        constant("host/src/worker/dispatch/ending.rs", "DISPOSAL"),
    ];
    assert_eq!(said, bounds.map(written));
}

#[test]
fn the_lengths_that_are_fetched_are_those_on_the_page() {
    let page = read("docs/src/vendors/reference-services.md");
    for said in [
        format!("never more than {} GiB", fetch::LONGEST >> 30),
        format!("one of more than {} GiB", http::LONGEST >> 30),
        format!(
            "`timeout_ms`, or {}",
            written(constant("host/src/services/http.rs", "TIMEOUT"))
        ),
    ] {
        assert!(page.contains(&said), "reference-services.md does not say: {said}");
    }
}
