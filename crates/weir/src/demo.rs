//! `weir demo`: the multi-backend guide, for real: its own YAML through the API, its requests through sockets, and
//! a count of what came back.
//!
//! Invariant: nothing here knows the answer. Weights are read from the API, counts from the sockets.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::Value;

use crate::cli::{Channel, DemoOptions, ProcessOptions, SandboxOptions};
use crate::client;
use crate::sandbox::Sandbox;
use crate::status::gateway_api;

/// The guide's own files, in the guide's order.
const GUIDE: [(&str, &str); 3] = [
    ("examples/kic/gateway-v1.yaml", include_str!("../../../examples/kic/gateway-v1.yaml")),
    ("examples/kic/echo-services.yaml", include_str!("../../../examples/kic/echo-services.yaml")),
    ("examples/kic/httproute.yaml", include_str!("../../../examples/kic/httproute.yaml")),
];
const WEIGHTS: &str = include_str!("../../../examples/kic/weights.json");

const NAMESPACE: &str = "default";
const REQUESTS: u32 = 200;
/// For each wait on a condition: far above what a loaded machine needs, so that it only ends what hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(options: &DemoOptions) -> Result<ExitCode> {
    let folder = tempfile_folder()?;
    let process = ProcessOptions { workers: None, admin: None, seed: None };
    let started = Instant::now();
    let sandbox = Sandbox::start(&SandboxOptions {
        kubeconfig: Some(folder.path.join("kubeconfig")),
        address_range: None,
        api_port: 0,
        channel: Channel::Experimental,
        process,
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        println!(
            "Sandbox ready in {} ms: a Kubernetes API, echo pods and the gateway in this process.",
            started.elapsed().as_millis()
        );
        let exact = story(&sandbox.kubeconfig.path).await?;
        if std::io::stdout().is_terminal() && !options.exit {
            println!("\nCtrl-C ends it.");
            crate::process::stop_signal().await?;
        }
        anyhow::Ok(exact)
    });
    sandbox.stop();
    match outcome? {
        true => Ok(ExitCode::SUCCESS),
        false => bail!("a count is off: see the table above"),
    }
}

async fn story(kubeconfig: &Path) -> Result<bool> {
    let client = client::connect_with(kubeconfig).await?;
    for (file, text) in GUIDE {
        println!("\nApplying {file}:");
        for object in apply(&client, text).await? {
            println!("{object}");
        }
    }
    let guide = Guide { client };
    guide.wait_for_pods().await?;
    let address = guide.wait_for_route().await?;

    println!("\n{REQUESTS} requests to http://{address}/echo/hostname on one keep-alive connection:\n");
    let first = guide.count(address).await?;
    println!("\nPatching HTTPRoute echo with examples/kic/weights.json:");
    guide.patch_weights().await?;
    println!("\n{REQUESTS} requests with the new weights:\n");
    let second = guide.count(address).await?;
    println!("{}", by_hand(kubeconfig, address));
    Ok(first && second)
}

/// Server-side apply of each document; the lines that `kubectl` would print.
async fn apply(client: &Client, text: &str) -> Result<Vec<String>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| anyhow!("{error}"))?;
    let mut lines = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let mut object: DynamicObject = serde_json::from_value(document)?;
        let types = object.types.clone().context("an object without apiVersion and kind")?;
        let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, &types.kind);
        let (resource, capabilities) = kube::discovery::pinned_kind(client, &gvk).await?;
        let name = object.metadata.name.clone().context("an object without a name")?;
        let api: Api<DynamicObject> = match capabilities.scope {
            kube::discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
            kube::discovery::Scope::Namespaced => {
                let namespace = object.metadata.namespace.get_or_insert_with(|| NAMESPACE.to_owned());
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
        };
        let applied = api.patch(&name, &PatchParams::apply("weir-demo"), &Patch::Apply(&object)).await;
        applied.with_context(|| format!("applying {} {name}", types.kind))?;
        let suffix = if group.is_empty() { String::new() } else { format!(".{group}") };
        lines.push(format!("{}{suffix}/{name} serverside-applied", types.kind.to_lowercase()));
    }
    Ok(lines)
}

struct Guide {
    client: Client,
}

impl Guide {
    /// Until each Deployment is available and each Service has a ready endpoint.
    async fn wait_for_pods(&self) -> Result<()> {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), NAMESPACE);
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), NAMESPACE);
        for name in ["echo", "echo2"] {
            let available = |deployment: &Deployment| {
                deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0) > 0
            };
            let fields = watcher::Config::default().fields(&format!("metadata.name={name}"));
            wait_until(deployments.clone(), fields, available)
                .await
                .with_context(|| format!("Deployment {name}"))?;
            let ready = |slice: &EndpointSlice| {
                slice
                    .endpoints
                    .iter()
                    .flatten()
                    .any(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false))
            };
            let labels = watcher::Config::default().labels(&format!("kubernetes.io/service-name={name}"));
            wait_until(slices.clone(), labels, ready)
                .await
                .with_context(|| format!("endpoints of Service {name}"))?;
        }
        Ok(())
    }

    /// Until the route's conditions say that it answers; then where the shared data plane listens.
    async fn wait_for_route(&self) -> Result<SocketAddr> {
        let routes = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &gateway_api("HTTPRoute", "httproutes"),
        );
        let name = watcher::Config::default().fields("metadata.name=echo");
        let answers = |route: &DynamicObject| {
            let parents = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
            parents
                .iter()
                .any(|parent| is_true(parent, "Accepted", route) && is_true(parent, "ResolvedRefs", route))
        };
        wait_until(routes, name, answers).await.context("HTTPRoute echo: Accepted and ResolvedRefs")?;
        let gateways = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &gateway_api("Gateway", "gateways"),
        );
        let name = watcher::Config::default().fields("metadata.name=kong");
        let programmed = |gateway: &DynamicObject| is_true(&gateway.data["status"], "Programmed", gateway);
        let gateway = wait_until(gateways, name, programmed).await.context("Gateway kong: Programmed")?;
        let ip = gateway.data["status"]["addresses"][0]["value"]
            .as_str()
            .context("a Gateway without an address")?;
        Ok(SocketAddr::new(ip.parse()?, self.port().await?))
    }

    /// 80, or what stands for it where low ports may not be bound: the Service of the shared data plane says so.
    async fn port(&self) -> Result<u16> {
        let service =
            Api::<Service>::namespaced(self.client.clone(), "kong").get("kong-gateway-proxy").await?;
        let annotations = service.metadata.annotations.unwrap_or_default();
        let bound = annotations.get("weir.dev/bound-ports").map(String::as_str).unwrap_or_default();
        let moved = bound.split(',').find_map(|pair| pair.strip_prefix("80="));
        Ok(moved.map_or(Ok(80), str::parse)?)
    }

    async fn patch_weights(&self) -> Result<()> {
        let api = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &gateway_api("HTTPRoute", "httproutes"),
        );
        let patch: kube::core::params::Patch<Value> = Patch::Json(serde_json::from_str(WEIGHTS)?);
        let patched = api.patch("echo", &PatchParams::default(), &patch).await?;
        let generation = patched.metadata.generation;
        let seen = move |route: &DynamicObject| {
            let conditions =
                route.data["status"]["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
            !conditions.is_empty()
                && conditions.iter().all(|c| c["observedGeneration"].as_i64() == generation)
        };
        wait_until(api, watcher::Config::default().fields("metadata.name=echo"), seen)
            .await
            .context("HTTPRoute echo after the patch")?;
        println!("httproute.gateway.networking.k8s.io/echo patched");
        Ok(())
    }

    /// Sends the requests, prints the table, and says whether every count is within one of its share.
    async fn count(&self, address: SocketAddr) -> Result<bool> {
        let counts = send(address).await?;
        let pods =
            Api::<Pod>::namespaced(self.client.clone(), NAMESPACE).list(&ListParams::default()).await?.items;
        let services = Api::<Service>::namespaced(self.client.clone(), NAMESPACE)
            .list(&ListParams::default())
            .await?
            .items;
        let weights = self.weights().await?;
        let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut rows =
            vec![["SERVICE", "WEIGHT", "POD", "COUNT", "EXPECTED", ""].map(str::to_owned).to_vec()];
        let mut exact = true;
        let mut seen = 0;
        for (service, weight) in &weights {
            let of_service: Vec<_> =
                counts.iter().filter(|(pod, _)| serves(service, pod, &services, &pods)).collect();
            let count: u32 = of_service.iter().map(|(_, count)| **count).sum();
            seen += count;
            let expected = *weight as f64 * f64::from(REQUESTS) / total.max(1) as f64;
            let good = (f64::from(count) - expected).abs() < 1.0;
            exact &= good;
            let names: Vec<&str> = of_service.iter().map(|(pod, _)| pod.as_str()).collect();
            let verdict = if good { "exact" } else { "OFF" };
            rows.push(vec![
                service.clone(),
                weight.to_string(),
                names.join(","),
                count.to_string(),
                format!("{expected:.1}"),
                verdict.to_owned(),
            ]);
        }
        print!("{}", client::table(&rows));
        if seen != REQUESTS {
            println!("{} answers came from somewhere else: {counts:?}", REQUESTS - seen);
        }
        Ok(exact && seen == REQUESTS)
    }

    /// Names and weights as the API returns them (its default of 1 included).
    async fn weights(&self) -> Result<Vec<(String, u64)>> {
        let api = Api::<DynamicObject>::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &gateway_api("HTTPRoute", "httproutes"),
        );
        let route = api.get("echo").await?;
        let references =
            route.data["spec"]["rules"][0]["backendRefs"].as_array().cloned().unwrap_or_default();
        let pair =
            |reference: &Value| Some((reference["name"].as_str()?.to_owned(), reference["weight"].as_u64()?));
        Ok(references.iter().filter_map(pair).collect())
    }
}

/// Bodies and how often each came, over one keep-alive connection.
async fn send(address: SocketAddr) -> Result<BTreeMap<String, u32>> {
    let stream =
        tokio::net::TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut counts = BTreeMap::new();
    for iteration in 1..=REQUESTS {
        sender.ready().await.context("the gateway closed the keep-alive connection")?;
        let request = http::Request::get(format!("/echo/hostname?iteration={iteration}"))
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())?;
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await??;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        let answer = if status.is_success() { body } else { format!("{status} {body}") };
        *counts.entry(answer).or_insert(0) += 1;
    }
    driver.abort();
    Ok(counts)
}

/// Whether the Service's selector takes in the pod.
fn serves(service: &str, pod: &str, services: &[Service], pods: &[Pod]) -> bool {
    let named = |name: &Option<String>, wanted: &str| name.as_deref() == Some(wanted);
    let Some(service) = services.iter().find(|s| named(&s.metadata.name, service)) else { return false };
    let Some(pod) = pods.iter().find(|p| named(&p.metadata.name, pod)) else { return false };
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Watches until an object of the selection satisfies `done`.
async fn wait_until<K>(api: Api<K>, selection: watcher::Config, done: impl Fn(&K) -> bool) -> Result<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let wait = async {
        let mut objects = std::pin::pin!(watcher(api, selection).applied_objects());
        while let Some(object) = objects.next().await {
            if let Ok(object) = object
                && done(&object)
            {
                return Ok(object);
            }
        }
        bail!("the watch ended")
    };
    tokio::time::timeout(PATIENCE, wait).await.map_err(|_| anyhow!("not there after {PATIENCE:?}"))?
}

/// A condition that is True at the object's own generation.
fn is_true(holder: &Value, condition: &str, object: &DynamicObject) -> bool {
    let conditions = holder["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| {
        c["type"] == condition
            && c["status"] == "True"
            && c["observedGeneration"].as_i64() == object.metadata.generation
    })
}

/// The lines with which to go on, as they are on this machine.
fn by_hand(kubeconfig: &Path, address: SocketAddr) -> String {
    let port = if address.port() == 80 { String::new() } else { format!(":{}", address.port()) };
    format!(
        r#"
Go on by hand, in another terminal:

  export KUBECONFIG={kubeconfig}
  export PROXY_IP=$(kubectl get svc --namespace kong kong-gateway-proxy -o jsonpath='{{.status.loadBalancer.ingress[0].ip}}')
  kubectl get gateways,httproutes,services,pods
  curl -s "$PROXY_IP{port}/echo/hostname?iteration="{{1..200}} -w "\n" | sort | uniq -c
  kubectl patch --type json httproute echo -p='[{{"op":"add","path":"/spec/rules/0/backendRefs/0/weight","value":900}}]'
  kubectl scale deployment echo2 --replicas=20

The demo's own objects are GatewayClass kong, and in namespace {NAMESPACE}: Gateway kong, HTTPRoute echo, Services and
Deployments echo and echo2. This deletes them:

  kubectl delete gatewayclass/kong gateway/kong httproute/echo service/echo service/echo2 deployment/echo deployment/echo2
"#,
        kubeconfig = kubeconfig.display(),
    )
    .trim_end()
    .to_owned()
}

/// A folder of this process under the system's temporary directory, removed when dropped.
struct TemporaryFolder {
    path: std::path::PathBuf,
}

fn tempfile_folder() -> Result<TemporaryFolder> {
    use std::os::unix::fs::DirBuilderExt;
    let path = std::env::temp_dir().join(format!("weir-demo-{}", std::process::id()));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .with_context(|| format!("making {}", path.display()))?;
    Ok(TemporaryFolder { path })
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
