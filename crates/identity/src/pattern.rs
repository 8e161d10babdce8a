//! Patterns over SPIFFE IDs: which agents an entry is for, and which identities a revocation rule kills.

use std::{fmt, str::FromStr};

use crate::{NameError, Reserved, SpiffeId};

/// A prefix on whole path segments: `spiffe://td/a/*` matches `/a/b` and `/a/b/c`, never `/a` or `/ab`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdPrefix(SpiffeId);

impl IdPrefix {
    /// Parses `spiffe://td/*` or `spiffe://td/a/*`.
    ///
    /// # Errors
    /// Refuses text that does not end in `/*` or whose stem is no SPIFFE ID.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some(stem) = text.strip_suffix("/*") else {
            return Err(NameError::new(
                "SPIFFE ID prefix",
                text,
                "does not end in /*; write spiffe://td/path/*",
            ));
        };
        SpiffeId::parse(stem).map(Self)
    }

    /// The ID before `/*`.
    pub fn stem(&self) -> &SpiffeId {
        &self.0
    }

    /// True when `id` lies below the stem, on whole segments.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        id.as_str()
            .strip_prefix(self.0.as_str())
            .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/*", self.0)
    }
}

impl fmt::Debug for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdPrefix({self})")
    }
}

impl FromStr for IdPrefix {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// The agents an entry is for: one agent's ID, or every agent below a prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentPattern {
    /// Exactly this agent.
    Exact(SpiffeId),
    /// Every agent whose ID lies below the prefix.
    Prefix(IdPrefix),
}

impl AgentPattern {
    /// Parses an agent's SPIFFE ID or a prefix ending in `/*`.
    ///
    /// # Errors
    /// Refuses what is neither, and an exact ID that is not `/mintage/agent/<name>`: it could never match.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.ends_with("/*") {
            return IdPrefix::parse(text).map(Self::Prefix);
        }
        let id = SpiffeId::parse(text)?;
        match id.reserved() {
            Some(Reserved::Agent(_)) => Ok(Self::Exact(id)),
            _ => Err(NameError::new(
                "agent pattern",
                text,
                "is no agent's ID; write spiffe://td/mintage/agent/NAME or a prefix ending in /*",
            )),
        }
    }

    /// True when the agent `id` is meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            Self::Prefix(prefix) => prefix.matches(id),
        }
    }

    /// The trust domain's name the pattern speaks of.
    pub fn trust_domain_str(&self) -> &str {
        match self {
            Self::Exact(id) => id.trust_domain_str(),
            Self::Prefix(prefix) => prefix.stem().trust_domain_str(),
        }
    }
}

impl fmt::Display for AgentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => id.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for AgentPattern {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_match_whole_segments_only() {
        let prefix = IdPrefix::parse("spiffe://td/a/*").unwrap();
        let matches = |text: &str| prefix.matches(&SpiffeId::parse(text).unwrap());
        assert!(matches("spiffe://td/a/b") && matches("spiffe://td/a/b/c"));
        assert!(!matches("spiffe://td/a") && !matches("spiffe://td/ab") && !matches("spiffe://other/a/b"));
        assert!(IdPrefix::parse("spiffe://td/a*").is_err());
        assert!(IdPrefix::parse("spiffe://td/../*").is_err());
        assert!(IdPrefix::parse("spiffe://td*").is_err());
        assert!(
            IdPrefix::parse("spiffe://td/*")
                .unwrap()
                .matches(&SpiffeId::parse("spiffe://td/x").unwrap())
        );
    }

    #[test]
    fn an_exact_pattern_must_be_an_agent() {
        assert!(AgentPattern::parse("spiffe://td/web").is_err());
        let exact = AgentPattern::parse("spiffe://td/mintage/agent/n1").unwrap();
        assert!(exact.matches(&SpiffeId::parse("spiffe://td/mintage/agent/n1").unwrap()));
        assert!(!exact.matches(&SpiffeId::parse("spiffe://td/mintage/agent/n10").unwrap()));
    }
}
