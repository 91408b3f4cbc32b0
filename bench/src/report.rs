//! The tables, the targets, and what a reader must know to believe them: versions, machine, date, commit.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::load::{Case, Target, Turn};
use crate::objects;

/// One round of one proxy.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) cpu_us: f64,
    /// Of the time in which it wanted its core, the part in which somebody else had it.
    pub(crate) waited_share: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

impl Figures {
    /// CPU over all requests of the turns; latencies, of which no sum can be made, as the middle turn had them.
    pub(crate) fn of(turns: &[Turn]) -> Figures {
        let sum = |value: fn(&Turn) -> f64| turns.iter().map(value).sum::<f64>();
        let ran = sum(|turn| turn.ran.as_secs_f64());
        let waited = sum(|turn| turn.waited.as_secs_f64());
        let middle = |value: fn(&Turn) -> f64| spread(turns.iter().map(value).collect()).median;
        Figures {
            cpu_us: ran * 1e6 / sum(|turn| turn.wrk.requests as f64),
            waited_share: waited / (ran + waited),
            requests_per_second: middle(|turn| turn.wrk.requests_per_second),
            p50_us: middle(|turn| turn.wrk.p50_us),
            p99_us: middle(|turn| turn.wrk.p99_us),
        }
    }
}

struct Row {
    case: &'static str,
    proxy: &'static str,
    cpu_us: Spread,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

pub(crate) struct Report {
    head: String,
    rows: Vec<Row>,
    notes: Vec<String>,
    missed: Vec<String>,
    most_waited_share: f64,
}

/// wrk's figures have this resolution at best.
const LATENCY_RESOLUTION_US: f64 = 1.0;
/// Above what a quiet machine shows.
const DISTURBED_SHARE: f64 = 0.05;
/// The proxy that is judged.
const OURS: &str = "Weir";

impl Report {
    pub(crate) fn new() -> Result<Report> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let model =
            cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
        let cores = std::thread::available_parallelism()?;
        let head = format!(
            "{}; commit {}; {} cores of {}; Linux {}",
            said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            said("git", &["describe", "--always", "--dirty"]),
            cores,
            model.map_or("an unnamed processor", |(_, model)| model),
            fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        );
        Ok(Report { head, rows: Vec::new(), notes: Vec::new(), missed: Vec::new(), most_waited_share: 0.0 })
    }

    pub(crate) fn programs(&mut self, versions: impl Iterator<Item = String>) {
        let versions: Vec<String> = versions.collect();
        self.note(format!("Versions: {}.", versions.join("; ")));
        self.note(format!(
            "Equal work: one worker on core 0, load and backends on core 1; keep-alive on both sides; prefix /echo; \
             backends at 200 and 100; X-Forwarded-For, -Proto and -Host added. Weir alone carries {} routes on {} \
             more hosts.",
            objects::EXTRA_HOSTS * objects::ROUTES_PER_HOST,
            objects::EXTRA_HOSTS,
        ));
        self.note(
            "CPU per request: run time of all threads of the process, by schedstat, over completed requests; each round \
             gives every proxy several turns, in one order and then in the other.",
        );
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// A figure that is part of the targets.
    pub(crate) fn judge(&mut self, good: bool, what: String) {
        self.notes.push(format!("{} {what}.", if good { "Reached:" } else { "MISSED:" }));
        if !good {
            self.missed.push(what);
        }
    }

    pub(crate) fn case(&mut self, case: &Case, proxy: &'static str, figures: &[Figures]) {
        let of = |value: fn(&Figures) -> f64| spread(figures.iter().map(value).collect());
        self.rows.push(Row {
            case: case.name,
            proxy,
            cpu_us: of(|figures| figures.cpu_us),
            requests_per_second: of(|figures| figures.requests_per_second).median,
            p50_us: of(|figures| figures.p50_us).median,
            p99_us: of(|figures| figures.p99_us).median,
        });
        self.most_waited_share = self.most_waited_share.max(of(|figures| figures.waited_share).median);
        if proxy == OURS {
            self.judge_case(case);
        }
    }

    fn judge_case(&mut self, case: &Case) {
        let rows = || self.rows.iter().filter(|row| row.case == case.name);
        let Some(ours) = rows().find(|row| row.proxy == OURS) else { return };
        let best = |value: fn(&Row) -> f64| {
            rows().filter(|row| row.proxy != OURS).map(value).fold(f64::MAX, f64::min)
        };
        let (cpu, p50, p99) = (best(|row| row.cpu_us.median), best(|row| row.p50_us), best(|row| row.p99_us));
        match case.target {
            Target::Cpu(limit) => {
                let ratio = ours.cpu_us.median / cpu;
                let what = format!(
                    "{}: CPU per request {ratio:.2} of the better peer, target {limit:.2}",
                    case.name
                );
                self.judge(ratio <= limit, what);
            }
            Target::Latency => {
                let (our_p50, our_p99) = (ours.p50_us, ours.p99_us);
                let what = |name: &str, ours: f64, best: f64| {
                    format!("{}: {name} {ours:.0} us, better peer {best:.0} us, target no worse", case.name)
                };
                self.judge(our_p50 <= p50 + LATENCY_RESOLUTION_US, what("p50", our_p50, p50));
                self.judge(our_p99 <= p99 + LATENCY_RESOLUTION_US, what("p99", our_p99, p99));
            }
        }
    }

    pub(crate) fn missed(&self) -> &[String] {
        &self.missed
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("\n{}\n", self.head);
        if !self.rows.is_empty() {
            text.push_str("\n| case | proxy | CPU us/request (min-max) | of the better peer | requests/s | p50 us | p99 us |\n");
            text.push_str("|---|---|---|---|---|---|---|\n");
        }
        for row in &self.rows {
            let peers = self.rows.iter().filter(|other| other.case == row.case && other.proxy != OURS);
            let best = peers.map(|other| other.cpu_us.median).fold(f64::MAX, f64::min);
            let Spread { median, least, most } = row.cpu_us;
            let written = writeln!(
                text,
                "| {} | {} | {median:.2} ({least:.2}-{most:.2}) | {:.2} | {:.0} | {:.0} | {:.0} |",
                row.case,
                row.proxy,
                median / best,
                row.requests_per_second,
                row.p50_us,
                row.p99_us,
            );
            debug_assert!(written.is_ok(), "a String takes any text");
        }
        if self.most_waited_share > DISTURBED_SHARE {
            text.push_str(&format!(
                "\nThis machine was busy: a proxy waited {:.0} % of its time for a core that somebody else had. Latencies mean \
                 nothing then, and CPU per request is high for everybody; measure again on a quiet machine.\n",
                self.most_waited_share * 100.0
            ));
        }
        text.push('\n');
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text
    }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| format!("no {program}"),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    Spread {
        median: percentile(&values, 50),
        least: values.first().copied().unwrap_or(f64::NAN),
        most: values.last().copied().unwrap_or(f64::NAN),
    }
}

/// Of sorted values, by nearest rank; of an even number the lower middle is the median.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::load::{CASES, Wrk};

    fn figures(cpu_us: f64, latency_us: f64) -> Vec<Figures> {
        vec![Figures {
            cpu_us,
            waited_share: 0.0,
            requests_per_second: 1e6 / cpu_us,
            p50_us: latency_us,
            p99_us: latency_us * 2.0,
        }]
    }

    #[test]
    fn a_round_weighs_its_turns_by_their_requests() {
        let turn = |millis, requests, latency_us| Turn {
            ran: Duration::from_millis(millis),
            waited: Duration::from_millis(millis),
            wrk: Wrk {
                requests,
                requests_per_second: requests as f64,
                p50_us: latency_us,
                p99_us: latency_us * 2.0,
            },
        };
        let round = Figures::of(&[turn(10, 1_000, 5.0), turn(40, 2_000, 7.0), turn(10, 3_000, 90.0)]);
        assert!((round.cpu_us - 10.0).abs() < 1e-9, "{}", round.cpu_us);
        assert!((round.waited_share - 0.5).abs() < 1e-9, "{}", round.waited_share);
        assert_eq!((round.p50_us, round.p99_us, round.requests_per_second), (7.0, 14.0, 2_000.0));
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 99)), (50.0, 99.0));
        assert_eq!(percentile(&[3.0], 99), 3.0);
        assert_eq!(percentile(&[1.0, 2.0, 9.0], 50), 2.0);
    }

    #[test]
    fn the_ratio_is_to_the_better_peer_and_a_missed_target_is_named() {
        let mut report = Report::new().unwrap();
        report.case(&CASES[0], "nginx", &figures(10.0, 1.0));
        report.case(&CASES[0], "HAProxy", &figures(12.0, 1.0));
        report.case(&CASES[0], OURS, &figures(8.4, 1.0));
        assert!(report.missed().is_empty());
        assert!(report.markdown().contains("| 0.84 |"), "{}", report.markdown());
        report.case(&CASES[1], "nginx", &figures(10.0, 1.0));
        report.case(&CASES[1], OURS, &figures(8.6, 1.0));
        assert_eq!(report.missed().len(), 1);
        report.case(&CASES[3], "nginx", &figures(10.0, 100.0));
        report.case(&CASES[3], OURS, &figures(8.6, 110.0));
        assert_eq!(report.missed().len(), 3, "p50 and p99 are judged apart: {:?}", report.missed());
    }
}
