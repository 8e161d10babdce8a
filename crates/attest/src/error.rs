//! Why a proof was refused. Towards the one who presented it a refusal says nothing; `detail` is for the log.

use std::io;

use crate::AgentSession;

/// A refusal or a failure of attestation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The text is no join token: a typo or a cut, found before anything is sent. Never the CA's answer.
    #[error("join token: {0}")]
    TokenMalformed(&'static str),
    /// The CA does not accept the token. One text for every reason.
    #[error("the join token is not accepted; ask an operator for a new one")]
    TokenRefused(Detail),
    /// The channel's certificate does not stand for an agent any more. One text for every reason.
    #[error("the agent's certificate is not accepted")]
    SessionRefused(Detail),
    /// The last key does not let the agent in again. One text for every reason.
    #[error("re-joining is not accepted; ask an operator for a join token")]
    RejoinRefused(Detail),
    /// A key cannot be used to sign or verify.
    #[error("key: {0}")]
    Key(&'static str),
    /// The process at the other end cannot be told apart with certainty; it gets nothing.
    #[error("workload is not attested: {0}")]
    PeerRefused(String),
    /// The process's executable must be hashed before it is known, and the caller did not want that now.
    #[error("workload is not attested yet: its executable must be hashed")]
    HashNeeded,
    /// The operating system failed while the process was looked at.
    #[error("workload is not attested: cannot {doing}: {source}")]
    PeerUnreadable {
        /// What was being done.
        doing: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// The true reason of a refusal, kept out of `Display` so that it cannot reach a reply by mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    pub(crate) code: &'static str,
    pub(crate) text: String,
}

impl AttestError {
    pub(crate) fn token_refused(code: &'static str, text: impl Into<String>) -> Self {
        Self::TokenRefused(Detail {
            code,
            text: text.into(),
        })
    }

    pub(crate) fn session_refused(code: &'static str, text: impl Into<String>) -> Self {
        Self::SessionRefused(Detail {
            code,
            text: text.into(),
        })
    }

    /// The certificate by which an agent speaks was revoked: `why` says by what.
    pub fn session_revoked(session: &AgentSession, why: &str) -> Self {
        let (serial, id) = (session.serial, &session.id);
        Self::session_refused(
            "session_revoked",
            format!("certificate {serial} of {id} was revoked, by its {why}"),
        )
    }

    pub(crate) fn rejoin_refused(code: &'static str, text: impl Into<String>) -> Self {
        Self::RejoinRefused(Detail {
            code,
            text: text.into(),
        })
    }

    pub(crate) fn unreadable(doing: &'static str, source: impl Into<io::Error>) -> Self {
        Self::PeerUnreadable {
            doing,
            source: source.into(),
        }
    }

    /// A stable word for counters and log fields, such as `token_expired`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TokenMalformed(_) => "token_malformed",
            Self::TokenRefused(detail) | Self::SessionRefused(detail) | Self::RejoinRefused(detail) => detail.code,
            Self::Key(_) => "key_unusable",
            Self::PeerRefused(_) => "peer_refused",
            Self::HashNeeded => "hash_needed",
            Self::PeerUnreadable { .. } => "peer_unreadable",
        }
    }

    /// The true reason, for the log and the ledger; never for the reply.
    pub fn detail(&self) -> String {
        match self {
            Self::TokenRefused(detail) | Self::SessionRefused(detail) | Self::RejoinRefused(detail) => {
                detail.text.clone()
            }
            other => other.to_string(),
        }
    }

    /// Whether somebody used what belongs to another: worth an alert, not only a log line.
    pub fn is_alarming(&self) -> bool {
        matches!(
            self.code(),
            "token_other_key" | "rejoin_signature" | "session_other_key" | "rejoin_other_key"
        )
    }
}
