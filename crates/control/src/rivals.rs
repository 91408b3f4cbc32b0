//! Other controllers that live and answer for names of ours: Kong's.
//!
//! Owns the look before anything is written to a class of Kong's: their election Leases, by name, in every namespace that
//! is read. Invariants: while it is not known whether a controller lives its classes are left alone; one lives whose
//! Lease changes while we look, whatever the times in it say; what was found holds for the life of this process, so that
//! a rival that restarts, or dies for a moment, is not robbed. Deliberately absent: taking over, which is an order.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_api::kong::{CONTROLLERS, KIC_CONTROLLER, OPERATOR_CONTROLLER};

use crate::backoff::Backoff;
use crate::call::{CallError, Caller};
use crate::lease::LEASES;
use crate::source::{RETRY_CAP, RETRY_FIRST};
use crate::status_writer::OurNames;

/// The Lease of Kong's operator.
const OPERATOR_LEASE: &str = "a7feedc84.konghq.com";
/// Its ingress controller's: the program's default ends so, and that of its chart begins so.
const KIC_LEASE_END: &str = ".konghq.com";
const KIC_LEASE_BEGINNING: &str = "kong-ingress-controller-leader";

/// How long a Lease is looked at for a change: more than twice the 15 s for which one stands.
const LOOK: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// Controllers that others answer for, each with how that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StandBack(pub(crate) BTreeMap<String, String>);

impl StandBack {
    /// The names that are ours all the same.
    pub(crate) fn ours(&self) -> OurNames {
        let ours = CONTROLLERS.iter().filter(|name| !self.0.contains_key(**name));
        OurNames(ours.map(|name| (*name).to_owned()).collect())
    }
}

/// Look for rivals until it is known which live. `namespaces` that may be read; none: all.
pub(crate) async fn look(
    caller: Caller,
    namespaces: Vec<String>,
    found: watch::Sender<Option<StandBack>>,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = find(&caller, &namespaces, &found) => {}
    }
}

async fn find(caller: &Caller, namespaces: &[String], found: &watch::Sender<Option<StandBack>>) {
    let mut first: Option<BTreeMap<String, Held>> = None;
    let mut started = Instant::now();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    loop {
        let held = match held(caller, namespaces).await {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(%error, "cannot look for Kong's controllers");
                tokio::time::sleep(backoff.next_wait()).await;
                continue;
            }
        };
        backoff.reset();
        let before = first.get_or_insert_with(|| {
            started = Instant::now();
            held.clone()
        });
        let over = started.elapsed() >= LOOK;
        let (back, open) = judge(before, &held, over);
        found.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&back);
            *known = Some(back);
            changed
        });
        if !open {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A Lease that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    controller: &'static str,
    holder: String,
    version: String,
}

/// Whom to leave alone, and whether that is still open. `over`: a Lease that has not changed will not.
fn judge(before: &BTreeMap<String, Held>, now: &BTreeMap<String, Held>, over: bool) -> (StandBack, bool) {
    let mut back = StandBack::default();
    let mut open = false;
    for (lease, held) in now {
        let lives = before.get(lease).is_some_and(|before| before.version != held.version);
        if !lives && over {
            continue;
        }
        open |= !lives;
        let Held { controller, holder, .. } = held;
        let why = if lives {
            format!(
                "{holder} answers for {controller}, it renews Lease {lease}. End it and tell Weir to take over (--take-over)"
            )
        } else {
            format!("Lease {lease} is held by {holder}; Weir is finding out whether that still lives")
        };
        back.0.insert((*controller).to_owned(), why);
    }
    (back, open)
}

async fn held(caller: &Caller, namespaces: &[String]) -> Result<BTreeMap<String, Held>, CallError> {
    let everywhere = [String::new()];
    let places = if namespaces.is_empty() { &everywhere[..] } else { namespaces };
    let mut held = BTreeMap::new();
    for namespace in places {
        let (_, leases) = caller.list(&LEASES.path(namespace, ""), false).await?;
        held.extend(leases.iter().filter_map(rival));
    }
    Ok(held)
}

fn rival(lease: &Value) -> Option<(String, Held)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &lease["metadata"];
    let name = metadata["name"].as_str()?;
    let controller = if name == OPERATOR_LEASE {
        OPERATOR_CONTROLLER
    } else if name.ends_with(KIC_LEASE_END) || name.starts_with(KIC_LEASE_BEGINNING) {
        KIC_CONTROLLER
    } else {
        return None;
    };
    let holder = text(&lease["spec"]["holderIdentity"]);
    let version = text(&metadata["resourceVersion"]);
    let key = format!("{}/{name}", text(&metadata["namespace"]));
    (!holder.is_empty()).then_some((key, Held { controller, holder, version }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn leases(all: &[(&str, &str, &str)]) -> BTreeMap<String, Held> {
        let lease = |(name, holder, version): &(&str, &str, &str)| {
            rival(&json!({
                "metadata": {"namespace": "kong", "name": name, "resourceVersion": version},
                "spec": {"holderIdentity": holder},
            }))
        };
        all.iter().filter_map(lease).collect()
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
        assert!(back.0[OPERATOR_CONTROLLER].contains("kong/a7feedc84.konghq.com"));
        assert_eq!(back.ours().0, ["weir.dev/gateway-controller", "konghq.com/kic-gateway-controller"]);
    }

    #[test]
    fn a_lease_that_nobody_holds_or_renews_stands_in_nobodys_way() {
        let free = leases(&[("kong-ingress-controller-leader-kong", "", "1")]);
        assert_eq!(judge(&free, &free, false), (StandBack::default(), false));
        let dead = leases(&[("kong-ingress-controller-leader-kong", "pod", "1")]);
        assert_eq!(judge(&dead, &dead, true), (StandBack::default(), false));
    }
}
