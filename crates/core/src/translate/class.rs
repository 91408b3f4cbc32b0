//! GatewayClass, and the parameters that it refers to.

use weir_api::condition::{Condition, reasons, types};
use weir_api::gateway_api::{GatewayClass, GatewayClassStatus, ParametersReference, SupportedFeature};
use weir_api::kong::{GatewayConfiguration, GatewayConfigurationStatus, OPERATOR_GROUP};

use super::finding::{Finding, list};
use super::reading::{Reading, Unknown};
use crate::objects::{Kind, ObjectKey, Presence};
use crate::output::ClassKind;

/// What a class of ours means to its Gateways.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ClassView {
    pub(super) controller: String,
    pub(super) kind: ClassKind,
    pub(super) verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Accepted,
    /// Something that the class refers to has not been seen yet.
    Pending,
    /// The message says why.
    Rejected(String),
}

/// `None` when the class is somebody else's.
pub(super) fn view(class: &GatewayClass, reading: &mut Reading<'_>) -> Option<ClassView> {
    let kind = ClassKind::of(class)?;
    let verdict = match &class.spec.parameters_ref {
        None => Verdict::Accepted,
        Some(parameters) => parameters_verdict(parameters, None, reading),
    };
    Some(ClassView { controller: class.spec.controller_name.clone(), kind, verdict })
}

/// Whether an object with parameters can be used. `namespace` is the one that the reference is confined to, if it is.
pub(super) fn parameters_verdict(
    parameters: &ParametersReference,
    namespace: Option<&str>,
    reading: &mut Reading<'_>,
) -> Verdict {
    let ParametersReference { group, kind, name, namespace: named } = parameters;
    if group != OPERATOR_GROUP || kind != "GatewayConfiguration" {
        return Verdict::Rejected(format!(
            "parametersRef is of kind {kind:?} in group {group:?}; Weir reads GatewayConfiguration of {OPERATOR_GROUP}"
        ));
    }
    let Some(namespace) = namespace.or(named.as_deref()).filter(|namespace| !namespace.is_empty()) else {
        return Verdict::Rejected(
            "parametersRef needs a namespace, because a GatewayConfiguration is in one".to_owned(),
        );
    };
    match reading.presence(&ObjectKey::new(Kind::GatewayConfiguration, namespace, name), Unknown::Holds) {
        Presence::Present => Verdict::Accepted,
        Presence::Unknown => Verdict::Pending,
        Presence::Absent => {
            Verdict::Rejected(format!("parametersRef: there is no GatewayConfiguration {namespace}/{name}"))
        }
    }
}

/// `None` while the verdict is open.
pub(super) fn status(
    class: &GatewayClass,
    view: &ClassView,
    supported_features: &[String],
) -> Option<(GatewayClassStatus, Vec<Finding>)> {
    let generation = class.metadata.generation;
    let (condition, findings) = match &view.verdict {
        Verdict::Pending => return None,
        Verdict::Accepted => {
            let message = match view.kind {
                ClassKind::Weir => "Each Gateway of this class gets an address of its own.",
                ClassKind::Managed => {
                    "Weir answers for this controller; each Gateway of this class gets an address of its own."
                }
                ClassKind::Unmanaged => {
                    "Weir answers for this controller; the Gateways of this class share one address and one data plane."
                }
            };
            (Condition::new(types::ACCEPTED, true, reasons::ACCEPTED, message, generation), Vec::new())
        }
        Verdict::Rejected(message) => {
            let finding = Finding::error("spec.parametersRef", reasons::INVALID_PARAMETERS, message.clone());
            let message = finding.message.clone();
            (
                Condition::new(types::ACCEPTED, false, reasons::INVALID_PARAMETERS, message, generation),
                vec![finding],
            )
        }
    };
    let mut names = supported_features.to_vec();
    names.sort();
    names.dedup();
    let supported_features = names.into_iter().map(|name| SupportedFeature { name }).collect();
    Some((GatewayClassStatus { conditions: vec![condition], supported_features }, findings))
}

/// How deep into a GatewayConfiguration its fields are named.
const CONFIGURATION_DEPTH: usize = 3;
/// Fields of a GatewayConfiguration that a message names.
const CONFIGURATION_FIELDS_MAX: usize = 12;

/// The status of a GatewayConfiguration that a class or Gateway of ours refers to. Its fields describe deployments of
/// Kong's; none has a meaning here, which is said and not refused.
pub(super) fn configuration_status(
    configuration: &GatewayConfiguration,
) -> (GatewayConfigurationStatus, Vec<Finding>) {
    let mut fields = Vec::new();
    leaves("spec", &configuration.spec, CONFIGURATION_DEPTH, &mut fields);
    let (reason, message) = if fields.is_empty() {
        (reasons::ACCEPTED, "The configuration is in use.".to_owned())
    } else {
        let named = list(&fields, CONFIGURATION_FIELDS_MAX);
        (
            "FieldsIgnored",
            format!(
                "The configuration is in use. Without effect, because Weir is its own data plane: {named}."
            ),
        )
    };
    let findings = if fields.is_empty() {
        Vec::new()
    } else {
        vec![Finding::info("spec", "FieldsIgnored", message.clone())]
    };
    let condition = Condition::new(types::ACCEPTED, true, reason, message, configuration.metadata.generation);
    (GatewayConfigurationStatus { conditions: vec![condition] }, findings)
}

/// Paths of the fields that are set, at most `depth` below `path`.
fn leaves(path: &str, value: &serde_json::Value, depth: usize, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Null => {}
        serde_json::Value::Object(fields) if depth > 0 => {
            let mut names: Vec<_> = fields.iter().collect();
            names.sort_by_key(|(name, _)| name.as_str());
            for (name, value) in names {
                leaves(&format!("{path}.{name}"), value, depth - 1, out);
            }
        }
        serde_json::Value::Object(fields) if fields.is_empty() => {}
        _ => out.push(path.to_owned()),
    }
}
