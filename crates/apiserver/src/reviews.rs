//! Questions that are asked by creating an object which is never stored: who am I, may I.
use bytes::Bytes;

use crate::error::ApiResult;
use crate::rest::encode::Reply;
use crate::rest::{Api, Call};

/// The answer when the call asks a question of these kinds.
pub(crate) fn answer(_api: &Api, _call: &Call, _body: &Bytes) -> ApiResult<Option<Reply>> {
    Ok(None)
}
