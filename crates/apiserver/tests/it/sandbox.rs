//! An embedded API with its controllers and pods, for tests.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{DynamicObject, PostParams};
use kube::core::{NamespaceResourceScope, Resource};
use kube::discovery::ApiResource;
use kube::runtime::watcher;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weir_apiserver::pods::PodsConfig;
use weir_apiserver::{ApiServer, ApiServerConfig, controllers, pods};

/// No wait in these tests takes longer, on however busy a machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Sandbox {
    pub(crate) client: Client,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Sandbox {
    /// `range` is the pods' address range; each test has its own.
    pub(crate) fn start(range: &str) -> Self {
        let config = PodsConfig { addresses: range.parse().expect("a range"), ..PodsConfig::default() };
        Self::start_with(config)
    }

    pub(crate) fn start_with(config: PodsConfig) -> Self {
        let server = ApiServer::new(ApiServerConfig::default()).expect("a server");
        let client = server.client();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(controllers::run(client.clone(), shutdown.clone()));
        tasks.spawn(pods::run(client.clone(), config, server.logs(), shutdown.clone()));
        Self { client, shutdown, tasks }
    }

    /// Ends everything; what does not end in time fails the test.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let all =
            async { while self.tasks.join_next().await.transpose().expect("no task panics").is_some() {} };
        tokio::time::timeout(DEADLINE, all).await.expect("controllers and pods end");
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates every object of a YAML text in namespace `default`.
    pub(crate) async fn create(&self, yaml: &str) {
        for object in serde_saphyr::from_multiple::<Value>(yaml).expect("YAML") {
            self.create_one(object).await;
        }
    }

    pub(crate) async fn create_one(&self, object: Value) -> DynamicObject {
        let kind = object["kind"].as_str().expect("a kind");
        let api_version = object["apiVersion"].as_str().expect("a version");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk(&gvk);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), "default", &resource);
        let object = serde_json::from_value(object).expect("an object");
        api.create(&PostParams::default(), &object).await.expect("created")
    }
}

/// Waits until the list of a kind satisfies `done`; returns what `done` makes of it.
pub(crate) async fn until<K, T>(api: &Api<K>, what: &str, done: impl Fn(&[K]) -> Option<T>) -> T
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + 'static,
{
    let mut last = Vec::new();
    let search = async {
        let mut events = std::pin::pin!(watcher::watcher(api.clone(), watcher::Config::default()));
        loop {
            // Every change is a reason to look; the list says how things are.
            events.next().await.expect("watches do not end").expect("a watch");
            last = api.list(&Default::default()).await.expect("a list").items;
            if let Some(found) = done(&last) {
                return found;
            }
        }
    };
    match tokio::time::timeout(DEADLINE, search).await {
        Ok(found) => found,
        Err(_) => {
            panic!("{what}: not in time; last seen: {}", serde_json::to_string_pretty(&last).expect("JSON"))
        }
    }
}

/// One HTTP/1.1 request over a connection of its own; status, head and body of the answer.
pub(crate) async fn get(address: &str, target: &str) -> (u16, String, String) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).await
}

pub(crate) async fn exchange(address: &str, request: &[u8]) -> (u16, String, String) {
    let all = async {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(request).await.expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("reads");
        String::from_utf8(answer).expect("text")
    };
    let answer = tokio::time::timeout(DEADLINE, all).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_owned(), body.to_owned())
}
