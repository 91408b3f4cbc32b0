//! Who gets in, and what a peer may do to the server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::{Cli, contains};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_token_of_the_kubeconfig_gets_in() {
    let cli = Cli::start().await;
    let wrong = cli.fails(&["--token=wrong", "get", "namespaces"]).await;
    contains(&wrong, "You must be logged in to the server");
    let config = std::fs::read_to_string(cli.path("kubeconfig")).expect("readable");
    let without: String =
        config.lines().filter(|line| !line.contains("token:")).map(|line| format!("{line}\n")).collect();
    let file = cli.file("anonymous", &without);
    let config = Kubeconfig::read_from(&file).expect("a kubeconfig");
    let config =
        Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a configuration");
    let anonymous = Client::try_from(config).expect("a client");
    let ask = async |path: &str| {
        anonymous.request_text(Request::get(path).body(Vec::new()).expect("a request")).await
    };
    match ask("/api/v1/namespaces").await {
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
            contains(&status.message, "User \"system:anonymous\" cannot get path \"/api/v1/namespaces\"");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ask("/readyz").await.expect("public"), "ok");
    contains(&ask("/version").await.expect("public"), "gitVersion");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_trust_the_authority_does_not_connect() {
    let cli = Cli::start().await;
    let other = Cli::start().await;
    let mixed = other.server.kubeconfig(&cli.url, &other.tls);
    let file = cli.file("mixed", &mixed);
    let refused = cli.fails(&[&format!("--kubeconfig={file}"), "get", "namespaces"]).await;
    contains(&refused, "certificate");
    other.stop().await;
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_service_account_is_known_for_its_audience_while_the_account_is_there() {
    let cli = Cli::start().await;
    cli.try_run(&["create", "serviceaccount", "robot"]).await;
    let made = cli.try_run(&["create", "token", "robot", "--audience=weir.dev/controller"]).await;
    let token = made.out.trim().to_owned();
    assert!(!token.is_empty(), "{}", made.err);
    let review = async |audiences: &[&str]| {
        let question = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences},
        });
        let request = Request::post("/apis/authentication.k8s.io/v1/tokenreviews")
            .header("content-type", "application/json")
            .body(question.to_string().into_bytes())
            .expect("a request");
        let answer: serde_json::Value = cli.server.client().request(request).await.expect("an answer");
        answer["status"].clone()
    };
    let good = review(&["other", "weir.dev/controller"]).await;
    assert_eq!(good["authenticated"], true, "{good}");
    assert_eq!(good["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(good["audiences"], serde_json::json!(["weir.dev/controller"]));
    for audiences in [&["other"][..], &[]] {
        let wrong = review(audiences).await;
        assert_ne!(wrong["authenticated"], true, "{wrong}");
    }
    cli.try_run(&["delete", "serviceaccount", "robot"]).await;
    cli.try_run(&["create", "serviceaccount", "robot"]).await;
    let gone = review(&["weir.dev/controller"]).await;
    assert_ne!(gone["authenticated"], true, "another account of the same name: {gone}");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_are_spoken() {
    let cli = Cli::start().await;
    let old = cli.with(("DISABLE_HTTP2", "1"), &["get", "namespace", "default", "-o", "name", "-v=6"]).await;
    assert_eq!(old.out, "namespace/default\n", "{}", old.err);
    let new = cli.try_run(&["get", "namespace", "default", "-o", "name"]).await;
    assert_eq!(new.out, "namespace/default\n", "{}", new.err);
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused() {
    let cli = Cli::start().await;
    let object = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"big\"}},\"data\":{{\"a\":\"{}\"}}}}",
        "x".repeat(4 << 20)
    );
    let said = cli.feed(&["create", "-f", "-"], &object).await;
    assert_ne!(said.code, 0);
    contains(&said.err, "Request entity too large: limit is 3145728");
    let fits = object.replace(&"x".repeat(4 << 20), &"x".repeat(900 << 10));
    assert_eq!(cli.feed(&["create", "-f", "-"], &fits).await.code, 0);
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_say_nothing_or_nonsense_disturb_nobody() {
    let cli = Cli::start().await;
    let address = cli.url.strip_prefix("https://").expect("https").to_owned();
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(&address).expect("connects")).collect();
    let mut plain = TcpStream::connect(&address).expect("connects");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("writes");
    plain.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    let mut answer = Vec::new();
    // TLS answers plain HTTP with an alert and closes; what matters is that it ends.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "no plain HTTP");
    assert_eq!(cli.ok(&["get", "namespace", "default", "-o", "name"]).await, "namespace/default\n");
    drop(silent);
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_server_ends_its_watches() {
    let cli = Cli::start().await;
    let mut watch = cli.spawn(&["get", "namespaces", "-w", "-o", "name"]);
    watch.line_with("namespace/default").await;
    cli.stop().await;
}
