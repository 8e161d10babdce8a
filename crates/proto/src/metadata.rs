//! Metadata that no gRPC client sends. Neither the CA nor an agent reads such values; their gates refuse them, so that nothing
//! behind a gate ever has to.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Binary metadata comes with padding or without it (gRPC over HTTP/2, "Custom-Metadata").
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A header with a value that its name does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata {name}: base64 is taken under names ending in -bin, printable ASCII elsewhere")]
pub struct Garbled {
    name: HeaderName,
}

impl Garbled {
    /// The header's name.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }
}

/// Looks at every header of a call.
///
/// # Errors
/// Names the first whose value no gRPC client sends.
pub fn check_metadata(headers: &HeaderMap) -> Result<(), Garbled> {
    match headers.iter().find(|(name, value)| !is_sound(name, value)) {
        Some((name, _)) => Err(Garbled { name: name.clone() }),
        None => Ok(()),
    }
}

fn is_sound(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str().ends_with("-bin") {
        // Several values of one name may travel in one line.
        true => value
            .as_bytes()
            .split(|octet| *octet == b',')
            .all(|one| BASE64.decode(one.trim_ascii()).is_ok()),
        false => value.to_str().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_metadata_is_base64_and_the_rest_is_printable() {
        let sound = |name: &str, value: &[u8]| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_bytes(value).unwrap())]);
            let checked = check_metadata(&headers);
            assert!(checked.as_ref().is_ok() || checked.as_ref().unwrap_err().name() == name);
            checked.is_ok()
        };
        for good in ["", "AA", "AA==", "AAAA, AA ,AAA="] {
            assert!(sound("x-bin", good.as_bytes()), "{good:?}");
        }
        for bad in [b"A".as_slice(), b"!!!!", b"AA=A", b"\xff\xfe", b"AA;AA", b"A A"] {
            assert!(!sound("x-bin", bad), "{bad:?}");
        }
        assert!(sound("x-text", b"any ~ text\t") && !sound("x-text", b"caf\xe9"));
    }
}
