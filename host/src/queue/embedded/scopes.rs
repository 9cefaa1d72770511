//! Scopes: what a client has, and what a call needs.

/// What anybody may do, with or without credentials.
pub(super) const ANONYMOUS: [&str; 7] = [
    "queue:get-artifact:public/*",
    "queue:get-task:*",
    "queue:list-artifacts:*",
    "queue:list-dependent-tasks:*",
    "queue:list-task-group:*",
    "queue:pending-count:*",
    "queue:status:*",
];

/// Whether one scope that a client has grants one that is needed: they are equal, or the first ends in a star and the
/// second begins with what stands before it.
fn grants(held: &str, needed: &str) -> bool {
    held == needed
        || held
            .strip_suffix('*')
            .is_some_and(|prefix| needed.starts_with(prefix))
}

/// Whether scopes grant one that is needed.
pub(super) fn satisfied<S: AsRef<str>>(held: &[S], needed: &str) -> bool {
    held.iter().any(|scope| grants(scope.as_ref(), needed))
}

/// What a call needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need {
    Scope(String),
    All(Vec<Need>),
    Any(Vec<Need>),
}

impl Need {
    pub(super) fn scope(scope: impl Into<String>) -> Self {
        Self::Scope(scope.into())
    }

    pub(super) fn is_met(&self, held: &[String]) -> bool {
        match self {
            Self::Scope(scope) => satisfied(held, scope),
            Self::All(needs) => needs.iter().all(|need| need.is_met(held)),
            Self::Any(needs) => needs.iter().any(|need| need.is_met(held)),
        }
    }

    /// What is missing, for people.
    pub(super) fn missing(&self, held: &[String]) -> String {
        let together = |needs: &[Self], word: &str| {
            let missing: Vec<String> = needs
                .iter()
                .filter(|need| !need.is_met(held))
                .map(|need| need.missing(held))
                .collect();
            if missing.len() == 1 {
                missing.concat()
            } else {
                format!("({})", missing.join(word))
            }
        };
        match self {
            Self::Scope(scope) => scope.clone(),
            Self::All(needs) => together(needs, " and "),
            Self::Any(needs) => together(needs, " or "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_grants_all_that_begins_alike() {
        for (held, needed, granted) in [
            ("a:b", "a:b", true),
            ("a:*", "a:b", true),
            ("a:*", "a:*", true),
            ("a:b*", "a:*", false),
            ("*", "anything", true),
            ("a:*c", "a:bc", false),
            ("a", "a:b", false),
        ] {
            assert_eq!(grants(held, needed), granted, "{held} for {needed}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let held = vec!["a".to_owned()];
        let need = Need::All(vec![
            Need::scope("a"),
            Need::scope("b"),
            Need::Any(vec![Need::scope("c"), Need::scope("d")]),
        ]);
        assert!(!need.is_met(&held));
        assert_eq!(need.missing(&held), "(b and (c or d))");
        assert!(need.is_met(&["*".to_owned()]));
    }
}
