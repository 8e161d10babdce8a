//! Typed ids: digests and numbers that must never be mistaken for one another.

use std::{fmt, str::FromStr};

use crate::NameError;

macro_rules! octets_type {
    ($(#[$doc:meta])* $type:ident, $field:literal, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type([u8; $len]);

        impl $type {
            /// Wraps the octets.
            pub const fn new(octets: [u8; $len]) -> Self {
                Self(octets)
            }

            /// Takes the octets from a slice.
            ///
            /// # Errors
            /// Refuses any other length.
            pub fn from_slice(octets: &[u8]) -> Result<Self, NameError> {
                <[u8; $len]>::try_from(octets).map(Self).map_err(|_| {
                    let problem = format!("has {} octets, {} are needed", octets.len(), $len);
                    NameError::new($field, "", problem)
                })
            }

            /// The octets.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let refuse = || NameError::new($field, text, concat!("is not ", $len, " octets in hexadecimal digits"));
                if text.len() != 2 * $len || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(refuse());
                }
                let mut octets = [0; $len];
                for (octet, at) in octets.iter_mut().zip((0..).step_by(2)) {
                    *octet = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| refuse())?;
                }
                Ok(Self(octets))
            }
        }
    };
}

octets_type!(
    /// SHA-256 of the issuing key's SubjectPublicKeyInfo (DER): names the key that signed a certificate.
    IssuerKeyId, "issuer key id", 32
);
octets_type!(
    /// SHA-256 of a subject's SubjectPublicKeyInfo (DER).
    SpkiHash, "public key hash", 32
);
octets_type!(
    /// SHA-256 of a whole certificate (DER).
    CertHash, "certificate hash", 32
);
octets_type!(
    /// What an agent calls one request, so that a lost reply can be asked for again.
    RequestId, "request id", 16
);

/// One life of an agent's name: the ledger index of the record that attested it. A new join token under an old name
/// makes a new instance; a ban strikes one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentInstance(pub u64);

impl fmt::Display for AgentInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_other_lengths() {
        let hash = SpkiHash::new([0xab; 32]);
        assert_eq!(hash.to_string().parse::<SpkiHash>().unwrap(), hash);
        for bad in ["", "ab", &"g".repeat(64), &"é".repeat(32), &"+f".repeat(32)] {
            assert!(bad.parse::<SpkiHash>().is_err(), "{bad:?}");
        }
        assert!(RequestId::from_slice(&[0; 15]).is_err());
    }
}
