//! Gateway API's `echo-basic` in its HTTP mode: tells what arrived, as JSON.
//!
//! Here: HTTP/1.1 and HTTP/2, `/health`, `/status/NNN`, `/retry/`, `delay`, `X-Echo-Set-Header`. A test holds the answers
//! equal to those of the program itself. Deliberately absent: fields of forms in bodies, which count like the query's there; request
//! targets that are no URI, which it takes.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::time::Duration;

use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use parking_lot::Mutex;
use serde::Serialize;

use super::{Answer, Arrival, Asked, Outcome, Stand, empty, json, respond, text, websocket};
use crate::pods::behaviour::Speaks;
use crate::pods::tls::TlsFacts;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<ToldTls<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToldTls<'a> {
    version: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    peer_certificates: &'a [String],
    server_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    negotiated_protocol: &'a str,
    cipher_suite: &'a str,
}

impl<'a> ToldTls<'a> {
    fn of(facts: &'a TlsFacts) -> Self {
        Self {
            version: facts.version.short(),
            peer_certificates: &facts.peer_certificates,
            server_name: &facts.server_name,
            negotiated_protocol: &facts.negotiated_protocol,
            cipher_suite: &facts.cipher_suite,
        }
    }
}

pub(super) async fn answer(stand: &Stand, arrival: &Arrival, asked: &Asked) -> Outcome {
    if arrival.speaks == Speaks::Http2OrHttp1 {
        let upgrades = asked.parts.headers.get(UPGRADE).is_some_and(|value| value == "h2c");
        if asked.parts.version != Version::HTTP_2 && !upgrades {
            return text(StatusCode::BAD_REQUEST, "Expected h2c request").into();
        }
        return echo(stand, arrival, asked).await.into();
    }
    if asked.parts.method == Method::OPTIONS && asked.target() == "*" {
        return empty(StatusCode::OK).into();
    }
    let path = asked.parts.uri.path().replace("//", "/");
    if let Some(location) = elsewhere(&path, asked) {
        return location.into();
    }
    match path.as_str() {
        "/health" => text(StatusCode::OK, "OK").into(),
        "/ws" => websocket::handshake(&asked.parts),
        _ if path.starts_with("/status/") => without_body(status(asked.target())).into(),
        _ if path.starts_with("/retry/") => retry(stand, arrival, asked).await,
        _ => echo(stand, arrival, asked).await.into(),
    }
}

/// Says that there is no body, where there could be one.
fn without_body(status: StatusCode) -> Answer {
    let mut answer = empty(status);
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    answer
}

/// Go's ServeMux leads a path that is not in its normal form to the one that is.
fn elsewhere(path: &str, asked: &Asked) -> Option<Answer> {
    let clean = clean(path);
    let clean = if clean == "/status" || clean == "/retry" { format!("{clean}/") } else { clean };
    if clean == path || asked.parts.method == Method::CONNECT {
        return None;
    }
    let query = asked.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("{clean}{query}");
    let status = StatusCode::TEMPORARY_REDIRECT;
    let mut answer = match asked.parts.method {
        Method::GET | Method::HEAD => {
            let link = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", html(&location));
            respond(status, "text/html; charset=utf-8", link)
        }
        _ => without_body(status),
    };
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(&location).ok()?);
    Some(answer)
}

fn html(text: &str) -> String {
    let quoted = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    quoted.replace('"', "&#34;").replace('\'', "&#39;")
}

/// Without empty segments, `.` and `..`; an end in `/` stays.
fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

/// `/status/NNN` with nothing behind it; anything else is a bad request.
fn status(target: &str) -> StatusCode {
    let code = target.strip_prefix("/status/").filter(|code| code.len() == 3);
    let status = code.and_then(|code| StatusCode::from_str(code).ok());
    status.filter(|status| !status.is_informational()).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn retry(stand: &Stand, arrival: &Arrival, asked: &Asked) -> Outcome {
    let Some(identity) = asked.query("uuid").filter(|identity| !identity.is_empty()) else {
        return text(StatusCode::BAD_REQUEST, "uuid is required").into();
    };
    let Some(succeed_after) = asked.query("succeedAfter").and_then(|count| count.parse::<i32>().ok()) else {
        return text(StatusCode::BAD_REQUEST, "succeedAfter is required").into();
    };
    if !stand.attempts.fails(&identity, u32::try_from(succeed_after).unwrap_or(0)) {
        return echo(stand, arrival, asked).await.into();
    }
    if let Err(complaint) = wait(asked, "delayRetry").await {
        return complaint.into();
    }
    match asked.query("responseCode").and_then(|code| code.parse::<u16>().ok()) {
        Some(code) => match StatusCode::from_u16(code) {
            Ok(code) => without_body(code).into(),
            // Go's server panics, which ends the connection.
            Err(_) => Outcome::Close,
        },
        None if asked.parts.version == Version::HTTP_2 => {
            failure("response writer does not support hijacking").into()
        }
        None => Outcome::Reset,
    }
}

async fn echo(stand: &Stand, arrival: &Arrival, asked: &Asked) -> Answer {
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
        tls: arrival.tls.as_deref().map(ToldTls::of),
    };
    let mut answer = respond(StatusCode::OK, "application/json", json::indented(&told));
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
        None => Err(failure(&format!("time: {} duration {text:?}", complaint(&text)))),
    }
}

/// Go tells a number without a unit from what is no duration at all.
fn complaint(text: &str) -> &'static str {
    let unsigned = text.trim_start_matches(['+', '-']);
    let number =
        !unsigned.is_empty() && unsigned.chars().all(|letter| letter.is_ascii_digit() || letter == '.');
    if number && unsigned != "." { "missing unit in" } else { "invalid" }
}

fn failure(message: &str) -> Answer {
    let body = json::compact(&serde_json::json!({ "message": message }));
    let mut answer = respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", body);
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
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
