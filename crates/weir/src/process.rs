//! What belongs to the process as a whole: logging, signals, the limit of open files.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Logs go to standard error; `filter` is a directive list such as `info,weir_proxy=debug`.
pub(crate) fn start_logging(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
        eprintln!("weir: --log: {error}; using `warn`");
        EnvFilter::new("warn")
    });
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = subscriber.with_ansi(std::io::stderr().is_terminal()).try_init();
}

/// Resolves at the first SIGINT or SIGTERM. Call it inside a runtime.
pub(crate) async fn stop_signal() -> std::io::Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}

/// Raises the soft limit of open files to the hard one. Every connection and every echo pod's port is a file, and the usual
/// soft limit of 1,024 is for programs that use `select`.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
