//! What of a request is read before anybody is known: targets, names and ranges that no client would send.

use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::address::Address;
use super::client_calls;
use super::route::{Query, Route};
use super::storage::{self, Range};

const PIECES: &[&str] = &[
    "/",
    "//",
    "..",
    "%2e",
    "%2F",
    "%00",
    "%ff",
    "%",
    "%zz",
    "?",
    "&",
    "=",
    "#",
    ":",
    "@",
    "[",
    "]",
    "[::1]",
    "localhost",
    "127.0.0.1",
    ":80",
    ":99999",
    "task",
    "runs",
    "0",
    "1000",
    "1001",
    "-1",
    "artifacts",
    "public",
    "status",
    "claim-work",
    "pending",
    "clients",
    "limit",
    "continuationToken",
    "bewit",
    "bytes=",
    "-",
    ",",
    "18446744073709551615",
    "18446744073709551616",
    "5",
    "fN1SbArXTPSVFNUvaOlinQ",
    "a/b",
    " ",
    "ü",
    "http://",
    "https://",
];

fn text(rng: &mut StdRng, most: usize) -> String {
    (0..rng.random_range(0..most))
        .map(|_| *PIECES.choose(rng).expect("there are some"))
        .collect()
}

#[test]
fn no_target_no_name_and_no_range_breaks_the_parsers() {
    let seed: u64 = std::env::var("TCW_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    let mut rng = StdRng::seed_from_u64(seed);
    let address = Address::new("https://queue.example.com:8443", false).expect("it is one");
    let methods = [
        Method::GET,
        Method::PUT,
        Method::POST,
        Method::DELETE,
        Method::HEAD,
    ];
    for round in 0..50_000 {
        let context = |text: &str| format!("seed {seed}, round {round}: {text:?}");
        let method = methods.choose(&mut rng).expect("there are some");
        let (path, query) = (text(&mut rng, 12), text(&mut rng, 6));
        for api in [super::route::API, client_calls::API, ""] {
            let path = format!("{api}/{path}");
            if let Ok(route) = Route::find(method, &path) {
                assert!(path.starts_with(super::route::API), "{}", context(&path));
                let _ = Query::parse(&query, &route);
            }
            let _ = client_calls::Call::find(method, &path, &query);
        }
        let host = text(&mut rng, 4);
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&host) {
            headers.insert(header::HOST, value);
        }
        if let Ok(uri) = path.parse::<Uri>()
            && let Ok(reached) = address.reached(&uri, &headers)
        {
            let ours = reached.host.eq_ignore_ascii_case("localhost")
                || reached
                    .host
                    .trim_matches(['[', ']'])
                    .parse()
                    .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
            assert!(ours, "{}", context(&host));
        }
        let _ = Address::new(&host, true);
        let range = text(&mut rng, 8);
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&range) {
            headers.insert(header::RANGE, value);
        }
        let length = *[0, 1, 5, 6, 1000, u64::MAX]
            .choose(&mut rng)
            .expect("there are some");
        if let Range::Part { start, length: part } = storage::requested_range(&headers, length) {
            let end = start
                .checked_add(part)
                .unwrap_or_else(|| panic!("{}", context(&range)));
            assert!(part > 0 && end <= length, "{}", context(&range));
        }
    }
}
