//! Plugins that panic, hang and block, in every call that a plugin has: what the operator sees, what the task's author
//! sees, and that tasks beside it do not notice. The libraries are in `tests/fixtures/wrong`.

mod support;
mod wrong_support;

use support::library;
use wrong_support::{Author, IMPATIENT, PATIENT, Scene, harmless, operator_reads, unhealthy, wrong};

/// What both configurations begin with, and the plugin's own.
fn configured(bounds: &str, plugin: &str, call: &str) -> String {
    format!("{bounds}\nplugins: {{{plugin}: {{wrong: {call}}}}}\n")
}

#[test]
fn a_panic_in_a_hook_costs_its_task_and_makes_the_library_unhealthy() {
    let hooks = [
        ("new_task_plugin", "Plugin", Author::Incident),
        ("prepare", "TaskPlugin", Author::Incident),
        ("build_sandbox", "TaskPlugin", Author::Incident),
        ("started", "TaskPlugin", Author::Incident),
        ("stopped", "TaskPlugin", Author::Incident),
        ("finished", "TaskPlugin", Author::Late),
        ("dispose", "TaskPlugin", Author::Completed),
    ];
    for (hook, object, author) in hooks {
        let line = format!(
            "ERROR plugin 'panics-plugin', {hook}: {object}.{hook} panicked: wrong in {hook}, as it was asked for \
             task_id=TASK run_id=0 incident="
        );
        let scene = Scene::with_plugin("panics", PATIENT);
        unhealthy(
            scene,
            "libwrong_panics.so",
            &format!("wrong: {hook}"),
            author,
            &[
                &line,
                "ERROR panicked at tests/fixtures/wrong/libraries/panics.rs:9:9: wrong in ",
            ],
        );
    }
}

#[test]
fn a_panic_in_a_later_poll_is_one_like_any_other() {
    let scene = Scene::with_plugin("panics_later", PATIENT);
    unhealthy(
        scene,
        "libwrong_panics_later.so",
        "wrong: started",
        Author::Incident,
        &[
            "ERROR plugin 'panics-later-plugin', started: TaskPlugin.started panicked: wrong in started, as it was asked for",
        ],
    );
}

/// That its payload is malformed is what the author reads, whatever a library does then.
#[test]
fn a_panic_in_exception_does_not_change_why_the_task_ends() {
    let mut scene = Scene::with_plugin("panics", PATIENT);
    scene.starts();
    scene.begins("beside", "");
    let task = "maxRunTime: 60\n  command: [[\"a\\0b\"]]\n  wrong: exception";
    let file = scene
        .place
        .file("malformed.yml", &format!("payload:\n  {task}\n"));
    let seen = scene.place.run(&["submit", "--watch", &file]);
    assert_eq!(seen.code(), 2);
    assert!(
        seen.err().contains("task TASK: exception (malformed-payload)\n"),
        "{}",
        seen.err()
    );
    assert!(
        seen.out().contains("command[0] contains the character NUL"),
        "{}",
        seen.out()
    );
    scene.ends("beside");
    let ended = scene.leaves();
    assert_eq!(ended.code(), 69);
    operator_reads(
        &ended,
        &[
            "plugin 'panics-plugin', exception: TaskPlugin.exception panicked: wrong in exception, as it was asked for",
        ],
        "exception",
    );
    scene.leaves_nothing();
}

/// Nobody waits for a destructor, so nobody can be told but the operator.
#[test]
fn panics_in_destructors_and_wakers_are_reported_and_do_no_harm() {
    harmless(
        Scene::with_plugin("panics", PATIENT),
        "wrong: drop",
        Author::Completed,
        &[
            "ERROR panicked at tests/fixtures/wrong/src/lib.rs:75:9: wrong in drop, as it was asked for library=\"panics\"",
        ],
    );
    harmless(
        Scene::with_plugin("panics_when_woken", PATIENT),
        "wrong: prepare",
        Author::Completed,
        &["the waker panics again, when it is dropped library=\"panics-when-woken\""],
    );
}

/// A call that hangs is dropped, and this one panics then, with a payload that panics when it is dropped.
#[test]
fn a_panic_in_a_call_that_is_dropped_is_contained() {
    let scene = Scene::with_plugin("panics_when_dropped", IMPATIENT);
    unhealthy(
        scene,
        "libwrong_panics_when_dropped.so",
        "wrong: started",
        Author::Incident,
        &[
            "ERROR plugin 'panics-when-dropped-plugin', started: it did not return within 2 s",
            "ERROR panicked at tests/fixtures/wrong/libraries/panics_when_dropped.rs:",
        ],
    );
}

#[test]
fn a_hook_that_hangs_is_given_up_at_its_deadline() {
    let hooks = [
        ("new_task_plugin", Author::Incident),
        ("prepare", Author::Incident),
        ("build_sandbox", Author::Incident),
        ("started", Author::Incident),
        ("stopped", Author::Incident),
        ("finished", Author::Late),
        ("dispose", Author::Completed),
    ];
    for (hook, author) in hooks {
        let line = format!(
            "ERROR plugin 'hangs-plugin', {hook}: it did not return within 2 s, nor used the host's services meanwhile"
        );
        let scene = Scene::with_plugin("hangs", IMPATIENT);
        unhealthy(
            scene,
            "libwrong_hangs.so",
            &format!("wrong: {hook}"),
            author,
            &[&line],
        );
    }
}

/// The worker was done, and waits for the last clean-up only.
#[test]
fn a_library_that_hangs_in_the_last_clean_up_counts_too() {
    let place = support::cli::Place::new();
    place.plugins([wrong("hangs")]);
    let mut libraries = place.native();
    libraries.extend(["--number-of-tasks", "1"].map(str::to_owned));
    let mut scene = Scene::new(place, libraries, IMPATIENT, true);
    scene.starts();
    Author::Completed.is(&scene.author_sees("wrong: dispose"), "dispose");
    let ended = scene.leaves();
    operator_reads(
        &ended,
        &["ERROR the library 'libwrong_hangs.so' panicked or hung, so the worker leaves"],
        "dispose",
    );
    assert_eq!(ended.code(), 69);
    scene.leaves_nothing();
}

/// It has kept its word in the end, so it is not unhealthy; its task is over all the same.
#[test]
fn a_call_that_returns_after_its_deadline_costs_its_task_only() {
    harmless(
        Scene::with_plugin("late", IMPATIENT),
        "wrong: new_task_plugin",
        Author::Incident,
        &[
            "WARN plugin 'late-plugin', new_task_plugin takes too long: the task is cancelled",
            "ERROR plugin 'late-plugin', new_task_plugin: it took too long, and returned only when the task was cancelled",
        ],
    );
}

/// A library has two threads for its futures. When both are blocked, no task that the library takes part in gets
/// further, so the one beside it ends, too, and the worker does not wait for ever.
#[test]
fn a_library_that_blocks_its_threads_does_not_keep_the_worker() {
    let mut scene = Scene::with_plugin("blocks", IMPATIENT);
    scene.starts();
    let beside = scene.begins("beside", "");
    Author::Incident.is(&scene.author_sees("wrong: prepare"), "blocks");
    scene.worker().says("the library is unhealthy");
    scene.ends("beside");
    let ended = scene.leaves();
    assert_eq!(ended.code(), 69);
    operator_reads(
        &ended,
        &[
            "ERROR plugin 'blocks-plugin', prepare: it did not return within 2 s, nor used the host's services meanwhile",
            "ERROR plugin 'blocks-plugin', stopped: it did not return within 2 s",
            "ERROR dispose did not return within 2 s; it is left to itself name=\"blocks-plugin\"",
        ],
        "blocks",
    );
    assert_eq!(scene.afterwards(&beside), "exception (internal-error)");
    scene.leaves_nothing();
}

/// A plugin that cannot be made is left out, visibly; tasks that do not ask for it run.
#[test]
fn a_plugin_that_cannot_be_made_is_left_out() {
    let rows = [
        (
            "panics",
            "panics-plugin",
            "new_plugin",
            PATIENT,
            "PluginProvider.new_plugin panicked: wrong in new_plugin, as it was asked for; it is left out",
        ),
        (
            "panics",
            "panics-plugin",
            "description",
            PATIENT,
            "PluginProvider.new_plugin panicked: wrong in description, as it was asked for; it is left out",
        ),
        (
            "hangs",
            "hangs-plugin",
            "new_plugin",
            IMPATIENT,
            "it did not return within 2 s; ask its vendor, leave it out, or raise `libraries.startTimeout`; it is left out",
        ),
        (
            "blocks",
            "blocks-plugin",
            "new_plugin",
            IMPATIENT,
            "it did not return within 2 s; ask its vendor, leave it out, or raise `libraries.startTimeout`; it is left out",
        ),
        (
            "nests",
            "nests-plugin",
            "new_plugin",
            PATIENT,
            "wrong in new_plugin, with a detail; it is left out",
        ),
    ];
    for (file, plugin, call, bounds, why) in rows {
        let mut scene = Scene::with_plugin(file, &configured(bounds, plugin, call));
        scene.starts();
        Author::Completed.is(&scene.author_sees(""), call);
        let refused = scene.author_sees("wrong: prepare");
        assert_eq!((refused.code(), refused.out().as_str()), (2, ""));
        let reads = "`wrong` is not a known key; known here: ";
        assert!(refused.err().contains(reads), "{}", refused.err());
        let ended = scene.interrupted();
        let line =
            format!("ERROR plugin {plugin} (libwrong_{file}.so) does not start: {why} plugin=\"{plugin}\"");
        operator_reads(&ended, &[&line], call);
        assert_eq!(ended.code(), 71);
        scene.leaves_nothing();
    }
}

/// What is told to a plugin beside its tasks.
#[test]
fn a_panic_in_what_a_plugin_is_told_makes_its_library_unhealthy_too() {
    // An error that is not the plugin's.
    let place = support::cli::Place::new();
    let plugins = place.plugins([wrong("panics"), library("task_log_plugin")]);
    let libraries = support::cli::flags(&wrong("nests"), &plugins);
    let configuration = configured(PATIENT, "panics-plugin", "report_non_fatal_error");
    let mut scene = Scene::new(place, libraries, &configuration, false);
    scene.starts();
    scene.begins("beside", "");
    let seen = scene.author_sees("wrongEngine: start");
    Author::Incident.is(&seen, "report_non_fatal_error");
    scene.ends("beside");
    let ended = scene.leaves();
    operator_reads(
        &ended,
        &[
            "WARN report_non_fatal_error failed plugin=\"panics-plugin\" error=Plugin.report_non_fatal_error panicked: \
           wrong in report_non_fatal_error, as it was asked for (Panicked)",
        ],
        "",
    );
    assert_eq!(ended.code(), 69);
    scene.leaves_nothing();

    // Nothing to do.
    let configuration = configured(PATIENT, "panics-plugin", "report_idle");
    let mut scene = Scene::with_plugin("panics", &configuration);
    scene.starts();
    let ended = scene.leaves();
    operator_reads(&ended, &["WARN report_idle failed plugin=\"panics-plugin\""], "");
    assert_eq!(ended.code(), 69);
    scene.leaves_nothing();
}

#[test]
fn a_plugin_that_fails_to_end_does_not_keep_the_worker() {
    let rows = [
        (
            "panics",
            "panics-plugin",
            PATIENT,
            "WARN dispose failed name=\"panics-plugin\" error=Plugin.dispose panicked",
        ),
        (
            "hangs",
            "hangs-plugin",
            IMPATIENT,
            "ERROR dispose did not return within 2 s; it is left to itself name=\"hangs-plugin\"",
        ),
    ];
    for (file, plugin, bounds, line) in rows {
        let mut scene = Scene::with_plugin(file, &configured(bounds, plugin, "dispose_plugin"));
        scene.starts();
        Author::Completed.is(&scene.author_sees(""), file);
        let ended = scene.interrupted();
        operator_reads(&ended, &[line], file);
        assert_eq!(ended.code(), 71);
        scene.leaves_nothing();
    }
}
