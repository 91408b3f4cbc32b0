//! A client that others wrote: `curl`, in every version of HTTP that it speaks.

use std::net::SocketAddr;
use std::process::Command;

use crate::harness::*;
use crate::http2_harness::*;
use crate::secure::*;

/// The version, status and body that `curl` reports.
fn curl(options: &[&str], url: &str) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "-w", " %{http_version} %{http_code}"])
        .args(options)
        .arg(url)
        .output()
        .expect("curl is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_speaks_every_version_to_every_backend() {
    let echo = |peer: &mut Peer| {
        while let Some((_, body)) = peer.request() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.send(&body);
        }
    };
    let old = Origin::start(echo);
    let new = Http2Origin::start(|request, mut respond| async move {
        let body = all(&mut request.into_body()).await.unwrap();
        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
        pour(&mut stream, body.into()).await.unwrap();
    });
    let world = World::start(one_worker());
    let secure = SocketAddr::new(world.address.ip(), world.address.port() + 1);
    world.serve(&[(old.address, 1)]);
    let mut resources = vec![
        Pair::self_signed("a.example").resource("c"),
        ListenerOf::https(secure, "https", "", &["c"]).resource(),
        http_route("secure", &["https"], "", "b0"),
    ];
    assert_eq!(world.apply(std::mem::take(&mut resources)).rejected, []);
    let (plain, secure) = (format!("http://{}/", world.address), format!("https://{secure}/"));
    // Once to an endpoint of each version.
    for _ in 0..2 {
        for (options, url, version) in [
            (&["--http1.1"][..], &plain, "1.1"),
            (&["--http1.0"], &plain, "1.1"),
            (&["--http2-prior-knowledge"], &plain, "2"),
            (&["--http1.1", "-k"], &secure, "1.1"),
            (&["--http2", "-k"], &secure, "2"),
            (&["--http2", "-k", "--tlsv1.2", "--tls-max", "1.2"], &secure, "2"),
        ] {
            let options = [options, &["-d", "some data"]].concat();
            assert_eq!(curl(&options, url), format!("some data {version} 200"), "{options:?}");
        }
        world.apply(http2_backend("b0", &[new.address]).into());
    }
    assert_eq!((old.requests(), new.requests()), (6, 6));
}
