//! Filters, checked and ready to run, in the order in which they apply.
//!
//! What they do to paths, locations and headers is in [`crate::rewrite`], what sharing between origins means in [`crate::cors`].
//! Here is what refers to other backends ([`Mirror`], [`ExternalAuth`]).
//!
//! Invariants: a filter is never skipped. One that cannot be used, or is of a kind that this release does not know, answers the request
//! ([`CompiledFilter::Invalid`], and [`ExternalAuth`] without a backend), and the other rules of its route go on. The one exception is the
//! API's: a mirror without a backend leaves the request alone.

use std::sync::Arc;

use crate::cors::Cors;
use crate::resource::{self, Filter, FilterKind};
use crate::rewrite::{HeaderEdits, Redirect, Rewrite, check_name};
use crate::split::{LayoutCache, Split, SplitSpec};
use crate::table::{BackendState, RuleContext, Target};

#[derive(Clone)]
pub enum CompiledFilter {
    RequestHeaders(HeaderEdits),
    ResponseHeaders(HeaderEdits),
    Redirect(Redirect),
    Rewrite(Rewrite),
    Mirror(Mirror),
    Cors(Arc<Cors>),
    ExternalAuth(Arc<ExternalAuth>),
    /// Cannot be used, and why: requests that come to it are answered 500.
    Invalid(Box<str>),
}

/// Copies of requests to another backend.
#[derive(Clone)]
pub struct Mirror {
    /// Of the backend.
    pub key: Arc<str>,
    /// Without a backend there is nothing to do.
    pub target: Target,
    /// `None`: every request is copied.
    fraction: Option<Arc<Split>>,
}

/// Another server that is asked before a request may pass.
#[derive(Clone)]
pub struct ExternalAuth {
    /// Of the backend.
    pub key: Arc<str>,
    /// Without a backend every request is refused.
    pub target: Target,
    pub protocol: AuthProtocol,
    /// Lower case. HTTP: sent beside those that always are. gRPC: what is sent, empty for all.
    pub allowed_request_headers: Box<[Box<str>]>,
    /// Bytes of the request's body that are sent along, more of it is refused; `None`: no body is sent.
    pub max_body_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthProtocol {
    Http {
        /// Put before the request's path; empty for none.
        path: Box<str>,
        /// Lower case: headers of the answer that go into the request. Empty: all but `host` and hop-by-hop ones.
        allowed_response_headers: Box<[Box<str>]>,
    },
    /// Envoy's `ext_authz`.
    Grpc,
}

impl CompiledFilter {
    /// Whether it does more than change a head or redirect.
    pub(crate) fn acts(&self) -> bool {
        match self {
            CompiledFilter::Mirror(_)
            | CompiledFilter::Cors(_)
            | CompiledFilter::ExternalAuth(_)
            | CompiledFilter::Invalid(_) => true,
            CompiledFilter::RequestHeaders(_)
            | CompiledFilter::ResponseHeaders(_)
            | CompiledFilter::Redirect(_)
            | CompiledFilter::Rewrite(_) => false,
        }
    }
}

impl Mirror {
    pub fn backend(&self) -> Option<&Arc<BackendState>> {
        self.target.backend()
    }

    /// Whether the next request is copied: of `d` in a row that begin at a multiple of `d`, exactly `n` are. Takes a ticket of the
    /// mirror's own sequence, which all workers share; to be asked once for each request.
    #[inline]
    pub fn wants_copy(&self) -> bool {
        self.fraction
            .as_ref()
            .is_none_or(|fraction| fraction.next().is_some_and(|choice| choice.backend == 0))
    }
}

impl ExternalAuth {
    pub fn backend(&self) -> Option<&Arc<BackendState>> {
        self.target.backend()
    }
}

/// What filters are compiled in.
pub(crate) struct FilterContext<'a> {
    pub(crate) rule: &'a RuleContext<'a>,
    /// The route's `<namespace>/<name>`.
    pub(crate) route: &'a str,
    /// The rule's filters as they were before an edit.
    pub(crate) before: Vec<&'a CompiledFilter>,
}

/// The reason of a filter of an unknown kind, in the API's words.
const UNSUPPORTED: &str = "UnsupportedValue";

/// Checks and prepares filters.
pub(crate) fn compile_filters(
    sources: &[Filter],
    context: &FilterContext<'_>,
) -> Result<Box<[CompiledFilter]>, String> {
    let compile = |source: &Filter| match source.kind {
        // A newer release wrote it.
        None => Ok(CompiledFilter::Invalid(UNSUPPORTED.into())),
        Some(_) => compile_filter(source, context),
    };
    sources.iter().map(compile).collect()
}

/// Whether a filter can be compiled; the error says which part cannot. An update with such a filter would be rejected for the
/// same reason.
pub fn check_filter(source: &Filter) -> Result<(), String> {
    let layouts = LayoutCache::default();
    let rule = RuleContext { seed: 0, epoch: 0, layouts: &layouts, backend: &|_| None };
    compile_filter(source, &FilterContext { rule: &rule, route: "", before: Vec::new() }).map(|_| ())
}

fn compile_filter(source: &Filter, context: &FilterContext<'_>) -> Result<CompiledFilter, String> {
    Ok(match &source.kind {
        Some(FilterKind::RequestHeaderModifier(edits)) => {
            CompiledFilter::RequestHeaders(HeaderEdits::compile(edits)?)
        }
        Some(FilterKind::ResponseHeaderModifier(edits)) => {
            CompiledFilter::ResponseHeaders(HeaderEdits::compile(edits)?)
        }
        Some(FilterKind::RequestRedirect(redirect)) => CompiledFilter::Redirect(Redirect::compile(redirect)?),
        Some(FilterKind::UrlRewrite(rewrite)) => CompiledFilter::Rewrite(Rewrite::compile(rewrite)?),
        Some(FilterKind::RequestMirror(mirror)) => CompiledFilter::Mirror(compile_mirror(mirror, context)?),
        Some(FilterKind::Cors(cors)) => CompiledFilter::Cors(Arc::new(Cors::compile(cors)?)),
        Some(FilterKind::ExternalAuth(auth)) => {
            CompiledFilter::ExternalAuth(Arc::new(compile_auth(auth, context.rule)?))
        }
        Some(FilterKind::Invalid(reason)) => CompiledFilter::Invalid(reason.as_str().into()),
        None => return Err("a filter of a kind that is not known to this release".to_owned()),
    })
}

fn compile_mirror(source: &resource::RequestMirror, context: &FilterContext<'_>) -> Result<Mirror, String> {
    let (copied, of) = (source.numerator, source.denominator);
    if copied > of || of == 0 {
        return Err(format!("{copied} of {of} requests cannot be mirrored"));
    }
    // The route's name keeps mirrors apart whose identities are equal by mistake.
    let identity = format!("{}\0mirror\0{}", context.route, source.split_identity);
    let backends = [Arc::from(identity.as_str()), Arc::from("")];
    let weights = [copied, of - copied];
    let kept = context.before.iter().find_map(|filter| match filter {
        CompiledFilter::Mirror(Mirror { fraction: Some(split), .. }) if split.is_of(&backends, &weights) => {
            Some(split.clone())
        }
        _ => None,
    });
    let fraction = match kept {
        _ if copied == of => None,
        Some(kept) => Some(kept),
        None => {
            let spec = SplitSpec {
                seed: context.rule.seed,
                identity: &identity,
                epoch: context.rule.epoch,
                backends: &backends,
                weights: &weights,
            };
            Some(Arc::new(Split::fraction(&spec, context.rule.layouts)))
        }
    };
    Ok(Mirror {
        key: Arc::from(source.backend_key.as_str()),
        target: context.rule.target(&source.backend_key, ""),
        fraction,
    })
}

fn compile_auth(source: &resource::ExternalAuth, context: &RuleContext<'_>) -> Result<ExternalAuth, String> {
    let names = |names: &[String]| -> Result<Box<[Box<str>]>, String> {
        names.iter().map(|name| check_name(name).map(|()| name.to_ascii_lowercase().into())).collect()
    };
    if source.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'?' || byte == b'#') {
        return Err(format!("the path {:?} has a character that does not belong there", source.path));
    }
    Ok(ExternalAuth {
        key: Arc::from(source.backend_key.as_str()),
        target: context.target(&source.backend_key, &source.invalid_reason),
        protocol: if source.grpc {
            AuthProtocol::Grpc
        } else {
            AuthProtocol::Http {
                path: source.path.as_str().into(),
                allowed_response_headers: names(&source.allowed_response_headers)?,
            }
        },
        allowed_request_headers: names(&source.allowed_request_headers)?,
        max_body_bytes: (source.max_body_bytes != 0).then_some(source.max_body_bytes),
    })
}

/// The backends that a filter goes to, with what they were found to be.
pub(crate) fn target(filter: &CompiledFilter) -> Option<(&str, &Target)> {
    match filter {
        CompiledFilter::Mirror(mirror) => Some((&mirror.key, &mirror.target)),
        CompiledFilter::ExternalAuth(auth) => Some((&auth.key, &auth.target)),
        CompiledFilter::RequestHeaders(_)
        | CompiledFilter::ResponseHeaders(_)
        | CompiledFilter::Redirect(_)
        | CompiledFilter::Rewrite(_)
        | CompiledFilter::Cors(_)
        | CompiledFilter::Invalid(_) => None,
    }
}

/// Keys of the backends that filters name.
pub(crate) fn backend_keys(filters: &[Filter]) -> impl Iterator<Item = &str> {
    filters.iter().filter_map(|filter| match filter.kind.as_ref()? {
        FilterKind::RequestMirror(mirror) => Some(mirror.backend_key.as_str()),
        FilterKind::ExternalAuth(auth) => Some(auth.backend_key.as_str()),
        FilterKind::RequestHeaderModifier(_)
        | FilterKind::ResponseHeaderModifier(_)
        | FilterKind::RequestRedirect(_)
        | FilterKind::UrlRewrite(_)
        | FilterKind::Cors(_)
        | FilterKind::Invalid(_) => None,
    })
}
