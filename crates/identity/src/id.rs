//! The SPIFFE ID: `spiffe://trust-domain/path` (SPIFFE-ID standard, sections 2 and 2.2), parsed without normalising.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::{AgentName, NameError, ReplicaName, TrustDomain, limits::SPIFFE_ID_BYTES_MAX};

const FIELD: &str = "SPIFFE ID";
const SCHEME: &str = "spiffe://";

/// First path segment kept for agents and CA replicas; no registration entry may ask for it.
pub const RESERVED_SEGMENT: &str = "mintage";

/// A SPIFFE ID. The path is empty (the trust domain itself) or starts with `/` and has only valid segments.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    path_at: u16,
}

/// Who a reserved SPIFFE ID belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// `/mintage/agent/<name>`.
    Agent(AgentName),
    /// `/mintage/ca/<replica>`.
    Ca(ReplicaName),
    /// Below `/mintage/` but of no known shape: never issued.
    Unknown,
}

impl SpiffeId {
    /// Parses a whole SPIFFE ID.
    ///
    /// # Errors
    /// Refuses any other scheme (an upper-case one included), user information, a port, a query, a fragment,
    /// percent-encoding, empty and dot segments, a trailing slash, and more than 2,048 bytes.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > SPIFFE_ID_BYTES_MAX {
            let problem = format!("is {} bytes long, the limit is {SPIFFE_ID_BYTES_MAX}", text.len());
            return Err(NameError::new(FIELD, text, problem));
        }
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Err(NameError::new(
                FIELD,
                text,
                "does not start with spiffe:// (in lower case)",
            ));
        };
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        TrustDomain::parse(domain)
            .map_err(|inner| NameError::new(FIELD, text, format!("has a bad trust domain: {inner}")))?;
        check_path(text, path)?;
        // The length limit above keeps this well inside u16.
        Ok(Self {
            text: text.into(),
            path_at: (SCHEME.len() + domain.len()) as u16,
        })
    }

    /// Parses an ID that a workload may carry: one with a path, outside the reserved namespace.
    ///
    /// # Errors
    /// As [`SpiffeId::parse`], and for an empty path or a path below `/mintage/`.
    pub fn parse_workload(text: &str) -> Result<Self, NameError> {
        let id = Self::parse(text)?;
        if id.path().is_empty() {
            return Err(NameError::new(
                FIELD,
                text,
                "has no path; a workload needs one, such as /web",
            ));
        }
        if id.reserved().is_some() {
            return Err(NameError::new(
                FIELD,
                text,
                "is below /mintage, which is kept for agents and CA replicas",
            ));
        }
        Ok(id)
    }

    /// The ID of a trust domain itself.
    pub(crate) fn of_domain(domain: &TrustDomain) -> Self {
        let text = format!("{SCHEME}{domain}");
        Self {
            path_at: text.len() as u16,
            text: text.into(),
        }
    }

    /// The ID of the agent `name`: `spiffe://<td>/mintage/agent/<name>`.
    pub fn agent(domain: &TrustDomain, name: &AgentName) -> Self {
        Self::joined(domain, "agent", name.as_str())
    }

    /// The ID of the CA replica `name`: `spiffe://<td>/mintage/ca/<name>`.
    pub fn replica(domain: &TrustDomain, name: &ReplicaName) -> Self {
        Self::joined(domain, "ca", name.as_str())
    }

    fn joined(domain: &TrustDomain, kind: &str, name: &str) -> Self {
        let path_at = (SCHEME.len() + domain.as_str().len()) as u16;
        Self {
            text: format!("{SCHEME}{domain}/{RESERVED_SEGMENT}/{kind}/{name}").into(),
            path_at,
        }
    }

    /// The whole ID as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's name.
    pub fn trust_domain_str(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.path_at)]
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        // Parsed before: a valid ID holds a valid trust domain.
        TrustDomain::parse(self.trust_domain_str())
            .unwrap_or_else(|_| unreachable!("a SPIFFE ID holds a parsed trust domain"))
    }

    /// The path with its leading slash, or the empty string.
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.path_at)..]
    }

    /// The path's segments in order.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    /// True when the ID belongs to `domain`.
    pub fn is_member_of(&self, domain: &TrustDomain) -> bool {
        self.trust_domain_str() == domain.as_str()
    }

    /// Whose reserved ID this is, or `None` for IDs outside `/mintage`.
    pub fn reserved(&self) -> Option<Reserved> {
        let mut segments = self.segments();
        if segments.next() != Some(RESERVED_SEGMENT) {
            return None;
        }
        let (kind, name, more) = (segments.next(), segments.next(), segments.next());
        Some(match (kind, name, more) {
            (Some("agent"), Some(name), None) => AgentName::parse(name).map_or(Reserved::Unknown, Reserved::Agent),
            (Some("ca"), Some(name), None) => ReplicaName::parse(name).map_or(Reserved::Unknown, Reserved::Ca),
            _ => Reserved::Unknown,
        })
    }
}

fn check_path(text: &str, path: &str) -> Result<(), NameError> {
    for segment in path.split('/').skip(1) {
        if segment.is_empty() {
            let problem = "has an empty path segment or a trailing slash; write /a/b";
            return Err(NameError::new(FIELD, text, problem));
        }
        if segment == "." || segment == ".." {
            return Err(NameError::new(FIELD, text, "has a . or .. path segment"));
        }
        check_segment(FIELD, text, segment)?;
    }
    Ok(())
}

/// Checks one path segment's characters (SPIFFE-ID, section 2.2); `field` and `text` are for the error alone.
pub(crate) fn check_segment(field: &'static str, text: &str, segment: &str) -> Result<(), NameError> {
    match segment
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_'))
    {
        None => Ok(()),
        Some(bad) => Err(NameError::new(
            field,
            text,
            format!("has the character {bad:?}; allowed are a-z A-Z 0-9 . - _"),
        )),
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_good_ids_byte_for_byte() {
        for good in [
            "spiffe://example.org",
            "spiffe://example.org/a",
            "spiffe://1.2.3.4/A/b.c-d_e/...",
        ] {
            assert_eq!(SpiffeId::parse(good).unwrap().as_str(), good);
        }
        let id = SpiffeId::parse("spiffe://example.org/a/b").unwrap();
        assert_eq!((id.trust_domain_str(), id.path()), ("example.org", "/a/b"));
        assert_eq!(id.segments().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn refuses_upper_case_domain_and_scheme() {
        assert!(SpiffeId::parse("spiffe://Example.org/a").is_err());
        assert!(SpiffeId::parse("SPIFFE://example.org/a").is_err());
    }

    #[test]
    fn refuses_slash_and_dot_games() {
        for bad in ["/a/", "//a", "/a//b", "/./a", "/../a", "/a/..", "/"] {
            assert!(SpiffeId::parse(&format!("spiffe://example.org{bad}")).is_err(), "{bad}");
        }
        assert!(SpiffeId::parse_workload("spiffe://example.org").is_err());
    }

    #[test]
    fn refuses_encodings_and_control_characters() {
        for bad in [
            "%2e%2e",
            "%61",
            "%00",
            "\0",
            "\n",
            " ",
            "\t",
            "é",
            "\u{202e}a",
            "а",
            "a?b",
            "a#b",
            "a:b",
            "a@b",
        ] {
            assert!(
                SpiffeId::parse(&format!("spiffe://example.org/{bad}")).is_err(),
                "{bad:?}"
            );
        }
        for bad in [
            "spiffe://user@example.org/a",
            "spiffe://example.org:80/a",
            "spiffe://example.org?x",
            "spiffe://[::1]/a",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn length_limit_is_2048_bytes() {
        let base = "spiffe://example.org/";
        let fits = format!("{base}{}", "a".repeat(2048 - base.len()));
        assert!(SpiffeId::parse(&fits).is_ok());
        assert!(SpiffeId::parse(&format!("{fits}a")).is_err());
    }

    #[test]
    fn reserved_names_are_recognised_and_kept_from_workloads() {
        let td = TrustDomain::parse("example.org").unwrap();
        let name = AgentName::parse("n1").unwrap();
        let agent = SpiffeId::agent(&td, &name);
        assert_eq!(agent.as_str(), "spiffe://example.org/mintage/agent/n1");
        assert_eq!(agent.reserved(), Some(Reserved::Agent(name)));
        assert_eq!(
            SpiffeId::parse("spiffe://example.org/mintage/x").unwrap().reserved(),
            Some(Reserved::Unknown)
        );
        assert!(
            SpiffeId::parse("spiffe://example.org/mintages/x")
                .unwrap()
                .reserved()
                .is_none()
        );
        assert!(SpiffeId::parse_workload("spiffe://example.org/mintage").is_err());
    }

    proptest! {
        #[test]
        fn never_panics_and_round_trips(text in "\\PC{0,80}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.as_str(), text.as_str());
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain_str(), id.path()), text);
            }
        }

        #[test]
        fn valid_segments_are_accepted(segments in proptest::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,8}", 1..6)) {
            let text = format!("spiffe://example.org/{}", segments.join("/"));
            let id = SpiffeId::parse(&text).unwrap();
            prop_assert_eq!(id.segments().collect::<Vec<_>>(), segments);
        }
    }
}
