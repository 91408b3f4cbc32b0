//! Where the authority is kept: one Secret, read by every controller, made and changed by the leader alone.
//!
//! Invariants: each write carries the version that was read; an authority that was once seen is put back should its Secret go or be
//! broken, since what it signed is in use; one that cannot be read is never written over by who has not seen another.
//!
//! Deliberately absent: when an authority changes (`authority`).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::KeyPair;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, AuthorityError, AuthorityPolicy};
use super::{Clock, Leadership};
use crate::backoff::Backoff;
use crate::call::{CallError, Caller, Collection, PatchKind};

/// How often the Secret is looked at. Unit: time. Source: ours; a rotation that somebody asks for begins so soon.
const LOOK: Duration = Duration::from_secs(10);

/// Between two looks when the first went wrong, or met somebody else's write.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where the authority is in the Secret, and where what is to be trusted is for those who look by hand.
const AUTHORITY: &str = "authority.json";
const TRUSTED: &str = "ca.crt";

/// By this annotation on the Secret a new authority is asked for.
const ROTATE: &str = "weir.dev/rotate-authority";

const SECRETS: Collection = Collection { group: "", version: "v1", plural: "secrets", namespaced: true };

/// An authority in use.
pub(crate) struct Live {
    pub(crate) authority: Authority,
    /// With which connections are accepted.
    pub(crate) server: Arc<ServerConfig>,
    /// When the controller's own certificate was issued.
    made: i64,
}

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    #[error("setting up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("there is none yet, and only the leader makes one")]
    NotMade,
}

pub(crate) struct Keeper {
    pub(crate) caller: Caller,
    pub(crate) namespace: String,
    pub(crate) secret: String,
    pub(crate) policy: AuthorityPolicy,
    pub(crate) clock: Clock,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) live: watch::Sender<Option<Arc<Live>>>,
    /// PEM.
    pub(crate) trusted: watch::Sender<Arc<str>>,
    /// Why there is nothing new; empty when all is well.
    pub(crate) problem: watch::Sender<String>,
}

impl Keeper {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(LOOK_AGAIN, LOOK);
        loop {
            // An API that does not answer must not hold up the end.
            let looked = tokio::select! {
                () = shutdown.cancelled() => return,
                looked = self.look() => looked,
            };
            let wait = match looked {
                Ok(()) => {
                    self.problem.send_if_modified(|problem| !std::mem::take(problem).is_empty());
                    backoff.reset();
                    LOOK
                }
                Err(error) => {
                    let text = format!("Secret {}/{}: {error}", self.namespace, self.secret);
                    let is_news = self.problem.send_if_modified(|problem| {
                        let is_news = *problem != text;
                        problem.clone_from(&text);
                        is_news
                    });
                    let is_conflict = matches!(&error, KeepError::Call(error) if error.is_conflict());
                    if is_news && !is_conflict && !matches!(error, KeepError::NotMade) {
                        tracing::warn!(secret = %text, "the authority of data planes is not in order; it is tried again");
                    }
                    if is_conflict || matches!(error, KeepError::NotMade) {
                        LOOK_AGAIN
                    } else {
                        backoff.next_wait()
                    }
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                changed = self.leadership.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Reads the Secret, and does to it what is due.
    async fn look(&mut self) -> Result<(), KeepError> {
        let leads = matches!(*self.leadership.borrow_and_update(), Leadership::Leader { .. });
        let now = self.clock.now();
        let known = self.live.borrow().as_ref().map(|live| live.authority.clone());
        let secret = match self.caller.get(&SECRETS.path(&self.namespace, &self.secret)).await {
            Ok(secret) => Some(secret),
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                // Our own certificate needs no API to follow its predecessor.
                if let Some(known) = known {
                    self.publish(known, now)?;
                }
                return Err(error.into());
            }
        };
        let Some(secret) = secret else {
            if !leads {
                return Err(KeepError::NotMade);
            }
            let authority = known.map_or_else(|| Authority::make(&self.policy, now), Ok)?;
            let object = self.object(&authority)?;
            self.caller.create(&SECRETS.path(&self.namespace, ""), &object).await?;
            return self.publish(authority, now);
        };
        let (kept, is_broken) = match (read(&secret), known) {
            (Ok(kept), _) => (kept, false),
            (Err(_), Some(known)) => (known, true),
            // Brought empty by the installation, so that it goes when that does.
            (Err(_), None) if is_empty(&secret) && leads => (Authority::make(&self.policy, now)?, true),
            (Err(_), None) if is_empty(&secret) => return Err(KeepError::NotMade),
            (Err(error), None) => return Err(error.into()),
        };
        if !leads {
            return self.publish(kept, now);
        }
        let is_wanted = secret.pointer("/metadata/annotations").is_some_and(|all| all.get(ROTATE).is_some());
        let after = kept.step(&self.policy, is_wanted, now)?;
        let is_changed = after.is_some() || is_broken || is_wanted;
        let authority = after.unwrap_or(kept);
        if is_changed {
            let mut patch = self.object(&authority)?;
            patch["metadata"]["resourceVersion"] = secret["metadata"]["resourceVersion"].clone();
            patch["metadata"]["annotations"] = json!({ ROTATE: null });
            self.caller.patch(&SECRETS.path(&self.namespace, &self.secret), PatchKind::Merge, &patch).await?;
        }
        self.publish(authority, now)
    }

    fn object(&self, authority: &Authority) -> Result<Value, KeepError> {
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.secret, "namespace": self.namespace},
            "type": "Opaque",
            "data": {
                AUTHORITY: BASE64.encode(authority.write()?),
                TRUSTED: BASE64.encode(authority.trusted()),
            },
        }))
    }

    /// Puts an authority in use; nothing happens where it is, with a certificate of ours that is young.
    fn publish(&self, authority: Authority, now: i64) -> Result<(), KeepError> {
        let half_life = i64::try_from(self.policy.certificate_lifetime.as_secs() / 2).unwrap_or(i64::MAX);
        let is_in_use = self
            .live
            .borrow()
            .as_ref()
            .is_some_and(|live| live.authority == authority && now.saturating_sub(live.made) < half_life);
        if is_in_use {
            return Ok(());
        }
        let server = Arc::new(server(&authority, &self.policy, &self.clock)?);
        let trusted = authority.trusted();
        self.live.send_replace(Some(Arc::new(Live { authority, server, made: now })));
        self.trusted.send_if_modified(|known| {
            let is_news = **known != *trusted;
            *known = Arc::from(trusted.as_str());
            is_news
        });
        Ok(())
    }
}

/// Nobody has put anything into it.
fn is_empty(secret: &Value) -> bool {
    secret["data"].as_object().is_none_or(serde_json::Map::is_empty)
}

fn read(secret: &Value) -> Result<Authority, AuthorityError> {
    let text = secret["data"][AUTHORITY].as_str().unwrap_or_default();
    let bytes = BASE64.decode(text).map_err(|error| AuthorityError::Form(error.to_string()))?;
    Authority::read(&bytes)
}

/// TLS with a new certificate of the controller's. Clients show a certificate, or none and a token later.
fn server(authority: &Authority, policy: &AuthorityPolicy, clock: &Clock) -> Result<ServerConfig, KeepError> {
    let key = KeyPair::generate().map_err(AuthorityError::from)?;
    let issued = authority.issue_controller(&key, policy, clock.now())?;
    let mut roots = RootCertStore::empty();
    for root in authority.roots() {
        roots.add(root)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(clock.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![issued.certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A ticket would carry a client's certificate past the end of the authority that signed it.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_the_api_a_controllers_own_certificate_has_a_successor() {
        let (policy, clock) = (AuthorityPolicy::default(), Clock::default());
        let now = clock.now();
        let authority = Authority::make(&policy, now).expect("an authority");
        let mut keeper = Keeper {
            caller: Caller::to_nobody(),
            namespace: "default".to_owned(),
            secret: "test-weir-authority".to_owned(),
            policy,
            clock: clock.clone(),
            leadership: watch::channel(Leadership::Caretaker { epoch: 7 }).1,
            live: watch::Sender::new(None),
            trusted: watch::Sender::new(Arc::from("")),
            problem: watch::Sender::new(String::new()),
        };
        assert!(keeper.look().await.is_err());
        assert!(keeper.live.borrow().is_none(), "there is nothing to sign with");
        let half_life = i64::try_from(policy.certificate_lifetime.as_secs() / 2).expect("a day");
        for (made, is_new) in [(now - half_life + 60, false), (now - half_life, true)] {
            let server = Arc::new(server(&authority, &policy, &clock).expect("a certificate"));
            keeper.live.send_replace(Some(Arc::new(Live { authority: authority.clone(), server, made })));
            assert!(keeper.look().await.is_err(), "the Secret could not be read");
            let live = keeper.live.borrow().clone().expect("it stays");
            assert_eq!(live.made > made, is_new);
            assert!(live.authority == authority);
        }
    }
}
