//! Small JSON objects as request bodies: tenants, keys, users, logins.

use super::{
    body::{self, Media},
    dispatch::Call,
    error::{Code, FieldError, Problem},
    query::{nearest, shown},
};
use crate::model::tenant::TenantId;
use serde_json::{Map, Value};

/// A 422 about one field of the body.
pub fn invalid(field: &str, code: &'static str, message: impl Into<String>) -> Problem {
    let message = message.into();
    Problem::new(Code::InvalidBody, message.clone()).with_errors(vec![FieldError::new(field, code, message)])
}

/// A small JSON object from the body, with no field outside of `known`.
pub async fn object(call: Call, known: &[&str]) -> Result<Map<String, Value>, Problem> {
    /// More than any honest tenant object has.
    const LARGEST: usize = 64 << 10;
    let (media, encoding) = body::describe(&call.parts.headers)?;
    let mut settings = call.app.services.settings.clone();
    settings.max_body_bytes = settings.max_body_bytes.min(LARGEST);
    let name = call.caller.as_ref().and_then(|caller| caller.tenant.clone());
    // A platform admin without a tenant charges a share of its own; a tenant of that name would merely share it.
    let mut held = call.app.memory.hold(name.unwrap_or_else(|| TenantId::parse("platform").expect("a slug")));
    let bytes = body::receive(&call.parts.headers, call.body, &settings, &mut held).await?;
    let bytes = body::decode(bytes, encoding, &settings, &mut held)?;
    let (Media::Json | Media::Form) = body::settle_form(media, &bytes)? else {
        return Err(Problem::new(Code::UnsupportedMediaType, "send one object as application/json"));
    };
    let fields: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| {
        let place = format!("line {}, column {}", e.line(), e.column());
        Problem::body("malformed_json", format!("the body is no JSON object ({place}); nothing was changed"))
    })?;
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => {
            let name = shown(name);
            let nearest = nearest(name, known.iter().copied()).unwrap_or_default();
            let message = format!("`{name}` is no field here; the nearest known name is `{nearest}`");
            Err(invalid(name, "unknown_field", message))
        }
        None => Ok(fields),
    }
}
