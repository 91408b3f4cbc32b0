//! What belongs to the process as a whole: logging, signals, the limit of open files, whether there is IPv6.

use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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

/// What the process takes, by the names and in the text form of Prometheus.
pub(crate) fn usage() -> String {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = pages.and_then(|pages| pages.split_whitespace().nth(1)?.parse::<usize>().ok());
    let bytes = resident.unwrap_or_default() * rustix::param::page_size();
    format!(
        "# HELP process_cpu_seconds_total Processor time that the process has taken.\n\
         # TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {}.{:02}\n\
         # HELP process_resident_memory_bytes Memory that the process has.\n\
         # TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {bytes}\n",
        time.tv_sec,
        time.tv_nsec / 10_000_000,
    )
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

/// Where to listen for `address`: all addresses (`[::]`) are those of IPv4 where the kernel has no IPv6.
pub(crate) fn listen_address(address: SocketAddr) -> SocketAddr {
    listen_address_by(address, || std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).map(drop))
}

fn listen_address_by(address: SocketAddr, try_ipv6: impl FnOnce() -> io::Result<()>) -> SocketAddr {
    use rustix::io::Errno;
    if address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return address;
    }
    let without = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(|errno| Some(errno.raw_os_error()));
    match try_ipv6() {
        Err(error) if without.contains(&error.raw_os_error()) => {
            (Ipv4Addr::UNSPECIFIED, address.port()).into()
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_what_it_takes() {
        let value = |name: &str| -> f64 {
            let text = usage();
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect("it is there");
            line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
        };
        assert!(value("process_resident_memory_bytes") > 1e5);
        let before = value("process_cpu_seconds_total");
        while value("process_cpu_seconds_total") < before + 0.02 {
            std::hint::black_box(usage());
        }
    }

    #[test]
    fn without_ipv6_all_addresses_are_those_of_ipv4() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let by = |text, errno: Option<rustix::io::Errno>| {
            let outcome =
                errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno.raw_os_error())));
            listen_address_by(address(text), || outcome).to_string()
        };
        let none = Some(rustix::io::Errno::AFNOSUPPORT);
        assert_eq!(by("[::]:9901", None), "[::]:9901");
        assert_eq!(by("[::]:9901", none), "0.0.0.0:9901");
        assert_eq!(by("[::]:9901", Some(rustix::io::Errno::MFILE)), "[::]:9901", "another error is its own");
        assert_eq!(by("[::1]:9901", none), "[::1]:9901", "one address is not all");
        assert_eq!(by("127.0.0.1:9901", none), "127.0.0.1:9901");
    }
}
