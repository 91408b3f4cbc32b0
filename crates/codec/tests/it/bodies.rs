//! Which bytes of a body go on.

use weir_codec::body::{BodyError, BodyLimits, BodyScan, Form, Framing, Step, chunk_start};

use crate::oracle::{BODY_LIMITS, run};

fn chunked(bytes: &str, form: Form) -> Result<String, BodyError> {
    run(Framing::Chunked, form, bytes.as_bytes(), 5).map(|run| String::from_utf8(run.passed).unwrap())
}

#[test]
fn chunks_go_on_byte_for_byte_in_one_range() {
    let bytes = b"5\r\nhello\r\n06\r\n world\r\n0\r\nX-Sum: 1\r\n\r\nrest";
    let mut scan = BodyScan::new(Framing::Chunked, Form::AsSent, BODY_LIMITS);
    assert_eq!(scan.step(bytes), Ok(Step { skip: 0, pass: bytes.len() - 4 }));
    assert!(scan.is_done());
}

#[test]
fn extensions_and_trailers_that_may_not_be_are_dropped() {
    let bytes = "5;a=\"b\"\r\nhello\r\n0;c\r\nX-A: 1\r\nContent-Length: 3\r\nX-Forwarded-For: 9\r\nX-B: 2\r\nConnection: x\r\n\r\n";
    assert_eq!(chunked(bytes, Form::AsSent).as_deref(), Ok("5\r\nhello\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"));
    assert_eq!(chunked(bytes, Form::DataOnly).as_deref(), Ok("hello"));
}

#[test]
fn each_fault_has_its_own_name() {
    for (bytes, expected) in [
        ("g\r\n", BodyError::ChunkSize),
        ("\r\n", BodyError::ChunkSize),
        (";a\r\n", BodyError::ChunkSize),
        ("5 \r\n", BodyError::ChunkSize),
        ("5\n", BodyError::ChunkSize),
        ("5\r\r", BodyError::ChunkSize),
        ("8000000000000000\r\n", BodyError::ChunkTooLarge),
        ("00000000000000001\r\n", BodyError::ChunkTooLarge),
        ("1;\n", BodyError::Extension),
        ("1\r\nxx\r\n", BodyError::ChunkEnd),
        ("1\r\nx\n", BodyError::ChunkEnd),
        ("0\r\n: x\r\n\r\n", BodyError::Trailer),
        ("0\r\nx\n\r\n", BodyError::Trailer),
    ] {
        assert_eq!(chunked(bytes, Form::AsSent), Err(expected), "{bytes:?}");
    }
    let long = format!("0\r\nX: {}", "y".repeat(2000));
    assert_eq!(chunked(&long, Form::AsSent), Err(BodyError::TrailersTooLarge));
    let long = format!("1;{}", "y".repeat(2000));
    assert_eq!(chunked(&long, Form::AsSent), Err(BodyError::Extension));
}

#[test]
fn the_end_of_input_ends_only_what_it_may_end() {
    let ended = |framing, bytes: &[u8]| {
        let mut scan = BodyScan::new(framing, Form::AsSent, BODY_LIMITS);
        scan.step(bytes).unwrap();
        scan.end_of_input()
    };
    assert_eq!(ended(Framing::UntilClose, b"abc"), Ok(()));
    assert_eq!(ended(Framing::None, b"abc"), Ok(()));
    assert_eq!(ended(Framing::Length(3), b"abc"), Ok(()));
    assert_eq!(ended(Framing::Length(4), b"abc"), Err(BodyError::Truncated));
    assert_eq!(ended(Framing::Chunked, b"3\r\nabc\r\n0\r\n"), Err(BodyError::Truncated));
    assert_eq!(ended(Framing::Chunked, b"3\r\nabc\r\n"), Err(BodyError::Truncated));
}

#[test]
fn limits_are_for_the_whole_body() {
    let limits = BodyLimits { extension_bytes: 4, trailer_bytes: 10 };
    let outcome = |bytes: &[u8]| {
        let mut scan = BodyScan::new(Framing::Chunked, Form::DataOnly, limits);
        let mut used = 0;
        while !scan.is_done() {
            match scan.step(&bytes[used..]) {
                Ok(step) => used += step.skip + step.pass,
                Err(error) => return Err(error),
            }
        }
        Ok(used)
    };
    assert_eq!(outcome(b"1;a\r\nx\r\n1;b\r\nx\r\n0\r\n\r\n"), Ok(21));
    assert_eq!(outcome(b"1;a\r\nx\r\n1;bc\r\nx\r\n0\r\n\r\n"), Err(BodyError::Extension));
    assert_eq!(outcome(b"0\r\nA: 1\r\n\r\n"), Ok(11));
    assert_eq!(outcome(b"0\r\nA: 12345\r\n\r\n"), Err(BodyError::TrailersTooLarge));
}

#[test]
fn a_chunks_first_line_is_its_size_in_hexadecimal() {
    for (size, expected) in [(0, "0\r\n"), (9, "9\r\n"), (255, "ff\r\n"), (65536, "10000\r\n")] {
        let mut out = Vec::new();
        chunk_start(size, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
