//! File mode: the same objects from a directory of YAML, watched, without an API socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::harness::http::{Connection, MANNERS, Manner, count};
use crate::harness::process::{Process, clean_command, finish};
use crate::harness::sandbox::{WEIR, free_address};
use crate::harness::{Counts, assert_between, assert_counts, eventually};

/// Two backends of the test's own, each answering with its name as a pod's name.
struct Backends {
    ports: Vec<u16>,
}

impl Backends {
    fn start() -> Backends {
        let ports = ["one-0-aaaaa", "two-0-aaaaa"].map(|name| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("a bound socket").port();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || answer(stream, name));
                }
            });
            port
        });
        Backends { ports: ports.to_vec() }
    }
}

/// Answers every request of a connection with the name.
fn answer(mut stream: std::net::TcpStream, name: &str) {
    use std::io::{BufRead, BufReader, Write};
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
        if line == "\r\n" {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        line.clear();
    }
}

struct Serve {
    process: Process,
    directory: PathBuf,
    socket: SocketAddr,
    admin: SocketAddr,
    backends: Backends,
    _home: TempDir,
}

impl Serve {
    fn start() -> Serve {
        let home = tempfile::tempdir().expect("a temporary directory");
        let directory = home.path().join("objects");
        std::fs::create_dir(&directory).expect("a directory");
        let (socket, admin) = (free_address(), free_address());
        let backends = Backends::start();
        write(&directory, "gateway.yaml", &gateway(socket.port()));
        write(&directory, "services.yaml", &services(&backends));
        write(&directory, "route.yaml", &route(&[("one", 3), ("two", 1)]));
        let mut command = clean_command(WEIR, home.path());
        command.arg("serve").arg("-f").arg(&directory).args(["--admin", &admin.to_string()]);
        let mut process = Process::start(&mut command);
        process.line_with("ready");
        Serve { process, directory, socket, admin, backends, _home: home }
    }

    fn count(&self, manner: Manner, number: u64) -> Counts {
        count(manner, self.socket, "/", number)
    }

    fn admin(&self, path: &str) -> u16 {
        Connection::open(self.admin)
            .and_then(|mut admin| admin.get("localhost", path))
            .expect("it answers")
            .status
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).expect("the file is written");
}

fn gateway(port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: weir}}\n\
         spec: {{controllerName: weir.dev/gateway-controller}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: front, namespace: default}}\n\
         spec:\n  gatewayClassName: weir\n  listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n"
    )
}

fn services(backends: &Backends) -> String {
    let mut text = String::new();
    for (name, port) in ["one", "two"].iter().zip(&backends.ports) {
        text.push_str(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n---\n"
        ));
    }
    text
}

fn route(weights: &[(&str, u64)]) -> String {
    let mut text = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: split, namespace: default}\n\
                    spec:\n  parentRefs: [{name: front}]\n  rules:\n  - backendRefs:\n"
        .to_owned();
    for (name, weight) in weights {
        text.push_str(&format!("    - {{name: {name}, port: 80, weight: {weight}}}\n"));
    }
    text
}

#[test]
fn a_directory_is_served_exactly_and_watched() {
    let serve = Serve::start();
    assert_eq!(serve.admin("/readyz"), 200);
    for manner in MANNERS {
        assert_counts(&serve.count(manner, 40), &[("one", 30), ("two", 10)]);
    }
    write(&serve.directory, "route.yaml", &route(&[("one", 0), ("two", 1)]));
    eventually("the changed file is live", || {
        let counts = serve.count(Manner::OneConnection, 8);
        (counts == Counts::from([("two".to_owned(), 8)])).then_some(())
    });
    std::fs::remove_file(serve.directory.join("route.yaml")).expect("the file is there");
    eventually("without its file the route is gone", || {
        (serve.count(Manner::OneConnection, 1) == Counts::from([("404".to_owned(), 1)])).then_some(())
    });
}

#[test]
fn a_broken_file_keeps_the_last_good_state_and_is_named() {
    let serve = Serve::start();
    assert_counts(&serve.count(Manner::OneConnection, 4), &[("one", 3), ("two", 1)]);
    write(
        &serve.directory,
        "route.yaml",
        &route(&[("one", 1), ("two", 1)]).replace("parentRefs: [{", "parentRefs: [{{"),
    );
    eventually("the broken file is named with its line", || {
        let said = format!("{}{}", serve.process.stdout(), serve.process.stderr());
        said.lines().any(|line| line.contains("route.yaml:")).then_some(())
    });
    assert_counts(&serve.count(Manner::OneConnection, 40), &[("one", 30), ("two", 10)]);
    // The rest goes on: another file still takes effect.
    let other = route(&[("two", 1)]).replace("name: split", "name: other");
    let other = other.replace("- backendRefs:", "- matches: [{path: {value: /other}}]\n    backendRefs:");
    write(&serve.directory, "other.yaml", &other);
    eventually("another file takes effect beside the broken one", || {
        let counts = count(Manner::OneConnection, serve.socket, "/other", 8);
        (counts == Counts::from([("two".to_owned(), 8)])).then_some(())
    });
    // Until then those requests were this route's: a window that begins anywhere.
    let counts = serve.count(Manner::OneConnection, 40);
    assert_between(&counts, "one", 29, 31);
    assert_between(&counts, "two", 9, 11);
    write(&serve.directory, "route.yaml", &route(&[("one", 1), ("two", 1)]));
    eventually("the mended file is live", || {
        let counts = serve.count(Manner::OneConnection, 8);
        (counts == Counts::from([("one".to_owned(), 4), ("two".to_owned(), 4)])).then_some(())
    });
}

#[test]
fn validate_says_what_is_wrong_by_file_line_object_and_field() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let directory = home.path();
    let validate = || finish(clean_command(WEIR, directory).arg("validate").arg("-f").arg(directory));
    let backends = Backends { ports: vec![9001, 9002] };
    write(directory, "gateway.yaml", &gateway(8080));
    write(directory, "services.yaml", &services(&backends));
    write(directory, "route.yaml", &route(&[("one", 1), ("two", 1)]));
    validate().ok();
    write(
        directory,
        "route.yaml",
        &format!("# a comment\n{}", route(&[("one", 1)]).replace("weight: 1", "wieght: 1")),
    );
    let said = validate().refused();
    for part in ["route.yaml:", "HTTPRoute", "split", "spec.rules[0].backendRefs[0].wieght"] {
        assert!(said.contains(part), "`{part}` is not in\n{said}");
    }
    write(directory, "route.yaml", "apiVersion: v1\nkind: [\n");
    let said = validate().refused();
    assert!(said.contains("route.yaml:"), "{said}");
    write(directory, "route.yaml", &route(&[("one", 2_000_000)]));
    let said = validate().refused();
    assert!(said.contains("route.yaml:") && said.contains("spec.rules[0].backendRefs[0].weight"), "{said}");
}

#[test]
fn validate_waits_for_what_is_said_later_than_the_rest() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let directory = home.path();
    let validate = || finish(clean_command(WEIR, directory).arg("validate").arg("-f").arg(directory));
    write(directory, "gateway.yaml", &gateway(8080));
    // A Service without EndpointSlices holds its route back for a second, and with it what is wrong there.
    write(
        directory,
        "services.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: one, namespace: default}\nspec: {ports: [{port: 80}]}\n",
    );
    let route = route(&[("one", 1), ("nowhere", 1)]);
    write(directory, "route.yaml", &route);
    let said = validate().refused();
    assert!(said.contains("BackendNotFound") && said.contains("nowhere"), "{said}");
}

#[test]
fn validate_speaks_of_every_kind() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let directory = home.path();
    let validate = || finish(clean_command(WEIR, directory).arg("validate").arg("-f").arg(directory));
    write(directory, "gateway.yaml", &gateway(8080));
    let group = "gateway.networking.k8s.io";
    let elsewhere = "parentRefs: [{name: front, sectionName: nowhere}]";
    let backend = "rules: [{backendRefs: [{name: one, port: 80}]}]";
    let objects = [
        ("GRPCRoute", format!("{elsewhere}\n  {backend}")),
        ("TCPRoute", format!("{elsewhere}\n  {backend}")),
        (
            "ListenerSet",
            "parentRef: {name: front}\n  listeners: [{name: l, port: 81, protocol: HTTP}]".to_owned(),
        ),
    ];
    for (kind, spec) in &objects {
        let text = format!(
            "apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: wrong, namespace: default}}\nspec:\n  {spec}\n"
        );
        let text = if *kind == "TCPRoute" { text.replace("/v1\n", "/v1alpha2\n") } else { text };
        write(directory, &format!("{kind}.yaml"), &text);
    }
    let said = validate().refused();
    for (kind, _) in &objects {
        let condition = format!("{kind} default/wrong: ");
        let told = said.lines().any(|line| line.contains(&condition) && line.contains("Accepted=False"));
        assert!(told, "no condition of {condition} in\n{said}");
    }
}

#[test]
fn sigterm_lets_what_runs_come_to_its_end() {
    let mut serve = Serve::start();
    let mut connection = Connection::open(serve.socket).expect("the gateway listens");
    assert_eq!(connection.get("a", "/").expect("an answer").status, 200);
    let status = serve.process.terminate();
    assert!(status.success(), "{status}");
    assert!(std::net::TcpStream::connect(serve.socket).is_err(), "the socket is closed");
    assert_eq!(serve.backends.ports.len(), 2);
}

#[test]
fn a_directory_that_is_not_there_is_said_at_once() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let missing = home.path().join("missing");
    let done = finish(clean_command(WEIR, home.path()).arg("serve").arg("-f").arg(&missing));
    assert!(done.refused().contains("missing"), "{done:?}");
}

/// The private key in PKCS#8 of version 1 (RFC 8410 section 7), which does not say which public key is its own.
fn without_public_half(key: &rcgen::KeyPair) -> String {
    const HEAD: &[u8] = &[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let whole = key.serialize_der();
    let at = whole.windows(4).position(|part| part == [4, 0x22, 4, 0x20]).expect("the seed") + 4;
    let short = k8s_openapi::ByteString([HEAD, &whole[at..at + 32]].concat());
    let base64 = serde_json::to_value(short).expect("a string");
    let mark = |word: &str| format!("-----{word} PRIVATE KEY-----\n");
    format!("{}{}\n{}", mark("BEGIN"), base64.as_str().expect("a string"), mark("END"))
}

#[test]
fn validate_judges_certificates_as_the_data_plane_does() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let directory = home.path();
    let validate = || finish(clean_command(WEIR, directory).arg("validate").arg("-f").arg(directory));
    let generate = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let (own, other) = (generate(), generate());
    let certificate = |expired: bool| {
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).expect("names");
        if expired {
            parameters.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        parameters.self_signed(&own).expect("a certificate").pem()
    };
    let indented = |pem: &str| pem.trim().replace('\n', "\n    ");
    let secret = |key: &rcgen::KeyPair| {
        let (chain, key) = (indented(&certificate(false)), indented(&without_public_half(key)));
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: c, namespace: default}}\ntype: kubernetes.io/tls\n\
             stringData:\n  tls.crt: |\n    {chain}\n  tls.key: |\n    {key}\n"
        )
    };
    let listener = "{name: s, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}";
    let plain = gateway(8080);
    let secure = plain.replace("listeners: [", &format!("listeners: [{listener}, "));
    assert_ne!(plain, secure);
    write(directory, "gateway.yaml", &secure);
    write(directory, "services.yaml", &services(&Backends { ports: vec![9001] }));
    write(directory, "route.yaml", &route(&[("one", 1)]));
    write(directory, "secret.yaml", &secret(&own));
    validate().ok();
    // Neither file says whose key it is: only trying shows it.
    write(directory, "secret.yaml", &secret(&other));
    let said = validate().refused();
    assert!(said.contains("gateway.yaml:") && said.contains("InvalidCertificateRef"), "{said}");
    assert!(said.contains("Secret default/c cannot be used"), "{said}");
    assert!(!said.contains("is not that of"), "seen without trying: {said}");
    write(directory, "secret.yaml", &secret(&own));

    let policy = |authority: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: default}}\ndata:\n  ca.crt: |\n    {}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: p, namespace: default}}\n\
             spec:\n  targetRefs: [{{group: '', kind: Service, name: one}}]\n  validation:\n    hostname: a.example.com\n    \
             caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]\n",
            indented(authority)
        )
    };
    write(directory, "policy.yaml", &policy(&certificate(false)));
    validate().ok();
    write(directory, "policy.yaml", &policy(&certificate(true)));
    let said = validate().refused();
    for part in ["policy.yaml:", "NoValidCACertificate", "InvalidCACertificateRef", "has expired"] {
        assert!(said.contains(part), "`{part}` is not in\n{said}");
    }
}
