//! JSON as Go's `encoding/json` writes it, byte for byte: characters that mean something in HTML are escaped.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

/// On one line, without spaces.
pub(super) fn compact(value: &impl Serialize) -> String {
    // Text keys always serialise.
    escaped(&serde_json::to_string(value).unwrap_or_default())
}

/// One field a line, indented by one space.
pub(super) fn indented(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b" "));
    // Writing to memory does not fail, and text keys always serialise.
    let _ = value.serialize(&mut serializer);
    escaped(&String::from_utf8_lossy(&out))
}

/// These characters stand in texts only, so that they can be escaped wherever they are.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_html_would_read_is_escaped() {
        assert_eq!(compact(&"a<b>&\u{2028}ü\n"), "\"a\\u003cb\\u003e\\u0026\\u2028ü\\n\"");
        assert_eq!(
            indented(&serde_json::json!({ "a": [1], "b": {} })),
            "{\n \"a\": [\n  1\n ],\n \"b\": {}\n}"
        );
    }
}
