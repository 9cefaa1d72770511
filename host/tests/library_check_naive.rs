//! `tcw-host library check` against `tests/fixtures/naive`, an engine as one would write it first: whatever it gets wrong
//! about paths, odd files, leases and what tasks leave behind is found, by the case that is about it.

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::cli::Place;
use support::library;

/// The case, and how the reason begins.
const WRONG: &[(&str, &str)] = &[
    (
        "paths/dots",
        "ResultSet.extract_file(\"../outside/secret\") has to answer ResourceNotFound or MalformedPayload, and succeeded",
    ),
    (
        "paths/absolute-link",
        "ResultSet.extract_file(\"link\") has to answer ResourceNotFound, and succeeded",
    ),
    (
        "paths/relative-link",
        "ResultSet.extract_file(\"link\") has to answer ResourceNotFound, and succeeded",
    ),
    (
        "paths/chain-of-links",
        "ResultSet.extract_file(\"link\") has to answer ResourceNotFound, and succeeded",
    ),
    (
        "paths/linked-folder",
        "ResultSet.extract_file(\"link/secret\") has to answer ResourceNotFound, and succeeded",
    ),
    ("paths/links-in-folder", ""),
    (
        "paths/hard-link",
        "ResultSet.extract_file(\"box/secret\") has to answer ResourceNotFound, and succeeded",
    ),
    (
        "paths/fifo",
        "ResultSet.extract_file(\"box/thing\") did not return within ",
    ),
    (
        "paths/device-link",
        "ResultSet.extract_file(\"box/thing\") has to answer ResourceNotFound, and succeeded",
    ),
    ("paths/strange", "ResultSet.extract_file(\"//\") has to answer "),
    (
        "paths/put-file",
        "SandboxBuilder.put_file(\"../outside/escaped-by-check\") has to answer MalformedPayload, seen Ok(())",
    ),
    (
        "paths/put-file-taken",
        "a second file at the same path has to answer NamingConflict, and succeeded",
    ),
    (
        "folders/10000-files",
        "the number of files in the folder: expected 10000, seen 9999",
    ),
    (
        "folders/odd-names",
        "the files of a folder with odd names: expected ",
    ),
    (
        "folders/not-utf-8",
        "the file \"latin-\" was in the folder, did not come, and no line of the worker's in the log names it",
    ),
    (
        "folders/empty",
        "ResultSet.extract_folder(\"empty\") has to succeed, and answered: there is nothing (ResourceNotFound)",
    ),
    (
        "folders/sparse",
        "the length of a sparse file, its first and its last byte: expected (1073741824, ",
    ),
    (
        "recovery/running",
        "processes of a dead worker are left after Engine.recover: sh (",
    ),
    (
        "recovery/resisting",
        "processes of a dead worker are left after Engine.recover: sh (",
    ),
    (
        "recovery/several",
        "processes of a dead worker are left after Engine.recover: sh (",
    ),
    (
        "recovery/background",
        "processes of a dead worker are left after Engine.recover: sh (",
    ),
    (
        "recovery/builder",
        "files of a dead worker are left after Engine.recover: [\"",
    ),
    (
        "remains/background",
        "after ResultSet.dispose every object of the task was dropped, and somebody still holds its output open",
    ),
];

/// What even it gets right: the cases do not fail whatever they are given.
const RIGHT: &[&str] = &[
    "paths/hard-link-inside",
    "folders/deep",
    "recovery/nothing",
    "recovery/results",
];

#[test]
fn what_a_naive_engine_gets_wrong_is_found_by_the_case_that_is_about_it() {
    let place = Place::new();
    let config = place.file("naive.yml", "timeout: 12\nscript: { script: '{script}' }\n");
    let engine = library("naive_engine").display().to_string();
    let mut arguments = vec!["library", "check", &engine, "--config", &config, "--json"];
    for case in WRONG.iter().map(|(case, _)| case).chain(RIGHT) {
        arguments.extend(["--only", case]);
    }
    let ended = place.run(&arguments);
    assert_eq!((ended.code(), ended.err().as_str()), (1, ""), "{}", ended.stdout);
    let lines: BTreeMap<String, Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .filter_map(|line: Value| Some((line["case"].as_str()?.to_owned(), line)))
        .collect();
    assert_eq!(lines.len(), WRONG.len() + RIGHT.len());
    for (case, start) in WRONG {
        let reason = lines[*case]["reason"].as_str().unwrap_or_default();
        assert!(
            lines[*case]["outcome"] == "failed" && reason.starts_with(start),
            "{case}: {}",
            lines[*case]
        );
    }
    for case in RIGHT {
        assert_eq!(lines[*case]["outcome"], "passed", "{}", lines[*case]);
    }
}
