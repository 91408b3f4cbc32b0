//! `cargo xtask image`: the container image, made without a container engine.
//!
//! Owns what is in the image and how it is described. Invariants: the program is one static file; the same program and
//! lock file give the same bytes (no time, no owner, no name of this machine); it runs as a user without rights.
//! Deliberately absent: pushing to a registry (`skopeo`, `crane` and `oras` take the archive as it is).

mod archive;
mod contents;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::step;
use archive::{Entry, Image, Layer};

/// User and group that the program runs as: numbers, so that `runAsNonRoot` can be checked.
const USER: u32 = 65_532;

#[derive(Args)]
pub(crate) struct Options {
    /// Profile of the build: `release` takes minutes for its link, `dev` is for trying.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Handed to cargo, e.g. 'profile.release.lto=false'.
    #[arg(long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Name under which a container runtime knows the image.
    #[arg(long, default_value = "weir:dev")]
    name: String,
    /// Where the archive is written (default: weir-image.tar in the target directory).
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
}

/// The image `weir:dev`; returns where it is.
pub(crate) fn make(root: &Path, profile: &str, config: &[String]) -> Result<PathBuf> {
    let options = Options {
        profile: profile.to_owned(),
        config: config.to_vec(),
        name: "weir:dev".to_owned(),
        output: None,
    };
    run(root, &options)
}

/// The image `weir:dev` around the program that `cargo build` makes, with the libraries that it asks for: for tests, which
/// so need no second build of everything. Returns where it is.
pub(crate) fn make_linked(root: &Path, profile: &str, config: &[String]) -> Result<PathBuf> {
    link(root, profile, config, "weir:dev", "weir-image-linked.tar", &[])
}

/// The same by another name, of a program that has not been optimised, with a library beside it that its environment can ask for
/// (`LD_PRELOAD`): at the path that it has here.
pub(crate) fn make_preloadable(root: &Path, name: &str, file: &str, library: &Path) -> Result<PathBuf> {
    link(root, "dev", &[], name, file, &[library])
}

fn link(
    root: &Path,
    profile: &str,
    config: &[String],
    name: &str,
    file: &str,
    more: &[&Path],
) -> Result<PathBuf> {
    let mut cargo = step::cargo(root);
    cargo.args(["build", "--locked", "--package", "weir", "--profile", profile]);
    cargo.args(config.iter().flat_map(|set| ["--config", set]));
    step::run("build weir", &mut cargo)?;
    let target = step::target_folder(root);
    let program = target.join(folder_of(profile)).join("weir");
    let options = Options {
        profile: profile.to_owned(),
        config: config.to_vec(),
        name: name.to_owned(),
        output: Some(target.join(file)),
    };
    let mut paths = libraries(&program)?;
    for library in more {
        paths.extend(libraries(library)?);
        paths.insert((*library).to_owned());
    }
    let entry = |path: PathBuf| {
        let content = fs::read(&path).with_context(|| path.display().to_string())?;
        let inside = path.to_str().context("a library's path is not text")?.trim_start_matches('/');
        Ok(Entry::file(inside, 0o755, content))
    };
    write(root, &options, &program, paths.into_iter().map(entry).collect::<Result<_>>()?)
}

/// Where cargo puts what it builds with a profile.
fn folder_of(profile: &str) -> &str {
    if profile == "dev" { "debug" } else { profile }
}

/// What the dynamic loader loads for a program, the loader among it, where it looks for it.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output =
        Command::new("ldd").arg(program).stdin(Stdio::null()).output().context("ldd did not start")?;
    ensure!(
        output.status.success(),
        "ldd {}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    // `name => /path (address)`, or the path alone.
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// An image of one static program at `/file` and nothing else, as an archive: what tests run beside Weir.
pub(crate) fn of_program(name: &str, file: &str, program: &[u8]) -> Result<Vec<u8>> {
    let image = Image {
        name: full_name(name),
        architecture: architecture()?,
        user: "0:0".to_owned(),
        entrypoint: format!("/{file}"),
        labels: BTreeMap::new(),
        layers: vec![Layer {
            entries: vec![Entry::file(file, 0o755, program.to_vec())],
            purpose: "the program",
        }],
    };
    Ok(archive::write(&image)?.0)
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<PathBuf> {
    let program = build(root, options)?;
    write(root, options, &program, Vec::new())
}

fn write(root: &Path, options: &Options, program: &Path, libraries: Vec<Entry>) -> Result<PathBuf> {
    let path = options.output.clone().unwrap_or_else(|| step::target_folder(root).join("weir-image.tar"));
    let sbom = contents::sbom(root)?;
    let mut image = describe(root, options, &fs::read(program)?, &sbom)?;
    if !libraries.is_empty() {
        image.layers.push(Layer { entries: libraries, purpose: "libraries" });
    }
    let (bytes, digest) = archive::write(&image)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Whole or not at all: who waits for the file must not read half of it.
    let partial = path.with_extension("partial");
    fs::write(&partial, &bytes).with_context(|| partial.display().to_string())?;
    fs::rename(&partial, &path)?;
    let megabytes = bytes.len() as f64 / 1e6;
    println!("{}: {}, {megabytes:.1} MB, {digest}", path.display(), image.name);
    println!("    ctr -n k8s.io images import --local {}", path.display());
    Ok(path)
}

/// Builds the program as one static file; returns where it is.
fn build(root: &Path, options: &Options) -> Result<PathBuf> {
    let triple = host()?;
    ensure!(
        triple.ends_with("-linux-gnu"),
        "the image is built on Linux with the GNU C library, not for {triple}"
    );
    // No path of this machine in the program: two builds are equal wherever they are made.
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let target = step::target_folder(root);
    // Each with what stands for it, and with what is below it.
    let mut folders =
        vec![(root.to_owned(), "/weir", "crates"), (target.clone(), "/target", triple.as_str())];
    folders.extend(home.map(|home| (home.join("registry/src"), "/registry", "")));
    let mut flags = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    flags.extend(folders.iter().map(|(of, name, _)| format!("--remap-path-prefix={}={name}", of.display())));
    let mut cargo = step::cargo(root);
    cargo.args([
        "build",
        "--locked",
        "--package",
        "weir",
        "--profile",
        &options.profile,
        "--target",
        &triple,
    ]);
    for config in &options.config {
        cargo.args(["--config", config]);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    step::run("build weir, static", &mut cargo)?;
    let folder = folder_of(&options.profile);
    let program = target.join(&triple).join(folder).join("weir");
    let bytes = fs::read(&program).with_context(|| program.display().to_string())?;
    ensure!(is_static(&bytes), "{} asks for a dynamic loader; the image has none", program.display());
    // Where a compiler would name them; the folder's own name alone may be a word of the program's (`/src`).
    for (folder, replacement, below) in &folders {
        let path = folder.join(below);
        let name = path.as_os_str().as_encoded_bytes();
        let is_named = bytes.windows(name.len()).any(|part| part == name);
        ensure!(
            !is_named || folder == Path::new(replacement),
            "{} names the folder {} of the machine that built it",
            program.display(),
            path.display()
        );
    }
    Ok(program)
}

/// The platform of the running compiler.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output =
        Command::new(rustc).arg("-vV").stdin(Stdio::null()).output().context("rustc did not start")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// A 64-bit little-endian ELF file none of whose segments names an interpreter.
fn is_static(program: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, bytes: usize| {
        let field = program.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let segments = || {
        let (first, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count).map(|at| number(usize::try_from(first + at * size).ok()?, 4)).collect::<Option<Vec<_>>>()
    };
    program.starts_with(b"\x7fELF\x02\x01")
        && segments().is_some_and(|kinds| !kinds.contains(&u64::from(INTERPRETER)))
}

fn describe(root: &Path, options: &Options, program: &[u8], sbom: &[u8]) -> Result<Image> {
    let licence = fs::read(root.join("LICENSE"))?;
    let users = format!("root:x:0:0:root:/:/nologin\nweir:x:{USER}:{USER}:weir:/:/nologin\n");
    let groups = format!("root:x:0:\nweir:x:{USER}:\n");
    let around = vec![
        Entry::file("etc/group", 0o644, groups.into_bytes()),
        Entry::file("etc/passwd", 0o644, users.into_bytes()),
        // What BackendTLSPolicy's `System` trusts.
        Entry::file("etc/ssl/certs/ca-certificates.crt", 0o644, contents::authorities().into_bytes()),
        Entry::file("usr/share/weir/LICENSE", 0o644, licence),
        Entry::file(contents::SBOM, 0o644, sbom.to_vec()),
    ];
    let mut labels = vec![
        ("title", "weir".to_owned()),
        ("description", "Kubernetes Gateway API gateway: control plane and data plane".to_owned()),
        ("licenses", "Apache-2.0".to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    labels.extend(revision(root).map(|revision| ("revision", revision)));
    Ok(Image {
        name: full_name(&options.name),
        architecture: architecture()?,
        user: format!("{USER}:{USER}"),
        entrypoint: "/weir".to_owned(),
        labels: labels
            .into_iter()
            .map(|(name, value)| (format!("org.opencontainers.image.{name}"), value))
            .collect(),
        layers: vec![
            Layer { entries: around, purpose: "users, certificates, licence, SBOM" },
            Layer { entries: vec![Entry::file("weir", 0o755, program.to_vec())], purpose: "the program" },
        ],
    })
}

/// This machine's, as registries call it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image for {other}: say how registries call it"),
    }
}

/// The commit, where the tree is exactly that commit.
fn revision(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").arg("-C").arg(root).args(arguments).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    changed.is_empty().then(|| git(&["rev-parse", "HEAD"])).flatten()
}

/// As container runtimes spell a name out: `weir:dev` is `docker.io/library/weir:dev`.
fn full_name(name: &str) -> String {
    let tagged = |name: &str| {
        let last = name.rsplit('/').next().unwrap_or(name);
        if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
    };
    match name.split_once('/') {
        None => format!("docker.io/library/{}", tagged(name)),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => tagged(name),
        Some(_) => format!("docker.io/{}", tagged(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str) -> Options {
        Options { profile: "dev".to_owned(), config: Vec::new(), name: name.to_owned(), output: None }
    }

    #[test]
    fn the_same_program_gives_the_same_image_byte_by_byte() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let made = |program: &[u8]| {
            let image =
                describe(root, &options("weir:dev"), program, &contents::sbom(root).unwrap()).unwrap();
            archive::write(&image).unwrap()
        };
        let (first, digest) = made(b"program");
        let (second, again) = made(b"program");
        assert!(first == second && digest == again, "{digest} and {again}");
        assert_ne!(made(b"another").1, digest, "the digest is of what is inside");
    }

    #[test]
    fn names_are_spelt_as_runtimes_spell_them() {
        for (given, full) in [
            ("weir:dev", "docker.io/library/weir:dev"),
            ("weir", "docker.io/library/weir:latest"),
            ("team/weir:1", "docker.io/team/weir:1"),
            ("registry.example:5000/weir", "registry.example:5000/weir:latest"),
            ("localhost/weir:x", "localhost/weir:x"),
        ] {
            assert_eq!(full_name(given), full);
        }
    }

    #[test]
    fn a_program_that_needs_a_loader_is_told_from_one_that_does_not() {
        let segment = |kind: u8| {
            let mut file = vec![0_u8; 64 + 56];
            file[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (file[32], file[54], file[56]) = (64, 56, 1);
            file[64] = kind;
            file
        };
        assert!(is_static(&segment(1)));
        assert!(!is_static(&segment(3)));
        assert!(!is_static(b"#!/bin/sh"));
    }
}
