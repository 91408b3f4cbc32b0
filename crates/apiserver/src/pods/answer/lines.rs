//! echo-basic's TCP mode: a greeting first, then one answer to each line that it knows.

use std::io;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::{Arrival, Stand, json};

/// The protocol's constant.
const GREETING: &str = "Gateway API Test TCP Server\n";
/// Source: Go's `bufio.MaxScanTokenSize`; a longer line ends the connection.
const LONGEST_LINE: u64 = 64 * 1024;

#[derive(Serialize)]
struct Told<'a> {
    namespace: &'a str,
    ingress: &'a str,
    service: &'a str,
    pod: &'a str,
    tcpport: &'a str,
    tlsport: &'a str,
    #[serde(rename = "isTLS")]
    is_tls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<ToldTls<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToldTls<'a> {
    version: &'a str,
    server_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    negotiated_protocol: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    curves: &'a str,
    cipher_suite: &'a str,
}

/// Serves one connection to its end; errors are the peer's affair.
pub(in super::super) async fn serve<S>(stand: &Stand, arrival: &Arrival, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _ = converse(stand, arrival, stream).await;
}

async fn converse<S>(stand: &Stand, arrival: &Arrival, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    stream.write_all(GREETING.as_bytes()).await?;
    stream.flush().await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut stream).take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
        if read == 0 {
            break;
        }
        let ended = line.pop_if(|last| *last == b'\n').is_some();
        if !ended && read as u64 == LONGEST_LINE {
            break;
        }
        line.pop_if(|last| *last == b'\r');
        let answer = match line.as_slice() {
            b"TEST" => told(stand, arrival),
            b"IS_TLS" => arrival.tls.is_some().to_string(),
            b"PING" => "PONG".to_owned(),
            _ => continue,
        };
        stream.write_all(format!("{answer}\n").as_bytes()).await?;
        stream.flush().await?;
    }
    stream.shutdown().await
}

fn told(stand: &Stand, arrival: &Arrival) -> String {
    let variable = |name| stand.variable(name).unwrap_or_default();
    let tls = arrival.tls.as_deref().map(|tls| ToldTls {
        version: tls.version.spaced(),
        server_name: &tls.server_name,
        negotiated_protocol: &tls.negotiated_protocol,
        curves: &tls.curve,
        cipher_suite: &tls.cipher_suite,
    });
    json::compact(&Told {
        namespace: variable("NAMESPACE"),
        ingress: variable("INGRESS_NAME"),
        service: variable("SERVICE_NAME"),
        pod: variable("POD_NAME"),
        tcpport: stand.variable("TCP_PORT").unwrap_or("3000"),
        tlsport: stand.variable("TLS_PORT").unwrap_or("8443"),
        is_tls: tls.is_some(),
        tls,
    })
}
