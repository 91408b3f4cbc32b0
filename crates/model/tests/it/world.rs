//! Random worlds: resources and requests over so few words that they meet all the time.

use weir_model::resource::{Attachment, Body, HttpMatch, HttpRule, Resource, ValueMatch};
use weir_model::select::{NoProbe, RequestView, select};
use weir_model::table::{BindAddress, Snapshot};

use crate::build::{
    attach, backend, endpoints, exact, listener, prefix, regex, route, rule, value, weighted,
};
use crate::random::Random;

pub(crate) const LISTENERS: [&str; 7] = ["l0", "l1", "l2", "l3", "l4", "l5", "l6"];
const ADDRESSES: [(&str, u32); 3] = [("127.0.0.1", 80), ("127.0.0.1", 8080), ("::1", 80)];
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

/// Mostly the first, so that listeners share it.
fn random_address(random: &mut Random) -> (&'static str, u32) {
    if random.one_in(4) { random.pick(&ADDRESSES) } else { ADDRESSES[0] }
}

pub(crate) fn random_listener(random: &mut Random, name: &str) -> Resource {
    let (address, port) = random_address(random);
    listener(name, address, port, random.pick(&HOSTNAMES))
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
    let mut matched = match random.below(6) {
        0 => regex(random.pick(&REGEXES)),
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
    for _ in 0..random.below(4) {
        let mut backend = weighted(random.pick(&BACKENDS), random.pick(&[0, 1, 1, 2, 3, 6]));
        if random.one_in(6) {
            backend.invalid_reason = "RefNotPermitted".into();
        }
        rule.backends.push(backend);
    }
    rule.strip_path = random.one_in(4);
    rule
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
    route(name, random.below(3) as i64, attachments, rules)
}

pub(crate) fn random_backend(random: &mut Random, name: &str) -> Resource {
    let mut resource = backend(name);
    if let (Some(Body::Backend(backend)), true) = (&mut resource.body, random.one_in(3)) {
        backend.port = 81;
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
    Request {
        bind: BindAddress::tcp(address.parse().unwrap(), port as u16),
        host: random.pick(&HOSTS),
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

/// Who answers: route, rule, alternative, listener.
pub(crate) type Answer = Option<(String, usize, usize, String)>;

pub(crate) fn answer(snapshot: &Snapshot, request: &Request) -> Answer {
    let bind = snapshot.bind(&request.bind)?;
    let selected = select(bind, &request.view(), &mut NoProbe)?;
    Some((
        selected.rule.route.to_string(),
        selected.rule.index,
        selected.alternative,
        selected.listener.key.to_string(),
    ))
}
