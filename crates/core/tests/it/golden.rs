//! Goldens: one file each, objects in, resources, statuses and diagnostics out.
//!
//! A file begins with a comment that says in our words which statement of the API (or of Kong's manifests) it pins. Lines
//! `# include: PATH [-n NAMESPACE]` add manifests of the repository. A document of kind `World` says what provisioning and
//! the data plane do beside the plain. In the data of a Secret or ConfigMap the value `made NAME...` stands for a
//! certificate for these names (or its key), made anew at each run; what comes out calls it by its object. What comes out follows the line `# Output`; `WEIR_GOLDEN=write` writes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Value, json};
use weir_model::resource::Body;

use crate::render;
use crate::world::{self, Circumstances, World};

const SEPARATOR: &str = "# Output\n";

#[test]
fn every_golden_comes_out_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = files(&root);
    assert!(files.len() >= 30, "only {} goldens found under {}", files.len(), root.display());
    let writing = std::env::var("WEIR_GOLDEN").is_ok_and(|value| value == "write");
    let mut wrong = String::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a readable golden");
        let (input, expected) = text.split_once(SEPARATOR).unwrap_or((text.trim_end(), ""));
        let input = input.trim_end();
        let actual = run(input, file);
        if writing {
            std::fs::write(file, format!("{input}\n{SEPARATOR}---\n{actual}")).expect("a writable golden");
        } else if expected != format!("---\n{actual}") {
            writeln!(wrong, "{}:\n{}", file.display(), difference(expected, &actual)).expect("memory");
        }
    }
    assert!(wrong.is_empty(), "run with WEIR_GOLDEN=write and look at the difference\n{wrong}");
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for area in std::fs::read_dir(root).expect("the goldens") {
        for file in std::fs::read_dir(area.expect("an entry").path()).expect("an area") {
            all.push(file.expect("an entry").path());
        }
    }
    all.sort();
    all
}

fn run(input: &str, file: &Path) -> String {
    assert!(input.starts_with("# "), "{}: no comment says what is pinned", file.display());
    let mut documents = Vec::new();
    for line in input.lines() {
        if let Some(include) = line.strip_prefix("# include: ") {
            let (path, namespace) = include.split_once(" -n ").unwrap_or((include, "default"));
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            documents.extend(parse(&text, namespace));
        }
    }
    documents.extend(parse(input, "default"));
    let mut circumstances = Circumstances::default();
    let mut objects = Vec::new();
    let made = make(&mut documents);
    for document in documents {
        match document["kind"].as_str() {
            Some("World") => circumstances = world::circumstances(&document),
            Some(kind) if world::kind_of(kind).is_some() => objects.push(world::read(document)),
            _ => {}
        }
    }
    outcome(&objects, circumstances, &made)
}

/// Puts certificates where they are asked for; the objects that have each, by its PEM.
fn make(documents: &mut [Value]) -> BTreeMap<String, String> {
    let mut made = BTreeMap::new();
    for document in documents.iter_mut() {
        let is_secret = document["kind"] == "Secret";
        if !is_secret && document["kind"] != "ConfigMap" {
            continue;
        }
        let path = format!(
            "{}/{}",
            document["metadata"]["namespace"].as_str().unwrap_or_default(),
            document["metadata"]["name"].as_str().unwrap_or_default()
        );
        let pair_of = |value: &Value| -> Option<(String, String)> {
            let names: Vec<&str> = value.as_str()?.strip_prefix("made")?.split_whitespace().collect();
            Some(world::certificate(&names))
        };
        let pair = pair_of(&document["data"]["tls.crt"]);
        let others = pair_of(&document["data"]["tls.key"]).map(|(_, key)| key);
        let authority = pair_of(&document["data"]["ca.crt"]).map(|(certificate, _)| certificate);
        let own = pair.as_ref().map(|(_, key)| key.clone()).filter(|_| document["data"]["tls.key"] == "its");
        let values = [
            ("tls.crt", pair.map(|(certificate, _)| certificate)),
            ("tls.key", own.or(others)),
            ("ca.crt", authority),
        ];
        for (name, pem) in values {
            let Some(pem) = pem else { continue };
            document["data"][name] =
                if is_secret { json!(base64::prelude::BASE64_STANDARD.encode(&pem)) } else { json!(pem) };
            made.insert(pem, path.clone());
        }
    }
    made
}

fn outcome(
    objects: &[weir_core::Object],
    circumstances: Circumstances,
    made: &BTreeMap<String, String>,
) -> String {
    let mut world = World::with(circumstances);
    for object in objects {
        world.objects.upsert(object.clone());
    }
    world.settle();
    assert_eq!(world.rejected(), [], "the data plane takes what is translated");
    let resources: serde_json::Map<String, Value> =
        world.translator.resources().map(|r| (r.key().to_owned(), render::resource(r))).collect();
    let statuses: serde_json::Map<String, Value> =
        world.statuses.iter().map(|(key, status)| (key.to_string(), render::status(status))).collect();
    let diagnostics: Vec<Value> = world.translator.diagnostics().map(render::diagnostic).collect();
    let mut out = json!({"resources": resources, "statuses": statuses, "diagnostics": diagnostics});
    let waits: Vec<Value> = world.translator.waits().map(|key| json!(key.to_string())).collect();
    if !waits.is_empty() {
        out["waits"] = Value::Array(waits);
    }
    let mut text = out.to_string();
    for resource in world.translator.resources() {
        let (sort, pem) = match &resource.body {
            Some(Body::Certificate(one)) => ("certificate", one.chain.clone()),
            Some(Body::CaBundle(one)) => ("cabundle", one.certificates.clone()),
            _ => continue,
        };
        let pem = String::from_utf8(pem).expect("PEM");
        text = text.replace(resource.key(), &format!("{sort} of {}", made[&pem]));
    }
    let mut out: Value = serde_json::from_str(&text).expect("JSON");
    if let Some(resources) = out["resources"].as_object_mut() {
        resources.sort_keys();
    }
    serde_saphyr::to_string(&out).expect("YAML")
}

/// The objects of a file, as an API server would hand them out: with namespace, uid, generation and age.
fn parse(text: &str, namespace: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
    objects.retain(|object| object.is_object());
    for object in &mut objects {
        let Some(kind) = object["kind"].as_str().and_then(world::kind_of) else {
            continue;
        };
        let metadata = &mut object["metadata"];
        if !kind.cluster_scoped() && metadata["namespace"].is_null() {
            metadata["namespace"] = json!(namespace);
        }
        let name = metadata["name"].as_str().expect("a name").to_owned();
        let path = format!("{}/{name}", metadata["namespace"].as_str().unwrap_or_default());
        for (field, value) in [
            ("uid", json!(format!("uid-of-{path}"))),
            ("generation", json!(1)),
            ("creationTimestamp", json!("2024-01-01T00:00:00Z")),
        ] {
            if metadata[field].is_null() {
                metadata[field] = value;
            }
        }
    }
    objects
}

/// The first lines that differ.
fn difference(expected: &str, actual: &str) -> String {
    let actual = format!("---\n{actual}");
    let (expected, actual): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let at =
        expected.iter().zip(&actual).position(|(e, a)| e != a).unwrap_or(expected.len().min(actual.len()));
    let some = |lines: &[&str]| lines.iter().skip(at).take(6).copied().collect::<Vec<_>>().join("\n");
    format!("line {at} after the separator; written:\n{}\ncame out:\n{}\n", some(&expected), some(&actual))
}
