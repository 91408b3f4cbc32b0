//! Session persistence as configured (GEP-1619). Tokens, and who holds them, are the proxy's.

use std::time::Duration;

use crate::resource::SessionPersistence;
use crate::rewrite::check_name;

/// How the requests of one session are kept with one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Of the cookie or the header.
    pub name: Box<str>,
    pub carrier: SessionCarrier,
    /// A session ends this long after it began, however busy.
    pub absolute_timeout: Option<Duration>,
    /// A session ends after this long without a request.
    pub idle_timeout: Option<Duration>,
}

/// What carries a session's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionCarrier {
    /// A cookie that the browser forgets when it is closed.
    SessionCookie,
    /// A cookie that it keeps until the absolute time-out.
    PermanentCookie,
    Header,
}

impl Session {
    pub(crate) fn compile(source: &SessionPersistence) -> Result<Session, String> {
        // RFC 6265 section 4.1.1: the name of a cookie is a token, as that of a header.
        check_name(&source.name).map_err(|error| format!("session persistence: {error}"))?;
        let timeout = |milliseconds: u64| (milliseconds != 0).then(|| Duration::from_millis(milliseconds));
        Ok(Session {
            name: source.name.as_str().into(),
            carrier: match (source.header, source.permanent) {
                (true, _) => SessionCarrier::Header,
                (false, true) => SessionCarrier::PermanentCookie,
                (false, false) => SessionCarrier::SessionCookie,
            },
            absolute_timeout: timeout(source.absolute_timeout_ms),
            idle_timeout: timeout(source.idle_timeout_ms),
        })
    }
}
