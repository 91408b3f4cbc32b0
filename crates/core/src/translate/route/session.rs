//! Session persistence, of rules and of policies.

use weir_api::condition::reasons;
use weir_api::gateway_api::{CookieLifetimeType, SessionPersistence as ApiSession, SessionPersistenceType};
use weir_model::resource::SessionPersistence;

use super::matching::is_token;
use super::rule::milliseconds;
use crate::translate::finding::Finding;

/// `None` with a fault. The name is empty where the spec has none: whoever knows what the session is for gives it one.
pub(in crate::translate) fn translate(
    spec: &ApiSession,
    field: &str,
    faults: &mut Vec<Finding>,
) -> Option<SessionPersistence> {
    let before = faults.len();
    let mut fault = |at: &str, message: String| {
        faults.push(Finding::error(format!("{field}.{at}"), reasons::UNSUPPORTED_VALUE, message));
    };
    let name = spec.session_name.clone().unwrap_or_default();
    if !name.is_empty() && !is_token(&name) {
        fault("sessionName", format!("{name:?} is neither a cookie's nor a header's name"));
    }
    let header = match &spec.type_ {
        SessionPersistenceType::Cookie => false,
        SessionPersistenceType::Header => true,
        SessionPersistenceType::Unknown(other) => {
            fault("type", format!("type {other:?} is not supported"));
            false
        }
    };
    let cookie = spec.cookie_config.clone().unwrap_or_default();
    let permanent = match &cookie.lifetime_type {
        CookieLifetimeType::Session => false,
        CookieLifetimeType::Permanent => true,
        CookieLifetimeType::Unknown(other) => {
            fault("cookieConfig.lifetimeType", format!("lifetimeType {other:?} is not supported"));
            false
        }
    };
    if permanent && spec.absolute_timeout.is_none() {
        fault("absoluteTimeout", "a permanent cookie needs an absoluteTimeout".to_owned());
    }
    let absolute =
        milliseconds(spec.absolute_timeout.as_deref(), &format!("{field}.absoluteTimeout"), faults);
    let idle = milliseconds(spec.idle_timeout.as_deref(), &format!("{field}.idleTimeout"), faults);
    (faults.len() == before).then(|| SessionPersistence {
        name,
        header,
        absolute_timeout_ms: absolute.unwrap_or(0),
        idle_timeout_ms: idle.unwrap_or(0),
        permanent: permanent && !header,
    })
}

/// The name of a session that its owner gave none: one for each thing that has sessions, so that two do not overwrite
/// each other's.
pub(in crate::translate) fn default_name(identity: &str) -> String {
    format!("weir-session-{:016x}", super::fnv1a(identity.as_bytes()))
}
