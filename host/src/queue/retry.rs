//! How often, and after which pauses, a call is tried again.

use std::time::{Duration, SystemTime};

use rand::Rng as _;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::clock::http_date;

/// How often and how patiently a call is tried again.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// How many attempts there are, the first included.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one, and a random part of it is left out.
    pub first_pause: Duration,
    /// The longest pause, also when the server asks for more.
    pub longest_pause: Duration,
    /// How long one attempt may take; an upload may take longer, as long as it moves.
    pub timeout: Duration,
    /// How long an upload may stand still.
    pub stall: Duration,
}

impl Default for RetryPolicy {
    /// Nine attempts within about a minute, not counting the time the attempts take.
    fn default() -> Self {
        Self {
            attempts: 9,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            stall: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// The pause before attempt `next` (the second attempt is 1), at most what the server asked for and the bound.
    pub(super) fn pause(&self, next: u32, asked: Option<Duration>) -> Duration {
        let doubled = self
            .first_pause
            .saturating_mul(1 << (next.saturating_sub(1)).min(20))
            .min(self.longest_pause);
        let jittered = doubled.mul_f64(rand::rng().random_range(0.5..=1.0));
        // A little later than asked, so that all who were told the same do not come back at the same moment.
        asked.map_or(jittered, |asked| {
            asked.min(self.longest_pause) + jittered.min(Duration::from_secs(1))
        })
    }
}

/// How long a server asks to be left alone, in either of the two forms.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let said = headers
        .get(DATE)
        .and_then(|value| http_date(value.to_str().ok()?));
    // By the clock that the server has, if it tells.
    let now = said.unwrap_or_else(|| now.into());
    Some((http_date(text)? - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_bound_and_differ() {
        let policy = RetryPolicy {
            longest_pause: Duration::from_secs(2),
            ..RetryPolicy::default()
        };
        for (next, most) in [(1, 200), (2, 400), (4, 1600), (5, 2000), (40, 2000)] {
            let most = Duration::from_millis(most);
            let pauses: Vec<_> = (0..20).map(|_| policy.pause(next, None)).collect();
            assert!(
                pauses.iter().all(|pause| *pause <= most && *pause >= most / 2),
                "{pauses:?}"
            );
            assert!(
                pauses.iter().any(|pause| *pause != pauses[0]),
                "all clients would come back at once"
            );
        }
    }

    #[test]
    fn a_server_may_ask_for_more_patience_within_the_bound() {
        let policy = RetryPolicy {
            longest_pause: Duration::from_secs(2),
            ..RetryPolicy::default()
        };
        let asked = |seconds| policy.pause(1, Some(Duration::from_secs(seconds)));
        assert!((1.0..=1.2).contains(&asked(1).as_secs_f64()));
        assert!((2.0..=2.2).contains(&asked(3600).as_secs_f64()));
    }

    #[test]
    fn a_server_may_ask_for_patience_in_seconds_or_until_a_time() {
        let asked = |text: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            if let Some(date) = date {
                headers.insert(DATE, date.parse().unwrap());
            }
            retry_after(&headers, SystemTime::UNIX_EPOCH).map(|asked| asked.as_secs())
        };
        assert_eq!(asked(" 7 ", None), Some(7));
        assert_eq!(asked("Thu, 01 Jan 1970 00:02:00 GMT", None), Some(120));
        let date = Some("Sun, 06 Nov 1994 08:49:30 GMT");
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT", date), Some(7));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:00 GMT", date), Some(0));
        assert_eq!(asked("soon", date), None);
        assert_eq!(asked("-1", date), None);
    }

    #[test]
    fn the_usual_patience_outlasts_a_minute_of_trouble_almost() {
        let policy = RetryPolicy::default();
        let pauses: Duration = (1..policy.attempts).map(|next| policy.pause(next, None)).sum();
        assert!((25.0..=52.0).contains(&pauses.as_secs_f64()), "{pauses:?}");
    }
}
