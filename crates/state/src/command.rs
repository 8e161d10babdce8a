//! What an operator or an agent wants, checked against a view: a record body to append, or a refusal with its reason.
//!
//! All of it is pure. A draft is only as good as the view it was made on: it is appended with that view's control index,
//! and made again when the ledger says that the control state has moved. Of two drafts that exclude each other the first
//! in the log wins; [`crate::View::ignored`] tells the other.

mod agents;
mod entries;
mod federated;
mod revoke;
mod tokens;

use mintage_identity::{AgentInstance, AgentName, EntryName, TrustDomain};
use mintage_policy::EntryError;

use crate::limits::{FEDERATED_NAME_BYTES_MAX, NOTE_BYTES_MAX};

pub use agents::{attest_again, ban_agent, evict_agent};
pub use entries::{
    EntryDrafts, Expected, PutOutcome, change_entries, delete_entry, disable_entries, plan_entries, put_entry,
};
pub use federated::{remove_federated, set_federated};
pub use revoke::{Resolved, RevokeRequest, Scope, cut_at, resolve, revoke};
pub use tokens::{TokenUse, consume_token, create_token, delete_token, token_by_prefix};

/// Whose fault a refusal is, for the edge that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalKind {
    /// The command cannot be right.
    Invalid,
    /// What it is about does not exist.
    NotFound,
    /// It does not fit what stands now; look again and decide again.
    Conflict,
    /// A limit is reached.
    Exhausted,
}

/// Why a command was refused. The text names the thing, the limit and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The entry itself is wrong.
    #[error("entry {name}: {error}")]
    Entry {
        /// The entry's name.
        name: EntryName,
        /// What is wrong.
        error: EntryError,
    },
    /// The entry asks for a longer lifetime than the server allows.
    #[error(
        "entry {name}: ttl: {asked} s is more than this server's limit of {limit} s; ask for less or raise ca.max_ttl"
    )]
    TtlTooLong {
        /// The entry's name.
        name: EntryName,
        /// Seconds asked for.
        asked: u32,
        /// Seconds allowed.
        limit: u32,
    },
    /// There is no such entry.
    #[error("there is no entry {0}")]
    NoEntry(EntryName),
    /// The entry is at another revision than was expected.
    #[error("entry {name} is at revision {found}, not {expected}; look at it again (revision 0: it does not exist)")]
    EntryMoved {
        /// The entry's name.
        name: EntryName,
        /// The revision expected; 0 for none.
        expected: u64,
        /// The revision that stands; 0 for none.
        found: u64,
    },
    /// Two entries would give the same identity to the same workload.
    #[error("entry {name} gives the same identity to the same workload as entry {other}; change or delete one")]
    Duplicate {
        /// The entry refused.
        name: EntryName,
        /// The entry in its way.
        other: EntryName,
    },
    /// An entry is named twice in one command.
    #[error("entry {0} is named twice in one command; name it once")]
    NamedTwice(EntryName),
    /// There is no such token.
    #[error("there is no such join token; see `mintage token list`")]
    NoToken,
    /// The beginning of a token's id fits several tokens.
    #[error("{0:?} is the beginning of several tokens; write more of it")]
    AmbiguousToken(String),
    /// There is such a token already.
    #[error("this join token exists already; make another")]
    TokenExists,
    /// The token was used.
    #[error("this join token was used; make another")]
    TokenUsed,
    /// The token's life is out of range.
    #[error("a join token lives {asked_seconds} s; allowed are {min_seconds} s to {max_seconds} s")]
    TokenLife {
        /// Seconds asked for.
        asked_seconds: u64,
        /// Seconds at least.
        min_seconds: u64,
        /// Seconds at most.
        max_seconds: u64,
    },
    /// There is no such agent.
    #[error("there is no agent {0}")]
    NoAgent(AgentName),
    /// Another instance of the agent is meant.
    #[error("agent {name} is instance {found} now, not {expected}; look at it again")]
    AgentMoved {
        /// The agent.
        name: AgentName,
        /// The instance named.
        expected: AgentInstance,
        /// The instance that stands.
        found: AgentInstance,
    },
    /// The agent may not act.
    #[error("agent {0} is banned or evicted; a new join token makes a new instance")]
    AgentEnded(AgentName),
    /// What is to be revoked belongs to another trust domain.
    #[error("{0} belongs to another trust domain; revoke it there")]
    ForeignIdentity(String),
    /// Nothing live is in the scope.
    #[error("no live certificate is in scope: {0}")]
    NothingLive(String),
    /// The own trust domain's bundle is the CA's to make.
    #[error("{0} is this CA's own trust domain; its bundle changes by itself")]
    OwnDomain(TrustDomain),
    /// The name of the trust domain could not be that of a file.
    #[error(
        "trust domain {0}: to federate with it, its name must begin with a letter or digit and have at most \
         {FEDERATED_NAME_BYTES_MAX} bytes, because agents write a file of that name"
    )]
    NoFileName(TrustDomain),
    /// The bundle would vouch for nothing.
    #[error("the bundle of {0} has neither a CA certificate nor a JWT key; to trust it no longer, remove it")]
    EmptyBundle(TrustDomain),
    /// There is no bundle of this trust domain.
    #[error("there is no bundle of trust domain {0}; see `mintage bundle federated list`")]
    NoFederated(TrustDomain),
    /// The document is older than the one that stands.
    #[error(
        "the bundle of {domain} has sequence {offered}, {held} stands; fetch the newest one, or remove what stands first if the \
         other side began anew"
    )]
    FederatedOlder {
        /// The trust domain.
        domain: TrustDomain,
        /// The sequence offered.
        offered: u64,
        /// The sequence that stands.
        held: u64,
    },
    /// Two documents of one sequence differ.
    #[error(
        "the bundle of {domain} has other keys than the one that stands, but the same sequence {sequence}; ask the other side \
         which is right, and remove what stands first if it is this one"
    )]
    FederatedDiffers {
        /// The trust domain.
        domain: TrustDomain,
        /// The sequence of both.
        sequence: u64,
    },
    /// A limit is reached.
    #[error("{what}: {found}, the limit is {limit}; {remedy}")]
    TooMany {
        /// What is limited.
        what: &'static str,
        /// How many there would be.
        found: usize,
        /// The limit.
        limit: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// An operator's text is not one plain line.
    #[error("{what} must be one line of at most {NOTE_BYTES_MAX} bytes without control characters")]
    Note {
        /// Which text.
        what: &'static str,
    },
}

impl Refusal {
    /// Whose fault it is.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::Entry { .. }
            | Self::TtlTooLong { .. }
            | Self::NamedTwice(_)
            | Self::AmbiguousToken(_)
            | Self::TokenLife { .. }
            | Self::ForeignIdentity(_)
            | Self::OwnDomain(_)
            | Self::NoFileName(_)
            | Self::EmptyBundle(_)
            | Self::Note { .. } => RefusalKind::Invalid,
            Self::NoEntry(_) | Self::NoToken | Self::NoAgent(_) | Self::NothingLive(_) | Self::NoFederated(_) => {
                RefusalKind::NotFound
            }
            Self::EntryMoved { .. }
            | Self::Duplicate { .. }
            | Self::TokenExists
            | Self::TokenUsed
            | Self::FederatedOlder { .. }
            | Self::FederatedDiffers { .. }
            | Self::AgentMoved { .. }
            | Self::AgentEnded(_) => RefusalKind::Conflict,
            Self::TooMany { .. } => RefusalKind::Exhausted,
        }
    }

    /// A stable word for replies, records and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Entry { .. } => "entry-invalid",
            Self::TtlTooLong { .. } => "ttl-too-long",
            Self::NoEntry(_) => "entry-unknown",
            Self::EntryMoved { .. } => "entry-moved",
            Self::Duplicate { .. } => "entry-duplicate",
            Self::NamedTwice(_) => "entry-named-twice",
            Self::NoToken => "token-unknown",
            Self::AmbiguousToken(_) => "token-ambiguous",
            Self::TokenExists => "token-exists",
            Self::TokenUsed => "token-used",
            Self::TokenLife { .. } => "token-life",
            Self::NoAgent(_) => "agent-unknown",
            Self::AgentMoved { .. } => "agent-moved",
            Self::AgentEnded(_) => "agent-ended",
            Self::ForeignIdentity(_) => "foreign-identity",
            Self::NothingLive(_) => "nothing-live",
            Self::OwnDomain(_) => "own-domain",
            Self::NoFileName(_) => "domain-no-file-name",
            Self::EmptyBundle(_) => "bundle-empty",
            Self::NoFederated(_) => "bundle-unknown",
            Self::FederatedOlder { .. } => "bundle-older",
            Self::FederatedDiffers { .. } => "bundle-differs",
            Self::TooMany { .. } => "too-many",
            Self::Note { .. } => "note",
        }
    }
}

/// Checks an operator's text: it goes into records, logs and terminals.
fn plain_line(what: &'static str, text: &str) -> Result<(), Refusal> {
    if text.len() > NOTE_BYTES_MAX || text.chars().any(char::is_control) {
        Err(Refusal::Note { what })
    } else {
        Ok(())
    }
}

/// Checks that one more, or `found` in all, still fits.
fn within(what: &'static str, found: usize, limit: usize, remedy: &'static str) -> Result<(), Refusal> {
    if found > limit {
        Err(Refusal::TooMany {
            what,
            found,
            limit,
            remedy,
        })
    } else {
        Ok(())
    }
}
