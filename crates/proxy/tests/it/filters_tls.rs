//! Filters and sessions with TLS on both sides: what they say does not depend on it, and nothing of theirs goes in the clear.

use weir_model::resource::{
    Backend, BackendTls, Body, ExternalAuth, FilterKind, HttpRule, RequestMirror, Resource,
    SessionPersistence,
};
use weir_proxy::ProxyConfig;

use crate::harness::*;
use crate::secure::*;

struct Site {
    world: World,
    authority: Authority,
}

impl Site {
    fn start() -> Site {
        let authority = Authority::new("authority");
        let world = World::bare(ProxyConfig { workers: Some(1), ..ProxyConfig::default() });
        let listener = ListenerOf::https(world.address, "https", "", &["c"]).resource();
        let resources = vec![authority.sign(&["a.example"]).resource("c"), authority.bundle("ca"), listener];
        assert_eq!(world.apply(resources).rejected, []);
        Site { world, authority }
    }

    /// An origin that speaks TLS under this name.
    fn origin(&self, name: &'static str) -> Origin {
        let answer = ok(name);
        let config = self.authority.sign(&[&format!("{name}.internal")]).server(None);
        secure_origin(config, move |peer| {
            while peer.request().is_some() {
                peer.send(&answer);
            }
        })
    }

    fn serve(&self, rule: HttpRule, origins: &[(&str, &Origin)]) {
        let mut resources = Vec::new();
        for (name, origin) in origins {
            resources.extend([encrypted(name), endpoints(name, &[origin.address])]);
        }
        let mut route = route("r", &[], vec![rule]);
        if let Some(Body::HttpRoute(route)) = &mut route.body {
            route.attachments = attachments(&["https"], &[""]);
        }
        resources.push(route);
        assert_eq!(self.world.apply(resources).rejected, []);
    }

    fn client(&self) -> Peer {
        Peer::secure(self.world.address, "a.example", &self.authority.client())
    }
}

fn encrypted(name: &str) -> Resource {
    let tls = BackendTls {
        hostname: format!("{name}.internal"),
        ca_bundles: vec!["cabundle/ca".into()],
        ..BackendTls::default()
    };
    let backend = Backend {
        key: format!("backend/default/{name}/80"),
        namespace: "default".into(),
        service: name.into(),
        port: 80,
        tls: Some(tls),
        ..Backend::default()
    };
    Resource { body: Some(Body::Backend(backend)) }
}

fn mirror() -> FilterKind {
    FilterKind::RequestMirror(RequestMirror {
        backend_key: "backend/default/m/80".into(),
        numerator: 1,
        denominator: 1,
        split_identity: "m".into(),
    })
}

fn auth() -> FilterKind {
    let backend_key = "backend/default/auth/80".into();
    FilterKind::ExternalAuth(ExternalAuth { backend_key, ..ExternalAuth::default() })
}

#[test]
fn the_policies_of_mirrors_and_authorisation_servers_hold() {
    let site = Site::start();
    let (primary, copied, server) = (site.origin("a"), site.origin("m"), site.origin("auth"));
    let filters = [auth(), mirror()].map(filter).to_vec();
    let rule = HttpRule { backends: vec![to("a", 1)], filters, ..rule("/") };
    site.serve(rule, &[("a", &primary), ("m", &copied), ("auth", &server)]);
    let mut client = site.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "a");
    }
    eventually("every copy is done", || site.world.metric("weir_proxy_mirrors_total") == 5);
    assert_eq!((server.requests(), copied.requests()), (5, 5));
    assert_eq!(fields(&copied.last_head(), "x-forwarded-proto"), ["https"]);
}

#[test]
fn a_server_that_cannot_prove_its_name_lets_nothing_pass_and_gets_no_copy() {
    let site = Site::start();
    let (primary, wrong) = (site.origin("a"), site.origin("someone-else"));
    for (kind, status) in [(auth(), 503), (mirror(), 200)] {
        let rule = HttpRule { backends: vec![to("a", 1)], filters: vec![filter(kind)], ..rule("/") };
        site.serve(rule, &[("a", &primary), ("m", &wrong), ("auth", &wrong)]);
        assert_eq!(site.client().get("/").status, status);
    }
    eventually("the copy was given up", || site.world.metric("weir_proxy_mirror_drops_total") == 1);
    assert_eq!((primary.requests(), wrong.requests()), (1, 0));
}

#[test]
fn the_cookie_of_a_session_over_tls_is_sent_over_tls_only() {
    let site = Site::start();
    let (a, b) = (site.origin("a"), site.origin("b"));
    let session = SessionPersistence { name: "weir".into(), ..SessionPersistence::default() };
    let backends = vec![to("a", 1), to("b", 1)];
    let rule = HttpRule { backends, session_persistence: Some(session), ..rule("/") };
    site.serve(rule, &[("a", &a), ("b", &b)]);
    let mut client = site.client();
    let first = client.get("/");
    let line = first.field("set-cookie").unwrap().to_owned();
    assert!(line.ends_with("; Path=/; HttpOnly; Secure"), "{line}");
    let cookie = line.split(';').next().unwrap();
    for _ in 0..6 {
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n");
        assert_eq!(client.exchange(&request).text(), first.text());
    }
}
