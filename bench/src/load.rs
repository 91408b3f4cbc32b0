//! The interleaved rounds: wrk on one core, one proxy after another on the other.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::peers::{self, Proxy, Workspace};
use crate::report::{Figures, Report};
use crate::running::{LOAD_CORE, Running, pinned};
use crate::{Options, programs};

/// One kind of load.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    connections: u32,
    path: &'static str,
    headers: &'static [&'static str],
    pub(crate) target: Target,
}

/// What result of a case is good, as a ratio to the better peer in the same run.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// CPU per request.
    Cpu(f64),
    /// Median and 99th percentile of the latency, each no worse.
    Latency,
}

/// What a browser sends beside `Host`, with a cookie, a token and a trace.
const BROWSER: &[&str] = &[
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Accept-Encoding: gzip, deflate, br",
    "Cache-Control: no-cache",
    "Cookie: session=0f8fad5b-d9cb-469f-a165-70867728950e; theme=dark; consent=1; _ga=GA1.2.1234567890.1700000000",
    "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "Referer: https://shop.example/products/category/shoes?page=2",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
];

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "small, 64 connections",
        connections: 64,
        path: "/echo",
        headers: &[],
        target: Target::Cpu(0.85),
    },
    Case {
        name: "12 headers, 64 connections",
        connections: 64,
        path: "/echo",
        headers: BROWSER,
        target: Target::Cpu(0.85),
    },
    Case {
        name: "16 KiB, 64 connections",
        connections: 64,
        path: "/echo/16k",
        headers: &[],
        target: Target::Cpu(0.85),
    },
    Case { name: "one connection", connections: 1, path: "/echo", headers: &[], target: Target::Latency },
];

const WARM_UP_SECONDS: u32 = 1;

/// Turns that each proxy has in a round, in one order and then in the other: what disturbs the machine lasts from seconds to
/// minutes, and so disturbs all of them alike.
const TURNS: usize = 4;

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    programs::install_missing()?;
    let workspace = Workspace::new()?;
    let (_backend, ports) = start_backend()?;
    let mut proxies = peers::start_all(&workspace, ports)?;
    let wrk = programs::path("wrk").context("wrk is not installed")?;
    report
        .programs(proxies.iter().map(|proxy| proxy.version.clone()).chain([programs::version(&wrk, "-v")?]));
    for case in CASES.iter().filter(|case| case.name.contains(&options.only)) {
        for proxy in &mut proxies {
            measure(case, proxy, WARM_UP_SECONDS)?;
        }
        let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); proxies.len()];
        for round in 1..=options.rounds {
            for (figures, turns) in rounds.iter_mut().zip(take_turns(case, &mut proxies, options.seconds)?) {
                figures.push(Figures::of(&turns));
            }
            println!("    {}: round {round} of {}", case.name, options.rounds);
        }
        for (proxy, figures) in proxies.iter().zip(rounds) {
            report.case(case, proxy.name, &figures);
        }
    }
    for proxy in &proxies {
        report.note(format!(
            "Resident memory of {} at the end: {:.0} MiB.",
            proxy.name,
            proxy.process.resident_mib()?
        ));
    }
    Ok(())
}

/// Both backends, in one process on the core of the load.
pub(crate) fn start_backend() -> Result<(Running, [u16; 2])> {
    let own = std::env::current_exe()?;
    let own = own.to_str().context("the program's path is UTF-8")?;
    let mut backend = Running::start("the backend", pinned(LOAD_CORE, own).arg("backend"))?;
    let line = backend.line_with("ports ")?;
    let ports: Vec<u16> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let ports = ports.try_into().map_err(|_| anyhow::anyhow!("the backend said `{line}`"))?;
    Ok((backend, ports))
}

/// What each proxy did in its turns of one round.
fn take_turns(case: &Case, proxies: &mut [Proxy], seconds: u32) -> Result<Vec<Vec<Turn>>> {
    let mut turns: Vec<Vec<Turn>> = proxies.iter().map(|_| Vec::new()).collect();
    for turn in 0..TURNS {
        for place in 0..proxies.len() {
            let at = if turn % 2 == 0 { place } else { proxies.len() - 1 - place };
            turns[at].push(measure(case, &mut proxies[at], seconds)?);
        }
    }
    Ok(turns)
}

/// What a proxy did in one turn.
pub(crate) struct Turn {
    /// Its threads' run time, and how long they waited for a core.
    pub(crate) ran: Duration,
    pub(crate) waited: Duration,
    pub(crate) wrk: Wrk,
}

fn measure(case: &Case, proxy: &mut Proxy, seconds: u32) -> Result<Turn> {
    proxy.process.check()?;
    let before = proxy.process.scheduled()?;
    let wrk =
        wrk(case, proxy.address, seconds).with_context(|| format!("{} against {}", case.name, proxy.name))?;
    let after = proxy.process.scheduled()?;
    Ok(Turn { ran: after.ran - before.ran, waited: after.waited - before.waited, wrk })
}

pub(crate) struct Wrk {
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

fn wrk(case: &Case, address: SocketAddr, seconds: u32) -> Result<Wrk> {
    let mut command = pinned(LOAD_CORE, "wrk");
    command.args([
        "-t1",
        &format!("-c{}", case.connections),
        &format!("-d{seconds}s"),
        "--latency",
        "--timeout",
        "10s",
    ]);
    for header in case.headers {
        command.args(["-H", header]);
    }
    let output =
        command.arg(format!("http://{address}{}", case.path)).output().context("wrk did not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {}{text}", String::from_utf8_lossy(&output.stderr));
    parse(&text).with_context(|| format!("wrk said\n{text}"))
}

fn parse(text: &str) -> Result<Wrk> {
    ensure!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "requests failed");
    let after = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
        line.with_context(|| format!("no `{name}`"))
    };
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    let requests = requests.context("no number of requests")?.0.parse()?;
    ensure!(requests > 0, "no request was completed");
    Ok(Wrk {
        requests,
        requests_per_second: after("Requests/sec:")?.parse()?,
        p50_us: microseconds(after("50%")?)?,
        p99_us: microseconds(after("99%")?)?,
    })
}

/// wrk's times: `635.00us`, `1.02ms`, `1.20s`.
fn microseconds(text: &str) -> Result<f64> {
    let end = text.find(|c: char| c.is_alphabetic()).context("a time has a unit")?;
    let factor = match &text[end..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        unit => anyhow::bail!("`{unit}` is not a unit of wrk"),
    };
    let time = Duration::from_secs_f64(text[..end].parse::<f64>()? * factor / 1e6);
    Ok(time.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 2s test @ http://127.0.0.1:1/echo
  1 threads and 64 connections
  Latency Distribution
     50%  635.00us
     75%    0.85ms
     90%    1.02ms
     99%    2.25ms
  148000 requests in 2.00s, 20.11MB read
Requests/sec:  74000.12
Transfer/sec:     10.05MB
";

    #[test]
    fn what_wrk_says_is_read() {
        let wrk = parse(GOOD).unwrap();
        assert_eq!((wrk.requests, wrk.p50_us.round(), wrk.p99_us.round()), (148_000, 635.0, 2_250.0));
        assert!((wrk.requests_per_second - 74_000.12).abs() < 1e-6);
    }

    #[test]
    fn a_round_with_failed_requests_does_not_count() {
        assert!(parse(&format!("{GOOD}  Non-2xx or 3xx responses: 1\n")).is_err());
        assert!(parse(&format!("{GOOD}  Socket errors: connect 0, read 1, write 0, timeout 0\n")).is_err());
    }

    #[test]
    fn the_browser_sends_twelve_headers() {
        assert_eq!(BROWSER.len(), 12);
    }
}
