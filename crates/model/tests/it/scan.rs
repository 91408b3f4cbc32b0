//! Selection written down from the API's text: every listener, every route, every match, and the order between them.

use std::cmp::Reverse;

use weir_model::resource::{
    Body, HttpMatch, HttpRoute, Listener, ListenerProtocol, PathKind, Resource, ValueMatch,
};
use weir_model::table::Transport;

use crate::world::{Answer, Request};

/// The API's text, word by word, over everything there is.
pub(crate) fn scan(resources: &[Resource], request: &Request) -> Answer {
    let on_bind = listeners(resources, request);
    let host = comparable(request.host);
    let plain = |listener: &&Listener| listener.protocol() == ListenerProtocol::Http;
    if !on_bind.iter().any(is_tls) {
        let serving = most_specific(on_bind.into_iter().filter(plain).collect(), &host);
        return in_listeners(resources, &serving, request, &host).unwrap_or(Answer::NotFound);
    }
    let all: Vec<&Listener> = on_bind.into_iter().filter(is_tls).collect();
    let current = most_specific(all.clone(), &comparable(request.server_name.unwrap_or_default()));
    let of_current = current.iter().find_map(|listener| specificity(&listener.hostname, &host));
    // "If another Listener has an exact match or more specific wildcard entry", and "if the current Listener does not match the
    // Host" and "another Listener does match the Host": `None` is less than any match.
    if all.iter().any(|listener| specificity(&listener.hostname, &host) > of_current) {
        return Answer::Misdirected;
    }
    let rule = of_current.and_then(|_| in_listeners(resources, &current, request, &host));
    rule.unwrap_or(Answer::NotFound)
}

fn comparable(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn is_tls(listener: &&Listener) -> bool {
    matches!(listener.protocol(), ListenerProtocol::Https | ListenerProtocol::Tls)
}

fn listeners<'r>(resources: &'r [Resource], request: &Request) -> Vec<&'r Listener> {
    let all = resources.iter().filter_map(|resource| match &resource.body {
        Some(Body::Listener(listener)) => Some(listener),
        _ => None,
    });
    let udp = request.bind.transport == Transport::Udp;
    all.filter(|listener| {
        listener.address.parse() == Ok(request.bind.ip)
            && listener.port == u32::from(request.bind.port)
            && (listener.protocol() == ListenerProtocol::Udp) == udp
    })
    .collect()
}

/// Those whose hostname is the most specific that matches.
fn most_specific<'r>(listeners: Vec<&'r Listener>, host: &str) -> Vec<&'r Listener> {
    let of = |listener: &Listener| specificity(&listener.hostname, host);
    let best = listeners.iter().filter_map(|listener| of(listener)).max();
    listeners.into_iter().filter(|listener| best.is_some() && of(listener) == best).collect()
}

/// Kind and name of the route that gets a connection, and the listener.
pub(crate) fn scan_connection(resources: &[Resource], request: &Request) -> Option<(String, String)> {
    let on_bind = listeners(resources, request);
    let name = comparable(request.server_name.unwrap_or_default());
    let (serving, name) = if on_bind.iter().any(is_tls) {
        (most_specific(on_bind.into_iter().filter(is_tls).collect(), &name), name)
    } else if on_bind.iter().any(|listener| listener.protocol() == ListenerProtocol::Http) {
        return None;
    } else {
        (on_bind, String::new())
    };
    let mut best = None;
    for resource in resources {
        let Some(Body::L4Route(route)) = &resource.body else { continue };
        let kinds = ["tlsroute", "tcproute", "udproute"];
        let kind = kinds.iter().position(|kind| route.key.starts_with(kind)).unwrap();
        for attachment in &route.attachments {
            let Some(listener) = serving.iter().find(|listener| listener.key == attachment.listener_key)
            else {
                continue;
            };
            if listener.protocol() == ListenerProtocol::Https
                || (kind == 2) != (listener.protocol() == ListenerProtocol::Udp)
            {
                continue;
            }
            let matching = attachment.hostnames.iter().filter_map(|hostname| specificity(hostname, &name));
            let Some(hostname) = matching.max() else { continue };
            let id = format!("{}/{}", route.namespace, route.name);
            let order = (Reverse(hostname), route.created_seconds, id, kind, attachment.listener_key.clone());
            if best.as_ref().is_none_or(|best| order < *best) {
                best = Some(order);
            }
        }
    }
    best.map(|(_, _, id, kind, listener)| {
        (format!("{}/{id}", ["tlsroute", "tcproute", "udproute"][kind]), listener)
    })
}

fn in_listeners(
    resources: &[Resource],
    serving: &[&Listener],
    request: &Request,
    host: &str,
) -> Option<Answer> {
    let in_group = |key: &str| {
        serving.iter().any(|listener| listener.key == key && listener.protocol() != ListenerProtocol::Tls)
    };
    let mut best = None;
    for resource in resources {
        let Some(Body::HttpRoute(route)) = &resource.body else { continue };
        let is_grpc = route.key.starts_with("grpcroute/");
        for attachment in route.attachments.iter().filter(|attachment| in_group(&attachment.listener_key)) {
            let Some(hostname) = attachment.hostnames.iter().filter_map(|name| specificity(name, host)).max()
            else {
                continue;
            };
            for (rule, alternative, matched) in alternatives(route) {
                if !holds(matched, request) {
                    continue;
                }
                let order = (
                    Reverse(hostname),
                    path_order(matched),
                    matched.method.is_empty(),
                    Reverse(names(&matched.headers)),
                    Reverse(names(&matched.query)),
                    route.created_seconds,
                    format!("{}/{}", route.namespace, route.name),
                    is_grpc,
                    rule,
                    alternative,
                    attachment.listener_key.clone(),
                );
                if best.as_ref().is_none_or(|best| order < *best) {
                    best = Some(order);
                }
            }
        }
    }
    best.map(|(_, _, _, _, _, _, id, is_grpc, rule, alternative, listener)| {
        let kind = if is_grpc { "grpcroute" } else { "httproute" };
        Answer::Rule { route: format!("{kind}/{id}"), rule, alternative, listener }
    })
}

fn alternatives(route: &HttpRoute) -> impl Iterator<Item = (usize, usize, &HttpMatch)> {
    route.rules.iter().enumerate().flat_map(|(rule, source)| {
        source.matches.iter().enumerate().map(move |(alternative, matched)| (rule, alternative, matched))
    })
}

/// Exact before wildcard before any; longer before shorter.
fn specificity(hostname: &str, host: &str) -> Option<(u8, usize)> {
    let literal = host.is_empty() || host.parse::<std::net::IpAddr>().is_ok();
    match hostname.strip_prefix('*') {
        _ if hostname.is_empty() => Some((0, 0)),
        _ if literal => None,
        Some(suffix) => (host.ends_with(suffix) && host.len() > suffix.len()).then_some((1, suffix.len())),
        None => (hostname == host).then_some((2, hostname.len())),
    }
}

fn path_order(matched: &HttpMatch) -> (u8, Reverse<usize>) {
    match matched.path_kind() {
        PathKind::Exact => (0, Reverse(0)),
        PathKind::RegularExpression => (1, Reverse(matched.path.len())),
        PathKind::Prefix => match matched.path.trim_end_matches('/').len() {
            0 => (4, Reverse(0)),
            length => (2, Reverse(length)),
        },
        PathKind::GrpcMethod => (3, Reverse(0)),
    }
}

fn names(values: &[ValueMatch]) -> usize {
    first_of_each(values).count()
}

fn first_of_each(values: &[ValueMatch]) -> impl Iterator<Item = &ValueMatch> {
    values.iter().enumerate().filter(|(at, v)| values[..*at].iter().all(|o| o.name != v.name)).map(|(_, v)| v)
}

fn holds(matched: &HttpMatch, request: &Request) -> bool {
    let path = match matched.path_kind() {
        PathKind::Exact => request.path == matched.path,
        PathKind::RegularExpression => whole(&matched.path, &request.path),
        PathKind::Prefix => {
            let wanted: Vec<&str> = matched.path.trim_end_matches('/').split('/').collect();
            let got: Vec<&str> = request.path.split('/').collect();
            request.path.starts_with('/') && got.starts_with(&wanted)
        }
        PathKind::GrpcMethod => {
            let got: Vec<&str> = request.path.split('/').collect();
            got.len() == 3 && got[0].is_empty() && got[2] == matched.path
        }
    };
    path && (matched.method.is_empty() || matched.method == request.method)
        && first_of_each(&matched.headers).all(|condition| {
            let values: Vec<&str> = request
                .headers
                .iter()
                .filter(|(name, _)| name.to_ascii_lowercase() == condition.name)
                .map(|(_, value)| *value)
                .collect();
            !values.is_empty() && value_holds(condition, &values.join(","))
        })
        && first_of_each(&matched.query).all(|condition| {
            let query = request.query.clone().unwrap_or_default();
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (decoded(name), decoded(value)))
                .find(|(name, _)| *name == condition.name)
                .is_some_and(|(_, value)| value_holds(condition, &value))
        })
}

fn value_holds(condition: &ValueMatch, value: &str) -> bool {
    if condition.regex { whole(&condition.value, value) } else { condition.value == value }
}

fn decoded(text: &str) -> String {
    text.replace("%70", "p").replace("%31", "1").replace("%2C", ",")
}

/// Matches by hand what the few expressions of these worlds mean.
fn whole(pattern: &str, text: &str) -> bool {
    match pattern {
        "/a.*" => text.starts_with("/a"),
        "/[ab]+" => {
            text.len() > 1 && text.starts_with('/') && text[1..].bytes().all(|b| b == b'a' || b == b'b')
        }
        "/a/b?" => text == "/a/" || text == "/a/b",
        ".*" => true,
        ".+" => !text.is_empty(),
        "/ab|/a" => text == "/ab" || text == "/a",
        "/(a|b)/.*" => text.starts_with("/a/") || text.starts_with("/b/"),
        "/a/b" => text == "/a/b",
        "(?i)/A" => text == "/a" || text == "/A",
        "[12]" => text == "1" || text == "2",
        "1|2,1" => text == "1" || text == "2,1",
        other => panic!("{other} is not one of these worlds' expressions"),
    }
}
