//! Ingresses of Kong's class: kept and served by the API, and told what they get.

use weir_api::kong::{INGRESS_CLASS, INGRESS_CONTROLLER, LEGACY_INGRESS_CLASS_ANNOTATION};
use weir_api::networking::Ingress;

use super::finding::Finding;
use super::reading::{Reading, Unknown};
use crate::objects::{Kind, ObjectKey, Presence};

/// What there is to say about an Ingress.
pub(super) fn findings(ingress: &Ingress, reading: &mut Reading<'_>) -> Vec<Finding> {
    let legacy = ingress.metadata.annotations.get(LEGACY_INGRESS_CLASS_ANNOTATION);
    let (field, ours) = match (&ingress.spec.ingress_class_name, legacy) {
        (Some(class), _) => ("spec.ingressClassName", is_ours(class, reading)),
        (None, Some(class)) => {
            ("metadata.annotations[kubernetes.io/ingress.class]", class.as_str() == INGRESS_CLASS)
        }
        (None, None) => return Vec::new(),
    };
    if !ours {
        return Vec::new();
    }
    let message = "Weir keeps this Ingress and does not route for it: it serves Gateway API routes. An HTTPRoute with the \
                   same hosts and paths, attached to a Gateway, is served.";
    vec![Finding::warning(field, "NotServed", message)]
}

fn is_ours(class: &str, reading: &mut Reading<'_>) -> bool {
    let key = ObjectKey::new(Kind::IngressClass, "", class);
    match (reading.presence(&key, Unknown::Passes), reading.objects.ingress_class(class)) {
        (Presence::Present, Some(object)) => object.spec.controller == INGRESS_CONTROLLER,
        _ => class == INGRESS_CLASS,
    }
}
