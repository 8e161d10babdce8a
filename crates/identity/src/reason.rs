//! Why a certificate was revoked (RFC 5280, section 5.3.1).

use std::{fmt, str::FromStr};

use crate::NameError;

/// A reason code of RFC 5280, section 5.3.1. `certificateHold` and `removeFromCRL` are left out: a revocation here is
/// never taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum RevocationReason {
    /// No reason given (0).
    #[default]
    Unspecified = 0,
    /// The subject's private key is known or believed to be known to others (1).
    KeyCompromise = 1,
    /// The issuing key is compromised (2).
    CaCompromise = 2,
    /// The subject's name or other facts changed (3).
    AffiliationChanged = 3,
    /// Replaced by another certificate (4).
    Superseded = 4,
    /// No longer needed, such as after tear-down (5).
    CessationOfOperation = 5,
    /// The subject may no longer do what the certificate says (9).
    PrivilegeWithdrawn = 9,
}

impl RevocationReason {
    /// Every reason, in the order of the codes.
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The code of RFC 5280.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this code, or `None` for codes not used here.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The name used on the command line, such as `key-compromise`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::CaCompromise => "ca-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RevocationReason {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|reason| reason.as_str()).collect();
                NameError::new("revocation reason", text, format!("is not one of {}", names.join(", ")))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for reason in RevocationReason::ALL {
            assert_eq!(RevocationReason::from_code(reason.code()), Some(reason));
            assert_eq!(reason.as_str().parse::<RevocationReason>().unwrap(), reason);
        }
        assert!(RevocationReason::from_code(6).is_none() && RevocationReason::from_code(8).is_none());
    }
}
