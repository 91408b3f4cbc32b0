//! Where the rooms meet: the data plane, the control plane and the API of one process.
//!
//! Owns the threads: the data plane has its own, and control, API, controllers and admin each get a runtime of theirs,
//! so that none can starve another. Invariant: control and data plane know each other only by a pair of channels.

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use weir_control::{ControlConfig, ControlStatus, MaterialCheck, Provision};
use weir_model::limits::Limits;
use weir_model::resource::{Applied, BindReport, Update};
use weir_proxy::{Proxy, ProxyConfig};

use crate::admin::AdminSource;
use crate::cli::ProcessOptions;
use crate::process;
use crate::snapshot::Contents;

/// Updates and answers under way between control and data plane; control sends the next one after an answer.
const CHANNEL: usize = 4;
/// How long requests that are under way may take when a process ends that somebody waits for at a keyboard, where no Gateway's
/// parameters say anything.
pub(crate) const SHORT_DRAIN: Duration = Duration::from_secs(5);

/// Starts the data plane's threads. The seed is the option's or a random one; `limits` hold where no Gateway's parameters say
/// anything.
pub(crate) fn start_proxy(
    options: &ProcessOptions,
    low_port_fallback: bool,
    limits: Limits,
) -> Result<Proxy> {
    process::raise_file_limit();
    let config = ProxyConfig {
        workers: options.workers.map(usize::from),
        seed: options.seed.unwrap_or_else(random_seed),
        low_port_fallback,
        limits,
        ..ProxyConfig::default()
    };
    Proxy::start(config).context("starting the data plane")
}

/// Random enough for phases: std's hasher keys come from the system's randomness.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Settings of a control plane that judges certificates as this program's data plane does.
pub(crate) fn control_config(provision: Provision, status: Arc<ControlStatus>) -> ControlConfig {
    let mut config = ControlConfig { status, ..ControlConfig::new(provision) };
    config.translate.material_check = Some(MaterialCheck {
        certificate: weir_proxy::check_certificate,
        authorities: weir_proxy::check_authorities,
    });
    config
}

/// Runs control over `client` until `shutdown`, each update through `proxy`; `contents` is told.
pub(crate) async fn run_control(
    client: kube::Client,
    proxy: Proxy,
    provision: Provision,
    status: Arc<ControlStatus>,
    contents: Arc<Contents>,
    shutdown: CancellationToken,
) {
    let (updates, mut wanted) = mpsc::channel::<Update>(CHANNEL);
    let (answers, applied) = mpsc::channel(CHANNEL);
    let config = control_config(provision, status);
    let applying = async move {
        let mut binds = proxy.binds();
        let mut sequence = 0_u64;
        loop {
            let answer = tokio::select! {
                update = wanted.recv() => match update {
                    Some(update) => {
                        sequence = update.sequence;
                        contents.give(&update);
                        let applied = proxy.apply(update).await;
                        contents.applied(&applied);
                        with_newest_binds(applied, &mut binds)
                    }
                    None => return,
                },
                // A bind that failed can heal without an update: its port became free.
                changed = binds.changed() => match changed {
                    Ok(()) => Applied { sequence, binds: binds.borrow_and_update().to_vec(), ..Applied::default() },
                    Err(_) => return,
                },
            };
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(weir_control::run(client, updates, applied, config, shutdown), applying);
}

/// The answer with the binds as they are now: one that healed since it was made is told by it, because no change is left to
/// tell of afterwards.
fn with_newest_binds(applied: Applied, binds: &mut watch::Receiver<Arc<[BindReport]>>) -> Applied {
    Applied { binds: binds.borrow_and_update().to_vec(), ..applied }
}

/// Serves until a signal to end, then drains; a second signal ends at once. `leaving` is called at the first, before anything else.
pub(crate) async fn serve_until_signal(proxy: &Proxy, leaving: impl FnOnce()) -> Result<ExitCode> {
    let signal = process::stop_signal().await?;
    leaving();
    eprintln!(
        "weir: {signal}: no new connections after {} s; a second signal ends at once",
        proxy.drain_times()[0].as_secs()
    );
    tokio::select! {
        () = proxy.end() => {}
        again = process::stop_signal() => { again?; }
    }
    Ok(ExitCode::SUCCESS)
}

/// A named thread with a runtime of its own, for a task that ends by itself (on a cancelled token).
pub(crate) struct Room {
    name: &'static str,
    thread: JoinHandle<()>,
}

impl Room {
    /// One thread for the room's work, or a few where `threads` is more than one.
    pub(crate) fn start<F>(name: &'static str, threads: usize, work: F) -> Result<Room>
    where
        F: AsyncFnOnce() + Send + 'static,
    {
        let mut builder = match threads {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(threads).thread_name(name).enable_all().build()?;
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(work());
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
        Ok(Room { name, thread })
    }

    /// Waits for the thread; a panic in it is reported, not passed on.
    pub(crate) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!(room = self.name, "a thread ended by a panic");
        }
    }
}

/// Runs `future` on a runtime of its own, for callers that have none.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// What the admin port tells of a gateway process.
pub(crate) struct GatewayReport {
    pub(crate) proxy: Proxy,
    pub(crate) control: Arc<ControlStatus>,
    pub(crate) contents: Arc<Contents>,
}

impl AdminSource for GatewayReport {
    fn ready(&self) -> Result<(), String> {
        if !self.control.ready() {
            return Err("the first lists of objects are not complete".to_owned());
        }
        if self.control.applied_sequence.get() == 0 {
            return Err("the data plane does not run a snapshot yet".to_owned());
        }
        Ok(())
    }

    fn metrics(&self) -> String {
        self.proxy.metrics() + &self.control.render()
    }

    fn splits(&self) -> BoxFuture<'_, Value> {
        futures::future::ready(splits(&self.proxy)).boxed()
    }

    fn snapshot(&self) -> Value {
        self.contents.json(self.ready().is_ok())
    }
}

/// What a data plane served, as `/splits` tells it.
pub(crate) fn splits(proxy: &Proxy) -> Value {
    let rules: Vec<Value> = proxy.splits().iter().map(split_json).collect();
    json!({ "rules": rules })
}

fn split_json(report: &weir_model::split::SplitReport) -> Value {
    let backend = |share: &weir_model::split::BackendShare| {
        let name = share.backend.strip_prefix("backend/").unwrap_or(&share.backend);
        let name = name
            .rsplit_once('/')
            .map_or_else(|| name.to_owned(), |(service, port)| format!("{service}:{port}"));
        json!({
            "backend": name,
            "weight": share.weight,
            "served": share.served,
            "servedTotal": share.served_total,
            "invalid": &*share.invalid_reason,
        })
    };
    let rule = if report.rule.is_empty() { report.rule_index.to_string() } else { report.rule.to_string() };
    json!({
        "route": report.route_label(),
        "rule": rule,
        "epoch": report.epoch,
        "tickets": report.tickets,
        "period": report.period,
        "maxDeviation": report.max_deviation,
        "deviationChecked": report.deviation_checked,
        "backends": report.backends.iter().map(backend).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(error: &str) -> BindReport {
        BindReport {
            address: "127.0.0.1".to_owned(),
            port: 80,
            error: error.to_owned(),
            ..BindReport::default()
        }
    }

    #[test]
    fn a_bind_that_heals_between_an_update_and_its_answer_is_told() {
        let (reports, mut binds) = watch::channel::<Arc<[BindReport]>>(Arc::from([report("in use")]));
        let applied = Applied { sequence: 7, binds: vec![report("in use")], ..Applied::default() };
        reports.send_replace(Arc::from([report("")]));
        let answer = with_newest_binds(applied, &mut binds);
        assert_eq!((answer.sequence, answer.binds), (7, vec![report("")]));
        assert!(!binds.has_changed().expect("the sender lives"), "it is told once");
    }
}
