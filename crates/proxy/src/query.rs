//! Changes of a request's query that an authorisation server asks for.
//!
//! Names are compared decoded and in their case; what is left alone stays byte for byte. What is put in is written as it came, but for the bytes
//! that would end the parameter or the query, which are percent-encoded: `%` is not, so that what was encoded already stays so.
//!
//! Pure: bytes in, bytes out.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};

/// A name and its value.
type Parameter = (Box<[u8]>, Box<[u8]>);

/// Parameters that are set, then those that go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueryEdits {
    set: Vec<Parameter>,
    remove: Vec<Box<[u8]>>,
}

impl QueryEdits {
    pub(crate) fn new<'a>(
        set: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        remove: impl Iterator<Item = &'a [u8]>,
    ) -> QueryEdits {
        QueryEdits {
            set: set.map(|(name, value)| (name.into(), value.into())).collect(),
            remove: remove.map(Box::from).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// The query after the changes; `None` for none.
    pub(crate) fn apply(&self, query: Option<&[u8]>) -> Option<Vec<u8>> {
        let mut parameters: Vec<Cow<'_, [u8]>> = Vec::new();
        parameters
            .extend(query.into_iter().flat_map(|query| query.split(|byte| *byte == b'&')).map(Cow::from));
        for (name, value) in &self.set {
            let written = written(name, value);
            // The first takes the new value, the others go.
            match parameters.iter().position(|one| is_named(one, name)) {
                Some(first) => {
                    parameters[first] = Cow::Owned(written);
                    let mut at = 0;
                    parameters.retain(|one| {
                        at += 1;
                        at - 1 <= first || !is_named(one, name)
                    });
                }
                None => parameters.push(Cow::Owned(written)),
            }
        }
        parameters.retain(|one| !self.remove.iter().any(|name| is_named(one, name)));
        let is_left = query.is_some() && self.is_empty() || parameters.iter().any(|one| !one.is_empty());
        is_left.then(|| parameters.join(&b'&'))
    }
}

/// Whether a parameter as it stands in a query has this name.
fn is_named(parameter: &[u8], name: &[u8]) -> bool {
    let end = memchr::memchr(b'=', parameter).unwrap_or(parameter.len());
    let written = &parameter[..end];
    !parameter.is_empty() && (written == name || percent_decode(written).eq(percent_decode(name)))
}

/// What would end a value or the query; octets beyond ASCII are encoded anyway.
const VALUE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'&')
    .add(b'#')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// What would end a name.
const NAME: &AsciiSet = &VALUE.add(b'=');

fn written(name: &[u8], value: &[u8]) -> Vec<u8> {
    format!("{}={}", percent_encode(name, NAME), percent_encode(value, VALUE)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(query: Option<&str>, set: &[(&str, &str)], remove: &[&str]) -> Option<String> {
        let edits = QueryEdits::new(
            set.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())),
            remove.iter().map(|name| name.as_bytes()),
        );
        edits.apply(query.map(str::as_bytes)).map(|query| String::from_utf8(query).unwrap())
    }

    #[test]
    fn a_parameter_that_is_set_takes_the_place_of_all_of_its_name_and_others_stay_as_they_are() {
        for (query, set, expected) in [
            (None, &[("a", "1")][..], "a=1"),
            (Some(""), &[("a", "1")], "&a=1"),
            (Some("a=0&b=%20x+&a=2"), &[("a", "1")], "a=1&b=%20x+"),
            (Some("%61=0&A=9"), &[("a", "1")], "a=1&A=9"),
            (Some("b"), &[("b", "")], "b="),
            (Some("x=1"), &[("b", "1"), ("b", "2")], "x=1&b=2"),
        ] {
            assert_eq!(edited(query, set, &[]).as_deref(), Some(expected), "{query:?}");
        }
    }

    #[test]
    fn a_parameter_that_is_removed_is_gone_in_every_spelling_and_with_the_last_one_the_query() {
        assert_eq!(edited(Some("a=1&b=2&%61&a"), &[], &["a"]).as_deref(), Some("b=2"));
        assert_eq!(edited(Some("a=1"), &[], &["a"]), None);
        assert_eq!(edited(Some("a=1"), &[("b", "2")], &["a", "b"]), None);
        assert_eq!(edited(Some("A=1"), &[], &["a"]).as_deref(), Some("A=1"));
        assert_eq!(edited(None, &[], &["a"]), None);
    }

    #[test]
    fn nothing_that_is_put_in_ends_its_parameter_or_the_query() {
        let written = edited(None, &[("a=b&c", "1&d=2#e f\r\n%20")], &[]);
        assert_eq!(written.as_deref(), Some("a%3Db%26c=1%26d=2%23e%20f%0D%0A%20"));
        assert_eq!(edited(Some("x%zz=1&%=2"), &[], &["x%zz"]).as_deref(), Some("%=2"));
    }
}
