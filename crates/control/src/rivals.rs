//! Other controllers that live and answer for names of ours: Kong's, and other installations of Weir.
//!
//! Owns the look before anything is written to a class: election Leases in every namespace that may be read, and beside them the other
//! signs of Kong's controllers ([`kongs`]). Invariants: while it is not known whether a controller of Kong's lives nothing is told, and so
//! nothing translated; one lives whose signs change while we look, whatever the times in them say; what was found of Kong holds for
//! the life of this process, so that a rival that restarts, or dies for a moment, is not robbed. Of several installations of Weir that
//! read a common namespace the one whose Lease is the oldest answers, alive or not, until its Lease goes with it; the others see
//! that within seconds. Deliberately absent: taking over from Kong, which is an order.

mod kongs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_api::kong::{CONTROLLERS, KIC_CONTROLLER, OPERATOR_CONTROLLER};

use self::kongs::{Found, Kongs};
use crate::backoff::Backoff;
use crate::call::{CallError, Caller, percent_encode};
use crate::lease::{LEASE_END, LEASE_LABEL, LEASES, NAMESPACES_ANNOTATION};
use crate::metrics::ControlStatus;
use crate::provision::cluster::instance;
use crate::source::{RETRY_CAP, RETRY_FIRST};
use crate::status_writer::OurNames;

const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// How often other installations of Weir are looked for.
const LOOK_FOR_OURS: Duration = Duration::from_secs(5);

/// The installations of Weir that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installations {
    /// As [`instance`] names them; `None` where not all can be seen.
    pub(crate) instances: Option<BTreeSet<String>>,
    /// No other was there before, be it for namespaces that are not read here: what is of no namespace is for the first to write.
    pub(crate) is_first: bool,
    /// The only namespaces that any of them reads; none: all.
    pub(crate) namespaces: BTreeSet<String>,
}

impl Installations {
    /// Nobody else is there, or can be seen.
    pub(crate) fn alone(namespaces: &[String]) -> Installations {
        Installations { instances: None, is_first: true, namespaces: namespaces.iter().cloned().collect() }
    }

    fn of(own: &Own, all: &[Installation], are_all: bool) -> Installations {
        let names = || all.iter().map(|one| instance(&one.namespace, one.release()));
        let is_everywhere = own.namespaces.is_empty() || all.iter().any(|one| one.namespaces.is_empty());
        let read = all.iter().flat_map(|one| &one.namespaces).chain(&own.namespaces);
        Installations {
            instances: are_all.then(|| names().collect()),
            is_first: before(own, all).next().is_none(),
            namespaces: if is_everywhere { BTreeSet::new() } else { read.cloned().collect() },
        }
    }
}

/// Controllers that others answer for, each with how that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StandBack(pub(crate) BTreeMap<String, String>);

impl StandBack {
    /// The names that are ours all the same.
    pub(crate) fn ours(&self) -> OurNames {
        let ours = CONTROLLERS.iter().filter(|name| !self.0.contains_key(**name));
        OurNames(ours.map(|name| (*name).to_owned()).collect())
    }

    /// Nobody may be seen: Kong's names are left alone unless there is an order, and the others are nobody else's that is known.
    fn blind(take_over: bool) -> StandBack {
        let why = "Leases may not be listed (list leases.coordination.k8s.io), so whether a controller of Kong's lives is not known";
        let names = [KIC_CONTROLLER, OPERATOR_CONTROLLER].into_iter().filter(|_| !take_over);
        StandBack(names.map(|name| (name.to_owned(), why.to_owned())).collect())
    }

    /// Another installation answers for every name.
    fn for_all(first: &Installation) -> StandBack {
        let Installation { made, namespace, lease, .. } = first;
        let release = first.release();
        let why = format!(
            "installation {release} of Weir in namespace {namespace} was there first (Lease {namespace}/{lease}, made {made}). \
             Uninstall one of the two (or delete that Lease, if nothing else is left of it), or give each namespaces of its own \
             (watchNamespaces)"
        );
        StandBack(CONTROLLERS.iter().map(|name| ((*name).to_owned(), why.clone())).collect())
    }
}

/// This installation, among others of Weir.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) namespace: String,
    /// The name of its Lease.
    pub(crate) lease: String,
    /// The only namespaces that it reads; none: all.
    pub(crate) namespaces: Vec<String>,
    /// It was told to answer for Kong's names, whoever lives.
    pub(crate) take_over: bool,
}

impl Own {
    fn is_lease(&self, lease: &Value) -> bool {
        let metadata = &lease["metadata"];
        metadata["namespace"] == *self.namespace && metadata["name"] == *self.lease
    }
}

/// Looks for rivals until shutdown, and tells of each change.
pub(crate) async fn look(
    caller: Caller,
    own: Own,
    status: Arc<ControlStatus>,
    found: watch::Sender<Option<StandBack>>,
    installations: watch::Sender<Option<Installations>>,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = find(&caller, &own, &status, &found, &installations) => {}
    }
}

async fn find(
    caller: &Caller,
    own: &Own,
    status: &ControlStatus,
    found: &watch::Sender<Option<StandBack>>,
    installations: &watch::Sender<Option<Installations>>,
) {
    let mut kongs = (!own.take_over).then(Kongs::default);
    let mut settled = StandBack::default();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    loop {
        // Kong's Leases have no label in common.
        let label = kongs.is_none().then_some(LEASE_LABEL);
        let (leases, are_all) = match leases(caller, &own.namespaces, label).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "cannot look for other controllers");
                if error.is_denied() && found.borrow().is_none() {
                    installations.send_replace(Some(Installations::alone(&own.namespaces)));
                    tell(StandBack::blind(own.take_over), status, found);
                }
                tokio::time::sleep(backoff.next_wait()).await;
                continue;
            }
        };
        backoff.reset();
        let mut is_open = false;
        if let Some(looking) = &mut kongs {
            match looking.look(caller, own, &leases).await {
                Ok(Found { back, is_open: open, is_over }) => {
                    (settled, is_open) = (back, open);
                    kongs = kongs.filter(|_| !is_over);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot look for other controllers");
                    tokio::time::sleep(backoff.next_wait()).await;
                    continue;
                }
            }
        }
        let all: Vec<Installation> = leases.iter().filter_map(Installation::of).collect();
        let seen = Some(Installations::of(own, &all, are_all));
        installations.send_if_modified(|known| {
            let is_news = *known != seen;
            *known = seen;
            is_news
        });
        match first_installation(own, &all) {
            Some(first) => tell(StandBack::for_all(first), status, found),
            None if !is_open => tell(settled.clone(), status, found),
            None => wait_for(&settled, status),
        }
        tokio::time::sleep(if kongs.is_some() { LOOK_AGAIN } else { LOOK_FOR_OURS }).await;
    }
}

/// Whether a controller of Kong's lives is not known yet: nothing is said of any class until it is, so that no data plane is told to
/// close what a predecessor of this process had opened.
fn wait_for(open: &StandBack, status: &ControlStatus) {
    if status.left_alone() == open.0 {
        return;
    }
    for (controller, why) in &open.0 {
        tracing::info!(controller, why, "nothing is translated until that is known");
    }
    status.set_left_alone(open.0.clone());
}

fn tell(back: StandBack, status: &ControlStatus, found: &watch::Sender<Option<StandBack>>) {
    found.send_if_modified(|known| {
        if known.as_ref() == Some(&back) {
            return false;
        }
        for (controller, why) in &back.0 {
            tracing::warn!(controller, why, "classes of this controller name are left alone");
        }
        let before = known.iter().flat_map(|known| known.0.keys());
        for controller in before.filter(|name| !back.0.contains_key(*name)) {
            tracing::info!(controller, "classes of this controller name are answered for from now on");
        }
        status.set_left_alone(back.0.clone());
        *known = Some(back);
        true
    });
}

/// The Lease of an installation of Weir.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Installation {
    /// As the API server wrote it: in their order as text.
    made: String,
    namespace: String,
    lease: String,
    /// The only namespaces that it reads; none: all.
    namespaces: Vec<String>,
}

impl Installation {
    fn of(lease: &Value) -> Option<Installation> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &lease["metadata"];
        let (label, value) = LEASE_LABEL.split_once('=')?;
        let name = metadata["name"].as_str().filter(|name| name.ends_with(LEASE_END))?;
        if metadata["labels"][label] != value {
            return None;
        }
        let namespaces = text(&metadata["annotations"][NAMESPACES_ANNOTATION]);
        let namespaces = namespaces.split(',').map(str::to_owned).filter(|name| !name.is_empty());
        Some(Installation {
            made: text(&metadata["creationTimestamp"]),
            namespace: text(&metadata["namespace"]),
            lease: name.to_owned(),
            namespaces: namespaces.collect(),
        })
    }

    fn release(&self) -> &str {
        self.lease.strip_suffix(LEASE_END).unwrap_or(&self.lease)
    }

    fn is(&self, own: &Own) -> bool {
        self.namespace == own.namespace && self.lease == own.lease
    }

    fn meets(&self, namespaces: &[String]) -> bool {
        let is_everywhere = self.namespaces.is_empty() || namespaces.is_empty();
        is_everywhere || self.namespaces.iter().any(|name| namespaces.contains(name))
    }
}

/// The other installations that were there before this one. One that has no Lease was not there before anybody.
fn before<'a>(own: &Own, all: &'a [Installation]) -> impl Iterator<Item = &'a Installation> {
    let ours = all.iter().find(|one| one.is(own));
    all.iter().filter(move |one| !one.is(own) && ours.is_none_or(|ours| *one < ours))
}

/// The first of them that reads what this one reads, if there is one.
fn first_installation<'a>(own: &Own, all: &'a [Installation]) -> Option<&'a Installation> {
    before(own, all).filter(|one| one.meets(&own.namespaces)).min()
}

/// All Leases, or those of the namespaces that may be read; those with a label (`NAME=VALUE`), or any. Whether these are all.
async fn leases(
    caller: &Caller,
    namespaces: &[String],
    label: Option<&str>,
) -> Result<(Vec<Value>, bool), CallError> {
    let selector = label.map(|label| format!("?labelSelector={}", percent_encode(label))).unwrap_or_default();
    let path = |namespace: &str| format!("{}{selector}", LEASES.path(namespace, ""));
    match caller.list(&path(""), false).await {
        Ok((_, leases)) => return Ok((leases, true)),
        Err(error) if error.is_denied() && !namespaces.is_empty() => {}
        Err(error) => return Err(error),
    }
    let mut all = Vec::new();
    for namespace in namespaces {
        all.extend(caller.list(&path(namespace), false).await?.1);
    }
    Ok((all, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn installation(made: u32, namespace: &str, reads: Option<&str>) -> Value {
        let annotations = reads.map(|reads| json!({ NAMESPACES_ANNOTATION: reads }));
        json!({"metadata": {
            "namespace": namespace,
            "name": "weir-weir-leader",
            "labels": {"app.kubernetes.io/part-of": "weir"},
            "annotations": annotations,
            "creationTimestamp": format!("2026-01-01T00:00:{made:02}Z"),
        }})
    }

    fn own(namespace: &str, reads: &[&str]) -> Own {
        Own {
            namespace: namespace.to_owned(),
            lease: "weir-weir-leader".to_owned(),
            namespaces: reads.iter().map(|name| (*name).to_owned()).collect(),
            take_over: true,
        }
    }

    fn read(leases: &[Value]) -> Vec<Installation> {
        leases.iter().filter_map(Installation::of).collect()
    }

    fn first_for<'a>(namespace: &str, reads: &[&str], all: &'a [Installation]) -> Option<&'a str> {
        first_installation(&own(namespace, reads), all).map(|first| first.namespace.as_str())
    }

    #[test]
    fn of_several_installations_exactly_one_answers() {
        let all =
            read(&[installation(3, "c", None), installation(1, "b", Some("")), installation(1, "a", None)]);
        assert_eq!(["a", "b", "c"].map(|of| first_for(of, &[], &all)), [None, Some("a"), Some("a")]);
        // Without a Lease of its own it is the last.
        assert_eq!(first_for("d", &[], &all), Some("a"));
        assert_eq!(first_for("d", &[], &[]), None);
        let back = StandBack::for_all(first_installation(&own("c", &[]), &all).unwrap());
        assert_eq!(back.ours().0, [] as [String; 0]);
        let why = &back.0["weir.dev/gateway-controller"];
        assert!(why.contains("installation weir of Weir in namespace a"), "{why}");
    }

    #[test]
    fn of_installations_that_do_not_meet_one_writes_what_is_of_no_namespace() {
        let all = read(&[installation(1, "a", Some("a,x")), installation(2, "b", Some("b,y"))]);
        let of = |namespace: &str, reads: &[&str]| Installations::of(&own(namespace, reads), &all, true);
        let (a, b) = (of("a", &["a", "x"]), of("b", &["b", "y"]));
        assert!(a.is_first && !b.is_first);
        assert_eq!(a.namespaces, b.namespaces, "whoever writes tells of both");
        assert_eq!(Vec::from_iter(&a.namespaces), ["a", "b", "x", "y"]);
        assert_eq!(a.instances.unwrap(), BTreeSet::from(["a.weir".to_owned(), "b.weir".to_owned()]));
        let alone = Installations::of(&own("a", &[]), &all[..1], false);
        assert!(alone.is_first && alone.namespaces.is_empty(), "it reads all of them");
        assert_eq!(alone.instances, None, "who else is there cannot be seen");
    }

    #[test]
    fn installations_with_namespaces_of_their_own_do_not_meet() {
        let all = read(&[installation(1, "a", Some("a,x")), installation(2, "b", None)]);
        assert_eq!(first_for("b", &["b", "y"], &all), None);
        assert_eq!(first_for("b", &["b", "x"], &all), Some("a"));
        assert_eq!(first_for("b", &[], &all), Some("a"), "it reads the other's too");
        let mut other = installation(1, "a", None);
        other["metadata"]["labels"] = json!({"app.kubernetes.io/part-of": "else"});
        assert_eq!(read(&[other]), [], "not of Weir");
    }

    #[test]
    fn who_may_not_look_leaves_kongs_names_alone_and_serves_the_others() {
        assert_eq!(StandBack::blind(false).ours().0, ["weir.dev/gateway-controller"]);
        assert_eq!(StandBack::blind(true), StandBack::default());
    }
}
