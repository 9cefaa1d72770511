//! The queue's time, where this machine's clock is wrong.
//!
//! Signatures carry the time, and claims end at one that the queue's clock says. Every answer says what that is, so a
//! clock that is minutes off costs a warning and nothing else: requests are signed with the queue's time, and the end
//! of a claim is translated into ours.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{AGE, DATE, HeaderMap};

/// Differences up to this are those of any two machines, and of the time that an answer takes.
const TOLERANCE: i64 = 30;
/// A larger difference is not believed: requests that are signed for so far away could be kept and sent by others.
const MOST: i64 = 24 * 3600;

/// This machine's clock beside the queue's.
pub(super) struct Clock {
    now: fn() -> SystemTime,
    /// Seconds by which the queue is ahead; 0 as long as they are few.
    ahead: AtomicI64,
}

impl Clock {
    pub(super) fn new(now: fn() -> SystemTime) -> Self {
        let ahead = AtomicI64::new(0);
        Self { now, ahead }
    }

    /// What the queue's clock says now, as far as is known.
    pub(super) fn now(&self) -> SystemTime {
        let (here, ahead) = ((self.now)(), self.ahead.load(Ordering::Relaxed));
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { here - by } else { here + by }
    }

    /// By how much the queue is ahead, as far as is known.
    pub(super) fn ahead(&self) -> TimeDelta {
        TimeDelta::seconds(self.ahead.load(Ordering::Relaxed))
    }

    /// A time of the queue's as this machine's clock will say it.
    pub(super) fn here(&self, there: DateTime<Utc>) -> DateTime<Utc> {
        there.checked_sub_signed(self.ahead()).unwrap_or(there)
    }

    /// Looks at the time in an answer, which came `after` the request. True if the clocks have turned out to differ by something else than was known:
    /// then what was refused may be right now.
    pub(super) fn learn(&self, headers: &HeaderMap, after: Duration) -> bool {
        // What a cache on the way has kept says when it was kept.
        if headers.contains_key(AGE) {
            return false;
        }
        let Some(there) = headers
            .get(DATE)
            .and_then(|value| http_date(value.to_str().ok()?))
        else {
            return false;
        };
        // The answer may have been on its way for all that time, so that the difference is between these two.
        let least = (there - DateTime::<Utc>::from((self.now)())).num_seconds();
        let most = least.saturating_add_unsigned(after.as_secs());
        let fits = |ahead: i64| (least - TOLERANCE..=most + TOLERANCE).contains(&ahead);
        let before = self.ahead.load(Ordering::Relaxed);
        // An answer that came at once may also say that the clock was set right, by little.
        let set_right = fits(0) && (before == 0 || most - least <= 1);
        if fits(before) && (before == 0 || !set_right) {
            return false;
        }
        let ahead = if fits(0) { 0 } else { 0.clamp(least, most) };
        if ahead.abs() > MOST {
            tracing::warn!("{}", explain(ahead));
            return false;
        }
        self.ahead.store(ahead, Ordering::Relaxed);
        if ahead == 0 {
            tracing::info!("this machine's clock and that of the queue agree again");
        } else {
            tracing::warn!(
                "{}; until then, requests are signed with the queue's time",
                explain(ahead)
            );
        }
        true
    }

    /// What to say beside a refusal if it may come from the clock.
    pub(super) fn difference(&self, headers: &HeaderMap) -> Option<String> {
        let there = headers
            .get(DATE)
            .and_then(|value| http_date(value.to_str().ok()?))?;
        let ahead = (there - DateTime::<Utc>::from((self.now)())).num_seconds();
        (ahead.abs() > TOLERANCE).then(|| explain(ahead))
    }
}

fn explain(ahead: i64) -> String {
    let (seconds, which) = (
        ahead.unsigned_abs(),
        if ahead < 0 { "ahead of" } else { "behind" },
    );
    let length = match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} minutes", (seconds + 30) / 60),
        _ => format!("{} hours", (seconds + 1800) / 3600),
    };
    format!("this machine's clock is {length} {which} that of the queue; set it, or let NTP do so")
}

/// A time as HTTP writes it.
pub(crate) fn http_date(text: &str) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc2822(text.trim()).ok()?.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dated(ahead: i64) -> HeaderMap {
        let time = Utc::now() + TimeDelta::seconds(ahead);
        let text = time.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        HeaderMap::from_iter([(DATE, text.parse().unwrap())])
    }

    fn ahead(clock: &Clock) -> i64 {
        let now = DateTime::<Utc>::from(clock.now());
        ((now - Utc::now()).num_milliseconds() as f64 / 1000.0).round() as i64
    }

    #[test]
    fn a_difference_is_believed_between_half_a_minute_and_a_day() {
        for (difference, believed) in [
            (-20, false),
            (20, false),
            (-600, true),
            (600, true),
            (1200, true),
            (200_000, false),
        ] {
            let clock = Clock::new(SystemTime::now);
            assert_eq!(
                clock.learn(&dated(difference), Duration::ZERO),
                believed,
                "{difference}"
            );
            let found = ahead(&clock);
            assert!(
                (found - if believed { difference } else { 0 }).abs() <= 2,
                "{found}"
            );
            // The same again is no news.
            assert!(!clock.learn(&dated(difference), Duration::ZERO));
            let until = Utc::now() + TimeDelta::seconds(100);
            assert!(((until - clock.here(until)).num_seconds() - found).abs() <= 2);
        }
    }

    #[test]
    fn a_clock_that_is_set_right_is_noticed() {
        let clock = Clock::new(SystemTime::now);
        assert!(clock.learn(&dated(900), Duration::ZERO));
        assert!(clock.learn(&dated(0), Duration::ZERO));
        assert_eq!(ahead(&clock), 0);
    }

    #[test]
    fn what_says_no_time_or_an_old_one_is_left_alone() {
        let clock = Clock::new(SystemTime::now);
        let mut cached = dated(900);
        cached.insert(AGE, "60".parse().unwrap());
        let nonsense = HeaderMap::from_iter([(DATE, "yesterday".parse().unwrap())]);
        for headers in [cached, nonsense, HeaderMap::new()] {
            assert!(!clock.learn(&headers, Duration::ZERO), "{headers:?}");
        }
        assert_eq!(ahead(&clock), 0);
    }

    #[test]
    fn an_answer_that_was_long_on_its_way_says_nothing_against_the_clock() {
        let clock = Clock::new(SystemTime::now);
        // Written at the beginning of the minute that it took.
        assert!(!clock.learn(&dated(-58), Duration::from_secs(60)));
        assert_eq!(ahead(&clock), 0);
        // It cannot have been on its way for ten minutes, nor come from the future.
        assert!(clock.learn(&dated(-600), Duration::from_secs(60)));
        assert!((ahead(&clock) + 540).abs() <= 2, "{}", ahead(&clock));
        // That may be the same difference, or more.
        assert!(!clock.learn(&dated(-550), Duration::from_secs(20)));
        assert!(clock.learn(&dated(600), Duration::from_secs(60)));
        assert!((ahead(&clock) - 600).abs() <= 2, "{}", ahead(&clock));
        // A poll does not make a small difference come and go.
        assert!(clock.learn(&dated(-45), Duration::ZERO));
        assert!(!clock.learn(&dated(-45), Duration::from_secs(20)));
        assert!((ahead(&clock) + 45).abs() <= 2, "{}", ahead(&clock));
    }

    #[test]
    fn a_difference_is_told_in_words() {
        assert!(explain(-600).starts_with("this machine's clock is 10 minutes ahead of that of the queue"));
        assert!(explain(45).starts_with("this machine's clock is 45 s behind"));
        assert!(explain(8 * 3600).contains("8 hours behind"));
    }
}
