//! `weir proxy` as it runs in a pod: a real process, a distribution in this one, mutual TLS between them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use weir_apiserver::{ApiServer, ApiServerConfig, ServingTls};
use weir_control::distribute::{
    AuthorityPolicy, Clock, DEFAULT_AUDIENCE, DistributeConfig, DistributeStatus, Distribution, Leadership,
};
use weir_model::resource::{
    Applied, Attachment, Backend, Body, DataPlaneName, Endpoint, Endpoints, HttpMatch, HttpRoute, HttpRule,
    KindVersion, Listener, Resource, Update, WeightedBackend,
};

use crate::harness::http::{Answer, Connection};
use crate::harness::process::{Process, clean_command};
use crate::harness::sandbox::free_address;
use crate::harness::{eventually, within};

const SECRET: &str = "weir-authority";

/// The API of a cluster, which outlives its controllers.
pub(crate) struct Cluster {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) api: ApiServer,
    files: TempDir,
    /// How far the clocks of the API and of controllers are ahead. Unit: seconds.
    api_ahead: Arc<AtomicI64>,
    controllers_ahead: Arc<AtomicI64>,
}

pub(crate) fn unix_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let api_ahead = Arc::<AtomicI64>::default();
        let ahead = api_ahead.clone();
        let clock = weir_apiserver::Clock::from_fn(move || {
            jiff::Timestamp::from_second(unix_seconds() + ahead.load(Relaxed)).expect("a time")
        });
        let api = ApiServer::new(ApiServerConfig { clock, ..ApiServerConfig::default() }).expect("an API");
        let files = tempfile::tempdir().expect("a directory");
        Cluster { runtime, api, files, api_ahead, controllers_ahead: Arc::default() }
    }

    pub(crate) fn secrets(&self) -> kube::Api<Secret> {
        let _inside = self.runtime.enter();
        kube::Api::default_namespaced(self.api.client())
    }

    /// Serves the API on a socket; the kubeconfig for it.
    pub(crate) fn serve(&self) -> PathBuf {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("https://{}", listener.local_addr().expect("it is bound"));
        let tls = ServingTls::generate(&[Ipv4Addr::LOCALHOST.into()]).expect("a certificate");
        let path = self.path("kubeconfig");
        std::fs::write(&path, self.api.kubeconfig(&url, &tls)).expect("a file");
        let api = self.api.clone();
        self.runtime.spawn(async move { api.serve(listener, tls, CancellationToken::new()).await });
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Makes the service account of a data plane, where it is not there, and writes a token of it to a file.
    pub(crate) fn token(&self, name: &str, audience: &str) -> PathBuf {
        let path = self.path(&format!("token-{name}-{}", audience.len()));
        let token = self.runtime.block_on(async {
            let client = self.api.client();
            let accounts = kube::Api::<ServiceAccount>::namespaced(client.clone(), "default");
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
            let account = serde_json::from_value(account).expect("a service account");
            // It may be there already.
            let _ = accounts.create(&PostParams::default(), &account).await;
            let uri = format!("/api/v1/namespaces/default/serviceaccounts/{name}/token");
            let body = json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                "spec": {"audiences": [audience], "expirationSeconds": 600},
            });
            let request = http::Request::post(uri)
                .header("content-type", "application/json")
                .body(body.to_string().into_bytes())
                .expect("a request");
            let answer: serde_json::Value = client.request(request).await.expect("a token");
            answer["status"]["token"].as_str().expect("a token").to_owned()
        });
        std::fs::write(&path, token).expect("a file");
        path
    }

    pub(crate) fn start(&self, listen: SocketAddr, policy: AuthorityPolicy) -> Controller {
        self.start_as(listen, policy, Leadership::Leader { epoch: 1 })
    }

    pub(crate) fn start_as(
        &self,
        listen: SocketAddr,
        policy: AuthorityPolicy,
        leadership: Leadership,
    ) -> Controller {
        let _inside = self.runtime.enter();
        let status = Arc::<DistributeStatus>::default();
        let distribution = Distribution::new(
            self.api.client(),
            DistributeConfig {
                listen,
                namespace: "default".to_owned(),
                secret: SECRET.to_owned(),
                audience: DEFAULT_AUDIENCE.to_owned(),
                policy,
                clock: {
                    let ahead = self.controllers_ahead.clone();
                    Clock::from_fn(move || unix_seconds() + ahead.load(Relaxed))
                },
                status: status.clone(),
                calls: Arc::default(),
            },
        );
        let (updates, taken) = mpsc::channel(4);
        let (told, mut answers) = mpsc::channel(4);
        let (leads, leadership) = watch::channel(leadership);
        let shutdown = CancellationToken::new();
        let running = {
            let (distribution, shutdown) = (distribution.clone(), shutdown.clone());
            self.runtime.spawn(async move {
                distribution.run(leadership, taken, told, shutdown).await.expect("the address is free");
            })
        };
        let applied = Arc::<Mutex<Applied>>::default();
        let last = applied.clone();
        self.runtime.spawn(async move {
            while let Some(one) = answers.recv().await {
                *last.lock().expect("nobody panics with it") = one;
            }
        });
        let (mut trust, ca_file) = (distribution.trust(), self.path("ca.crt"));
        self.runtime.spawn(async move {
            loop {
                let trusted = trust.borrow_and_update().clone();
                let beside = ca_file.with_extension("new");
                std::fs::write(&beside, trusted.as_bytes()).expect("a file");
                std::fs::rename(&beside, &ca_file).expect("a file");
                if trust.changed().await.is_err() {
                    return;
                }
            }
        });
        let mut listening = distribution.listening();
        let address = self.runtime.block_on(async {
            let bound = listening.wait_for(Option::is_some).await.expect("it listens");
            bound.expect("it is there")
        });
        Controller { distribution, status, updates, applied, leads, shutdown, running, address, sequence: 0 }
    }

    pub(crate) fn data_plane(
        &self,
        name: &str,
        controller: SocketAddr,
        token: &Path,
        state: &str,
    ) -> DataPlane {
        let command = clean_command(env!("CARGO_BIN_EXE_weir"), self.files.path());
        self.data_plane_by(command, Some(self.address()), name, controller, token, state)
    }

    /// `command`: the program, or what ends in it. `address`: where it serves, if not everywhere.
    pub(crate) fn data_plane_by(
        &self,
        mut command: Command,
        address: Option<IpAddr>,
        name: &str,
        controller: SocketAddr,
        token: &Path,
        state: &str,
    ) -> DataPlane {
        let admin = free_address();
        command
            .arg("--log=info")
            .args(["proxy", "--workers=1", "--drain-delay=0"])
            .arg(format!("--controller={controller}"))
            .arg(format!("--data-plane=default/{name}"))
            .arg(format!("--token-file={}", token.display()))
            .arg(format!("--ca-file={}", self.path("ca.crt").display()))
            .arg(format!("--state-dir={}", self.path(state).display()))
            .arg(format!("--instance={state}"))
            .arg(format!("--admin={admin}"));
        if let Some(address) = address {
            command.arg(format!("--address={address}"));
        }
        let address = address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let mut process = Process::start(&mut command);
        process.line_with("admin port");
        DataPlane { process, admin, address }
    }

    /// Listeners of this test are served there.
    fn address(&self) -> IpAddr {
        let [a, b] = (std::process::id() as u16).to_be_bytes();
        Ipv4Addr::new(127, 90, a, b.max(1)).into()
    }
}

pub(crate) struct Controller {
    pub(crate) distribution: Distribution,
    status: Arc<DistributeStatus>,
    updates: mpsc::Sender<Update>,
    applied: Arc<Mutex<Applied>>,
    pub(crate) leads: watch::Sender<Leadership>,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    pub(crate) address: SocketAddr,
    sequence: u64,
}

impl Controller {
    pub(crate) fn send(&mut self, cluster: &Cluster, update: Update) -> u64 {
        self.sequence += 1;
        let versions = vec![KindVersion {
            kind: "HTTPRoute".to_owned(),
            resource_version: "7".to_owned(),
            changed: "7".to_owned(),
        }];
        let update = Update { sequence: self.sequence, settled: true, versions, ..update };
        cluster.runtime.block_on(self.updates.send(update)).expect("it is taken");
        self.sequence
    }

    fn applied(&self) -> Applied {
        self.applied.lock().expect("nobody panics with it").clone()
    }

    /// Waits until the data plane of this name runs everything.
    pub(crate) fn runs(&self, name: &str) -> Applied {
        let place = plane(name).place();
        let sequence = self.sequence;
        eventually(&format!("{name} runs update {sequence}"), || {
            let applied = self.applied();
            let is_there = |plane: &weir_model::resource::PlaneApplied| {
                plane.place == place && plane.sequence >= sequence
            };
            applied.planes.iter().any(is_there).then_some(applied)
        })
    }

    pub(crate) fn end(self, cluster: &Cluster) {
        self.shutdown.cancel();
        cluster.runtime.block_on(self.running).expect("it ends well");
    }
}

pub(crate) struct DataPlane {
    pub(crate) process: Process,
    pub(crate) admin: SocketAddr,
    address: IpAddr,
}

impl DataPlane {
    pub(crate) fn admin(&self, path: &str) -> Answer {
        let mut connection = Connection::open(self.admin).expect("the admin port is there");
        connection.get("admin", path).expect("it answers")
    }

    fn ready(&self) -> (u16, String) {
        let answer = self.admin("/readyz");
        (answer.status, answer.text())
    }

    pub(crate) fn wait_ready(&self) -> String {
        eventually("the data plane is ready", || {
            let (status, text) = self.ready();
            (status == 200).then_some(text)
        })
    }

    /// Waits for these words of a data plane that is not ready.
    pub(crate) fn wait_unready(&self, words: &str) {
        eventually(&format!("the data plane says {words:?}\n{}", self.process.stderr()), || {
            let (status, text) = self.ready();
            (status != 200 && text.contains(words)).then_some(())
        });
    }

    pub(crate) fn get(&self, port: u16) -> std::io::Result<String> {
        let mut connection = Connection::open(SocketAddr::new(self.address, port))?;
        Ok(connection.get("example.com", "/")?.text())
    }

    pub(crate) fn metric(&self, name: &str) -> i64 {
        let text = self.admin("/metrics").text();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        let value = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }
}

/// Answers every request with its name.
pub(crate) fn origin(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let length = name.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

fn plane(name: &str) -> DataPlaneName {
    DataPlaneName::new("default", name)
}

/// A listener of the data plane with a route to one endpoint.
pub(crate) fn site(name: &str, port: u16, origin: SocketAddr) -> Vec<Resource> {
    let listener = Listener {
        key: format!("listener/default/{name}/http"),
        gateway: format!("default/{name}"),
        section: "http".to_owned(),
        address: plane(name).place(),
        port: u32::from(port),
        ..Listener::default()
    };
    let backend_key = format!("backend/default/{name}/80");
    let route = HttpRoute {
        key: format!("httproute/default/{name}"),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        attachments: vec![Attachment { listener_key: listener.key.clone(), hostnames: vec![String::new()] }],
        rules: vec![HttpRule {
            split_identity: name.to_owned(),
            matches: vec![HttpMatch { path: "/".to_owned(), ..HttpMatch::default() }],
            backends: vec![WeightedBackend {
                weight: 1,
                backend_key: backend_key.clone(),
                ..WeightedBackend::default()
            }],
            ..HttpRule::default()
        }],
        ..HttpRoute::default()
    };
    let backend = Backend {
        key: backend_key,
        namespace: "default".to_owned(),
        service: name.to_owned(),
        port: 80,
        ..Backend::default()
    };
    let bodies = [Body::Listener(listener), Body::HttpRoute(route), Body::Backend(backend)];
    let mut all: Vec<Resource> = bodies.into_iter().map(|body| Resource { body: Some(body) }).collect();
    all.push(endpoints(name, origin));
    all
}

pub(crate) fn endpoints(name: &str, origin: SocketAddr) -> Resource {
    let endpoints = Endpoints {
        key: format!("endpoints/default/{name}/80"),
        backend_key: format!("backend/default/{name}/80"),
        endpoints: vec![Endpoint { address: origin.ip().to_string(), port: u32::from(origin.port()) }],
    };
    Resource { body: Some(Body::Endpoints(endpoints)) }
}

pub(crate) fn full(upserts: Vec<Resource>) -> Update {
    Update { full: true, upserts, ..Update::default() }
}

#[test]
fn what_a_controller_gave_is_served_while_it_is_away_and_after_a_restart() {
    let cluster = Cluster::new();
    let port = free_address().port();
    let mut controller = cluster.start(free_address(), AuthorityPolicy::default());
    let at = controller.address;
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let mut first = cluster.data_plane("weir-g", at, &token, "first");
    // Connected, and told nothing yet.
    eventually("it is connected", || (controller.distribution.planes().len() == 1).then_some(()));
    first.wait_unready("no snapshot yet");

    controller.send(&cluster, full(site("weir-g", port, origin("one"))));
    assert_eq!(first.wait_ready(), "ok\n");
    assert_eq!(first.get(port).expect("it serves"), "one");
    let applied = controller.runs("weir-g");
    assert_eq!((applied.planes[0].connected, applied.planes[0].ready), (1, 1));
    let bind = &applied.binds[0];
    assert_eq!((bind.address.as_str(), bind.bound_port), ("plane:default/weir-g", u32::from(port)));
    let second = origin("two");
    controller.send(&cluster, Update { upserts: vec![endpoints("weir-g", second)], ..Update::default() });
    controller.runs("weir-g");
    assert_eq!(first.get(port).expect("it serves"), "two");
    // Whoever asks beside others has all answers too.
    let asking = (0..8).map(|_| controller.distribution.splits());
    for splits in cluster.runtime.block_on(futures::future::join_all(asking)) {
        let [answer] = &*splits.answered else { panic!("{splits:?}") };
        assert_eq!((splits.asked, answer.instance.as_str()), (1, "first"));
        assert!(String::from_utf8_lossy(&answer.json).contains("\"servedTotal\":2"), "{:?}", answer.json);
    }
    eventually("the state is kept", || (first.metric("weir_plane_state_writes_total") >= 2).then_some(()));

    controller.end(&cluster);
    eventually("it notices", || (first.metric("weir_plane_connected") == 0).then_some(()));
    assert!(first.wait_ready().contains("serving what the last controller said"));
    assert_eq!(first.get(port).expect("it serves"), "two");
    first.process.kill();

    let again = cluster.data_plane("weir-g", at, &token, "first");
    let text = again.wait_ready();
    assert!(text.contains("serving the last known good state, written"), "{text}");
    assert_eq!(again.get(port).expect("it serves"), "two");
    assert_eq!(again.metric("weir_plane_last_known_good"), 1);
    assert!(again.process.stderr().contains("the last known good state is served"));
    // However often nobody is there, the certificate is not doubted for it.
    eventually("it has tried often", || {
        (again.metric("weir_plane_connection_failures_total") >= 5).then_some(())
    });
    // A pod that replaces another has nothing.
    let new = cluster.data_plane("weir-g", at, &token, "new");
    new.wait_unready("none of an earlier run");

    // The next controller has the same authority: it is in the API. It knows a newer state.
    let mut controller = cluster.start_as(at, AuthorityPolicy::default(), Leadership::Leader { epoch: 2 });
    controller.send(&cluster, full(site("weir-g", port, origin("three"))));
    eventually("it is confirmed", || (again.metric("weir_plane_last_known_good") == 0).then_some(()));
    eventually("it serves what is new", || (again.get(port).ok()? == "three").then_some(()));
    assert_eq!(again.metric("weir_plane_certificates_total"), 0, "the certificate outlived the process");
    // The other one cannot have the port of this machine, and says so.
    new.wait_unready("no socket could be bound");
    controller.end(&cluster);
}

#[test]
fn nobody_gets_in_with_a_token_that_is_not_the_data_planes() {
    let cluster = Cluster::new();
    let mut controller = cluster.start(free_address(), AuthorityPolicy::default());
    controller.send(&cluster, full(site("weir-g", 8080, origin("one"))));
    let at = controller.address;
    let other = cluster.token("other", DEFAULT_AUDIENCE);
    let wrong = cluster.data_plane("weir-g", at, &other, "wrong");
    wrong.wait_unready("the token is that of system:serviceaccount:default:other");
    let audience = cluster.token("weir-g", "https://kubernetes.default.svc");
    let elsewhere = cluster.data_plane("weir-g", at, &audience, "elsewhere");
    elsewhere.wait_unready("audiences are not valid");
    let forged = cluster.path("forged");
    std::fs::write(&forged, "forged").expect("a file");
    cluster.data_plane("weir-g", at, &forged, "forged-state").wait_unready("invalid bearer token");
    // With a token of its own, and nothing that would be for it.
    let own = cluster.data_plane("other", at, &other, "own");
    let text = own.wait_ready();
    assert_eq!(text, "ok\n");
    assert!(!own.process.stderr().contains("8080"));
    assert!(own.get(8080).is_err(), "nothing of another data plane is there");
    // What another data plane was given is no use under another name.
    let mut own = own;
    own.process.kill();
    let taken = cluster.data_plane("weir-g", at, &other, "own");
    taken.wait_unready("the token is that of system:serviceaccount:default:other");
    assert!(controller.status.refused.get() >= 4);
    controller.end(&cluster);
}

#[test]
fn certificates_are_renewed_and_the_authority_rotated_while_requests_go_on() {
    let cluster = Cluster::new();
    let port = free_address().port();
    let policy = AuthorityPolicy {
        certificate_lifetime: Duration::from_secs(9),
        overlap: Duration::from_secs(3),
        ..AuthorityPolicy::default()
    };
    let mut controller = cluster.start(free_address(), policy);
    controller.send(&cluster, full(site("weir-g", port, origin("one"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let plane = cluster.data_plane("weir-g", controller.address, &token, "one");
    plane.wait_ready();
    controller.runs("weir-g");
    let before = controller.distribution.trust().borrow().clone();
    // The token is needed once.
    std::fs::remove_file(&token).expect("it was there");
    let annotated = json!({"metadata": {"annotations": {"weir.dev/rotate-authority": "true"}}});
    cluster.runtime.block_on(async {
        let secrets = kube::Api::<Secret>::default_namespaced(cluster.api.client());
        let patch = Patch::Merge(&annotated);
        secrets.patch(SECRET, &PatchParams::default(), &patch).await.expect("the Secret is there");
    });
    let mut open = Connection::open(SocketAddr::new(plane.address, port)).expect("it listens");
    let mut asked = 0;
    let authority =
        |pem: &str, at: usize| pem.split_inclusive("-----END CERTIFICATE-----\n").nth(at).map(str::to_owned);
    let old = authority(&before, 0).expect("one");
    within(Duration::from_secs(90), "a new authority signs, and the certificate is of it", || {
        assert_eq!(open.get("example.com", "/").expect("no request fails").text(), "one");
        asked += 1;
        let applied = controller.applied();
        assert!(applied.binds.iter().any(|bind| bind.error.is_empty()), "its sockets stay: {applied:?}");
        let trusted = controller.distribution.trust().borrow().clone();
        let switched = authority(&trusted, 0) != Some(old.clone());
        (switched && plane.metric("weir_plane_certificates_total") >= 5).then_some(())
    });
    assert!(asked > 20, "{asked}");
    assert_eq!(plane.metric("weir_plane_last_known_good"), 0);
    // Updates still come.
    controller.send(&cluster, full(site("weir-g", port, origin("two"))));
    eventually("the new state is served", || (plane.get(port).ok()? == "two").then_some(()));
    controller.end(&cluster);
}

#[test]
fn an_authority_that_is_lost_costs_the_token_once_more() {
    let cluster = Cluster::new();
    let port = free_address().port();
    let mut controller = cluster.start(free_address(), AuthorityPolicy::default());
    let at = controller.address;
    controller.send(&cluster, full(site("weir-g", port, origin("one"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let plane = cluster.data_plane("weir-g", at, &token, "one");
    plane.wait_ready();
    controller.runs("weir-g");
    controller.end(&cluster);
    cluster.runtime.block_on(async {
        let secrets = kube::Api::<Secret>::default_namespaced(cluster.api.client());
        secrets.delete(SECRET, &kube::api::DeleteParams::default()).await.expect("the Secret is there");
    });
    let mut controller = cluster.start_as(at, AuthorityPolicy::default(), Leadership::Leader { epoch: 2 });
    controller.send(&cluster, full(site("weir-g", port, origin("two"))));
    eventually("the new state is served", || (plane.get(port).ok()? == "two").then_some(()));
    assert_eq!(plane.metric("weir_plane_certificates_total"), 2);
    controller.end(&cluster);
}

#[test]
fn a_standby_points_to_the_leader_and_an_older_leader_is_refused() {
    let cluster = Cluster::new();
    let port = free_address().port();
    let mut leader =
        cluster.start_as(free_address(), AuthorityPolicy::default(), Leadership::Leader { epoch: 7 });
    leader.send(&cluster, full(site("weir-g", port, origin("one"))));
    let pointed = Leadership::Standby { leader: Some(leader.address.to_string()) };
    let mut standby = cluster.start_as(free_address(), AuthorityPolicy::default(), pointed);
    standby.send(&cluster, full(site("weir-g", port, origin("old"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let plane = cluster.data_plane("weir-g", standby.address, &token, "one");
    plane.wait_ready();
    assert_eq!(plane.get(port).expect("it serves"), "one");
    leader.runs("weir-g");
    assert!(standby.applied().planes.iter().all(|plane| plane.connected == 0));
    // One that wakes up and believes that it still leads.
    standby.leads.send_replace(Leadership::Leader { epoch: 6 });
    leader.leads.send_replace(Leadership::Standby { leader: None });
    eventually("it is refused", || (plane.metric("weir_plane_refused_states_total") > 0).then_some(()));
    assert_eq!(plane.get(port).expect("it serves"), "one");
    standby.leads.send_replace(Leadership::Leader { epoch: 8 });
    eventually("the new leader is followed", || (plane.get(port).ok()? == "old").then_some(()));
    leader.end(&cluster);
    standby.end(&cluster);
}

#[test]
fn a_data_plane_that_ends_is_unready_first_and_answers_what_is_under_way() {
    let cluster = Cluster::new();
    let port = free_address().port();
    let mut controller = cluster.start(free_address(), AuthorityPolicy::default());
    let slow = TcpListener::bind("127.0.0.1:0").expect("a free port");
    controller.send(&cluster, full(site("weir-g", port, slow.local_addr().expect("it is bound"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let mut plane = cluster.data_plane("weir-g", controller.address, &token, "one");
    plane.wait_ready();
    controller.runs("weir-g");
    let mut client = Connection::open(SocketAddr::new(plane.address, port)).expect("it listens");
    client.send(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").expect("it takes it");
    let (mut upstream, _) = slow.accept().expect("the request comes");
    let id = plane.process.id().to_string();
    let sent = std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill(1) starts");
    assert!(sent.success());
    plane.wait_unready("the data plane is ending");
    eventually("the controller knows", || {
        let applied = controller.applied();
        (applied.planes.first()?.ready == 0).then_some(())
    });
    let mut head = [0; 4096];
    let _ = upstream.read(&mut head).expect("the head");
    // Longer than a process at a keyboard would wait: nobody's parameters say anything, so it has 30 s.
    std::thread::sleep(Duration::from_secs(7));
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").expect("it takes it");
    assert_eq!(client.answer().expect("an answer").text(), "late");
    let status = eventually("the process has ended", || plane.process.exited());
    assert!(status.success(), "{status}");
    controller.end(&cluster);
}

#[test]
fn a_token_that_has_expired_gives_no_certificate() {
    let cluster = Cluster::new();
    let mut controller = cluster.start(free_address(), AuthorityPolicy::default());
    controller.send(&cluster, full(site("weir-g", 8080, origin("one"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    cluster.api_ahead.store(500, Relaxed);
    let _in_time = cluster.data_plane("weir-g", controller.address, &token, "in-time");
    eventually("it has a certificate", || (controller.status.certificates.get() == 1).then_some(()));
    cluster.api_ahead.store(601, Relaxed);
    let late = cluster.data_plane("weir-g", controller.address, &token, "late");
    late.wait_unready("the token is not good: token has expired");
    assert_eq!(controller.status.certificates.get(), 1);
    controller.end(&cluster);
}

#[test]
fn clocks_that_differ_by_an_hour_do_no_harm_and_by_more_it_is_said() {
    for ahead in [3_600, -3_600] {
        let cluster = Cluster::new();
        let port = free_address().port();
        cluster.controllers_ahead.store(ahead, Relaxed);
        let mut controller = cluster.start(free_address(), AuthorityPolicy::default());
        controller.send(&cluster, full(site("weir-g", port, origin("one"))));
        let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
        let mut plane = cluster.data_plane("weir-g", controller.address, &token, "one");
        assert_eq!(plane.wait_ready(), "ok\n");
        assert_eq!(plane.get(port).expect("it serves"), "one");
        controller.runs("weir-g");
        let skew = plane.metric("weir_plane_clock_skew_seconds");
        assert!((skew + ahead).abs() <= 5, "{skew}");
        assert!(plane.process.stderr().contains("this node's clock and the controller's differ"));
        let left = plane.metric("weir_plane_certificate_end_seconds") - unix_seconds();
        assert!(left > 22 * 3_600, "{left}");
        // The certificate does after a restart too, and changes come.
        plane.process.kill();
        controller.send(
            &cluster,
            Update { upserts: vec![endpoints("weir-g", origin("two"))], ..Update::default() },
        );
        let again = cluster.data_plane("weir-g", controller.address, &token, "one");
        eventually("the new state is served", || (again.get(port).ok()? == "two").then_some(()));
        assert_eq!(again.metric("weir_plane_certificates_total"), 0);
        controller.end(&cluster);
    }
    for ahead in [3 * 3_600, -25 * 3_600] {
        let cluster = Cluster::new();
        cluster.controllers_ahead.store(ahead, Relaxed);
        let mut controller = cluster.start(free_address(), AuthorityPolicy::default());
        controller.send(&cluster, full(site("weir-g", 8080, origin("one"))));
        let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
        let plane = cluster.data_plane("weir-g", controller.address, &token, "one");
        plane.wait_unready("do their clocks agree?");
        controller.end(&cluster);
    }
}

#[test]
fn an_authority_whose_secret_is_deleted_is_put_back_and_nobody_notices() {
    let cluster = Cluster::new();
    let port = free_address().port();
    let mut leader = cluster.start(free_address(), AuthorityPolicy::default());
    let mut standby = cluster.start_as(
        free_address(),
        AuthorityPolicy::default(),
        Leadership::Standby { leader: Some(leader.address.to_string()) },
    );
    leader.send(&cluster, full(site("weir-g", port, origin("one"))));
    standby.send(&cluster, full(site("weir-g", port, origin("one"))));
    let token = cluster.token("weir-g", DEFAULT_AUDIENCE);
    let plane = cluster.data_plane("weir-g", leader.address, &token, "one");
    plane.wait_ready();
    leader.runs("weir-g");
    eventually("the standby knows the authority", || standby.distribution.ready().ok());
    let secrets = cluster.secrets();
    let authority = || {
        let secret = cluster.runtime.block_on(secrets.get_opt(SECRET)).expect("an answer")?;
        secret.data?.remove("authority.json")
    };
    let before = authority().expect("there is one");
    let delete = || {
        let options = kube::api::DeleteParams::default();
        cluster.runtime.block_on(secrets.delete(SECRET, &options)).expect("the Secret is there");
    };
    delete();
    let mut looks = 0;
    let after = eventually("it is put back", || {
        let applied = leader.applied();
        assert!(
            applied.planes[0].ready == 1 && !applied.binds.is_empty(),
            "programmed throughout: {applied:?}"
        );
        looks += 1;
        authority()
    });
    assert!(looks > 1 && after == before, "{looks}");
    assert_eq!(plane.metric("weir_plane_connections_total"), 1, "no stream was cut");

    // And if the leader ends at that moment, the next one has it from memory.
    leader.leads.send_replace(Leadership::Standby { leader: Some(standby.address.to_string()) });
    delete();
    standby.leads.send_replace(Leadership::Leader { epoch: 2 });
    eventually("it is put back", || (authority()? == before).then_some(()));
    standby.send(&cluster, Update { upserts: vec![endpoints("weir-g", origin("two"))], ..Update::default() });
    eventually("the new state is served", || (plane.get(port).ok()? == "two").then_some(()));
    assert_eq!(plane.metric("weir_plane_certificates_total"), 1, "the token was not needed again");
    leader.end(&cluster);
    standby.end(&cluster);
}
