//! The signs by which a controller of Kong's that lives is known.
//!
//! Owns what counts as one: an election Lease that is renewed, and a status of a class or Gateway of Kong's names that another field manager
//! writes, each while we look. Invariants: a Lease that is younger than this installation's own stands in nobody's way where a Gateway of its
//! controller's name is programmed by us, so that whoever may write Leases in some namespace takes nothing from a Gateway that is served; statuses
//! are looked at by an installation of which nobody led before, for the same reason. Deliberately absent: the names of Kong's field
//! managers, which its releases change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use weir_api::kong::{KIC_CONTROLLER, OPERATOR_CONTROLLER};

use super::{Own, StandBack};
use crate::call::{CallError, Caller, Collection, FIELD_MANAGER};

/// The Lease of Kong's operator.
const OPERATOR_LEASE: &str = "a7feedc84.konghq.com";
/// Its ingress controller's: the program's default ends so, and that of its chart begins so.
const KIC_LEASE_END: &str = ".konghq.com";
const KIC_LEASE_BEGINNING: &str = "kong-ingress-controller-leader";

/// How long is looked for a change: more than twice the 15 s for which a Lease stands.
const LOOK: Duration = Duration::from_secs(40);

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const CLASSES: Collection =
    Collection { group: GATEWAY_API, version: "v1", plural: "gatewayclasses", namespaced: false };
const GATEWAYS: Collection =
    Collection { group: GATEWAY_API, version: "v1", plural: "gateways", namespaced: true };

/// The look at Kong's signs.
#[derive(Default)]
pub(super) struct Kongs {
    first: Option<(Instant, BTreeMap<String, Sign>)>,
}

/// What came of it so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Whom to leave alone.
    pub(super) back: StandBack,
    /// Whether one of those lives is not known yet.
    pub(super) is_open: bool,
    /// Nothing more is looked for.
    pub(super) is_over: bool,
}

/// Something that a controller of Kong's wrote, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sign {
    controller: &'static str,
    who: String,
    version: String,
    /// It says nothing of whether its writer lives, but will within [`LOOK`]: a Lease is renewed.
    must_change: bool,
}

impl Kongs {
    /// Looks once more. `leases`: all that can be seen.
    pub(super) async fn look(
        &mut self,
        caller: &Caller,
        own: &Own,
        leases: &[Value],
    ) -> Result<Found, CallError> {
        let ours = leases.iter().find(|lease| own.is_lease(lease));
        let is_new = is_new(ours);
        let held: Vec<(String, Sign)> = leases.iter().filter_map(of_lease).collect();
        let younger: BTreeSet<String> = leases
            .iter()
            .filter(|lease| is_younger(lease, ours))
            .filter_map(of_lease)
            .map(|(what, _)| what)
            .collect();
        let theirs = if is_new || !younger.is_empty() {
            of_kongs_names(caller, &own.namespaces).await?
        } else {
            Vec::new()
        };
        let served: BTreeSet<&str> = theirs
            .iter()
            .filter(|(object, ..)| is_programmed_by_us(object))
            .map(|(.., name)| *name)
            .collect();
        let takes =
            |(what, sign): &(String, Sign)| younger.contains(what) && served.contains(sign.controller);
        let mut signs: BTreeMap<String, Sign> = held.into_iter().filter(|sign| !takes(sign)).collect();
        if is_new {
            signs.extend(theirs.iter().filter_map(of_status));
        }
        let (started, before) = self.first.get_or_insert_with(|| (Instant::now(), signs.clone()));
        let is_late = started.elapsed() >= LOOK;
        let (back, is_open) = judge(before, &signs, is_late);
        Ok(Found { back, is_open, is_over: is_late || !(is_new || is_open) })
    }
}

/// Nobody led this installation before this life of it.
fn is_new(ours: Option<&Value>) -> bool {
    ours.is_none_or(|lease| lease["spec"]["leaseTransitions"].as_u64().unwrap_or_default() == 0)
}

/// Whom to leave alone, and whether that is still open. `is_late`: what has not changed will not.
fn judge(before: &BTreeMap<String, Sign>, now: &BTreeMap<String, Sign>, is_late: bool) -> (StandBack, bool) {
    let mut back = StandBack::default();
    let mut is_open = false;
    for (what, sign) in now {
        let Sign { controller, who, version, must_change } = sign;
        let lives = before.get(what).is_none_or(|before| before.version != *version);
        if !lives && (is_late || !must_change) {
            continue;
        }
        is_open |= !lives;
        let why = if lives {
            let does = if *must_change { "renews" } else { "writes" };
            format!(
                "{who} answers for {controller}, it {does} {what}. End it and tell Weir to take over (--take-over)"
            )
        } else {
            let seconds = LOOK.as_secs();
            format!(
                "{what} is held by {who}; whether that still lives is known {seconds} s after this process began (delete the Lease if it \
                 does not)"
            )
        };
        back.0.insert((*controller).to_owned(), why);
    }
    (back, is_open)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A Lease of Kong's that somebody holds.
fn of_lease(lease: &Value) -> Option<(String, Sign)> {
    let metadata = &lease["metadata"];
    let name = metadata["name"].as_str()?;
    let controller = if name == OPERATOR_LEASE {
        OPERATOR_CONTROLLER
    } else if name.ends_with(KIC_LEASE_END) || name.starts_with(KIC_LEASE_BEGINNING) {
        KIC_CONTROLLER
    } else {
        return None;
    };
    let who = text(&lease["spec"]["holderIdentity"]).to_owned();
    let version = text(&metadata["resourceVersion"]).to_owned();
    let what = format!("Lease {}/{name}", text(&metadata["namespace"]));
    (!who.is_empty()).then_some((what, Sign { controller, who, version, must_change: true }))
}

/// Whether a Lease was made after that of this installation.
fn is_younger(lease: &Value, ours: Option<&Value>) -> bool {
    // As the API server wrote them: in their order as text.
    let made = |lease: &Value| text(&lease["metadata"]["creationTimestamp"]).to_owned();
    ours.is_some_and(|ours| made(ours) < made(lease))
}

/// The classes of Kong's names and their Gateways, each with what it is called and the controller's name.
async fn of_kongs_names(
    caller: &Caller,
    namespaces: &[String],
) -> Result<Vec<(Value, String, &'static str)>, CallError> {
    let mut all = Vec::new();
    let mut controllers: BTreeMap<String, &'static str> = BTreeMap::new();
    for class in list(caller, CLASSES, "").await? {
        let name = text(&class["metadata"]["name"]).to_owned();
        let controller = [KIC_CONTROLLER, OPERATOR_CONTROLLER]
            .into_iter()
            .find(|controller| class["spec"]["controllerName"] == **controller);
        if let Some(controller) = controller {
            all.push((class, format!("GatewayClass {name}"), controller));
            controllers.insert(name, controller);
        }
    }
    let everywhere = [String::new()];
    let places = if namespaces.is_empty() { &everywhere } else { namespaces };
    for namespace in places.iter().filter(|_| !controllers.is_empty()) {
        for gateway in list(caller, GATEWAYS, namespace).await? {
            let Some(controller) = controllers.get(text(&gateway["spec"]["gatewayClassName"])) else {
                continue;
            };
            let metadata = &gateway["metadata"];
            let what = format!("Gateway {}/{}", text(&metadata["namespace"]), text(&metadata["name"]));
            all.push((gateway, what, *controller));
        }
    }
    Ok(all)
}

/// Whether a Gateway's status says that it is served, and was written by us.
fn is_programmed_by_us(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let mut programmed = conditions.filter(|one| one["type"] == "Programmed" && one["status"] == "True");
    programmed.next().is_some() && writers(object).any(|entry| entry["manager"] == FIELD_MANAGER)
}

/// Who has a say about an object's status.
fn writers(object: &Value) -> impl Iterator<Item = &Value> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.filter(|entry| entry["subresource"] == "status")
}

/// What is not served, or may not be read, has no statuses that another writes.
async fn list(caller: &Caller, of: Collection, namespace: &str) -> Result<Vec<Value>, CallError> {
    match caller.list(&of.path(namespace, ""), false).await {
        Ok((_, objects)) => Ok(objects),
        Err(error) if error.is_not_found() || error.is_denied() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Who else wrote an object's status, last.
fn of_status((object, what, controller): &(Value, String, &'static str)) -> Option<(String, Sign)> {
    let foreign = writers(object).filter(|entry| {
        let manager = text(&entry["manager"]);
        !manager.is_empty() && manager != FIELD_MANAGER
    });
    // In the form of the API server they are in their order as text.
    let last = foreign.max_by_key(|entry| text(&entry["time"]))?;
    let (who, version) = (text(&last["manager"]).to_owned(), text(&last["time"]).to_owned());
    Some((format!("the status of {what}"), Sign { controller, who, version, must_change: false }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(name: &str, holder: &str, version: &str, made: &str) -> Value {
        json!({
            "metadata": {"namespace": "kong", "name": name, "resourceVersion": version, "creationTimestamp": made},
            "spec": {"holderIdentity": holder},
        })
    }

    fn leases(all: &[(&str, &str, &str)]) -> BTreeMap<String, Sign> {
        let sign =
            |(name, holder, version): &(&str, &str, &str)| of_lease(&lease(name, holder, version, "1"));
        all.iter().filter_map(sign).collect()
    }

    #[test]
    fn whoever_renews_a_lease_of_kongs_is_left_alone() {
        let before = leases(&[
            ("a7feedc84.konghq.com", "o", "1"),
            ("5b374a9e.konghq.com", "k", "2"),
            ("other", "x", "3"),
        ]);
        let (back, open) = judge(&before, &before, false);
        assert!(open && back.0.len() == 2, "not known yet: {back:?}");
        let now = leases(&[("a7feedc84.konghq.com", "o", "9"), ("5b374a9e.konghq.com", "k", "2")]);
        let (back, open) = judge(&before, &now, true);
        assert!(!open);
        assert!(back.0[OPERATOR_CONTROLLER].contains("it renews Lease kong/a7feedc84.konghq.com"));
        assert_eq!(back.ours().0, ["weir.dev/gateway-controller", "konghq.com/kic-gateway-controller"]);
    }

    #[test]
    fn a_lease_that_nobody_holds_or_renews_stands_in_nobodys_way() {
        let free = leases(&[("kong-ingress-controller-leader-kong", "", "1")]);
        assert_eq!(judge(&free, &free, false), (StandBack::default(), false));
        let dead = leases(&[("kong-ingress-controller-leader-kong", "pod", "1")]);
        assert_eq!(judge(&dead, &dead, true), (StandBack::default(), false));
    }

    #[test]
    fn which_of_two_leases_is_the_younger_is_the_api_servers_word() {
        let ours = lease("weir-weir-leader", "us", "1", "2026-01-01T00:00:05Z");
        let is_younger = |made: &str| is_younger(&lease("x.konghq.com", "a tenant", "2", made), Some(&ours));
        assert!(is_younger("2026-01-01T00:00:06Z"));
        assert!(!is_younger("2026-01-01T00:00:05Z"), "who was first is not known");
        assert!(!is_younger("2026-01-01T00:00:04Z"));
    }

    #[test]
    fn whoever_writes_a_status_of_kongs_names_while_we_look_is_left_alone() {
        let gateway = |manager: &str, time: &str| {
            json!({"metadata": {"managedFields": [
                {"manager": "kubectl", "operation": "Update", "time": "9"},
                {"manager": "weir", "operation": "Update", "subresource": "status", "time": "8"},
                {"manager": manager, "operation": "Update", "subresource": "status", "time": time},
            ]}})
        };
        let sign = |manager: &str, time: &str| -> BTreeMap<String, Sign> {
            of_status(&(gateway(manager, time), "Gateway a/b".to_owned(), KIC_CONTROLLER))
                .into_iter()
                .collect()
        };
        let before = sign("manager", "1");
        assert_eq!(judge(&before, &before, false), (StandBack::default(), false), "nothing is waited for");
        let (back, open) = judge(&before, &sign("manager", "2"), false);
        assert!(!open && back.0[KIC_CONTROLLER].contains("writes the status of Gateway a/b"), "{back:?}");
        let (back, _) = judge(&BTreeMap::new(), &before, false);
        assert_eq!(Vec::from_iter(back.0.keys()), [KIC_CONTROLLER], "of one that has just been made, too");
        assert_eq!(sign("weir", "2"), BTreeMap::new(), "our own");
    }

    fn own() -> Own {
        Own {
            namespace: "weir".to_owned(),
            lease: "weir-weir-leader".to_owned(),
            namespaces: Vec::new(),
            take_over: false,
        }
    }

    /// An API with a class of Kong's and one of ours, and a Gateway of each whose statuses `manager` wrote last.
    fn api(manager: &'static str, time: &'static str) -> Caller {
        let of = |name: &str, spec: Value| {
            let wrote = json!([{"manager": manager, "subresource": "status", "time": time}]);
            let status = json!({"conditions": [{"type": "Programmed", "status": "True"}]});
            json!({"metadata": {"namespace": "a", "name": name, "managedFields": wrote}, "spec": spec, "status": status})
        };
        let classes = [("kong", KIC_CONTROLLER), ("weir", "weir.dev/gateway-controller")]
            .map(|(name, controller)| of(name, json!({"controllerName": controller})));
        let gateways = ["kong", "weir"].map(|class| of(class, json!({"gatewayClassName": class})));
        let answer = move |request: http::Request<kube::client::Body>| {
            let path = request.uri().path();
            let items = if path.ends_with("/gatewayclasses") { classes.to_vec() } else { gateways.to_vec() };
            let body = json!({"metadata": {}, "items": items}).to_string();
            std::future::ready(Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::from(
                body.into_bytes(),
            ))))
        };
        Caller::new(kube::Client::new(tower::service_fn(answer), "default"), std::sync::Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_installation_stands_back_from_who_writes_statuses_of_kongs_names() {
        let own = own();
        let mut looking = Kongs::default();
        let found = looking.look(&api("manager", "1"), &own, &[]).await.unwrap();
        assert_eq!((found.back, found.is_open, found.is_over), (StandBack::default(), false, false));
        let found = looking.look(&api("manager", "2"), &own, &[]).await.unwrap();
        assert_eq!(Vec::from_iter(found.back.0.keys()), [KIC_CONTROLLER], "and nobody answers for ours");
        tokio::time::advance(LOOK).await;
        let found = looking.look(&api("manager", "2"), &own, &[]).await.unwrap();
        assert!(found.is_over && found.back.0.len() == 1, "{found:?}");
        let ours = api("weir", "1");
        let mut looking = Kongs::default();
        looking.look(&ours, &own, &[]).await.unwrap();
        assert_eq!(looking.look(&api("weir", "2"), &own, &[]).await.unwrap().back, StandBack::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_came_later_takes_nothing_that_is_served() {
        let own = own();
        let mut led = lease("weir-weir-leader", "us", "1", "2026-01-01T00:00:05Z");
        led["metadata"]["namespace"] = json!("weir");
        led["spec"]["leaseTransitions"] = json!(1);
        let found = Kongs::default().look(&Caller::to_nobody(), &own, &[led.clone()]).await.unwrap();
        assert!(found.is_over && !found.is_open && found.back == StandBack::default(), "nothing to look for");
        let later = lease("5b374a9e.konghq.com", "a tenant", "1", "2026-01-01T00:00:06Z");
        // Programmed by us, and by somebody else.
        for (manager, is_open) in [("weir", false), ("manager", true)] {
            let leases = [led.clone(), later.clone()];
            let found = Kongs::default().look(&api(manager, "1"), &own, &leases).await.unwrap();
            assert_eq!((found.is_open, found.back.0.len()), (is_open, usize::from(is_open)), "{manager}");
        }
        let earlier = lease("5b374a9e.konghq.com", "kong", "1", "2026-01-01T00:00:04Z");
        let found = Kongs::default().look(&api("weir", "1"), &own, &[led, earlier]).await.unwrap();
        assert!(found.is_open, "who was there before us is not robbed");
    }

    #[test]
    fn an_installation_that_led_before_does_not_look_at_statuses() {
        let led = |transitions: u64| json!({"spec": {"leaseTransitions": transitions}});
        assert!(is_new(None) && is_new(Some(&led(0))) && !is_new(Some(&led(1))));
    }
}
