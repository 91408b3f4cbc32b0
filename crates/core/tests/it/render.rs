//! Resources, statuses and diagnostics as a person reads them, for goldens.

use serde_json::{Value, json};
use weir_api::condition::Condition;
use weir_api::gateway_api::ListenerStatus;
use weir_core::{Diagnostic, Status};
use weir_model::resource::{
    Attachment, Backend, BackendTls, Body, Filter, FilterKind, HeaderModifier, HttpMatch, HttpRule,
    LimitSetting, Listener, PathKind, PathModifier, Resource, SessionPersistence, ValueMatch,
    WeightedBackend,
};

pub(crate) fn resource(resource: &Resource) -> Value {
    match resource.body.as_ref().expect("a body") {
        Body::Listener(l) => listener(l),
        Body::HttpRoute(route) => {
            let mut out = json!({});
            if !route.uid.is_empty() {
                out["uid"] = json!(route.uid);
            }
            out["created"] = json!(route.created_seconds);
            out["attachments"] = attachments(&route.attachments);
            out["rules"] = route.rules.iter().map(rule).collect();
            out
        }
        Body::L4Route(route) => {
            let mut out = json!({"created": route.created_seconds, "split": route.split_identity});
            if !route.rule_name.is_empty() {
                out["name"] = json!(route.rule_name);
            }
            out["attachments"] = attachments(&route.attachments);
            out["backends"] = route.backends.iter().map(backend).collect();
            out
        }
        Body::Certificate(certificate) => {
            assert!(certificate.chain.starts_with(b"-----BEGIN") && !certificate.private_key.is_empty());
            json!("a chain and its key")
        }
        Body::CaBundle(bundle) => {
            assert!(bundle.certificates.starts_with(b"-----BEGIN"));
            json!("authorities")
        }
        Body::SessionKey(key) => {
            assert_eq!(key.bytes.len(), 32);
            json!("a session key")
        }
        Body::Backend(backend) => of_backend(backend),
        Body::Endpoints(endpoints) => endpoints
            .endpoints
            .iter()
            .map(|e| {
                let host =
                    if e.address.contains(':') { format!("[{}]", e.address) } else { e.address.clone() };
                json!(format!("{host}:{}", e.port))
            })
            .collect(),
    }
}

fn listener(listener: &Listener) -> Value {
    let host = if listener.hostname.is_empty() { "any host" } else { &listener.hostname };
    let mut text = format!(
        "{:?} on {} port {}, {host}, of Gateway {} listener {}",
        listener.protocol(),
        listener.address,
        listener.port,
        listener.gateway,
        listener.section
    );
    if let Some(tls) = &listener.tls {
        if tls.passthrough {
            text.push_str("; passthrough");
        } else {
            text.push_str(&format!("; shows [{}]", tls.certificates.join(", ")));
        }
        if let Some(validation) = &tls.client_validation {
            let bundles = validation.ca_bundles.join(", ");
            text.push_str(&format!("; clients by [{bundles}]"));
            if validation.insecure_fallback {
                text.push_str(" or any");
            }
        }
    }
    if !listener.backend_client_certificate.is_empty() {
        text.push_str(&format!("; to backends {}", listener.backend_client_certificate));
    }
    if let Some(parameters) = &listener.parameters {
        text.push_str(&format!("; {}", limits(&parameters.limits)));
        if let Some(trusted) = &parameters.trusted_proxies {
            text.push_str(&format!("; trusts [{}]", trusted.networks.join(", ")));
        }
        text.push_str(&format!("; access log {:?}", parameters.access_log()));
        if !parameters.session_keys.is_empty() {
            text.push_str(&format!("; sessions by [{}]", parameters.session_keys.join(", ")));
        }
    }
    json!(text)
}

fn attachments(all: &[Attachment]) -> Value {
    all.iter().map(|a| json!(format!("{}: {}", a.listener_key, hosts(&a.hostnames)))).collect()
}

fn of_backend(backend: &Backend) -> Value {
    let mut text = format!(
        "{:?} to Service {}/{} port {}",
        backend.protocol(),
        backend.namespace,
        backend.service,
        backend.port
    );
    if let Some(BackendTls { hostname, ca_bundles, system_authorities, subject_alt_names, invalid_reason }) =
        &backend.tls
    {
        text.push_str(&format!("; TLS as {hostname} by [{}]", ca_bundles.join(", ")));
        if *system_authorities {
            text.push_str(" and the system's");
        }
        for name in subject_alt_names {
            text.push_str(&format!(" {}={}", if name.uri { "uri" } else { "dns" }, name.value));
        }
        if !invalid_reason.is_empty() {
            text.push_str(&format!(" INVALID {invalid_reason}"));
        }
    }
    if let Some(one) = &backend.session_persistence {
        text.push_str(&format!("; {}", session(one)));
    }
    if let Some(budget) = &backend.retry_budget {
        text.push_str(&format!(
            "; retries {}% of {} ms, at least {} in {} ms",
            budget.percent, budget.interval_ms, budget.min_retry_count, budget.min_retry_interval_ms
        ));
    }
    if !backend.limits.is_empty() {
        text.push_str(&format!("; {}", limits(&backend.limits)));
    }
    json!(text)
}

fn limits(settings: &[LimitSetting]) -> String {
    let each: Vec<String> = settings.iter().map(|one| format!("{}={}", one.name, one.value)).collect();
    format!("limits [{}]", each.join(", "))
}

fn session(one: &SessionPersistence) -> String {
    format!(
        "session in {} {}{}, {} ms whole, {} ms idle",
        if one.header { "header" } else { "cookie" },
        one.name,
        if one.permanent { " (permanent)" } else { "" },
        one.absolute_timeout_ms,
        one.idle_timeout_ms
    )
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
            out[name] = if ms == u64::MAX { json!("none") } else { json!(ms) };
        }
    }
    if rule.strip_path {
        out["stripPath"] = json!(true);
    }
    if let Some(retry) = &rule.retry {
        out["retry"] =
            json!(format!("{} more on {:?} after {} ms", retry.attempts, retry.codes, retry.backoff_ms));
    }
    if let Some(one) = &rule.session_persistence {
        out["session"] = json!(session(one));
    }
    out
}

fn one_match(one: &HttpMatch) -> String {
    let path = match one.path_kind() {
        PathKind::Prefix => "prefix",
        PathKind::Exact => "exact",
        PathKind::RegularExpression => "regex",
        PathKind::GrpcMethod => "method",
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
            FilterKind::RequestMirror(m) => json!(format!(
                "mirror {} of {} to {} by {}",
                m.numerator, m.denominator, m.backend_key, m.split_identity
            )),
            FilterKind::Cors(c) => json!(format!(
                "cors {:?} methods {:?} headers {:?} exposes {:?} credentials {} for {} s",
                c.allow_origins,
                c.allow_methods,
                c.allow_headers,
                c.expose_headers,
                c.allow_credentials,
                c.max_age_seconds
            )),
            FilterKind::ExternalAuth(a) => json!(format!(
                "ask {} {}{} with {:?} taking {:?} and {} bytes{}",
                if a.grpc { "grpc" } else { "http" },
                a.backend_key,
                a.path,
                a.allowed_request_headers,
                a.allowed_response_headers,
                a.max_body_bytes,
                if a.invalid_reason.is_empty() {
                    String::new()
                } else {
                    format!(" INVALID {}", a.invalid_reason)
                }
            )),
            FilterKind::Invalid(reason) => json!(format!("INVALID {reason}")),
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
        Status::GatewayParameters(status) => json!({
            "ancestors": serde_json::to_value(&status.ancestors).expect("JSON"),
            "conditions": conditions(&status.conditions),
        }),
        Status::Gateway(status) => {
            let mut out = json!({});
            if !status.addresses.is_empty() {
                out["addresses"] =
                    status.addresses.iter().map(|a| json!(format!("{} {}", a.type_, a.value))).collect();
            }
            out["conditions"] = conditions(&status.conditions);
            if let Some(count) = status.attached_listener_sets {
                out["attachedListenerSets"] = json!(count);
            }
            listeners(&mut out, &status.listeners);
            out
        }
        Status::ListenerSet(status) => {
            let mut out = json!({"conditions": conditions(&status.conditions)});
            listeners(&mut out, &status.listeners);
            out
        }
        Status::Policy(ancestors) => ancestors
            .iter()
            .map(|ancestor| {
                json!({
                    "ancestorRef": serde_json::to_value(&ancestor.ancestor_ref).expect("JSON"),
                    "controllerName": ancestor.controller_name,
                    "conditions": conditions(&ancestor.conditions),
                })
            })
            .collect(),
        Status::Route(parents) => parents
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

fn listeners(out: &mut Value, all: &[ListenerStatus]) {
    for listener in all {
        let kinds: Vec<&str> = listener.supported_kinds.iter().map(|k| k.kind.as_str()).collect();
        out[format!("listener {}", listener.name)] = json!({
            "kinds": kinds,
            "attachedRoutes": listener.attached_routes,
            "conditions": conditions(&listener.conditions),
        });
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
