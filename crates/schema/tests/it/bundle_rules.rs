//! Every CEL rule and every default of every version of every CRD in both channels, at every place where it stands, with
//! both outcomes: what it lets through and what it refuses; what is filled in and what is left alone.
//!
//! The schemas say which rules there are, so one that has no case here fails the test by its words.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use weir_schema::Structural;
use weir_schema::crds::{Channel, builtin};

/// A part of a schema with the place where it stands.
struct Place {
    /// Channel, kind, version and path.
    name: String,
    schema: Value,
}

fn places() -> Vec<Place> {
    fn below(schema: &Value, name: &str, out: &mut Vec<Place>) {
        out.push(Place { name: name.to_owned(), schema: schema.clone() });
        for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
            below(inner, &format!("{name}.{field}"), out);
        }
        for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
            if let Some(inner) = schema.get(key).filter(|inner| inner.is_object()) {
                below(inner, &format!("{name}{mark}"), out);
            }
        }
    }
    let mut all = Vec::new();
    for (channel, label) in [(Channel::Standard, "standard"), (Channel::Experimental, "experimental")] {
        for (_, crd) in builtin(channel).filter(|(file, _)| file.starts_with("gateway.networking")) {
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
            for version in crd["spec"]["versions"].as_array().unwrap() {
                let name = format!("{label} {kind}/{}", version["name"].as_str().unwrap());
                below(&version["schema"]["openAPIV3Schema"], &name, &mut all);
            }
        }
    }
    all
}

/// What a value of the place is told, after defaulting; `old` is what was stored.
fn told(place: &Place, old: Option<&Value>, value: &Value) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"part": place.schema}});
    let schema = Structural::compile(&schema).unwrap_or_else(|error| panic!("{}: {error}", place.name));
    let defaulted = |value: &Value| {
        let mut object = json!({"part": value});
        schema.default(&mut object);
        object
    };
    let errors = schema.validate(&defaulted(value), old.map(defaulted).as_ref());
    errors.into_iter().map(|error| error.to_string()).collect()
}

/// A rule's message with a value that it lets through and one that it refuses.
struct Case {
    message: &'static str,
    good: Value,
    bad: Value,
}

fn case(message: &'static str, good: Value, bad: Value) -> Case {
    Case { message, good, bad }
}

/// Where a rule cannot refuse anything because something else refuses it first.
fn cannot_refuse(place: &str, message: &str) -> Option<&'static str> {
    let of = |kinds: &[&str]| kinds.iter().any(|kind| place.contains(&format!(" {kind}/")));
    match message {
        "type must be one of ['Exact', 'PathPrefix', 'RegularExpression']" => {
            Some("the enumeration is judged first")
        }
        "Rule name must be unique within the route" if of(&["TCPRoute", "TLSRoute", "UDPRoute"]) => {
            Some("there is at most one rule")
        }
        _ => None,
    }
}

#[test]
fn every_rule_of_the_bundles_lets_through_and_refuses_wherever_it_stands() {
    let cases: Vec<Case> =
        [policies(), parents(), routes(), filters(), filter_parts(), paths(), gateways(), backends()]
            .into_iter()
            .flatten()
            .collect();
    let mut without_case = BTreeSet::new();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    let mut judged = 0;
    for place in places() {
        for rule in place.schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap();
            let Some(case) = cases.iter().find(|case| case.message == message) else {
                without_case.insert(message.to_owned());
                continue;
            };
            used.insert(case.message);
            judged += 1;
            // A transition rule compares with what was stored.
            let old = rule["rule"].as_str().unwrap().contains("oldSelf").then_some(&case.good);
            if cannot_refuse(&place.name, message).is_none() {
                let good = told(&place, old, &case.good);
                if !good.is_empty() {
                    wrong.push(format!("{} refuses {}: {good:?}", place.name, case.good));
                }
                let bad = told(&place, old, &case.bad);
                if !bad.iter().any(|error| error.contains(message)) {
                    wrong.push(format!(
                        "{} lets through {}, against {message:?}: {bad:?}",
                        place.name, case.bad
                    ));
                }
            } else {
                assert!(
                    !told(&place, old, &case.bad).is_empty(),
                    "{}: {message:?} has to be refused",
                    place.name
                );
            }
        }
    }
    assert!(without_case.is_empty(), "rules without a case: {without_case:#?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let idle: Vec<_> =
        cases.iter().map(|case| case.message).filter(|message| !used.contains(message)).collect();
    assert!(idle.is_empty(), "cases without a rule: {idle:?}");
    println!("{judged} rules at their places");
}

fn policies() -> Vec<Case> {
    let target =
        |section: Value| json!({"group": "", "kind": "Service", "name": "s", "sectionName": section});
    let plain = json!({"group": "", "kind": "Service", "name": "s"});
    let authority = json!([{"group": "", "kind": "ConfigMap", "name": "c"}]);
    let both =
        json!({"hostname": "a.b", "caCertificateRefs": authority, "wellKnownCACertificates": "System"});
    vec![
        case(
            "sectionName must be specified when targetRefs includes 2 or more references to the same target",
            json!([target(json!("a")), target(json!("b"))]),
            json!([target(json!("a")), plain]),
        ),
        case(
            "sectionName must be unique when targetRefs includes 2 or more references to the same target",
            json!([target(json!("a")), target(json!("b"))]),
            json!([target(json!("a")), target(json!("a"))]),
        ),
        case(
            "must not contain both CACertificateRefs and WellKnownCACertificates",
            json!({"hostname": "a.b", "caCertificateRefs": authority}),
            both,
        ),
        case(
            "must specify either CACertificateRefs or WellKnownCACertificates",
            json!({"hostname": "a.b", "wellKnownCACertificates": "System"}),
            json!({"hostname": "a.b"}),
        ),
        case(
            "SubjectAltName element must contain Hostname, if Type is set to Hostname",
            json!({"type": "Hostname", "hostname": "a.b"}),
            json!({"type": "Hostname"}),
        ),
        case(
            "SubjectAltName element must not contain Hostname, if Type is not set to Hostname",
            json!({"type": "URI", "uri": "a://b"}),
            json!({"type": "URI", "uri": "a://b", "hostname": "a.b"}),
        ),
        case(
            "SubjectAltName element must contain URI, if Type is set to URI",
            json!({"type": "URI", "uri": "a://b"}),
            json!({"type": "URI"}),
        ),
        case(
            "SubjectAltName element must not contain URI, if Type is not set to URI",
            json!({"type": "Hostname", "hostname": "a.b"}),
            json!({"type": "Hostname", "hostname": "a.b", "uri": "a://b"}),
        ),
        case("interval cannot be greater than one hour or less than one second", json!("1h"), json!("999ms")),
        case("interval cannot be greater than one hour", json!("1ms"), json!("1h1ms")),
        case(
            "AbsoluteTimeout must be specified when cookie lifetimeType is Permanent",
            json!({"cookieConfig": {"lifetimeType": "Permanent"}, "absoluteTimeout": "1h"}),
            json!({"cookieConfig": {"lifetimeType": "Permanent"}}),
        ),
        case(
            "cookieConfig can only be set with type Cookie",
            json!({"type": "Cookie", "cookieConfig": {}}),
            json!({"type": "Header", "cookieConfig": {}}),
        ),
    ]
}

fn parents() -> Vec<Case> {
    let with = |section: Option<&str>, port: Option<i32>| {
        let mut parent = json!({"name": "g"});
        if let Some(section) = section {
            parent["sectionName"] = json!(section);
        }
        if let Some(port) = port {
            parent["port"] = json!(port);
        }
        parent
    };
    let apart = json!([with(Some("a"), None), with(Some("b"), None), {"name": "h"}]);
    vec![
        case(
            "sectionName must be specified when parentRefs includes 2 or more references to the same parent",
            apart.clone(),
            json!([with(Some("a"), None), with(None, None)]),
        ),
        case(
            "sectionName must be unique when parentRefs includes 2 or more references to the same parent",
            apart.clone(),
            json!([with(Some("a"), None), with(Some("a"), None)]),
        ),
        case(
            "sectionName or port must be specified when parentRefs includes 2 or more references to the same parent",
            json!([with(None, Some(1)), with(None, Some(2))]),
            json!([with(None, Some(1)), with(None, None)]),
        ),
        case(
            "sectionName or port must be unique when parentRefs includes 2 or more references to the same parent",
            json!([with(Some("a"), Some(1)), with(Some("a"), Some(2))]),
            json!([with(Some("a"), Some(1)), with(Some("a"), Some(1))]),
        ),
    ]
}

fn routes() -> Vec<Case> {
    let rules = |counts: &[usize]| -> Value {
        counts.iter().map(|count| json!({"matches": vec![json!({}); *count]})).collect()
    };
    let named = |names: &[&str]| -> Value {
        let backends = json!([{"name": "s", "port": 80}]);
        names.iter().map(|name| json!({"name": name, "backendRefs": backends})).collect()
    };
    vec![
        case(
            "While 16 rules and 64 matches per rule are allowed, the total number of matches across all rules in a \
             route must be less than 128",
            rules(&[64, 64]),
            rules(&[64, 64, 1]),
        ),
        case("Rule name must be unique within the route", named(&["a", "b"]), named(&["a", "a"])),
        case("Must have port for Service reference", json!({"name": "s", "port": 80}), json!({"name": "s"})),
        case(
            "One or both of 'service' or 'method' must be specified",
            json!({"service": "s"}),
            json!({"type": "Exact"}),
        ),
        case(
            r"service must only contain valid characters (matching ^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$)",
            json!({"service": "Foo.v1.Bar"}),
            json!({"service": "foo-bar"}),
        ),
        case(
            "method must only contain valid characters (matching ^[A-Za-z_][A-Za-z_0-9]*$)",
            json!({"type": "RegularExpression", "method": "a-.*"}),
            json!({"method": "a-b"}),
        ),
        case(
            "backendRequest timeout cannot be longer than request timeout",
            json!({"request": "0s", "backendRequest": "1s"}),
            json!({"request": "1s", "backendRequest": "1001ms"}),
        ),
        case("Hostnames cannot contain an IP", json!(["a.example.com"]), json!(["1.2.3.4"])),
        case("Hostnames must be valid based on RFC-1123", json!(["a.example.com"]), json!(["a..b"])),
        case(
            "Wildcards on hostnames must be the first label, and the rest of hostname must be valid based on RFC-1123",
            json!(["*.example.com"]),
            json!(["a.*.com"]),
        ),
        case("Value is immutable", json!("a.example/b"), json!("a.example/c")),
    ]
}

/// A filter of each type that is whole.
fn whole(type_: &str) -> Value {
    let modifier = json!({"set": [{"name": "a", "value": "b"}]});
    let (field, body) = match type_ {
        "RequestHeaderModifier" => ("requestHeaderModifier", modifier),
        "ResponseHeaderModifier" => ("responseHeaderModifier", modifier),
        "RequestMirror" => ("requestMirror", json!({"backendRef": {"name": "s", "port": 80}})),
        "RequestRedirect" => ("requestRedirect", json!({})),
        "URLRewrite" => ("urlRewrite", json!({})),
        "CORS" => ("cors", json!({})),
        "ExternalAuth" => {
            ("externalAuth", json!({"protocol": "HTTP", "http": {}, "backendRef": {"name": "s", "port": 80}}))
        }
        _ => ("extensionRef", json!({"group": "g", "kind": "K", "name": "n"})),
    };
    json!({"type": type_, field: body})
}

/// One filter with the part of another beside its own.
fn beside(type_: &str, other: &str) -> Value {
    let mut filter = whole(other);
    let own = whole(type_);
    for (name, value) in own.as_object().unwrap() {
        filter[name] = value.clone();
    }
    filter
}

fn filters() -> Vec<Case> {
    let twice = |type_: &str| json!([whole(type_), whole(type_)]);
    let once = |type_: &str| json!([whole(type_)]);
    let alone = |type_: &str| json!({"type": type_});
    let (mut all, host) = (Vec::new(), "RequestMirror");
    let of = [
        (
            "RequestHeaderModifier",
            "filter.requestHeaderModifier must be nil if the filter.type is not RequestHeaderModifier",
            "filter.requestHeaderModifier must be specified for RequestHeaderModifier filter.type",
            Some("RequestHeaderModifier filter cannot be repeated"),
        ),
        (
            "ResponseHeaderModifier",
            "filter.responseHeaderModifier must be nil if the filter.type is not ResponseHeaderModifier",
            "filter.responseHeaderModifier must be specified for ResponseHeaderModifier filter.type",
            Some("ResponseHeaderModifier filter cannot be repeated"),
        ),
        (
            "RequestMirror",
            "filter.requestMirror must be nil if the filter.type is not RequestMirror",
            "filter.requestMirror must be specified for RequestMirror filter.type",
            None,
        ),
        (
            "ExtensionRef",
            "filter.extensionRef must be nil if the filter.type is not ExtensionRef",
            "filter.extensionRef must be specified for ExtensionRef filter.type",
            None,
        ),
        (
            "CORS",
            "filter.cors must be nil if the filter.type is not CORS",
            "filter.cors must be specified for CORS filter.type",
            Some("CORS filter cannot be repeated"),
        ),
        (
            "RequestRedirect",
            "filter.requestRedirect must be nil if the filter.type is not RequestRedirect",
            "filter.requestRedirect must be specified for RequestRedirect filter.type",
            Some("RequestRedirect filter cannot be repeated"),
        ),
        (
            "URLRewrite",
            "filter.urlRewrite must be nil if the filter.type is not URLRewrite",
            "filter.urlRewrite must be specified for URLRewrite filter.type",
            Some("URLRewrite filter cannot be repeated"),
        ),
        (
            "ExternalAuth",
            "filter.externalAuth must be nil if the filter.type is not ExternalAuth",
            "filter.externalAuth must be specified for ExternalAuth filter.type",
            None,
        ),
    ];
    for (type_, nil, specified, repeated) in of {
        let host = if type_ == host { "ExtensionRef" } else { host };
        all.push(case(nil, whole(host), beside(host, type_)));
        all.push(case(specified, whole(type_), alone(type_)));
        all.extend(repeated.map(|message| case(message, once(type_), twice(type_))));
    }
    all.push(case(
        "May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both",
        json!([whole("URLRewrite"), whole("CORS")]),
        json!([whole("URLRewrite"), whole("RequestRedirect")]),
    ));
    all
}

fn filter_parts() -> Vec<Case> {
    let mirror = |rest: Value| {
        let mut all = json!({"backendRef": {"name": "s", "port": 80}});
        rest.as_object().unwrap().iter().for_each(|(name, value)| all[name] = value.clone());
        all
    };
    let auth = |protocol: &str, parts: &[&str]| {
        let mut all = json!({"protocol": protocol, "backendRef": {"name": "s", "port": 80}});
        parts.iter().for_each(|part| all[*part] = json!({}));
        all
    };
    let prefix = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/a"});
    let full = json!({"type": "ReplaceFullPath", "replaceFullPath": "/a"});
    let redirect = json!([{"type": "RequestRedirect", "requestRedirect": {"path": prefix}}]);
    let rewrite = json!([{"type": "URLRewrite", "urlRewrite": {"path": prefix}}]);
    let exact = json!([{"path": {"type": "Exact", "value": "/"}}]);
    let in_backend = |filters: &Value| json!([{"name": "s", "port": 80, "filters": filters}]);
    vec![
        case(
            "Only one of percent or fraction may be specified in HTTPRequestMirrorFilter",
            mirror(json!({"percent": 1})),
            mirror(json!({"percent": 1, "fraction": {"numerator": 1}})),
        ),
        case(
            "numerator must be less than or equal to denominator",
            json!({"numerator": 100}),
            json!({"numerator": 101}),
        ),
        case("AllowHeaders cannot contain '*' alongside other methods", json!(["*"]), json!(["*", "a"])),
        case("AllowMethods cannot contain '*' alongside other methods", json!(["*"]), json!(["*", "GET"])),
        case(
            "AllowOrigins cannot contain '*' alongside other origins",
            json!(["*"]),
            json!(["*", "http://a.b"]),
        ),
        case(
            "grpc must be specified when protocol is set to 'GRPC'",
            auth("GRPC", &["grpc"]),
            auth("GRPC", &[]),
        ),
        case(
            "protocol must be 'GRPC' when grpc is set",
            auth("HTTP", &["http"]),
            auth("HTTP", &["http", "grpc"]),
        ),
        case(
            "http must be specified when protocol is set to 'HTTP'",
            auth("HTTP", &["http"]),
            auth("HTTP", &[]),
        ),
        case(
            "protocol must be 'HTTP' when http is set",
            auth("GRPC", &["grpc"]),
            auth("GRPC", &["http", "grpc"]),
        ),
        case(
            "replaceFullPath must be specified when type is set to 'ReplaceFullPath'",
            full.clone(),
            json!({"type": "ReplaceFullPath"}),
        ),
        case(
            "type must be 'ReplaceFullPath' when replaceFullPath is set",
            prefix.clone(),
            json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/", "replaceFullPath": "/"}),
        ),
        case(
            "replacePrefixMatch must be specified when type is set to 'ReplacePrefixMatch'",
            prefix.clone(),
            json!({"type": "ReplacePrefixMatch"}),
        ),
        case(
            "type must be 'ReplacePrefixMatch' when replacePrefixMatch is set",
            full,
            json!({"type": "ReplaceFullPath", "replacePrefixMatch": "/", "replaceFullPath": "/"}),
        ),
        case(
            "RequestRedirect filter must not be used together with backendRefs",
            json!({"filters": [whole("RequestRedirect")]}),
            json!({"filters": [whole("RequestRedirect")], "backendRefs": [{"name": "s", "port": 80}]}),
        ),
        case(
            "When using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified",
            json!({"filters": redirect}),
            json!({"filters": redirect, "matches": exact}),
        ),
        case(
            "When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified",
            json!({"filters": rewrite}),
            json!({"filters": rewrite, "matches": [{}, {}]}),
        ),
        case(
            "Within backendRefs, when using RequestRedirect filter with path.replacePrefixMatch, exactly one PathPrefix \
             match must be specified",
            json!({"backendRefs": in_backend(&redirect)}),
            json!({"backendRefs": in_backend(&redirect), "matches": exact}),
        ),
        case(
            "Within backendRefs, When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match \
             must be specified",
            json!({"backendRefs": in_backend(&rewrite)}),
            json!({"backendRefs": in_backend(&rewrite), "matches": exact}),
        ),
    ]
}

fn paths() -> Vec<Case> {
    let exact = |value: &str| json!({"type": "Exact", "value": value});
    let regex = |value: &str| json!({"type": "RegularExpression", "value": value});
    vec![
        case(
            "value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
            regex("a"),
            exact("a"),
        ),
        case(
            "must not contain '//' when type one of ['Exact', 'PathPrefix']",
            regex("/a//b"),
            exact("/a//b"),
        ),
        case(
            "must not contain '/./' when type one of ['Exact', 'PathPrefix']",
            regex("/a/./b"),
            exact("/a/./b"),
        ),
        case(
            "must not contain '/../' when type one of ['Exact', 'PathPrefix']",
            exact("/a..b/"),
            exact("/a/../b"),
        ),
        case("must not contain '%2f' when type one of ['Exact', 'PathPrefix']", exact("/%2e"), exact("/%2f")),
        case("must not contain '%2F' when type one of ['Exact', 'PathPrefix']", exact("/%2E"), exact("/%2F")),
        case("must not contain '#' when type one of ['Exact', 'PathPrefix']", regex("/#"), exact("/#")),
        case(
            "must not end with '/..' when type one of ['Exact', 'PathPrefix']",
            exact("/a.."),
            exact("/a/.."),
        ),
        case("must not end with '/.' when type one of ['Exact', 'PathPrefix']", exact("/a."), exact("/a/.")),
        case(
            "type must be one of ['Exact', 'PathPrefix', 'RegularExpression']",
            json!({}),
            json!({"type": "Odd"}),
        ),
        case(
            "must only contain valid characters (matching ^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$) for \
             types ['Exact', 'PathPrefix']",
            exact("/a%20b"),
            exact("/a b"),
        ),
    ]
}

fn gateways() -> Vec<Case> {
    let listener = |rest: Value| {
        let mut all = json!({"name": "a", "port": 80, "protocol": "HTTP"});
        rest.as_object().unwrap().iter().for_each(|(name, value)| all[name] = value.clone());
        all
    };
    let pair = json!({"certificateRefs": [{"name": "c"}]});
    let address = |type_: &str, value: &str| json!({"type": type_, "value": value});
    let long = "a".repeat(200) + "." + &"b".repeat(60) + "/c";
    let two = |other: Value| json!([listener(json!({})), listener(other)]);
    let validation =
        json!({"validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "c"}]}});
    let mut all = vec![
        case(
            "IPAddress values must be unique",
            json!([address("IPAddress", "1.2.3.4"), address("IPAddress", "1.2.3.5")]),
            json!([address("IPAddress", "1.2.3.4"), address("IPAddress", "1.2.3.4")]),
        ),
        case(
            "Hostname values must be unique",
            json!([address("Hostname", "a.b"), address("Hostname", "b.a")]),
            json!([address("Hostname", "a.b"), address("Hostname", "a.b")]),
        ),
        case(
            r"Hostname value must be empty or contain only valid characters (matching ^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$)",
            json!({"type": "Hostname"}),
            address("Hostname", "a_b"),
        ),
        case(
            r"Hostname value must only contain valid characters (matching ^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$)",
            address("Hostname", "a.b"),
            address("Hostname", "a_b"),
        ),
        case(
            "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']",
            json!([listener(json!({"protocol": "HTTPS", "tls": pair}))]),
            json!([listener(json!({"tls": pair}))]),
        ),
        case(
            "tls mode must be Terminate for protocol HTTPS",
            json!([listener(json!({"protocol": "HTTPS", "tls": pair}))]),
            json!([listener(json!({"protocol": "HTTPS", "tls": {"mode": "Passthrough"}}))]),
        ),
        case(
            "tls mode must be set for protocol TLS",
            json!([listener(json!({"protocol": "TLS", "tls": {"mode": "Passthrough"}}))]),
            json!([listener(json!({"protocol": "TLS"}))]),
        ),
        case(
            "hostname must not be specified for protocols ['TCP', 'UDP']",
            json!([listener(json!({"protocol": "TCP"}))]),
            json!([listener(json!({"protocol": "UDP", "hostname": "a.b"}))]),
        ),
        case(
            "Listener name must be unique within the Gateway",
            two(json!({"name": "b", "port": 81})),
            two(json!({"port": 81})),
        ),
        case(
            "Combination of port, protocol and hostname must be unique for each listener",
            two(json!({"name": "b", "hostname": "a.b"})),
            two(json!({"name": "b"})),
        ),
        case(
            "certificateRefs or options must be specified when mode is Terminate",
            json!({"options": {"a.b/c": "d"}}),
            json!({"mode": "Terminate"}),
        ),
        case(
            "Port for TLS configuration must be unique within the Gateway",
            json!([{"port": 1, "tls": validation}, {"port": 2, "tls": validation}]),
            json!([{"port": 1, "tls": validation}, {"port": 1, "tls": validation}]),
        ),
    ];
    for (form, prefix) in [
        (
            "Annotation keys must be in the form of an optional DNS subdomain prefix followed by a required name segment of up to 63 characters.",
            "If specified, the annotation key's prefix must be a DNS subdomain not longer than 253 characters in total.",
        ),
        (
            "Label keys must be in the form of an optional DNS subdomain prefix followed by a required name segment of up to 63 characters.",
            "If specified, the label key's prefix must be a DNS subdomain not longer than 253 characters in total.",
        ),
    ] {
        all.push(case(form, json!({"a.b/c": "d"}), json!({"a b": "d"})));
        all.push(case(prefix, json!({"a.b/c": "d"}), json!({long.as_str(): "d"})));
    }
    all
}

fn backends() -> Vec<Case> {
    let external =
        json!({"type": "ExternalHostname", "port": {"port": 80}, "externalHostname": {"hostname": "a.b"}});
    vec![
        case(
            "externalHostname must be set when type is ExternalHostname and must be unset otherwise",
            external,
            json!({"type": "ExternalHostname", "port": {"port": 80}}),
        ),
        case(
            "hostname must not be an IP address or end with .cluster.local",
            json!("a.example.com"),
            json!("a.svc.cluster.local"),
        ),
        case("Name must be a valid DNS label", json!("a-b"), json!("a.b")),
        case(
            "clientCertificateRef must be set if and only if mode is ClientAndServer",
            json!({"mode": "ClientAndServer", "clientCertificateRef": {"name": "c"}}),
            json!({"mode": "ServerOnly", "clientCertificateRef": {"name": "c"}}),
        ),
    ]
}

#[test]
fn every_default_of_the_bundles_is_filled_in_where_nothing_is_and_leaves_alone_what_is_there() {
    let mut filled = 0;
    for place in places() {
        let Some(default) = place.schema.get("default") else { continue };
        let schema = json!({"type": "object", "properties": {"part": place.schema}});
        let schema = Structural::compile(&schema).unwrap_or_else(|error| panic!("{}: {error}", place.name));
        let after = |mut object: Value| {
            schema.default(&mut object);
            object
        };
        let expected = after(json!({"part": default}));
        assert!(covers(&expected["part"], default), "{}: {expected} for {default}", place.name);
        for nothing in [json!({}), json!({"part": null})] {
            assert_eq!(after(nothing), expected, "{}", place.name);
        }
        let there = other_than(default);
        let left = after(json!({"part": there}));
        match &there {
            // What is inside may have defaults of its own; this one is not put over it.
            Value::Object(_) => assert_eq!(left["part"], after(left.clone())["part"], "{}", place.name),
            _ => assert_eq!(left["part"], there, "{}", place.name),
        }
        if let (Value::Object(given), Value::Object(own)) = (default, &left["part"]) {
            let has_default = |name: &str| place.schema["properties"][name].get("default").is_some();
            for name in given.keys().filter(|name| !has_default(name)) {
                assert!(
                    !own.contains_key(name),
                    "{}: {name} was put into an object that was there",
                    place.name
                );
            }
        }
        filled += 1;
    }
    println!("{filled} defaults at their places");
    assert!(filled > 300, "{filled}");
}

/// Whether `value` has everything that `part` has.
fn covers(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(all), Value::Object(some)) => {
            some.iter().all(|(name, inner)| all.get(name).is_some_and(|value| covers(value, inner)))
        }
        (Value::Array(all), Value::Array(some)) => {
            all.len() == some.len() && all.iter().zip(some).all(|(value, inner)| covers(value, inner))
        }
        _ => value == part,
    }
}

/// A value of the same type that is not the default.
fn other_than(default: &Value) -> Value {
    match default {
        Value::String(text) => json!(format!("{text}x")),
        Value::Number(number) => json!(number.as_i64().unwrap() + 1),
        Value::Bool(flag) => json!(!flag),
        Value::Array(_) => json!([]),
        Value::Object(_) => Value::Object(Map::new()),
        Value::Null => json!(1),
    }
}
