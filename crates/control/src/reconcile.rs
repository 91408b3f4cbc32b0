//! The loop: watch events into objects, objects through translation, updates to the data plane, statuses back.
//!
//! One task owns the objects and the translator. Invariants: nothing is translated before every kind's first list is
//! complete; no timer lies between an event and its update (events that are already there are taken in together, and
//! a data plane that is busy is the only thing that is waited for); updates are numbered without gaps; an object that
//! cannot be read keeps its last good form. Deliberately absent: calls that this loop would wait for (reads, statuses,
//! Events and provisioned objects have tasks of their own).

mod addresses;
mod gate;
mod intake;
mod nodes;
mod reach;
mod reads;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_core::{Diagnostic, Kind, ObjectKey, Objects, Output, Status, Translator};
use weir_model::resource::{Applied, DataPlaneName, KindVersion, Update};

pub(crate) use self::addresses::Provisioning;
use self::gate::{Gate, Grounds};
use self::nodes::Nodes;
use self::reads::{Answer, Found, Reads};
use self::words::Readable;
use crate::call::Caller;
use crate::events::{Finding, Recorder, Severity};
use crate::kinds::{Versions, api_version};
use crate::lease::Leader;
use crate::metrics::{ControlStatus, micros};
use crate::rivals::{Installations, StandBack};
use crate::source::{SourceEvent, places};
use crate::status_writer::StatusWriter;

/// How long a reference that has not been seen, or a new Service without EndpointSlices, is waited for.
const REFERENCE_WAIT: Duration = Duration::from_secs(1);

/// What is not there is remembered without a look at it up to here. Unit: objects. Source: ours.
const REMEMBERED: usize = 2_048;

/// The longest sleep until a certificate's validity begins or ends: the time of day may be set meanwhile.
const LONGEST_TURN_WAIT: Duration = Duration::from_secs(600);

/// The hands of the loop.
pub(crate) struct Tools {
    pub(crate) caller: Caller,
    pub(crate) status: Arc<ControlStatus>,
    pub(crate) statuses: StatusWriter,
    pub(crate) recorder: Recorder,
    /// The only namespaces that are read; none: all.
    pub(crate) namespaces: Vec<String>,
}

/// The lists that have to be complete before anything is translated.
fn unlisted(namespaces: &[String]) -> BTreeSet<(Kind, String)> {
    let of_kind = |kind| places(kind, namespaces).into_iter().map(move |namespace| (kind, namespace));
    Kind::ALL.into_iter().flat_map(of_kind).collect()
}

pub(crate) struct Reconciler {
    tools: Tools,
    objects: Objects,
    translator: Translator,
    provisioning: Provisioning,
    gate: Gate,
    reads: Reads,
    nodes: Nodes,
    /// What changed since the last translation.
    changed: BTreeSet<ObjectKey>,
    /// Something other than an object changed: binds, or the first list is complete.
    stirred: bool,
    versions: Versions,
    /// The newest version seen of each kind.
    seen: BTreeMap<Kind, String>,
    /// The version of the newest change seen of each kind.
    changes: BTreeMap<Kind, String>,
    /// Some of that is newer than what the last update told.
    untold: bool,
    /// Kinds whose first list has not come, by the namespace that is listed.
    unlisted: BTreeSet<(Kind, String)>,
    listed: BTreeSet<Kind>,
    /// What every class is told of the kinds that the API serves.
    readable: Readable,
    /// So much may be remembered of what is not there before it is gone through.
    remember: usize,
    /// When to stop waiting for a reference.
    waits: BTreeMap<ObjectKey, Instant>,
    sequence: u64,
    /// When the oldest event came that is not in an update yet.
    oldest_event: Option<Instant>,
    /// Updates without an answer, with the time of their oldest event.
    unanswered: VecDeque<(u64, Instant)>,
    /// Whether this process leads, and so says anything.
    leading: bool,
    leader: watch::Receiver<Leader>,
    /// Controllers for which another controller answers; `None` until that is known.
    standing_back: watch::Receiver<Option<StandBack>>,
    installations: watch::Receiver<Option<Installations>>,
    /// Statuses of classes are this installation's to write, and no other's.
    writes_classes: bool,
}

impl Reconciler {
    pub(crate) fn new(
        tools: Tools,
        translator: Translator,
        provisioning: Provisioning,
        standing_back: watch::Receiver<Option<StandBack>>,
        installations: watch::Receiver<Option<Installations>>,
    ) -> Reconciler {
        Reconciler {
            reads: Reads::new(tools.caller.clone(), tools.namespaces.clone()),
            nodes: Nodes::new(tools.caller.clone()),
            leading: false,
            leader: tools.caller.leadership().watch(),
            standing_back,
            installations,
            writes_classes: false,
            unlisted: unlisted(&tools.namespaces),
            readable: Readable::default(),
            tools,
            objects: Objects::new(),
            translator,
            provisioning,
            gate: Gate::default(),
            changed: BTreeSet::new(),
            stirred: false,
            versions: Versions::new(),
            seen: BTreeMap::new(),
            changes: BTreeMap::new(),
            untold: false,
            listed: BTreeSet::new(),
            remember: REMEMBERED,
            waits: BTreeMap::new(),
            sequence: 0,
            oldest_event: None,
            unanswered: VecDeque::new(),
        }
    }

    /// Run until shutdown, or until the data plane or the watches are gone.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<SourceEvent>,
        updates: mpsc::Sender<Update>,
        mut applied: mpsc::Receiver<Applied>,
        shutdown: CancellationToken,
    ) {
        self.look_around();
        self.stand_back();
        self.follow_leader();
        let moved = self.provisioning.moved();
        loop {
            let room_wanted = self.has_work() || self.is_further();
            let deadline = self.next_deadline();
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.recv() => match event {
                    Some(event) => self.take_in(event),
                    None => return ended("watches", &shutdown),
                },
                report = applied.recv() => match report {
                    Some(report) => self.take_report(&report),
                    None => return ended("data plane", &shutdown),
                },
                answer = self.reads.next() => self.take_answer(answer),
                look = self.nodes.next() => {
                    let slices = self.nodes.looked(look, &self.objects, Instant::now());
                    self.put_slices(slices);
                }
                room = updates.reserve(), if room_wanted => if room.is_err() {
                    return ended("data plane", &shutdown);
                },
                () = until(deadline) => {
                    self.waive(Instant::now());
                    let slices = self.nodes.tick(Instant::now());
                    self.put_slices(slices);
                    self.stirred |= self.translator.next_turn().is_some_and(|at| at <= seconds_of_day());
                    self.stirred |= self.provisioning.next_turn().is_some_and(|at| at <= Instant::now());
                }
                () = moved.notified() => {
                    self.provisioning.look_again();
                    self.stirred = true;
                }
                Ok(()) = self.leader.changed() => self.follow_leader(),
                Ok(()) = self.installations.changed() => self.look_around(),
                Ok(()) = self.standing_back.changed() => self.stand_back(),
            }
            // Whatever else is there already belongs to the same step.
            while let Ok(report) = applied.try_recv() {
                self.take_report(&report);
            }
            while let Ok(event) = events.try_recv() {
                self.take_in(event);
            }
            if self.has_work() {
                self.oldest_event.get_or_insert_with(Instant::now);
                match updates.try_reserve() {
                    Ok(room) => {
                        if let Some(update) = self.step() {
                            room.send(update);
                        }
                    }
                    Err(TrySendError::Full(())) => {}
                    Err(TrySendError::Closed(())) => return ended("data plane", &shutdown),
                }
            }
            if self.is_further()
                && let Ok(room) = updates.try_reserve()
            {
                room.send(self.only_versions());
            }
            self.release();
        }
    }

    fn has_work(&self) -> bool {
        let may =
            self.unlisted.is_empty() && self.standing_back.borrow().is_some() && self.provisioning.is_ready();
        may && (self.stirred || !self.changed.is_empty())
    }

    /// Whether everything that was sent stands for newer versions than were told with it, and whoever distributes it has to know: a
    /// data plane refuses what is older than what another replica sent it, and of a status that somebody wrote no update tells.
    fn is_further(&self) -> bool {
        let is_in = self.sequence > 0 && !self.stirred && self.changed.is_empty();
        self.untold && is_in && self.provisioning.distributes()
    }

    /// Begin or end to speak. Whoever begins says everything again, for what the leader before said last is not known.
    fn follow_leader(&mut self) {
        let leads = matches!(*self.leader.borrow_and_update(), Leader::Own { .. });
        self.tools.status.leader.set(u64::from(leads));
        if leads == std::mem::replace(&mut self.leading, leads) {
            return;
        }
        if !leads {
            self.tools.statuses.fall_silent();
            return;
        }
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.has_status());
        let keys: Vec<ObjectKey> =
            kinds.flat_map(|kind| self.objects.of_kind(kind)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some(status) = self.translator.status(&key).cloned() {
                self.offer(key, status);
            }
        }
        for diagnostic in self.translator.diagnostics() {
            self.report(diagnostic.clone());
        }
        for (gateway, said) in self.provisioning.notices() {
            self.say(&gateway, said);
        }
    }

    /// Of installations with namespaces of their own one writes the statuses of classes, which are of no namespace, and tells of all.
    fn look_around(&mut self) {
        let Some(seen) = self.installations.borrow_and_update().clone() else { return };
        self.writes_classes = seen.is_first;
        self.readable.namespaces = seen.namespaces;
        if self.writes_classes {
            return self.rewrite_classes();
        }
        for (key, _) in self.objects.of_kind(Kind::GatewayClass) {
            self.tools.statuses.let_be(key);
        }
    }

    /// Leave the classes of other controllers that live alone.
    fn stand_back(&mut self) {
        let Some(back) = self.standing_back.borrow_and_update().clone() else { return };
        self.tools.statuses.answer_for(back.ours());
        self.translator.set_standing_back(back.0);
        self.stirred = true;
    }

    /// One translation of everything that changed, with the addresses that it asks for; the update to send.
    fn step(&mut self) -> Option<Update> {
        let started = Instant::now();
        if !self.tools.status.ready() {
            self.provisioning.remember(&mut self.objects);
        }
        let changed: Vec<ObjectKey> = std::mem::take(&mut self.changed).into_iter().collect();
        self.stirred = false;
        self.translator.set_time(seconds_of_day());
        let mut output = self.translator.translate(&self.objects, &changed);
        self.tools.status.translations.add(1);
        let moved = self.provisioning.follow(&output, &changed, &mut self.objects, &self.versions);
        if !moved.is_empty() {
            let rest = self.translator.translate(&self.objects, &moved);
            self.tools.status.translations.add(1);
            words::append(&mut output, rest);
        }
        self.forget_absent();
        self.tools.status.awaited_references.set(self.translator.waits().len() as u64);
        self.tools.status.translation_last_micros.set(micros(started.elapsed()));
        let update = self.number(&mut output);
        self.follow_up(output);
        for (gateway, said) in self.provisioning.take_notices() {
            self.say(&gateway, said);
        }
        self.tools.status.set_ready();
        update
    }

    /// Everything that was ever deleted would be remembered as long as this process runs. To go through it costs no more than
    /// what was deleted since.
    fn forget_absent(&mut self) {
        if self.objects.remembered() >= self.remember {
            let translator = &self.translator;
            self.objects.forget(|key| translator.is_read(key));
            self.remember = REMEMBERED.max(self.objects.remembered() * 2);
        }
        self.tools.status.remembered_absent.set(self.objects.remembered() as u64);
    }

    /// Give the update its number; `None` if there is nothing in it.
    fn number(&mut self, output: &mut Output) -> Option<Update> {
        let oldest = self.oldest_event.take();
        if output.update_is_empty() {
            return None;
        }
        let now = Instant::now();
        let mut update = std::mem::take(&mut output.update);
        self.sequence += 1;
        update.sequence = self.sequence;
        let awaited = self.translator.waits().len() + output.wants.len() + self.reads.len();
        update.settled = awaited == 0;
        update.versions = self.tell_versions();
        let touched = update.upserts.iter().map(|resource| resource.key().to_owned());
        self.gate.sent(self.sequence, touched.chain(update.removals.iter().cloned()).collect(), now);
        self.unanswered.push_back((self.sequence, oldest.unwrap_or(now)));
        self.tools.status.updates.add(1);
        Some(update)
    }

    /// The last update again as far as it says how new it is.
    fn only_versions(&mut self) -> Update {
        Update { sequence: self.sequence, versions: self.tell_versions(), ..Update::default() }
    }

    fn tell_versions(&mut self) -> Vec<KindVersion> {
        self.untold = false;
        let told = self.seen.iter().map(|(kind, version)| KindVersion {
            kind: kind.as_str().to_owned(),
            resource_version: version.clone(),
            changed: self.changes.get(kind).cloned().unwrap_or_default(),
        });
        told.collect()
    }

    /// Everything in an output but its update.
    fn follow_up(&mut self, output: Output) {
        for (key, status) in output.statuses {
            self.offer(key, status);
        }
        let now = Instant::now();
        for diagnostic in output.diagnostics {
            self.report(diagnostic);
        }
        for key in output.waits {
            self.waits.entry(key).or_insert(now + REFERENCE_WAIT);
        }
        for key in &output.wants {
            if !self.reads.want(key) {
                self.tools.status.wanted_dropped.add(1);
            }
        }
        self.start_reads();
    }

    fn start_reads(&mut self) {
        let unserved = self.reads.start(&self.versions, self.objects.mark());
        for key in unserved {
            self.objects.confirm_absent(key.clone());
            self.changed.insert(key);
        }
        self.tools.status.wanted_references.set(self.reads.len() as u64);
    }

    fn take_answer(&mut self, answer: Answer) {
        let Answer { key, mark, found } = answer;
        if let Found::Objects(objects) = found {
            let absent = objects.is_empty();
            for object in objects {
                self.upsert(key.kind, object);
            }
            if absent || key.name.is_empty() {
                self.objects.confirm_absent_since(key.clone(), mark);
                self.waits.remove(&key);
            }
            self.changed.insert(key);
        }
        self.start_reads();
    }

    /// The time to wait for some references is over.
    fn waive(&mut self, now: Instant) {
        let over: Vec<ObjectKey> =
            self.waits.iter().filter(|(_, deadline)| **deadline <= now).map(|(key, _)| key.clone()).collect();
        for key in over {
            self.waits.remove(&key);
            self.objects.waive(key.clone());
            self.changed.insert(key);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let waits = self.waits.values().min().copied();
        let turn = self.translator.next_turn().map(|at| {
            let seconds = u64::try_from(at.saturating_sub(seconds_of_day())).unwrap_or_default();
            Instant::now() + Duration::from_secs(seconds).min(LONGEST_TURN_WAIT)
        });
        let reach = self.provisioning.next_turn();
        let nodes = self.nodes.next_deadline();
        waits.into_iter().chain(self.gate.next_deadline()).chain(turn).chain(reach).chain(nodes).min()
    }

    fn take_report(&mut self, report: &Applied) {
        let status = &self.tools.status;
        status.applied_sequence.set(report.sequence);
        status.rejected_resources.set(report.rejected.len() as u64);
        while self.unanswered.front().is_some_and(|(waiting, _)| *waiting <= report.sequence)
            && let Some((_, oldest)) = self.unanswered.pop_front()
        {
            status.event_to_applied_last_micros.set(micros(oldest.elapsed()));
        }
        self.objects.set_binds(&report.binds);
        self.stirred = true;
        let judged_anew = self.gate.applied(report);
        // Data planes in their pods tell each time all that there are.
        let is_news = |key: &String| report.planes.is_empty() || judged_anew.contains(key);
        for rejected in report.rejected.iter().filter(|rejected| is_news(&rejected.key)) {
            self.report_rejected(&rejected.key, &rejected.reason);
        }
        for key in judged_anew.iter().filter_map(|resource| ObjectKey::of_route_resource(resource)) {
            if let Some(status) = self.translator.status(&key).cloned() {
                self.offer(key, status);
            }
        }
        for notice in self.provisioning.learn_binds(&report.binds, &self.objects, &self.versions) {
            let finding = words::remapped(&notice);
            self.say(&notice.gateway, finding);
        }
    }

    fn release(&mut self) {
        for (key, status) in self.gate.release(Instant::now()) {
            self.write(&key, status);
        }
        self.tools.status.status_held.set(self.gate.held() as u64);
    }

    /// Write the status now or when the data plane runs what it claims.
    fn offer(&mut self, key: ObjectKey, status: Status) {
        if !self.leading {
            return;
        }
        let mut gate = std::mem::take(&mut self.gate);
        let offered = gate.offer(key, status, |gateway| self.grounds(gateway), Instant::now());
        self.gate = gate;
        if let Some((key, status)) = offered {
            self.write(&key, status);
        }
    }

    /// What the status of a Gateway or ListenerSet waits for.
    fn grounds(&self, key: &ObjectKey) -> Grounds {
        let gateway = match self.objects.get(key) {
            Some(object) if key.kind == Kind::ListenerSet => object.gateway_of_set(),
            _ => Some(key.clone()),
        };
        let addresses = gateway.as_ref().and_then(|gateway| self.objects.addresses(gateway));
        let binds = addresses.map_or(&[][..], |addresses| &addresses.bind);
        let is_plane = |bind: &&String| DataPlaneName::from_place(bind).is_some();
        let places: Vec<String> = binds.iter().filter(is_plane).cloned().collect();
        // Asked for only where it counts: it takes a lock.
        let was_programmed = !places.is_empty() && self.provisioning.was_programmed(key);
        Grounds { places, was_programmed }
    }

    fn write(&self, key: &ObjectKey, status: Status) {
        let may = self.leading && (self.writes_classes || key.kind != Kind::GatewayClass);
        let Some(object) = self.objects.get(key).filter(|_| may) else { return };
        let metadata = object.metadata();
        let desired = words::desired(status, &self.readable, metadata.generation);
        self.tools.statuses.want(key, &metadata.uid, metadata.generation, desired);
    }

    /// There is something else to say of the kinds that the API serves: every class says so.
    fn rewrite_classes(&self) {
        for (key, _) in self.objects.of_kind(Kind::GatewayClass) {
            if let Some(status) = self.translator.status(key) {
                self.write(key, status.clone());
            }
        }
    }

    fn report(&self, diagnostic: Diagnostic) {
        let severity = match diagnostic.severity {
            weir_core::Severity::Info => Severity::Normal,
            weir_core::Severity::Warning | weir_core::Severity::Error => Severity::Warning,
        };
        let said = words::Said {
            severity,
            reason: diagnostic.reason.to_owned(),
            field: diagnostic.field,
            message: diagnostic.message,
        };
        self.say(&diagnostic.object, said);
    }

    fn report_rejected(&self, resource: &str, reason: &str) {
        tracing::warn!(resource, error = reason, "the data plane rejected a resource");
        if let Some(key) = ObjectKey::of_route_resource(resource) {
            let said = words::Said {
                severity: Severity::Warning,
                reason: "Rejected".to_owned(),
                field: String::new(),
                message: format!("the data plane cannot serve the route: {reason}"),
            };
            self.say(&key, said);
        }
    }

    fn say(&self, key: &ObjectKey, said: words::Said) {
        let Some(object) = self.objects.get(key).filter(|_| self.leading) else { return };
        self.tools.recorder.report(Finding {
            object: key.clone(),
            api_version: api_version(&self.versions, key.kind),
            uid: object.metadata().uid.clone(),
            severity: said.severity,
            reason: said.reason,
            field: said.field,
            message: said.message,
        });
    }
}

/// The time of day, since the Unix epoch.
fn seconds_of_day() -> i64 {
    jiff::Timestamp::now().as_second()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Says that nothing more will come; at a shutdown that is as it should be, whichever part ends first.
fn ended(what: &'static str, shutdown: &CancellationToken) {
    if !shutdown.is_cancelled() {
        tracing::error!(what, "a part that reconciling needs has ended");
    }
}
