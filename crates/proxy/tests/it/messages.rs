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

#[test]
fn pipelined_requests_are_answered_one_after_another() {
    let origin = Origin::start(|peer| {
        while let Some((head, _)) = peer.request() {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            peer.send(ok(&path));
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    let requests: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests);
    for n in 0..50 {
        assert_eq!(client.response().text(), format!("/{n}"));
    }
    // With bodies in between, and one that is refused last.
    client.send(
        "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /g HTTP/1.1\r\nHost: a\r\n\r\n\
         POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /z HTTP/1.1\r\n\r\n",
    );
    for expected in ["/p", "/g", "/c"] {
        assert_eq!(client.response().text(), expected);
    }
    assert_eq!(client.response().status, 400);
    assert!(client.ends());
}

#[test]
fn a_request_that_comes_byte_by_byte_is_one_request() {
    let origin = Origin::named("whole");
    let world = World::to(&origin);
    let mut client = world.client();
    for byte in
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
    {
        client.send([*byte]);
        std::thread::yield_now();
    }
    assert_eq!(client.response().text(), "whole");
    assert_eq!(client.get("/").text(), "whole", "the connection is at the right place");
    assert_eq!(origin.requests(), 2);
}

#[test]
fn a_response_that_comes_byte_by_byte_is_one_response() {
    let origin = Origin::start(|peer| {
        while peer.request().is_some() {
            let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n";
            for byte in answer.bytes() {
                peer.send([byte]);
                std::thread::yield_now();
            }
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    assert_eq!(client.get("/").text(), "hello!");
    assert_eq!(client.get("/").text(), "hello!");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn chunks_and_trailers_go_through_both_ways() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.request_head() {
            assert_eq!(fields(&head, "transfer-encoding"), ["chunked"]);
            assert_eq!(fields(&head, "trailer"), ["X-Sum"]);
            let expected = "5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n";
            let body = peer.exactly(expected.len());
            assert_eq!(
                String::from_utf8(body).unwrap(),
                expected,
                "extensions and Content-Length are left out"
            );
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2;x=y\r\nok\r\n0\r\nX-T: 1\r\nHost: h\r\n\r\n");
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 7\r\nContent-Length: 3\r\n\r\n",
        );
        let head = client.head().unwrap();
        assert_eq!(fields(&head, "trailer"), ["X-T"]);
        let expected = "2\r\nok\r\n0\r\nX-T: 1\r\n\r\n";
        assert_eq!(String::from_utf8(client.exactly(expected.len())).unwrap(), expected);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_response_that_ends_by_closing_is_delimited_for_the_client() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\npart one, ");
        peer.send("part two");
    });
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(response.field("transfer-encoding"), Some("chunked"));
        assert_eq!(response.field("connection"), Some("keep-alive"));
        assert_eq!(response.text(), "part one, part two");
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let origin = Origin::start(|peer| {
        while let Some((head, _)) = peer.request() {
            peer.send(match head.split(' ').nth(1).unwrap() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n\r\n",
                "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            });
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..2 {
        let none = client.get("/204");
        assert_eq!((none.status, none.field("content-length")), (204, None));
        let not_modified = client.get("/304");
        assert_eq!((not_modified.status, not_modified.field("content-length")), (304, Some("5")));
        let head = client.exchange("HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((head.status, head.field("content-length")), (200, Some("5")));
        assert_eq!(client.exchange("HEAD /chunked HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    }
    assert_eq!(origin.connections(), 1, "nothing was left over");
}

#[test]
fn interim_responses_are_passed_on_before_the_final_one() {
    let origin = Origin::start(|peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n");
            peer.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..2 {
        let hints = client.get("/");
        assert_eq!((hints.status, hints.field("link")), (103, Some("</style.css>")));
        assert_eq!(client.response().status, 102);
        assert_eq!(client.response().text(), "ok");
    }
    // An old client knows no interim responses.
    let mut old = world.client();
    let response = old.exchange("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((response.status, response.text()), (200, "ok"));
}

#[test]
fn a_flood_of_interim_responses_is_an_invalid_response() {
    let origin = Origin::start(|peer| {
        peer.request();
        for _ in 0..100 {
            peer.send("HTTP/1.1 102 Processing\r\n\r\n");
        }
        peer.send(ok("never"));
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut last = client.response().status;
    let mut count = 0;
    while last == 102 {
        last = client.response().status;
        count += 1;
    }
    assert_eq!(last, 502);
    assert!(count <= 17, "{count}");
}

#[test]
fn a_client_that_expects_100_gets_it_from_the_backend() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.request_head() {
            assert_eq!(fields(&head, "expect"), ["100-continue"]);
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            let body = peer.exactly(5);
            peer.send(ok(std::str::from_utf8(&body).unwrap()));
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.response().status, 100);
        client.send("hello");
        assert_eq!(client.response().text(), "hello");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_client_that_expects_100_and_is_refused_keeps_its_body_to_itself() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
        peer.rest();
    });
    let world = World::to(&origin);
    let mut client = world.client();
    let response =
        client.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(response.status, 413);
    assert_eq!(response.field("connection"), Some("close"), "whether a body follows is not known");
    // What comes now is never read as a request.
    client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.rest().is_empty());
    assert_eq!(origin.requests(), 1);
}

#[test]
fn large_bodies_stream_both_ways() {
    const SIZE: usize = 8 << 20;
    let origin = Origin::start(|peer| {
        while let Some((head, body)) = peer.request() {
            if head.starts_with("POST") {
                assert!(body.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
                peer.send(ok(&body.len().to_string()));
            } else {
                let body: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
                peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
                peer.send(body);
            }
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    let body: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    for _ in 0..2 {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
        client.send(&body);
        assert_eq!(client.response().text(), SIZE.to_string());
        assert!(client.get("/").body == body);
        // 300 kB in chunks of odd sizes.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in body[..300_000].chunks(7_919) {
            client.send(format!("{:x}\r\n", chunk.len()));
            client.send(chunk);
            client.send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.response().text(), "300000");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_slow_reader_holds_the_sender_back() {
    const SIZE: usize = 64 << 20;
    let (stuck_fast, wait) = signal();
    let stuck_fast = std::sync::Mutex::new(stuck_fast);
    let origin = Origin::start(move |peer| {
        peer.request();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        peer.stream.set_nonblocking(true).unwrap();
        let chunk = vec![7; 1 << 16];
        let mut sent = 0;
        let mut stuck = 0;
        // The kernel's buffers take a few MB; then nothing more goes until the client reads.
        while stuck < 50 {
            match std::io::Write::write(&mut peer.stream, &chunk) {
                Ok(count) => {
                    sent += count;
                    stuck = 0;
                }
                Err(_) => {
                    stuck += 1;
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            }
        }
        assert!(sent < SIZE / 2, "{sent} bytes went though nobody read");
        stuck_fast.lock().unwrap().send(()).unwrap();
        peer.stream.set_nonblocking(false).unwrap();
        peer.send(vec![7; SIZE - sent]);
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait();
    let response = client.response();
    assert_eq!(response.body.len(), SIZE);
}

#[test]
fn an_old_client_gets_plain_data_and_a_close() {
    let origin = Origin::start(|peer| {
        while let Some((head, _)) = peer.request() {
            peer.send(match head.split(' ').nth(1).unwrap() {
                "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n".to_owned(),
                _ => ok("plain"),
            });
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    let response = client.exchange("GET /chunked HTTP/1.0\r\n\r\n");
    assert_eq!((response.field("transfer-encoding"), response.field("connection")), (None, Some("close")));
    assert_eq!(response.text(), "hello!");

    let mut client = world.client();
    let response = client.exchange("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!((response.text(), response.field("connection")), ("plain", Some("close")));
    assert!(client.ends());

    let mut client = world.client();
    for _ in 0..3 {
        let response = client.exchange("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((response.text(), response.field("connection")), ("plain", Some("keep-alive")));
    }
    // Kept or not, what has no length ends by closing.
    let response = client.exchange("GET /chunked HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((response.text(), response.field("connection")), ("hello!", Some("close")));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn an_old_clients_request_without_a_host_gets_one() {
    let origin = Origin::named("ok");
    let world = World::to(&origin);
    assert_eq!(world.client().exchange("GET / HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(fields(&origin.last_head(), "host"), [world.address.to_string()]);
}

#[test]
fn an_early_answer_ends_a_request_whose_body_is_still_coming() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        // Closes with most of the body unread.
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nfirst");
    let response = client.response();
    assert_eq!((response.status, response.text()), (403, "no"));
    assert_eq!(response.field("connection"), Some("close"));
    client.send(vec![b'x'; 100_000]);
    assert!(client.rest().is_empty());
    assert_eq!(origin.requests(), 1);
}

#[test]
fn request_and_response_may_stream_at_the_same_time() {
    let origin = Origin::start(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..100 {
            assert_eq!(peer.line(), "1");
            let data = peer.exactly(3);
            peer.send(format!("1\r\n{}", std::str::from_utf8(&data).unwrap()));
        }
        assert_eq!(peer.line(), "0");
        peer.line();
        peer.send("0\r\n\r\n");
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    for n in 0..100 {
        let chunk = format!("1\r\n{}\r\n", n % 10);
        client.send(&chunk);
        assert_eq!(client.exactly(6), chunk.as_bytes(), "the answer to {n} comes before the next is sent");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.exactly(5), b"0\r\n\r\n");
}

#[test]
fn a_client_that_has_finished_sending_still_gets_its_answer() {
    let (answer, answered) = std::sync::mpsc::channel::<()>();
    let answered = std::sync::Mutex::new(answered);
    let origin = Origin::start(move |peer| {
        peer.request();
        answered.lock().unwrap().recv().unwrap();
        peer.send(ok("late"));
    });
    let world = World::to(&origin);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.finish_sending();
    eventually("the origin has the request", || origin.requests() == 1);
    answer.send(()).unwrap();
    let response = client.response();
    assert_eq!(response.text(), "late");
    assert!(client.ends());
}

#[test]
fn a_client_that_leaves_frees_its_backend_connection() {
    let origin = Origin::start(|peer| {
        peer.request();
        assert!(peer.ends(), "the proxy gives up the request");
        peer.send("unread");
    });
    let world = World::to(&origin);
    let client = world.client();
    let mut client = client;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the origin has the request", || origin.requests() == 1);
    socket2::SockRef::from(&client.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    world.expect_failures("client_gone", 1);
}

#[test]
fn the_clients_and_the_backends_wish_to_close_are_each_their_own() {
    let origin = Origin::start(|peer| {
        while let Some((head, _)) = peer.request() {
            assert_eq!(fields(&head, "connection"), ["keep-alive"]);
            let closing = head.starts_with("GET /close");
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\nok",
                if closing { "Connection: close\r\n" } else { "" }
            ));
            if closing {
                return;
            }
        }
    });
    let world = World::to(&origin);
    let mut client = world.client();
    assert_eq!(client.get("/close").field("connection"), Some("keep-alive"));
    assert_eq!(client.get("/").field("connection"), Some("keep-alive"));
    assert_eq!(origin.connections(), 2);
    let last = client.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(last.field("connection"), Some("close"));
    assert!(client.ends());
    assert_eq!(world.client().get("/").status, 200);
    assert_eq!(origin.connections(), 2, "the client's wish did not close the backend's connection");
}
