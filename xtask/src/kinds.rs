//! The definitions of Weir's own kinds, and the table of their fields, made from the one table of limits.
//!
//! Owns the shape of both kinds beside their limits, and where each form goes: JSON that the binary brings, YAML in the chart for a cluster
//! (there also the parameters of Kong's operator, kept by hand in `schema`), a table in the documentation. Invariant: a limit's range in a
//! schema is the table's, so what the API takes the data plane does.
//! Deliberately absent: defaults in the schemas. A field that was left out has to stay left out, so that a class's word can hold.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use weir_model::limits::{LimitRow, Limits, Side, Unit};

/// GEP-2257: at most four parts of at most five digits.
const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
const DURATION_CHARS: u64 = 28;
/// A DNS subdomain (RFC 1123), as names of most objects are.
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A key of a Secret.
const SECRET_KEY: &str = "^[-._a-zA-Z0-9]+$";
/// IPv4 or IPv6, with the bits of a network or without; the data plane reads it once more.
const NETWORK: &str = r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$";

/// The lines between which the documentation's tables stand.
const TABLES_BEGIN: &str = "<!-- The tables are made by `cargo xtask codegen kinds`. -->\n";
const TABLES_END: &str = "<!-- End of the tables. -->\n";

/// Writes every form of both kinds, or, with `check`, says which are not what would be written.
pub(crate) fn generate(root: &Path, check: bool) -> Result<()> {
    let mut stale = Vec::new();
    for (path, content) in files(root)? {
        let full = root.join(&path);
        if fs::read_to_string(&full).is_ok_and(|known| known == content) {
            continue;
        }
        stale.push(path);
        if !check {
            fs::create_dir_all(full.parent().context("a file in a directory")?)?;
            fs::write(&full, content)?;
        }
    }
    if check && !stale.is_empty() {
        bail!("not what the table of limits says: {}", stale.join(", "));
    }
    Ok(())
}

/// Path below the root to content.
fn files(root: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for definition in [gateway_parameters(), backend_policy()] {
        let plural = definition["spec"]["names"]["plural"].as_str().context("a plural")?;
        let name = format!("weir.dev_{plural}");
        files.push((format!("crates/schema/crds/weir/{name}.json"), format!("{definition}\n")));
        let head = "# Made by `cargo xtask codegen kinds` from the table of limits; do not edit.\n---\n";
        files.push(chart_file(&name, head, &definition)?);
    }
    let name = "gateway-operator.konghq.com_gatewayconfigurations";
    let kept = format!("crates/schema/crds/kong/{name}.json");
    let text = fs::read_to_string(root.join(&kept)).with_context(|| kept.clone())?;
    let head = format!("# Made by `cargo xtask codegen kinds` from {kept}; do not edit.\n---\n");
    files.push(chart_file(name, &head, &serde_json::from_str(&text)?)?);
    let page = "docs/parameters.md";
    let text = fs::read_to_string(root.join(page)).with_context(|| page.to_owned())?;
    let (before, rest) = text.split_once(TABLES_BEGIN).context("docs/parameters.md has lost its marker")?;
    let (_, after) = rest.split_once(TABLES_END).context("docs/parameters.md has lost its second marker")?;
    files.push((page.to_owned(), format!("{before}{TABLES_BEGIN}{}{TABLES_END}{after}", tables())));
    Ok(files)
}

/// A definition as the Helm chart brings it.
fn chart_file(name: &str, head: &str, definition: &Value) -> Result<(String, String)> {
    let yaml = serde_saphyr::to_string(definition)?;
    Ok((format!("deploy/helm/weir/crds/{name}.yaml"), format!("{head}{yaml}")))
}

fn gateway_parameters() -> Value {
    let mut spec = limit_groups(Side::Gateway);
    spec.insert("trustedProxies".to_owned(), json!({
        "type": "array", "maxItems": 256, "x-kubernetes-list-type": "atomic",
        "description": "Networks of peers that may say on whose behalf they speak (X-Forwarded-*, X-Real-IP, request ids). \
            Absent: none is said; empty: nobody is believed.",
        "items": {"type": "string", "minLength": 1, "maxLength": 49, "pattern": NETWORK},
    }));
    spec.insert("accessLog".to_owned(), json!({
        "type": "object", "required": ["mode"],
        "description": "One JSON line for each request, connection or flow, on the data plane's standard output.",
        "properties": {"mode": {
            "type": "string", "enum": ["Off", "Errors", "All"],
            "description": "Errors: those that were answered 5xx or broke off.",
        }},
    }));
    spec.insert("sessionKeySecretRefs".to_owned(), json!({
        "type": "array", "minItems": 1, "maxItems": 4, "x-kubernetes-list-type": "atomic",
        "description": "What tokens of session persistence are sealed with: keys of Secrets of the type weir.dev/session-key \
            in this namespace, 32 bytes each or the base64 of as many. The first seals, all open: put a new key first, and take \
            the old one away when its sessions may end.",
        "items": {"type": "object", "required": ["name", "key"], "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": SUBDOMAIN},
            "key": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": SECRET_KEY},
        }},
    }));
    let status = json!({
        "type": "object",
        "properties": {
            "ancestors": {
                "type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic",
                "description": "Gateways and GatewayClasses that refer to the object.",
                "items": {"type": "object", "required": ["ancestorRef", "controllerName"], "properties": {
                    "ancestorRef": ancestor_ref(),
                    "controllerName": {"type": "string", "minLength": 1, "maxLength": 253},
                }},
            },
            "conditions": conditions(),
        },
    });
    let names = json!({
        "kind": "GatewayParameters", "listKind": "GatewayParametersList", "plural": "gatewayparameters",
        "singular": "gatewayparameters", "shortNames": ["wgp"], "categories": ["weir"],
    });
    let description = "What clients of a Gateway are served with. Bound by spec.infrastructure.parametersRef of a Gateway, or by \
        spec.parametersRef of a GatewayClass; a Gateway's word goes before its class's, field by field.";
    let spec = json!({"type": "object", "properties": spec});
    let accepted = r#".status.conditions[?(@.type=="Accepted")].status"#;
    definition(&names, json!({}), description, &spec, &status, accepted, &[])
}

fn backend_policy() -> Value {
    let mut spec = limit_groups(Side::Backend);
    let section_once = "self.all(p1, self.exists_one(p2, p1.name == p2.name && \
        (has(p1.sectionName) ? p1.sectionName : '') == (has(p2.sectionName) ? p2.sectionName : '')))";
    spec.insert(
        "targetRefs".to_owned(),
        json!({
            "type": "array", "minItems": 1, "maxItems": 16, "x-kubernetes-list-type": "atomic",
            "description": "Services of this namespace, or ports of theirs.",
            "items": {
                "type": "object", "required": ["group", "kind", "name"],
                "properties": {
                    "group": {"type": "string", "maxLength": 253, "enum": ["", "core"]},
                    "kind": {"type": "string", "maxLength": 63, "enum": ["Service"]},
                    "name": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": SUBDOMAIN},
                    "sectionName": {
                        "type": "string", "minLength": 1, "maxLength": 253, "pattern": SUBDOMAIN,
                        "description": "The name of a port. Before a policy for the whole Service.",
                    },
                },
            },
            "x-kubernetes-validations": [{
                "rule": section_once,
                "message": "a Service, or a port of it, can be named once",
            }],
        }),
    );
    let status = json!({
        "type": "object", "required": ["ancestors"],
        "properties": {"ancestors": {
            "type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic",
            "description": "What became of the policy for each Gateway that leads to one of its Services.",
            "items": {"type": "object", "required": ["ancestorRef", "controllerName", "conditions"], "properties": {
                "ancestorRef": ancestor_ref(),
                "controllerName": {"type": "string", "minLength": 1, "maxLength": 253},
                "conditions": conditions(),
            }},
        }},
    });
    let names = json!({
        "kind": "BackendPolicy", "listKind": "BackendPolicyList", "plural": "backendpolicies",
        "singular": "backendpolicy", "shortNames": ["wbp"], "categories": ["weir"],
    });
    let description = "How the endpoints of Services are spoken to. A direct policy: of several for one target the oldest holds, \
        then the first by name.";
    let spec = json!({"type": "object", "required": ["targetRefs"], "properties": spec});
    let labels = json!({"gateway.networking.k8s.io/policy": "Direct"});
    let accepted = r#".status.ancestors[*].conditions[?(@.type=="Accepted")].status"#;
    definition(&names, labels, description, &spec, &status, accepted, &["spec"])
}

fn definition(
    names: &Value,
    labels: Value,
    description: &str,
    spec: &Value,
    status: &Value,
    accepted: &str,
    required: &[&str],
) -> Value {
    let plural = names["plural"].as_str().unwrap_or_default();
    let mut schema = json!({
        "type": "object",
        "description": description,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let mut metadata = json!({"name": format!("{plural}.weir.dev")});
    if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        metadata["labels"] = labels;
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": "weir.dev",
            "names": names,
            "scope": "Namespaced",
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Accepted", "type": "string", "jsonPath": accepted},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

/// The groups of a side, each with its limits in the order of the table.
fn limit_groups(side: Side) -> Map<String, Value> {
    let mut groups = Map::new();
    for row in Limits::table() {
        let Some((group, field)) = row.field(side).and_then(|path| path.split_once('.')) else { continue };
        let group = groups.entry(group).or_insert_with(|| json!({"type": "object", "properties": {}}));
        group["properties"][field] = limit_schema(row);
    }
    groups
}

fn limit_schema(row: &LimitRow) -> Value {
    let LimitRow { least, most, unit, .. } = *row;
    let description = format!("{} Default: {}.", row.meaning, written(row.default, unit));
    match unit {
        Unit::Bytes | Unit::Count => json!({
            "type": "integer", "format": "int64", "minimum": least, "maximum": most, "description": description,
        }),
        Unit::Milliseconds => {
            let range = [least, most].map(|number| written(number, unit));
            json!({
                "type": "string", "maxLength": DURATION_CHARS, "pattern": DURATION, "description": description,
                "x-kubernetes-validations": [{
                    "rule": format!(
                        "duration(self) >= duration('{}') && duration(self) <= duration('{}')", range[0], range[1]
                    ),
                    "message": format!("must be from {} to {}", range[0], range[1]),
                }],
            })
        }
    }
}

/// As it is written in an object.
fn written(number: u64, unit: Unit) -> String {
    match unit {
        Unit::Bytes | Unit::Count => number.to_string(),
        Unit::Milliseconds if number == 0 => "0s".to_owned(),
        Unit::Milliseconds if number.is_multiple_of(3_600_000) => format!("{}h", number / 3_600_000),
        Unit::Milliseconds if number.is_multiple_of(60_000) => format!("{}m", number / 60_000),
        Unit::Milliseconds if number.is_multiple_of(1_000) => format!("{}s", number / 1_000),
        Unit::Milliseconds => format!("{number}ms"),
    }
}

fn ancestor_ref() -> Value {
    json!({"type": "object", "required": ["name"], "properties": {
        "group": {"type": "string", "maxLength": 253, "default": "gateway.networking.k8s.io"},
        "kind": {"type": "string", "minLength": 1, "maxLength": 63, "default": "Gateway"},
        "namespace": {"type": "string", "minLength": 1, "maxLength": 63},
        "name": {"type": "string", "minLength": 1, "maxLength": 253},
        "sectionName": {"type": "string", "minLength": 1, "maxLength": 253},
        "port": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65_535},
    }})
}

fn conditions() -> Value {
    json!({
        "type": "array", "maxItems": 8, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object", "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "message": {"type": "string", "maxLength": 32_768},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1_024},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "type": {"type": "string", "maxLength": 316},
            },
        },
    })
}

/// One table for each kind: its limits by group.
fn tables() -> String {
    let mut text = String::new();
    for side in Side::ALL {
        let mut rows: Vec<(&str, &LimitRow)> =
            Limits::table().iter().filter_map(|row| Some((row.field(side)?, row))).collect();
        // By group, in the order in which groups are first met.
        let groups: Vec<&str> = rows.iter().map(|(path, _)| group_of(path)).collect();
        rows.sort_by_key(|(path, _)| groups.iter().position(|group| *group == group_of(path)));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n### Limits of `{}`\n\n| field of `spec` | default | range | what it bounds |\n|---|---|---|---|\n",
            side.kind()
        );
        for (path, row) in rows {
            let [default, least, most] = [row.default, row.least, row.most].map(|one| written(one, row.unit));
            let meaning = row.meaning.replace('|', "\\|");
            let _ = writeln!(text, "| `{path}` | `{default}` | `{least}` to `{most}` | {meaning} |");
        }
    }
    text.push('\n');
    text
}

fn group_of(path: &str) -> &str {
    path.split_once('.').map_or(path, |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_in_the_schema_of_each_of_its_sides_with_its_range() {
        let definitions = [(Side::Gateway, gateway_parameters()), (Side::Backend, backend_policy())];
        for (side, definition) in definitions {
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let mut fields = 0;
            for (path, row) in Limits::table().iter().filter_map(|row| Some((row.field(side)?, row))) {
                let at = format!("/properties/spec/properties/{}", path.replace('.', "/properties/"));
                let field = schema.pointer(&at).unwrap_or_else(|| panic!("{path}"));
                assert!(field["description"].as_str().unwrap().starts_with(row.meaning), "{path}");
                assert!(field.get("default").is_none(), "{path}");
                if row.unit == Unit::Milliseconds {
                    let rule = field["x-kubernetes-validations"][0]["rule"].as_str().unwrap();
                    assert!(rule.contains(&format!("'{}'", written(row.most, row.unit))), "{path}: {rule}");
                } else {
                    assert_eq!((&field["minimum"], &field["maximum"]), (&json!(row.least), &json!(row.most)));
                }
                fields += 1;
            }
            assert!(fields > 20, "{fields}");
        }
    }

    #[test]
    fn times_are_written_in_their_largest_whole_unit() {
        let of = |number| written(number, Unit::Milliseconds);
        assert_eq!(
            [of(0), of(25), of(1_000), of(90_000), of(120_000), of(3_600_000)],
            ["0s", "25ms", "1s", "90s", "2m", "1h"]
        );
    }
}
