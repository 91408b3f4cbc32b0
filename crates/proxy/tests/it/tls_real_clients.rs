//! Clients that others have written, against a TLS listener.

use std::io::Write;
use std::process::{Command, Stdio};

use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

struct Site {
    world: World,
    authority: tempfile::NamedTempFile,
    _origin: Origin,
}

impl Site {
    fn start() -> Site {
        let origin = Origin::named("ok");
        let world = World::bare(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
        let authority = Authority::new("authority");
        let mut resources = vec![
            authority.sign(&["a.example"]).resource("c"),
            ListenerOf::https(world.address, "l", "a.example", &["c"]).resource(),
            http_route("r", &["l"], "a.example", "b"),
        ];
        resources.extend(backend("b", &[origin.address]));
        assert_eq!(world.apply(resources).rejected, []);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(authority.pem.as_bytes()).unwrap();
        Site { world, authority: file, _origin: origin }
    }

    fn curl(&self, name: &str, arguments: &[&str]) -> (bool, String) {
        let address = self.world.address;
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "10", "--cacert"])
            .arg(self.authority.path())
            .args(["--resolve", &format!("{name}:{}:{}", address.port(), address.ip())])
            .args(["--write-out", " %{http_version} %{http_code}"])
            .args(arguments)
            .arg(format!("https://{name}:{}/", address.port()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    }
}

#[test]
fn curl_is_served_in_both_versions_of_tls_and_of_http() {
    let site = Site::start();
    for (arguments, expected) in [
        (&["--http1.1"][..], "ok 1.1 200"),
        (&["--http2"], "ok 2 200"),
        (&["--http1.1", "--tlsv1.2", "--tls-max", "1.2"], "ok 1.1 200"),
        (&["--http2", "--tlsv1.2", "--tls-max", "1.2"], "ok 2 200"),
        (&["--http2", "--tlsv1.3"], "ok 2 200"),
        (&["--http2", "-H", "Host: other.example"], "404"),
    ] {
        let (succeeded, text) = site.curl("a.example", arguments);
        assert!(succeeded && text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn curl_is_refused_where_nobody_serves_the_name() {
    let site = Site::start();
    let (succeeded, text) = site.curl("unknown.example", &[]);
    assert!(!succeeded, "{text}");
    site.world.expect_failures("tls_unknown_name", 1);
}

/// `R` on a line of its own makes it ask for another handshake.
#[test]
fn openssl_cannot_renegotiate() {
    if Command::new("openssl").arg("version").output().is_err() {
        left_out("renegotiation", "openssl is not there");
        return;
    }
    let site = Site::start();
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-tls1_2",
            "-servername",
            "a.example",
            "-connect",
            &site.world.address.to_string(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"R\n").unwrap();
    eventually("the connection is over, or goes on as it was", || {
        // Ends it where the refusal did not.
        let _ = input.write_all(b"Q\n");
        child.try_wait().unwrap().is_some()
    });
    let output = child.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("RENEGOTIATING") && text.contains("no renegotiation"), "{text}");
    assert_eq!(site.world.metric("weir_proxy_tls_handshakes_total"), 1);
}
