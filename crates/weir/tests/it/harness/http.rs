//! A plain HTTP/1.1 client over one socket: for counts too large or too concurrent for a process per request, and for
//! clients that misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Counts, deployment_of};

const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// What a count is made of: the pod's Deployment, or the status where it is not 200.
    pub(crate) fn counted(&self) -> String {
        if self.status == 200 {
            deployment_of(self.text().trim()).to_owned()
        } else {
            self.status.to_string()
        }
    }
}

/// One keep-alive connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> std::io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub(crate) fn get(&mut self, host: &str, path: &str) -> std::io::Result<Answer> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
        self.answer()
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
    ) -> std::io::Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(format!("{head}{body}").as_bytes())?;
        self.answer()
    }

    /// Reads one answer; 1xx answers before it are skipped.
    pub(crate) fn answer(&mut self) -> std::io::Result<Answer> {
        loop {
            let answer = self.answer_or_interim()?;
            if answer.status >= 200 {
                return Ok(answer);
            }
        }
    }

    fn answer_or_interim(&mut self) -> std::io::Result<Answer> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| invalid(format!("`{status_line}` is not a status line")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| invalid(format!("`{line}` is not a header")))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if status >= 200 && status != 204 && status != 304 {
            answer.body = self.body(&answer)?;
        }
        Ok(answer)
    }

    fn body(&mut self, answer: &Answer) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if answer.header("transfer-encoding").is_some() {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
                    .map_err(|_| invalid(format!("`{size}` is not a chunk size")))?;
                let from = body.len();
                body.resize(from + size, 0);
                self.stream.read_exact(&mut body[from..])?;
                if size == 0 {
                    while !self.line()?.is_empty() {}
                    return Ok(body);
                }
                self.line()?;
            }
        }
        match answer.header("content-length").map(str::parse::<usize>) {
            Some(Ok(length)) => {
                body.resize(length, 0);
                self.stream.read_exact(&mut body)?;
            }
            Some(Err(error)) => return Err(invalid(error.to_string())),
            None => {
                self.stream.read_to_end(&mut body)?;
            }
        }
        Ok(body)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None if line.is_empty() => Err(std::io::ErrorKind::UnexpectedEof.into()),
            None => Err(invalid(format!("a line without its end: {:?}", String::from_utf8_lossy(&line)))),
        }
    }
}

fn invalid(message: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, message)
}

/// How requests reach the gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    /// All on one keep-alive connection.
    OneConnection,
    /// A connection each.
    Separate,
    /// Eight keep-alive connections at a time, each on a thread of its own.
    EightAtOnce,
}

pub(crate) const MANNERS: [Manner; 3] = [Manner::OneConnection, Manner::Separate, Manner::EightAtOnce];

/// Sends `count` requests for a pod's name and counts the answers by Deployment (or status). A request that gets no
/// answer panics: none may.
#[track_caller]
pub(crate) fn count(manner: Manner, address: SocketAddr, path: &str, count: u64) -> Counts {
    match manner {
        Manner::OneConnection => collect(address, path, &AtomicU64::new(count), true),
        Manner::Separate => collect(address, path, &AtomicU64::new(count), false),
        Manner::EightAtOnce => {
            let left = AtomicU64::new(count);
            let all = Mutex::new(Counts::new());
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let counts = collect(address, path, &left, true);
                        let mut all = all.lock().expect("no other thread panicked");
                        for (name, count) in counts {
                            *all.entry(name).or_default() += count;
                        }
                    });
                }
            });
            all.into_inner().expect("no thread panicked")
        }
    }
}

#[track_caller]
fn collect(address: SocketAddr, path: &str, left: &AtomicU64, keep: bool) -> Counts {
    let mut counts = Counts::new();
    let mut open = None;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => {
                Connection::open(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
            }
        };
        let answer = connection.get("echo.example", path);
        let answer = answer.unwrap_or_else(|error| panic!("no answer from {address}{path}: {error}"));
        *counts.entry(answer.counted()).or_default() += 1;
        if keep && !answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            open = Some(connection);
        }
    }
    counts
}
