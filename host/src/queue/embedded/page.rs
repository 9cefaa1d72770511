//! Long answers come in pages. A continuation token names the last thing of the page before, so that a page costs the same
//! wherever it is, and what comes and goes in between neither repeats nor hides the rest.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::error::ApiError;
use super::route::Query;

/// The most things on one page.
pub(super) const MOST: usize = 1000;

/// Which page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page<const PARTS: usize> {
    /// What the last thing of the page before is called, in as many parts as such a name has; empty for the first page.
    pub(super) after: [String; PARTS],
    limit: usize,
}

impl<const PARTS: usize> Page<PARTS> {
    pub(super) fn asked(query: &Query) -> Result<Self, ApiError> {
        let after = match &query.continuation {
            None => std::array::from_fn(|_| String::new()),
            Some(token) => read(token)
                .ok_or_else(|| ApiError::arguments("the continuationToken is not one of this list"))?,
        };
        let limit = query.limit.unwrap_or(MOST).clamp(1, MOST);
        Ok(Self { after, limit })
    }

    /// How many things to look for: one more than wanted tells whether there is another page.
    pub(super) fn look_for(&self) -> usize {
        self.limit + 1
    }

    /// Cuts what was found down to the page, and has the answer say how to go on.
    pub(super) fn cut<T>(&self, found: &mut Vec<T>, name: impl Fn(&T) -> [String; PARTS]) -> Option<String> {
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let last = found.last().filter(|_| more)?;
        Some(URL_SAFE_NO_PAD.encode(name(last).join("\n")))
    }
}

/// Puts a continuation token into an answer, if there is one.
pub(super) fn continued(mut answer: Value, token: Option<String>) -> Value {
    if let Some(token) = token {
        answer["continuationToken"] = token.into();
    }
    answer
}

fn read<const PARTS: usize>(token: &str) -> Option<[String; PARTS]> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let parts: Vec<String> = text.split('\n').map(str::to_owned).collect();
    parts.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(token: Option<&str>, limit: Option<usize>) -> Query {
        Query {
            continuation: token.map(str::to_owned),
            limit,
            ..Query::default()
        }
    }

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let all = ["a", "b", "c", "d", "e"];
        let (mut seen, mut token) = (Vec::new(), None::<String>);
        loop {
            let page = Page::<1>::asked(&query(token.as_deref(), Some(2))).unwrap();
            let rest = all.iter().filter(|name| ***name > *page.after[0]);
            let mut found: Vec<&str> = rest.take(page.look_for()).copied().collect();
            token = page.cut(&mut found, |name| [(*name).to_owned()]);
            assert!(found.len() <= 2);
            seen.extend(found);
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_foreign_token_is_refused_and_a_limit_is_bounded() {
        for token in ["!", "YQ", "YQpiCmM", "_w"] {
            assert_eq!(
                Page::<2>::asked(&query(Some(token), None)).unwrap_err().code,
                "InvalidRequestArguments",
                "{token}"
            );
        }
        let page = Page::<2>::asked(&query(Some("YQpi"), Some(0))).unwrap();
        assert_eq!((page.after, page.limit), (["a".to_owned(), "b".to_owned()], 1));
        assert_eq!(Page::<1>::asked(&query(None, Some(5000))).unwrap().limit, MOST);
    }
}
