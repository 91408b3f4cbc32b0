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

/// The hostnames of a route (none: any host) that count on a listener with hostname `listener`, sorted, each once. Empty: the
/// route cannot attach.
///
/// They stay as the route has them, not cut down to the listener's: the listener is chosen first, and among its routes the
/// API goes by the characters of a route's own hostname.
pub(super) fn served(listener: &str, route: &[String]) -> Vec<String> {
    if route.is_empty() {
        return vec![String::new()];
    }
    let mut names: Vec<String> =
        route.iter().filter(|name| intersection(listener, name).is_some()).cloned().collect();
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
    fn a_route_keeps_those_of_its_hostnames_that_the_listener_has_a_part_in() {
        assert_eq!(served("*.a.com", &[]), [""]);
        assert_eq!(served("", &[]), [""]);
        let names = ["b.a.com".to_owned(), "c.com".to_owned(), "*.a.com".to_owned(), "*.com".to_owned()];
        assert_eq!(served("*.a.com", &names), ["*.a.com", "*.com", "b.a.com"]);
    }
}
