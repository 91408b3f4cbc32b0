//! Who has a token: asked of the API server, which alone knows.
//!
//! Invariants: a token counts for the data plane whose service account it is and for no other; an answer that does not say that the
//! token is for the controller's audience is a refusal. Deliberately absent: reading anything out of a token.

use serde_json::json;
use weir_model::resource::DataPlaneName;

use crate::call::{CallError, Caller, Collection};

const TOKEN_REVIEWS: Collection =
    Collection { group: "authentication.k8s.io", version: "v1", plural: "tokenreviews", namespaced: false };

/// The longest token that is asked about. Unit: bytes. Source: ours; those of Kubernetes have about 1,200.
const TOKEN_MAX: usize = 16 * 1024;

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the API server cannot be asked: {0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Refused(String),
}

/// Whether the token is that of the data plane's pods, made for `audience`.
pub(crate) async fn check(
    caller: &Caller,
    audience: &str,
    name: &DataPlaneName,
    token: &str,
) -> Result<(), TokenError> {
    let refused = |why: String| Err(TokenError::Refused(why));
    if token.is_empty() || token.len() > TOKEN_MAX {
        return refused(format!("a token has between 1 and {TOKEN_MAX} bytes"));
    }
    let question = json!({
        "apiVersion": TOKEN_REVIEWS.api_version(),
        "kind": "TokenReview",
        "metadata": {},
        "spec": {"token": token, "audiences": [audience]},
    });
    let review = caller.create(&TOKEN_REVIEWS.path("", ""), &question).await?;
    let status = &review["status"];
    if status["authenticated"] != true {
        let why = status["error"].as_str().unwrap_or("the API server does not know it");
        return refused(format!("the token is not good: {why}"));
    }
    let mut audiences = status["audiences"].as_array().into_iter().flatten();
    if !audiences.any(|one| one == audience) {
        return refused(format!("the token is not for the audience {audience:?}"));
    }
    let user = status["user"]["username"].as_str().unwrap_or_default();
    let wanted = name.service_account_user();
    if user != wanted {
        return refused(format!("the token is that of {user}, and data plane {name} is run by {wanted}"));
    }
    Ok(())
}
