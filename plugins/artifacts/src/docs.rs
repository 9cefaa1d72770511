//! What the authors of tasks read.

use tcw_abi::engine::Section;

use crate::payload::Dialect;

const GENERIC_WORKER: &str = r#"`artifacts` lists files and folders that are published when the task has stopped, whether it succeeded or not.

```yaml
payload:
  artifacts:
    - type: file
      path: build/target.tar.gz
      name: public/build/target.tar.gz
    - type: directory
      path: test-results
      name: public/results
      expires: "2030-01-01T00:00:00.000Z"
    - type: file
      path: core
      name: private/core
      contentType: application/x-core
      contentEncoding: identity
      optional: true
```

- `path` is relative to the task's directory, or absolute. Links that lead out of the sandbox are not followed.
- `name` is the path if it is left out, without `./` and slashes at its ends. A folder's files are published as `<name>/<their path>`.
- `expires` is not before the task's deadline and not after the task expires, which is the default.
- `contentType` and `contentEncoding` follow from the file's extension. What is not compressed already is stored with `gzip`.
- A file that is not there is published as an error, and the task fails; with `optional: true` it is left out.
"#;

const DOCKER_WORKER: &str = r#"`artifacts` names files and folders that are published when the task has stopped, whether it succeeded or not.

```yaml
payload:
  artifacts:
    public/build/target.tar.gz:
      type: file
      path: /home/worker/target.tar.gz
    public/results:
      type: directory
      path: /home/worker/results
      expires: "2030-01-01T00:00:00.000Z"
```

- `path` is where it is in the container. Links that lead out of the sandbox are not followed.
- A folder's files are published as `<name>/<their path>`; `volume` means the same as `directory`.
- `expires` is not before the task's deadline and not after the task expires, which is the default.
- Content type and encoding follow from the file's extension. What is not compressed already is stored with `gzip`.
- A file that is not there is published as an error; the task does not fail for that.
- With `features.artifacts: false` nothing is published.
"#;

const NAMES: &str = r#"
Names are printable ASCII, up to 1024 characters, without a slash at their beginning or end and without `.` or `..` between slashes.
Names that begin with `public/` can be read by anybody; all others need the scope `queue:get-artifact:<name>`. The names of the task
log are taken."#;

/// The section for tasks of that dialect.
pub(crate) fn section(dialect: Dialect) -> Section {
    let text = match dialect {
        Dialect::GenericWorker => GENERIC_WORKER,
        Dialect::DockerWorker => DOCKER_WORKER,
    };
    Section {
        title: "Artifacts".into(),
        content: format!("{text}{NAMES}"),
    }
}
