//! Files that a container reads from volumes of Secrets and ConfigMaps, as a kubelet projects them. Pure.
//!
//! Deliberately absent: every other kind of volume, which has nothing that a stand-in reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, KeyToPath, Pod, Volume};

use super::environment::Sources;

/// Text files by path, relative to the volume.
type Files = BTreeMap<String, String>;

/// The volumes of one pod that have files.
#[derive(Debug, Default)]
pub(super) struct Volumes(BTreeMap<String, Files>);

/// A volume whose source is not there yet, in the kubelet's words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub(super) struct NotMounted {
    volume: String,
    why: String,
}

impl Volumes {
    /// The files of all volumes of `pod`, or the first that cannot be mounted yet.
    pub(super) fn resolve(pod: &Pod, sources: &impl Sources) -> Result<Self, NotMounted> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let mut resolved = BTreeMap::new();
        for volume in volumes {
            let files =
                files(volume, sources).map_err(|why| NotMounted { volume: volume.name.clone(), why })?;
            resolved.insert(volume.name.clone(), files);
        }
        Ok(Self(resolved))
    }

    /// The text of the file that `container` sees at `path`.
    pub(super) fn file(&self, container: &Container, path: &str) -> Option<&str> {
        let mounts = container.volume_mounts.iter().flatten().filter_map(|mount| {
            let rest = path.strip_prefix(mount.mount_path.trim_end_matches('/'))?;
            let inside = match (&mount.sub_path, rest.strip_prefix('/')) {
                (None, Some(inside)) => inside.to_owned(),
                (Some(sub), Some(inside)) => format!("{}/{inside}", sub.trim_end_matches('/')),
                (Some(sub), None) if rest.is_empty() => sub.clone(),
                _ => return None,
            };
            Some((mount, inside))
        });
        // A mount inside another one covers it.
        let (mount, inside) = mounts.max_by_key(|(mount, _)| mount.mount_path.len())?;
        self.0.get(&mount.name)?.get(&inside).map(String::as_str)
    }
}

fn files(volume: &Volume, sources: &impl Sources) -> Result<Files, String> {
    let mut files = Files::new();
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let source =
            Source { kind: "secret", name, items: secret.items.as_deref(), optional: secret.optional };
        source.project(sources.secret(name), &mut files)?;
    } else if let Some(map) = &volume.config_map {
        let source = Source {
            kind: "configmap",
            name: &map.name,
            items: map.items.as_deref(),
            optional: map.optional,
        };
        source.project(sources.config_map(&map.name), &mut files)?;
    } else if let Some(projected) = &volume.projected {
        for part in projected.sources.iter().flatten() {
            if let Some(secret) = &part.secret {
                let (items, optional) = (secret.items.as_deref(), secret.optional);
                let source = Source { kind: "secret", name: &secret.name, items, optional };
                source.project(sources.secret(&secret.name), &mut files)?;
            } else if let Some(map) = &part.config_map {
                let (items, optional) = (map.items.as_deref(), map.optional);
                let source = Source { kind: "configmap", name: &map.name, items, optional };
                source.project(sources.config_map(&map.name), &mut files)?;
            }
        }
    }
    Ok(files)
}

struct Source<'a> {
    kind: &'static str,
    name: &'a str,
    items: Option<&'a [KeyToPath]>,
    optional: Option<bool>,
}

impl Source<'_> {
    /// Adds the entries to `files`: all of them, or those that `items` chooses.
    fn project(&self, entries: Option<Files>, files: &mut Files) -> Result<(), String> {
        let optional = self.optional == Some(true);
        let Some(entries) = entries else {
            return if optional { Ok(()) } else { Err(format!("{} \"{}\" not found", self.kind, self.name)) };
        };
        let Some(items) = self.items.filter(|items| !items.is_empty()) else {
            files.extend(entries);
            return Ok(());
        };
        for item in items {
            match entries.get(&item.key) {
                Some(value) => {
                    files.insert(item.path.clone(), value.clone());
                }
                None if optional => {}
                None => return Err(format!("references non-existent {} key: {}", self.kind, item.key)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixed;

    impl Sources for Fixed {
        fn config_map(&self, name: &str) -> Option<Files> {
            (name == "ca").then(|| Files::from([("ca.crt".to_owned(), "CA".to_owned())]))
        }

        fn secret(&self, name: &str) -> Option<Files> {
            let entries = [("tls.crt", "CERT"), ("tls.key", "KEY")];
            let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
            (name == "tls").then(|| entries.map(own).into())
        }
    }

    fn pod(volumes: serde_json::Value, mounts: serde_json::Value) -> (Pod, Container) {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": {
            "volumes": volumes, "containers": [{ "name": "c", "volumeMounts": mounts }],
        } }))
        .expect("a Pod");
        let container = pod.spec.as_ref().expect("has one").containers[0].clone();
        (pod, container)
    }

    #[test]
    fn files_are_where_items_and_mounts_put_them() {
        let (pod, container) = pod(
            json!([
                { "name": "s", "secret": { "secretName": "tls", "items": [{ "key": "tls.crt", "path": "crt" }] } },
                { "name": "p", "projected": { "sources": [
                    { "configMap": { "name": "ca" } }, { "secret": { "name": "tls" } },
                ] } },
                { "name": "scratch", "emptyDir": {} },
            ]),
            json!([
                { "name": "s", "mountPath": "/etc/s" },
                { "name": "p", "mountPath": "/etc/" },
                { "name": "p", "mountPath": "/one/ca.pem", "subPath": "ca.crt" },
                { "name": "scratch", "mountPath": "/tmp" },
            ]),
        );
        let volumes = Volumes::resolve(&pod, &Fixed).expect("all there");
        let found = |path| volumes.file(&container, path);
        assert_eq!(found("/etc/s/crt"), Some("CERT"));
        assert_eq!(found("/etc/s/tls.key"), None, "items choose");
        assert_eq!((found("/etc/ca.crt"), found("/etc/tls.key")), (Some("CA"), Some("KEY")));
        assert_eq!(found("/one/ca.pem"), Some("CA"));
        assert_eq!((found("/etcetera"), found("/tmp/x")), (None, None));
    }

    #[test]
    fn what_is_missing_is_named_as_the_kubelet_names_it() {
        let said = |volumes| Volumes::resolve(&pod(volumes, json!([])).0, &Fixed).map_err(|e| e.to_string());
        assert_eq!(
            said(json!([{ "name": "v", "secret": { "secretName": "gone" } }])).unwrap_err(),
            "MountVolume.SetUp failed for volume \"v\" : secret \"gone\" not found"
        );
        assert_eq!(
            said(json!([{ "name": "v", "configMap": { "name": "ca", "items": [{ "key": "x", "path": "y" }] } }]))
                .unwrap_err(),
            "MountVolume.SetUp failed for volume \"v\" : references non-existent configmap key: x"
        );
        assert!(said(json!([{ "name": "v", "secret": { "secretName": "gone", "optional": true } }])).is_ok());
    }
}
