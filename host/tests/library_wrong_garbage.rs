//! A library whose answers are not JSON, or of no sense, and whose errors are of kinds that nobody knows: what the
//! operator sees, what the task's author sees, and that tasks beside it do not notice. It is built with a copy of
//! tcw-abi that was made to say so: `tests/fixtures/garbage`.

mod support;
mod wrong_support;

use wrong_support::{Author, PATIENT, Scene, harmless, operator_reads};

#[test]
fn an_engine_that_does_not_describe_itself_stops_the_worker_at_its_start() {
    let scene = Scene::with_engine("garbage", &format!("{PATIENT}\nengine: {{wrong: new_engine}}"));
    scene.place.run(&scene.arguments(&["run"])).refuses(
        69,
        "tcw-host: engine garbage (libwrong_garbage.so) does not start: the description of a Engine that came over the \
         boundary is not what this version expects: invalid type: integer `7`, expected a sequence at line 1 column 14\n",
    );
}

#[test]
fn a_plugin_that_does_not_describe_itself_is_left_out() {
    let configuration = format!("{PATIENT}\nplugins: {{garbage-plugin: {{wrong: new_plugin}}}}");
    let mut scene = Scene::with_plugin("garbage", &configuration);
    scene.starts();
    Author::Completed.is(&scene.author_sees(""), "new_plugin");
    let ended = scene.interrupted();
    operator_reads(
        &ended,
        &[
            "ERROR plugin garbage-plugin (libwrong_garbage.so) does not start: the description of a Plugin that came over \
           the boundary is not what this version expects: expected ident at line 1 column 2; it is left out",
        ],
        "new_plugin",
    );
    assert_eq!(ended.code(), 71);
}

#[test]
fn an_engine_that_does_not_say_how_it_is_is_asked_again() {
    let mut scene = Scene::with_engine("garbage", &format!("{PATIENT}\nengine: {{wrong: health}}"));
    scene
        .starts()
        .says("the engine is not well: nothing is claimed until it is");
    let ended = scene.interrupted();
    operator_reads(
        &ended,
        &["reason=\"a Health that came over the boundary is not what this version expects: EOF"],
        "health",
    );
    assert_eq!(ended.code(), 71);
}

/// Whom the answer was for is who has to do with the error.
#[test]
fn an_answer_that_cannot_be_read_is_a_violation() {
    let read = "that came over the boundary is not what this version expects";
    for (call, author, line) in [
        (
            "start",
            Author::Incident,
            format!("ERROR engine 'garbage', start: the description of a Sandbox {read}: invalid"),
        ),
        (
            "wait",
            Author::Incident,
            format!("ERROR engine 'garbage', wait: the description of a ResultSet {read}: invalid"),
        ),
    ] {
        let ended = harmless(
            Scene::with_engine("garbage", PATIENT),
            &format!("wrongEngine: {call}"),
            author,
            &[&line, "kind=\"ContractViolation\" detail=null unhealthy=false"],
        );
        drop(ended);
    }
    let mut scene = Scene::with_engine("garbage", &format!("{PATIENT}\nengine: {{wrong: new_volume}}"));
    scene.starts();
    for (call, line) in [
        (
            "resource_usage",
            format!("no resource_usage: a ResourceUsage {read}: invalid value: integer `-1`"),
        ),
        (
            "list_displays",
            format!("no list_displays: a Vec<Display> {read}: invalid type: map"),
        ),
        (
            "extract_file",
            format!("no extract_file: ExtractedFile {read}: invalid value: integer `99999999999`"),
        ),
        (
            "nothing",
            format!("no new_volume: the description of a Volume {read}: "),
        ),
    ] {
        let seen = scene.author_sees(&format!("exercise: true\n  wrongEngine: {call}"));
        Author::Completed.is(&seen, call);
        assert!(seen.out().contains(&line), "{line:?} is not in\n{}", seen.out());
    }
    assert_eq!(scene.interrupted().code(), 71);
    scene.leaves_nothing();
}

/// The host answers, and the library hands that on.
#[test]
fn a_question_that_cannot_be_read_is_answered_with_a_violation() {
    harmless(
        Scene::with_plugin("garbage", PATIENT),
        "wrong: prepare",
        Author::Incident,
        &[
            "ERROR plugin 'garbage-plugin', prepare: a LogLevel that came over the boundary is not what this version expects: \
         unknown variant `shouting`, expected one of `info`, `warning`, `error` at line 1 column 10 task_id=TASK",
            "kind=\"ContractViolation\" detail=null unhealthy=false",
        ],
    );
}

#[test]
fn an_error_of_an_unknown_kind_is_of_its_fallback() {
    let mut scene = Scene::with_engine("garbage", PATIENT);
    scene.starts();
    let beside = scene.begins("beside", "");
    let seen = scene.author_sees("wrongEngine: new_sandbox_builder");
    assert_eq!(seen.code(), 2);
    assert!(
        seen.err().contains("task TASK: exception (malformed-payload)\n"),
        "{}",
        seen.err()
    );
    assert!(
        seen.out()
            .contains("[taskcluster:error] of a kind from the future\n"),
        "{}",
        seen.out()
    );
    scene.ends("beside");
    let ended = scene.interrupted();
    assert_eq!(ended.code(), 71);
    assert_eq!(scene.afterwards(&beside), "completed");
    scene.leaves_nothing();

    harmless(
        Scene::with_plugin("garbage", PATIENT),
        "wrong: new_task_plugin",
        Author::Incident,
        &[
            "ERROR plugin 'garbage-plugin', new_task_plugin: of a kind that there is not task_id=TASK",
            "library=\"libwrong_garbage.so\" kind=\"NonFatalInternal\" detail=null unhealthy=false",
        ],
    );
}
