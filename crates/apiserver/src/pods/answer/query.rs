//! Query strings as HTML forms write them.

use percent_encoding::percent_decode_str;

/// The first value of `name`.
pub(super) fn value(query: &str, name: &str) -> Option<String> {
    pairs(query).find(|(key, _)| key == name).map(|(_, value)| value)
}

fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key), decode(value))
    })
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_the_first_counts() {
        assert_eq!(value("a=1&msg=hello%20w%C3%B6rld+x&msg=2", "msg").as_deref(), Some("hello wörld x"));
        assert_eq!(value("flag&x=", "flag").as_deref(), Some(""));
        assert_eq!(value("", "msg"), None);
    }
}
