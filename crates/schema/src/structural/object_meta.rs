//! The type of `metadata`, the same for every kind.

use indexmap::IndexMap;

use super::node::{Additional, Checks, Kind, ListType, Node, NodeId, PatchHints};
use crate::structural::format::Format;

/// Adds the nodes of `ObjectMeta` and gives the id of its root. Long, for it is the declaration of one type.
pub(crate) fn add(nodes: &mut Vec<Node>) -> NodeId {
    let mut add = |node: Node| {
        nodes.push(Node { typed: true, ..node });
        nodes.len() - 1
    };
    let string = add(scalar(Kind::String));
    let boolean = add(scalar(Kind::Boolean));
    let integer = add(scalar(Kind::Integer));
    let time = add(Node {
        kind: Kind::String,
        nullable: true,
        checks: Some(Box::new(Checks { format: Some(Format::DateTime), ..Checks::default() })),
        ..Node::default()
    });
    let free = add(Node { kind: Kind::Object, preserve_unknown: true, map_atomic: true, ..Node::default() });
    let strings = add(Node { kind: Kind::Object, additional: Additional::Schema(string), ..Node::default() });
    // The names in a set are items of their own, so that a name can be declared again in each object.
    let generate_name = add(scalar(Kind::String));
    let name = add(scalar(Kind::String));
    let owner = add(Node {
        kind: Kind::Object,
        map_atomic: true,
        properties: fields(&[
            ("apiVersion", string),
            ("kind", string),
            ("name", string),
            ("uid", string),
            ("controller", boolean),
            ("blockOwnerDeletion", boolean),
        ]),
        ..Node::default()
    });
    let owners = add(Node {
        kind: Kind::Array,
        items: Some(owner),
        list: ListType::Map(vec!["uid".into()]),
        patch: PatchHints { merge: true, merge_key: Some("uid".into()), ..PatchHints::default() },
        ..Node::default()
    });
    let finalizers = add(Node {
        kind: Kind::Array,
        items: Some(string),
        list: ListType::Set,
        patch: PatchHints { merge: true, ..PatchHints::default() },
        ..Node::default()
    });
    let managed = add(Node {
        kind: Kind::Object,
        properties: fields(&[
            ("manager", string),
            ("operation", string),
            ("apiVersion", string),
            ("time", time),
            ("fieldsType", string),
            ("fieldsV1", free),
            ("subresource", string),
        ]),
        ..Node::default()
    });
    let managed_fields = add(Node { kind: Kind::Array, items: Some(managed), ..Node::default() });
    add(Node {
        kind: Kind::Object,
        properties: fields(&[
            ("name", name),
            ("generateName", generate_name),
            ("namespace", string),
            ("selfLink", string),
            ("uid", string),
            ("resourceVersion", string),
            ("generation", integer),
            ("creationTimestamp", time),
            ("deletionTimestamp", time),
            ("deletionGracePeriodSeconds", integer),
            ("labels", strings),
            ("annotations", strings),
            ("ownerReferences", owners),
            ("finalizers", finalizers),
            ("managedFields", managed_fields),
        ]),
        ..Node::default()
    })
}

fn scalar(kind: Kind) -> Node {
    Node { kind, ..Node::default() }
}

fn fields(list: &[(&str, NodeId)]) -> IndexMap<Box<str>, NodeId> {
    list.iter().map(|(name, id)| ((*name).into(), *id)).collect()
}
