//! Who answers a request, written down from the API's text over the objects alone: every Gateway, every listener, every
//! route, every match, each time.
//!
//! Owns nothing of the product: neither its types nor its words for hostnames. Deliberately absent: what the text leaves to
//! the implementation (regular expressions, paths that are not in normal form) and routes of two kinds that want one
//! hostname.

use std::cmp::Reverse;

/// Everything that the API has.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Name and value of the label `team`.
    pub(crate) namespaces: Vec<(&'static str, &'static str)>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) sets: Vec<Set>,
    pub(crate) routes: Vec<Route>,
    pub(crate) grants: Vec<Grant>,
    /// Namespace and name; all have port 80.
    pub(crate) services: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) allowed_sets: From,
}

#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    pub(crate) created: u32,
    /// Namespace and name of the Gateway.
    pub(crate) parent: (&'static str, String),
    pub(crate) listeners: Vec<Listener>,
}

#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) name: String,
    /// 443 is HTTPS, all others are HTTP.
    pub(crate) port: u16,
    /// Empty: any.
    pub(crate) hostname: &'static str,
    pub(crate) from: From,
    /// Kinds of routes; empty: all that fit.
    pub(crate) kinds: Vec<&'static str>,
}

/// Which namespaces.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    All,
    Same,
    /// Those with this `team`.
    Team(&'static str),
    None,
}

#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) kind: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    pub(crate) created: u32,
    pub(crate) parents: Vec<Parent>,
    pub(crate) hostnames: Vec<&'static str>,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
pub(crate) struct Parent {
    pub(crate) kind: &'static str,
    pub(crate) namespace: Option<&'static str>,
    pub(crate) name: String,
    pub(crate) section: Option<String>,
    pub(crate) port: Option<u16>,
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// None: the default, which matches everything.
    pub(crate) matches: Vec<Match>,
    pub(crate) backends: Vec<Backend>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Match {
    /// Whether it is exact, and the path.
    pub(crate) path: Option<(bool, String)>,
    /// The method of HTTP.
    pub(crate) method: Option<&'static str>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) query: Vec<(&'static str, &'static str)>,
    /// Service and method of gRPC.
    pub(crate) call: (Option<&'static str>, Option<&'static str>),
}

#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) kind: &'static str,
    pub(crate) namespace: Option<&'static str>,
    pub(crate) name: &'static str,
    pub(crate) port: Option<u16>,
    pub(crate) weight: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) namespace: &'static str,
    /// Kind and namespace of routes.
    pub(crate) from: (&'static str, &'static str),
    /// The Service; `None`: all.
    pub(crate) to: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Which Gateway it comes to.
    pub(crate) gateway: usize,
    pub(crate) port: u16,
    /// What the client's TLS greeting asks for.
    pub(crate) server_name: Option<&'static str>,
    pub(crate) host: &'static str,
    pub(crate) path: String,
    pub(crate) method: &'static str,
    pub(crate) query: Vec<(&'static str, &'static str)>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Rule {
        /// Kind, namespace and name in lower case.
        route: String,
        rule: usize,
        alternative: usize,
        /// The listener's owner in its Gateway, and its name.
        listener: String,
        /// Weight and whether it is valid, for each backend.
        backends: Vec<(u32, bool)>,
    },
    NotFound,
    /// 421.
    Misdirected,
}

/// A listener with who it belongs to: the Gateway itself or a set.
struct Owned<'a> {
    listener: &'a Listener,
    kind: &'static str,
    namespace: &'static str,
    name: &'a str,
}

impl Cluster {
    pub(crate) fn answer(&self, request: &Request) -> Answer {
        let listeners = self.listeners(&self.gateways[request.gateway]);
        let on_port: Vec<&Owned<'_>> =
            listeners.iter().filter(|owned| owned.listener.port == request.port).collect();
        // "Requests SHOULD match at most one Listener", the one with the most specific hostname.
        let by_host = most_specific(&on_port, request.host);
        let serving = match request.server_name {
            None => by_host,
            Some(server_name) => {
                let Some(current) = most_specific(&on_port, server_name) else {
                    return Answer::NotFound;
                };
                let of = |owned: &Owned<'_>| specificity(owned.listener.hostname, request.host);
                if on_port.iter().any(|other| of(other) > of(current)) {
                    return Answer::Misdirected;
                }
                of(current).map(|_| current)
            }
        };
        serving.map_or(Answer::NotFound, |listener| self.on_listener(listener, request))
    }

    /// Whether the greeting of a connection leads to a listener at all.
    pub(crate) fn greets(&self, request: &Request) -> bool {
        let listeners = self.listeners(&self.gateways[request.gateway]);
        let on_port: Vec<&Owned<'_>> =
            listeners.iter().filter(|owned| owned.listener.port == request.port).collect();
        request.server_name.is_none_or(|name| most_specific(&on_port, name).is_some())
    }

    fn on_listener(&self, listener: &Owned<'_>, request: &Request) -> Answer {
        let mut best = None;
        for route in self.routes.iter().filter(|route| self.attaches(route, listener)) {
            let matching: Vec<&str> = route
                .hostnames
                .iter()
                .copied()
                .filter(|name| {
                    specificity(name, request.host).is_some() && meet(name, listener.listener.hostname)
                })
                .collect();
            if matching.is_empty() && !route.hostnames.is_empty() {
                continue;
            }
            let longest = |wild: bool| {
                let all = matching.iter().filter(|name| wild || !name.starts_with('*'));
                all.map(|name| name.len()).max().unwrap_or(0)
            };
            let default = [Match::default()];
            for (rule, given) in route.rules.iter().enumerate() {
                let matches = if given.matches.is_empty() { &default } else { given.matches.as_slice() };
                for (alternative, one) in
                    matches.iter().enumerate().filter(|(_, one)| one.holds(route, request))
                {
                    let order = (
                        Reverse((longest(false), longest(true))),
                        one.order(route),
                        (route.created, format!("{}/{}", route.namespace, route.name)),
                        (rule, alternative),
                    );
                    if best.as_ref().is_none_or(|(known, _)| order < *known) {
                        best = Some((order, route));
                    }
                }
            }
        }
        let Some(((_, _, (_, name), (rule, alternative)), route)) = best else {
            return Answer::NotFound;
        };
        let backends = route.rules[rule].backends.iter();
        Answer::Rule {
            route: format!("{}/{name}", route.kind.to_lowercase()),
            rule,
            alternative,
            listener: listener.path(),
            backends: backends.map(|backend| (backend.weight, self.is_valid(route, backend))).collect(),
        }
    }

    /// The Gateway's own listeners, then those of its sets by age, then by name. Of two that are not distinct the first
    /// stays.
    fn listeners<'a>(&'a self, gateway: &'a Gateway) -> Vec<Owned<'a>> {
        let (kind, namespace) = ("Gateway", gateway.namespace);
        let own = |listener| Owned { listener, kind, namespace, name: &gateway.name };
        let mut all: Vec<Owned<'a>> = gateway.listeners.iter().map(own).collect();
        let mut sets: Vec<&Set> =
            self.sets.iter().filter(|set| self.gateway_of(set).is_some_and(|of| of.is(gateway))).collect();
        sets.sort_by_key(|set| (set.created, format!("{}/{}", set.namespace, set.name)));
        for set in sets {
            for listener in &set.listeners {
                let is_taken = all.iter().any(|other| {
                    other.listener.port == listener.port && other.listener.hostname == listener.hostname
                });
                if !is_taken {
                    let (kind, namespace) = ("ListenerSet", set.namespace);
                    all.push(Owned { listener, kind, namespace, name: &set.name });
                }
            }
        }
        all
    }

    /// The Gateway that takes a set.
    fn gateway_of(&self, set: &Set) -> Option<&Gateway> {
        let named = |gateway: &&Gateway| (gateway.namespace, &gateway.name) == (set.parent.0, &set.parent.1);
        let gateway = self.gateways.iter().find(named)?;
        self.allows(gateway.allowed_sets, gateway.namespace, set.namespace).then_some(gateway)
    }

    fn allows(&self, from: From, own: &str, other: &str) -> bool {
        match from {
            From::All => true,
            From::Same => own == other,
            From::Team(team) => self.namespaces.contains(&(
                self.namespaces.iter().map(|(name, _)| *name).find(|name| *name == other).unwrap_or_default(),
                team,
            )),
            From::None => false,
        }
    }

    fn attaches(&self, route: &Route, to: &Owned<'_>) -> bool {
        let listener = to.listener;
        let is_named = |parent: &&Parent| {
            parent.kind == to.kind
                && parent.namespace.unwrap_or(route.namespace) == to.namespace
                && parent.name == to.name
                && parent.section.as_ref().is_none_or(|section| *section == listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
        };
        route.parents.iter().any(|parent| is_named(&parent))
            && (listener.kinds.is_empty() || listener.kinds.contains(&route.kind))
            && self.allows(listener.from, to.namespace, route.namespace)
            && (route.hostnames.is_empty()
                || route.hostnames.iter().any(|name| meet(name, listener.hostname)))
    }

    fn is_valid(&self, route: &Route, backend: &Backend) -> bool {
        let namespace = backend.namespace.unwrap_or(route.namespace);
        let is_granted = namespace == route.namespace
            || self.grants.iter().any(|grant| {
                grant.namespace == namespace
                    && grant.from == (route.kind, route.namespace)
                    && grant.to.is_none_or(|name| name == backend.name)
            });
        backend.kind == "Service"
            && is_granted
            && backend.port == Some(80)
            && self.services.contains(&(namespace, backend.name))
    }
}

impl Gateway {
    fn is(&self, other: &Gateway) -> bool {
        (self.namespace, &self.name) == (other.namespace, &other.name)
    }
}

impl Owned<'_> {
    fn path(&self) -> String {
        match self.kind {
            "Gateway" => self.listener.name.clone(),
            _ => format!("{}/{}/{}", self.namespace, self.name, self.listener.name),
        }
    }
}

/// What goes first among matches that hold, of one kind of route.
type MatchOrder = (bool, Reverse<usize>, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>);

impl Match {
    fn holds(&self, route: &Route, request: &Request) -> bool {
        let carries = |name: &str, value: &str| {
            request.headers.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && *v == value)
        };
        let headers = self.distinct_headers().iter().all(|(name, value)| carries(name, value));
        if route.kind == "GRPCRoute" {
            let parts: Vec<&str> = request.path.split('/').collect();
            let (service, method) = (parts.get(1).copied(), parts.get(2).copied());
            return headers
                && self.call.0.is_none_or(|wanted| Some(wanted) == service)
                && self.call.1.is_none_or(|wanted| Some(wanted) == method);
        }
        let path = match &self.path {
            None => true,
            Some((true, path)) => request.path == *path,
            // "A path element refers to the list of labels in the path split by the `/` separator."
            Some((false, path)) => {
                let wanted: Vec<&str> = path.split('/').filter(|element| !element.is_empty()).collect();
                let got: Vec<&str> = request.path.split('/').filter(|element| !element.is_empty()).collect();
                got.starts_with(&wanted)
            }
        };
        path && headers
            && self.method.is_none_or(|method| method == request.method)
            && self.query.iter().all(|(name, value)| {
                request.query.iter().find(|(n, _)| n == name).is_some_and(|(_, v)| v == value)
            })
    }

    /// "If multiple entries specify equivalent header names, only the first entry with an equivalent name MUST be
    /// considered for a match", in any case of letters.
    fn distinct_headers(&self) -> Vec<(&'static str, &'static str)> {
        let all = self.headers.iter().enumerate();
        all.filter(|(at, (name, _))| {
            self.headers[..*at].iter().all(|(other, _)| !other.eq_ignore_ascii_case(name))
        })
        .map(|(_, header)| *header)
        .collect()
    }

    fn order(&self, route: &Route) -> MatchOrder {
        let headers = Reverse(self.distinct_headers().len());
        if route.kind == "GRPCRoute" {
            let length = |name: Option<&str>| Reverse(name.map_or(0, str::len));
            return (false, length(self.call.0), length(self.call.1), false, headers, Reverse(0));
        }
        let (is_exact, length) = match &self.path {
            Some((is_exact, path)) => (*is_exact, path.len()),
            None => (false, 1),
        };
        let length = if is_exact { 0 } else { length };
        (!is_exact, Reverse(length), Reverse(0), self.method.is_none(), headers, Reverse(self.query.len()))
    }
}

/// Of the listeners that match the host the one with the most specific hostname.
fn most_specific<'o, 'a>(listeners: &[&'o Owned<'a>], host: &str) -> Option<&'o Owned<'a>> {
    let matching = listeners.iter().filter(|owned| specificity(owned.listener.hostname, host).is_some());
    matching.copied().max_by_key(|owned| specificity(owned.listener.hostname, host))
}

/// `None`: no match. Exact before wildcard before any; of wildcards the longer.
fn specificity(hostname: &str, host: &str) -> Option<(u8, usize)> {
    match hostname.strip_prefix('*') {
        _ if hostname.is_empty() => Some((0, 0)),
        Some(suffix) if host.ends_with(suffix) && host.len() > suffix.len() => Some((1, suffix.len())),
        None if hostname == host => Some((2, 0)),
        _ => None,
    }
}

/// Whether some host matches both names.
fn meet(a: &str, b: &str) -> bool {
    let covers = |wide: &str, narrow: &str| match wide.strip_prefix('*') {
        _ if wide.is_empty() => true,
        Some(suffix) => narrow.ends_with(suffix),
        None => wide == narrow,
    };
    covers(a, b) || covers(b, a)
}
