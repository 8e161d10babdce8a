//! Why the agent could not start or had to stop: whose fault it is, and what to do.

use mintage_sys::SysError;

use crate::config::TomlProblem;

/// An error that ends the agent, or keeps it from starting. Everything that can be mended by trying again is told by
/// events, logs and metrics instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A value of the configuration is not allowed.
    #[error("{0}")]
    Config(String),
    /// The configuration file is not right.
    #[error("{0}")]
    ConfigFile(TomlProblem),
    /// A file or directory of the agent is not right, or the operating system failed.
    #[error(transparent)]
    Local(#[from] SysError),
    /// What lies in the data directory is not what this version wrote.
    #[error("{file}: {problem}")]
    State {
        /// The file in the data directory.
        file: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// There is no identity yet and no join token.
    #[error(
        "this agent has not joined: start it with --join-token-file FILE (make a token with `mintage token create`)"
    )]
    NotJoined,
    /// The token belongs to another trust domain than the identity in the data directory.
    #[error("the join token is for {token}, but this data directory belongs to {own}; use another --data-dir")]
    OtherTrustDomain {
        /// The token's trust domain.
        token: String,
        /// The data directory's trust domain.
        own: String,
    },
    /// The CA refused to let the agent join.
    #[error("the CA refused to let this agent join: {0}; make a new token with `mintage token create`")]
    JoinRefused(String),
    /// The agent's certificate ended too long ago, or the CA no longer takes it.
    #[error("this agent's identity has ended ({0}); start it with a new token: --join-token-file FILE")]
    NeedsToken(String),
    /// The CA retired this agent: its keys are gone.
    #[error("the CA retired this agent ({0}); its keys were removed; a new join token is needed")]
    Retired(String),
    /// The socket, the metrics address, or another local resource could not be had.
    #[error("{what}: {problem}")]
    Bind {
        /// What was to be served, and where.
        what: String,
        /// Why it cannot be, and what to do.
        problem: String,
    },
    /// The agent stopped for a reason that somebody else holds too; with its exit code.
    #[error("{0}")]
    Stopped(String, u8),
    /// A part of the agent ended that never should.
    #[error("internal fault: {0}; please report it")]
    Bug(&'static str),
}

impl AgentError {
    /// The process's exit code: 1 for what is wrong here, 2 for what the CA refused.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(_, code) => *code,
            Self::JoinRefused(_) | Self::NeedsToken(_) | Self::Retired(_) => 2,
            _ => 1,
        }
    }
}
