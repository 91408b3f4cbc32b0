//! GatewayParameters, and the limits of both of Weir's own kinds.
//!
//! Invariants: what cannot be used of an object is left out and told, the rest holds; of two objects (a class's and a Gateway's)
//! the Gateway's wins field by field; a key is read only from a Secret that says that it holds session keys.
//!
//! Deliberately absent: who may use an object (whoever can name it), and what a limit does (the data plane's).

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use weir_api::condition::{Condition, reasons, types};
use weir_api::core_v1::{SESSION_KEY_SECRET_TYPE, Secret};
use weir_api::duration;
use weir_api::gateway_api::ParentReference;
use weir_api::weir::{
    AccessLogMode, GatewayParameters, GatewayParametersStatus, LimitFields, ParametersAncestor,
    SecretKeyReference,
};
use weir_model::limits::{LimitRow, Limits, Side, Unit};
use weir_model::network::Network;
use weir_model::resource::{self, Body, LimitSetting, Networks, Parameters, SessionKey};

use super::finding::{Finding, summary};
use super::reading::{Reading, Unknown};
use crate::objects::{Kind, Object, ObjectKey, Presence};

/// Bytes of a session key (AES-256).
const SESSION_KEY_BYTES: usize = 32;

/// What an object says, as far as it can be used.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    limits: BTreeMap<&'static str, u64>,
    trusted_proxies: Option<Vec<String>>,
    access_log: Option<resource::AccessLogMode>,
    /// Newest first.
    session_keys: Option<Vec<SessionKey>>,
}

/// An object, read.
pub(super) struct Read {
    pub(super) settings: Settings,
    /// Why not all of it can be used.
    pub(super) faults: Vec<Finding>,
    /// A Secret that it names has not been seen yet; the reading knows which.
    pub(super) pending: bool,
}

pub(super) fn read(key: &ObjectKey, object: &GatewayParameters, reading: &mut Reading<'_>) -> Read {
    let spec = &object.spec;
    let mut faults = Vec::new();
    let mut settings = Settings::default();
    for setting in limits(Side::Gateway, &spec.limits, &mut faults) {
        settings.limits.extend(Limits::row(&setting.name).map(|row| (row.name, setting.value)));
    }
    settings.trusted_proxies = spec.trusted_proxies.as_ref().map(|list| networks(list, &mut faults));
    settings.access_log = spec.access_log.as_ref().and_then(|log| match &log.mode {
        AccessLogMode::Off => Some(resource::AccessLogMode::Off),
        AccessLogMode::Errors => Some(resource::AccessLogMode::Errors),
        AccessLogMode::All => Some(resource::AccessLogMode::All),
        other => {
            let message = format!("{:?} is none of Off, Errors and All", other.as_str());
            faults.push(Finding::error("spec.accessLog.mode", reasons::INVALID, message));
            None
        }
    });
    let mut pending = false;
    if let Some(references) = &spec.session_key_secret_refs {
        let made_by = reading.refer_from(key);
        let keys = session_keys(key, references, reading, &mut faults, &mut pending);
        reading.refer_as(made_by);
        settings.session_keys = Some(keys).filter(|keys| !keys.is_empty());
    }
    Read { settings, faults, pending }
}

impl Settings {
    /// These, and where they say nothing those of `class`.
    pub(super) fn over(&self, class: &Settings) -> Settings {
        let mut limits = class.limits.clone();
        limits.extend(&self.limits);
        Settings {
            limits,
            trusted_proxies: self.trusted_proxies.clone().or_else(|| class.trusted_proxies.clone()),
            access_log: self.access_log.or(class.access_log),
            session_keys: self.session_keys.clone().or_else(|| class.session_keys.clone()),
        }
    }

    /// How long a data plane may take to end: it goes on accepting, then lets requests finish.
    pub(super) fn drain(&self) -> Duration {
        let setting = |(name, value): (&&str, &u64)| LimitSetting { name: (*name).to_owned(), value: *value };
        let settings: Vec<LimitSetting> = self.limits.iter().map(setting).collect();
        let limits = Limits::default().with(Side::Gateway, &settings);
        limits.drain_delay.saturating_add(limits.drain_timeout)
    }

    /// As listeners carry it; `None` when nothing is said.
    pub(super) fn resource(&self) -> Option<Parameters> {
        let setting = |(name, value): (&&str, &u64)| LimitSetting { name: (*name).to_owned(), value: *value };
        let keys = self.session_keys.iter().flatten();
        (*self != Settings::default()).then(|| Parameters {
            limits: self.limits.iter().map(setting).collect(),
            trusted_proxies: self.trusted_proxies.clone().map(|networks| Networks { networks }),
            access_log: self.access_log.unwrap_or(resource::AccessLogMode::Inherited).into(),
            session_keys: keys.map(|key| key.key.clone()).collect(),
        })
    }

    /// The keys that the resource names.
    pub(super) fn bodies(&self) -> impl Iterator<Item = (String, Body)> {
        let keys = self.session_keys.iter().flatten();
        keys.map(|key| (key.key.clone(), Body::SessionKey(key.clone())))
    }
}

/// The limits that are set, in the order of the table.
pub(super) fn limits(side: Side, fields: &LimitFields, faults: &mut Vec<Finding>) -> Vec<LimitSetting> {
    let mut settings = Vec::new();
    for row in Limits::table() {
        let Some(path) = row.field(side) else { continue };
        let Some(written) = fields.get(path) else { continue };
        match value(row, written) {
            Ok(value) => settings.push(LimitSetting { name: row.name.to_owned(), value }),
            Err(message) => faults.push(Finding::error(format!("spec.{path}"), reasons::INVALID, message)),
        }
    }
    settings
}

/// What is written for a limit, in its unit.
fn value(row: &LimitRow, written: &serde_json::Value) -> Result<u64, String> {
    let number = match row.unit {
        Unit::Milliseconds => {
            let time = written.as_str().and_then(duration::parse);
            let time = time.and_then(|time| u64::try_from(time.as_millis()).ok());
            time.ok_or_else(|| format!("{written} is not a duration such as 1h30m, 10s or 500ms"))?
        }
        Unit::Bytes | Unit::Count => {
            written.as_u64().ok_or_else(|| format!("{written} is not a number of {}", row.unit.name()))?
        }
    };
    let LimitRow { least, most, unit, .. } = row;
    if number < *least || number > *most {
        return Err(format!("{written} is out of range: {least} to {most} ({})", unit.name()));
    }
    Ok(number)
}

fn networks(list: &[String], faults: &mut Vec<Finding>) -> Vec<String> {
    let mut good = Vec::with_capacity(list.len());
    for (index, text) in list.iter().enumerate() {
        match text.parse::<Network>() {
            Ok(_) => good.push(text.clone()),
            Err(error) => {
                let field = format!("spec.trustedProxies[{index}]");
                faults.push(Finding::error(field, reasons::INVALID, error.to_string()));
            }
        }
    }
    good
}

fn session_keys(
    key: &ObjectKey,
    references: &[SecretKeyReference],
    reading: &mut Reading<'_>,
    faults: &mut Vec<Finding>,
    pending: &mut bool,
) -> Vec<SessionKey> {
    let mut keys: Vec<SessionKey> = Vec::with_capacity(references.len());
    for (index, reference) in references.iter().enumerate() {
        let target = ObjectKey::new(Kind::Secret, key.namespace.clone(), reference.name.clone());
        let found = match reading.presence(&target, Unknown::Holds) {
            Presence::Unknown => {
                *pending = true;
                continue;
            }
            Presence::Absent => Err(format!("there is no {target}")),
            Presence::Present => match reading.objects.get(&target) {
                Some(Object::Secret(secret)) => session_key(secret, &reference.key)
                    .map_err(|why| format!("{target} cannot be used: {why}")),
                _ => Err(format!("there is no {target}")),
            },
        };
        match found {
            Ok(key) if keys.contains(&key) => {}
            Ok(key) => keys.push(key),
            Err(message) => {
                let field = format!("spec.sessionKeySecretRefs[{index}]");
                faults.push(Finding::error(field, reasons::INVALID, message));
            }
        }
    }
    keys
}

/// 32 bytes as they are, or as text in base64.
fn session_key(secret: &Secret, name: &str) -> Result<SessionKey, String> {
    if secret.type_ != SESSION_KEY_SECRET_TYPE {
        return Err(format!("its type is {:?}, not {SESSION_KEY_SECRET_TYPE}", secret.type_));
    }
    let written = secret.session_keys.get(name).ok_or_else(|| format!("it has no {name:?}"))?;
    let no_base64 = |_| format!("{name:?} is not in base64");
    let mut bytes = STANDARD.decode(written).map_err(no_base64)?;
    if bytes.len() != SESSION_KEY_BYTES {
        bytes = STANDARD.decode(bytes.trim_ascii()).unwrap_or_default();
    }
    if bytes.len() != SESSION_KEY_BYTES {
        return Err(format!("{name:?} is neither {SESSION_KEY_BYTES} bytes nor the base64 of as many"));
    }
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(SessionKey { key: format!("sessionkey/{hash}"), bytes })
}

/// `users`: the Gateways and GatewayClasses that refer to the object, each with its controller.
pub(super) fn status(
    generation: i64,
    read: &Read,
    users: Vec<(ObjectKey, String)>,
) -> GatewayParametersStatus {
    let (holds, reason, message) = match (read.faults.is_empty(), users.is_empty()) {
        (false, _) => (false, reasons::INVALID, summary(&read.faults)),
        (true, false) => (true, reasons::ACCEPTED, "The parameters are in use.".to_owned()),
        (true, true) => {
            (true, reasons::ACCEPTED, "The parameters are valid; nobody refers to them.".to_owned())
        }
    };
    let ancestor = |(key, controller_name): (ObjectKey, String)| ParametersAncestor {
        ancestor_ref: ParentReference {
            kind: key.kind.as_str().to_owned(),
            namespace: Some(key.namespace).filter(|namespace| !namespace.is_empty()),
            name: key.name,
            ..ParentReference::default()
        },
        controller_name,
    };
    GatewayParametersStatus {
        ancestors: users.into_iter().map(ancestor).collect(),
        conditions: vec![Condition::new(types::ACCEPTED, holds, reason, message, generation)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(json: serde_json::Value) -> LimitFields {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn limits_are_read_by_the_table_and_faults_name_their_field() {
        let mut faults = Vec::new();
        let written = fields(json!({
            "requests": {"headBytes": 4096, "headTimeout": "2s", "headerCount": 4, "bodyTimeout": 5, "lineBytes": null},
            "http2": {"streams": 7}, "else": 1}));
        let set = limits(Side::Gateway, &written, &mut faults);
        let set: Vec<(&str, u64)> = set.iter().map(|one| (one.name.as_str(), one.value)).collect();
        assert_eq!(set, [("head_bytes", 4096), ("header_read_timeout", 2_000), ("http2_streams", 7)]);
        let told: Vec<(&str, &str)> =
            faults.iter().map(|one| (one.field.as_str(), one.message.as_str())).collect();
        assert_eq!(
            told,
            [
                ("spec.requests.headerCount", "4 is out of range: 8 to 128 (count)"),
                ("spec.requests.bodyTimeout", "5 is not a duration such as 1h30m, 10s or 500ms"),
            ]
        );
        let of_backend = limits(Side::Backend, &written, &mut Vec::new());
        assert_eq!(of_backend, [LimitSetting { name: "upstream_http2_streams".into(), value: 7 }]);
    }

    #[test]
    fn a_gateways_word_goes_before_its_classs_field_by_field() {
        let class = Settings {
            limits: [("head_bytes", 1), ("idle_timeout", 2)].into(),
            trusted_proxies: Some(vec!["10.0.0.0/8".into()]),
            access_log: Some(resource::AccessLogMode::All),
            session_keys: None,
        };
        let own = Settings {
            limits: [("head_bytes", 3)].into(),
            trusted_proxies: Some(Vec::new()),
            ..Settings::default()
        };
        let both = own.over(&class);
        assert_eq!(both.limits, [("head_bytes", 3), ("idle_timeout", 2)].into());
        assert_eq!(both.trusted_proxies, Some(Vec::new()), "an empty list is a word, too");
        assert_eq!(both.access_log, Some(resource::AccessLogMode::All));
        assert!(Settings::default().over(&Settings::default()).resource().is_none());
    }

    #[test]
    fn a_session_key_is_32_bytes_of_a_secret_that_says_so() {
        let secret = |type_: &str, value: &[u8]| Secret {
            type_: type_.to_owned(),
            session_keys: [("key".to_owned(), STANDARD.encode(value))].into(),
            ..Secret::default()
        };
        let raw = session_key(&secret(SESSION_KEY_SECRET_TYPE, &[7; 32]), "key").unwrap();
        assert_eq!(raw.bytes, [7; 32]);
        let text = format!("{}\n", STANDARD.encode([7; 32]));
        let text = session_key(&secret(SESSION_KEY_SECRET_TYPE, text.as_bytes()), "key").unwrap();
        assert_eq!(text, raw, "the same key in both forms");
        for (type_, value, name) in [
            ("Opaque", &[7; 32][..], "key"),
            (SESSION_KEY_SECRET_TYPE, &[7; 31], "key"),
            (SESSION_KEY_SECRET_TYPE, b"", "key"),
            (SESSION_KEY_SECRET_TYPE, &[7; 32], "other"),
        ] {
            assert!(session_key(&secret(type_, value), name).is_err());
        }
    }
}
