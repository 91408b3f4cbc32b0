//! From translation's words to the API's: statuses to what is written, findings to what is said. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};
use weir_api::condition::{Condition, reasons, types};
use weir_core::{Kind, ObjectKey, Output, Status};
use weir_model::resource::{Resource, Update};

use super::addresses::Remapped;
use crate::events::Severity;
use crate::provision::cluster::configuration::Notice;
use crate::source::crds::Bundles;
use crate::status_writer::Desired;

/// The condition of a GatewayClass that kinds which were read once are not served any more.
const KINDS_SERVED: &str = "weir.dev/KindsServed";

/// Something to say about an object.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) severity: Severity,
    pub(super) reason: String,
    pub(super) field: String,
    pub(super) message: String,
}

/// What every class is told of what is read.
#[derive(Debug, Default)]
pub(super) struct Readable {
    /// Those that were read once and are not served now.
    pub(super) lost: BTreeSet<Kind>,
    /// Of which releases the CRDs of the Gateway API are; empty while that is not known.
    pub(super) bundles: Bundles,
    /// The only namespaces whose objects are read; none: all.
    pub(super) namespaces: BTreeSet<String>,
}

/// What to write for a status.
pub(super) fn desired(status: Status, about: &Readable, generation: i64) -> Desired {
    match status {
        Status::GatewayClass(mut status) => {
            tell_namespaces(&mut status.conditions, &about.namespaces);
            status.conditions.extend(supported_version(&about.bundles, generation));
            status.conditions.extend(kinds_lost(&about.lost, generation));
            own(&status, &["supportedFeatures"])
        }
        Status::Gateway(status) => own(&status, &["addresses", "attachedListenerSets"]),
        Status::ListenerSet(status) => own(&status, &[]),
        Status::GatewayConfiguration(status) => own(&status, &[]),
        Status::GatewayParameters(status) => own(&status, &[]),
        Status::Route(parents) => Desired::Parents(parents.iter().map(value).collect()),
        Status::Policy(ancestors) => Desired::Ancestors(ancestors.iter().map(value).collect()),
    }
}

/// A status whose fields are all ours; of `clear` those that it leaves out are removed.
fn own(status: &impl Serialize, clear: &[&str]) -> Desired {
    let mut fields = match value(status) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    for name in clear {
        fields.entry((*name).to_owned()).or_insert(Value::Null);
    }
    Desired::Own(fields)
}

fn value(status: &impl Serialize) -> Value {
    // Statuses are structs of strings, numbers and lists, which JSON can always say.
    serde_json::to_value(status).unwrap_or_default()
}

fn kinds_lost(lost: &BTreeSet<Kind>, generation: i64) -> Option<Condition> {
    let names: Vec<&str> = lost.iter().map(|kind| kind.as_str()).collect();
    let message =
        format!("the API no longer serves {}; the last objects seen stay in force", names.join(", "));
    (!names.is_empty()).then(|| Condition::new(KINDS_SERVED, false, "KindNotServed", message, generation))
}

/// A Gateway elsewhere cannot be told that nobody reads it: its class is.
fn tell_namespaces(conditions: &mut [Condition], namespaces: &BTreeSet<String>) {
    let accepted = conditions.iter_mut().find(|condition| condition.type_ == types::ACCEPTED);
    if let Some(accepted) = accepted.filter(|_| !namespaces.is_empty()) {
        let named = namespaces.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        accepted.message.push_str(&format!(" Only objects in these namespaces are read: {named}."));
    }
}

/// Whether the CRDs of the Gateway API are of releases that are known here. Others are read as far as they are understood: the API has
/// that as `Accepted` and this condition `False`.
fn supported_version(bundles: &Bundles, generation: i64) -> Option<Condition> {
    let releases: BTreeSet<&str> = bundles.values().map(String::as_str).collect();
    let mut strange = bundles.iter().filter(|(_, release)| !is_known(release));
    let condition = |holds, reason, message| {
        Some(Condition::new(types::SUPPORTED_VERSION, holds, reason, message, generation))
    };
    let Some((name, release)) = strange.next() else {
        let all: Vec<&str> = releases.into_iter().collect();
        let message = format!("The CRDs of the Gateway API are of {}.", all.join(" and "));
        return condition(true, types::SUPPORTED_VERSION, message).filter(|_| !all.is_empty());
    };
    let is = match release.as_str() {
        "" => "does not say of which release it is".to_owned(),
        release => format!("is of {release}"),
    };
    let more = match strange.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let message = format!(
        "CRD {name} {is}{more}; Weir knows v1.0 to v1.{NEWEST_MINOR} and serves others as far as it understands them."
    );
    condition(false, reasons::UNSUPPORTED_VERSION, message)
}

/// The newest release of the Gateway API whose kinds are read, as its minor version.
const NEWEST_MINOR: u32 = 6;

/// `v1.MINOR.…`, as upstream writes releases and their candidates.
fn is_known(release: &str) -> bool {
    let minor = release.strip_prefix("v1.").and_then(|rest| rest.split('.').next());
    minor.and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor <= NEWEST_MINOR)
}

/// The later output after the earlier, as if they were one.
pub(super) fn append(earlier: &mut Output, later: Output) {
    merge_updates(&mut earlier.update, later.update);
    let mut statuses: BTreeMap<ObjectKey, Status> =
        std::mem::take(&mut earlier.statuses).into_iter().collect();
    statuses.extend(later.statuses);
    earlier.statuses = statuses.into_iter().collect();
    earlier.diagnostics.extend(later.diagnostics);
    earlier.wants.extend(later.wants);
    earlier.waits.extend(later.waits);
    earlier.gateways.extend(later.gateways);
    earlier.released.extend(later.released);
}

fn merge_updates(earlier: &mut Update, later: Update) {
    if later.full {
        *earlier = later;
        return;
    }
    let mut resources: BTreeMap<String, Option<Resource>> = BTreeMap::new();
    let before = std::mem::take(earlier);
    for update in [&before, &later] {
        resources.extend(update.removals.iter().map(|key| (key.clone(), None)));
        resources.extend(
            update.upserts.iter().map(|resource| (resource.key().to_owned(), Some(resource.clone()))),
        );
    }
    earlier.full = before.full;
    for (key, resource) in resources {
        match resource {
            Some(resource) => earlier.upserts.push(resource),
            None if before.full => {}
            None => earlier.removals.push(key),
        }
    }
}

/// What a Gateway's user has to know when a port is served at another.
pub(super) fn remapped(notice: &Remapped) -> Said {
    let Remapped { address, port, udp, bound_port, .. } = notice;
    let transport = if *udp { "UDP " } else { "" };
    Said {
        severity: Severity::Normal,
        reason: "PortRemapped".to_owned(),
        field: String::new(),
        message: format!(
            "{transport}port {port} is served at {}: this process may not bind ports under 1024. To have {port} itself, run \
             `setcap cap_net_bind_service=+ep` on the weir binary, or `sysctl -w net.ipv4.ip_unprivileged_port_start=0`",
            std::net::SocketAddr::new(*address, *bound_port),
        ),
    }
}

/// What provisioning has to say about a Gateway.
pub(super) fn noticed(notice: &Notice) -> Said {
    let Notice { severity, reason, message } = notice.clone();
    Said { severity, reason: reason.to_owned(), field: String::new(), message }
}

#[cfg(test)]
mod tests {
    use super::{Readable, append, desired, supported_version, tell_namespaces};
    use crate::status_writer::Desired;
    use serde_json::Value;
    use std::collections::BTreeSet;
    use weir_api::condition::{Condition, types};
    use weir_api::gateway_api::{GatewayClassStatus, GatewayStatus};
    use weir_core::{Kind, Output, Status};
    use weir_model::resource::{Backend, Body, Resource};

    fn backend(key: &str, port: u32) -> Resource {
        Resource { body: Some(Body::Backend(Backend { key: key.to_owned(), port, ..Backend::default() })) }
    }

    #[test]
    fn of_two_updates_the_later_wins_for_each_resource() {
        let mut earlier = Output::default();
        earlier.update.upserts = vec![backend("a", 1), backend("b", 1)];
        earlier.update.removals = vec!["c".to_owned()];
        let mut later = Output::default();
        later.update.upserts = vec![backend("b", 2), backend("c", 2)];
        later.update.removals = vec!["a".to_owned()];
        append(&mut earlier, later.clone());
        assert_eq!(earlier.update.upserts, [backend("b", 2), backend("c", 2)]);
        assert_eq!(earlier.update.removals, ["a"]);
        let mut full = Output::default();
        full.update.full = true;
        full.update.upserts = vec![backend("a", 1)];
        append(&mut full, later);
        assert!(full.update.full);
        assert_eq!(full.update.upserts, [backend("b", 2), backend("c", 2)]);
        assert!(full.update.removals.is_empty(), "what is not named in a full update is gone");
    }

    #[test]
    fn what_a_status_leaves_out_is_removed_from_the_object() {
        let about = Readable::default();
        let Desired::Own(fields) = desired(Status::Gateway(GatewayStatus::default()), &about, 1) else {
            panic!("a Gateway's status is ours")
        };
        assert_eq!(fields["addresses"], Value::Null);
        assert_eq!(fields["listeners"], Value::Array(Vec::new()));
    }

    #[test]
    fn a_class_tells_which_kinds_are_gone() {
        let about = Readable { lost: BTreeSet::from([Kind::HttpRoute]), ..Readable::default() };
        let Desired::Own(fields) = desired(Status::GatewayClass(GatewayClassStatus::default()), &about, 3)
        else {
            panic!("a class's status is ours")
        };
        assert_eq!(fields["conditions"][0]["status"], "False");
        assert_eq!(fields["conditions"][0]["observedGeneration"], 3);
        assert!(fields["conditions"][0]["message"].as_str().unwrap().contains("HTTPRoute"));
    }
    #[test]
    fn a_class_tells_whose_objects_are_read() {
        let accepted = || vec![Condition::new(types::ACCEPTED, true, types::ACCEPTED, "So it is.", 1)];
        let message = |namespaces: &[&str]| {
            let mut conditions = accepted();
            let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
            tell_namespaces(&mut conditions, &namespaces);
            conditions.remove(0).message
        };
        assert_eq!(message(&[]), "So it is.");
        assert_eq!(message(&["a", "b"]), "So it is. Only objects in these namespaces are read: a, b.");
    }

    #[test]
    fn a_class_tells_of_crds_of_a_release_that_is_not_known() {
        let of = |bundles: &[(&str, &str)]| {
            let bundles = bundles.iter().map(|(name, release)| ((*name).to_owned(), (*release).to_owned()));
            supported_version(&bundles.collect(), 3)
        };
        assert_eq!(of(&[]), None, "nothing is known");
        let known = of(&[("gateways.g", "v1.6.1"), ("httproutes.g", "v1.0.0-rc1")]).unwrap();
        assert!(known.is_true() && known.message.contains("v1.0.0-rc1 and v1.6.1"), "{known:?}");
        let newer = of(&[("gateways.g", "v1.6.1"), ("httproutes.g", "v1.9.0")]).unwrap();
        assert!(!newer.is_true() && newer.reason == "UnsupportedVersion", "{newer:?}");
        assert!(newer.message.contains("httproutes.g is of v1.9.0; Weir knows v1.0 to v1.6"), "{newer:?}");
        for strange in ["v2.0.0", "v1", "v0.8.1", "monthly-2026.10", ""] {
            assert!(!of(&[("gateways.g", strange)]).unwrap().is_true(), "{strange}");
        }
    }
}
