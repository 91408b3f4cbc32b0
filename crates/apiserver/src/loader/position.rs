//! Values with the lines that they came from.
//!
//! Invariant: a position tree has the shape of its value, so every path of the value has a line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// The lines of one document or of a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Counted from 1. Of an entry of a map, the line of its key.
    line: u32,
    parts: Parts,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Parts {
    #[default]
    None,
    Named(Vec<(String, Positions)>),
    Numbered(Vec<Positions>),
}

impl Positions {
    /// A document whose inside is not known.
    pub(super) fn at(line: u32) -> Self {
        Self { line, parts: Parts::None }
    }

    /// The first line. Counted from 1.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    /// The line of a path such as `spec.rules[0].matches[1].path` or `metadata.labels[app.kubernetes.io/name]`, or of
    /// the innermost part of it that is there (a required field that is missing has no line of its own).
    pub fn line_of(&self, path: &str) -> u32 {
        let mut here = self;
        let mut rest = path.trim_start_matches('.');
        while !rest.is_empty() {
            let Some((next, after)) = here.step(rest) else { break };
            here = next;
            rest = after.trim_start_matches('.');
        }
        here.line
    }

    /// The part that the path's beginning names, and the rest of the path.
    fn step<'a, 'p>(&'a self, path: &'p str) -> Option<(&'a Positions, &'p str)> {
        if let Some(inside) = path.strip_prefix('[') {
            let (key, rest) = inside.split_once(']')?;
            return match &self.parts {
                Parts::Numbered(parts) => Some((parts.get(key.parse::<usize>().ok()?)?, rest)),
                Parts::Named(_) => Some((self.named(key.trim_matches(['"', '\'']))?, rest)),
                Parts::None => None,
            };
        }
        // A key may itself have dots, so the longest one that fits counts.
        let Parts::Named(parts) = &self.parts else { return None };
        let fits = |key: &str| {
            let rest = path.strip_prefix(key)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
        };
        let candidates = parts.iter().filter_map(|(key, part)| Some((key.len(), part, fits(key)?)));
        candidates.max_by_key(|(length, ..)| *length).map(|(_, part, rest)| (part, rest))
    }

    fn named(&self, key: &str) -> Option<&Positions> {
        let Parts::Named(parts) = &self.parts else { return None };
        parts.iter().find(|(known, _)| known == key).map(|(_, part)| part)
    }

    /// The positions of the entry `key`.
    pub(super) fn entry(&self, key: &str) -> Positions {
        self.named(key).cloned().unwrap_or_else(|| Self::at(self.line))
    }

    /// The positions of an element.
    pub(super) fn element(&self, index: usize) -> Positions {
        match &self.parts {
            Parts::Numbered(parts) => parts.get(index).cloned(),
            _ => None,
        }
        .unwrap_or_else(|| Self::at(self.line))
    }

    /// Moves everything down by `lines`.
    pub(super) fn moved_down(mut self, lines: u32) -> Self {
        self.line += lines;
        self.parts = match self.parts {
            Parts::None => Parts::None,
            Parts::Named(parts) => {
                Parts::Named(parts.into_iter().map(|(key, part)| (key, part.moved_down(lines))).collect())
            }
            Parts::Numbered(parts) => {
                Parts::Numbered(parts.into_iter().map(|part| part.moved_down(lines)).collect())
            }
        };
        self
    }
}

/// A value and where it came from.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) value: Value,
    pub(super) positions: Positions,
}

impl<'de> Deserialize<'de> for Placed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        let line = u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX);
        Ok(spanned.value.placed(line))
    }
}

/// A value whose own line is still to be told.
enum Content {
    Scalar(Value),
    Map(Vec<(String, u32, Placed)>),
    Sequence(Vec<Placed>),
}

impl Content {
    fn placed(self, line: u32) -> Placed {
        match self {
            Self::Scalar(value) => Placed { value, positions: Positions::at(line) },
            Self::Sequence(elements) => {
                let (values, positions) =
                    elements.into_iter().map(|placed| (placed.value, placed.positions)).unzip();
                Placed {
                    value: Value::Array(values),
                    positions: Positions { line, parts: Parts::Numbered(positions) },
                }
            }
            Self::Map(entries) => {
                let mut values = Map::with_capacity(entries.len());
                let mut parts = Vec::with_capacity(entries.len());
                for (key, key_line, placed) in entries {
                    values.insert(key.clone(), placed.value);
                    parts.push((key, Positions { line: key_line, parts: placed.positions.parts }));
                }
                Placed {
                    value: Value::Object(values),
                    positions: Positions { line, parts: Parts::Named(parts) },
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, a sequence or a scalar")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Content, E> {
        match Number::from_f64(value) {
            Some(number) => Ok(Content::Scalar(number.into())),
            None => Err(E::custom("a number that JSON does not have")),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element()? {
            elements.push(element);
        }
        Ok(Content::Sequence(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let line = u32::try_from(key.referenced.line()).unwrap_or(u32::MAX);
            entries.push((key.value, line, access.next_value()?));
        }
        Ok(Content::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_line() {
        let text = "a: 1\nmetadata:\n  labels:\n    app.kubernetes.io/name: x\n    app: y\nspec:\n  rules:\n  - matches:\n    - path:\n        value: /\n  - {name: second}\n";
        let placed: Placed = serde_saphyr::from_str(text).expect("YAML");
        let lines = [
            ("a", 1),
            ("metadata", 2),
            ("metadata.labels[app.kubernetes.io/name]", 4),
            ("metadata.labels.app.kubernetes.io/name", 4),
            ("metadata.labels.app", 5),
            ("spec.rules", 7),
            ("spec.rules[0].matches[0].path.value", 10),
            ("spec.rules[0].matches[0].path.type", 9),
            ("spec.rules[1].name", 11),
            ("spec.rules[7]", 7),
            (".spec", 6),
            ("", 1),
        ];
        for (path, line) in lines {
            assert_eq!(placed.positions.line_of(path), line, "{path}");
        }
        assert_eq!(placed.value["spec"]["rules"][1]["name"], "second");
    }

    #[test]
    fn scalars_have_the_types_that_kubectl_gives_them() {
        let text = "[1, -2, 1.5, yes, \"yes\", null, ~, 0x10, text, 2001-01-01, 18446744073709551615]";
        let placed: Placed = serde_saphyr::from_str(text).expect("YAML");
        let expected = serde_json::json!([
            1,
            -2,
            1.5,
            true,
            "yes",
            null,
            null,
            16,
            "text",
            "2001-01-01",
            18_446_744_073_709_551_615_u64
        ]);
        assert_eq!(placed.value, expected);
    }
}
