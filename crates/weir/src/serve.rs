//! `weir serve -f DIR`: the objects of a directory, watched, without an API socket.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use kube::Api;
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};
use tokio_util::sync::CancellationToken;
use weir_apiserver::ApiServer;
use weir_apiserver::loader::{self, LoadError, Loader, Watch};
use weir_control::{ControlStatus, Fixed, Provision};
use weir_model::limits::Limits;

use crate::admin::{self, AdminSource};
use crate::cli::ServeOptions;
use crate::files;
use crate::status;
use crate::wire::{self, GatewayReport, Room, SHORT_DRAIN};

/// A status follows its object a moment later: problems that are gone by then are none. Unit: time. Source: ours.
const SETTLE: Duration = Duration::from_millis(200);

/// The longest for which statuses that keep changing are not told. Unit: time. Source: ours.
const LONGEST_UNTOLD: Duration = Duration::from_secs(2);

/// Start-up takes milliseconds; this only ends what hangs.
const START_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn run(options: &ServeOptions) -> Result<ExitCode> {
    let api = files::server(options.channel)?;
    let mut loader = Loader::new(&options.files);
    // Watched before it is read, so that no change falls in between.
    let watch =
        Watch::start(&options.files).with_context(|| format!("-f: watching {}", options.files.display()))?;
    let (_, errors) = files::load(&mut loader, &options.files, &api)?;
    tell(&errors);

    let drain_delay = Duration::from_secs(u64::from(options.drain_delay));
    let limits = Limits { drain_delay, drain_timeout: SHORT_DRAIN, ..Limits::default() };
    let proxy = wire::start_proxy(&options.process, false, limits)?;
    let shutdown = CancellationToken::new();
    let control = Arc::new(ControlStatus::default());
    let report =
        Arc::new(GatewayReport { proxy: proxy.clone(), control: control.clone(), contents: Arc::default() });
    let admin = admin::start(options.process.admin, report.clone(), shutdown.clone())?;
    let provision = Provision::Fixed(Fixed::new(options.address));
    let rooms = vec![
        {
            let (api, proxy, stop) = (api.clone(), proxy.clone(), shutdown.clone());
            let contents = report.contents.clone();
            Room::start("weir-control", 1, async move || {
                wire::run_control(api.client(), proxy, provision, control, contents, stop).await;
            })?
        },
        {
            let (api, stop) = (api.clone(), shutdown.clone());
            Room::start("weir-files", 1, async move || {
                let following = loader::follow(loader, watch, api.clone(), errors, tell, stop.clone());
                tokio::join!(following, tell_statuses(&api, stop));
            })?
        },
    ];
    let outcome = wait_until_ready(report.as_ref()).and_then(|()| {
        println!("ready: serving {}, admin port at http://{admin}", options.files.display());
        wire::block_on(wire::serve_until_signal(&proxy, || ()))
    });
    shutdown.cancel();
    rooms.into_iter().for_each(Room::join);
    outcome
}

fn wait_until_ready(report: &GatewayReport) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    while let Err(missing) = report.ready() {
        if Instant::now() > deadline {
            bail!("not ready after {START_TIMEOUT:?}: {missing}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// All that is wrong with the files; what is good of them is served.
fn tell(errors: &[LoadError]) {
    for error in errors {
        eprintln!("weir: {error}");
    }
    if errors.is_empty() {
        eprintln!("weir: all files are good");
    }
}

/// Tells of each object's problems when they come and when they have gone.
async fn tell_statuses(api: &ApiServer, shutdown: CancellationToken) {
    let mut watches = Vec::new();
    for kind in status::stated_kinds() {
        // A kind that is not served has nothing to tell.
        let Ok(Some((resource, _))) = status::served(&api.client(), kind, None).await else { continue };
        let api = Api::<DynamicObject>::all_with(api.client(), &resource);
        let changes = watcher(api, watcher::Config::default()).applied_objects();
        watches.push(changes.map(move |object| (kind, object)).boxed());
    }
    let mut objects = futures::stream::select_all(watches);
    let mut told = BTreeMap::new();
    let mut changed = BTreeMap::new();
    let mut first_change = Instant::now();
    loop {
        let settled = async {
            let longest = (first_change + LONGEST_UNTOLD).saturating_duration_since(Instant::now());
            tokio::time::sleep(SETTLE.min(longest)).await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            next = objects.next() => {
                let Some((kind, object)) = next else { return };
                // A watch that broke is taken up again by the stream itself.
                let Ok(object) = object else { continue };
                if changed.is_empty() {
                    first_change = Instant::now();
                }
                let title = format!("{kind} {}", status::name(&object));
                changed.insert(title, status::all_problems(&object));
            }
            () = settled, if !changed.is_empty() => {
                for (title, problems) in std::mem::take(&mut changed) {
                    tell_changes(&mut told, title, problems);
                }
            }
        }
    }
}

/// Tells of an object's problems that were not told yet, or that there are none any more.
fn tell_changes(told: &mut BTreeMap<String, Vec<String>>, title: String, problems: Vec<String>) {
    let before = told.remove(&title).unwrap_or_default();
    for problem in problems.iter().filter(|problem| !before.contains(problem)) {
        eprintln!("weir: {title}: {problem}");
    }
    if problems.is_empty() {
        if !before.is_empty() {
            eprintln!("weir: {title}: in order now");
        }
    } else {
        told.insert(title, problems);
    }
}
