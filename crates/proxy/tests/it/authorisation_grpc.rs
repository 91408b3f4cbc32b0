//! Outside authorisation over gRPC: Envoy's `ext_authz`, read and written here by field number alone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use weir_model::limits::Limits;
use weir_model::resource::{ExternalAuth, FilterKind, HttpRule};
use weir_proxy::ProxyConfig;

use crate::harness::{Origin, World, backend, fields, filter, ok, rule, to};
use crate::http2_harness::Http2Origin;

/// The contents of length-delimited fields of one number, by a path of numbers.
fn inner(message: &[u8], path: &[u64]) -> Vec<Vec<u8>> {
    let [number, deeper @ ..] = path else { return vec![message.to_vec()] };
    let mut found = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let key = varint(&mut rest);
        match key & 7 {
            0 => _ = varint(&mut rest),
            2 => {
                let length = usize::try_from(varint(&mut rest)).unwrap();
                let (contents, after) = rest.split_at(length);
                rest = after;
                if key >> 3 == *number {
                    found.extend(inner(contents, deeper));
                }
            }
            other => panic!("no such wire type here: {other}"),
        }
    }
    found
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, after) = rest.split_first().unwrap();
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    unreachable!()
}

fn text(message: &[u8], path: &[u64]) -> String {
    let found = inner(message, path);
    assert!(found.len() < 2, "{path:?} occurs {} times", found.len());
    String::from_utf8(found.into_iter().next().unwrap_or_default()).unwrap()
}

/// A header with an `append_action`.
fn acting(name: &str, value: &str, action: u8) -> Vec<u8> {
    [header(name, value, false), vec![3 << 3, action]].concat()
}

/// `CheckResponse` with `status.code` 0, and these fields of its `OkHttpResponse`.
fn passes_with(fields: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let ok: Vec<u8> = fields.iter().flat_map(|(number, contents)| long(*number, contents)).collect();
    [put(1, &[]), long(3, &ok)].concat()
}

fn parameter(name: &str, value: &str) -> Vec<u8> {
    [put(1, name.as_bytes()), put(2, value.as_bytes())].concat()
}

/// As [`put`], of any length.
fn long(number: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = contents.len();
    while length > 0x7f {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    [&out, contents].concat()
}

/// A length-delimited field (of less than 128 bytes, and a number below 16).
fn put(number: u8, contents: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(contents.len()).unwrap()], contents].concat()
}

fn header(name: &str, value: &str, append: bool) -> Vec<u8> {
    let header = put(1, &[put(1, name.as_bytes()), put(2, value.as_bytes())].concat());
    if append { [header, put(2, &[1 << 3, 1])].concat() } else { header }
}

/// `CheckResponse` with `status.code` 0 and these headers, and names that go.
fn passes(headers: &[(&str, &str, bool)], remove: &[&str]) -> Vec<u8> {
    let mut ok = Vec::new();
    for (name, value, append) in headers {
        ok.extend(put(2, &header(name, value, *append)));
    }
    for name in remove {
        ok.extend(put(5, name.as_bytes()));
    }
    [put(1, &[]), put(3, &ok)].concat()
}

/// `CheckResponse` with `status.code` 7, and this denial.
fn denies(status: Option<u16>, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut denied = Vec::new();
    if let Some(status) = status {
        let number = [u8::try_from(status & 0x7f).unwrap() | 0x80, u8::try_from(status >> 7).unwrap()];
        denied.extend(put(1, &[&[1 << 3][..], &number].concat()));
    }
    for (name, value) in headers {
        denied.extend(put(2, &header(name, value, false)));
    }
    denied.extend(put(3, body.as_bytes()));
    [put(1, &[1 << 3, 7]), put(2, &denied)].concat()
}

type Asked = Arc<Mutex<Vec<Vec<u8>>>>;

/// A server that always gives this answer; what it was asked.
fn server(answer: Vec<u8>) -> (Http2Origin, Asked) {
    let asked = Asked::default();
    let kept = asked.clone();
    let framed =
        Bytes::from([&[0][..], &u32::try_from(answer.len()).unwrap().to_be_bytes(), &answer].concat());
    let origin = Http2Origin::start(move |request, mut respond| {
        let (kept, framed) = (kept.clone(), framed.clone());
        async move {
            let mut body = request.into_body();
            let mut whole = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                whole.extend_from_slice(&data);
            }
            let length = usize::try_from(u32::from_be_bytes(whole[1..5].try_into().unwrap())).unwrap();
            assert_eq!((whole[0], length), (0, whole.len() - 5));
            kept.lock().unwrap().push(whole.split_off(5));
            let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(response, false).unwrap();
            stream.send_data(framed, false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    });
    (origin, asked)
}

fn auth() -> ExternalAuth {
    ExternalAuth { backend_key: "backend/default/auth/80".into(), grpc: true, ..ExternalAuth::default() }
}

fn world(server: SocketAddr, origin: &Origin, auth: ExternalAuth, limits: Limits) -> World {
    let world = World::start(ProxyConfig { workers: Some(1), limits, ..ProxyConfig::default() });
    let mut resources = backend("a", &[origin.address]).to_vec();
    // Nothing says that it speaks HTTP/2, but the filter.
    resources.extend(backend("auth", &[server]));
    let filters = vec![filter(FilterKind::ExternalAuth(auth))];
    resources.push(world.route("r", HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") }));
    assert_eq!(world.apply(resources).rejected, []);
    world
}

fn echo() -> Origin {
    Origin::start(|peer| {
        while let Some((_, body)) = peer.request() {
            peer.send(ok(std::str::from_utf8(&body).unwrap()));
        }
    })
}

const HTTP: [u64; 3] = [1, 4, 2];

fn of_http(message: &[u8], number: u64) -> String {
    text(message, &[&HTTP[..], &[number]].concat())
}

fn headers(message: &[u8]) -> Vec<(String, String)> {
    let entries = inner(message, &[&HTTP[..], &[3]].concat());
    entries.iter().map(|entry| (text(entry, &[1]), text(entry, &[2]))).collect()
}

#[test]
fn the_server_is_asked_by_the_protocol_with_all_headers_of_the_request() {
    let (server, asked) = server(passes(&[], &[]));
    let origin = echo();
    let world = world(server.address, &origin, auth(), Limits::default());
    let request = "POST /x/y?q=1 HTTP/1.1\r\nHost: some.example:81\r\nAuthorization: Bearer t\r\nX-A: 1\r\nx-a: 2\r\n\
                   Content-Length: 2\r\n\r\nhi";
    let mut client = world.client();
    for _ in 0..3 {
        assert_eq!(client.exchange(request).text(), "hi");
    }
    assert_eq!((server.requests(), server.connections()), (3, 1));
    let call = server.last();
    assert_eq!(
        (call.method().as_str(), call.uri().path()),
        ("POST", "/envoy.service.auth.v3.Authorization/Check")
    );
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "5000m")]
    {
        assert_eq!(call.headers().get(name).unwrap(), value, "{name}");
    }
    let message = asked.lock().unwrap()[0].clone();
    let parts = [2, 4, 5, 6, 10, 11].map(|number| of_http(&message, number));
    assert_eq!(parts, ["POST", "/x/y?q=1", "some.example:81", "http", "HTTP/1.1", ""]);
    let headers = headers(&message);
    for expected in [("authorization", "Bearer t"), ("x-a", "1,2")] {
        let expected = (expected.0.to_owned(), expected.1.to_owned());
        assert!(headers.contains(&expected), "{headers:?}");
    }
    assert_eq!(text(&message, &[1, 1, 1, 1, 2]), client.stream.local_addr().unwrap().ip().to_string());
}

#[test]
fn only_the_headers_that_the_filter_names_are_told_and_the_body_where_it_wants_it() {
    let (server, asked) = server(passes(&[], &[]));
    let origin = echo();
    let filter = ExternalAuth { allowed_request_headers: vec!["x-a".into()], max_body_bytes: 100, ..auth() };
    let world = world(server.address, &origin, filter, Limits::default());
    let mut client = world.client();
    let plain = "POST / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-B: 2\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.exchange(plain).text(), "hello");
    let too_large = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\n\r\n{}", "x".repeat(101));
    assert_eq!(client.exchange(&too_large).status, 413);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!(headers(&asked[0]), [("x-a".to_owned(), "1".to_owned())]);
    assert_eq!(of_http(&asked[0], 11), "hello");
}

#[test]
fn an_ok_changes_the_headers_of_the_request_as_it_says() {
    let changes = [("X-User", "ada", false), ("x-role", "admin", true), ("host", "evil", false)];
    let (server, _) = server(passes(&changes, &["Authorization", "host"]));
    let origin = echo();
    let world = world(server.address, &origin, auth(), Limits::default());
    let request =
        "GET / HTTP/1.1\r\nHost: h\r\nX-User: forged\r\nX-Role: guest\r\nAuthorization: Bearer t\r\n\r\n";
    assert_eq!(world.client().exchange(request).status, 200);
    let head = origin.last_head();
    assert_eq!(fields(&head, "x-user"), ["ada"]);
    assert_eq!(fields(&head, "x-role"), ["guest", "admin"]);
    assert_eq!(fields(&head, "authorization"), [""; 0]);
    assert_eq!(fields(&head, "host"), ["h"]);
}

/// `OkHttpResponse.headers` 2, `headers_to_remove` 5, `response_headers_to_add` 6, `query_parameters_to_set` 7 and `_to_remove` 8.
#[test]
fn an_append_action_says_what_becomes_of_a_header_that_is_there() {
    const ADD_IF_ABSENT: u8 = 1;
    const OVERWRITE: u8 = 2;
    const OVERWRITE_IF_EXISTS: u8 = 3;
    let (server, _) = server(passes_with(&[
        (2, acting("x-there", "new", ADD_IF_ABSENT)),
        (2, acting("x-absent", "new", ADD_IF_ABSENT)),
        (2, acting("x-over", "new", OVERWRITE)),
        (2, acting("x-fresh", "new", OVERWRITE)),
        (2, acting("x-known", "new", OVERWRITE_IF_EXISTS)),
        (2, acting("x-unknown", "new", OVERWRITE_IF_EXISTS)),
        (5, b"X-Gone".to_vec()),
    ]));
    let origin = echo();
    let world = world(server.address, &origin, auth(), Limits::default());
    let request =
        "GET / HTTP/1.1\r\nHost: h\r\nX-There: old\r\nX-Over: old\r\nX-Known: old\r\nX-Gone: old\r\n\r\n";
    assert_eq!(world.client().exchange(request).status, 200);
    let head = origin.last_head();
    for (name, values) in [
        ("x-there", &["old"][..]),
        ("x-absent", &["new"]),
        ("x-over", &["new"]),
        ("x-fresh", &["new"]),
        ("x-known", &["new"]),
        ("x-unknown", &[]),
        ("x-gone", &[]),
    ] {
        assert_eq!(fields(&head, name), values, "{name}");
    }
}

#[test]
fn response_headers_to_add_are_in_the_clients_response_and_not_in_the_request() {
    const OVERWRITE: u8 = 2;
    let (server, _) = server(passes_with(&[
        (6, header("set-cookie", "s=1", false)),
        (6, header("set-cookie", "t=2", false)),
        (6, acting("x-origin", "changed", OVERWRITE)),
        (6, acting("x-kept", "changed", 1)),
        (6, header("content-length", "999", false)),
        (6, header("connection", "close", false)),
    ]));
    let origin = Origin::always(
        "HTTP/1.1 200 OK\r\nSet-Cookie: o=0\r\nX-Origin: said\r\nX-Kept: said\r\nContent-Length: 2\r\n\r\nhi",
    );
    let world = world(server.address, &origin, auth(), Limits::default());
    let mut client = world.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, response.text()), (200, "hi"));
        assert_eq!(response.all("set-cookie"), ["o=0", "s=1", "t=2"]);
        assert_eq!((response.all("x-origin"), response.all("x-kept")), (vec!["changed"], vec!["said"]));
        assert_eq!(fields(&origin.last_head(), "set-cookie"), [""; 0]);
    }
}

#[test]
fn query_parameters_are_set_and_removed_before_the_request_goes_on_and_its_rule_stays() {
    let (server, asked) = server(passes_with(&[
        (7, parameter("user", "ada lovelace&x=y")),
        (7, parameter("new", "1")),
        (8, b"token".to_vec()),
    ]));
    let origin = echo();
    let world = world(server.address, &origin, auth(), Limits::default());
    let mut client = world.client();
    for (sent, forwarded) in [
        ("/p?user=evil&a=%20b&token=t&user=again&%74oken=u", "/p?user=ada%20lovelace%26x=y&a=%20b&new=1"),
        ("/p?token=t", "/p?user=ada%20lovelace%26x=y&new=1"),
        ("/p", "/p?user=ada%20lovelace%26x=y&new=1"),
    ] {
        assert_eq!(client.get(sent).status, 200);
        let head = origin.last_head();
        assert!(head.starts_with(&format!("GET {forwarded} HTTP/1.1\r\n")), "{head}");
        assert_eq!(of_http(asked.lock().unwrap().last().unwrap(), 4), sent, "the server sees the client's");
    }
}

#[test]
fn a_query_whose_last_parameter_is_removed_is_gone() {
    let (server, _) = server(passes_with(&[(8, b"token".to_vec())]));
    let origin = echo();
    let world = world(server.address, &origin, auth(), Limits::default());
    assert_eq!(world.client().get("/p?token=t").status, 200);
    assert!(origin.last_head().starts_with("GET /p HTTP/1.1\r\n"), "{}", origin.last_head());
}

#[test]
fn a_denial_carries_the_headers_status_and_body_of_its_word_however_they_are_to_be_put() {
    let mut denied = Vec::new();
    denied.extend(put(1, &[1 << 3, 0xad, 0x03]));
    denied.extend(long(2, &acting("x-a", "1", 2)));
    denied.extend(long(2, &header("set-cookie", "a=1", true)));
    denied.extend(long(2, &header("set-cookie", "b=2", false)));
    denied.extend(long(3, "x".repeat(300).as_bytes()));
    let (server, _) = server([put(1, &[1 << 3, 16]), long(2, &denied)].concat());
    let origin = echo();
    let world = world(server.address, &origin, auth(), Limits::default());
    let response = world.client().get("/");
    assert_eq!((response.status, response.text().len()), (429, 300));
    assert_eq!((response.all("x-a"), response.all("set-cookie")), (vec!["1"], vec!["a=1", "b=2"]));
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_denial_is_the_clients_answer_and_403_where_it_says_nothing() {
    for (answer, status, body, why) in [
        (denies(Some(401), &[("www-authenticate", "Basic")], "who?"), 401, "who?", Some("Basic")),
        (denies(None, &[], ""), 403, "", None),
    ] {
        let (server, _) = server(answer);
        let origin = echo();
        let world = world(server.address, &origin, auth(), Limits::default());
        let mut client = world.client();
        for _ in 0..2 {
            let response = client.get("/");
            assert_eq!((response.status, response.text()), (status, body));
            assert_eq!(response.field("www-authenticate"), why);
        }
        assert_eq!((server.requests(), origin.requests()), (2, 0));
    }
}

#[test]
fn whatever_is_wrong_with_the_server_nothing_passes() {
    let origin = echo();
    let quick = || Limits { auth_timeout: Duration::from_millis(300), ..Limits::default() };
    let unsupported = Http2Origin::start(|_, mut respond| async move {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "12")
            .body(());
        respond.send_response(response.unwrap(), true).unwrap();
    });
    let silent = Http2Origin::start(|_, respond| async move {
        tokio::time::sleep(Duration::from_secs(30)).await;
        drop(respond);
    });
    let (nonsense, _) = server(vec![0xff; 9]);
    let (breaks_out, _) = server(passes(&[("x", "a\r\nb: c", false)], &[]));
    let one = Origin::named("speaks HTTP/1.1");
    let servers = [
        unsupported.address,
        silent.address,
        nonsense.address,
        breaks_out.address,
        one.address,
        Origin::nobody(),
    ];
    for server in servers {
        let world = world(server, &origin, auth(), quick());
        assert_eq!(world.client().get("/").status, 503, "{server}");
        world.expect_failures("authorisation", 1);
    }
    assert_eq!(origin.requests(), 0);
}

/// RFC 9110 sections 15.3.5 and 15.4.5: what would follow is the next answer.
#[test]
fn a_denial_whose_status_has_no_body_sends_none() {
    for status in [204, 304] {
        let (server, _) = server(denies(Some(status), &[("x-why", "so")], "HTTP/1.1 200 OK"));
        let origin = Origin::named("reached");
        let world = world(server.address, &origin, auth(), Limits::default());
        let mut client = world.client();
        for _ in 0..3 {
            let response = client.get("/");
            assert_eq!((response.status, response.field("x-why")), (status, Some("so")));
        }
        assert_eq!(origin.requests(), 0);
    }
}
