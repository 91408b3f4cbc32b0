//! `weir validate -f DIR`: what is wrong, without serving.
//!
//! The whole real path runs, over a data plane that binds nothing, and what it says in statuses and events is printed
//! with file and line.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weir_apiserver::ApiServer;
use weir_apiserver::loader::Loader;
use weir_control::{ControlStatus, Fixed, Provision};
use weir_model::resource::{Applied, BindReport, Body, ListenerProtocol, Update};

use crate::cli::ValidateOptions;
use crate::files::{self, Finding};
use crate::wire;

/// Enough for tens of thousands of objects; what is known by then is told.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing may have happened for so long before the result is read.
const QUIET: Duration = Duration::from_millis(25);

pub(crate) fn run(options: &ValidateOptions) -> Result<ExitCode> {
    let api = files::server(options.channel)?;
    let mut loader = Loader::new(&options.files);
    let (loaded, errors) = files::load(&mut loader, &options.files, &api)?;
    for error in &errors {
        println!("{error}");
    }
    let findings = wire::block_on(translate(&api))?;
    for Finding { object, text } in &findings {
        let source =
            loaded.objects.iter().find(|loaded| loaded.title() == *object).map(|loaded| &loaded.source);
        match source {
            Some(source) => println!("{}:{}: {object}: {text}", source.file.display(), source.line),
            None => println!("{object}: {text}"),
        }
    }
    let count = errors.len() + findings.len();
    if count == 0 {
        println!("{} objects in {}: nothing wrong.", loaded.objects.len(), options.files.display());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{count} findings in {}.", options.files.display());
    Ok(ExitCode::FAILURE)
}

/// Runs control until it has nothing more to do.
async fn translate(api: &ApiServer) -> Result<Vec<Finding>> {
    let status = Arc::new(ControlStatus::default());
    let (updates, wanted) = mpsc::channel(1);
    let (answers, applied) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    let provision = Provision::Fixed(Fixed::new(std::net::Ipv4Addr::LOCALHOST.into()));
    let config = wire::control_config(provision, status.clone());
    let client = api.client();
    let control = weir_control::run(client.clone(), updates, applied, config, shutdown.clone());
    let judge = async {
        settled(&status).await;
        let found = files::findings(&client).await;
        shutdown.cancel();
        found
    };
    let (_, (), found) = tokio::join!(control, accept(wanted, answers), judge);
    found
}

/// Until every queue of control has been empty and nothing was counted for a moment.
async fn settled(status: &ControlStatus) {
    let deadline = Instant::now() + PATIENCE;
    let counted = || {
        let counters = [&status.watch_events, &status.updates, &status.status_writes, &status.events];
        counters.map(|counter| counter.get())
    };
    let busy = || {
        let queues = [
            &status.wanted_references,
            &status.awaited_references,
            &status.status_queue,
            &status.status_held,
        ];
        !status.ready()
            || status.applied_sequence.get() < status.updates.get()
            || queues.iter().any(|queue| queue.get() > 0)
    };
    let mut before = counted();
    while Instant::now() < deadline {
        tokio::time::sleep(QUIET).await;
        let now = counted();
        if !busy() && now == before && status.updates.get() > 0 {
            return;
        }
        before = now;
    }
}

/// A data plane that says yes to every listener.
async fn accept(mut updates: mpsc::Receiver<Update>, answers: mpsc::Sender<Applied>) {
    let mut listeners = std::collections::BTreeMap::new();
    while let Some(update) = updates.recv().await {
        if update.full {
            listeners.clear();
        }
        for key in &update.removals {
            listeners.remove(key);
        }
        for resource in update.upserts {
            if let Some(Body::Listener(listener)) = resource.body {
                listeners.insert(
                    listener.key.clone(),
                    (listener.address, listener.port, listener.protocol == ListenerProtocol::Udp as i32),
                );
            }
        }
        let binds: std::collections::BTreeSet<_> = listeners.values().cloned().collect();
        let report =
            |(address, port, udp)| BindReport { address, port, bound_port: port, error: String::new(), udp };
        let binds = binds.into_iter().map(report).collect();
        let applied = Applied { sequence: update.sequence, binds, ..Applied::default() };
        if answers.send(applied).await.is_err() {
            return;
        }
    }
}
