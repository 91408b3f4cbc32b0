//! Names in the spellings of Go, JSON and Rust.

use super::names::ACRONYMS;

/// `HTTPURLRewriteFilter`, `URLRewrite`, `x-y/z` as `HttpUrlRewriteFilter`, `UrlRewrite`, `XYZ`.
pub(super) fn pascal(name: &str) -> String {
    split(name).iter().map(|word| capitalised(word)).collect()
}

/// `caCertificateRefs` as `ca_certificate_refs`.
pub(super) fn snake(name: &str) -> String {
    split(name).iter().map(|word| word.to_lowercase()).collect::<Vec<_>>().join("_")
}

/// What serde's `camelCase` makes of a field's name.
pub(super) fn camel(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &capitalised(word))
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters.map(|c| c.to_ascii_lowercase())).collect()
}

fn split(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let length =
            if first.is_ascii_uppercase() { acronym(rest).unwrap_or_else(|| capitals(rest)) } else { 0 };
        let tail = &rest[length..];
        let lower = tail.bytes().take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).count();
        let end = length + lower;
        if end == 0 {
            // Neither letter nor digit: it parts words.
            rest = &rest[first.len_utf8()..];
            continue;
        }
        words.push(rest[..end].to_owned());
        rest = &rest[end..];
    }
    words
}

/// The length of a known acronym at the beginning, where a new word follows it.
fn acronym(text: &str) -> Option<usize> {
    let fits = |known: &&&str| {
        text.strip_prefix(**known).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let longest = ACRONYMS.iter().filter(fits).map(|known| known.len()).max()?;
    // Digits belong to it, as in `HTTP2`.
    Some(longest)
}

/// The length of a word's capitals: one, or all of a run but the last where a small letter follows.
fn capitals(text: &str) -> usize {
    let run = text.bytes().take_while(u8::is_ascii_uppercase).count();
    match text.as_bytes().get(run) {
        Some(next) if next.is_ascii_lowercase() => (run - 1).max(1),
        _ => run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_in_every_spelling() {
        for (name, rust) in [
            ("HTTPURLRewriteFilter", "HttpUrlRewriteFilter"),
            ("HTTPCORSFilter", "HttpCorsFilter"),
            ("XBackendTrafficPolicy", "XBackendTrafficPolicy"),
            ("IPAddress", "IpAddress"),
            ("WellKnownCACertificatesType", "WellKnownCaCertificatesType"),
            ("GET", "Get"),
            ("http", "Http"),
            ("HTTP2", "Http2"),
            ("H2C", "H2C"),
            ("TCPRoute", "TcpRoute"),
        ] {
            assert_eq!(pascal(name), rust, "{name}");
        }
        assert_eq!(snake("wellKnownCACertificates"), "well_known_ca_certificates");
        assert_eq!(snake("XBackendTrafficPolicy"), "x_backend_traffic_policy");
        assert_eq!(camel("ca_certificate_refs"), "caCertificateRefs");
        assert_ne!(camel("well_known_ca_certificates"), "wellKnownCACertificates");
    }
}
