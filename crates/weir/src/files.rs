//! File mode: the same store, control and data plane as anywhere, filled from a directory and without an API socket.
//!
//! Owns what `weir serve` and `weir validate` share. Invariant: what is wrong with an object is read from its status and
//! its events, as `kubectl` would read it; there is no second judgement.

use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client};
use weir_apiserver::loader::{LoadError, Loaded, Loader};
use weir_apiserver::{ApiServer, ApiServerConfig, Identity};

use crate::cli::Channel;
use crate::status;

/// A store without a socket whose objects mean the same at every start.
pub(crate) fn server(channel: Channel) -> Result<ApiServer> {
    let config =
        ApiServerConfig { channel: channel.into(), identity: Identity::Stable, ..ApiServerConfig::default() };
    Ok(ApiServer::new(config)?)
}

/// Reads the directory and fills the store; returns everything that is wrong with files and objects.
pub(crate) fn load(loader: &mut Loader, files: &Path, api: &ApiServer) -> Result<(Loaded, Vec<LoadError>)> {
    let loaded = loader.read().with_context(|| format!("-f: reading {}", files.display()))?;
    let mut errors = loaded.errors.clone();
    errors.extend(loaded.apply(api));
    Ok((loaded, errors))
}

/// Something that an object's status or an event says is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Kind and name, for example `HTTPRoute default/echo`.
    pub(crate) object: String,
    pub(crate) text: String,
}

/// What is not as it should be now, each thing once.
pub(crate) async fn findings(client: &Client) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let of = |object: &str, text: String| Finding { object: object.to_owned(), text };
    for kind in status::stated_kinds() {
        for object in status::list(client, kind).await? {
            let title = format!("{kind} {}", status::name(&object));
            found.extend(status::all_problems(&object).into_iter().map(|text| of(&title, text)));
        }
    }
    let events =
        Api::<Event>::all(client.clone()).list(&ListParams::default()).await.context("listing events")?;
    for event in events.items.into_iter().filter(|event| event.type_.as_deref() == Some("Warning")) {
        let about = event.involved_object;
        let name = [about.namespace, about.name].into_iter().flatten().filter(|part| !part.is_empty());
        let title = format!("{} {}", about.kind.unwrap_or_default(), name.collect::<Vec<_>>().join("/"));
        let message = event.message.unwrap_or_default();
        // A condition that says the same is enough.
        if !found.iter().any(|finding| finding.object == title && finding.text.contains(&message)) {
            found.push(of(&title, format!("{}: {message}", event.reason.unwrap_or_default())));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}
