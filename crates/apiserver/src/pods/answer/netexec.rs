//! agnhost's `netexec` and `serve-hostname`: the documented HTTP endpoints, without those that would act on the host.

use std::collections::BTreeMap;
use std::str::FromStr;

use http::header::LOCATION;
use http::{HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;

use super::echo_basic::header_map;
use super::{Answer, Arrival, Asked, Stand, respond, text};

/// `serve-hostname`: the pod's name and a line end, whatever is asked.
pub(super) fn hostname(stand: &Stand, arrival: &Arrival, asked: &Asked) -> Answer {
    stand.log_request(arrival, asked);
    text(StatusCode::OK, stand.pod.clone())
}

pub(super) fn answer(stand: &Stand, arrival: &Arrival, asked: &Asked) -> Answer {
    stand.log_request(arrival, asked);
    let ok = |body: String| text(StatusCode::OK, body);
    match asked.parts.uri.path() {
        "/hostname" | "/hostName" => ok(stand.pod.clone()),
        "/clientip" => ok(arrival.peer.to_string()),
        "/serverport" => ok(arrival.port.to_string()),
        "/healthz" | "/readyz" => ok(String::new()),
        "/echo" => echo(asked),
        "/header" => header(asked),
        "/redirect" => redirect(asked),
        "/upload" => upload(asked),
        "/exit" | "/shutdown" => {
            stand.log("asked to exit; a stand-in goes on, `kubectl delete pod` ends it");
            ok(String::new())
        }
        "/shell" | "/dial" => refuse(),
        _ => ok(format!("NOW: {}", Timestamp::now().strftime("%Y-%m-%d %H:%M:%S.%9f +0000 UTC"))),
    }
}

fn echo(asked: &Asked) -> Answer {
    let message = asked.query("msg").unwrap_or_default();
    match asked.query("code").filter(|code| !code.is_empty()) {
        None => text(StatusCode::OK, message),
        Some(code) => match code.parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(status) if !status.is_informational() => text(status, message),
            Some(_) => text(StatusCode::OK, message),
            None => {
                let complaint = format!("argument 'code' must be an integer or empty, got {code:?}\n");
                text(StatusCode::OK, complaint)
            }
        },
    }
}

fn header(asked: &Asked) -> Answer {
    match asked.query("key").filter(|key| !key.is_empty()) {
        Some(key) => {
            let value = HeaderName::from_str(&key).ok().and_then(|name| asked.parts.headers.get(name));
            text(StatusCode::OK, value.map(|value| value.as_bytes().to_vec()).unwrap_or_default())
        }
        None => {
            let headers: BTreeMap<_, _> = header_map(&asked.parts);
            // Text keys and values always serialise.
            text(StatusCode::OK, serde_json::to_string(&headers).unwrap_or_default())
        }
    }
}

fn redirect(asked: &Asked) -> Answer {
    let code = asked.query("code").and_then(|code| code.parse().ok());
    let status = code.and_then(|code| StatusCode::from_u16(code).ok()).filter(StatusCode::is_redirection);
    let mut answer = text(status.unwrap_or(StatusCode::FOUND), "");
    if let Ok(location) = HeaderValue::from_str(&asked.query("location").unwrap_or_default()) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

/// The bytes are read and counted, and kept nowhere.
fn upload(asked: &Asked) -> Answer {
    let kept = serde_json::json!({ "output": "/dev/null", "bytes": asked.body_bytes });
    respond(StatusCode::OK, "application/json", kept.to_string())
}

fn refuse() -> Answer {
    let refusal =
        serde_json::json!({ "error": "Weir's stand-in for agnhost runs no commands and dials nobody" });
    respond(StatusCode::NOT_IMPLEMENTED, "application/json", refusal.to_string())
}
