//! Which of the needed rights this process has: asked of the API, before a call is refused.
//!
//! Owns the list of what is needed, made from the kinds that are read and made. Invariants: a right is missing only if the API says so of
//! that very right; what can be asked in one call is; an API that does not answer the question leaves things as they are.
//! Deliberately absent: what is done without a right (whoever makes the call says).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use weir_core::Kind;

use super::Right;
use crate::call::{CallError, Caller};
use crate::metrics::ControlStatus;
use crate::provision::cluster::objects::Piece;

/// How often it is asked. Unit: time. Source: ours; one small call for each namespace that is read.
const LOOK: Duration = Duration::from_secs(5);

/// Each so many looks, what is missing is asked about one by one, for authorizers that do not list what they allow.
const ONE_BY_ONE: u32 = 12;

const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

const READ: &[&str] = &["get", "list", "watch"];
const KEEP: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// What there is to be allowed to do. `namespace` of the right is where; empty: in all of them, or there are none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    right: Right,
    group: &'static str,
    /// With its subresource behind a slash.
    resource: String,
    /// The one object that is meant; empty: any.
    name: String,
}

/// An installation, as far as its rights go.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Where it is.
    pub namespace: String,
    /// Names of the Lease of its controllers and of the Secret with the authority of its data planes.
    pub lease: String,
    pub authority: String,
    /// The only namespaces that it reads; none: all.
    pub namespaces: Vec<String>,
}

impl Installation {
    /// Every right that a controller of it needs.
    pub fn needed(&self) -> Vec<Right> {
        self.needs().into_iter().map(|need| need.right).collect()
    }

    fn needs(&self) -> BTreeSet<Need> {
        let everywhere = [String::new()];
        let places = if self.namespaces.is_empty() { &everywhere[..] } else { &self.namespaces };
        let mut needs = BTreeSet::new();
        let mut want =
            |places: &[String], group: &'static str, resource: &str, name: &str, verbs: &[&str]| {
                for (place, verb) in
                    places.iter().flat_map(|place| verbs.iter().map(move |verb| (place, verb)))
                {
                    let right = Right::named(verb, group, resource, place);
                    needs.insert(Need { right, group, resource: resource.to_owned(), name: name.to_owned() });
                }
            };
        for kind in Kind::ALL {
            let places = if kind.cluster_scoped() { &everywhere[..] } else { places };
            want(places, kind.group(), kind.plural(), "", READ);
            if kind.has_status() {
                want(places, kind.group(), &format!("{}/status", kind.plural()), "", &["patch"]);
            }
        }
        for piece in Piece::ALL {
            let collection = piece.collection();
            want(places, collection.group, collection.plural, "", KEEP);
        }
        want(places, "", "events", "", &["create", "patch"]);
        if !self.namespaces.is_empty() {
            // Those about objects of no namespace are here.
            want(&["default".to_owned()], "", "events", "", &["create", "patch"]);
        }
        want(&everywhere, "apiextensions.k8s.io", "customresourcedefinitions", "", &["list", "watch"]);
        want(&everywhere, "coordination.k8s.io", "leases", "", &["list"]);
        want(&everywhere, "", "nodes", "", &["get"]);
        want(&everywhere, "authentication.k8s.io", "tokenreviews", "", &["create"]);
        let own = std::slice::from_ref(&self.namespace);
        want(own, "coordination.k8s.io", "leases", &self.lease, &["get", "patch"]);
        want(own, "coordination.k8s.io", "leases", "", &["create"]);
        want(own, "", "secrets", &self.authority, &["get", "patch"]);
        want(own, "", "secrets", "", &["create"]);
        needs
    }
}

impl Need {
    /// Whether one of the rules of a review says it.
    fn is_in(&self, rules: &[Value]) -> bool {
        let (plural, subresource) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        let any_of_it = format!("*/{subresource}");
        let has = |rule: &Value, field: &str, wanted: &[&str]| {
            let all = rule[field].as_array().into_iter().flatten();
            all.into_iter().filter_map(Value::as_str).any(|one| one == "*" || wanted.contains(&one))
        };
        let resources: &[&str] =
            if subresource.is_empty() { &[plural] } else { &[&self.resource, &any_of_it] };
        rules.iter().any(|rule| {
            let names = rule["resourceNames"].as_array().map_or(0, Vec::len);
            let is_named =
                names == 0 || !self.name.is_empty() && has(rule, "resourceNames", &[self.name.as_str()]);
            is_named
                && has(rule, "apiGroups", &[self.group])
                && has(rule, "resources", resources)
                && has(rule, "verbs", &[self.right.verb.as_str()])
        })
    }

    fn question(&self) -> Value {
        let (plural, subresource) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "namespace": self.right.namespace,
                "verb": self.right.verb,
                "group": self.group,
                "resource": plural,
                "subresource": subresource,
                "name": self.name,
            }},
        })
    }
}

/// Asks until shutdown.
pub(crate) async fn run(
    caller: Caller,
    installation: Installation,
    status: Arc<ControlStatus>,
    shutdown: CancellationToken,
) {
    let needs = installation.needs();
    let mut review = Review { caller, installation, needs, asked: BTreeSet::new(), refused: BTreeSet::new() };
    let asking = async {
        for round in 0_u32.. {
            if round.is_multiple_of(ONE_BY_ONE) {
                review.asked.clear();
            }
            match review.look().await {
                Ok(missing) => status.rights.reviewed(&missing, &review.needs_but(&missing)),
                Err(error) => tracing::debug!(%error, "rights cannot be asked about"),
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = asking => {}
    }
}

struct Review {
    caller: Caller,
    installation: Installation,
    needs: BTreeSet<Need>,
    /// What was asked about by itself, though no rule says it, and of that what the API refuses.
    asked: BTreeSet<Need>,
    refused: BTreeSet<Need>,
}

impl Review {
    /// What is needed and not allowed.
    async fn look(&mut self) -> Result<BTreeSet<Right>, CallError> {
        let own = &self.installation.namespace;
        let own_rules = self.rules(own).await?;
        let mut unsaid = BTreeSet::new();
        let places: BTreeSet<&str> = self.needs.iter().map(|need| need.right.namespace.as_str()).collect();
        for place in places {
            let elsewhere =
                if place.is_empty() || place == own { None } else { Some(self.rules(place).await?) };
            let rules = elsewhere.as_ref().unwrap_or(&own_rules);
            let here = self.needs.iter().filter(|need| need.right.namespace == place);
            unsaid.extend(here.filter(|need| !need.is_in(rules)).cloned());
        }
        self.asked.retain(|need| unsaid.contains(need));
        self.refused.retain(|need| unsaid.contains(need));
        let open: Vec<Need> = unsaid.difference(&self.asked).cloned().collect();
        for need in open {
            let answer = self.caller.create(ACCESS, &need.question()).await?;
            if answer["status"]["allowed"] == true {
                self.refused.remove(&need);
            } else {
                self.refused.insert(need.clone());
            }
            self.asked.insert(need);
        }
        Ok(self.refused.iter().map(|need| need.right.clone()).collect())
    }

    /// Every rule that holds for this process in a namespace.
    async fn rules(&self, namespace: &str) -> Result<Vec<Value>, CallError> {
        let question = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        });
        let mut answer = self.caller.create(RULES, &question).await?;
        match answer["status"]["resourceRules"].take() {
            Value::Array(rules) => Ok(rules),
            _ => Ok(Vec::new()),
        }
    }

    fn needs_but(&self, missing: &BTreeSet<Right>) -> BTreeSet<Right> {
        let rights = self.needs.iter().map(|need| need.right.clone());
        rights.filter(|right| !missing.contains(right)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Installation, Need};

    fn installation(namespaces: &[&str]) -> Installation {
        Installation {
            namespace: "kong".to_owned(),
            lease: "kong-weir-leader".to_owned(),
            authority: "kong-weir-authority".to_owned(),
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn need(named: &str, name: &str) -> Need {
        let all = installation(&[]).needs();
        all.into_iter().find(|need| need.right.to_string() == named && need.name == name).unwrap()
    }

    #[test]
    fn a_rule_says_what_its_groups_resources_verbs_and_names_have_in_common() {
        let rule = |group: &str, resource: &str, verb: &str, names: &[&str]| {
            [json!({"apiGroups": [group], "resources": [resource], "verbs": [verb], "resourceNames": names})]
        };
        let list = need("list services", "");
        assert!(list.is_in(&rule("", "services", "list", &[])));
        assert!(list.is_in(&rule("*", "*", "*", &[])));
        assert!(!list.is_in(&rule("apps", "services", "list", &[])), "another group");
        assert!(!list.is_in(&rule("", "services/status", "list", &[])), "a subresource of it");
        assert!(!list.is_in(&rule("", "services", "watch", &[])), "another verb");
        assert!(!list.is_in(&rule("", "services", "list", &["one"])), "of one object alone");
        assert!(!list.is_in(&[]));
        let status = need("patch gateways.gateway.networking.k8s.io/status", "");
        assert!(status.is_in(&rule("gateway.networking.k8s.io", "gateways/status", "patch", &[])));
        assert!(status.is_in(&rule("gateway.networking.k8s.io", "*/status", "patch", &[])));
        assert!(
            !status.is_in(&rule("gateway.networking.k8s.io", "gateways", "patch", &[])),
            "not the status"
        );
        let lease = need("patch leases.coordination.k8s.io in namespace kong", "kong-weir-leader");
        assert!(lease.is_in(&rule("coordination.k8s.io", "leases", "patch", &["a", "kong-weir-leader"])));
        assert!(!lease.is_in(&rule("coordination.k8s.io", "leases", "patch", &["a"])));
    }

    #[test]
    fn an_installation_with_namespaces_needs_its_rights_in_these_alone() {
        let rights = installation(&["a", "kong"]).needed();
        let has = |named: &str| rights.iter().any(|right| right.to_string() == named);
        assert!(has("list secrets in namespace a") && has("delete deployments.apps in namespace kong"));
        assert!(has("list gatewayclasses.gateway.networking.k8s.io") && has("list namespaces"));
        assert!(has("create events in namespace default"), "classes are of no namespace");
        assert!(!has("list secrets") && !has("create events"));
    }
}
