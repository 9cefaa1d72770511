//! The names a queue gives things: tasks, runs, worker pools, workers. Newtypes, so that one is never passed for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// A name that does not have the form the queue prescribes for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {what}: expected {expected}")]
pub struct InvalidId {
    /// What the text was meant to be, for example `task id`.
    pub what: &'static str,
    /// The text that was refused.
    pub value: String,
    /// The form it should have had.
    pub expected: &'static str,
}

/// The id of a task: a slug, that is a version 4 UUID as 22 characters of URL-safe base64.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TaskId(String);

impl TaskId {
    /// A new random id. It never starts with a dash, so that command lines do not take it for an option.
    #[must_use]
    pub fn random() -> Self {
        Self(slugid::nice())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // The three constrained places are the version, the variant and the two spare bits of the last character.
        let bytes = text.as_bytes();
        let well_formed = bytes.len() == 22
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && matches!(bytes[8], b'Q'..=b'T')
            && b"CGKOSWaeimquy26-".contains(&bytes[10])
            && b"AQgw".contains(&bytes[21]);
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId {
                what: "task id",
                value: text.to_owned(),
                expected: "a slug of 22 characters from A-Z, a-z, 0-9, - and _",
            })
        }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The number of a run within its task; the first is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub u32);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A worker pool, which the queue calls a task queue: `<provisioner>/<worker type>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerPoolId {
    provisioner: String,
    worker_type: String,
}

impl WorkerPoolId {
    /// Puts a pool's name together from its two halves.
    ///
    /// # Errors
    /// If a half does not have the form that the queue prescribes.
    pub fn new(provisioner: &str, worker_type: &str) -> Result<Self, InvalidId> {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let worker_bytes = worker_type.as_bytes();
        let worker_type_ok = (1..=38).contains(&worker_bytes.len())
            && worker_bytes[0].is_ascii_lowercase()
            && alphanumeric(worker_bytes[worker_bytes.len() - 1])
            && worker_bytes.iter().all(|&b| alphanumeric(b) || b == b'-');
        if is_identifier(provisioner) && worker_type_ok {
            Ok(Self {
                provisioner: provisioner.to_owned(),
                worker_type: worker_type.to_owned(),
            })
        } else {
            Err(InvalidId {
                what: "worker pool",
                value: format!("{provisioner}/{worker_type}"),
                expected: "provisioner/worker-type, each of at most 38 characters: letters, digits, - and _ before the \
                           slash, lower-case letters, digits and - after it",
            })
        }
    }

    /// What stands before the slash.
    #[must_use]
    pub fn provisioner(&self) -> &str {
        &self.provisioner
    }

    /// What stands after the slash.
    #[must_use]
    pub fn worker_type(&self) -> &str {
        &self.worker_type
    }
}

impl FromStr for WorkerPoolId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (provisioner, worker_type) = text.split_once('/').unwrap_or((text, ""));
        Self::new(provisioner, worker_type)
    }
}

impl fmt::Display for WorkerPoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provisioner, self.worker_type)
    }
}

impl Serialize for WorkerPoolId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WorkerPoolId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Who claims: the pool, and the worker within it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerIdentity {
    /// The pool whose tasks are claimed.
    pub pool: WorkerPoolId,
    /// The worker's group, for example a region; at most 38 characters.
    pub group: String,
    /// The worker's id within its group; at most 38 characters.
    pub id: String,
}

/// Provisioner ids, worker groups and worker ids: 1 to 38 letters, digits, dashes and underscores.
pub(crate) fn is_identifier(text: &str) -> bool {
    (1..=38).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_have_the_form_of_a_slug() {
        for _ in 0..100 {
            let id = TaskId::random();
            assert_eq!(id.as_str().parse(), Ok(id.clone()));
        }
        for bad in [
            "",
            "abc",
            "fN1SbArXTPSVFNUvaOlinQx",
            "fN1SbArXAPSVFNUvaOlinQ",
            "fN1SbArXTPSVFNUvaOlinB",
            "../1SbArXTPSVFNUvaOliQ",
        ] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn pools_are_two_names_with_a_slash() {
        let pool: WorkerPoolId = "proj-X_1/linux-small".parse().unwrap();
        assert_eq!(
            (pool.provisioner(), pool.worker_type()),
            ("proj-X_1", "linux-small")
        );
        assert_eq!(pool.to_string(), "proj-X_1/linux-small");
        for bad in ["", "a", "a/", "/b", "a/B", "a/b/c", "a/1b", "a/b-", "a b/c"] {
            assert!(bad.parse::<WorkerPoolId>().is_err(), "{bad} was accepted");
        }
    }
}
