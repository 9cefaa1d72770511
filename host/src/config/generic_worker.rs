//! The JSON that generic-worker and worker-runner write, in our terms.
//!
//! Keys that mean something here are translated. Keys that generic-worker knows and that mean nothing here are kept
//! apart, so that the operator can be told. Anything else is as much an error as it is there.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::schema::nearest;

/// A translated file.
#[derive(Debug, Default)]
pub(super) struct Translated {
    pub(super) value: Value,
    /// From the JSON pointer here to the one in the file.
    pub(super) renamed: BTreeMap<String, String>,
    /// Keys without effect.
    pub(super) unused: Vec<String>,
}

/// What becomes of a value.
#[derive(Clone, Copy)]
enum How {
    /// The same here.
    Same,
    /// Text; empty means that it is not set.
    Text,
    /// Mebibytes there, bytes here.
    Mebibytes,
}

/// generic-worker's name, where it stands here, and what becomes of the value.
const KEYS: &[(&str, &str, How)] = &[
    ("rootURL", "/queue/rootUrl", How::Text),
    ("clientId", "/queue/clientId", How::Text),
    ("accessToken", "/queue/accessToken", How::Text),
    ("certificate", "/queue/certificate", How::Text),
    ("provisionerId", "/worker/provisionerId", How::Text),
    ("workerType", "/worker/workerType", How::Text),
    ("workerGroup", "/worker/workerGroup", How::Text),
    ("workerId", "/worker/workerId", How::Text),
    ("capacity", "/worker/capacity", How::Same),
    ("idleTimeoutSecs", "/worker/idleTimeout", How::Same),
    ("numberOfTasksToRun", "/worker/numberOfTasks", How::Same),
    (
        "requiredDiskSpaceMegabytes",
        "/worker/requiredDiskSpace",
        How::Mebibytes,
    ),
    ("tasksDir", "/worker/tasksDirectory", How::Text),
    ("cachesDir", "/worker/cachesDirectory", How::Text),
    ("workerTypeMetadata", "/worker/metadata", How::Same),
];

/// Keys of generic-worker that have no effect here. `instanceId` has two spellings: generic-worker reads one, and
/// worker-runner writes the other.
const UNUSED: &[&str] = &[
    "allowedHighMemoryDurationSecs",
    "availabilityZone",
    "cleanUpTaskDirs",
    "createObjectArtifacts",
    "d2gConfig",
    "disableNativePayloads",
    "disableOOMProtection",
    "disableReboots",
    "downloadsDir",
    "ed25519SigningKeyLocation",
    "enableChainOfTrust",
    "enableInteractive",
    "enableLiveLog",
    "enableLoopbackAudio",
    "enableLoopbackVideo",
    "enableMetadata",
    "enableMounts",
    "enableOSGroups",
    "enableResourceMonitor",
    "enableRunTaskAsCurrentUser",
    "enableTaskclusterProxy",
    "headlessTasks",
    "instanceID",
    "instanceId",
    "instanceType",
    "interactivePort",
    "livelogExecutable",
    "livelogExposePort",
    "livelogPortBase",
    "loopbackAudioDeviceNumber",
    "loopbackVideoDeviceNumber",
    "maxMemoryUsagePercent",
    "maxTaskRunTime",
    "minAvailableMemoryBytes",
    "privateIP",
    "publicIP",
    "region",
    "runAfterUserCreation",
    "sentryProject",
    "shutdownMachineOnIdle",
    "shutdownMachineOnInternalError",
    "taskclusterProxyExecutable",
    "taskclusterProxyPort",
    "workerLocation",
    "wstAudience",
    "wstServerURL",
];

/// Whether this is generic-worker's file: it has at least one of its keys, and none of our sections.
pub(super) fn is(content: &Map<String, Value>) -> bool {
    let ours = ["queue", "worker", "engine", "plugins", "libraries", "log"];
    let known =
        |key: &String| KEYS.iter().any(|(theirs, ..)| theirs == key) || UNUSED.contains(&key.as_str());
    content.keys().any(known) && !content.keys().any(|key| ours.contains(&key.as_str()))
}

/// Translates. The errors are JSON pointers in the file, and what is wrong there.
pub(super) fn translate(content: Map<String, Value>) -> Result<Translated, Vec<(String, String)>> {
    let mut out = Translated {
        value: json!({"queue": {}, "worker": {}}),
        ..Translated::default()
    };
    let mut problems = Vec::new();
    for (key, value) in content {
        let Some((theirs, ours, how)) = KEYS.iter().find(|(theirs, ..)| *theirs == key) else {
            if !UNUSED.contains(&key.as_str()) {
                let known = KEYS
                    .iter()
                    .map(|(theirs, ..)| *theirs)
                    .chain(UNUSED.iter().copied());
                let hint = nearest(&key, known)
                    .map(|meant| format!("; `{meant}` is the nearest"))
                    .unwrap_or_default();
                let pointer = format!("/{}", super::document::segment(&key));
                problems.push((pointer, format!("`{key}` is not a key of generic-worker's{hint}")));
            } else {
                out.unused.push(key);
            }
            continue;
        };
        let value = match how {
            How::Text if value == "" || value.is_null() => continue,
            How::Same if value.is_null() => continue,
            How::Mebibytes => match value.as_u64().and_then(|number| number.checked_mul(1024 * 1024)) {
                Some(bytes) => bytes.into(),
                None => value,
            },
            How::Same | How::Text => value,
        };
        let (section, name) = ours[1..].split_once('/').unwrap_or_default();
        out.value[section][name] = value;
        out.renamed.insert((*ours).to_owned(), format!("/{theirs}"));
    }
    if problems.is_empty() {
        Ok(out)
    } else {
        Err(problems)
    }
}
