//! `tcw-host library check` against libraries that do wrong: the right case fails, with words that lead to the mistake,
//! and the check goes on.

mod support;

use std::path::Path;

use serde_json::Value;
use support::cli::{Place, processes_with};
use support::{library, vendor_library};

/// Runs one case with a check file that makes the library wrong. Answers why it failed.
#[track_caller]
fn fails(library: &Path, case: &str, config: &str) -> String {
    let place = Place::new();
    let config = place.file("wrong.yml", config);
    let library = library.display().to_string();
    let ended = place.run(&[
        "library", "check", &library, "--config", &config, "--only", case, "--json",
    ]);
    assert_eq!((ended.code(), ended.err().as_str()), (1, ""), "{}", ended.stdout);
    let mut lines = ended.stdout.lines();
    let line: Value = serde_json::from_str(lines.next().expect("a case")).expect("JSON");
    assert_eq!(
        (&line["case"], &line["outcome"]),
        (&case.into(), &"failed".into())
    );
    let summary: Value = serde_json::from_str(lines.next().expect("a summary")).expect("JSON");
    assert_eq!(summary["summary"]["failed"], 1);
    line["reason"].as_str().expect("a reason").to_owned()
}

/// The mock engine, whose payload for `purpose` does something else.
#[track_caller]
fn mock(case: &str, purpose: &str, payload: &str) -> String {
    let config = format!("payloads: {{ {purpose}: {payload} }}\n");
    fails(&library("mock_engine"), case, &config)
}

/// The same where something is waited for in vain.
#[track_caller]
fn mock_in_vain(case: &str, purpose: &str, payload: &str) -> String {
    let config = format!("timeout: 8\npayloads: {{ {purpose}: {payload} }}\n");
    fails(&library("mock_engine"), case, &config)
}

#[test]
fn output_that_is_missing_wrong_or_too_much_is_found() {
    let missing = mock("log/target-appears", "print", "{ function: 'true' }");
    assert_eq!(
        missing,
        "expected the line \"this line is looked for by tcw-host library check\" in the task's output, seen \"\"\nthe \
         log is empty"
    );
    let noisy = mock(
        "log/silent-task",
        "silent",
        "{ function: write-log, argument: noise }",
    );
    assert_eq!(
        noisy,
        "the output of a task that prints nothing: expected \"\", seen \"noise\\n\"\nthe log:\n  noise"
    );
    let success = mock(
        "log/target-when-failing",
        "print-and-fail",
        "{ function: write-log, argument: '{text}' }",
    );
    assert!(
        success.starts_with("the task has to end as no success, and its report says a success: "),
        "{success}"
    );
    let short = mock(
        "log/64-mebibytes",
        "print-bytes",
        "{ function: flood-log, argument: '67108863' }",
    );
    assert!(
        short.starts_with("bytes in the task's output: expected 67108864, seen 67108863\n"),
        "{short}"
    );
    let late = mock_in_vain("log/live", "print-and-wait", "{ function: wait }");
    assert!(
        late.starts_with(
            "expected \"this line is looked for by tcw-host library check\" in the task's output while"
        ),
        "{late}"
    );
}

#[test]
fn variables_and_files_that_do_not_arrive_are_found() {
    let value = mock(
        "environment/print",
        "print-variable",
        "{ function: write-log, argument: something else }",
    );
    assert!(
        value.starts_with(
            "what the task prints as the variable's value: expected \"Hello World\\n\", seen \"something else\\n\"\n"
        ),
        "{value}"
    );
    let inherited = mock(
        "environment/not-inherited",
        "print-variable",
        "{ function: write-log, argument: seen }",
    );
    assert!(
        inherited.starts_with("the task sees TCW_CHECK_INHERITED, a variable of the worker's process"),
        "{inherited}"
    );
    let nested = mock(
        "artifacts/nested-folder",
        "write-files",
        "{ function: write-files, argument: 'nested/a.txt nested/sub/b.txt' }",
    );
    assert!(
        nested.starts_with(
            "the files of the folder, and how often each came: expected {\"a.txt\": 1, \"sub/b.txt\": 1, \
             \"sub/deeper/c.txt\": 1}, seen {\"a.txt\": 1, \"sub/b.txt\": 1}"
        ),
        "{nested}"
    );
    let file = mock(
        "put-file/read",
        "print-file",
        "{ function: write-log, argument: made up }",
    );
    assert!(file.starts_with("what the task reads: expected ["), "{file}");
}

#[test]
fn a_call_that_fails_panics_or_never_returns_is_named() {
    let faulty = |at: &str, what: &str| {
        mock(
            "log/silent-task",
            "silent",
            &format!("{{ faults: [{{ at: {at}, do: {what} }}] }}"),
        )
    };
    assert_eq!(
        faulty("start", "panic"),
        "SandboxBuilder.start has to succeed, and answered: SandboxBuilder.start panicked: a fault at Start, as it was \
         asked for (Panicked)\nthe log is empty"
    );
    for (at, what) in [
        ("discard", "SandboxBuilder.discard after start"),
        ("wait", "Sandbox.wait"),
        ("dispose", "ResultSet.dispose"),
        ("new-sandbox-builder", "Engine.new_sandbox_builder"),
    ] {
        let reason = faulty(at, "error");
        assert!(
            reason.starts_with(&format!("{what} has to succeed, and answered: a fault at ")),
            "{reason}"
        );
    }
    let hang = mock_in_vain(
        "log/silent-task",
        "silent",
        "{ faults: [{ at: wait, do: hang }] }",
    );
    assert!(
        hang.starts_with("Sandbox.wait did not return within 6 s\n"),
        "{hang}"
    );
    let engine = fails(
        &library("mock_engine"),
        "engine/healthy",
        "engine: { unhealthyReason: out of sorts }\n",
    );
    assert_eq!(engine, "the engine says that it cannot take tasks: out of sorts");
    let dispose = fails(
        &library("mock_engine"),
        "engine/described",
        "engine: { faults: [{ at: dispose-engine, do: panic }] }\n",
    );
    assert!(dispose.contains("Engine.dispose panicked"), "{dispose}");
}

#[test]
fn a_crash_is_the_result_of_its_case_alone() {
    let place = Place::new();
    let config = place.file(
        "crash.yml",
        "payloads:\n  silent: { faults: [{ at: start, do: crash }] }\n  print: { function: write-log, argument: '{text}' }\n",
    );
    let engine = library("mock_engine").display().to_string();
    let ended = place.run(&[
        "library",
        "check",
        &engine,
        "--config",
        &config,
        "--only",
        "log/silent-task",
        "--only",
        "log/target-appears",
    ]);
    assert_eq!((ended.code(), ended.err().as_str()), (1, ""));
    let out = ended.out();
    let expected = "passed  log/target-appears\nFAILED  log/silent-task: A task that prints nothing has an empty log, and \
                    is a success\n          the process that ran it was ended by signal 6 (SIGABRT); the last step \
                    was: SandboxBuilder.start\n";
    assert!(out.starts_with(expected), "{out}");
    assert!(
        out.contains(": 1 passed, 1 failed, 0 skipped, 0 do not apply ("),
        "{out}"
    );
}

#[test]
fn threads_that_are_blocked_for_ever_do_not_hide_what_failed_first() {
    // Both threads of the library stand still, so the clean-up hangs too.
    let reason = mock_in_vain(
        "log/silent-task",
        "silent",
        "{ faults: [{ at: start, do: block }, { at: discard, do: block }] }",
    );
    assert!(
        reason.starts_with("SandboxBuilder.start did not return within 6 s"),
        "{reason}"
    );
}

#[test]
fn processes_that_are_left_behind_are_found_and_ended() {
    let marker = format!("86399.{}", std::process::id());
    let engine = vendor_library("script-engine", "script_engine");
    // Out of the group that the engine ends.
    let config = format!(
        "timeout: 8\npayloads: {{ silent: {{ script: 'setsid sleep {marker} >/dev/null 2>&1 & while ! pgrep -f \"^sleep {marker}\" >/dev/null; do :; done' }} }}\n"
    );
    let reason = fails(&engine, "log/silent-task", &config);
    assert!(
        reason.starts_with("processes were left behind when everything was disposed of: sleep ("),
        "{reason}"
    );
    assert_eq!(processes_with(&marker), Vec::<u32>::new());
    // With the output open.
    let config = config.replace(" >/dev/null 2>&1 &", " &");
    let reason = fails(&engine, "log/silent-task", &config);
    assert!(
        reason.starts_with(
            "after ResultSet.dispose every object of the task was dropped, and somebody still holds"
        ),
        "{reason}"
    );
    assert_eq!(processes_with(&marker), Vec::<u32>::new());
}

#[test]
fn hooks_of_a_plugin_that_go_wrong_fail_the_case_that_calls_them() {
    let plugin = |case: &str, script: &str| {
        fails(
            &library("scripted_library"),
            case,
            &format!(
                "timeout: 8\nplugins: {{ scripted: {{ configuration: {{ name: p, socket: /nowhere, script: {{ {script} }} }} }} }}\n"
            ),
        )
    };
    assert!(plugin("plugin/whole-life", "started: panic").starts_with(
        "TaskPlugin.started answered: TaskPlugin.started panicked: p panics in started (Panicked)"
    ));
    assert!(
        plugin("plugin/exceptions", "exception: 'error:FatalInternal:broken'")
            .starts_with("exception 'resource-unavailable' after None: TaskPlugin.exception answered: broken (FatalInternal)")
    );
    assert!(
        plugin("plugin/dispose-alone", "dispose: hang")
            .starts_with("TaskPlugin.dispose did not return within 6 s")
    );
    assert!(
        plugin("plugin/malformed", "new_task_plugin: panic")
            .starts_with("Plugin.new_task_plugin has to succeed, and answered: ")
    );
}

#[test]
fn every_group_has_cases_that_an_engine_which_answers_errors_fails() {
    let engine = library("mock_engine");
    for (case, purpose, function, at, called) in [
        (
            "environment/print",
            "print-variable",
            "print-env-var",
            "set-environment-variable",
            "SandboxBuilder.set_environment_variable(",
        ),
        (
            "put-file/extracted",
            "silent",
            "'true'",
            "put-file",
            "SandboxBuilder.put_file",
        ),
        (
            "artifacts/text-file",
            "write-files",
            "write-files",
            "extract-file",
            "ResultSet.extract_file",
        ),
        (
            "artifacts/nested-folder",
            "write-files",
            "write-files",
            "extract-folder",
            "ResultSet.extract_folder",
        ),
        (
            "artifacts/interrupted",
            "write-files",
            "write-files",
            "next-file",
            "FolderStream.next",
        ),
        (
            "shells/default",
            "print-and-wait",
            "write-log-wait",
            "new-shell",
            "Sandbox.new_shell",
        ),
        (
            "kill/running",
            "print-and-wait",
            "write-log-wait",
            "kill",
            "Sandbox.kill",
        ),
        (
            "log/live",
            "print-and-wait",
            "write-log-wait",
            "abort",
            "Sandbox.abort",
        ),
    ] {
        let reason = fails(
            &engine,
            case,
            &format!(
                "payloads: {{ {purpose}: {{ function: {function}, argument: '{{text}}{{variable}}{{files}}', faults: [{{ at: {at}, do: error, times: 1 }}] }} }}\n"
            )
            .replace("{text}{variable}{files}", match purpose {
                "print-variable" => "{variable}",
                "write-files" => "{files}",
                _ => "{text}",
            })
            .replace("\n", "\nshells: { hello: print-hello, fail: exit-false, wait: sleep }\n"),
        );
        assert!(reason.starts_with(called), "{case}: {reason}");
        assert!(
            reason.contains("has to succeed, and answered: a fault at "),
            "{case}: {reason}"
        );
    }
}

#[test]
fn what_runs_and_does_something_else_is_found_too() {
    let native = |case: &str, more: &str| {
        let config = format!("script: {{ command: [[/bin/sh, -c, '{{script}}']] }}\n{more}\n");
        fails(&library("native_engine"), case, &config)
    };
    let payload = |purpose: &str, script: &str| {
        format!("payloads: {{ {purpose}: {{ command: [[/bin/sh, -c, \"{script}\"]] }} }}")
    };
    for (case, more, start) in [
        (
            "log/standard-error",
            payload("print-error", ":"),
            "expected the line \"this line is looked for by tcw-host library check\" in the task's output, seen \"\"",
        ),
        (
            "log/one-byte",
            payload("print-bytes", "printf ab"),
            "bytes in the task's output: expected 1, seen 2",
        ),
        (
            "artifacts/mode",
            payload("write-executable", "touch {file}; chmod 700 {file}"),
            "the permissions of a file: expected 488, seen 448",
        ),
        (
            "artifacts/folder-not-found",
            payload("silent", "mkdir no-such-folder"),
            "extracting a folder that is not there has to answer ResourceNotFound, and succeeded",
        ),
        (
            "shells/default",
            "shells: { hello: 'echo no' }".to_owned(),
            "the shell's stdout: expected \"\\\"Hello World\\\"\", seen \"\\\"no\\\\n\\\"\"",
        ),
        (
            "shells/failing",
            "shells: { fail: 'exit 0' }".to_owned(),
            "Shell.wait of a shell that fails: expected false, seen true",
        ),
        (
            "shells/command",
            "shells: { command: [/bin/sh, -c, 'unset TCW_OF_TASK; {script}'] }".to_owned(),
            "the task's and the shell's own variable in a shell: expected Some(\"task:shell\"), seen Some(\":shell\")",
        ),
        (
            "shells/streams",
            "shells: { command: [/bin/sh, -c, 'head -c 1000000; cat >/dev/null # {script}'] }".to_owned(),
            "a megabyte that went through `cat` came back changed, or not whole",
        ),
        (
            "shells/terminal",
            "shells: { command: [/bin/sh, -c, 'echo 1 2 # {script}'] }".to_owned(),
            "expected rows and columns \"24 80\" on the terminal, seen \"1 2",
        ),
        (
            "shells/outlives-the-task",
            payload(
                "wait-for-file",
                "echo '{text}'; until [ -e '{file}' ]; do :; done; exit 1",
            ),
            "the task has to end as a success",
        ),
    ] {
        let reason = native(case, &more);
        assert!(reason.starts_with(start), "{case}: {reason}");
    }
}
