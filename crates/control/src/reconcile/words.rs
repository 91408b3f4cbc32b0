//! From translation's words to the API's: statuses to what is written, findings to what is said. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};
use weir_api::condition::Condition;
use weir_core::{Kind, ObjectKey, Output, Status};
use weir_model::resource::{Resource, Update};

use super::addresses::Remapped;
use crate::events::Severity;
use crate::provision::cluster::configuration::Notice;
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

/// What to write for a status. `lost`: kinds that are not served any more, told by every class.
pub(super) fn desired(status: Status, lost: &BTreeSet<Kind>, generation: i64) -> Desired {
    match status {
        Status::GatewayClass(mut status) => {
            status.conditions.extend(kinds_lost(lost, generation));
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
    let severity = if notice.reason.starts_with("Invalid") { Severity::Warning } else { Severity::Normal };
    let Notice { reason, message } = notice.clone();
    Said { severity, reason: reason.to_owned(), field: String::new(), message }
}

#[cfg(test)]
mod tests {
    use super::{append, desired};
    use crate::status_writer::Desired;
    use serde_json::Value;
    use std::collections::BTreeSet;
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
        let Desired::Own(fields) = desired(Status::Gateway(GatewayStatus::default()), &BTreeSet::new(), 1)
        else {
            panic!("a Gateway's status is ours")
        };
        assert_eq!(fields["addresses"], Value::Null);
        assert_eq!(fields["listeners"], Value::Array(Vec::new()));
    }

    #[test]
    fn a_class_tells_which_kinds_are_gone() {
        let lost = BTreeSet::from([Kind::HttpRoute]);
        let Desired::Own(fields) = desired(Status::GatewayClass(GatewayClassStatus::default()), &lost, 3)
        else {
            panic!("a class's status is ours")
        };
        assert_eq!(fields["conditions"][0]["status"], "False");
        assert_eq!(fields["conditions"][0]["observedGeneration"], 3);
        assert!(fields["conditions"][0]["message"].as_str().unwrap().contains("HTTPRoute"));
    }
}
