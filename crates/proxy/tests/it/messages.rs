//! Messages through the proxy: heads, bodies and connections on both sides.

use crate::harness::*;

#[test]
fn a_request_gets_the_backends_answer_and_the_connection_stays() {
    let origin = Origin::named("hello");
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..3 {
        let response = client.get("/some/path?q=1");
        assert_eq!((response.status, response.text()), (200, "hello"));
        assert_eq!(response.field("connection"), Some("keep-alive"));
    }
    assert_eq!(origin.connections(), 1);
    assert!(origin.last_head().starts_with("GET /some/path?q=1 HTTP/1.1\r\n"));
}

#[test]
fn an_unroutable_request_gets_exactly_the_404_of_the_guides() {
    let world = World::start(Default::default());
    let mut client = world.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(response.status, 404);
        assert!(response.head.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert_eq!(response.text(), r#"{"message":"no Route matched with those values"}"#);
        let mut names: Vec<_> =
            response.head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["Connection", "Content-Length", "Content-Type", "Date", "Server", "X-Kong-Response-Latency"]
        );
        assert_eq!(response.field("content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(response.field("connection"), Some("keep-alive"));
        assert_eq!(response.field("content-length"), Some("48"));
        assert_eq!(response.field("x-kong-response-latency"), Some("0"));
        assert!(response.field("server").unwrap().starts_with("weir/"));
    }
}
