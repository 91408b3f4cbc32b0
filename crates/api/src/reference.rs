//! One view of all references to backends: upstream's types repeat the fields, each with more of its own.

use crate::gateway_api::{BackendObjectReference, BackendRef, GrpcBackendRef, HttpBackendRef};

/// A reference to a backend object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendReference<'a> {
    pub group: &'a str,
    pub kind: &'a str,
    pub name: &'a str,
    /// `None`: the referrer's own.
    pub namespace: Option<&'a str>,
    pub port: Option<i32>,
}

macro_rules! backend_reference {
    ($($type:ty),+) => {
        $(impl<'a> From<&'a $type> for BackendReference<'a> {
            fn from(reference: &'a $type) -> BackendReference<'a> {
                BackendReference {
                    group: &reference.group,
                    kind: &reference.kind,
                    name: &reference.name,
                    namespace: reference.namespace.as_deref(),
                    port: reference.port,
                }
            }
        })+
    };
}

backend_reference!(BackendObjectReference, BackendRef, GrpcBackendRef, HttpBackendRef);
