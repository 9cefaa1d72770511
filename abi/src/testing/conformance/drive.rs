//! How an engine, and the plugins beside it, are driven: the vendor's check file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Failure;
use super::purpose::Purpose;
use crate::engine::{Display, feature};
use crate::plugin::PluginProviderDescription;

/// What stands in a check file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Drive {
    /// The engine's configuration.
    pub engine: Value,
    /// The library's plugins by their names.
    pub plugins: BTreeMap<String, PluginDrive>,
    /// A payload with `{script}` somewhere in it, for an engine that runs POSIX shell scripts.
    pub script: Option<Value>,
    /// Payloads by their purpose; `null` for a purpose that the engine cannot serve although it runs scripts.
    pub payloads: BTreeMap<String, Value>,
    /// What stands before the relative paths of files when they are put or extracted, such as `/home/worker/`.
    pub directory: String,
    /// How its shells are driven.
    pub shells: ShellDrive,
    /// The displays that `show-display` shows; those whose size is 0 may have any.
    pub displays: Vec<Display>,
    /// Where a volume can be mounted; without it `volume`, beneath [`Drive::directory`].
    pub mount_point: Option<String>,
    /// Options for new volumes.
    pub volume_options: Value,
    /// Cases that are not run.
    pub skip: Vec<Skip>,
    /// Seconds for one case, 60 without it.
    pub timeout: Option<u64>,
}

/// How a plugin is driven.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PluginDrive {
    /// The plugin's configuration.
    pub configuration: Value,
    /// Its part of a task's payload; `{}` without it.
    pub payload: Option<Value>,
    /// Files that the sandbox leaves: text by path.
    pub files: BTreeMap<String, String>,
    /// The features of the engine that it is given; without it all that it requires or can use, with one dialect,
    /// generic-worker's if it knows that.
    pub features: Option<Vec<String>>,
}

impl PluginDrive {
    /// The features of the engine that the plugin is given.
    pub fn features(&self, said: &PluginProviderDescription) -> Vec<String> {
        if let Some(features) = &self.features {
            return features.clone();
        }
        let mut features: Vec<String> = said.requires.iter().chain(&said.optional).cloned().collect();
        // No engine has two dialects.
        if features
            .iter()
            .any(|name| name == feature::DIALECT_GENERIC_WORKER)
        {
            features.retain(|name| name != feature::DIALECT_DOCKER_WORKER);
        }
        features
    }
}

/// A case that is not run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Skip {
    /// Its name.
    pub case: String,
    /// Shown with it.
    pub why: String,
}

/// How shells are driven.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ShellDrive {
    /// A command with `{script}` in it; with `script` in the check file, `/bin/sh -c` without this.
    pub command: Option<Vec<String>>,
    /// What makes the default shell print `Hello World` and, on its standard error, `No error!`, both without a
    /// newline, and succeed.
    pub hello: Option<String>,
    /// What makes it fail.
    pub fail: Option<String>,
    /// What makes it run until it is ended from outside, for a minute at least.
    pub wait: Option<String>,
}

/// What to write into the default shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellTexts {
    /// Prints `Hello World` and, on its standard error, `No error!`; succeeds.
    pub hello: String,
    /// Fails.
    pub fail: String,
    /// Runs until it is ended.
    pub wait: String,
}

impl Drive {
    /// For one case.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(60))
    }

    /// Whether there is a payload for `purpose`.
    pub fn has(&self, purpose: &Purpose) -> bool {
        match self.payloads.get(purpose.name) {
            Some(payload) => !payload.is_null(),
            None => self.script.is_some() && purpose.script.is_some(),
        }
    }

    /// The payload for `purpose`, with the words in braces replaced.
    pub fn payload(&self, purpose: &Purpose, words: &[(&str, &str)]) -> Result<Value, Failure> {
        let words: Vec<(String, &str)> = words
            .iter()
            .map(|(word, value)| (format!("{{{word}}}"), *value))
            .collect();
        match (self.payloads.get(purpose.name), &self.script, purpose.script) {
            (Some(payload), ..) if !payload.is_null() => Ok(replaced(payload, &words)),
            (None, Some(_), Some(script)) => self.script_payload(&filled(script, &words)),
            _ => Err(Failure::new(format!(
                "there is no payload for '{}'",
                purpose.name
            ))),
        }
    }

    /// A payload that runs this POSIX shell script.
    pub fn script_payload(&self, script: &str) -> Result<Value, Failure> {
        match &self.script {
            Some(template) => Ok(replaced(template, &[("{script}".into(), script)])),
            None => Err(Failure::new("the check file has no `script`")),
        }
    }

    /// A file's path as the engine takes it.
    pub fn path(&self, relative: &str) -> String {
        format!("{}{relative}", self.directory)
    }

    /// Where a volume is mounted.
    pub fn mount_point(&self) -> String {
        self.mount_point.clone().unwrap_or_else(|| self.path("volume"))
    }

    /// The options for a new volume; `{}` without any.
    pub fn volume_options(&self) -> Value {
        match &self.volume_options {
            Value::Null => Value::Object(serde_json::Map::new()),
            given => given.clone(),
        }
    }

    /// The command that runs a POSIX script in a shell.
    pub fn shell_command(&self, script: &str) -> Option<Vec<String>> {
        let words = [("{script}".to_owned(), script)];
        match &self.shells.command {
            Some(command) => Some(command.iter().map(|part| filled(part, &words)).collect()),
            None if self.script.is_some() => Some(vec!["/bin/sh".into(), "-c".into(), script.into()]),
            None => None,
        }
    }

    /// What to write into the default shell.
    pub fn shell_texts(&self) -> Option<ShellTexts> {
        let posix = self.script.is_some();
        let text = |given: &Option<String>, posix_text: &str| {
            given.clone().or_else(|| posix.then(|| posix_text.to_owned()))
        };
        Some(ShellTexts {
            hello: text(
                &self.shells.hello,
                "printf 'Hello World'; printf 'No error!' >&2\n",
            )?,
            fail: text(&self.shells.fail, "exit 1\n")?,
            wait: text(&self.shells.wait, "while :; do sleep 1; done\n")?,
        })
    }
}

fn filled(text: &str, words: &[(String, &str)]) -> String {
    words
        .iter()
        .fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
}

/// A copy with the words replaced in every string.
fn replaced(value: &Value, words: &[(String, &str)]) -> Value {
    match value {
        Value::String(text) => Value::String(filled(text, words)),
        Value::Array(items) => items.iter().map(|item| replaced(item, words)).collect(),
        Value::Object(entries) => entries
            .iter()
            .map(|(key, item)| (key.clone(), replaced(item, words)))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::purpose;
    use super::*;
    use serde_json::json;

    #[test]
    fn payloads_come_from_the_script_unless_the_file_has_one_of_its_own() {
        let drive: Drive = serde_json::from_value(json!({
            "script": { "command": [["sh", "-c", "{script}"]] },
            "payloads": { "print": { "say": "{text}!" }, "silent": null }
        }))
        .unwrap();
        assert_eq!(
            drive.payload(&purpose::PRINT, &[("text", "Hello")]).unwrap(),
            json!({ "say": "Hello!" })
        );
        assert_eq!(
            drive.payload(&purpose::PRINT_FILE, &[("file", "a")]).unwrap(),
            json!({ "command": [["sh", "-c", "cat 'a'"]] })
        );
        assert!(!drive.has(&purpose::SILENT) && drive.has(&purpose::PRINT));
        assert!(!drive.has(&purpose::SHOW_DISPLAY));
    }
}
