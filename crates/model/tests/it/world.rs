//! Random worlds: resources and requests over so few words that they meet all the time.

use weir_model::resource::{
    Attachment, Body, CaBundle, Certificate, HttpMatch, HttpRule, LimitSetting, ListenerProtocol, Networks,
    Parameters, PathKind, Resource, SessionKey, ValueMatch, WeightedBackend,
};
use weir_model::select::{NoProbe, RequestView, Selected, SelectedHttps, select, select_https, select_l4};
use weir_model::table::{BindAddress, BindKind, Snapshot};

use crate::build::{
    attach, backend, endpoints, exact, l4_route, listener_of, prefix, regex, route, rule, value, weighted,
};
use crate::random::Random;

pub(crate) const LISTENERS: [&str; 7] = ["l0", "l1", "l2", "l3", "l4", "l5", "l6"];
const ADDRESSES: [(&str, u32); 5] =
    [("127.0.0.1", 80), ("127.0.0.1", 443), ("127.0.0.1", 9000), ("127.0.0.1", 53), ("::1", 80)];
const HOSTNAMES: [&str; 8] =
    ["", "*.example.com", "a.example.com", "*.a.example.com", "*.com", "b.a.example.com", "x.org", "*.org"];
const HOSTS: [&str; 10] = [
    "a.example.com",
    "A.EXAMPLE.COM.",
    "b.a.example.com",
    "c.b.a.example.com",
    "example.com",
    "z.example.com",
    "x.org",
    "y.x.org",
    "127.0.0.1",
    "",
];
const SEGMENTS: [&str; 5] = ["a", "b", "ab", "", "%2F"];
const REGEXES: [&str; 8] = ["/a.*", "/[ab]+", "/a/b?", ".*", "/ab|/a", "/(a|b)/.*", "/a/b", "(?i)/A"];
pub(crate) const BACKENDS: [&str; 5] = ["s0", "s1", "s2", "s3", "s4"];

/// Mostly the first two, so that listeners share them.
fn random_address(random: &mut Random) -> (&'static str, u32) {
    match random.below(9) {
        0..4 => ADDRESSES[0],
        4..7 => ADDRESSES[1],
        _ => random.pick(&ADDRESSES),
    }
}

fn random_parameters(random: &mut Random) -> Parameters {
    let trusted = ["10.0.0.0/8", "::1"];
    Parameters {
        limits: vec![random_limit(random)],
        trusted_proxies: random.one_in(9).then(|| Networks { networks: vec![random.pick(&trusted).into()] }),
        access_log: random.below(5) as i32,
        session_keys: vec!["sessionkey/0".into()],
    }
}

fn random_limit(random: &mut Random) -> LimitSetting {
    let name = random.pick(&["head_bytes", "upstream_connect_timeout", "of_a_newer_release"]);
    LimitSetting { name: name.into(), value: random.below(100_000) }
}

pub(crate) fn random_listener(random: &mut Random, name: &str) -> Resource {
    use ListenerProtocol::{Http, Https, Tcp, Tls, Udp};
    let (address, port) = random_address(random);
    let protocol = match port {
        // Conflicts that were not settled.
        _ if random.one_in(30) => random.pick(&[Http, Https, Tls, Tcp, Udp]),
        443 => random.pick(&[Https, Https, Tls]),
        9000 => Tcp,
        53 => Udp,
        _ => Http,
    };
    let mut resource = listener_of(protocol, name, port, random.pick(&HOSTNAMES));
    if let Some(Body::Listener(listener)) = &mut resource.body {
        listener.address = address.into();
        listener.backend_client_certificate = random.pick(&["", "certificate/0", "certificate/1"]).into();
        listener.parameters = random.one_in(3).then(|| random_parameters(random));
        if let (Tls, Some(tls)) = (protocol, &mut listener.tls) {
            tls.passthrough = random.one_in(2);
        }
    }
    resource
}

fn random_path(random: &mut Random) -> String {
    let mut path = String::new();
    for _ in 0..1 + random.below(4) / (1 + random.below(3)) {
        path.push('/');
        path.push_str(random.pick(&SEGMENTS));
    }
    path
}

fn random_values(random: &mut Random, names: &[&str]) -> Vec<ValueMatch> {
    let mut values = Vec::new();
    while random.one_in(4) && values.len() < 3 {
        // Equal names occur: only the first of them counts.
        let name = random.pick(names);
        values.push(if random.one_in(4) {
            ValueMatch {
                name: (*name).into(),
                value: random.pick(&["[12]", "1|2,1", ".+"]).to_string(),
                regex: true,
            }
        } else {
            value(name, random.pick(&["1", "2", "1,2"]))
        });
    }
    values
}

pub(crate) fn random_match(random: &mut Random) -> HttpMatch {
    let mut matched = match random.below(7) {
        0 => regex(random.pick(&REGEXES)),
        6 => HttpMatch { path_kind: PathKind::GrpcMethod as i32, ..exact(random.pick(&["a", "b", "%2F"])) },
        1 | 2 => exact(&random_path(random)),
        _ => prefix(&random_path(random)),
    };
    if random.one_in(4) {
        matched.method = random.pick(&["GET", "POST"]).to_string();
    }
    matched.headers = random_values(random, &["x", "y"]);
    matched.query = random_values(random, &["p", "q"]);
    matched
}

fn random_rule(random: &mut Random, name: &str) -> HttpRule {
    let matches = (0..1 + random.below(3)).map(|_| random_match(random)).collect();
    let mut rule = rule(name, matches, &[]);
    rule.backends = random_backends(random);
    rule.strip_path = random.one_in(4);
    rule
}

fn random_backends(random: &mut Random) -> Vec<WeightedBackend> {
    let mut backends = Vec::new();
    for _ in 0..random.below(4) {
        let mut backend = weighted(random.pick(&BACKENDS), random.pick(&[0, 1, 1, 2, 3, 6]));
        if random.one_in(6) {
            backend.invalid_reason = "RefNotPermitted".into();
        }
        backends.push(backend);
    }
    backends
}

fn random_attachments(random: &mut Random) -> Vec<Attachment> {
    let mut attachments = Vec::new();
    for _ in 0..1 + random.below(4) {
        let mut hostnames: Vec<&str> = (0..random.below(3)).map(|_| random.pick(&HOSTNAMES)).collect();
        if hostnames.is_empty() || random.one_in(3) {
            hostnames.push("");
        }
        attachments.push(attach(random.pick(&LISTENERS), &hostnames));
    }
    attachments
}

pub(crate) fn random_route(random: &mut Random, name: &str) -> Resource {
    let rules = (0..1 + random.below(3)).map(|index| random_rule(random, &format!("r{index}"))).collect();
    let attachments = random_attachments(random);
    let mut resource = route(name, random.below(3) as i64, attachments, rules);
    if let (Some(Body::HttpRoute(route)), true) = (&mut resource.body, random.one_in(3)) {
        route.key = route.key.replace("httproute/", "grpcroute/");
    }
    resource
}

pub(crate) fn random_l4_route(random: &mut Random, name: &str) -> Resource {
    let kind = random.pick(&["tlsroute", "tlsroute", "tcproute", "udproute"]);
    let attachments = random_attachments(random);
    let created = random.below(3) as i64;
    l4_route(kind, name, created, attachments, random_backends(random))
}

pub(crate) fn random_certificate(random: &mut Random) -> Resource {
    let name = random.below(4);
    let body = if random.one_in(5) {
        Body::SessionKey(SessionKey { key: format!("sessionkey/{name}"), bytes: vec![name as u8] })
    } else if random.one_in(3) {
        Body::CaBundle(CaBundle { key: format!("cabundle/{name}"), certificates: vec![name as u8] })
    } else {
        let (chain, private_key) = (vec![name as u8], vec![7]);
        Body::Certificate(Certificate { key: format!("certificate/{name}"), chain, private_key })
    };
    Resource { body: Some(body) }
}

pub(crate) fn random_backend(random: &mut Random, name: &str) -> Resource {
    let mut resource = backend(name);
    if let (Some(Body::Backend(backend)), true) = (&mut resource.body, random.one_in(3)) {
        backend.port = 81;
        backend.limits = vec![random_limit(random)];
    }
    resource
}

pub(crate) fn random_endpoints(random: &mut Random, name: &str) -> Resource {
    let pool = ["10.0.0.1", "10.0.0.2", "::1", "10.0.0.3"];
    let addresses: Vec<&str> = (0..random.below(4)).map(|_| random.pick(&pool)).collect();
    endpoints(name, &addresses)
}

/// A request that owns what it says.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) bind: BindAddress,
    pub(crate) host: &'static str,
    pub(crate) server_name: Option<&'static str>,
    pub(crate) path: String,
    pub(crate) method: &'static str,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
}

pub(crate) fn random_request(random: &mut Random) -> Request {
    let (address, port) = random_address(random);
    let mut headers = Vec::new();
    while random.one_in(2) {
        headers.push((random.pick(&["x", "y", "X"]), random.pick(&["1", "2"])));
    }
    let query = random.one_in(2).then(|| {
        let mut pairs = Vec::new();
        while random.one_in(2) {
            pairs.push(format!(
                "{}={}",
                random.pick(&["p", "q", "%70"]),
                random.pick(&["1", "2", "%31", "1%2C2"])
            ));
        }
        pairs.join("&")
    });
    let host = random.pick(&HOSTS);
    let (ip, port) = (address.parse().unwrap(), port as u16);
    Request {
        bind: if port == 53 { BindAddress::udp(ip, port) } else { BindAddress::tcp(ip, port) },
        host,
        server_name: match random.below(4) {
            0 => None,
            1 => Some(random.pick(&HOSTS)),
            _ => Some(host),
        },
        path: if random.one_in(20) { "*".into() } else { random_path(random) },
        method: random.pick(&["GET", "POST", "get"]),
        query,
        headers,
    }
}

impl Request {
    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: self.method.as_bytes(),
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            query: self.query.as_ref().map(String::as_bytes),
            headers: &self.headers,
        }
    }
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Rule {
        /// `<kind>/<namespace>/<name>`
        route: String,
        rule: usize,
        alternative: usize,
        listener: String,
    },
    Misdirected,
    NotFound,
}

impl Answer {
    fn of(selected: Option<Selected<'_>>) -> Answer {
        let Some(selected) = selected else { return Answer::NotFound };
        Answer::Rule {
            route: format!("{}/{}", selected.rule.kind.name(), selected.rule.route),
            rule: selected.rule.index,
            alternative: selected.alternative,
            listener: selected.listener.key.to_string(),
        }
    }
}

pub(crate) fn answer(snapshot: &Snapshot, request: &Request) -> Answer {
    let Some(bind) = snapshot.bind(&request.bind) else { return Answer::NotFound };
    if bind.kind() != BindKind::Tls {
        return Answer::of(select(bind, &request.view(), &mut NoProbe));
    }
    match select_https(bind, request.server_name.map(str::as_bytes), &request.view(), &mut NoProbe) {
        SelectedHttps::Rule(selected) => Answer::of(Some(selected)),
        SelectedHttps::Misdirected => Answer::Misdirected,
        SelectedHttps::NotFound => Answer::NotFound,
    }
}

/// What the listener that answers is set to, and that of a connection.
pub(crate) fn settings(snapshot: &Snapshot, request: &Request) -> String {
    let Some(bind) = snapshot.bind(&request.bind) else { return String::new() };
    let server_name = request.server_name.map(str::as_bytes);
    let answering = match select_https(bind, server_name, &request.view(), &mut NoProbe) {
        SelectedHttps::Rule(selected) => Some(selected),
        SelectedHttps::Misdirected | SelectedHttps::NotFound => select(bind, &request.view(), &mut NoProbe),
    };
    let listeners = [
        answering.map(|selected| selected.listener),
        select_l4(bind, server_name, &mut NoProbe).map(|selected| selected.listener),
    ];
    format!("{:?}", listeners.map(|one| one.map(|one| (one.tls(), one.backend_client_certificate()))))
}

/// Kind and name of the route that gets a connection, and the listener.
pub(crate) fn connect(snapshot: &Snapshot, request: &Request) -> Option<(String, String)> {
    let bind = snapshot.bind(&request.bind)?;
    let selected = select_l4(bind, request.server_name.map(str::as_bytes), &mut NoProbe)?;
    let route = format!("{}/{}", selected.rule.kind.name(), selected.rule.route);
    Some((route, selected.listener.key.to_string()))
}
