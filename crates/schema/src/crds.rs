//! The CRDs that Weir brings: Gateway API v1.6.1 in both channels, Weir's own kinds, and Kong's `GatewayConfiguration`.
//!
//! The Gateway API files are generated from the upstream bundles, without their prose, by `cargo xtask`; they keep the
//! `bundle-version` and `channel` annotations by which clients tell what is installed. `GatewayConfiguration` is written
//! by hand, for manifests that configure Kong's operator. Weir's own (`GatewayParameters`, `BackendPolicy`) are made by `cargo xtask` from
//! the table of limits. Deliberately absent: the admission policy of the bundles.

mod embedded;

use serde_json::Value;

use embedded::{EXPERIMENTAL, STANDARD};

/// Which set of CRDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Channel {
    /// What is generally available.
    Standard,
    /// That, and what may still change.
    #[default]
    Experimental,
}

const KONG: &[(&str, &str)] = &[(
    "gateway-operator.konghq.com_gatewayconfigurations",
    include_str!("../crds/kong/gateway-operator.konghq.com_gatewayconfigurations.json"),
)];

const WEIR: &[(&str, &str)] = &[
    ("weir.dev_backendpolicies", include_str!("../crds/weir/weir.dev_backendpolicies.json")),
    ("weir.dev_gatewayparameters", include_str!("../crds/weir/weir.dev_gatewayparameters.json")),
];

/// The `CustomResourceDefinition` objects of a channel, each with its file's name (`GROUP_PLURAL`); Kong's and Weir's own are in both.
pub fn builtin(channel: Channel) -> impl Iterator<Item = (&'static str, Value)> {
    let own = match channel {
        Channel::Standard => STANDARD,
        Channel::Experimental => EXPERIMENTAL,
    };
    // Every embedded file is read by a test of this module, so none is left out here.
    own.iter()
        .chain(KONG)
        .chain(WEIR)
        .filter_map(|(name, text)| Some((*name, serde_json::from_str(text).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Structural;

    #[test]
    fn every_embedded_crd_is_read_and_every_version_of_it_compiles() {
        for channel in [Channel::Standard, Channel::Experimental] {
            let crds: Vec<(&str, Value)> = builtin(channel).collect();
            assert_eq!(crds.len(), if channel == Channel::Standard { 13 } else { 16 });
            for (name, crd) in crds {
                let plural = crd["spec"]["names"]["plural"].as_str().unwrap();
                let group = crd["spec"]["group"].as_str().unwrap();
                assert_eq!(name, format!("{group}_{plural}"));
                assert_eq!(crd["metadata"]["name"], format!("{plural}.{group}"));
                for version in crd["spec"]["versions"].as_array().unwrap() {
                    let schema = &version["schema"]["openAPIV3Schema"];
                    Structural::compile(schema)
                        .unwrap_or_else(|error| panic!("{name} {}: {error}", version["name"]));
                }
            }
        }
    }

    #[test]
    fn every_rule_of_the_bundle_is_compiled() {
        fn gather(schema: &Value, rules: &mut Vec<String>) {
            let Some(keywords) = schema.as_object() else { return };
            let own = keywords.get("x-kubernetes-validations").and_then(Value::as_array);
            rules.extend(own.into_iter().flatten().map(|rule| rule["rule"].as_str().unwrap().to_owned()));
            let properties = keywords.get("properties").and_then(Value::as_object);
            properties.into_iter().flatten().for_each(|(_, schema)| gather(schema, rules));
            let nested = ["items", "additionalProperties"].iter().filter_map(|key| keywords.get(*key));
            nested.for_each(|schema| gather(schema, rules));
        }
        let of_channel = |channel| {
            let mut rules = Vec::new();
            for (_, crd) in builtin(channel).filter(|(file, _)| file.starts_with("gateway.networking")) {
                for version in crd["spec"]["versions"].as_array().unwrap() {
                    gather(&version["schema"]["openAPIV3Schema"], &mut rules);
                }
            }
            rules
        };
        let mut rules = of_channel(Channel::Experimental);
        assert_eq!(rules.len(), 350);
        rules.extend(of_channel(Channel::Standard));
        rules.sort();
        rules.dedup();
        // Each was compiled with its schema by the test above; here they are counted, so that none is overlooked.
        assert_eq!(rules.len(), 96);
    }

    #[test]
    fn the_bundle_and_its_channel_are_annotated() {
        for (channel, name) in [(Channel::Standard, "standard"), (Channel::Experimental, "experimental")] {
            for (file, crd) in builtin(channel).filter(|(file, _)| file.starts_with("gateway.networking")) {
                let annotations = &crd["metadata"]["annotations"];
                assert_eq!(annotations["gateway.networking.k8s.io/bundle-version"], "v1.6.1", "{file}");
                assert_eq!(annotations["gateway.networking.k8s.io/channel"], name, "{file}");
            }
        }
    }

    #[test]
    fn no_prose_came_along() {
        fn check(schema: &Value) {
            let Some(keywords) = schema.as_object() else { return };
            assert!(!keywords.contains_key("description"));
            keywords
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .for_each(|(_, s)| check(s));
            ["items", "additionalProperties"].iter().filter_map(|key| keywords.get(*key)).for_each(check);
        }
        for (file, text) in STANDARD.iter().chain(EXPERIMENTAL) {
            let crd: Value = serde_json::from_str(text).unwrap();
            for version in crd["spec"]["versions"].as_array().unwrap() {
                check(&version["schema"]["openAPIV3Schema"]);
            }
            assert!(!text.contains("\"description\":\""), "{file}");
        }
    }
}
