//! GatewayClass, and the parameters that it refers to.

use weir_api::condition::{Condition, reasons, types};
use weir_api::gateway_api::{GatewayClass, GatewayClassStatus, ParametersReference, SupportedFeature};
use weir_api::kong::{GatewayConfiguration, GatewayConfigurationStatus, OPERATOR_GROUP};
use weir_api::weir::{GATEWAY_PARAMETERS, WEIR_GROUP};

use super::finding::{Finding, list};
use super::parameters::{self, Settings};
use super::reading::{Reading, Unknown};
use crate::objects::{Kind, ObjectKey, Presence};
use crate::output::ClassKind;

/// What a class of ours means to its Gateways.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ClassView {
    pub(super) controller: String,
    pub(super) kind: ClassKind,
    pub(super) verdict: Verdict,
    /// What its parameters say, as far as they can be used.
    pub(super) settings: Settings,
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
    let (verdict, settings) = bound(class.spec.parameters_ref.as_deref(), None, reading);
    Some(ClassView { controller: class.spec.controller_name.clone(), kind, verdict, settings })
}

/// Whether an object with parameters can be used, and what of it can. `namespace` is the one that the reference is confined to, if it is.
pub(super) fn bound(
    reference: Option<&ParametersReference>,
    namespace: Option<&str>,
    reading: &mut Reading<'_>,
) -> (Verdict, Settings) {
    let Some(reference) = reference else {
        return (Verdict::Accepted, Settings::default());
    };
    let rejected = |why| (Verdict::Rejected(why), Settings::default());
    let ParametersReference { group, kind, name, namespace: named } = reference;
    let kind = match (group.as_str(), kind.as_str()) {
        (WEIR_GROUP, GATEWAY_PARAMETERS) => Kind::GatewayParameters,
        (OPERATOR_GROUP, "GatewayConfiguration") => Kind::GatewayConfiguration,
        _ => {
            return rejected(format!(
                "parametersRef is of kind {kind:?} in group {group:?}; Weir reads {GATEWAY_PARAMETERS} of {WEIR_GROUP} and \
                 GatewayConfiguration of {OPERATOR_GROUP}"
            ));
        }
    };
    let Some(namespace) = namespace.or(named.as_deref()).filter(|namespace| !namespace.is_empty()) else {
        return rejected(format!("parametersRef needs a namespace, because a {kind} is in one"));
    };
    let key = ObjectKey::new(kind, namespace, name);
    match reading.presence(&key, Unknown::Holds) {
        Presence::Present => {}
        Presence::Unknown => return (Verdict::Pending, Settings::default()),
        Presence::Absent => return rejected(format!("parametersRef: there is no {key}")),
    }
    let Some(object) = reading.objects.gateway_parameters(&key) else {
        return (Verdict::Accepted, Settings::default());
    };
    let read = parameters::read(&key, object, reading);
    let verdict = match read.faults.first() {
        _ if read.pending => Verdict::Pending,
        None => Verdict::Accepted,
        // The rest is in the object's own status.
        Some(Finding { field, message, .. }) => {
            Verdict::Rejected(format!("parametersRef: {key} is not valid: {field}: {message}"))
        }
    };
    (verdict, read.settings)
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
/// Kong's; those under none of `meant` have no meaning here, which is said and not refused.
pub(super) fn configuration_status(
    configuration: &GatewayConfiguration,
    meant: &[&str],
) -> (GatewayConfigurationStatus, Vec<Finding>) {
    let mut fields = Vec::new();
    leaves("spec", &configuration.spec, CONFIGURATION_DEPTH, meant, &mut fields);
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

/// Paths of the fields that are set, at most `depth` below `path` or as deep as those of `meant` go, which are left out.
fn leaves(path: &str, value: &serde_json::Value, depth: usize, meant: &[&str], out: &mut Vec<String>) {
    let is_above = |field: &&str| field.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    match value {
        serde_json::Value::Null => {}
        _ if meant.contains(&path) => {}
        serde_json::Value::Object(fields) if depth > 0 || meant.iter().any(is_above) => {
            let mut names: Vec<_> = fields.iter().collect();
            names.sort_by_key(|(name, _)| name.as_str());
            for (name, value) in names {
                leaves(&format!("{path}.{name}"), value, depth.saturating_sub(1), meant, out);
            }
        }
        serde_json::Value::Object(fields) if fields.is_empty() => {}
        _ => out.push(path.to_owned()),
    }
}
