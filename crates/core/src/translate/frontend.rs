//! `spec.tls.frontend` of a Gateway: by which authorities the clients of a port are judged.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_api::condition::reasons;
use weir_api::gateway_api::{FrontendTlsConfig, FrontendValidationModeType, TlsConfig};
use weir_model::resource::{CaBundle, ClientValidation};

use super::finding::Finding;
use super::grant::Referrer;
use super::reading::Reading;
use super::tls::{Followed, Materials};

/// What holds for the HTTPS listeners of each port.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Frontend {
    default: Option<PortValidation>,
    ports: BTreeMap<i32, Option<PortValidation>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct PortValidation {
    pub(super) validation: ClientValidation,
    /// The first reference that leads to no authorities.
    pub(super) problem: Option<(&'static str, String)>,
}

impl Frontend {
    pub(super) fn of_port(&self, port: i32) -> Option<&PortValidation> {
        self.ports.get(&port).unwrap_or(&self.default).as_ref()
    }
}

/// What the API says about a reading of the spec.
pub(super) struct Read {
    pub(super) frontend: Frontend,
    pub(super) used: Vec<Arc<CaBundle>>,
    pub(super) findings: Vec<Finding>,
    /// Fields that let clients without a valid certificate pass.
    pub(super) insecure: Vec<String>,
}

/// Reads `spec.tls.frontend`, following its references.
pub(super) fn read(
    spec: Option<&FrontendTlsConfig>,
    referrer: &Referrer<'_>,
    materials: &mut Materials,
    reading: &mut Reading<'_>,
) -> Read {
    let mut read =
        Read { frontend: Frontend::default(), used: Vec::new(), findings: Vec::new(), insecure: Vec::new() };
    let Some(spec) = spec else {
        return read;
    };
    read.frontend.default =
        config(&spec.default, "spec.tls.frontend.default", referrer, materials, reading, &mut read);
    for (index, entry) in spec.per_port.iter().enumerate() {
        let field = format!("spec.tls.frontend.perPort[{index}].tls");
        let validation = config(&entry.tls, &field, referrer, materials, reading, &mut read);
        read.frontend.ports.entry(entry.port).or_insert(validation);
    }
    read
}

fn config(
    config: &TlsConfig,
    field: &str,
    referrer: &Referrer<'_>,
    materials: &mut Materials,
    reading: &mut Reading<'_>,
    read: &mut Read,
) -> Option<PortValidation> {
    let spec = config.validation.as_ref()?;
    let field = format!("{field}.validation");
    let insecure_fallback = match &spec.mode {
        FrontendValidationModeType::AllowInsecureFallback => true,
        FrontendValidationModeType::AllowValidOnly => false,
        FrontendValidationModeType::Unknown(mode) => {
            let message = format!("mode {mode:?} is not known; only valid certificates are let through");
            read.findings.push(Finding::warning(
                format!("{field}.mode"),
                reasons::UNSUPPORTED_VALUE,
                message,
            ));
            false
        }
    };
    if insecure_fallback {
        read.insecure.push(format!("{field}.mode"));
    }
    let mut validation = ClientValidation { ca_bundles: Vec::new(), insecure_fallback };
    let mut problem = None;
    for (index, reference) in spec.ca_certificate_refs.iter().enumerate() {
        let (reason, message) = match materials.authorities(reference, referrer, reading) {
            Followed::Found(bundle) => {
                if !validation.ca_bundles.contains(&bundle.key) {
                    validation.ca_bundles.push(bundle.key.clone());
                    read.used.push(bundle);
                }
                continue;
            }
            // The Gateway as a whole is held back, so nobody sees this.
            Followed::Pending => continue,
            Followed::WrongKind(message) => (reasons::INVALID_CA_CERTIFICATE_KIND, message),
            Followed::NotPermitted(message) => (reasons::REF_NOT_PERMITTED, message),
            Followed::Unusable(message) => (reasons::INVALID_CA_CERTIFICATE_REF, message),
        };
        let field = format!("{field}.caCertificateRefs[{index}]");
        read.findings.push(Finding::error(field, reason, message.clone()));
        problem.get_or_insert((reason, message));
    }
    if spec.ca_certificate_refs.is_empty() {
        let message = "there is no authority: caCertificateRefs is empty".to_owned();
        problem = Some((reasons::INVALID_CA_CERTIFICATE_REF, message));
    }
    Some(PortValidation { validation, problem })
}
