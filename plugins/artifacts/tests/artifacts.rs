//! What is published of what a sandbox left, through the traits and without a host.

mod scene;

use tcw_abi::serde_json::{Value, json};
use tcw_abi::services::{ArtifactPointer, ContentEncoding, LogLevel};
use tcw_abi::testing::FakeFile;
use tcw_abi::{Error, ErrorKind};

use scene::{Scene, error_artifact, file, uploaded};

const TASK_EXPIRES: &str = "2101-01-01T00:00:00.000Z";

#[tokio::test]
async fn a_task_without_artifacts_costs_nothing() {
    for payload in [Value::Null, json!({}), json!({ "artifacts": [] })] {
        let scene = Scene::new(payload).await;
        scene.prepare().await.unwrap();
        assert_eq!(scene.stopped([file("a", "x")]).await, Ok(true));
        assert_eq!(
            (scene.uploads(), scene.pointers(), scene.log()),
            (vec![], vec![], vec![])
        );
    }
}

#[tokio::test]
async fn a_file_is_published_under_its_path_with_what_its_extension_says() {
    let scene = Scene::new(json!({ "artifacts": [{ "type": "file", "path": "public/build.log" }] })).await;
    scene.prepare().await.unwrap();
    assert_eq!(scene.stopped([file("public/build.log", "built")]).await, Ok(true));
    assert_eq!(
        scene.uploads(),
        [uploaded(
            "public/build.log",
            "text/plain",
            ContentEncoding::Gzip,
            None,
            "built"
        )]
    );
    assert_eq!(
        scene.log(),
        [(
            LogLevel::Info,
            format!(
                "Uploading artifact public/build.log from file public/build.log with content encoding \"gzip\", mime type \"text/plain\" and expiry {TASK_EXPIRES}"
            )
        )]
    );
}

#[tokio::test]
async fn what_the_payload_says_comes_first() {
    let scene = Scene::new(json!({ "artifacts": [
        { "type": "file", "path": "/tmp/a.tar.gz", "name": "public/a.tar.gz", "expires": "2100-06-01T02:00:00+02:00" },
        { "type": "file", "path": "b.txt", "name": "b", "contentType": "x/y", "contentEncoding": "identity" },
    ] }))
    .await;
    scene.prepare().await.unwrap();
    assert_eq!(
        scene
            .stopped([file("/tmp/a.tar.gz", "a"), file("b.txt", "b")])
            .await,
        Ok(true)
    );
    assert_eq!(
        scene.uploads(),
        [
            uploaded("b", "x/y", ContentEncoding::Identity, None, "b"),
            uploaded(
                "public/a.tar.gz",
                "application/gzip",
                ContentEncoding::Identity,
                Some("2100-06-01T00:00:00.000Z"),
                "a"
            ),
        ]
    );
}

#[tokio::test]
async fn a_folder_is_published_file_by_file() {
    for (path, name) in [("out", "public/out"), ("out/", "public/out/")] {
        let entry = json!({ "type": "directory", "path": path, "name": name });
        let scene = Scene::new(json!({ "artifacts": [entry] })).await;
        scene.prepare().await.unwrap();
        let files = [
            file("out/a.json", "{}"),
            file("out/deep/er/b.png", "b"),
            file("else", "x"),
        ];
        assert_eq!(scene.stopped(files).await, Ok(true));
        assert_eq!(
            scene.uploads(),
            [
                uploaded(
                    "public/out/a.json",
                    "application/json",
                    ContentEncoding::Gzip,
                    None,
                    "{}"
                ),
                uploaded(
                    "public/out/deep/er/b.png",
                    "image/png",
                    ContentEncoding::Identity,
                    None,
                    "b"
                ),
            ]
        );
        assert!(
            scene
                .log_text()
                .contains("Uploading artifact public/out/deep/er/b.png from file out/deep/er/b.png with"),
            "{}",
            scene.log_text()
        );
    }
}

#[tokio::test]
async fn a_required_file_that_is_missing_fails_the_task_and_the_others_are_published() {
    let scene = Scene::new(json!({ "artifacts": [
        { "type": "file", "path": "gone", "name": "public/gone", "expires": "2100-06-01T00:00:00Z" },
        { "type": "directory", "path": "gone-too" },
        { "type": "file", "path": "there" },
    ] }))
    .await;
    assert_eq!(scene.stopped([file("there", "x")]).await, Ok(false));
    assert_eq!(scene.uploads().len(), 1);
    assert_eq!(
        scene.pointers(),
        [
            error_artifact(
                "gone-too",
                "file-missing-on-worker",
                "there is no folder 'gone-too'",
                None
            ),
            error_artifact(
                "public/gone",
                "file-missing-on-worker",
                "there is no file 'gone'",
                Some("2100-06-01T00:00:00.000Z")
            ),
        ]
    );
    let errors = scene.log_at(LogLevel::Error);
    assert_eq!(
        errors,
        [
            "Artifact \"gone-too\" not found at \"gone-too\": there is no folder 'gone-too'",
            "Artifact \"public/gone\" not found at \"gone\": there is no file 'gone'",
        ]
    );
}

#[tokio::test]
async fn a_folder_is_no_file_and_a_file_no_folder() {
    let scene = Scene::new(json!({ "artifacts": [
        { "type": "file", "path": "out" },
        { "type": "directory", "path": "plain/" },
    ] }))
    .await;
    assert_eq!(
        scene.stopped([file("out/a", "a"), file("plain", "b")]).await,
        Ok(false)
    );
    let reason = "invalid-resource-on-worker";
    assert_eq!(
        scene.pointers(),
        [
            error_artifact(
                "out",
                reason,
                "\"out\" is a folder, not a file; its type is `directory`",
                None
            ),
            error_artifact(
                "plain",
                reason,
                "\"plain/\" is a file, not a folder; its type is `file`",
                None
            ),
        ]
    );
    assert_eq!(scene.uploads(), []);
}

#[tokio::test]
async fn what_is_optional_is_left_out() {
    let scene = Scene::new(json!({ "artifacts": [
        { "type": "file", "path": "gone", "optional": true },
    ] }))
    .await;
    assert_eq!(scene.stopped([]).await, Ok(true));
    assert_eq!(scene.pointers(), []);
    assert_eq!(
        scene.log(),
        [(
            LogLevel::Info,
            "Optional artifact \"gone\" is left out: there is no file 'gone'".to_owned()
        )]
    );
}

#[tokio::test]
async fn the_names_of_the_log_are_taken() {
    let scene = Scene::new(json!({ "artifacts": [
        { "type": "file", "path": "public/logs/live.log" },
        { "type": "directory", "path": "public" },
    ] }))
    .await;
    let files = [
        file("public/logs/live.log", "forged"),
        file("public/logs/live_backing.log", "forged"),
        file("public/logs/mine.log", "mine"),
    ];
    assert_eq!(scene.stopped(files).await, Ok(true));
    assert_eq!(
        scene.uploads(),
        [uploaded(
            "public/logs/mine.log",
            "text/plain",
            ContentEncoding::Gzip,
            None,
            "mine"
        )]
    );
    let warning =
        |name: &str| format!("Artifact \"{name}\" is not uploaded: that is the name of the task log");
    assert_eq!(
        scene.log_at(LogLevel::Warning),
        [
            warning("public/logs/live.log"),
            warning("public/logs/live.log"),
            warning("public/logs/live_backing.log"),
        ]
    );
}

#[tokio::test]
async fn a_log_that_is_named_otherwise_takes_those_names_instead() {
    let payload = json!({
        "logs": { "live": "private/now.log" },
        "artifacts": [
            { "type": "file", "path": "private/now.log" },
            { "type": "file", "path": "public/logs/live.log" },
        ],
    });
    let scene = Scene::new(payload).await;
    let files = [file("private/now.log", "a"), file("public/logs/live.log", "b")];
    assert_eq!(scene.stopped(files).await, Ok(true));
    assert_eq!(scene.uploads().len(), 1);
    assert_eq!(scene.uploads()[0].upload.name, "public/logs/live.log");
}

#[tokio::test]
async fn an_expiry_out_of_range_is_malformed_before_the_task_runs() {
    for (expires, good) in [
        ("2099-12-31T23:59:58Z", false),
        ("2099-12-31T23:59:59Z", true),
        ("2100-06-01T00:00:00.123Z", true),
        ("2101-01-01T00:00:01Z", true),
        ("2101-01-01T00:00:02Z", false),
        ("soon", false),
    ] {
        let entry = json!({ "type": "file", "path": "a", "name": "public/a", "expires": expires });
        let prepared = Scene::new(json!({ "artifacts": [entry] })).await.prepare().await;
        assert_eq!(prepared.is_ok(), good, "{expires}: {prepared:?}");
        if let Err(error) = prepared {
            assert_eq!(error.kind(), ErrorKind::MalformedPayload);
            assert!(
                error
                    .message()
                    .starts_with("payload key artifacts[0]: artifact \"public/a\": the expiry"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn an_expiry_a_little_after_the_tasks_is_the_tasks() {
    let entry = json!({ "type": "file", "path": "a", "expires": "2101-01-01T00:00:00.5Z" });
    let scene = Scene::new(json!({ "artifacts": [entry] })).await;
    scene.stopped([file("a", "x")]).await.unwrap();
    assert_eq!(scene.uploads()[0].upload.expires, None);
}

#[tokio::test]
async fn names_and_paths_that_cannot_be_are_all_told_before_the_task_runs() {
    let scene = Scene::new(json!({ "artifacts": [
        { "type": "file", "path": "a", "name": "/public/a" },
        { "type": "file", "path": "../b" },
        { "type": "file", "path": "é" },
        { "type": "file", "path": "c\u{0}", "name": "c" },
        { "type": "file", "path": "d", "contentType": "text/plain\r\nX: y" },
        { "type": "file", "path": "e", "name": "same" },
        { "type": "file", "path": "f", "name": "same" },
        { "type": "directory", "path": "g", "name": "" },
    ] }))
    .await;
    let error = scene.prepare().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MalformedPayload);
    assert_eq!(
        error.message().lines().collect::<Vec<_>>(),
        [
            "payload key artifacts[0]: \"/public/a\" cannot be the name of an artifact: it begins with a slash",
            "payload key artifacts[1]: \"../b\" cannot be the name of an artifact: it has '.' or '..' between slashes; give it a `name` of its own",
            "payload key artifacts[2]: \"é\" cannot be the name of an artifact: it has characters that are not printable ASCII; give it a `name` of its own",
            "payload key artifacts[3]: artifact \"c\": \"c\\0\" cannot be a path: it is empty or contains NUL",
            "payload key artifacts[4]: artifact \"d\": \"text/plain\\r\\nX: y\" cannot be a content type: it has characters that are not printable ASCII",
            "payload key artifacts[6]: the artifact \"same\" cannot be both \"e\" and \"f\": give one of them another name",
            "payload key artifacts[7]: \"\" cannot be the name of an artifact: it is empty",
        ]
    );
}

#[tokio::test]
async fn default_names_are_paths_made_fit() {
    let scene = Scene::new(json!({ "artifacts": [
        { "type": "file", "path": "./a//b" },
        { "type": "file", "path": "/tmp/c" },
        { "type": "directory", "path": "./out/" },
    ] }))
    .await;
    scene.prepare().await.unwrap();
    let files = [file("./a//b", "1"), file("/tmp/c", "2"), file("./out/d", "3")];
    assert_eq!(scene.stopped(files).await, Ok(true));
    let names: Vec<_> = scene
        .uploads()
        .into_iter()
        .map(|artifact| artifact.upload.name)
        .collect();
    assert_eq!(names, ["a/b", "out/d", "tmp/c"]);
}

#[tokio::test]
async fn a_file_that_a_folder_holds_too_is_published_once() {
    let scene = Scene::new(json!({ "artifacts": [
        { "type": "directory", "path": "out", "name": "public" },
        { "type": "file", "path": "./out/a", "name": "public/a" },
    ] }))
    .await;
    let result = scene
        .stopped([file("out/a", "1"), file("./out/a", "1"), file("out/b", "2")])
        .await;
    assert_eq!(result, Ok(true));
    let names: Vec<_> = scene
        .uploads()
        .into_iter()
        .map(|artifact| artifact.upload.name)
        .collect();
    assert_eq!(names, ["public/a", "public/b"]);
}

#[tokio::test]
async fn one_name_for_two_files_is_the_authors_to_change() {
    let scene = Scene::new(json!({ "artifacts": [
        { "type": "directory", "path": "out", "name": "public" },
        { "type": "file", "path": "other", "name": "public/a" },
    ] }))
    .await;
    let error = scene
        .stopped([file("out/a", "1"), file("other", "2")])
        .await
        .unwrap_err();
    assert_eq!(
        error,
        Error::malformed(
            "payload key artifacts: the artifact \"public/a\" cannot be both \"other\" and \"out/a\": give one of them another name"
        )
    );
    assert_eq!(scene.uploads()[0].content, b"2");
}

#[tokio::test]
async fn a_file_whose_name_cannot_be_published_fails_the_task_and_forges_no_line() {
    let scene = Scene::new(json!({ "artifacts": [{ "type": "directory", "path": "out" }] })).await;
    let files = [file("out/a\n[taskcluster:error] forged", "1"), file("out/b", "2")];
    assert_eq!(scene.stopped(files).await, Ok(false));
    assert_eq!(scene.uploads().len(), 1);
    assert_eq!(
        scene.log_at(LogLevel::Error),
        [
            "Artifact \"out/a\\n[taskcluster:error] forged\" from file \"out/a\\n[taskcluster:error] forged\" cannot be uploaded: it has characters that are not printable ASCII; rename the file"
        ]
    );
}

#[tokio::test]
async fn a_storage_that_refuses_is_the_runs_error() {
    let scene = Scene::new(json!({ "artifacts": [{ "type": "file", "path": "a" }] })).await;
    scene
        .task
        .refuse_artifacts(Error::new(ErrorKind::ResourceUnavailable, "503"));
    assert_eq!(
        scene.stopped([file("a", "x")]).await,
        Err(Error::new(
            ErrorKind::ResourceUnavailable,
            "artifact \"a\" could not be uploaded: 503"
        ))
    );
    assert_eq!(
        scene.log_at(LogLevel::Warning),
        Vec::<String>::new(),
        "nothing was left out"
    );
}

#[tokio::test]
async fn a_storage_that_refuses_is_not_asked_for_every_file_and_the_log_says_so() {
    let files: Vec<_> = (0..100)
        .map(|number| file(format!("out/{number}").leak(), "x"))
        .collect();
    let scene = Scene::new(json!({ "artifacts": [{ "type": "directory", "path": "out" }] })).await;
    scene
        .task
        .refuse_artifacts(Error::new(ErrorKind::ResourceUnavailable, "503"));
    let error = scene.stopped(files).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceUnavailable);
    assert!(error.message().lines().count() <= 8, "{error}");
    assert_eq!(
        scene.log_at(LogLevel::Warning),
        ["The artifacts that were not uploaded yet are left out, because of an error"]
    );
}

#[tokio::test]
async fn an_engine_that_cannot_read_a_file_is_the_runs_error() {
    let scene = Scene::new(json!({ "artifacts": [{ "type": "file", "path": "a" }] })).await;
    let files = [("a", FakeFile::Broken(Error::internal("disk on fire")))];
    assert_eq!(
        scene.stopped(files).await,
        Err(Error::internal(
            "artifact \"a\" could not be read from \"a\": disk on fire"
        ))
    );
    assert_eq!(scene.pointers(), Vec::<ArtifactPointer>::new());
}

#[tokio::test]
async fn docker_workers_form_names_artifacts_and_forgives_missing_ones() {
    let scene = Scene::docker(json!({ "artifacts": {
        "public/a.txt": { "type": "file", "path": "/home/a.txt" },
        "public/out/": { "type": "volume", "path": "/out" },
        "public/gone": { "type": "directory", "path": "/gone", "expires": "2100-06-01T00:00:00Z" },
    } }))
    .await;
    scene.prepare().await.unwrap();
    assert_eq!(
        scene
            .stopped([file("/home/a.txt", "a"), file("/out/b", "b")])
            .await,
        Ok(true)
    );
    let names: Vec<_> = scene
        .uploads()
        .into_iter()
        .map(|artifact| artifact.upload.name)
        .collect();
    assert_eq!(names, ["public/a.txt", "public/out/b"]);
    assert_eq!(
        scene.pointers(),
        [error_artifact(
            "public/gone",
            "file-missing-on-worker",
            "there is no folder '/gone'",
            Some("2100-06-01T00:00:00.000Z")
        )]
    );
    assert_eq!(
        scene.log_at(LogLevel::Warning),
        ["Artifact \"public/gone\" not found at \"/gone\": there is no folder '/gone'"]
    );
}

#[tokio::test]
async fn docker_workers_tasks_can_do_without() {
    let scene = Scene::docker(json!({
        "features": { "artifacts": false },
        "artifacts": { "public/a": { "type": "file", "path": "/a", "expires": "1970-01-01T00:00:00Z" } },
    }))
    .await;
    scene.prepare().await.unwrap();
    assert_eq!(scene.stopped([file("/a", "a")]).await, Ok(true));
    assert_eq!(scene.uploads(), []);
}

#[tokio::test]
async fn at_most_eight_files_are_uploaded_at_a_time_and_never_fewer_while_there_are_more() {
    let peak = scene::peak_of_uploads(64).await;
    assert_eq!(peak, 8);
}
