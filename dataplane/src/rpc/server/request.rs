//! From the bytes of a value to calls and back to the bytes of an answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use vda_spdk::code;

use crate::rpc::RpcError;

/// A value received.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Single(Incoming<'a>),
    /// Never empty.
    Batch(Vec<Incoming<'a>>),
}

/// A request, or what to answer because it is none.
pub(super) type Incoming<'a> = Result<Request<'a>, RpcError>;

#[derive(Debug)]
pub(super) struct Request<'a> {
    /// `None` for a notification, which is not answered.
    pub(super) id: Option<Value>,
    pub(super) method: String,
    pub(super) params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    jsonrpc: Option<Value>,
    method: Option<Value>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    id: Option<Value>,
}

/// Reads a value.
///
/// # Errors
/// It is not JSON.
pub(super) fn parse(bytes: &[u8]) -> serde_json::Result<Message<'_>> {
    let raw: &RawValue = serde_json::from_slice(bytes)?;
    if !raw.get().starts_with('[') {
        return Ok(Message::Single(request(raw)));
    }
    let elements: Vec<&RawValue> = serde_json::from_str(raw.get())?;
    if elements.is_empty() {
        return Ok(Message::Single(Err(invalid())));
    }
    Ok(Message::Batch(elements.into_iter().map(request).collect()))
}

fn invalid() -> RpcError {
    RpcError::new(code::INVALID_REQUEST, "Invalid request")
}

fn request(raw: &RawValue) -> Incoming<'_> {
    // A struct could be read from an array as well.
    if !raw.get().starts_with('{') {
        return Err(invalid());
    }
    let wire: Wire<'_> = serde_json::from_str(raw.get()).map_err(|_| invalid())?;
    let version_ok = wire.jsonrpc.is_none_or(|version| version == "2.0");
    let id_ok = matches!(wire.id, None | Some(Value::String(_) | Value::Number(_)));
    let params_ok = wire.params.is_none_or(|params| params.get().starts_with(['{', '[']));
    match wire.method {
        Some(Value::String(method)) if version_ok && id_ok && params_ok => {
            Ok(Request { id: wire.id, method, params: wire.params })
        }
        _ => Err(invalid()),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    jsonrpc: &'static str,
    id: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorObject<'a>>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    code: i64,
    message: &'a str,
}

/// The bytes of an answer, without the newline at its end.
pub(super) fn answer(id: Option<&Value>, outcome: &Result<Box<RawValue>, RpcError>) -> Vec<u8> {
    let (result, error) = match outcome {
        Ok(result) => (Some(&**result), None),
        Err(error) => (None, Some(ErrorObject { code: error.code, message: &error.message })),
    };
    // A RawValue and strings cannot fail to serialise.
    serde_json::to_vec(&Answer { jsonrpc: "2.0", id, result, error }).unwrap_or_default()
}
