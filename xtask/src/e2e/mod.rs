//! `cargo xtask e2e`: the installation in a real cluster, by `helm`, `kubectl` and `curl` as the guides have them.
//!
//! Owns the order of what is tried, and the image that is tried. Invariants: nothing stands in for the API; what is
//! awaited is a status, never a request; after each installation's end nothing is left but definitions of kinds; from a cluster that was
//! there before nothing is taken without a word that it may be.
//!
//! | module | owns |
//! |---|---|
//! | [`cluster`](crate::cluster) | bringing a cluster up, reaching it, loading images; what is there before and after |
//! | [`theirs`] | what would be lost in a cluster that was there before |
//! | [`guides`] | the guides, line by line, and their counts |
//! | [`plain`] | the installation without Helm, and its overlay |
//! | [`sharing`] | Gateways that share a data plane, and one that gets its own |
//! | [`faults`] | what is ended under load |
//! | [`managed`] | what may be asked of a Gateway's own data plane |
//! | [`clients`] | what `weir status` and its like have to say |
//! | [`tenants`] | what a tenant tries and must not have |
//! | [`wrong`] | what is wrong in a cluster, and what is said of it |
//! | [`crowd`] | what many routes, changing endpoints and many data planes cost |
//! | [`load`] | the load, and what it may meet |

mod clients;
mod crowd;
mod faults;
mod guides;
mod load;
mod managed;
mod plain;
mod sharing;
mod tenants;
mod theirs;
mod wrong;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cluster::{Cluster, Where, leftovers};
use crate::image;
use crate::step::{self, LEFT_OUT};
use crate::upstream;

#[derive(Args)]
pub(crate) struct Options {
    /// A cluster that is there already (default: the one that the command in WEIR_E2E_UP brings up).
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// With --kubeconfig: the definitions of the Gateway API in that cluster, and with them every object of theirs, may be deleted.
    #[arg(long, requires = "kubeconfig")]
    may_delete_definitions: bool,
    /// An image as `cargo xtask image` makes it, named weir:dev (default: it is made).
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// Profile of the image's build. Without --long the image has the program that `cargo build` makes, with its libraries, and not a
    /// static one of its own.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Handed to cargo for the image's build.
    #[arg(long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Every way in which the guides were published, and every fault at full length; without it one of each, for seconds.
    #[arg(long)]
    long: bool,
    /// Only what has this in its name, e.g. operator or faults.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Leave the cluster up that was brought up.
    #[arg(long)]
    keep: bool,
    /// What this machine cannot run is a failure, not a `left out:` line.
    #[arg(long)]
    strict: bool,
}

/// What every part of the run needs.
struct Run<'a> {
    root: &'a Path,
    cluster: &'a Cluster,
    /// Folder of upstream's definitions.
    crds: PathBuf,
    /// Where this run keeps its files.
    folder: PathBuf,
    /// The image `weir:dev`.
    image: PathBuf,
    /// The program that sends steady traffic.
    steady: PathBuf,
    options: &'a Options,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let place = match Where::find(root, options.kubeconfig.as_deref()) {
        Ok(place) => place,
        Err(missing) => {
            println!("{LEFT_OUT}the chart and the guides in a real cluster: {missing:#}");
            ensure!(!options.strict, "left out, a failure with --strict");
            return Ok(());
        }
    };
    if let Where::There(_) = &place {
        theirs::may_be_used(&Cluster::up(root, place.clone(), true)?, options.may_delete_definitions)?;
    }
    let started = Instant::now();
    let Options { profile, config, .. } = options;
    let image = match &options.image {
        Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
        None if options.long => image::make(root, profile, config)?,
        None => image::make_linked(root, profile, config)?,
    };
    let folder = step::target_folder(root).join("e2e");
    fs::create_dir_all(&folder)?;
    let [standin, steady] = ["standin", "steady"].map(|name| go_program(root, &folder, name));
    let (standin, steady) = (standin?, steady?);
    let cluster = Cluster::up(root, place, options.keep)?;
    cluster.load(&image)?;
    if cluster.takes_images() {
        for archive in images(&folder, &cluster, &standin, &steady)? {
            cluster.load(&archive)?;
        }
    }
    let run = Run { root, cluster: &cluster, crds: upstream::crds(root)?, folder, image, steady, options };
    let tried = guides::all(&run);
    if let Err(error) = &tried {
        println!("    {error:#}");
        cluster.tell();
    }
    tried?;
    println!("e2e ok, {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// A program of the module `clients`, static.
fn go_program(root: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
    let program = folder.join(name);
    let mut go = Command::new("go");
    go.current_dir(root.join("clients")).env("CGO_ENABLED", "0");
    go.args(["build", "-trimpath", "-o"]).arg(&program).arg(format!("./{name}"));
    step::run(&format!("build {name}"), &mut go)?;
    Ok(program)
}

/// Images of the guides that a cluster without a registry cannot have: Kubernetes' own test server where the cluster
/// brings it, a program that answers alike for the rest; and what steady traffic is sent to.
fn images(folder: &Path, cluster: &Cluster, standin: &Path, steady: &Path) -> Result<Vec<PathBuf>> {
    let agnhost = cluster.program("agnhost").unwrap_or_else(|| standin.to_owned());
    let images = [
        // The guide's manifest names the program in it.
        ("registry.k8s.io/e2e-test-images/agnhost:2.40", "agnhost", agnhost.as_path()),
        ("kong/go-echo:latest", "standin", standin),
        ("kong-ingress-multi-backends:latest", "standin", standin),
        ("weir.dev/steady:e2e", "steady", steady),
    ];
    let mut archives = Vec::new();
    for (at, (name, file, program)) in images.iter().enumerate() {
        let path = folder.join(format!("image-{at}.tar"));
        fs::write(&path, image::of_program(name, file, &fs::read(program)?)?)?;
        archives.push(path);
    }
    Ok(archives)
}
