//! A field of what goes over the wire, or is kept on a disk, keeps its number and its type for ever: controllers and data planes of two
//! releases talk to each other, and a data plane begins with what its predecessor kept.
//!
//! `fields.txt` beside this file has all that there are. A line may be added; one that is changed or goes breaks those who talk.

use std::collections::BTreeSet;

const WRITTEN: &str = include_str!("fields.txt");

const SOURCES: [(&str, &str); 3] = [
    ("resource", include_str!("../../src/resource.rs")),
    ("wire", include_str!("../../src/wire.rs")),
    ("kept", include_str!("../../../weir/src/plane/keep.rs")),
];

/// `module Message.field type, tag = "1"` for each field, and `module Enumeration.Name = 1` for each value.
fn fields() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (module, source) in SOURCES {
        let (mut owner, mut attribute, mut is_enumeration) = ("", None, false);
        for line in source.lines().map(str::trim) {
            let line = ["pub ", "pub(super) ", "pub(crate) "]
                .iter()
                .find_map(|pub_| line.strip_prefix(pub_))
                .unwrap_or(line);
            let name =
                |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
            if let Some(rest) = line.strip_prefix("struct ").or_else(|| line.strip_prefix("enum ")) {
                owner = rest.split([' ', '(', '<', ';']).next().unwrap();
            } else if line.starts_with("#[derive(") {
                is_enumeration = line.contains("Enumeration");
            } else if let Some(rest) = line.strip_prefix("#[prost(") {
                attribute = rest.strip_suffix(")]").filter(|words| words.contains("tag = "));
            } else if let Some(words) = attribute.take() {
                let field = name(line).unwrap();
                all.insert(format!("{module} {owner}.{field} {words}"));
            } else if is_enumeration && let Some((value, number)) = line.split_once(" = ") {
                all.insert(format!("{module} {owner}.{value} = {}", number.trim_end_matches(',')));
            } else if line == "}" {
                is_enumeration = false;
            }
        }
    }
    all
}

#[test]
fn no_field_has_another_number_or_type_than_it_had() {
    let fields = fields();
    assert!(fields.len() > 200, "only {} fields found", fields.len());
    if std::env::var("WEIR_GOLDEN").is_ok_and(|value| value == "write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fields.txt");
        let text: Vec<String> = fields.iter().map(|field| format!("{field}\n")).collect();
        std::fs::write(path, text.concat()).unwrap();
        return;
    }
    let written: BTreeSet<String> = WRITTEN.lines().map(str::to_owned).collect();
    let gone: Vec<&String> = written.difference(&fields).collect();
    let new: Vec<&String> = fields.difference(&written).collect();
    assert!(gone.is_empty(), "what another release says is not understood any more: {gone:#?}");
    assert!(new.is_empty(), "write fields.txt with WEIR_GOLDEN=write: {new:#?}");
}
