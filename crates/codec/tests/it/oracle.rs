//! What must hold for any bytes at all. Shared by the corpus, the properties and the fuzz targets.

use weir_codec::body::{BodyError, BodyLimits, BodyScan, Form, Framing};
use weir_codec::field::{FieldStore, HOP_BY_HOP, Known, KnownSet, classify};
use weir_codec::head::{Asked, HeadError, HeadLimits, HeadScan, RequestHead, ResponseHead, Version};
use weir_codec::rewrite::{self, Delimiting, Forwarding, RequestTarget};
use weir_codec::target::Target;

pub(crate) const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes: 8192, first_line_bytes: 2048, fields: 64 };
pub(crate) const BODY_LIMITS: BodyLimits = BodyLimits { extension_bytes: 256, trailer_bytes: 1024 };

/// The length of the head at the start of `bytes`, found at once; in pieces it must be the same.
pub(crate) fn head_length(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    let at_once = HeadScan::default().advance(bytes, &HEAD_LIMITS);
    let mut scan = HeadScan::default();
    let mut in_pieces = Ok(None);
    for end in 0..=bytes.len() {
        in_pieces = scan.advance(&bytes[..end], &HEAD_LIMITS);
        if !matches!(in_pieces, Ok(None)) {
            break;
        }
    }
    match (at_once, in_pieces) {
        (Ok(Some(length)), Ok(Some(same))) => assert_eq!(length, same),
        (Ok(None), Ok(None)) => {}
        // Which of two faults is met first may depend on how much had arrived.
        (Err(_), Err(_)) => {}
        (at_once, in_pieces) => panic!("at once {at_once:?}, in pieces {in_pieces:?}"),
    }
    at_once
}

/// A head that is there whole is read in one pass: it must be taken exactly where a scan for its end and a parse take it.
fn same_in_one_pass(
    bytes: &[u8],
    read: impl Fn(&mut HeadScan, &[u8], &mut FieldStore) -> Result<Option<usize>, HeadError>,
    parse: impl Fn(&[u8], &mut FieldStore) -> Result<(), HeadError>,
) {
    let in_one_pass = read(&mut HeadScan::default(), bytes, &mut FieldStore::new());
    let in_two = match HeadScan::default().advance(bytes, &HEAD_LIMITS) {
        Ok(Some(length)) => parse(&bytes[..length], &mut FieldStore::new()).map(|()| Some(length)),
        other => other,
    };
    match (in_one_pass, in_two) {
        // What is wrong may be seen before the rest has come.
        (Err(_), Ok(None) | Err(_)) => {}
        (one, two) => assert_eq!(one, two, "{}", text(bytes)),
    }
    // The first piece is read in one pass if it is all; what follows it is scanned.
    for first in [0, bytes.len() / 2] {
        let mut scan = HeadScan::default();
        let mut outcome = read(&mut scan, &bytes[..first], &mut FieldStore::new());
        if let Ok(None) = outcome {
            outcome = read(&mut scan, bytes, &mut FieldStore::new());
        }
        match (outcome, in_one_pass) {
            (Ok(None) | Err(_), Ok(None) | Err(_)) => {}
            (in_pieces, whole) => assert_eq!(in_pieces, whole, "{}", text(bytes)),
        }
    }
}

/// The parts of a first line, and names and values.
type Found<'a> = (Vec<&'a [u8]>, Vec<(&'a [u8], &'a [u8])>);

/// Another parser, which knows neither our limits nor what fields mean together, must find the same head. `head`: whole, with
/// line ends as they must be; `ours`: name, value and the parts of the first line, or why not.
fn same_as_httparse(
    theirs: httparse::Result<usize>,
    head: &[u8],
    first_line: &[&[u8]],
    fields: &[httparse::Header<'_>],
    ours: Result<Found<'_>, HeadError>,
) {
    match (theirs, ours) {
        (Ok(httparse::Status::Complete(length)), Ok((line, found))) => {
            assert_eq!(length, head.len(), "{}", text(head));
            assert_eq!(line, first_line, "{}", text(head));
            let fields: Vec<_> = fields.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
            assert_eq!(found, fields, "{}", text(head));
        }
        (theirs, Ok(_)) => panic!("httparse says {theirs:?}: {}", text(head)),
        (Ok(httparse::Status::Complete(_)), Err(error)) => {
            let of_form = [HeadError::LineEnding, HeadError::Field, HeadError::Version, HeadError::Folding];
            assert!(!of_form.contains(&error), "{error}, for httparse it is well formed: {}", text(head));
        }
        (_, Err(_)) => {}
    }
}

fn same_request_as_httparse(head: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut fields);
    let theirs = parsed.parse(head);
    let line = [parsed.method, parsed.path].map(|part| part.unwrap_or_default().as_bytes());
    let mut store = FieldStore::new();
    let ours = RequestHead::parse(head, &mut store);
    if theirs.is_ok() {
        assert_ne!(ours.as_ref().err(), Some(&HeadError::FirstLine), "{}", text(head));
    }
    let ours = ours.map(|ours| {
        assert_eq!(parsed.version, Some(u8::from(ours.version == Version::Http11)));
        if let Target::Path { path, query, absolute: None } = ours.target {
            let query = query.map(|query| [b"?", query].concat()).unwrap_or_default();
            assert_eq!([path, &query].concat(), line[1], "{}", text(head));
        }
        (vec![ours.method, line[1]], ours.fields.iter().collect())
    });
    same_as_httparse(theirs, head, &line, parsed.headers, ours);
}

fn same_response_as_httparse(head: &[u8], asked: Asked) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Response::new(&mut fields);
    let theirs = parsed.parse(head);
    let mut store = FieldStore::new();
    let ours = ResponseHead::parse(head, asked, &mut store);
    if theirs.is_ok() && parsed.code.is_some_and(|code| code >= 100) {
        assert_ne!(ours.as_ref().err(), Some(&HeadError::FirstLine), "{}", text(head));
    }
    let ours = ours.map(|ours| {
        assert_eq!(parsed.version, Some(u8::from(ours.version == Version::Http11)));
        assert_eq!(parsed.code, Some(ours.status));
        (Vec::new(), ours.fields.iter().collect())
    });
    same_as_httparse(theirs, head, &[], parsed.headers, ours);
}

/// Bytes that came from a client. Gives whether a whole message was accepted.
pub(crate) fn request(bytes: &[u8]) -> Result<bool, String> {
    same_in_one_pass(
        bytes,
        |scan, bytes, store| {
            scan.request(bytes, &HEAD_LIMITS, store).map(|read| read.map(|(_, length)| length))
        },
        |head, store| RequestHead::parse(head, store).map(drop),
    );
    let Some(length) = head_length(bytes).map_err(|error| error.to_string())? else { return Ok(false) };
    let (raw, rest) = bytes.split_at(length);
    same_request_as_httparse(raw);
    let mut store = FieldStore::new();
    let head = RequestHead::parse(raw, &mut store).map_err(|error| error.to_string())?;
    assert!(!matches!(head.framing, Framing::UntilClose | Framing::Tunnel), "a request ends by itself");
    assert!(head.upgrade.is_none() || matches!(head.framing, Framing::None | Framing::Length(0)));
    forwarded_request(&head);
    body(head.framing, rest).map_err(|error| error.to_string())
}

/// The next hop must read the rewritten head as we read the original.
fn forwarded_request(head: &RequestHead<'_, '_>) {
    let Target::Path { path, query, .. } = head.target else { return };
    let host = (!head.fields.has(Known::Host)).then_some(&b"stand-in"[..]);
    let target = RequestTarget { path, query, host };
    let mut dropped = rewrite::request_dropped(head, false);
    if host.is_some() {
        head.fields.drop_name(&mut dropped, b"host");
    }
    let mut lines = Vec::new();
    rewrite::connection_lines(b"192.0.2.1", b"http", 80, false, &mut lines);
    let forwarding = Forwarding {
        peer: b"192.0.2.1",
        trusted: false,
        scheme: b"http",
        authority: head.authority.raw,
        port: 80,
        path,
        prefix: None,
        request_id: b"00000000000000000000000000000000",
        overridden: KnownSet::EMPTY,
        http2: false,
        connection: &lines,
    };
    let mut out = Vec::new();
    rewrite::request(head, &target, dropped, &forwarding, &mut out);
    rewrite::finish(&mut out);
    // What we add does not count against the client's limits.
    let roomy = HeadLimits { head_bytes: 1 << 20, first_line_bytes: 1 << 20, fields: 128 };
    assert_eq!(HeadScan::default().advance(&out, &roomy), Ok(Some(out.len())), "{}", text(&out));
    let mut store = FieldStore::new();
    let again = match RequestHead::parse(&out, &mut store) {
        Ok(again) => again,
        // An absolute target whose Host was kept in spelling can still only be read one way.
        Err(error) => panic!("{error}: {}", text(&out)),
    };
    assert_eq!(again.framing, head.framing, "{}", text(&out));
    assert_eq!(again.method, head.method);
    assert_eq!(again.version, Version::Http11);
    assert_eq!(again.upgrade, head.upgrade);
    assert_eq!(again.target, Target::Path { path, query, absolute: None }, "{}", text(&out));
    for known in [Known::XForwardedFor, Known::XForwardedHost, Known::XForwardedProto, Known::XRealIp] {
        assert_eq!(again.fields.values(known).count(), 1, "{}", text(&out));
    }
    assert_eq!(again.fields.values(Known::XRealIp).next(), Some(&b"192.0.2.1"[..]));
    assert!(!again.fields.has(Known::Disguised) && !again.fields.has(Known::Forwarded));
    assert_eq!(again.fields.values(Known::Connection).count(), 1);
    let allowed = [Known::Connection, Known::TransferEncoding, Known::Upgrade, Known::Te];
    for (name, _) in again.fields.iter() {
        let known = classify(name);
        assert!(!HOP_BY_HOP.contains(known) || allowed.contains(&known), "{}", text(&out));
    }
}

/// Bytes that came from a backend, to a request of either method.
pub(crate) fn response(bytes: &[u8]) -> Result<bool, String> {
    let mut whole = Ok(false);
    for asked in [(false, false), (true, false), (false, true)].map(|(head, upgrade)| Asked { head, upgrade })
    {
        let outcome = response_to(asked, bytes);
        if !asked.head && !asked.upgrade {
            whole = outcome;
        }
    }
    whole
}

fn response_to(asked: Asked, bytes: &[u8]) -> Result<bool, String> {
    same_in_one_pass(
        bytes,
        |scan, bytes, store| {
            scan.response(bytes, asked, &HEAD_LIMITS, store).map(|read| read.map(|(_, length)| length))
        },
        |head, store| ResponseHead::parse(head, asked, store).map(drop),
    );
    let Some(length) = head_length(bytes).map_err(|error| error.to_string())? else { return Ok(false) };
    let (raw, rest) = bytes.split_at(length);
    same_response_as_httparse(raw, asked);
    let mut store = FieldStore::new();
    let head = ResponseHead::parse(raw, asked, &mut store).map_err(|error| error.to_string())?;
    assert!(head.framing != Framing::Tunnel || asked.upgrade);
    assert!(!asked.head || matches!(head.framing, Framing::None | Framing::Tunnel));
    assert!(!(head.reusable && head.framing == Framing::UntilClose));
    for client in [Version::Http10, Version::Http11] {
        forwarded_response(&head, asked, client);
    }
    body(head.framing, rest).map_err(|error| error.to_string())
}

fn forwarded_response(head: &ResponseHead<'_, '_>, asked: Asked, client: Version) {
    let mut out = Vec::new();
    let delimiting = Delimiting::of(head.framing, client);
    if head.is_interim() {
        rewrite::interim(head, &mut out);
    } else {
        let dropped = rewrite::response_dropped(head, delimiting, KnownSet::EMPTY);
        rewrite::response(head, delimiting, dropped, true, rewrite::CameBy::Http1, &mut out);
        rewrite::finish(&mut out);
    }
    let roomy = HeadLimits { head_bytes: 1 << 20, first_line_bytes: 1 << 20, fields: 128 };
    assert_eq!(HeadScan::default().advance(&out, &roomy), Ok(Some(out.len())), "{}", text(&out));
    let mut store = FieldStore::new();
    let again = ResponseHead::parse(&out, asked, &mut store)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&out)));
    assert_eq!(again.status, head.status);
    let expected = match (head.framing, client) {
        (Framing::UntilClose, Version::Http11) => Framing::Chunked,
        (Framing::Chunked, Version::Http10) => Framing::UntilClose,
        (framing, _) => framing,
    };
    assert_eq!(again.framing, expected, "{}", text(&out));
    assert_eq!(again.reusable, !matches!(expected, Framing::UntilClose | Framing::Tunnel), "{}", text(&out));
}

/// A body and what follows it. In any pieces the same bytes go on; what goes on is a body of the same data.
pub(crate) fn body(framing: Framing, bytes: &[u8]) -> Result<bool, BodyError> {
    let as_sent = run(framing, Form::AsSent, bytes, bytes.len().max(1));
    let data = run(framing, Form::DataOnly, bytes, bytes.len().max(1));
    for piece in [1, 2, 7] {
        assert_eq!(run(framing, Form::AsSent, bytes, piece), as_sent, "pieces of {piece}");
        assert_eq!(run(framing, Form::DataOnly, bytes, piece), data, "pieces of {piece}");
    }
    let (sent, data) = match (as_sent, data) {
        (Ok(sent), Ok(data)) => (sent, data),
        (Err(error), Err(same)) => {
            assert_eq!(error, same);
            return Err(error);
        }
        (sent, data) => panic!("as sent {sent:?}, data only {data:?}"),
    };
    assert_eq!((sent.used, sent.done), (data.used, data.done));
    if framing == Framing::Chunked && sent.done {
        let (naive, length) = naive_chunks(&sent.passed);
        assert_eq!(naive, data.passed);
        assert_eq!(length, sent.passed.len());
        let again = run(framing, Form::AsSent, &sent.passed, sent.passed.len());
        assert_eq!(again.map(|run| run.passed), Ok(sent.passed), "what goes on goes on again as it is");
    }
    Ok(sent.done)
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) passed: Vec<u8>,
    pub(crate) used: usize,
    pub(crate) done: bool,
}

/// Feeds `bytes` in pieces, as a connection would.
pub(crate) fn run(framing: Framing, form: Form, bytes: &[u8], piece: usize) -> Result<Run, BodyError> {
    let mut scan = BodyScan::new(framing, form, BODY_LIMITS);
    let mut run = Run { passed: Vec::new(), used: 0, done: false };
    let mut arrived = 0;
    loop {
        while !scan.is_done() {
            let step = scan.step(&bytes[run.used..arrived])?;
            if step.skip + step.pass == 0 {
                break;
            }
            run.used += step.skip;
            run.passed.extend_from_slice(&bytes[run.used..run.used + step.pass]);
            run.used += step.pass;
        }
        run.done = scan.is_done();
        if run.done || arrived == bytes.len() {
            return Ok(run);
        }
        arrived = bytes.len().min(arrived + piece);
    }
}

/// The data of a well-formed chunked body without extensions, and its length: written to be obviously right.
fn naive_chunks(bytes: &[u8]) -> (Vec<u8>, usize) {
    let line = |at: usize| at + bytes[at..].windows(2).position(|two| two == b"\r\n").expect("a line ends");
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let end = line(at);
        let size = usize::from_str_radix(text(&bytes[at..end]).as_str(), 16).expect("a size");
        at = end + 2;
        if size == 0 {
            break;
        }
        data.extend_from_slice(&bytes[at..at + size]);
        assert_eq!(&bytes[at + size..at + size + 2], b"\r\n");
        at += size + 2;
    }
    loop {
        let end = line(at);
        let empty = end == at;
        at = end + 2;
        if empty {
            return (data, at);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
