//! Hostnames of listeners and routes: normal form and intersection.
//!
//! A hostname is a lower-case DNS name, `*.` before one, or empty for any host.

use weir_model::hostname::Hostname;

/// Lower case; `Err` says why `text` cannot be a hostname of the Gateway API. Empty is any host.
pub(super) fn normal(text: &str) -> Result<String, String> {
    match Hostname::parse(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(error) => Err(error.reason.to_owned()),
    }
}

/// The hosts that both names match, as one name: the more specific of the two. `None`: there is no such host.
pub(super) fn intersection<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if a.is_empty() || a == b {
        return Some(b);
    }
    if b.is_empty() {
        return Some(a);
    }
    // A wildcard covers what ends with its dot and suffix, other wildcards included.
    let covers =
        |wide: &str, narrow: &str| wide.strip_prefix('*').is_some_and(|suffix| narrow.ends_with(suffix));
    if covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

/// The hostnames on which a listener with hostname `listener` serves a route with `route` hostnames (none: any host),
/// sorted, each once. Empty: the route cannot attach.
pub(super) fn served(listener: &str, route: &[String]) -> Vec<String> {
    if route.is_empty() {
        return vec![listener.to_owned()];
    }
    let mut names: Vec<String> =
        route.iter().filter_map(|name| intersection(listener, name)).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_specific_of_two_names_that_overlap() {
        for (listener, route, expected) in [
            ("", "", Some("")),
            ("", "*.example.com", Some("*.example.com")),
            ("a.example.com", "", Some("a.example.com")),
            ("test.example.com", "*.example.com", Some("test.example.com")),
            ("*.example.com", "foo.test.example.com", Some("foo.test.example.com")),
            ("*.example.com", "*.test.example.com", Some("*.test.example.com")),
            ("*.example.com", "*.example.com", Some("*.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", "test.example.net", None),
            ("*.example.com", "*.com", Some("*.example.com")),
            ("*.example.com", "badexample.com", None),
            ("a.example.com", "b.example.com", None),
        ] {
            assert_eq!(intersection(listener, route), expected, "{listener} with {route}");
            assert_eq!(intersection(route, listener), expected, "{route} with {listener}");
        }
    }

    #[test]
    fn only_names_that_the_api_allows_are_hostnames() {
        assert_eq!(normal("*.Example.COM"), Ok("*.example.com".to_owned()));
        assert_eq!(normal(""), Ok(String::new()));
        for text in ["10.0.0.1", "*", "*.", "a..b", "-a.b", "a_b", "a.*.b", &"a.".repeat(200), "::1"] {
            assert!(normal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_route_without_hostnames_takes_the_listeners() {
        assert_eq!(served("*.a.com", &[]), ["*.a.com"]);
        assert_eq!(served("", &[]), [""]);
        let both = ["b.a.com".to_owned(), "c.com".to_owned(), "*.a.com".to_owned()];
        assert_eq!(served("*.a.com", &both), ["*.a.com", "b.a.com"]);
    }
}
