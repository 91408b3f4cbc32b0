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
/// Where a web server is when it does not say.
const PAGE_PORT: u16 = 80;

/// What answers in a container's stead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    Netexec,
    ServeHostname,
    GoEcho,
    EchoBasic,
    Page,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    /// HTTP/2 with prior knowledge, and HTTP/1.1.
    Http2OrHttp1,
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
            Self::EchoBasic => {
                let number = |name, default| {
                    environment.get(name).and_then(|text: &String| text.parse().ok()).unwrap_or(default)
                };
                vec![
                    http(number("HTTP_PORT", ECHO_BASIC_HTTP_PORT)),
                    WantedPort {
                        number: number("H2C_PORT", ECHO_BASIC_H2C_PORT),
                        speaks: Speaks::Http2OrHttp1,
                    },
                ]
            }
            Self::Page => {
                let declared: Vec<_> = tcp_ports(container).map(http).collect();
                if declared.is_empty() && only { vec![http(PAGE_PORT)] } else { declared }
            }
        };
        let mut seen = Vec::new();
        ports.retain(|port| {
            let new = !seen.contains(&port.number);
            seen.push(port.number);
            new
        });
        ports
    }
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
    fn images_are_known_by_the_last_part_of_their_name() {
        for (image, behaviour) in [
            ("kong/go-echo:latest", Behaviour::GoEcho),
            ("kong/go-echo", Behaviour::GoEcho),
            ("docker.io/kong/go-echo@sha256:0123", Behaviour::GoEcho),
            ("gcr.io/k8s-staging-gateway-api/echo-basic:v20240412-v1.0.0", Behaviour::EchoBasic),
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
