//! Which image a container names, and so what is answered in its stead and where.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::environment::{Environment, expand};

/// `netexec`'s port when none is given. Source: agnhost.
const NETEXEC_PORT: u16 = 8080;
/// `serve-hostname`'s port when none is given. Source: agnhost.
const SERVE_HOSTNAME_PORT: u16 = 9376;
/// Source: the image's own `EXPOSE`d HTTP port.
const GO_ECHO_PORT: u16 = 1027;
/// Source: Gateway API's echo-basic.
const ECHO_BASIC_HTTP_PORT: u16 = 3000;
const ECHO_BASIC_H2C_PORT: u16 = 3001;
const ECHO_BASIC_TLS_PORT: u16 = 8443;
const ECHO_BASIC_UDP_PORT: u16 = 8080;
/// Source: RFC 1035 4.2.
const DNS_PORT: u16 = 53;
/// Where a web server is when it does not say.
const PAGE_PORT: u16 = 80;

/// What answers in a container's stead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    Netexec,
    ServeHostname,
    GoEcho,
    EchoBasic,
    CoreDns,
    Page,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    /// HTTP/2 with prior knowledge, and HTTP/1.1.
    Http2OrHttp1,
    /// Either, by ALPN, over TLS.
    Https,
    Grpc,
    GrpcOverTls,
    /// Lines, greeted by the server first.
    Lines,
    LinesOverTls,
    /// Each datagram is told back.
    Datagrams,
    Dns,
}

impl Speaks {
    pub(super) fn transport(self) -> Transport {
        match self {
            Self::Datagrams | Self::Dns => Transport::Udp,
            _ => Transport::Tcp,
        }
    }

    pub(super) fn over_tls(self) -> bool {
        matches!(self, Self::Https | Self::GrpcOverTls | Self::LinesOverTls)
    }
}

/// Port numbers of one do not meet those of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// The files that a port over TLS is served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TlsPaths<'a> {
    pub(super) certificate: &'a str,
    pub(super) key: &'a str,
    pub(super) client_ca: Option<&'a str>,
}

/// A port that the container's process would listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedPort {
    pub(super) number: u16,
    pub(super) speaks: Speaks,
}

impl Behaviour {
    pub(super) fn of(container: &Container) -> Self {
        let image = container.image.as_deref().unwrap_or_default();
        match image_name(image) {
            ("agnhost", _) if words(container).any(|word| word == "netexec") => Self::Netexec,
            ("agnhost", _) if words(container).any(|word| word == "serve-hostname") => Self::ServeHostname,
            ("go-echo", _) => Self::GoEcho,
            ("echo-basic", _) => Self::EchoBasic,
            ("coredns", _) => Self::CoreDns,
            _ => Self::Page,
        }
    }

    /// The ports, none twice. `only` says that no other container of the pod has a port.
    pub(super) fn ports(
        self,
        container: &Container,
        environment: &Environment,
        only: bool,
    ) -> Vec<WantedPort> {
        let http = |number| WantedPort { number, speaks: Speaks::Http1 };
        let mut ports = match self {
            Self::Netexec => vec![http(flag(container, environment, "--http-port").unwrap_or(NETEXEC_PORT))],
            Self::ServeHostname => {
                vec![http(flag(container, environment, "--port").unwrap_or(SERVE_HOSTNAME_PORT))]
            }
            Self::GoEcho => vec![http(GO_ECHO_PORT)],
            Self::EchoBasic => echo_basic_ports(environment),
            Self::CoreDns => vec![WantedPort { number: DNS_PORT, speaks: Speaks::Dns }],
            Self::Page => {
                let declared: Vec<_> = tcp_ports(container).map(http).collect();
                if declared.is_empty() && only { vec![http(PAGE_PORT)] } else { declared }
            }
        };
        let mut seen = Vec::new();
        ports.retain(|port| {
            let place = (port.speaks.transport(), port.number);
            let new = !seen.contains(&place);
            seen.push(place);
            new
        });
        ports
    }
}

/// The first of these variables that is set says what the program is.
fn echo_basic_ports(environment: &Environment) -> Vec<WantedPort> {
    let is_set = |name| variable(environment, name).is_some();
    let port = |name, default, speaks| {
        let number = variable(environment, name).and_then(|text| text.parse().ok()).unwrap_or(default);
        WantedPort { number, speaks }
    };
    let (mut ports, over_tls) = if is_set("GRPC_ECHO_SERVER") {
        let plain = port("HTTP_PORT", ECHO_BASIC_HTTP_PORT, Speaks::Grpc);
        (vec![plain], port("HTTPS_PORT", ECHO_BASIC_TLS_PORT, Speaks::GrpcOverTls))
    } else if is_set("TCP_ECHO_SERVER") {
        let plain = port("TCP_PORT", ECHO_BASIC_HTTP_PORT, Speaks::Lines);
        (vec![plain], port("TLS_PORT", ECHO_BASIC_TLS_PORT, Speaks::LinesOverTls))
    } else if is_set("UDP_ECHO_SERVER") {
        return vec![port("UDP_PORT", ECHO_BASIC_UDP_PORT, Speaks::Datagrams)];
    } else {
        let plain = port("HTTP_PORT", ECHO_BASIC_HTTP_PORT, Speaks::Http1);
        let h2c = port("H2C_PORT", ECHO_BASIC_H2C_PORT, Speaks::Http2OrHttp1);
        (vec![plain, h2c], port("HTTPS_PORT", ECHO_BASIC_TLS_PORT, Speaks::Https))
    };
    if tls_paths(environment, over_tls.speaks).is_some() {
        ports.push(over_tls);
    }
    ports
}

/// The files of echo-basic's TLS; None where it is not asked for. The key's variable has two spellings there.
pub(super) fn tls_paths(environment: &Environment, speaks: Speaks) -> Option<TlsPaths<'_>> {
    let (key, client_ca) = match speaks {
        Speaks::Https => ("TLS_SERVER_PRIVKEY", variable(environment, "TLS_CLIENT_CACERTS")),
        _ => ("TLS_SERVER_PRIV_KEY", None),
    };
    Some(TlsPaths {
        certificate: variable(environment, "TLS_SERVER_CERT")?,
        key: variable(environment, key)?,
        client_ca,
    })
}

fn variable<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// Whether no container but this one listens anywhere, and it is the first.
pub(super) fn is_only_listener(pod: &Pod, container: &Container) -> bool {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let first = containers.first().is_some_and(|first| first.name == container.name);
    let others = containers.iter().filter(|other| other.name != container.name);
    first
        && others
            .clone()
            .all(|other| tcp_ports(other).next().is_none() && Behaviour::of(other) == Behaviour::Page)
}

/// The last part of the image's path, and its tag.
fn image_name(image: &str) -> (&str, Option<&str>) {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let last = image.rsplit_once('/').map_or(image, |(_, last)| last);
    match last.split_once(':') {
        Some((name, tag)) => (name, Some(tag)),
        None => (last, None),
    }
}

fn tcp_ports(container: &Container) -> impl Iterator<Item = u16> {
    let ports = container.ports.iter().flatten();
    let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    tcp.filter_map(|port| u16::try_from(port.container_port).ok()).filter(|port| *port != 0)
}

fn words(container: &Container) -> impl Iterator<Item = &str> {
    container.command.iter().flatten().chain(container.args.iter().flatten()).map(String::as_str)
}

/// The value of `--name=value` or `--name value`; the last one counts.
fn flag(container: &Container, environment: &Environment, name: &str) -> Option<u16> {
    let words: Vec<String> = words(container).map(|word| expand(word, environment)).collect();
    let values = words.iter().enumerate().filter_map(|(index, word)| {
        // Go's flags take one dash as well as two.
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        match word.split_once('=') {
            Some((key, value)) if key == &name[2..] => Some(value),
            None if word == &name[2..] => words.get(index + 1).map(String::as_str),
            _ => None,
        }
    });
    values.filter_map(|value| value.parse().ok()).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(value: serde_json::Value) -> Container {
        let mut value = value;
        value["name"] = json!("c");
        serde_json::from_value(value).expect("a Container")
    }

    fn numbers(container: &Container) -> Vec<u16> {
        let ports = Behaviour::of(container).ports(container, &Environment::new(), true);
        ports.iter().map(|port| port.number).collect()
    }

    #[test]
    fn netexec_listens_where_its_flag_says() {
        let image = "registry.k8s.io/e2e-test-images/agnhost:2.40";
        for (words, port) in [
            (json!(["/agnhost", "netexec", "--http-port=8081"]), 8081),
            (json!(["/agnhost", "netexec", "--http-port", "80"]), 80),
            (json!(["/agnhost", "netexec", "-http-port=90"]), 90),
            (json!(["/agnhost", "netexec"]), 8080),
        ] {
            let container =
                container(json!({ "image": image, "command": words, "ports": [{ "containerPort": 7 }] }));
            assert_eq!((Behaviour::of(&container), numbers(&container)), (Behaviour::Netexec, vec![port]));
        }
        let args = container(json!({ "image": image, "args": ["netexec"] }));
        assert_eq!(Behaviour::of(&args), Behaviour::Netexec);
        let pause = container(json!({ "image": image, "args": ["pause"] }));
        assert_eq!(Behaviour::of(&pause), Behaviour::Page);
    }

    #[test]
    fn echo_basic_is_what_its_environment_says() {
        let ports = |variables: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let environment: Environment = variables.iter().map(own).collect();
            let ports = echo_basic_ports(&environment);
            ports.iter().map(|port| (port.number, port.speaks)).collect::<Vec<_>>()
        };
        let cert = ("TLS_SERVER_CERT", "/crt");
        assert_eq!(ports(&[]), [(3000, Speaks::Http1), (3001, Speaks::Http2OrHttp1)]);
        assert_eq!(ports(&[cert, ("TLS_SERVER_PRIVKEY", "/key")])[2], (8443, Speaks::Https));
        assert_eq!(ports(&[("GRPC_ECHO_SERVER", "1"), ("HTTP_PORT", "9")]), [(9, Speaks::Grpc)]);
        assert_eq!(
            ports(&[("TCP_ECHO_SERVER", "1"), cert, ("TLS_SERVER_PRIV_KEY", "/key"), ("TLS_PORT", "")]),
            [(3000, Speaks::Lines), (8443, Speaks::LinesOverTls)]
        );
        assert_eq!(ports(&[("TCP_ECHO_SERVER", "1"), cert, ("TLS_SERVER_PRIVKEY", "/key")]).len(), 1);
        assert_eq!(ports(&[("UDP_ECHO_SERVER", "1")]), [(8080, Speaks::Datagrams)]);
    }

    #[test]
    fn images_are_known_by_the_last_part_of_their_name() {
        for (image, behaviour) in [
            ("kong/go-echo:latest", Behaviour::GoEcho),
            ("kong/go-echo", Behaviour::GoEcho),
            ("docker.io/kong/go-echo@sha256:0123", Behaviour::GoEcho),
            ("gcr.io/k8s-staging-gateway-api/echo-basic:v20240412-v1.0.0", Behaviour::EchoBasic),
            ("registry.k8s.io/coredns/coredns:v1.12.2", Behaviour::CoreDns),
            ("localhost:5000/nginx", Behaviour::Page),
            ("nginx:1.29", Behaviour::Page),
        ] {
            assert_eq!(Behaviour::of(&container(json!({ "image": image }))), behaviour, "{image}");
        }
    }

    #[test]
    fn a_page_is_on_every_tcp_port_declared_or_on_80() {
        let declared = json!({ "image": "app", "ports": [
            { "containerPort": 8080 }, { "containerPort": 9090, "protocol": "TCP" },
            { "containerPort": 53, "protocol": "UDP" }, { "containerPort": 8080, "name": "again" },
        ]});
        assert_eq!(numbers(&container(declared)), [8080, 9090]);
        assert_eq!(numbers(&container(json!({ "image": "app" }))), [80]);
        let beside = container(json!({ "image": "app" }));
        assert!(Behaviour::Page.ports(&beside, &Environment::new(), false).is_empty());
    }
}
