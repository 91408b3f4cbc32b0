//! Filters that send something to another backend: RequestMirror and ExternalAuth.

use weir_api::condition::reasons;
use weir_api::gateway_api::{HttpExternalAuthFilter as ApiAuth, HttpRequestMirrorFilter as ApiMirror};
use weir_model::resource::{ExternalAuth, FilterKind, RequestMirror};

use super::filter::{Filters, check_name};
use super::matching::unsupported;
use super::rule::{RuleContext, resolved};
use crate::translate::backend::{self, Use, Wants};
use crate::translate::finding::Finding;
use crate::translate::reading::Reading;

/// A mirror whose reference leads nowhere is none: traffic goes on, and the status says so.
pub(super) fn mirror(
    mirror: &ApiMirror,
    field: &str,
    context: &RuleContext<'_>,
    reading: &mut Reading<'_>,
    out: &mut Filters,
) -> Result<Option<FilterKind>, Finding> {
    let share = |value: i32| u32::try_from(value).ok();
    let (numerator, denominator) = match (mirror.percent, &mirror.fraction) {
        (None, None) => (Some(1), Some(1)),
        (Some(percent), None) => (share(percent), Some(100)),
        (None, Some(fraction)) => (share(fraction.numerator), share(fraction.denominator)),
        (Some(_), Some(_)) => {
            return Err(unsupported(field, "percent and fraction cannot stand together".to_owned()));
        }
    };
    let (Some(numerator), Some(denominator)) = (numerator, denominator) else {
        return Err(unsupported(field, "a share cannot be negative".to_owned()));
    };
    if denominator == 0 || numerator > denominator {
        let message = format!("{numerator} of {denominator} is not a share");
        return Err(unsupported(field, message));
    }
    let at = format!("{field}.backendRef");
    match resolved(&(&mirror.backend_ref).into(), &context.uses(), &at, reading) {
        Err(finding) => {
            out.unresolved.push(finding);
            Ok(None)
        }
        Ok(None) => Ok(None),
        Ok(Some((service, port))) if numerator > 0 => {
            let backend_key = backend::key_of(&service, port);
            out.used.insert((service, port));
            Ok(Some(FilterKind::RequestMirror(RequestMirror {
                backend_key,
                numerator,
                denominator,
                split_identity: String::new(),
            })))
        }
        Ok(Some(_)) => Ok(None),
    }
}

/// Where the server cannot be asked every request is refused.
pub(super) fn auth(
    auth: &ApiAuth,
    field: &str,
    context: &RuleContext<'_>,
    reading: &mut Reading<'_>,
    out: &mut Filters,
) -> Result<FilterKind, Finding> {
    let grpc = match auth.protocol.as_str() {
        "HTTP" => false,
        "GRPC" => true,
        other => {
            let message = format!("protocol {other:?} is not supported; HTTP and GRPC are");
            return Err(unsupported(&format!("{field}.protocol"), message));
        }
    };
    let (path, request_headers, response_headers) = if grpc {
        let allowed = auth.grpc.as_ref().map(|grpc| grpc.allowed_headers.clone());
        (String::new(), ("grpc.allowedHeaders", allowed.unwrap_or_default()), Vec::new())
    } else {
        let http = auth.http.as_deref().cloned().unwrap_or_default();
        let path = http.path.unwrap_or_default();
        (path, ("http.allowedHeaders", http.allowed_headers), http.allowed_response_headers)
    };
    if path.bytes().any(|b| b <= b' ' || b == 0x7f) || !(path.is_empty() || path.starts_with('/')) {
        return Err(unsupported(&format!("{field}.http.path"), format!("{path:?} is not a path")));
    }
    let size = auth.forward_body.as_ref().and_then(|body| body.max_size).unwrap_or(0);
    let max_body_bytes = u64::try_from(size)
        .map_err(|_| unsupported(&format!("{field}.forwardBody.maxSize"), format!("{size} is not a size")))?;
    let mut filter = ExternalAuth {
        grpc,
        path,
        allowed_request_headers: lower(&format!("{field}.{}", request_headers.0), &request_headers.1)?,
        allowed_response_headers: lower(&format!("{field}.http.allowedResponseHeaders"), &response_headers)?,
        max_body_bytes,
        ..ExternalAuth::default()
    };
    let uses = Use { wants: if grpc { Wants::Grpc } else { Wants::Http }, ..context.uses() };
    match resolved(&(&auth.backend_ref).into(), &uses, &format!("{field}.backendRef"), reading) {
        Ok(Some((service, port))) => {
            filter.backend_key = backend::key_of(&service, port);
            out.used.insert((service, port));
        }
        Ok(None) => reasons::PENDING.clone_into(&mut filter.invalid_reason),
        Err(finding) => {
            filter.backend_key = backend::key(&(&auth.backend_ref).into(), &uses);
            finding.reason.clone_into(&mut filter.invalid_reason);
            out.unresolved.push(finding);
        }
    }
    Ok(FilterKind::ExternalAuth(filter))
}

/// Names of headers in lower case.
fn lower(field: &str, names: &[String]) -> Result<Vec<String>, Finding> {
    names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            check_name(name, &format!("{field}[{index}]")).map(|()| name.to_ascii_lowercase())
        })
        .collect()
}
