//! The trust domain: the authority part of a SPIFFE ID (SPIFFE-ID standard, section 2.1).

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::{NameError, SpiffeId, limits::TRUST_DOMAIN_BYTES_MAX};

const FIELD: &str = "trust domain";

/// A trust domain name: 1 to 255 bytes of `[a-z0-9._-]`. It is never treated differently for looking like a DNS name
/// or an IPv4 address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses the bare name, such as `example.org`.
    ///
    /// # Errors
    /// Refuses an empty or over-long name and any character outside the set; upper case is refused, not folded.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::new(
                FIELD,
                text,
                "is empty; write a name such as example.org",
            ));
        }
        if text.len() > TRUST_DOMAIN_BYTES_MAX {
            let problem = format!("is {} bytes long, the limit is {TRUST_DOMAIN_BYTES_MAX}", text.len());
            return Err(NameError::new(FIELD, text, problem));
        }
        if let Some(bad) = text
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_'))
        {
            let problem = if bad.is_ascii_uppercase() {
                "has an upper-case letter; trust domains are written in lower case".to_owned()
            } else {
                format!("has the character {bad:?}; allowed are a-z 0-9 . - _")
            };
            return Err(NameError::new(FIELD, text, problem));
        }
        Ok(Self(text.into()))
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for `test` and names below it (RFC 6761, section 6.2): only there may CA keys lie in clear.
    pub fn is_test(&self) -> bool {
        &*self.0 == "test" || self.0.ends_with(".test")
    }

    /// The trust domain's own SPIFFE ID, which has no path.
    pub fn id(&self) -> SpiffeId {
        SpiffeId::of_domain(self)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_standard_shapes() {
        for good in ["example.org", "a_b.c-1", "1.2.3.4", "x", "dev.test"] {
            assert_eq!(TrustDomain::parse(good).unwrap().as_str(), good);
        }
        assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
    }

    #[test]
    fn refuses_what_the_standard_refuses() {
        for bad in [
            "",
            "Example.org",
            "a:1",
            "user@a",
            "[::1]",
            "a/b",
            "a b",
            "a%20b",
            "bücher.example",
            "а.example",
        ] {
            assert!(TrustDomain::parse(bad).is_err(), "{bad:?}");
        }
        assert!(TrustDomain::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn only_names_below_test_are_test_domains() {
        assert!(TrustDomain::parse("dev.test").unwrap().is_test());
        assert!(!TrustDomain::parse("contest").unwrap().is_test());
        assert!(!TrustDomain::parse("test.example").unwrap().is_test());
    }
}
