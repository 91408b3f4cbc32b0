//! Resources, statuses and diagnostics as a person reads them, for goldens.

use serde_json::{Value, json};
use weir_api::condition::Condition;
use weir_core::{Diagnostic, Status};
use weir_model::resource::{
    Body, Filter, FilterKind, HeaderModifier, HttpMatch, HttpRule, PathKind, PathModifier, Resource,
    ValueMatch, WeightedBackend,
};

pub(crate) fn resource(resource: &Resource) -> Value {
    match resource.body.as_ref().expect("a body") {
        Body::Listener(listener) => {
            let host = if listener.hostname.is_empty() { "any host" } else { &listener.hostname };
            json!(format!(
                "{:?} on {} port {}, {host}, of Gateway {} listener {}",
                listener.protocol(),
                listener.address,
                listener.port,
                listener.gateway,
                listener.section
            ))
        }
        Body::HttpRoute(route) => {
            let mut out = json!({});
            if !route.uid.is_empty() {
                out["uid"] = json!(route.uid);
            }
            out["created"] = json!(route.created_seconds);
            out["attachments"] = route
                .attachments
                .iter()
                .map(|a| json!(format!("{}: {}", a.listener_key, hosts(&a.hostnames))))
                .collect();
            out["rules"] = route.rules.iter().map(rule).collect();
            out
        }
        Body::Backend(backend) => json!(format!(
            "{:?} to Service {}/{} port {}",
            backend.protocol(),
            backend.namespace,
            backend.service,
            backend.port
        )),
        Body::Endpoints(endpoints) => endpoints
            .endpoints
            .iter()
            .map(|e| {
                let host =
                    if e.address.contains(':') { format!("[{}]", e.address) } else { e.address.clone() };
                json!(format!("{host}:{}", e.port))
            })
            .collect(),
        // A certificate's `Debug` form leaves its key out.
        body @ (Body::L4Route(_) | Body::Certificate(_) | Body::CaBundle(_)) => json!(format!("{body:?}")),
    }
}

fn hosts(names: &[String]) -> String {
    names.iter().map(|n| if n.is_empty() { "any host" } else { n }).collect::<Vec<_>>().join(", ")
}

fn rule(rule: &HttpRule) -> Value {
    let mut out = json!({});
    if !rule.name.is_empty() {
        out["name"] = json!(rule.name);
    }
    out["split"] = json!(rule.split_identity);
    out["matches"] = rule.matches.iter().map(|m| json!(one_match(m))).collect();
    if !rule.filters.is_empty() {
        out["filters"] = filters(&rule.filters);
    }
    out["backends"] = rule.backends.iter().map(backend).collect();
    for (name, ms) in [
        ("requestTimeoutMs", rule.request_timeout_ms),
        ("backendRequestTimeoutMs", rule.backend_request_timeout_ms),
    ] {
        if ms > 0 {
            out[name] = json!(ms);
        }
    }
    if rule.strip_path {
        out["stripPath"] = json!(true);
    }
    out
}

fn one_match(one: &HttpMatch) -> String {
    let path = match one.path_kind() {
        PathKind::Prefix => "prefix",
        PathKind::Exact => "exact",
        PathKind::RegularExpression => "regex",
        PathKind::GrpcMethod => "gRPC method",
    };
    let mut text = format!("{path} {}", one.path);
    if !one.method.is_empty() {
        text = format!("{} {text}", one.method);
    }
    let mut value = |kind: &str, v: &ValueMatch| {
        let op = if v.regex { "~" } else { "=" };
        text.push_str(&format!(" {kind} {}{op}{}", v.name, v.value));
    };
    one.headers.iter().for_each(|v| value("header", v));
    one.query.iter().for_each(|v| value("query", v));
    text
}

fn backend(backend: &WeightedBackend) -> Value {
    let invalid = if backend.invalid_reason.is_empty() {
        String::new()
    } else {
        format!(" INVALID {}", backend.invalid_reason)
    };
    let text = format!("{} x {}{invalid}", backend.weight, backend.backend_key);
    if backend.filters.is_empty() { json!(text) } else { json!({text: filters(&backend.filters)}) }
}

fn filters(all: &[Filter]) -> Value {
    all.iter()
        .map(|filter| match filter.kind.as_ref().expect("a kind") {
            FilterKind::RequestHeaderModifier(m) => json!(format!("request headers:{}", modifier(m))),
            FilterKind::ResponseHeaderModifier(m) => json!(format!("response headers:{}", modifier(m))),
            FilterKind::RequestRedirect(r) => json!(format!(
                "redirect {} scheme={} hostname={} port={}{}",
                r.status,
                r.scheme,
                r.hostname,
                r.port,
                path(r.path.as_ref())
            )),
            FilterKind::UrlRewrite(r) => {
                json!(format!("rewrite hostname={}{}", r.hostname, path(r.path.as_ref())))
            }
            FilterKind::RequestMirror(_)
            | FilterKind::Cors(_)
            | FilterKind::ExternalAuth(_)
            | FilterKind::Invalid(_) => json!(format!("{filter:?}")),
        })
        .collect()
}

fn path(modifier: Option<&PathModifier>) -> String {
    modifier.map_or(String::new(), |p| format!(" {}={}", if p.prefix { "prefix" } else { "path" }, p.value))
}

fn modifier(modifier: &HeaderModifier) -> String {
    let mut text = String::new();
    modifier.set.iter().for_each(|h| text.push_str(&format!(" set {}={}", h.name, h.value)));
    modifier.add.iter().for_each(|h| text.push_str(&format!(" add {}={}", h.name, h.value)));
    modifier.remove.iter().for_each(|name| text.push_str(&format!(" remove {name}")));
    text
}

pub(crate) fn status(status: &Status) -> Value {
    match status {
        Status::GatewayClass(status) => conditions(&status.conditions),
        Status::GatewayConfiguration(status) => conditions(&status.conditions),
        Status::Gateway(status) => {
            let mut out = json!({});
            if !status.addresses.is_empty() {
                out["addresses"] =
                    status.addresses.iter().map(|a| json!(format!("{} {}", a.type_, a.value))).collect();
            }
            out["conditions"] = conditions(&status.conditions);
            for listener in &status.listeners {
                let kinds: Vec<&str> = listener.supported_kinds.iter().map(|k| k.kind.as_str()).collect();
                out[format!("listener {}", listener.name)] = json!({
                    "kinds": kinds,
                    "attachedRoutes": listener.attached_routes,
                    "conditions": conditions(&listener.conditions),
                });
            }
            out
        }
        Status::HttpRoute(parents) => parents
            .iter()
            .map(|parent| {
                json!({
                    "parentRef": serde_json::to_value(&parent.parent_ref).expect("JSON"),
                    "controllerName": parent.controller_name,
                    "conditions": conditions(&parent.conditions),
                })
            })
            .collect(),
    }
}

fn conditions(all: &[Condition]) -> Value {
    all.iter()
        .map(|c| {
            json!(format!("{}={} {} @{}: {}", c.type_, c.status, c.reason, c.observed_generation, c.message))
        })
        .collect()
}

pub(crate) fn diagnostic(diagnostic: &Diagnostic) -> Value {
    json!(format!(
        "{:?} {} {}: {}: {}",
        diagnostic.severity, diagnostic.object, diagnostic.field, diagnostic.reason, diagnostic.message
    ))
}
