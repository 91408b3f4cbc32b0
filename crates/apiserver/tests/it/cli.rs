//! The API on a real socket and the real `kubectl` before it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_apiserver::{ApiServer, ApiServerConfig, ServingTls};

/// No command or wait of these tests takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A server with a kubeconfig of its own.
pub(crate) struct Cli {
    pub(crate) server: ApiServer,
    pub(crate) url: String,
    pub(crate) tls: ServingTls,
    directory: TempDir,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Cli {
    pub(crate) async fn start() -> Cli {
        Cli::start_with(ApiServerConfig::default()).await
    }

    pub(crate) async fn start_with(config: ApiServerConfig) -> Cli {
        let server = ApiServer::new(config).expect("a server");
        let tls = ServingTls::generate(&[]).expect("a certificate");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let directory = TempDir::new().expect("a directory");
        std::fs::write(directory.path().join("kubeconfig"), server.kubeconfig(&url, &tls)).expect("written");
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn({
            let (server, tls, shutdown) = (server.clone(), tls.clone(), shutdown.clone());
            async move { server.serve(listener, tls, shutdown).await }
        });
        Cli { server, url, tls, directory, shutdown, serving }
    }

    /// Ends the server; watches and connections must let it.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.serving)
            .await
            .expect("the server ends")
            .expect("without a panic");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file and gives its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path").to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("HOME", self.directory.path())
            .env_remove("KUBE_EDITOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs `kubectl` with a standard input.
    pub(crate) async fn feed(&self, arguments: &[&str], input: &str) -> Said {
        self.run(self.command(arguments), input).await
    }

    /// Runs `kubectl` with one more variable in its environment.
    pub(crate) async fn with(&self, variable: (&str, &str), arguments: &[&str]) -> Said {
        let mut command = self.command(arguments);
        command.env(variable.0, variable.1);
        self.run(command, "").await
    }

    async fn run(&self, mut command: Command, input: &str) -> Said {
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("kubectl cannot be started ({error}); install it: https://kubernetes.io/docs/tasks/tools")
        });
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(input.as_bytes()).await.expect("kubectl reads");
        drop(stdin);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
        let output = output.expect("kubectl ends in time").expect("kubectl runs");
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs `kubectl` and gives its exit code and texts.
    pub(crate) async fn try_run(&self, arguments: &[&str]) -> Said {
        self.feed(arguments, "").await
    }

    /// Runs `kubectl`, which must succeed, and gives what it printed.
    #[track_caller]
    pub(crate) fn ok<'a>(&'a self, arguments: &'a [&'a str]) -> impl Future<Output = String> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let said = self.try_run(arguments).await;
            assert_eq!(said.code, 0, "{place}: kubectl {arguments:?}: {}{}", said.out, said.err);
            said.out
        }
    }

    /// Runs `kubectl`, which must fail, and gives what it complained of.
    #[track_caller]
    pub(crate) fn fails<'a>(&'a self, arguments: &'a [&'a str]) -> impl Future<Output = String> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let said = self.try_run(arguments).await;
            assert_ne!(said.code, 0, "{place}: kubectl {arguments:?} succeeded: {}", said.out);
            said.err
        }
    }

    /// Applies objects from standard input.
    pub(crate) async fn apply(&self, yaml: &str) -> String {
        let said = self.feed(&["apply", "-f", "-"], yaml).await;
        assert_eq!(said.code, 0, "{}", said.err);
        said.out
    }

    /// Starts a `kubectl` that goes on, such as a watch.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).spawn().expect("kubectl runs");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Running { lines, child }
    }
}

/// A `kubectl` that goes on.
pub(crate) struct Running {
    lines: BufReader<ChildStdout>,
    child: Child,
}

impl Running {
    /// Waits for its end, which must be a good one.
    pub(crate) async fn ends(mut self) {
        let status = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        let status = status.expect("kubectl ends in time").expect("kubectl runs");
        assert!(status.success(), "kubectl ended with {status}");
    }

    /// Waits for a line that contains a text.
    pub(crate) async fn line_with(&mut self, wanted: &str) -> String {
        let mut seen = Vec::new();
        let search = async {
            loop {
                let mut line = String::new();
                let read = self.lines.read_line(&mut line).await.expect("readable");
                if read == 0 {
                    return None;
                }
                if line.contains(wanted) {
                    return Some(line);
                }
                seen.push(line);
            }
        };
        match tokio::time::timeout(DEADLINE, search).await {
            Ok(Some(line)) => line,
            ended => panic!("no line with {wanted:?} ({ended:?}) among {seen:?}"),
        }
    }
}

/// Fails with both texts when one does not contain the other.
#[track_caller]
pub(crate) fn contains(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "no {wanted:?} in {text:?}");
}
