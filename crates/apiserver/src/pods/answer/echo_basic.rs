//! Gateway API's `echo-basic`: tells what arrived, as JSON.
//!
//! Here: HTTP/1.1 and HTTP/2 without TLS, `/health`, `/status/NNN`, `/retry/`, `delay`, `X-Echo-Set-Header`.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{StatusCode, Version};
use parking_lot::Mutex;
use serde::Serialize;

use super::{Answer, Arrival, Asked, Stand, respond, text};

/// Longest `delay`. Source: ours; conformance asks for 10 s.
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// Identities whose attempts are counted. Source: ours; a test uses one each.
const COUNTED: usize = 4096;

/// How often each `/retry` identity was tried.
#[derive(Default)]
pub(in super::super) struct Attempts(Mutex<HashMap<String, u32>>);

impl Attempts {
    /// Whether this attempt is one that must fail.
    fn fails(&self, identity: &str, succeed_after: u32) -> bool {
        let mut attempts = self.0.lock();
        if attempts.len() >= COUNTED && !attempts.contains_key(identity) {
            attempts.clear();
        }
        let tried = attempts.entry(identity.to_owned()).or_insert(0);
        let fails = *tried < succeed_after;
        *tried += u32::from(fails);
        fails
    }
}

#[derive(Serialize)]
struct Told<'a> {
    path: &'a str,
    host: String,
    method: &'a str,
    proto: &'static str,
    headers: BTreeMap<String, Vec<String>>,
    #[serde(rename = "httpPort")]
    http_port: &'a str,
    namespace: &'a str,
    ingress: &'a str,
    service: &'a str,
    pod: &'a str,
}

/// None where the contract is to close the connection.
pub(super) async fn answer(stand: &Stand, arrival: Arrival, asked: &Asked) -> Option<Answer> {
    if arrival.expects_http2 && asked.parts.version != Version::HTTP_2 {
        return Some(text(StatusCode::BAD_REQUEST, "Expected h2c request"));
    }
    if arrival.expects_http2 {
        return Some(echo(stand, arrival, asked).await);
    }
    let path = asked.parts.uri.path();
    if path == "/health" {
        return Some(text(StatusCode::OK, "OK"));
    }
    if path.starts_with("/status/") {
        return Some(text(status(asked.target()), ""));
    }
    if path.starts_with("/retry/") {
        return retry(stand, arrival, asked).await;
    }
    Some(echo(stand, arrival, asked).await)
}

/// `/status/NNN` with nothing behind it; anything else is a bad request.
fn status(target: &str) -> StatusCode {
    let code = target.strip_prefix("/status/").filter(|code| code.len() == 3);
    let status = code.and_then(|code| StatusCode::from_str(code).ok());
    status.filter(|status| !status.is_informational()).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn retry(stand: &Stand, arrival: Arrival, asked: &Asked) -> Option<Answer> {
    let Some(identity) = asked.query("uuid").filter(|identity| !identity.is_empty()) else {
        return Some(text(StatusCode::BAD_REQUEST, "uuid is required"));
    };
    let Some(succeed_after) = asked.query("succeedAfter").and_then(|count| count.parse().ok()) else {
        return Some(text(StatusCode::BAD_REQUEST, "succeedAfter is required"));
    };
    if !stand.attempts.fails(&identity, succeed_after) {
        return Some(echo(stand, arrival, asked).await);
    }
    if let Err(complaint) = wait(asked, "delayRetry").await {
        return Some(complaint);
    }
    let code = asked.query("responseCode").and_then(|code| StatusCode::from_str(&code).ok());
    code.map(|code| text(code, ""))
}

async fn echo(stand: &Stand, arrival: Arrival, asked: &Asked) -> Answer {
    let target = asked.target();
    stand.log(&format!("Echoing back request made to {target} to client ({})", arrival.peer));
    if let Err(complaint) = wait(asked, "delay").await {
        return complaint;
    }
    let http_port = stand.variable("HTTP_PORT").unwrap_or("3000");
    let told = Told {
        path: target,
        host: host(&asked.parts),
        method: asked.parts.method.as_str(),
        proto: protocol(asked.parts.version),
        headers: header_map(&asked.parts),
        http_port,
        namespace: stand.variable("NAMESPACE").unwrap_or_default(),
        ingress: stand.variable("INGRESS_NAME").unwrap_or_default(),
        service: stand.variable("SERVICE_NAME").unwrap_or_default(),
        pod: stand.variable("POD_NAME").unwrap_or_default(),
    };
    // Text keys and values always serialise.
    let body = serde_json::to_vec_pretty(&told).unwrap_or_default();
    let mut answer = respond(StatusCode::OK, "application/json", body);
    set_headers(&asked.parts, &mut answer);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn host(parts: &Parts) -> String {
    let header = parts.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let authority = parts.uri.authority().map(ToString::to_string);
    authority.or(header).unwrap_or_default()
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// The headers with their names in the usual capitals and without `Host`, which is told apart.
pub(super) fn header_map(parts: &Parts) -> BTreeMap<String, Vec<String>> {
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in parts.headers.iter().filter(|(name, _)| *name != HOST) {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(capitals(name.as_str())).or_default().push(value);
    }
    // Framing of this hop is not told, as Go's servers do not tell it.
    headers.remove("Transfer-Encoding");
    headers
}

fn capitals(name: &str) -> String {
    let mut start = true;
    let capital = |letter: char| {
        let out = if start { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        start = letter == '-';
        out
    };
    name.chars().map(capital).collect()
}

/// `X-Echo-Set-Header: a:1, b:2` becomes headers of the answer; equal names are joined.
fn set_headers(parts: &Parts, answer: &mut Answer) {
    let mut wanted: Vec<(HeaderName, String)> = Vec::new();
    for line in parts.headers.get_all("x-echo-set-header") {
        let line = String::from_utf8_lossy(line.as_bytes());
        for pair in line.split(',') {
            let (name, value) = pair.trim().split_once(':').unwrap_or((pair.trim(), ""));
            let Ok(name) = HeaderName::from_str(name) else { continue };
            match wanted.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => {
                    known.push(',');
                    known.push_str(value.trim());
                }
                None => wanted.push((name, value.to_owned())),
            }
        }
    }
    for (name, value) in wanted {
        if let Ok(value) = HeaderValue::from_str(&value) {
            answer.headers_mut().insert(name, value);
        }
    }
}

/// Waits as long as the query's `name` says.
async fn wait(asked: &Asked, name: &str) -> Result<(), Answer> {
    let Some(text) = asked.query(name).filter(|text| !text.is_empty()) else { return Ok(()) };
    match go_duration(&text) {
        Some(delay) => {
            tokio::time::sleep(delay.min(LONGEST_DELAY)).await;
            Ok(())
        }
        None => {
            let complaint = serde_json::json!({ "message": format!("time: invalid duration {text:?}") });
            Err(respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", complaint.to_string()))
        }
    }
}

/// Go's durations: numbers with units, such as `1m30s` or `1.5s`; also a bare `0`.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end =
            rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(total).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        assert_eq!(go_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(go_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(go_duration("10"), None);
        assert_eq!(go_duration("x"), None);
    }

    #[test]
    fn an_identity_fails_as_often_as_asked() {
        let attempts = Attempts::default();
        assert_eq!(
            [attempts.fails("a", 2), attempts.fails("a", 2), attempts.fails("a", 2)],
            [true, true, false]
        );
        assert!(!attempts.fails("b", 0));
    }

    #[test]
    fn header_names_get_their_capitals() {
        assert_eq!(capitals("x-forwarded-for"), "X-Forwarded-For");
        assert_eq!(status("/status/418"), StatusCode::IM_A_TEAPOT);
        assert_eq!(status("/status/418?x"), StatusCode::BAD_REQUEST);
    }
}
