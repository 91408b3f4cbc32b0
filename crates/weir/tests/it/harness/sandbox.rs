//! A running `weir sandbox` with a kubeconfig of its own, and the questions that the tests ask it.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::eventually;
use super::http::{Answer, Connection};
use super::process::{Done, Process, clean_command, finish};

/// The binary under test.
pub(crate) const WEIR: &str = env!("CARGO_BIN_EXE_weir");

pub(crate) struct Sandbox {
    pub(crate) process: Process,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) admin: SocketAddr,
    home: TempDir,
}

impl Sandbox {
    #[track_caller]
    pub(crate) fn start() -> Sandbox {
        Sandbox::start_with(&[])
    }

    /// Starts with more arguments and waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn start_with(arguments: &[&str]) -> Sandbox {
        let home = TempDir::new().expect("a temporary directory");
        let kubeconfig = home.path().join("kubeconfig");
        Sandbox::start_in(home, kubeconfig, arguments)
    }

    #[track_caller]
    pub(crate) fn start_in(home: TempDir, kubeconfig: PathBuf, arguments: &[&str]) -> Sandbox {
        let admin = free_address();
        let mut command = clean_command(WEIR, home.path());
        command.arg("sandbox").arg("--kubeconfig").arg(&kubeconfig);
        command.arg("--admin").arg(admin.to_string()).args(arguments);
        let mut process = Process::start(&mut command);
        let line = process.line_with("export KUBECONFIG=");
        assert!(line.contains(kubeconfig.to_str().expect("UTF-8")), "{line}");
        Sandbox { process, kubeconfig, admin, home }
    }

    /// A sandbox that was started in another way.
    pub(crate) fn around(process: Process, kubeconfig: PathBuf, admin: SocketAddr, home: TempDir) -> Sandbox {
        Sandbox { process, kubeconfig, admin, home }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Kills the sandbox and hands back its home, for a fresh start in the same place.
    pub(crate) fn kill(mut self) -> (TempDir, PathBuf) {
        self.process.kill();
        (self.home, self.kubeconfig)
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = clean_command(program, self.home.path());
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// The real kubectl, with the sandbox's kubeconfig and a home of its own.
    #[track_caller]
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Done {
        finish(self.command("kubectl").args(arguments))
    }

    /// `kubectl apply -f` of text.
    #[track_caller]
    pub(crate) fn apply(&self, yaml: &str) -> Done {
        self.kubectl(&["apply", "-f", &self.write("applied.yaml", yaml)])
    }

    /// Writes a file into the test's own directory; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let file = tempfile::Builder::new().suffix(&format!("-{name}")).tempfile_in(self.home.path());
        let (_, path) = file.expect("a temporary file").keep().expect("the file stays");
        std::fs::write(&path, text).expect("the file is written");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// A line of the guides, in a real bash.
    #[track_caller]
    pub(crate) fn bash(&self, line: &str) -> Done {
        finish(self.command("bash").args(["-c", line]))
    }

    #[track_caller]
    pub(crate) fn weir(&self, arguments: &[&str]) -> Done {
        finish(self.command(WEIR).args(arguments))
    }

    /// An object as JSON; `None` when it is not there.
    #[track_caller]
    pub(crate) fn get(&self, resource: &str, namespace: &str) -> Option<Value> {
        let done = self.kubectl(&["get", resource, "-n", namespace, "-o", "json", "--ignore-not-found"]);
        let text = done.ok();
        (!text.trim().is_empty()).then(|| serde_json::from_str(text).expect("kubectl prints JSON"))
    }

    /// Waits until a Gateway is Accepted and Programmed at its generation; returns its first address.
    #[track_caller]
    pub(crate) fn wait_gateway(&self, name: &str, namespace: &str) -> IpAddr {
        eventually(&format!("Gateway {namespace}/{name} is Accepted and Programmed"), || {
            let gateway = self.get(&format!("gateway/{name}"), namespace)?;
            let conditions = &gateway["status"]["conditions"];
            if !(is_true(conditions, "Accepted", &gateway) && is_true(conditions, "Programmed", &gateway)) {
                return None;
            }
            gateway["status"]["addresses"][0]["value"].as_str()?.parse().ok()
        })
    }

    /// Waits until a route is Accepted and its references are resolved, at its generation, by every parent.
    #[track_caller]
    pub(crate) fn wait_route(&self, name: &str, namespace: &str) {
        self.wait_route_conditions(name, namespace, &[("Accepted", "True"), ("ResolvedRefs", "True")]);
    }

    #[track_caller]
    pub(crate) fn wait_route_conditions(
        &self,
        name: &str,
        namespace: &str,
        wanted: &[(&str, &str)],
    ) -> Value {
        eventually(&format!("HTTPRoute {namespace}/{name} is {wanted:?}"), || {
            let route = self.get(&format!("httproute/{name}"), namespace)?;
            let parents = route["status"]["parents"].as_array()?;
            let wants = route["spec"]["parentRefs"].as_array().map_or(0, Vec::len);
            let holds = |parent: &Value| {
                wanted.iter().all(|(kind, status)| has_status(&parent["conditions"], kind, status, &route))
            };
            (parents.len() >= wants && parents.iter().all(holds)).then(|| route.clone())
        })
    }

    /// Waits until as many pods of each Deployment are ready and in the Service of the same name.
    #[track_caller]
    pub(crate) fn wait_backends(&self, names: &[&str], namespace: &str) {
        for name in names {
            let done = self.kubectl(&[
                "rollout",
                "status",
                "-n",
                namespace,
                "--timeout=60s",
                &format!("deployment/{name}"),
            ]);
            done.ok();
            let replicas = self
                .get(&format!("deployment/{name}"), namespace)
                .expect("the Deployment is there")["spec"]["replicas"]
                .as_u64();
            self.wait_endpoints(name, namespace, replicas.expect("a number of replicas"));
        }
    }

    /// Waits until a Service's EndpointSlices hold exactly so many ready endpoints.
    #[track_caller]
    pub(crate) fn wait_endpoints(&self, service: &str, namespace: &str, wanted: u64) {
        let label = format!("kubernetes.io/service-name={service}");
        eventually(&format!("Service {namespace}/{service} has {wanted} ready endpoints"), || {
            let done = self.kubectl(&["get", "endpointslices", "-n", namespace, "-l", &label, "-o", "json"]);
            let list: Value = serde_json::from_str(done.ok()).expect("kubectl prints JSON");
            let slices = list["items"].as_array()?;
            let ready = |slice: &Value| {
                let endpoints = slice["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
                endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] != false).count() as u64
            };
            (slices.iter().map(ready).sum::<u64>() == wanted).then_some(())
        });
    }

    /// Where a listener of port 80 answers: at port 80, or, without the right to bind it, where Weir says.
    #[track_caller]
    pub(crate) fn socket(&self, gateway: &str, namespace: &str) -> SocketAddr {
        let ip = self.wait_gateway(gateway, namespace);
        let services = self.kubectl(&["get", "services", "-A", "-o", "json"]);
        let services: Value = serde_json::from_str(services.ok()).expect("kubectl prints JSON");
        let all = services["items"].as_array().map_or(&[][..], Vec::as_slice);
        let stands_for =
            |service: &&Value| service["status"]["loadBalancer"]["ingress"][0]["ip"] == ip.to_string();
        let service =
            all.iter().find(stands_for).unwrap_or_else(|| panic!("no Service has the address {ip}"));
        let moved = service["metadata"]["annotations"]["weir.dev/bound-ports"].as_str().unwrap_or_default();
        let port = moved.split(',').find_map(|pair| pair.strip_prefix("80="));
        SocketAddr::new(ip, port.map_or(80, |port| port.parse().expect("a port")))
    }

    /// The admin port's answer.
    #[track_caller]
    pub(crate) fn admin(&self, path: &str) -> Answer {
        let mut connection = Connection::open(self.admin).expect("the admin port answers");
        connection.get("localhost", path).expect("the admin port answers")
    }

    /// The report of one rule by route name (`namespace/name`).
    #[track_caller]
    pub(crate) fn split(&self, route: &str) -> Value {
        let answer: Value = serde_json::from_str(&self.admin("/splits").text()).expect("/splits is JSON");
        let rules = answer["rules"].as_array().expect("a list of rules").clone();
        rules
            .into_iter()
            .find(|rule| rule["route"] == route)
            .unwrap_or_else(|| panic!("no rule of {route}: {answer}"))
    }

    /// `kubectl proxy`: the API over plain HTTP for an API client of the test's own.
    #[track_caller]
    pub(crate) fn api_proxy(&self) -> (Process, SocketAddr) {
        let mut process = Process::start(self.command("kubectl").args(["proxy", "--port=0"]));
        let line = process.line_with("Starting to serve on ");
        let address = line.rsplit(' ').next().expect("a line has words").parse().expect("an address");
        (process, address)
    }
}

/// An address on loopback that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket has an address")
}

/// Whether a condition has the status at the object's own generation.
pub(crate) fn has_status(conditions: &Value, kind: &str, status: &str, object: &Value) -> bool {
    let conditions = conditions.as_array().map_or(&[][..], Vec::as_slice);
    let current = &object["metadata"]["generation"];
    conditions
        .iter()
        .any(|c| c["type"] == kind && c["status"] == status && c["observedGeneration"] == *current)
}

pub(crate) fn is_true(conditions: &Value, kind: &str, object: &Value) -> bool {
    has_status(conditions, kind, "True", object)
}

/// A condition by its type.
#[track_caller]
pub(crate) fn condition<'a>(conditions: &'a Value, kind: &str) -> &'a Value {
    let all = conditions.as_array().map_or(&[][..], Vec::as_slice);
    all.iter().find(|c| c["type"] == kind).unwrap_or_else(|| panic!("no condition {kind} in {conditions}"))
}
