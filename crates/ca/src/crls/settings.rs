//! What a configuration says of lists of revoked certificates.

use std::time::Duration;

use mintage_identity::parse_duration;

use crate::limits::{CRL_VALIDITY_MAX, CRL_VALIDITY_MIN};

/// How lists are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CrlSettings {
    /// From a list's making to its end.
    pub(crate) validity: Duration,
    /// Entries say why, where that is known.
    pub(crate) reasons: bool,
}

impl Default for CrlSettings {
    fn default() -> Self {
        Self {
            validity: Duration::from_secs(24 * 3600),
            reasons: false,
        }
    }
}

impl CrlSettings {
    /// Reads `ca.crl_validity`.
    pub(crate) fn parse_validity(text: &str) -> Result<Duration, String> {
        let validity = parse_duration("ca.crl_validity", text).map_err(|error| error.to_string())?;
        match (CRL_VALIDITY_MIN..=CRL_VALIDITY_MAX).contains(&validity) {
            true => Ok(validity),
            false => Err(format!(
                "ca.crl_validity: {text} is out of range; allowed are 10m to 168h"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validity_out_of_range_is_refused_with_the_range() {
        for good in ["10m", "24h", "168h"] {
            CrlSettings::parse_validity(good).unwrap();
        }
        for bad in ["599s", "169h"] {
            let told = CrlSettings::parse_validity(bad).unwrap_err();
            assert!(
                told.contains("ca.crl_validity") && told.contains("10m to 168h"),
                "{told}"
            );
        }
        CrlSettings::parse_validity("soon").unwrap_err();
    }
}
