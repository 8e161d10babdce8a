//! The one place that turns refusals into gRPC codes. Reply text and log text differ where a caller must not learn why.

use mintage_attest::AttestError;
use mintage_ledger::{CommitError, LedgerError};
use mintage_mint::{CsrError, MintError};
use mintage_policy::{Denial, DenialKind};
use mintage_proto::FieldError;
use mintage_state::command::{self, RefusalKind};
use tonic::{Code, Status};

use crate::{clock::ClockStepped, metrics::Metrics};

/// A refusal on its way to the caller: stable code, text for people, gRPC code, and whether the same call may be sent
/// again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) grpc: Code,
    pub(crate) retry: bool,
}

impl Refusal {
    pub(crate) fn new(grpc: Code, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            grpc,
            retry: matches!(grpc, Code::Unavailable | Code::ResourceExhausted),
        }
    }

    /// Whether a key was shown that is barred, the CA's own or another identity's: worth an alert, not only a log line.
    pub(crate) fn is_alarming(&self) -> bool {
        matches!(
            self.code,
            "key-blocked" | "key-of-ca" | "key-under-other-id" | "rejoin-compromised"
        )
    }

    /// A fault of ours: the text says what was expected, the caller can do nothing.
    pub(crate) fn bug(what: &'static str) -> Self {
        Self::new(Code::Internal, "bug", what)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, "invalid-argument", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, "not-found", message)
    }

    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, code, message)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Status::new(refusal.grpc, refusal.message)
    }
}

/// What gRPC calls a message over the limit; the decoder has another word for it, which no handler of ours uses.
pub(crate) fn over_limit(status: Status, metrics: &Metrics) -> Status {
    match status.code() {
        Code::OutOfRange => {
            metrics.refused_call("message_size");
            Status::resource_exhausted(status.message())
        }
        _ => status,
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        let grpc = match denial.kind() {
            DenialKind::InvalidArgument => Code::InvalidArgument,
            DenialKind::NotFound => Code::NotFound,
            DenialKind::PermissionDenied => Code::PermissionDenied,
            DenialKind::FailedPrecondition => Code::FailedPrecondition,
            DenialKind::Unauthenticated => Code::Unauthenticated,
        };
        Self::new(grpc, denial.code(), denial.why())
    }
}

impl From<AttestError> for Refusal {
    fn from(error: AttestError) -> Self {
        // Display is the same for every reason of one kind; the reason itself goes to the log alone.
        Self::new(Code::Unauthenticated, error.code(), error.to_string())
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<CsrError> for Refusal {
    fn from(error: CsrError) -> Self {
        Self::new(Code::InvalidArgument, "csr", error.to_string())
    }
}

impl From<MintError> for Refusal {
    fn from(error: MintError) -> Self {
        if matches!(error, MintError::IssuerExpiring { .. }) {
            return Self::new(Code::FailedPrecondition, "issuer-expiring", error.to_string());
        }
        Self::new(Code::Internal, "mint", error.to_string())
    }
}

impl From<ClockStepped> for Refusal {
    fn from(error: ClockStepped) -> Self {
        Self::unavailable("clock", error.to_string())
    }
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        Self::unavailable("ledger-read", format!("the ledger cannot be read: {error}"))
    }
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        let text = error.to_string();
        match error {
            CommitError::NoSpace => Self::new(Code::ResourceExhausted, "ledger-space", text),
            CommitError::Busy => Self::new(Code::ResourceExhausted, "ledger-busy", text),
            CommitError::Moved { .. } => Self::new(Code::Aborted, "moved", text),
            _ => Self::unavailable("ledger", text),
        }
    }
}

impl From<command::Refusal> for Refusal {
    fn from(refusal: command::Refusal) -> Self {
        let grpc = match refusal.kind() {
            RefusalKind::Invalid => Code::InvalidArgument,
            RefusalKind::NotFound => Code::NotFound,
            RefusalKind::Conflict => Code::FailedPrecondition,
            RefusalKind::Exhausted => Code::ResourceExhausted,
        };
        Self::new(grpc, refusal.code(), refusal.to_string())
    }
}
