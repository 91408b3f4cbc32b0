//! What the image has beside the program: the authorities of the public web, and the list of what the program is made of.
//!
//! Invariants: both follow from the lock file alone. Deliberately absent: what the operating system of the builder has.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::step;

/// Where the list of parts is in the image.
pub(super) const SBOM: &str = "usr/share/weir/sbom.cdx.json";

/// Mozilla's authorities as PEM.
pub(super) fn authorities() -> String {
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = BASE64.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// The crates that the program is made of, as CycloneDX 1.6: names, versions, licences, checksums of the lock file.
pub(super) fn sbom(root: &Path) -> Result<Vec<u8>> {
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    let checksums = checksums(&lock);
    let mut components = Vec::new();
    for (name, version, licence) in crates(root)? {
        let mut component = json!({
            "type": "library",
            "bom-ref": format!("pkg:cargo/{name}@{version}"),
            "name": name,
            "version": version,
            "scope": "required",
            "purl": format!("pkg:cargo/{name}@{version}"),
        });
        if !licence.is_empty() {
            // An old spelling of `OR` that SPDX does not know.
            component["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
        }
        if let Some(checksum) = checksums.get(&(name.clone(), version.clone())) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        components.push(component);
    }
    let bom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "name": "weir",
            "version": env!("CARGO_PKG_VERSION"),
            "licenses": [{"expression": "Apache-2.0"}],
        }},
        "components": Value::Array(components),
    });
    Ok(format!("{bom:#}\n").into_bytes())
}

/// Name, version and licence of every crate in the program, without those that only build it.
fn crates(root: &Path) -> Result<Vec<(String, String, String)>> {
    let output = step::cargo(root)
        .args(["tree", "--locked", "--package", "weir", "--edges", "normal", "--prefix", "none"])
        .args(["--format", "{p}\t{l}"])
        .stdin(Stdio::null())
        .output()
        .context("cargo tree did not start")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut crates: Vec<_> = text.lines().filter_map(parse).collect();
    crates.sort();
    crates.dedup();
    ensure!(crates.len() > 10, "cargo tree names {} crates", crates.len());
    Ok(crates)
}

/// `name v1.2.3 (where)\tlicence (*)`
fn parse(line: &str) -> Option<(String, String, String)> {
    let (package, licence) = line.split_once('\t')?;
    let mut words = package.split(' ');
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?;
    Some((name.to_owned(), version.to_owned(), licence.trim_end_matches("(*)").trim().to_owned()))
}

/// Name and version to checksum.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let field = |block: &str, name: &str| {
        let start = format!("{name} = \"");
        let line = block.lines().find_map(|line| line.strip_prefix(&start))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let blocks = lock.split("[[package]]");
    blocks
        .filter_map(|block| {
            Some(((field(block, "name")?, field(block, "version")?), field(block, "checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_what_the_program_is_made_of_and_not_what_tests_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let bom: Value = serde_json::from_slice(&sbom(root).unwrap()).unwrap();
        let components = bom["components"].as_array().unwrap();
        let find = |name: &str| components.iter().find(|component| component["name"] == name);
        let rustls = find("rustls").unwrap();
        assert_eq!(rustls["hashes"][0]["content"].as_str().unwrap().len(), 64, "{rustls}");
        assert!(rustls["licenses"][0]["expression"].as_str().unwrap().contains("Apache-2.0"), "{rustls}");
        assert!(find("weir-proxy").is_some());
        assert!(find("proptest").is_none());
    }

    #[test]
    fn the_authorities_are_certificates_in_lines_that_any_reader_takes() {
        let text = authorities();
        assert!(text.matches("BEGIN CERTIFICATE").count() > 100);
        assert!(text.lines().all(|line| line.len() <= 64));
    }
}
