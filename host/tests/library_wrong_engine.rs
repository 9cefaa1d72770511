//! Engines that panic, hang and block, in every call that an engine has: what the operator sees, what the task's author
//! sees, and that tasks beside it do not notice. The libraries are in `tests/fixtures/wrong`.

mod support;
mod wrong_support;

use support::cli::{Place, flags};
use support::library;
use wrong_support::{Author, IMPATIENT, PATIENT, Scene, harmless, operator_reads, unhealthy, wrong};

/// The host itself makes these calls. What is answered is a task without a verdict, or one whose end was decided before.
#[test]
fn a_panic_in_a_call_of_the_host_costs_its_task_and_makes_the_library_unhealthy() {
    let rows = [
        (
            "new_sandbox_builder",
            "new_sandbox_builder: Engine.new_sandbox_builder",
            Author::Incident,
        ),
        ("start", "start: SandboxBuilder.start", Author::Incident),
        (
            "sandbox_description",
            "start: SandboxBuilder.start",
            Author::Incident,
        ),
        ("wait", "wait: Sandbox.wait", Author::Incident),
        ("report", "wait: Sandbox.wait", Author::Incident),
        (
            "dispose_results",
            "giving the sandbox back: ResultSet.dispose",
            Author::Completed,
        ),
    ];
    for (call, place, author) in rows {
        let line = format!(
            "ERROR engine 'panics', {place} panicked: wrong in {call}, as it was asked for task_id=TASK"
        );
        let scene = Scene::with_engine("panics", PATIENT);
        unhealthy(
            scene,
            "libwrong_panics.so",
            &format!("wrongEngine: {call}"),
            author,
            &[&line],
        );
    }
}

/// Plugins make these calls. The engine is to blame, not the plugin that is told.
#[test]
fn a_panic_in_a_call_of_a_plugin_is_put_down_to_the_engine() {
    let rows = [
        (
            "set_environment_variable",
            "SandboxBuilder.set_environment_variable",
            "set_environment_variable",
        ),
        ("put_file", "SandboxBuilder.put_file", "put_file"),
        ("attach_volume", "SandboxBuilder.attach_volume", "attach_volume"),
        ("attach_device", "SandboxBuilder.attach_device", "attach_device"),
        ("set_limits", "SandboxBuilder.set_limits", "set_limits"),
        ("attach_proxy", "SandboxBuilder.attach_proxy", "attach_proxy"),
        ("new_shell", "Sandbox.new_shell", "new_shell"),
        ("set_size", "Shell.set_size", "Shell.set_size"),
        ("abort_shell", "Shell.abort", "Shell.abort"),
        ("wait_for_shell", "Shell.wait", "Shell.wait"),
        ("list_displays", "Sandbox.list_displays", "list_displays"),
        ("open_display", "Sandbox.open_display", "open_display"),
        ("resource_usage", "Sandbox.resource_usage", "resource_usage"),
        ("extract_file", "ResultSet.extract_file", "extract_file"),
        ("extract_folder", "ResultSet.extract_folder", "extract_folder"),
        ("next_file", "FolderStream.next", "next"),
        ("archive", "ResultSet.archive", "archive"),
    ];
    for (call, method, place) in rows {
        let line = format!(
            "ERROR engine 'panics', {place}: {method} panicked: wrong in {call}, as it was asked for task_id=TASK"
        );
        let scene = Scene::with_engine("panics", PATIENT);
        let payload = format!("exercise: true\n  kills: false\n  wrongEngine: {call}");
        unhealthy(scene, "libwrong_panics.so", &payload, Author::Completed, &[&line]);
    }
}

/// The end of a task that a plugin, or the queue, has asked for.
#[test]
fn a_panic_where_a_sandbox_is_ended_early_is_the_engines() {
    // The exerciser is refused, so the task runs to its own end: at once, as it waits for nothing.
    unhealthy(
        Scene::with_engine("panics", PATIENT),
        "libwrong_panics.so",
        "exercise: true\n  kills: true\n  wrongEngine: kill",
        Author::Completed,
        &[
            "ERROR engine 'panics', kill: Sandbox.kill panicked: wrong in kill, as it was asked for task_id=TASK",
        ],
    );

    // A sandbox that cannot be ended is the worker's problem, whatever the task's was: here, that it was cancelled.
    let rows = [
        (
            "panics",
            "Sandbox.abort panicked: wrong in abort, as it was asked for",
        ),
        (
            "hangs",
            "it did not return within 2 s after the task was given up",
        ),
    ];
    for (name, why) in rows {
        let configuration = format!("{IMPATIENT}\nworker: {{capacity: 2, cancellationInterval: 1}}");
        let mut scene = Scene::with_engine(name, &configuration);
        scene.starts();
        let beside = scene.begins("beside", "");
        let task = scene.begins("cancelled", "wrongEngine: abort");
        assert_eq!(scene.place.run(&["cancel", &task]).code(), 0);
        scene.worker().says("the library is unhealthy");
        scene.ends("beside");
        let ended = scene.leaves();
        operator_reads(&ended, &[&format!("ERROR engine '{name}', abort: {why}")], name);
        assert_eq!(ended.code(), 69);
        assert_eq!(
            (
                scene.afterwards(&beside).as_str(),
                scene.afterwards(&task).as_str()
            ),
            ("completed", "exception (canceled)")
        );
        scene.leaves_nothing();
    }
}

/// What it ought to throw away is a builder whose task a plugin has refused.
#[test]
fn a_panic_where_a_builder_is_thrown_away_is_the_engines_although_a_plugin_failed_first() {
    let place = Place::new();
    let plugins = place.plugins([wrong("nests"), library("task_log_plugin")]);
    let scene = Scene::new(place, flags(&wrong("panics"), &plugins), PATIENT, false);
    unhealthy(
        scene,
        "libwrong_panics.so",
        "wrongApart: build_sandbox\n  wrongEngine: discard",
        Author::Incident,
        &[
            "ERROR plugin 'nests-apart', build_sandbox: wrong in build_sandbox, with a detail",
            "ERROR engine 'panics', giving the sandbox back: SandboxBuilder.discard panicked: wrong in discard, as it was",
        ],
    );
}

/// What an earlier process left stays written down, for the next start.
#[test]
fn an_engine_that_panics_when_it_recovers_does_not_keep_the_worker() {
    let mut scene = Scene::with_engine("panics", &format!("{PATIENT}\nengine: {{wrong: recover}}"));
    scene.starts();
    assert_eq!(scene.interrupted().code(), 71);
    for _ in 0..2 {
        scene.starts();
        Author::Completed.is(&scene.author_sees(""), "recover");
        let ended = scene.interrupted();
        let line = "WARN left by an earlier process: the engine could not remove what is left: Engine.recover panicked: \
                    wrong in recover, as it was asked for";
        operator_reads(&ended, &[line], "recover");
        assert_eq!(ended.code(), 71);
        scene.leaves_nothing();
    }
}

/// Nobody waits for a destructor.
#[test]
fn panics_in_destructors_of_an_engine_do_no_harm() {
    harmless(
        Scene::with_engine("panics", PATIENT),
        "wrongEngine: drop_sandbox",
        Author::Completed,
        &["wrong in drop_sandbox, as it was asked for library=\"panics\""],
    );
}

#[test]
fn a_call_that_hangs_is_given_up_at_its_deadline() {
    let rows = [
        ("new_sandbox_builder", Author::Incident),
        ("start", Author::Incident),
    ];
    for (call, author) in rows {
        let line = format!(
            "ERROR engine 'hangs', {call}: it did not return within 2 s, nor used the host's services meanwhile"
        );
        let cancelled = format!("WARN engine 'hangs', {call} takes too long: the task is cancelled");
        let scene = Scene::with_engine("hangs", IMPATIENT);
        unhealthy(
            scene,
            "libwrong_hangs.so",
            &format!("wrongEngine: {call}"),
            author,
            &[&line, &cancelled],
        );
    }
    let line = "ERROR engine 'hangs', giving the sandbox back: it did not return within 2 s";
    unhealthy(
        Scene::with_engine("hangs", IMPATIENT),
        "libwrong_hangs.so",
        "wrongEngine: dispose_results",
        Author::Completed,
        &[line],
    );
}

/// The worker cannot do without its engine, so the text is the program's last word.
#[test]
fn an_engine_that_cannot_be_made_stops_the_worker_at_its_start() {
    let late =
        "it did not return within 2 s; ask its vendor, leave it out, or raise `libraries.startTimeout`";
    let rows = [
        (
            "panics",
            "new_engine",
            PATIENT,
            "EngineProvider.new_engine panicked: wrong in new_engine, as it was asked for",
        ),
        (
            "panics",
            "description",
            PATIENT,
            "EngineProvider.new_engine panicked: wrong in description, as it was asked for",
        ),
        ("hangs", "new_engine", IMPATIENT, late),
        ("blocks", "new_engine", IMPATIENT, late),
        (
            "nests",
            "new_engine",
            PATIENT,
            "wrong in new_engine, with a detail",
        ),
    ];
    for (name, call, bounds, why) in rows {
        let scene = Scene::with_engine(name, &format!("{bounds}\nengine: {{wrong: {call}}}"));
        let ended = scene.place.run(&scene.arguments(&["run"]));
        ended.refuses(
            69,
            &format!("tcw-host: engine {name} (libwrong_{name}.so) does not start: {why}\n"),
        );
        scene.leaves_nothing();
    }
}

/// An engine that is not well is asked again; one that cannot say so is not.
#[test]
fn an_engine_that_panics_or_hangs_when_it_is_asked_how_it_is_ends_the_worker() {
    let rows = [
        (
            "panics",
            PATIENT,
            "Engine.health panicked: wrong in health, as it was asked for (Panicked)",
        ),
        ("hangs", IMPATIENT, "it did not say how it is within 2 s"),
        ("blocks", IMPATIENT, "it did not say how it is within 2 s"),
    ];
    for (name, bounds, why) in rows {
        let mut scene = Scene::with_engine(name, &format!("{bounds}\nengine: {{wrong: health}}"));
        scene.starts();
        let ended = scene.leaves();
        operator_reads(
            &ended,
            &[&format!(
                "ERROR the engine cannot say how it is engine=\"{name}\" reason=\"{why}\""
            )],
            name,
        );
        assert_eq!(ended.code(), 69);
        scene.leaves_nothing();
    }
    let mut scene = Scene::with_engine("nests", &format!("{PATIENT}\nengine: {{wrong: health}}"));
    scene
        .starts()
        .says("the engine is not well: nothing is claimed until it is");
    let ended = scene.interrupted();
    assert_eq!(ended.code(), 71);
}

#[test]
fn an_engine_that_fails_to_end_does_not_keep_the_worker() {
    let rows = [
        (
            "panics",
            PATIENT,
            "WARN dispose failed name=\"panics\" error=Engine.dispose panicked",
        ),
        (
            "hangs",
            IMPATIENT,
            "ERROR dispose did not return within 2 s; it is left to itself name=\"hangs\"",
        ),
    ];
    for (name, bounds, line) in rows {
        let mut scene = Scene::with_engine(name, &format!("{bounds}\nengine: {{wrong: dispose_engine}}"));
        scene.starts();
        Author::Completed.is(&scene.author_sees(""), name);
        let ended = scene.interrupted();
        operator_reads(&ended, &[line], name);
        assert_eq!(ended.code(), 71);
        scene.leaves_nothing();
    }
}

/// Volumes belong to the worker, not to a task: the engine is asked for one by a plugin, which says what it was told.
#[test]
fn a_panic_in_a_call_about_volumes_reaches_the_plugin_as_an_error() {
    let calls = [
        ("new_volume", "no new_volume: the engine failed: "),
        ("size", "no size: the engine failed: "),
        ("dispose_volume", "no dispose_volume: the engine failed: "),
        ("new_volume_builder", "no new_volume_builder: the engine failed: "),
        ("write_folder", "no write_folder: the engine failed: "),
        ("write_file", "no write_file: the engine failed: "),
        ("build", "no build: the engine failed: "),
        ("discard_volume", "no discard_volume: the engine failed: "),
    ];
    for (call, line) in calls {
        let mut scene = Scene::with_engine("panics", &format!("{PATIENT}\nengine: {{wrong: {call}}}"));
        scene.starts();
        let seen = scene.author_sees("exercise: true");
        Author::Completed.is(&seen, call);
        assert!(seen.out().contains(line), "{}", seen.out());
        let ended = scene.interrupted();
        operator_reads(
            &ended,
            &[&format!(
                "wrong in {call}, as it was asked for library=\"panics\""
            )],
            call,
        );
        assert_eq!(ended.code(), 71);
        scene.leaves_nothing();
    }
}
