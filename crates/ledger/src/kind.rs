//! What a record is about: one kind for each body, its name, and whether it restricts.

use std::{fmt, str::FromStr};

use crate::{LedgerError, wire::record::Body};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $tag:literal $name:literal,)*) => {
        /// The kind of a record. The number is the field of the body in `record.proto`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[$doc])* $kind = $tag,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The kind of a body.
            pub fn of(body: &Body) -> Self {
                match body {
                    $(Body::$kind(_) => Self::$kind,)*
                }
            }

            /// The name, such as `entry.put`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// The kind whose body has this field number in `record.proto`.
            pub const fn from_tag(tag: u32) -> Option<Self> {
                match tag {
                    $($tag => Some(Self::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// A certificate was issued.
    Issue 16 "issue",
    /// An authenticated caller was refused.
    Deny 17 "deny",
    /// Certificates were revoked.
    Revoke 18 "revoke",
    /// An entry was created or changed.
    EntryPut 19 "entry.put",
    /// An entry was deleted.
    EntryDelete 20 "entry.delete",
    /// A join token was made.
    TokenCreate 21 "token.create",
    /// A join token was used, and its agent attested.
    TokenConsume 22 "token.consume",
    /// A join token was withdrawn.
    TokenDelete 23 "token.delete",
    /// An agent was attested without a join token.
    AgentAttest 24 "agent.attest",
    /// An agent instance was banned.
    AgentBan 25 "agent.ban",
    /// An agent instance was removed.
    AgentEvict 26 "agent.evict",
    /// A key of the certificate authority changed its state.
    CaEvent 27 "ca.event",
    /// The trust bundle changed.
    BundleChange 28 "bundle.change",
    /// An administrator did something else.
    AdminEvent 29 "admin.event",
    /// An agent saw certificates in use.
    SeenReport 30 "seen.report",
    /// A witness cosigned, came, went or disagreed.
    WitnessEvent 31 "witness.event",
    /// A shard begins.
    LogOpen 32 "log.open",
    /// A clean stop.
    LogClose 33 "log.close",
    /// A JWT-SVID was issued.
    IssueJwt 34 "issue.jwt",
    /// A signed snapshot of the revoked set was published.
    RevocationSnapshot 35 "revocation.snapshot",
    /// The bundle of another trust domain was taken.
    BundleFederatedSet 36 "bundle.federated.set",
    /// The bundle of another trust domain is not trusted any longer.
    BundleFederatedRemove 37 "bundle.federated.remove",
}

impl Kind {
    /// True for control records: all that change the state of entries, agents, tokens, keys, bundle or revocations.
    pub const fn is_control(self) -> bool {
        !matches!(
            self,
            Self::Issue
                | Self::IssueJwt
                | Self::Deny
                | Self::AdminEvent
                | Self::SeenReport
                | Self::RevocationSnapshot
                | Self::WitnessEvent
                | Self::LogOpen
                | Self::LogClose
        )
    }

    /// True when every record of the kind takes away something that an earlier decision may have relied on. An
    /// `entry.put` does so only when it replaces a revision.
    pub const fn restricts(self) -> bool {
        matches!(
            self,
            Self::Revoke
                | Self::AgentBan
                | Self::AgentEvict
                | Self::EntryDelete
                | Self::TokenConsume
                | Self::TokenDelete
                | Self::CaEvent
                | Self::BundleChange
                | Self::BundleFederatedSet
                | Self::BundleFederatedRemove
        )
    }
}

/// True when a record with this body is restricting: what was decided before it has to be decided again.
pub(crate) fn is_restricting(body: &Body) -> bool {
    match body {
        Body::EntryPut(put) => put.replaces_revision != 0,
        other => Kind::of(other).restricts(),
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let found = Self::ALL.iter().find(|kind| kind.name() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            LedgerError::format("record kind", format!("{text:?} is none of {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags_round_trip() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Kind>().unwrap(), *kind);
            assert_eq!(Kind::from_tag(*kind as u32), Some(*kind));
        }
        assert_eq!(Kind::from_tag(15), None);
        assert!("entry".parse::<Kind>().is_err());
    }
}
