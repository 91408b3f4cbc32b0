//! The backends of the measurements: two ports of one thread, canned answers by path, as little work as an HTTP
//! server can do.
//!
//! `/echo...` 20 bytes, `/echo/16k` 16 KiB, `/echo/headers` the names of the headers that arrived (so that a run can
//! check that every proxy does the same work). It understands requests without a body only: the load sends no other.

use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// Bodies of 20 bytes; their length is part of the method.
pub(crate) const BODIES: [&str; 2] = ["backend-a-0123456789", "backend-b-0123456789"];
const LARGE_BYTES: usize = 16 * 1024;
/// More than the largest head that the load sends, with what proxies add.
const HEAD_LIMIT: usize = 16 * 1024;

/// Serves until it is killed; prints the two ports.
pub(crate) fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut ports = Vec::new();
        for body in BODIES {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            ports.push(listener.local_addr()?.port().to_string());
            tokio::task::spawn_local(accept(listener, Rc::new(Answers::new(body))));
        }
        println!("ports {}", ports.join(" "));
        std::future::pending::<Result<()>>().await
    })
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Answers {
    fn new(body: &str) -> Answers {
        let mut padded = body.as_bytes().to_vec();
        padded.resize(LARGE_BYTES, b'.');
        Answers { small: answer(body.as_bytes()), large: answer(&padded) }
    }
}

fn answer(body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn accept(listener: TcpListener, answers: Rc<Answers>) {
    loop {
        // An error of accept is the peer's, or passes.
        if let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::task::spawn_local(serve(stream, Rc::clone(&answers)));
        }
    }
}

/// One connection, until the peer closes it or sends what this server does not know.
async fn serve(mut stream: TcpStream, answers: Rc<Answers>) {
    let mut buffer = vec![0; HEAD_LIMIT];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(count @ 1..) => filled += count,
            _ => return,
        }
        while let Some(end) = find(&buffer[..filled], b"\r\n\r\n").map(|at| at + 4) {
            let head = &buffer[..end];
            let sent = match path(head) {
                b"/echo/16k" => stream.write_all(&answers.large).await,
                b"/echo/headers" => stream.write_all(&answer(names(head).as_bytes())).await,
                _ => stream.write_all(&answers.small).await,
            };
            if sent.is_err() {
                return;
            }
            buffer.copy_within(end..filled, 0);
            filled -= end;
        }
        if filled == buffer.len() {
            return;
        }
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    // Nearly always the head is all there is.
    if bytes.ends_with(part) && !bytes[..bytes.len() - 1].windows(part.len()).any(|window| window == part) {
        return Some(bytes.len() - part.len());
    }
    bytes.windows(part.len()).position(|window| window == part)
}

fn path(head: &[u8]) -> &[u8] {
    let target = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    target.split(|byte| *byte == b'?').next().unwrap_or_default()
}

/// The header names in lower case, one a line.
fn names(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let names = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.to_ascii_lowercase() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_and_read() {
        let head = b"GET /echo/16k?x=1 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: b\r\n\r\n";
        assert_eq!(find(head, b"\r\n\r\n"), Some(head.len() - 4));
        assert_eq!(find(&[&head[..], b"GET"].concat(), b"\r\n\r\n"), Some(head.len() - 4));
        assert_eq!(find(&[&head[..], &head[..]].concat(), b"\r\n\r\n"), Some(head.len() - 4));
        assert_eq!(find(b"GET / HTTP/1.1\r\n", b"\r\n\r\n"), None);
        assert_eq!(path(head), b"/echo/16k");
        assert_eq!(names(head), "host\nx-forwarded-for\n");
        assert_eq!(BODIES.map(str::len), [20, 20]);
    }
}
