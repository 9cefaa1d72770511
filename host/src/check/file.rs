//! The vendor's check file.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;
use tcw_abi::testing::conformance::{Drive, purpose};

use crate::config::document::Document;
use crate::schema::{ObjectSchema, nearest};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("schema.json")).expect("schema.json is JSON: the tests read it")
});

/// A check file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the check file {}: {message}", path.display())]
pub struct CheckFileError {
    /// Which.
    pub path: PathBuf,
    /// What is wrong with it, a line for each thing.
    pub message: String,
}

/// Its JSON Schema.
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// Where a library's check file is if nobody says: `libx.check.yml` beside `libx.so`.
pub fn beside(library: &Path) -> PathBuf {
    library.with_extension("check.yml")
}

/// Reads a check file.
pub fn read(path: &Path) -> Result<Drive, CheckFileError> {
    let fail = |message: String| CheckFileError {
        path: path.to_owned(),
        message,
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| fail(format!("it cannot be read: {error}; check the path")))?;
    let document = Document::parse(&text).map_err(|error| {
        let line = error
            .line
            .map_or_else(String::new, |line| format!("line {line}: "));
        fail(format!("{line}{error}"))
    })?;
    let schema = ObjectSchema::compile("", &SCHEMA).expect("schema.json is a schema: the tests compile it");
    schema.validate(&document.value).map_err(|violations| {
        let lines: Vec<String> = violations
            .iter()
            .map(|violation| format!("\n  {violation}"))
            .collect();
        fail(format!("it does not fit:{}", lines.concat()))
    })?;
    if document.value.is_null() {
        return Ok(Drive::default());
    }
    let drive: Drive = serde_json::from_value(document.value).map_err(|error| fail(error.to_string()))?;
    let names = || purpose::ALL.iter().map(|purpose| purpose.name);
    if let Some(unknown) = drive
        .payloads
        .keys()
        .find(|key| !names().any(|name| name == *key))
    {
        let hint = match nearest(unknown, names()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`tcw-host library check --explain` lists them".to_owned(),
        };
        return Err(fail(format!("`payloads.{unknown}` is no purpose; {hint}")));
    }
    let uses_script = |value: &Value| value.to_string().contains("{script}");
    if drive.script.as_ref().is_some_and(|script| !uses_script(script)) {
        return Err(fail(
            "`script` has no `{script}` in any of its strings, so every case would run the same".to_owned(),
        ));
    }
    Ok(drive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.check.yml");
        std::fs::write(&path, text).unwrap();
        read(&path).unwrap_err().message
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        assert_eq!(
            refused("enigne: {}\n"),
            "it does not fit:\n  `enigne` is not a known key; `engine` is the nearest"
        );
        assert!(refused("skip: [{case: log/live}]\n").contains("`skip[0].why`"));
        assert_eq!(
            refused("payloads: {prnt: {}}\n"),
            "`payloads.prnt` is no purpose; did you mean `print`?"
        );
        assert!(refused("script: {command: [sh]}\n").starts_with("`script` has no `{script}`"));
        assert!(refused("a: [\n").starts_with("line "));
    }
}
