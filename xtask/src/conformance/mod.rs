//! `cargo xtask conformance`: the official Gateway API conformance suite, unchanged, against a sandbox of its own, or with
//! `--cluster` in a real cluster, where the chart is installed and the suite's own images run.
//!
//! Owns: building both programs, the life of the sandbox or the installation, the bounds of a run, the judgement. The judge is the stream of events
//! of `go test`, one for each test; the suite's own report counts parallel tests before they have run, so that it is
//! written only for a run that held as a whole.
//! Deliberately absent: any selection of tests that is not asked for, and any tolerance for failures.

mod catalogue;
pub(crate) mod go;
mod installed;
mod place;
mod run;
mod sandbox;
mod verdict;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::cluster::Where;
use crate::step::{self, LEFT_OUT};
use catalogue::Catalogue;
use installed::Installed;
use place::{Place, StaticAddresses};
use run::Run;
use sandbox::Sandbox;
use verdict::Verdict;

/// The profiles that `.ci/run` holds: every test that the GatewayClass claims the features of passes.
const HELD: &[Profile] = &Profile::ALL;

#[derive(Args)]
pub(crate) struct Options {
    /// Only these profiles (default: all five).
    #[arg(long, value_enum, value_name = "PROFILE", value_delimiter = ',')]
    profile: Vec<Profile>,
    /// The profiles that have to hold, as continuous integration runs them.
    #[arg(long, conflicts_with = "profile")]
    held: bool,
    /// Only these tests, whatever features they need.
    #[arg(long, value_name = "TEST", value_delimiter = ',')]
    run: Vec<String>,
    /// Which Gateway API channel the sandbox serves.
    #[arg(long, value_enum, default_value_t = Channel::Experimental)]
    channel: Channel,
    /// `claimed` (those in the GatewayClass's status), `all`, or names with commas between them.
    #[arg(long, default_value = "claimed")]
    features: String,
    /// Shows the suite's tests, their features and profiles, and ends.
    #[arg(long)]
    list: bool,
    /// Writes the report under conformance/reports, if everything passed.
    #[arg(long, conflicts_with_all = ["run", "shuffle"])]
    report: bool,
    /// The report's `url`, where the project is published.
    #[arg(long, requires = "report", default_value = "")]
    url: String,
    /// The report's `contact`, of who publishes it.
    #[arg(long, requires = "report", value_delimiter = ',')]
    contact: Vec<String>,
    /// A skipped test is a failure, unless it is of a feature that the channel does not have.
    #[arg(long)]
    strict: bool,
    /// Runs this often, in one sandbox.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runs the tests in an order drawn from this seed, or from one that is chosen and shown; each round takes the next.
    #[arg(long, value_name = "SEED", value_parser = clap::value_parser!(u32).range(1..))]
    shuffle: Option<Option<u32>>,
    /// HTTPRoutes of no test, each with a hostname and a Service of its own, that are served from the start; they are
    /// asked while the suite runs and all of them at its end, and have to answer.
    #[arg(long, value_name = "N", default_value_t = 0)]
    unrelated_routes: u32,
    /// GOMAXPROCS of the suite and workers of the sandbox's data plane (default: what the machine has).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    procs: Option<u16>,
    /// Parallel tests that run at a time (default: as Go chooses).
    #[arg(long, value_name = "N")]
    parallel: Option<u32>,
    /// Minutes that one round may take.
    #[arg(long, default_value_t = 45)]
    minutes: u64,
    /// Takes the API server of this kubeconfig instead of a sandbox; with --cluster it says which cluster.
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// In a real cluster, where the chart is installed and the backends are the suite's own program: that of --kubeconfig, or the one
    /// that the command in WEIR_E2E_UP brings up.
    #[arg(long, conflicts_with = "unrelated_routes")]
    cluster: bool,
    /// An image as `cargo xtask image` makes it, named weir:dev, for the cluster (default: it is made around what cargo builds).
    #[arg(long, value_name = "PATH", requires = "cluster")]
    image: Option<PathBuf>,
    /// An address that the cluster's load balancer gives a Service that asks for it (default: one is looked for).
    #[arg(long, value_name = "IP", requires = "cluster")]
    usable_address: Option<IpAddr>,
    /// Cargo's profile for that image.
    #[arg(long, value_name = "PROFILE", default_value = "release")]
    build: String,
    /// Leave the cluster up that was brought up, and what was installed in it.
    #[arg(long, requires = "cluster")]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    Http,
    Grpc,
    Tls,
    Tcp,
    Udp,
}

impl Profile {
    const ALL: [Self; 5] = [Self::Http, Self::Grpc, Self::Tls, Self::Tcp, Self::Udp];

    /// The suite's name.
    fn name(self) -> &'static str {
        match self {
            Self::Http => "GATEWAY-HTTP",
            Self::Grpc => "GATEWAY-GRPC",
            Self::Tls => "GATEWAY-TLS",
            Self::Tcp => "GATEWAY-TCP",
            Self::Udp => "GATEWAY-UDP",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Channel {
    Standard,
    Experimental,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Experimental => "experimental",
        }
    }
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    if let Some(missing) = go::missing() {
        bail!("{missing}");
    }
    let folder = step::target_folder(root).join("conformance");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let suite = go::build_suite(root, &folder)?;
    let catalogue = Catalogue::ask(&suite, &folder)?;
    if options.list {
        catalogue.print();
        return Ok(());
    }
    for test in &options.run {
        ensure!(catalogue.has(test), "the suite has no test {test}; --list shows those that it has");
    }
    let Some(place) = options.place(root, &folder)? else { return Ok(()) };
    let held = options.rounds(root, &folder, &suite, &catalogue, &place);
    if let Place::Cluster(installed) = &place
        && held.is_err()
    {
        installed.cluster.tell();
    }
    // A cluster is left as it was found, whatever was found in it.
    let ended = place.end(options.keep);
    held.and(ended)
}

impl Options {
    /// None where it was announced that this machine has no cluster.
    fn place(&self, root: &Path, folder: &Path) -> Result<Option<Place>> {
        if self.cluster {
            return match Where::find(root, self.kubeconfig.as_deref()) {
                Ok(place) => {
                    let installed = Installed::start(root, folder, place, self)?;
                    Ok(Some(Place::Cluster(Box::new(installed))))
                }
                Err(missing) => {
                    println!("{LEFT_OUT}the conformance suite in a real cluster: {missing:#}");
                    ensure!(!self.strict, "left out, a failure with --strict");
                    Ok(None)
                }
            };
        }
        if let Some(path) = &self.kubeconfig {
            return Ok(Some(Place::There(path.clone())));
        }
        step::run("build weir", step::cargo(root).args(["build", "--package", "weir"]))?;
        let weir = step::target_folder(root).join("debug/weir");
        Ok(Some(Place::Sandbox(Sandbox::start(&weir, folder, self.channel.name(), self.procs)?)))
    }

    /// How a report calls the place.
    fn mode(&self) -> &'static str {
        if self.cluster { "cluster" } else { "default" }
    }

    fn rounds(
        &self,
        root: &Path,
        folder: &Path,
        suite: &Path,
        catalogue: &Catalogue,
        place: &Place,
    ) -> Result<()> {
        let profiles = self.profiles();
        let report = folder.join("report.yaml");
        let seed = self.shuffle.map(|seed| seed.unwrap_or_else(drawn_seed));
        let addresses = place.addresses()?;
        for round in 1..=self.rounds {
            if round > 1 {
                place.wait_for_the_namespaces_end()?;
            }
            let mut arguments = self.arguments(&profiles, catalogue);
            if let Some(StaticAddresses { usable, unusable }) = addresses {
                arguments.push(format!("-usable-address={usable}"));
                arguments.push(format!("-unusable-address={unusable}"));
            }
            // The next round's order is another one, and can be had again by its own seed.
            arguments.extend(seed.map(|seed| format!("-shuffle={}", u64::from(seed) + u64::from(round) - 1)));
            if self.report {
                let _ = fs::remove_file(&report);
                arguments.extend(self.report_arguments(root, &report)?);
            }
            println!("==> round {round} of {}: {}", self.rounds, arguments.join(" "));
            let run = Run {
                suite: place.suite(suite),
                arguments,
                procs: self.procs,
                limit: Duration::from_secs(self.minutes * 60),
                events: folder.join("events.json"),
            };
            let started = Instant::now();
            let outcome = run.finish()?;
            let verdict = Verdict::of(catalogue, &profiles, &self.run, self.channel, &outcome);
            verdict.print(&outcome);
            println!("round {round} took {:.1} s", started.elapsed().as_secs_f64());
            verdict.judge(self.strict)?;
        }
        if self.report {
            self.keep_report(root, &report)?;
        }
        Ok(())
    }

    fn keep_report(&self, root: &Path, report: &Path) -> Result<()> {
        let text = fs::read_to_string(report).context("the suite wrote no report")?;
        let name = format!("{}-{}-report.yaml", self.channel.name(), self.mode());
        let kept = root.join("conformance/reports").join(name);
        fs::write(&kept, text).with_context(|| format!("writing {}", kept.display()))?;
        println!("report: {}", kept.display());
        Ok(())
    }

    fn profiles(&self) -> Vec<Profile> {
        match (self.held, self.profile.is_empty()) {
            (true, _) => HELD.to_vec(),
            (false, true) => Profile::ALL.to_vec(),
            (false, false) => self.profile.clone(),
        }
    }

    /// The suite's flags.
    fn arguments(&self, profiles: &[Profile], catalogue: &Catalogue) -> Vec<String> {
        let names: Vec<_> = profiles.iter().map(|profile| profile.name()).collect();
        let mut arguments = vec![format!("-conformance-profiles={}", names.join(","))];
        let all = format!("-exempt-features={}", catalogue.mesh_features.join(","));
        match self.features.as_str() {
            // The suite runs a single test whatever it needs; several are chosen by name, with every feature.
            _ if !self.run.is_empty() => arguments.extend(["-all-features".to_owned(), all]),
            "claimed" => {}
            "all" => arguments.extend(["-all-features".to_owned(), all]),
            names => arguments.push(format!("-supported-features={names}")),
        }
        if !self.run.is_empty() {
            arguments.push(format!("-test.run=^TestConformance$/^suite$/^({})$", self.run.join("|")));
        }
        if self.unrelated_routes > 0 {
            arguments.push(format!("-unrelated-routes={}", self.unrelated_routes));
        }
        if let Some(parallel) = self.parallel {
            arguments.push(format!("-test.parallel={parallel}"));
        }
        arguments
    }

    /// Who is reported, and at which commit.
    fn report_arguments(&self, root: &Path, report: &Path) -> Result<Vec<String>> {
        // The reports themselves are no change: the other channel's may have been made a moment ago.
        let changed = git(root, &["status", "--porcelain", "--", ".", ":!conformance/reports"])?;
        ensure!(
            changed.is_empty(),
            "a report is of a commit, and there are changes beside it; commit them first:\n{changed}"
        );
        let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
        let mut arguments = vec![
            format!("-report-output={}", report.display()),
            format!("-mode={}", self.mode()),
            "-organization=weir".to_owned(),
            "-project=weir".to_owned(),
            format!("-url={}", self.url),
            format!("-version={}+{commit}", env!("CARGO_PKG_VERSION")),
        ];
        if !self.contact.is_empty() {
            arguments.push(format!("-contact={}", self.contact.join(",")));
        }
        Ok(arguments)
    }
}

/// A seed for who asks for any order: shown, so that the order can be had again.
fn drawn_seed() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.subsec_nanos() ^ since.as_secs() as u32).max(1)
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new("git").current_dir(root).args(arguments).output().context("git did not start")?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
