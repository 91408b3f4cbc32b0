//! An OCI image as one archive: layers, configuration, manifest, index, in a tar file (image-spec 1.1, `image-layout`).
//!
//! Invariants: entries are written in the order in which they are given, owned by root, at time zero; blobs are named by
//! their SHA-256. Deliberately absent: images for several platforms, and reading archives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// One file of a layer.
pub(super) struct Entry {
    /// Without a leading slash.
    path: String,
    mode: u32,
    content: Vec<u8>,
}

impl Entry {
    pub(super) fn file(path: &str, mode: u32, content: Vec<u8>) -> Entry {
        Entry { path: path.to_owned(), mode, content }
    }
}

/// Files that change together.
pub(super) struct Layer {
    pub(super) entries: Vec<Entry>,
    /// For who reads the image's history.
    pub(super) purpose: &'static str,
}

/// See the module's head.
pub(super) struct Image {
    /// Spelt out: with registry, repository and tag.
    pub(super) name: String,
    /// As Go calls it.
    pub(super) architecture: &'static str,
    /// `UID:GID`.
    pub(super) user: String,
    pub(super) entrypoint: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) layers: Vec<Layer>,
}

/// Content that is found by its digest.
struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn json(media_type: &'static str, value: &Value) -> Blob {
        Blob { media_type, bytes: value.to_string().into_bytes() }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": digest(&self.bytes), "size": self.bytes.len()})
    }
}

/// The archive, and the digest of its manifest.
pub(super) fn write(image: &Image) -> Result<(Vec<u8>, String)> {
    let mut layers = Vec::new();
    let mut plain = Vec::new();
    for layer in &image.layers {
        let tar = layer_tar(layer)?;
        plain.push(digest(&tar));
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::new(6));
        gzip.write_all(&tar)?;
        layers
            .push(Blob { media_type: "application/vnd.oci.image.layer.v1.tar+gzip", bytes: gzip.finish()? });
    }
    let history: Vec<Value> = image
        .layers
        .iter()
        .map(|layer| json!({"created_by": "cargo xtask image", "comment": layer.purpose}))
        .collect();
    let configuration = json!({
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "User": image.user,
            "Entrypoint": [image.entrypoint],
            "WorkingDir": "/",
            "Labels": image.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": plain},
        "history": history,
    });
    let configuration = Blob::json("application/vnd.oci.image.config.v1+json", &configuration);
    let descriptors: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": configuration.descriptor(),
        "layers": descriptors,
        "annotations": image.labels,
    });
    let manifest = Blob::json(MANIFEST, &manifest);
    let digest = digest(&manifest.bytes);
    let mut descriptor = manifest.descriptor();
    descriptor["platform"] = json!({"architecture": image.architecture, "os": "linux"});
    let tag = image.name.rsplit(':').next().unwrap_or_default();
    descriptor["annotations"] =
        json!({"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]});
    let mut entries = vec![
        Entry::file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        Entry::file("index.json", 0o644, index.to_string().into_bytes()),
    ];
    for blob in [manifest, configuration].into_iter().chain(layers) {
        let hex = self::digest(&blob.bytes).replace("sha256:", "");
        entries.push(Entry::file(&format!("blobs/sha256/{hex}"), 0o644, blob.bytes));
    }
    Ok((tar(&entries)?, digest))
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn layer_tar(layer: &Layer) -> Result<Vec<u8>> {
    tar(&layer.entries)
}

/// A tar file of these, each after the directories that it is in.
fn tar(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut known = BTreeSet::new();
    for entry in entries {
        for (at, _) in entry.path.match_indices('/') {
            let folder = &entry.path[..=at];
            if known.insert(folder) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                builder.append_data(&mut header, folder, std::io::empty())?;
            }
        }
        let mut header = header(tar::EntryType::Regular, entry.mode, entry.content.len() as u64);
        builder.append_data(&mut header, &entry.path, entry.content.as_slice())?;
    }
    Ok(builder.into_inner()?)
}

fn header(kind: tar::EntryType, mode: u32, bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// `sha256:HEX`.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image() -> Image {
        Image {
            name: "docker.io/library/weir:dev".to_owned(),
            architecture: "amd64",
            user: "65532:65532".to_owned(),
            entrypoint: "/weir".to_owned(),
            labels: BTreeMap::from([("org.opencontainers.image.title".to_owned(), "weir".to_owned())]),
            layers: vec![Layer {
                entries: vec![Entry::file("etc/a/b", 0o644, b"x".to_vec())],
                purpose: "test",
            }],
        }
    }

    fn read(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().to_string_lossy().into_owned(), content);
        }
        files
    }

    #[test]
    fn everything_is_found_from_the_index_by_its_digest() {
        let (archive, manifest_digest) = write(&image()).unwrap();
        let files = read(&archive);
        let blob = |descriptor: &Value| {
            let named = descriptor["digest"].as_str().unwrap();
            let bytes = &files[&named.replace("sha256:", "blobs/sha256/")];
            assert_eq!((digest(bytes).as_str(), json!(bytes.len())), (named, descriptor["size"].clone()));
            bytes.clone()
        };
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let described = &index["manifests"][0];
        assert_eq!(described["digest"], manifest_digest.as_str());
        assert_eq!(described["annotations"]["io.containerd.image.name"], "docker.io/library/weir:dev");
        let manifest: Value = serde_json::from_slice(&blob(described)).unwrap();
        let configuration: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(configuration["config"]["User"], "65532:65532");
        let mut layer = Vec::new();
        let zipped = blob(&manifest["layers"][0]);
        flate2::read::GzDecoder::new(zipped.as_slice()).read_to_end(&mut layer).unwrap();
        assert_eq!(configuration["rootfs"]["diff_ids"][0], digest(&layer).as_str());
        let names: Vec<String> = read(&layer).into_keys().collect();
        assert_eq!(names, ["etc/", "etc/a/", "etc/a/b"]);
    }
}
