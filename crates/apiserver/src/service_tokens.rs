//! Tokens of service accounts: asked for (`serviceaccounts/token`), and known again by `TokenReview`.
//!
//! Invariants: a token is kept as its hash only; it counts for its audiences, until it expires, and while the service account that it was
//! asked for exists (another one of the same name is another one). Deliberately absent: the form of a JWT, and permissions: a
//! service account may do nothing here.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::auth::{Token, User};
use crate::clock::seconds_text;
use crate::error::ApiResult;
use crate::object;
use crate::rest::encode::Reply;
use crate::rest::{Api, Call, write};

/// What a token is for if nothing is said.
const DEFAULT_AUDIENCE: &str = "https://kubernetes.default.svc";

/// How long a token lives. Unit: seconds. Source: kube-apiserver: an hour by default, at least ten minutes.
const DEFAULT_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;

/// Tokens that are known at a time; the first to expire make room. Unit: tokens. Source: ours.
const TOKENS_MAX: usize = 10_000;

struct Issued {
    namespace: String,
    name: String,
    uid: String,
    audiences: Vec<String>,
    expires: Timestamp,
}

/// Those that were issued, by hash.
#[derive(Default)]
pub(crate) struct ServiceTokens {
    issued: Mutex<BTreeMap<[u8; 32], Issued>>,
}

impl Api {
    /// A token for the service account that the call names.
    pub(crate) fn issue_token(&self, call: &Call, body: &Bytes) -> ApiResult<Reply> {
        let request = write::decode_any(call, body)?;
        let account = self.find(&call.about_resource(&call.namespace, &call.name))?;
        let asked = object::array(&request, "/spec/audiences").iter().filter_map(Value::as_str);
        let mut audiences: Vec<String> = asked.map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.push(DEFAULT_AUDIENCE.to_owned());
        }
        let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
        let seconds = seconds.unwrap_or(DEFAULT_SECONDS).clamp(LEAST_SECONDS, MOST_SECONDS);
        let now = self.clock.now();
        let expires = now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        let token = Token::random();
        let issued = Issued {
            namespace: call.namespace.clone(),
            name: call.name.clone(),
            uid: object::meta_str(&account.value, "uid").to_owned(),
            audiences: audiences.clone(),
            expires,
        };
        self.service_tokens.add(token.reveal(), issued, now);
        Ok(Reply::Value(
            StatusCode::CREATED,
            json!({
                "kind": "TokenRequest",
                "apiVersion": "authentication.k8s.io/v1",
                "metadata": {"name": call.name, "namespace": call.namespace},
                "spec": {"audiences": audiences, "expirationSeconds": seconds},
                "status": {"token": token.reveal(), "expirationTimestamp": seconds_text(expires)},
            }),
        ))
    }

    /// Whose token it is, and for which of the audiences (none: the server's own); else why it is not good.
    pub(crate) fn service_account_of(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<(User, Vec<String>), &'static str> {
        let issued = self.service_tokens.issued.lock();
        let Some(found) = issued.get(&hash(token)) else { return Err("invalid bearer token") };
        if found.expires <= self.clock.now() {
            return Err("token has expired");
        }
        let own = [DEFAULT_AUDIENCE.to_owned()];
        let asked = if audiences.is_empty() { &own[..] } else { audiences };
        let matching: Vec<String> =
            asked.iter().filter(|asked| found.audiences.contains(asked)).cloned().collect();
        if matching.is_empty() {
            return Err("token audiences are not valid for the target audiences");
        }
        let registry = self.registry();
        let account = registry
            .get("", "serviceaccounts")
            .and_then(|resource| self.store.get(&resource.id, &object::key(&found.namespace, &found.name)));
        if account.is_none_or(|account| object::meta_str(&account.value, "uid") != found.uid) {
            return Err("service account has been deleted");
        }
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", found.namespace),
            "system:authenticated".to_owned(),
        ];
        let name = format!("system:serviceaccount:{}:{}", found.namespace, found.name);
        Ok((User { name, groups: groups.into() }, matching))
    }
}

impl ServiceTokens {
    fn add(&self, token: &str, one: Issued, now: Timestamp) {
        let mut issued = self.issued.lock();
        if issued.len() >= TOKENS_MAX {
            issued.retain(|_, one| one.expires > now);
        }
        if issued.len() >= TOKENS_MAX
            && let Some(first) = issued.iter().min_by_key(|(_, one)| one.expires).map(|(key, _)| *key)
        {
            issued.remove(&first);
        }
        issued.insert(hash(token), one);
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
