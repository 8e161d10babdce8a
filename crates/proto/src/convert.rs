//! Wire fields into identity types; a refusal names the field.

use mintage_identity::{IssuerKeyId, NameError, RequestId, Serial, SpiffeId};

/// A wire field that holds no valid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {source}")]
pub struct FieldError {
    field: &'static str,
    source: NameError,
}

impl FieldError {
    /// The field's name in the `.proto` file.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

fn named<T>(field: &'static str, parsed: Result<T, NameError>) -> Result<T, FieldError> {
    parsed.map_err(|source| FieldError { field, source })
}

/// Reads a SPIFFE ID.
///
/// # Errors
/// Refuses what is none, naming `field`.
pub fn spiffe_id(field: &'static str, text: &str) -> Result<SpiffeId, FieldError> {
    named(field, SpiffeId::parse(text))
}

/// Reads a serial in hexadecimal digits.
///
/// # Errors
/// Refuses what is none, naming `field`.
pub fn serial(field: &'static str, text: &str) -> Result<Serial, FieldError> {
    named(field, Serial::parse(text))
}

/// Reads a request id of 16 octets.
///
/// # Errors
/// Refuses any other length, naming `field`.
pub fn request_id(field: &'static str, octets: &[u8]) -> Result<RequestId, FieldError> {
    named(field, RequestId::from_slice(octets))
}

/// Reads an issuer key id of 32 octets.
///
/// # Errors
/// Refuses any other length, naming `field`.
pub fn issuer_key_id(field: &'static str, octets: &[u8]) -> Result<IssuerKeyId, FieldError> {
    named(field, IssuerKeyId::from_slice(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_field() {
        assert_eq!(request_id("request_id", &[0; 15]).unwrap_err().field(), "request_id");
        assert!(
            spiffe_id("spiffe_id", "http://x")
                .unwrap_err()
                .to_string()
                .starts_with("field spiffe_id: ")
        );
        assert!(serial("serial", "7f").is_ok());
        assert!(issuer_key_id("issuer", &[1; 32]).is_ok());
    }
}
