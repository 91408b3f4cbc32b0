//! How the client commands (`status`, `split`, `snapshot`, `check`) and the demo reach the Kubernetes API and the admin port.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use weir_control::Kind;

use crate::cli::ClientOptions;

/// Namespace and name of the ConfigMap in which a sandbox says where its admin port is (key `admin`).
pub(crate) const SANDBOX_CONFIG_MAP: (&str, &str) = ("kube-system", "weir-sandbox");

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folder of Weir's own files of this user: `$XDG_STATE_HOME/weir`, else `~/.local/state/weir`.
pub(crate) fn state_folder() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    Ok(base.context("neither XDG_STATE_HOME nor HOME is set: say where with --kubeconfig PATH")?.join("weir"))
}

/// A client for `--kubeconfig`, else `$KUBECONFIG`, else the sandbox's default file, else as kubectl, else the pod's service account.
/// A plugin of kubectl, and who names a context, means kubectl's.
pub(crate) async fn connect(options: &ClientOptions) -> Result<Client> {
    let chosen = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &options.kubeconfig {
        return connect_to(path, &chosen).await;
    }
    let is_told = std::env::var_os("KUBECONFIG").is_some();
    let sandbox = state_folder().map(|folder| folder.join("kubeconfig"));
    if let Ok(path) = &sandbox
        && !is_told
        && options.context.is_none()
        && !is_plugin()
        && path.exists()
    {
        let client = connect_to(path, &chosen).await?;
        let asked = client.apiserver_version().await;
        asked.map_err(told).with_context(|| {
            format!(
                "the sandbox of {} does not answer: is it still running? Another cluster is named with --kubeconfig",
                path.display()
            )
        })?;
        return Ok(client);
    }
    match Config::from_kubeconfig(&chosen).await {
        Ok(config) => client(patient(config)),
        Err(error) if is_told => Err(error).context("reading $KUBECONFIG"),
        Err(error) if options.context.is_some() => Err(error).context("--context"),
        Err(_) => match Config::incluster() {
            Ok(config) => client(patient(config)),
            Err(_) if is_plugin() => bail!("kubectl has no kubeconfig: name a file with --kubeconfig"),
            Err(_) => Err(no_kubeconfig(&sandbox?)),
        },
    }
}

fn no_kubeconfig(path: &Path) -> anyhow::Error {
    anyhow!(
        "no kubeconfig at {}: is a sandbox running? Start one with `weir sandbox`, or name a file with --kubeconfig",
        path.display()
    )
}

/// Whether this runs as `kubectl weir`.
fn is_plugin() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|path| path.file_stem().is_some_and(|name| name == "kubectl-weir"))
}

/// A client for a file that there is.
async fn connect_to(path: &Path, chosen: &KubeConfigOptions) -> Result<Client> {
    if !path.exists() {
        return Err(no_kubeconfig(path));
    }
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, chosen).await;
    client(patient(config.with_context(|| path.display().to_string())?))
}

pub(crate) async fn connect_with(path: &Path) -> Result<Client> {
    connect_to(path, &KubeConfigOptions::default()).await
}

/// Nobody waits for ever for an answer.
fn patient(mut config: Config) -> Config {
    config.read_timeout = Some(PATIENCE);
    config
}

/// A client with this program's cryptography; of the runtime that it is made on.
pub(crate) fn client(config: Config) -> Result<Client> {
    // kube takes the process's provider; a second installation of the same one is not an error.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let url = config.cluster_url.clone();
    Client::try_from(config).with_context(|| format!("connecting to {url}"))
}

/// What stands at a path of the admin port: of `--admin`, else of the sandbox or the leading controllers behind the
/// kubeconfig, of which there can be several; of a namespace, or of all.
pub(crate) async fn ask(options: &ClientOptions, namespace: Option<&str>, path: &str) -> Result<Vec<Bytes>> {
    if let Some(url) = &options.admin {
        let url = if url.contains("://") { url.clone() } else { format!("http://{url}") };
        return Ok(vec![get(&format!("{}/{path}", url.trim_end_matches('/'))).await?]);
    }
    let client = connect(options).await?;
    let leases = leases(&client, namespace).await?;
    if let (true, Some(namespace)) = (leases.is_empty(), namespace) {
        bail!("no controller of Weir has ever led in namespace {namespace}");
    }
    if leases.is_empty() {
        let (namespace, name) = SANDBOX_CONFIG_MAP;
        let url = sandbox_url(&client).await?;
        let url = url.with_context(|| format!("the API does not say where the admin port is (ConfigMap {namespace}/{name}): name it with --admin URL"))?;
        return Ok(vec![get(&format!("{}/{path}", url.trim_end_matches('/'))).await?]);
    }
    let mut answers = Vec::with_capacity(leases.len());
    let mut failures = Vec::new();
    for lease in &leases {
        match ask_leader(&client, lease, path).await {
            Ok(answer) => answers.push(Bytes::from(answer)),
            // Another installation may have an answer.
            Err(error) => failures.push(error),
        }
    }
    let fatal = if answers.is_empty() { failures.pop() } else { None };
    for error in failures {
        eprintln!("weir: {error:#}");
    }
    fatal.map_or(Ok(answers), Err)
}

/// The Leases of Weir's controllers, in all namespaces or in one; none where the API does not serve Leases.
pub(crate) async fn leases(client: &Client, namespace: Option<&str>) -> Result<Vec<Lease>> {
    let all = match namespace {
        Some(namespace) => Api::<Lease>::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    match all.list(&ListParams::default().labels(weir_control::LEASE_LABEL)).await {
        Ok(leases) => Ok(leases.items),
        Err(kube::Error::Api(status)) if is_absent(&status) => Ok(Vec::new()),
        Err(error) => Err(told(error)).context("listing leases"),
    }
}

/// What the controller that holds a Lease answers on its admin port, through the API server.
pub(crate) async fn ask_leader(client: &Client, lease: &Lease, path: &str) -> Result<String> {
    let namespace = lease.namespace().unwrap_or_default();
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let port = lease.annotations().get(weir_control::ADMIN_PORT_ANNOTATION);
    let ((pod, _), Some(port)) = (holder.rsplit_once('_').unwrap_or_default(), port) else {
        bail!("nobody holds Lease {namespace}/{}", lease.name_any());
    };
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path}");
    let answer = client.request_text(http::Request::get(path).body(Vec::new())?).await;
    answer.map_err(told).with_context(|| format!("asking pod {namespace}/{pod} through the API"))
}

/// What an API server, or a pod behind it, said no to.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({code})")]
pub(crate) struct Refused {
    pub(crate) code: u16,
    message: String,
}

/// An error in the API's own words, without the object around them.
pub(crate) fn told(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => {
            Refused { code: status.code, message: status.message.trim().to_owned() }.into()
        }
        other => other.into(),
    }
}

/// Whether what was asked for is not there. Of a group that it does not have, an API server says so in plain words and not as a status,
/// for which the client puts a reason of its own.
pub(crate) fn is_absent(status: &kube::core::Status) -> bool {
    status.code == 404
}

/// The version in which the API serves a kind.
pub(crate) async fn serves(client: &Client, kind: Kind) -> Result<Option<&'static str>> {
    for version in kind.versions() {
        let path = match kind.group() {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let answer = client.request::<serde_json::Value>(http::Request::get(path).body(Vec::new())?).await;
        match answer {
            Ok(list) => {
                let resources = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
                if resources.iter().any(|resource| resource["name"] == kind.plural()) {
                    return Ok(Some(version));
                }
            }
            Err(kube::Error::Api(status)) if is_absent(&status) => {}
            Err(error) => return Err(told(error)).context("asking which kinds there are"),
        }
    }
    Ok(None)
}

/// Where a sandbox's admin port is, as its API says; none in a cluster.
pub(crate) async fn sandbox_url(client: &Client) -> Result<Option<String>> {
    let (namespace, name) = SANDBOX_CONFIG_MAP;
    let found = Api::<ConfigMap>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await
        .map_err(told)
        .context("asking the Kubernetes API")?;
    Ok(found.and_then(|map| map.data).unwrap_or_default().remove("admin"))
}

/// One GET, on a connection of its own.
pub(crate) async fn get(url: &str) -> Result<Bytes> {
    let answer = tokio::time::timeout(PATIENCE, get_now(url)).await;
    answer.with_context(|| format!("{url} does not answer within {} s", PATIENCE.as_secs()))?
}

async fn get_now(url: &str) -> Result<Bytes> {
    let uri: http::Uri = url.parse().with_context(|| format!("`{url}` is not a URL"))?;
    let authority = uri.authority().with_context(|| format!("`{url}` names no host"))?.clone();
    // An IPv6 address has brackets there.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = (host, authority.port_u16().unwrap_or(80));
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {authority}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request =
        http::Request::get(path).header(http::header::HOST, authority.as_str()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    if !status.is_success() {
        bail!("{url}: {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}

/// Columns padded to their widest cell, two spaces apart, no trailing blanks.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use kube::client::Body;

    use super::*;

    fn client(code: u16, kind: &'static str, text: &'static str) -> Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let answer = move |_: http::Request<Body>| async move {
            let response = http::Response::builder().status(code).header("content-type", kind);
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from_static(text.as_bytes()))).unwrap())
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn an_admin_port_may_have_an_address_of_either_family() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let url = format!("http://{}/readyz", listener.local_addr().unwrap());
            let served = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
                stream
            });
            assert_eq!(get(&url).await.unwrap(), "ok", "{url}");
            served.await.unwrap();
        }
    }

    /// An API server's answer to a path of a group that it does not have is no status object.
    #[tokio::test]
    async fn a_group_that_the_api_does_not_have_is_a_kind_that_it_does_not_serve() {
        let client = client(404, "text/plain", "404 page not found\n");
        assert_eq!(serves(&client, Kind::Gateway).await.unwrap(), None);
        assert!(crate::status::list(&client, Kind::Gateway).await.unwrap().is_empty());
        assert!(leases(&client, None).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_has_not_the_right_is_told_so_in_the_apis_words() {
        let status = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "it is forbidden",
                         "reason": "Forbidden", "code": 403}"#;
        let client = client(403, "application/json", status);
        let told = |error: anyhow::Error| format!("{error:#}");
        assert_eq!(told(leases(&client, None).await.unwrap_err()), "listing leases: it is forbidden (403)");
        let error = crate::status::list(&client, Kind::Gateway).await.unwrap_err();
        assert_eq!(error.downcast_ref::<Refused>().unwrap().code, 403);
        assert_eq!(told(error), "listing gateways: it is forbidden (403)");
    }
}
