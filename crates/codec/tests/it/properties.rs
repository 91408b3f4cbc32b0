//! The oracle on random bytes, and on messages put together from the parts that proxies disagree about.

use proptest::prelude::*;
use weir_codec::body::Framing;

use crate::oracle;

/// Pieces of which ambiguous messages are made.
fn part() -> impl Strategy<Value = &'static [u8]> {
    const PARTS: &[&[u8]] = &[
        b"GET ",
        b"POST ",
        b"HEAD ",
        b"OPTIONS ",
        b"CONNECT ",
        b"/",
        b"/a",
        b"?q",
        b"*",
        b"#f",
        b"http://h/",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 204 No",
        b"HTTP/1.0 200",
        b"HTTP/1.1 101 x",
        b"HTTP/1.1 100 c",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"Host: h\r\n",
        b"Host: h:80\r\n",
        b"Host:\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"content_length: 9\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\n",
        b"Connection: host, x-forwarded-for, a\r\n",
        b"Upgrade: websocket\r\n",
        b"Upgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
        b"X-Forwarded-For: 1.2.3.4\r\n",
        b"x_forwarded_for: 6.6.6.6\r\n",
        b"TE: trailers\r\n",
        b"Trailer: x\r\n",
        b"A: b\r\n",
        b"a",
        b":",
        b"0",
        b"5",
        b"f",
        b"1;x=y\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"X-T: v\r\n",
        b"hello",
        b"\0",
        b"\xff",
        b";",
        b"ffffffffffffffff",
        b"=\"",
    ];
    prop::sample::select(PARTS)
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(part(), 0..24).prop_map(|parts| parts.concat())
}

/// A well-formed start, so that most cases get past the first line.
fn request() -> impl Strategy<Value = Vec<u8>> {
    message().prop_map(|rest| [b"POST /a HTTP/1.1\r\nHost: h\r\n", &rest[..]].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_break_a_promise(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = oracle::request(&bytes);
        let _ = oracle::response(&bytes);
        let _ = oracle::body(Framing::Chunked, &bytes);
    }

    #[test]
    fn no_message_of_ambiguous_parts_breaks_a_promise(bytes in message()) {
        let _ = oracle::request(&bytes);
        let _ = oracle::response(&bytes);
        let _ = oracle::body(Framing::Chunked, &bytes);
    }

    #[test]
    fn no_request_of_ambiguous_fields_breaks_a_promise(bytes in request()) {
        let _ = oracle::request(&bytes);
    }

    #[test]
    fn no_response_of_ambiguous_fields_breaks_a_promise(rest in message()) {
        let bytes = [b"HTTP/1.1 200 OK\r\n", &rest[..]].concat();
        let _ = oracle::response(&bytes);
    }

    #[test]
    fn chunks_of_any_data_come_through_whole(
        data in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..10),
        extension in prop::bool::ANY,
    ) {
        let mut bytes = Vec::new();
        for chunk in &data {
            bytes.extend_from_slice(format!("{:x}{}\r\n", chunk.len(), if extension { ";a=b" } else { "" }).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\nGET / HTTP/1.1\r\n");
        prop_assert_eq!(oracle::body(Framing::Chunked, &bytes), Ok(true));
        let run = oracle::run(Framing::Chunked, weir_codec::body::Form::DataOnly, &bytes, 3).unwrap();
        prop_assert_eq!(run.passed, data.concat());
        prop_assert_eq!(&bytes[run.used..], b"GET / HTTP/1.1\r\n");
    }

    #[test]
    fn a_length_takes_exactly_its_bytes(data in prop::collection::vec(any::<u8>(), 0..300), length in 0u64..200) {
        let run = oracle::run(Framing::Length(length), weir_codec::body::Form::AsSent, &data, 7).unwrap();
        let expected = data.len().min(length as usize);
        prop_assert_eq!(run.passed, &data[..expected]);
        prop_assert_eq!(run.done, data.len() as u64 >= length);
    }
}
