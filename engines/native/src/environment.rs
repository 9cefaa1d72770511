//! The environment of a task: built from nothing, never from the worker's.
//!
//! Four sources, each stronger than the one before: what the engine sets for every task, then the three classes of
//! [`VariableClass`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::CString;

use tcw_abi::engine::VariableClass;
use tcw_abi::{Error, ErrorKind, Result};

/// Where programs are looked for, unless the task says otherwise.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The variable that every process of a task is known by.
pub(crate) const TASK_WORKDIR: &str = "TASK_WORKDIR";

/// The user that the worker, and so every task, runs as.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
}

impl User {
    /// Looks the name up. A user without an entry is known by its number.
    pub(crate) fn current() -> User {
        let id = rustix::process::geteuid().as_raw().to_string();
        let name = std::fs::read_to_string("/etc/passwd").ok().and_then(|text| {
            text.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)? == id).then(|| name.to_owned())
            })
        });
        User {
            name: name.unwrap_or(id),
        }
    }
}

/// Variables with their classes.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    given: BTreeMap<String, BTreeMap<VariableClass, String>>,
}

impl Environment {
    pub(crate) fn set(&mut self, name: String, value: String, class: VariableClass) -> Result<()> {
        check_name(&name)?;
        check_value(&name, &value)?;
        let conflict = Error::new(
            ErrorKind::NamingConflict,
            format!("the environment variable {name} is set twice by sources of the same rank"),
        );
        // The engine's own, set when the directory is known.
        if name == TASK_WORKDIR && class == VariableClass::Forced {
            return Err(conflict);
        }
        match self.given.entry(name).or_default().entry(class) {
            Entry::Occupied(_) => Err(conflict),
            Entry::Vacant(entry) => {
                entry.insert(value);
                Ok(())
            }
        }
    }

    /// What a process gets whose task has this directory.
    pub(crate) fn resolve(&self, directory: &str, user: &User) -> Variables {
        let base = [
            ("PATH", SEARCH_PATH),
            ("HOME", directory),
            ("USER", &user.name),
            ("LOGNAME", &user.name),
        ];
        let mut variables: BTreeMap<String, String> = base
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        for (name, values) in &self.given {
            if let Some(value) = values.values().next_back() {
                variables.insert(name.clone(), value.clone());
            }
        }
        variables.insert(TASK_WORKDIR.to_owned(), directory.to_owned());
        Variables(variables)
    }
}

/// A complete environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    pub(crate) fn search_path(&self) -> &str {
        self.0.get("PATH").map_or("", String::as_str)
    }

    /// Adds or replaces; the mark that processes are known by stays.
    pub(crate) fn with(&self, more: &BTreeMap<String, String>) -> Result<Variables> {
        let mut variables = self.0.clone();
        for (name, value) in more {
            check_name(name)?;
            check_value(name, value)?;
            if name != TASK_WORKDIR {
                variables.insert(name.clone(), value.clone());
            }
        }
        Ok(Variables(variables))
    }

    pub(crate) fn or_default(&mut self, name: &str, value: &str) {
        self.0.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }

    /// As `exec` takes it.
    pub(crate) fn to_strings(&self) -> Vec<CString> {
        self.0
            .iter()
            // Neither can contain a NUL: it was looked for when they were set.
            .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
            .collect()
    }
}

fn check_name(name: &str) -> Result<()> {
    let valid = name.bytes().enumerate().all(|(index, byte)| {
        byte == b'_' || byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit())
    });
    if valid && !name.is_empty() {
        return Ok(());
    }
    Err(Error::malformed(format!(
        "{name:?} cannot be the name of an environment variable: use letters, digits and '_', and no digit first"
    )))
}

fn check_value(name: &str, value: &str) -> Result<()> {
    if value.contains('\0') {
        return Err(Error::malformed(format!(
            "the value of the environment variable {name} contains the character NUL, which no process can be given"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(environment: &Environment) -> BTreeMap<String, String> {
        let user = User {
            name: "worker".into(),
        };
        environment.resolve("/tasks/1", &user).0
    }

    #[test]
    fn the_higher_class_wins_whatever_the_order() {
        let mut environment = Environment::default();
        for (value, class) in [
            ("forced", VariableClass::Forced),
            ("default", VariableClass::Default),
            ("payload", VariableClass::Payload),
        ] {
            environment.set("A".into(), value.into(), class).unwrap();
        }
        environment
            .set("HOME".into(), "/elsewhere".into(), VariableClass::Payload)
            .unwrap();
        let expected = [
            ("A", "forced"),
            ("HOME", "/elsewhere"),
            ("LOGNAME", "worker"),
            ("PATH", SEARCH_PATH),
            ("TASK_WORKDIR", "/tasks/1"),
            ("USER", "worker"),
        ];
        assert_eq!(
            resolved(&environment),
            expected.map(|(name, value)| (name.into(), value.into())).into()
        );
    }

    #[test]
    fn a_second_value_within_one_class_is_a_conflict() {
        let mut environment = Environment::default();
        environment
            .set("A".into(), "1".into(), VariableClass::Payload)
            .unwrap();
        let error = environment
            .set("A".into(), "1".into(), VariableClass::Payload)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NamingConflict);
        let error = environment
            .set("TASK_WORKDIR".into(), "/".into(), VariableClass::Forced)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NamingConflict);
    }

    #[test]
    fn what_no_process_can_be_given_is_malformed() {
        let mut environment = Environment::default();
        for name in ["", "A=B", "A B", "1A", "Ä", "A\0", "A\n"] {
            let error = environment
                .set(name.into(), String::new(), VariableClass::Payload)
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MalformedPayload, "{name:?}");
        }
        let error = environment
            .set("A".into(), "a\0b".into(), VariableClass::Payload)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MalformedPayload);
    }
}
