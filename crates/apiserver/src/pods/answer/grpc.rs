//! echo-basic's gRPC mode: the service `GrpcEcho`, and the errors that grpc-go answers with.
//!
//! Deliberately absent: reflection, compression and streams, which no client of this service uses.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderValue, TE};
use http::{HeaderMap, Method, StatusCode};
use prost::Message;

use super::body::Reply;
use super::{Answer, Arrival, Asked, Stand, empty};

/// The service's full name. Source: grpcecho.proto.
const SERVICE: &str = "gateway_api_conformance.echo_basic.grpcecho.GrpcEcho";
/// Compressed flag and length. Source: the gRPC protocol over HTTP/2.
const PREFIX: usize = 5;
/// Headers that are the protocol's own and that grpc-go does not show to a service.
const RESERVED: [&str; 4] = ["grpc-encoding", "grpc-timeout", "grpc-message", "grpc-status"];

/// Status codes of gRPC.
#[derive(Clone, Copy)]
enum Code {
    Ok = 0,
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

// The messages of grpcecho.proto.

#[derive(Clone, PartialEq, Eq, Message)]
struct Header {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Context {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    ingress: String,
    #[prost(string, tag = "3")]
    service_name: String,
    #[prost(string, tag = "4")]
    pod: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct TlsAssertions {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    negotiated_protocol: String,
    #[prost(string, tag = "3")]
    server_name: String,
    #[prost(string, tag = "4")]
    cipher_suite: String,
    #[prost(string, repeated, tag = "5")]
    peer_certificates: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Assertions {
    #[prost(string, tag = "1")]
    fully_qualified_method: String,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Header>,
    #[prost(string, tag = "3")]
    authority: String,
    #[prost(message, optional, tag = "4")]
    context: Option<Context>,
    #[prost(message, optional, tag = "5")]
    tls_assertions: Option<TlsAssertions>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct EchoRequest {}

#[derive(Clone, PartialEq, Eq, Message)]
struct EchoResponse {
    #[prost(message, optional, tag = "1")]
    assertions: Option<Assertions>,
    #[prost(message, optional, tag = "2")]
    request: Option<EchoRequest>,
}

pub(super) fn answer(stand: &Stand, arrival: &Arrival, asked: &Asked) -> Answer {
    let content_type = asked.parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !is_grpc(content_type) {
        let content_type = String::from_utf8_lossy(content_type);
        let message = format!("invalid gRPC request content-type {content_type:?}");
        return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, &message);
    }
    if asked.parts.method != Method::POST {
        let method = asked.parts.method.as_str();
        let message = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return refusal(StatusCode::METHOD_NOT_ALLOWED, Code::Internal, &message);
    }
    match call(stand, arrival, asked) {
        Ok(message) => success(&message),
        Err((code, message)) => refusal(StatusCode::OK, code, &message),
    }
}

/// `application/grpc`, alone or with a suffix behind `+` or `;`.
fn is_grpc(content_type: &[u8]) -> bool {
    let lower = content_type.to_ascii_lowercase();
    let Some(rest) = lower.strip_prefix(b"application/grpc") else { return false };
    matches!(rest.first(), None | Some(b'+' | b';'))
}

fn call(stand: &Stand, arrival: &Arrival, asked: &Asked) -> Result<EchoResponse, (Code, String)> {
    let path = asked.parts.uri.path();
    let unimplemented = |message| Err((Code::Unimplemented, message));
    let Some((service, method)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/') else {
        return unimplemented(format!("malformed method name: {path:?}"));
    };
    if service != SERVICE {
        return unimplemented(format!("unknown service {service}"));
    }
    match method {
        "Echo" | "EchoTwo" => {}
        "EchoThree" => return unimplemented("method EchoThree not implemented".to_owned()),
        _ => return unimplemented(format!("unknown method {method} for service {SERVICE}")),
    }
    let request = message(asked)?;
    let connection = if arrival.tls.is_some() { "TLS" } else { "plaintext" };
    stand.log(&format!("Received over {connection}: "));
    let variable = |name| stand.variable(name).unwrap_or_default().to_owned();
    // An EchoRequest has no field; what it may hold from a newer client is not echoed.
    let EchoRequest {} = request;
    let authority = authority(asked);
    Ok(EchoResponse {
        assertions: Some(Assertions {
            fully_qualified_method: format!("/{SERVICE}/{method}"),
            headers: metadata(&asked.parts.headers, &authority),
            authority,
            context: Some(Context {
                namespace: variable("NAMESPACE"),
                ingress: variable("INGRESS_NAME"),
                service_name: variable("SERVICE_NAME"),
                pod: variable("POD_NAME"),
            }),
            tls_assertions: arrival.tls.as_deref().map(|tls| TlsAssertions {
                version: tls.version.short().to_owned(),
                negotiated_protocol: tls.negotiated_protocol.clone(),
                server_name: tls.server_name.clone(),
                cipher_suite: tls.cipher_suite.clone(),
                peer_certificates: tls.peer_certificates.clone(),
            }),
        }),
        request: None,
    })
}

/// The one message of the request.
fn message(asked: &Asked) -> Result<EchoRequest, (Code, String)> {
    let internal = |message: String| (Code::Internal, message);
    if asked.body_bytes > asked.body.len() as u64 {
        let message = format!("grpc: received message larger than max ({})", asked.body_bytes);
        return Err((Code::ResourceExhausted, message));
    }
    let Some((prefix, rest)) = asked.body.split_at_checked(PREFIX) else {
        return Err(internal("grpc: the request has no message".to_owned()));
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 {
        let encoding =
            asked.parts.headers.get("grpc-encoding").map(HeaderValue::as_bytes).unwrap_or_default();
        let encoding = String::from_utf8_lossy(encoding);
        let message = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
        return Err((Code::Unimplemented, message));
    }
    if u32::try_from(rest.len()) != Ok(length) {
        return Err(internal("unexpected EOF".to_owned()));
    }
    EchoRequest::decode(rest)
        .map_err(|error| internal(format!("grpc: failed to unmarshal the received message: {error}")))
}

fn authority(asked: &Asked) -> String {
    let authority = asked.parts.uri.authority().map(ToString::to_string);
    let host =
        || asked.parts.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    authority.or_else(host).unwrap_or_default()
}

/// What grpc-go shows a service of the request's headers, sorted.
fn metadata(headers: &HeaderMap, authority: &str) -> Vec<Header> {
    let mut shown = vec![Header { key: ":authority".to_owned(), value: authority.to_owned() }];
    for (name, value) in headers {
        if *name == HOST || *name == TE || RESERVED.contains(&name.as_str()) {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        shown.push(Header { key: name.as_str().to_owned(), value });
    }
    shown.sort_by(|a, b| a.key.cmp(&b.key));
    shown
}

fn success(message: &EchoResponse) -> Answer {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    // An answer is as long as the request's headers, which are bounded far below.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The buffer grows as it must.
    let _ = message.encode(&mut out);
    let mut answer = empty(StatusCode::OK);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    *answer.body_mut() = Reply::with_trailers(out.freeze(), status(Code::Ok, ""));
    answer
}

/// A status in the one block of headers, without a message.
fn refusal(http: StatusCode, code: Code, message: &str) -> Answer {
    let mut answer = empty(http);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer.headers_mut().extend(status(code, message));
    *answer.body_mut() = Reply::new(Bytes::new());
    answer
}

fn status(code: Code, message: &str) -> HeaderMap {
    let mut status = HeaderMap::new();
    status.insert("grpc-status", HeaderValue::from(code as u16));
    // What is no header value is left out; the code says enough.
    if let (false, Ok(message)) = (message.is_empty(), HeaderValue::from_str(&percent(message))) {
        status.insert("grpc-message", message);
    }
    status
}

/// Percent-encoding of what is not printable ASCII, and of `%`. Source: the gRPC protocol over HTTP/2.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_grpc_are_told_from_others() {
        for yes in ["application/grpc", "application/grpc+proto", "application/GRPC;x"] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["", "application/grpc-web", "application/json"] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn messages_of_a_status_stay_readable() {
        assert_eq!(percent("unknown service a%ü"), "unknown service a%25%C3%BC");
    }
}
