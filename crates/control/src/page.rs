//! One page of a list.
//!
//! Invariant: each object is made smaller as soon as it is read, so that beside the text of the page one object at a time
//! is there whole. Deliberately absent: calls, and what is left of an object.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// What makes an object smaller.
pub(crate) type Trim<'a> = &'a (dyn Fn(&mut Value) + Sync);

/// Puts the objects of a page into `objects`, and returns the list's own metadata; `None`: it is no list.
pub(crate) fn read(
    text: &str,
    objects: &mut Vec<Value>,
    trim: Trim<'_>,
) -> Result<Option<Value>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let metadata = Page(Items { objects, trim }).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(metadata)
}

struct Page<'a>(Items<'a>);

struct Items<'a> {
    objects: &'a mut Vec<Value>,
    trim: Trim<'a>,
}

impl<'de> DeserializeSeed<'de> for Page<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Page<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Value>, A::Error> {
        let Page(Items { objects, trim }) = self;
        let (mut metadata, mut is_list) = (Value::Null, false);
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "metadata" => metadata = map.next_value()?,
                "items" => {
                    is_list = true;
                    map.next_value_seed(Items { objects: &mut *objects, trim })?;
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(is_list.then_some(metadata))
    }
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the items of a list")
    }

    /// As a list of metadata alone says that it has none.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(mut object) = items.next_element::<Value>()? {
            (self.trim)(&mut object);
            self.objects.push(object);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[test]
    fn a_page_is_its_objects_as_they_are_trimmed_and_the_metadata_of_the_list() {
        let text = json!({
            "kind": "List", "items": [{"a": 1, "b": 2}, {"b": 3}],
            "metadata": {"resourceVersion": "7", "continue": "x"},
        });
        let mut objects = vec![json!("before")];
        let trim = |object: &mut Value| _ = object.as_object_mut().and_then(|all| all.shift_remove("b"));
        let metadata = super::read(&text.to_string(), &mut objects, &trim).unwrap();
        assert_eq!(metadata, Some(json!({"resourceVersion": "7", "continue": "x"})));
        assert_eq!(objects, [json!("before"), json!({"a": 1}), json!({})]);
        assert_eq!(super::read("{\"kind\": \"Status\"}", &mut objects, &trim).unwrap(), None);
        let none = json!({"metadata": {"resourceVersion": "8"}, "items": null}).to_string();
        assert_eq!(super::read(&none, &mut objects, &trim).unwrap(), Some(json!({"resourceVersion": "8"})));
        assert_eq!(objects.len(), 3);
        for text in ["[]", "{\"items\": 1}", "{\"items\": []", "{\"items\": []} {}"] {
            assert!(super::read(text, &mut objects, &trim).is_err(), "{text}");
        }
    }
}
