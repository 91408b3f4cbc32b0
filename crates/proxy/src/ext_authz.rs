//! The messages of Envoy's `envoy.service.auth.v3.Authorization/Check`, as far as they are used here, and their meaning.
//!
//! Names and numbers of fields are the protocol's. Pure: bytes in, bytes out.
//!
//! What a header of an answer does to one that is there is said by its `append` where it has one, else by its `append_action`. The
//! latter's zero cannot be told from nothing said: in a request it stands for a change in place (as `OkHttpResponse.headers` has it), in
//! the client's response for a line beside what is there (as the action's own name has it).
//!
//! Deliberately absent: dynamic metadata.

use prost::Message;
use weir_codec::field::{is_token_byte, is_value_byte};
use weir_codec::rewrite::{field, finish};

use crate::filter::{Grant, GrantLine, Put};
use crate::query::QueryEdits;

/// Where the method is served.
pub(crate) const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Bytes before a message: not compressed, and its length (gRPC over HTTP/2, `Length-Prefixed-Message`).
const PREFIX_BYTES: usize = 5;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) attributes: Option<AttributeContext>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AttributeContext {
    #[prost(message, optional, tag = "1")]
    pub(crate) source: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    pub(crate) request: Option<Request>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Peer {
    #[prost(message, optional, tag = "1")]
    pub(crate) address: Option<Address>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Address {
    #[prost(message, optional, tag = "1")]
    pub(crate) socket_address: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SocketAddress {
    #[prost(string, tag = "2")]
    pub(crate) address: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(message, optional, tag = "2")]
    pub(crate) http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HttpRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    /// Names in lower case; values of one name joined by commas.
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) headers: std::collections::BTreeMap<String, String>,
    /// With the query.
    #[prost(string, tag = "4")]
    pub(crate) path: String,
    #[prost(string, tag = "5")]
    pub(crate) host: String,
    #[prost(string, tag = "6")]
    pub(crate) scheme: String,
    /// Of the body; -1 where it is not known.
    #[prost(int64, tag = "9")]
    pub(crate) size: i64,
    #[prost(string, tag = "10")]
    pub(crate) protocol: String,
    /// A body that is text.
    #[prost(string, tag = "11")]
    pub(crate) body: String,
    /// Any other.
    #[prost(bytes = "vec", tag = "12")]
    pub(crate) raw_body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub(crate) denied_response: Option<DeniedHttpResponse>,
    #[prost(message, optional, tag = "3")]
    pub(crate) ok_response: Option<OkHttpResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    /// 0 lets the request pass.
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeniedHttpResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<HttpStatus>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) headers: Vec<HeaderValueOption>,
    #[prost(string, tag = "3")]
    pub(crate) body: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HttpStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OkHttpResponse {
    #[prost(message, repeated, tag = "2")]
    pub(crate) headers: Vec<HeaderValueOption>,
    #[prost(string, repeated, tag = "5")]
    pub(crate) headers_to_remove: Vec<String>,
    /// For the client.
    #[prost(message, repeated, tag = "6")]
    pub(crate) response_headers_to_add: Vec<HeaderValueOption>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) query_parameters_to_set: Vec<QueryParameter>,
    #[prost(string, repeated, tag = "8")]
    pub(crate) query_parameters_to_remove: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct QueryParameter {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<HeaderValue>,
    /// Beside what is there of the name; else in its place.
    #[prost(message, optional, tag = "2")]
    pub(crate) append: Option<BoolValue>,
    #[prost(enumeration = "AppendAction", tag = "3")]
    pub(crate) append_action: i32,
    /// An empty value is one: else the header is left out.
    #[prost(bool, tag = "4")]
    pub(crate) keep_empty_value: bool,
}

/// `HeaderValueOption.HeaderAppendAction`
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum AppendAction {
    AppendIfExistsOrAdd = 0,
    AddIfAbsent = 1,
    OverwriteIfExistsOrAdd = 2,
    OverwriteIfExists = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BoolValue {
    #[prost(bool, tag = "1")]
    pub(crate) value: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderValue {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
    /// In the place of `value` where that is empty.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) raw_value: Vec<u8>,
}

/// A server's word.
#[derive(Debug)]
pub(crate) enum Word {
    Pass(Grant),
    /// The client's answer: a head of HTTP/1.1 without framing, and a body.
    Deny {
        head: Vec<u8>,
        body: Vec<u8>,
    },
}

/// Why an answer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordError {
    #[error("no whole message, or more than one, or a compressed one")]
    Framing,
    #[error("the message cannot be decoded")]
    Message,
    #[error("a header or status that cannot be sent")]
    Header,
}

/// A message as it goes over the wire.
pub(crate) fn framed(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + length);
    bytes.push(0);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes
}

/// What a server's answer says; `place` is the filter's.
pub(crate) fn word(bytes: &[u8], place: [usize; 2]) -> Result<Word, WordError> {
    let (prefix, message) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or(WordError::Framing)?;
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return Err(WordError::Framing);
    }
    let response = CheckResponse::decode(message).map_err(|_| WordError::Message)?;
    let passes = match &response.status {
        Some(status) => status.code == 0,
        // Some servers leave the zero out; an empty word is no leave.
        None => response.ok_response.is_some(),
    };
    match response {
        CheckResponse { denied_response: None, ok_response, .. } if passes => {
            pass(ok_response.unwrap_or_default(), place)
        }
        CheckResponse { denied_response, .. } => deny(&denied_response.unwrap_or_default()),
    }
}

fn pass(ok: OkHttpResponse, place: [usize; 2]) -> Result<Word, WordError> {
    let lines = granted(&ok.headers, Put::InPlace)?;
    let response = granted(&ok.response_headers_to_add, Put::Beside)?;
    let remove = ok.headers_to_remove.iter().map(|name| name.to_ascii_lowercase().into()).collect();
    let query = QueryEdits::new(
        ok.query_parameters_to_set.iter().map(|one| (one.key.as_bytes(), one.value.as_bytes())),
        ok.query_parameters_to_remove.iter().map(String::as_bytes),
    );
    Ok(Word::Pass(Grant { place, lines, remove, response, query }))
}

/// `unsaid`: what is done where nothing is said of it.
fn granted(options: &[HeaderValueOption], unsaid: Put) -> Result<Vec<GrantLine>, WordError> {
    let mut lines = Vec::with_capacity(options.len());
    for option in options {
        let (name, value) = checked(option)?;
        lines.push(GrantLine { name: name.into(), value: value.into(), put: put(option, unsaid) });
    }
    Ok(lines)
}

fn put(option: &HeaderValueOption, unsaid: Put) -> Put {
    match &option.append {
        Some(BoolValue { value: true }) => Put::Beside,
        Some(BoolValue { value: false }) => Put::InPlace,
        None => match option.append_action() {
            AppendAction::AppendIfExistsOrAdd => unsaid,
            AppendAction::AddIfAbsent => Put::WhereNone,
            AppendAction::OverwriteIfExistsOrAdd => Put::InPlace,
            AppendAction::OverwriteIfExists => Put::WhereSome,
        },
    }
}

fn deny(denied: &DeniedHttpResponse) -> Result<Word, WordError> {
    let status = match denied.status.as_ref().map_or(0, |status| status.code) {
        // Envoy's default.
        0 => 403,
        status @ 200..=599 => status,
        _ => return Err(WordError::Header),
    };
    let mut head = format!("HTTP/1.1 {status} \r\n").into_bytes();
    for option in &denied.headers {
        let (name, value) = checked(option)?;
        field(name.as_bytes(), value, &mut head);
    }
    finish(&mut head);
    Ok(Word::Deny { head, body: denied.body.as_bytes().to_vec() })
}

/// What cannot break out of its line.
fn checked(option: &HeaderValueOption) -> Result<(&str, &[u8]), WordError> {
    let header = option.header.as_ref().ok_or(WordError::Header)?;
    let value = if header.value.is_empty() { &header.raw_value } else { header.value.as_bytes() };
    let sound = !header.key.is_empty()
        && header.key.bytes().all(is_token_byte)
        && value.iter().copied().all(is_value_byte);
    if sound { Ok((&header.key, value)) } else { Err(WordError::Header) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(key: &str, value: &str, append: bool) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() }),
            append: append.then_some(BoolValue { value: true }),
            ..HeaderValueOption::default()
        }
    }

    fn said(response: &CheckResponse) -> Result<Word, WordError> {
        word(&framed(response), [0, 3])
    }

    #[test]
    fn a_status_of_zero_lets_pass_and_anything_else_does_not() {
        let passing = CheckResponse {
            status: Some(Status { code: 0 }),
            ok_response: Some(OkHttpResponse {
                headers: vec![header("x-user", "ada", false), header("x-role", "admin", true)],
                headers_to_remove: vec!["Cookie".into()],
                ..OkHttpResponse::default()
            }),
            denied_response: None,
        };
        let Ok(Word::Pass(grant)) = said(&passing) else { panic!("it passes") };
        assert_eq!(grant.place, [0, 3]);
        assert_eq!((&*grant.lines[0].name, grant.lines[0].put), ("x-user", Put::InPlace));
        assert_eq!(grant.lines[1].put, Put::Beside);
        assert_eq!(*grant.remove, [Box::from("cookie")]);
        let refusing = CheckResponse { status: Some(Status { code: 7 }), ..passing.clone() };
        assert!(matches!(said(&refusing), Ok(Word::Deny { .. })));
        let implied = CheckResponse { status: None, ..passing.clone() };
        assert!(matches!(said(&implied), Ok(Word::Pass(_))));
        assert!(matches!(said(&CheckResponse::default()), Ok(Word::Deny { .. })));
        let both = CheckResponse { denied_response: Some(DeniedHttpResponse::default()), ..passing };
        assert!(matches!(said(&both), Ok(Word::Deny { .. })));
    }

    #[test]
    fn what_a_header_does_to_one_that_is_there_is_said_by_append_and_else_by_its_action() {
        let option = |append: Option<bool>, action| HeaderValueOption {
            append: append.map(|value| BoolValue { value }),
            append_action: action,
            ..header("x", "y", false)
        };
        for (append, action, in_request, in_response) in [
            (None, 0, Put::InPlace, Put::Beside),
            (None, 1, Put::WhereNone, Put::WhereNone),
            (None, 2, Put::InPlace, Put::InPlace),
            (None, 3, Put::WhereSome, Put::WhereSome),
            // One that is not known yet.
            (None, 9, Put::InPlace, Put::Beside),
            (Some(true), 2, Put::Beside, Put::Beside),
            (Some(false), 1, Put::InPlace, Put::InPlace),
        ] {
            let one = vec![option(append, action)];
            let ok = OkHttpResponse {
                headers: one.clone(),
                response_headers_to_add: one,
                ..OkHttpResponse::default()
            };
            let said = said(&CheckResponse { ok_response: Some(ok), ..CheckResponse::default() });
            let Ok(Word::Pass(grant)) = said else { panic!("it passes") };
            assert_eq!(
                (grant.lines[0].put, grant.response[0].put),
                (in_request, in_response),
                "{append:?} {action}"
            );
        }
    }

    #[test]
    fn a_denial_is_403_where_nothing_else_is_said() {
        let denial = |code, key: &str, value: &str| CheckResponse {
            status: Some(Status { code: 16 }),
            denied_response: Some(DeniedHttpResponse {
                status: Some(HttpStatus { code }),
                headers: vec![header(key, value, false)],
                body: "no".into(),
            }),
            ok_response: None,
        };
        let Ok(Word::Deny { head, body }) = said(&denial(0, "x-why", "key")) else {
            panic!("it is a denial")
        };
        assert_eq!(
            (head.as_slice(), body.as_slice()),
            (&b"HTTP/1.1 403 \r\nx-why: key\r\n\r\n"[..], &b"no"[..])
        );
        let Ok(Word::Deny { head, .. }) = said(&denial(401, "x", "")) else { panic!("it is a denial") };
        assert!(head.starts_with(b"HTTP/1.1 401 "));
        for wrong in [
            denial(101, "x", "y"),
            denial(700, "x", "y"),
            denial(403, "a b", "y"),
            denial(403, "x", "a\r\nb: c"),
        ] {
            assert_eq!(said(&wrong).err(), Some(WordError::Header));
        }
    }

    #[test]
    fn what_is_no_message_is_no_leave() {
        let whole = framed(&CheckResponse { status: Some(Status { code: 0 }), ..CheckResponse::default() });
        assert!(matches!(word(&whole, [0, 0]), Ok(Word::Pass(_))));
        let mut compressed = whole.clone();
        compressed[0] = 1;
        for wrong in
            [&b""[..], &whole[..4], &whole[..whole.len() - 1], &[&whole[..], b"x"].concat(), &compressed]
        {
            assert_eq!(word(wrong, [0, 0]).err(), Some(WordError::Framing));
        }
        assert_eq!(word(&[0, 0, 0, 0, 2, 0xff, 0xff], [0, 0]).err(), Some(WordError::Message));
    }
}
