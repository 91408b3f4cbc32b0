//! Questions that are asked by creating an object which is never stored: who am I, may I, is this token good.
//!
//! Owns: the review kinds. There is one administrator, and service accounts that may do nothing, so the answers are short;
//! RBAC objects are kept and not consulted.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::auth::{MASTERS, User};
use crate::error::ApiResult;
use crate::object;
use crate::rest::encode::Reply;
use crate::rest::{Api, Call, write};
use crate::schema;

/// The answer when the call asks a question of these kinds.
pub(crate) fn answer(api: &Api, call: &Call, body: &Bytes) -> ApiResult<Option<Reply>> {
    let question = match call.resource.group.as_str() {
        "authentication.k8s.io" | "authorization.k8s.io" => write::decode_any(call, body)?,
        _ => return Ok(None),
    };
    schema::check_kind(call, &question)?;
    let status = match call.resource.plural.as_str() {
        "selfsubjectreviews" => json!({"userInfo": user_info(&call.user)}),
        "tokenreviews" => {
            let audiences = object::array(&question, "/spec/audiences").iter().filter_map(Value::as_str);
            let audiences: Vec<String> = audiences.map(str::to_owned).collect();
            token_review(api, object::text(&question, "/spec/token"), &audiences)
        }
        "selfsubjectaccessreviews" => access(call.user.may_do_everything()),
        "selfsubjectrulesreviews" => rules(call.user.may_do_everything()),
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let groups = object::array(&question, "/spec/groups");
            access(
                object::text(&question, "/spec/user") == User::admin().name
                    || groups.iter().any(|group| group == MASTERS),
            )
        }
        _ => return Ok(None),
    };
    let mut review = json!({
        "kind": call.resource.kind,
        "apiVersion": call.api_version(),
        "metadata": {"creationTimestamp": null},
    });
    if let Some(spec) = question.get("spec") {
        review["spec"] = spec.clone();
    }
    review["status"] = status;
    Ok(Some(Reply::Value(StatusCode::CREATED, review)))
}

/// A user as reviews and admission policies show one.
pub(crate) fn user_info(user: &User) -> Value {
    json!({"username": user.name, "groups": user.groups})
}

fn token_review(api: &Api, token: &str, audiences: &[String]) -> Value {
    // The administrator's token says nothing of an audience, so it is for the server alone.
    if audiences.is_empty() && api.token().matches(token) {
        return json!({"authenticated": true, "user": user_info(&User::admin())});
    }
    match api.service_account_of(token, audiences) {
        Ok((user, audiences)) => {
            json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
        }
        Err(why) => json!({"user": {}, "error": why}),
    }
}

fn access(allowed: bool) -> Value {
    json!({"allowed": allowed})
}

fn rules(everything: bool) -> Value {
    if !everything {
        return json!({"resourceRules": [], "nonResourceRules": [], "incomplete": false});
    }
    json!({
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        "incomplete": false,
    })
}
