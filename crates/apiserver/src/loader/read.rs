//! One file: its text to objects with their places.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::position::{Placed, Positions};

/// Where an object came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file, as the directory was named and the file found in it.
    pub file: Arc<Path>,
    /// The object's first line. Counted from 1.
    pub line: u32,
    /// The document in the file, empty ones not counted. Counted from 1.
    pub document: u32,
}

/// An object of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedObject {
    /// Where it came from.
    pub source: Source,
    /// The object; the same one for as long as its file is not read again.
    pub value: Arc<Value>,
    /// The lines of its fields.
    pub positions: Positions,
}

/// What is wrong with a file or an object of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The file.
    pub file: PathBuf,
    /// Counted from 1; 0 when it is the file as a whole.
    pub line: u32,
    /// Kind and name, for example `HTTPRoute default/echo`; empty when no object is concerned or known.
    pub object: String,
    /// The field, for example `spec.rules[0].matches`; empty when it is the object as a whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        for part in [&self.object, &self.field].into_iter().filter(|part| !part.is_empty()) {
            write!(f, ": {part}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl LoadedObject {
    /// Kind, namespace and name, for messages.
    pub fn title(&self) -> String {
        let Identity { kind, namespace, name, .. } = Identity::of(&self.value);
        match self.value.pointer("/metadata/namespace") {
            Some(_) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        }
    }

    /// An error about a field of this object.
    pub(super) fn error(&self, field: &str, reason: String) -> LoadError {
        LoadError {
            file: self.source.file.to_path_buf(),
            line: self.positions.line_of(field),
            object: self.title(),
            field: field.to_owned(),
            reason,
        }
    }
}

/// By what an object is one and the same. Versions of a group do not matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    group: String,
    kind: String,
    namespace: String,
    name: String,
}

impl Identity {
    pub(super) fn of(value: &Value) -> Self {
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let group = text("/apiVersion").split_once('/').map_or("", |(group, _)| group);
        let namespace = match text("/metadata/namespace") {
            "" => "default",
            namespace => namespace,
        };
        Self {
            group: group.to_owned(),
            kind: text("/kind").to_owned(),
            namespace: namespace.to_owned(),
            name: text("/metadata/name").to_owned(),
        }
    }
}

/// The objects of a text. What is wrong is told, and then there are no objects: a file counts as a whole.
pub(super) fn objects(file: &Path, text: &str) -> Result<Vec<LoadedObject>, Vec<LoadError>> {
    let is_json = file.extension().is_some_and(|extension| extension == "json");
    let documents = if is_json { json_documents(file, text) } else { yaml_documents(file, text) };
    let documents = documents.map_err(|error| vec![error])?;
    let file: Arc<Path> = Arc::from(file);
    let (mut objects, mut errors) = (Vec::new(), Vec::new());
    for (placed, document) in documents.into_iter().zip(1..) {
        unroll(&file, document, placed, &mut objects, &mut errors);
    }
    if errors.is_empty() { Ok(objects) } else { Err(errors) }
}

fn yaml_documents(file: &Path, text: &str) -> Result<Vec<Placed>, LoadError> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| syntax_error(file, &error))
}

/// As kubectl reads YAML: octal numbers as in file modes, no key twice.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

fn syntax_error(file: &Path, error: &serde_saphyr::Error) -> LoadError {
    let line = error.location().map_or(0, |location| u32::try_from(location.line()).unwrap_or(u32::MAX));
    let reason = error.without_snippet().to_string();
    LoadError { file: file.to_path_buf(), line, object: String::new(), field: String::new(), reason }
}

/// JSON values one after the other. JSON is YAML but for tabs, so the lines come from the YAML reader.
fn json_documents(file: &Path, text: &str) -> Result<Vec<Placed>, LoadError> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut documents = Vec::new();
    let mut begin = 0;
    while let Some(value) = values.next() {
        let value = value.map_err(|error| LoadError {
            file: file.to_path_buf(),
            line: u32::try_from(error.line()).unwrap_or(u32::MAX),
            object: String::new(),
            field: String::new(),
            reason: format!("not JSON: {error}"),
        })?;
        let part = &text[begin..values.byte_offset()];
        let lines_before = u32::try_from(text[..begin].matches('\n').count()).unwrap_or(u32::MAX);
        let spaced = part.replace('\t', " ");
        let positions = match serde_saphyr::from_str::<Placed>(&spaced) {
            Ok(placed) => placed.positions.moved_down(lines_before),
            Err(_) => Positions::at(lines_before + 1),
        };
        documents.push(Placed { value, positions });
        begin = values.byte_offset();
    }
    Ok(documents)
}

/// Takes an object, or each item of a list, into `objects`.
fn unroll(
    file: &Arc<Path>,
    document: u32,
    placed: Placed,
    objects: &mut Vec<LoadedObject>,
    errors: &mut Vec<LoadError>,
) {
    let Placed { mut value, positions } = placed;
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(item_kind) = kind.strip_suffix("List").filter(|_| value["items"].is_array()) else {
        let source = Source { file: file.clone(), line: positions.line(), document };
        let complaint = complaint(&value);
        let object = LoadedObject { source, value: Arc::new(value), positions };
        match complaint {
            None => objects.push(object),
            Some((field, reason)) => errors.push(object.error(field, reason)),
        }
        return;
    };
    let api_version = value.get("apiVersion").cloned().unwrap_or_default();
    let items = value["items"].take();
    let lines = positions.entry("items");
    let Value::Array(items) = items else { return };
    for (index, mut value) in items.into_iter().enumerate() {
        // The items of a typed list need not say again what they are.
        if let (Some(map), false) = (value.as_object_mut(), item_kind.is_empty()) {
            map.entry("kind").or_insert_with(|| item_kind.into());
            map.entry("apiVersion").or_insert_with(|| api_version.clone());
        }
        unroll(file, document, Placed { value, positions: lines.element(index) }, objects, errors);
    }
}

/// The field without which an object is none, and why it does not do.
fn complaint(value: &Value) -> Option<(&'static str, String)> {
    if !value.is_object() {
        return Some((
            "",
            "not an object: a document must be a map with apiVersion, kind and metadata".to_owned(),
        ));
    }
    let wanted = [
        ("/apiVersion", "apiVersion", "a version such as gateway.networking.k8s.io/v1"),
        ("/kind", "kind", "a kind such as HTTPRoute"),
        ("/metadata/name", "metadata.name", "a name: objects in files need one"),
    ];
    wanted.into_iter().find_map(|(pointer, field, what)| {
        let reason = match value.pointer(pointer) {
            None | Some(Value::Null) => format!("Required value: must be {what}"),
            Some(Value::String(text)) if text.is_empty() => format!("Required value: must be {what}"),
            Some(Value::String(_)) => return None,
            Some(Value::Array(_) | Value::Object(_)) => format!("Invalid value: must be {what}"),
            // `name: y` is a boolean in the YAML that Kubernetes reads.
            Some(other) => {
                format!("Invalid value: YAML reads this as {other}; put it in quotes to make it text")
            }
        };
        Some((field, reason))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<LoadedObject>, Vec<LoadError>> {
        objects(Path::new(name), text)
    }

    #[test]
    fn documents_and_lists_become_objects_with_their_places() {
        let text = "# nothing\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata:\n    name: b\n\
                    - apiVersion: v1\n  kind: Secret\n  metadata: {name: c, namespace: d}\n";
        let objects = read("x.yaml", text).expect("good");
        let places: Vec<_> = objects
            .iter()
            .map(|object| (object.title(), object.source.line, object.source.document))
            .collect();
        let expected = [("Service a", 3, 1), ("Secret b", 11, 2), ("Secret d/c", 15, 2)];
        assert_eq!(places, expected.map(|(title, line, document)| (title.to_owned(), line, document)));
        assert_eq!(objects[1].positions.line_of("metadata.name"), 14);
    }

    #[test]
    fn typed_lists_name_the_kind_of_their_items() {
        let text = r#"{"apiVersion": "v1", "kind": "ServiceList",
            "items": [{"metadata": {"name": "a"}}]}"#;
        let objects = read("x.json", text).expect("good");
        assert_eq!((objects[0].value["kind"].as_str(), objects[0].source.line), (Some("Service"), 2));
    }

    #[test]
    fn json_with_tabs_keeps_its_lines() {
        let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\n\t\t\"name\": \"a\"\n\t}\n}\n\
                    {\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"b\"}}\n";
        let objects = read("x.json", text).expect("good");
        assert_eq!(objects[0].positions.line_of("metadata.name"), 5);
        assert_eq!(
            (objects[1].title().as_str(), objects[1].positions.line_of("metadata.name")),
            ("Service b", 8)
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let errors = read("x.yaml", "apiVersion: v1\nkind: [\n").expect_err("broken");
        assert!(errors[0].line >= 2 && errors[0].to_string().starts_with("x.yaml:"), "{}", errors[0]);
        let errors =
            read("x.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  labels: {}\n").expect_err("nameless");
        assert_eq!((errors[0].line, errors[0].field.as_str()), (3, "metadata.name"));
        let errors =
            read("x.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: y\n").expect_err("a boolean");
        assert_eq!((errors[0].line, errors[0].field.as_str()), (4, "metadata.name"));
        assert!(errors[0].reason.contains("reads this as true"), "{}", errors[0]);
        let errors = read("x.yaml", "a: 1\nb: 2\na: 3\n").expect_err("a key twice");
        assert_eq!(errors[0].line, 3);
        let errors = read("x.yaml", "just text\n").expect_err("no object");
        assert_eq!(errors[0].line, 1);
        let errors = read("x.json", "{\n\"a\": }").expect_err("broken");
        assert_eq!(errors[0].line, 2);
    }

    #[test]
    fn file_modes_are_octal() {
        let text = "apiVersion: v1\nkind: X\nmetadata: {name: a}\nmode: 0644\n";
        assert_eq!(read("x.yaml", text).expect("good")[0].value["mode"], 0o644);
    }
}
