//! How much callers of the socket may hold at once. Each limit has a default that suits a node, and a range.

use crate::{AgentError, limits};

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketLimit {
    /// Connections to the socket in all.
    Connections,
    /// Connections of one user.
    ConnectionsPerUser,
    /// Open streams (watches and SDS) in all.
    Streams,
    /// Open streams of one user over all its connections.
    StreamsPerUser,
    /// Concurrent calls of one connection.
    StreamsPerConnection,
    /// Identities held in memory for callers.
    Identities,
    /// Seconds within which a stream's client reads what was sent, or its connection is closed.
    UnreadSeconds,
}

impl SocketLimit {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::Connections,
        Self::ConnectionsPerUser,
        Self::Streams,
        Self::StreamsPerUser,
        Self::StreamsPerConnection,
        Self::Identities,
        Self::UnreadSeconds,
    ];

    /// Its key in `[limits]`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerUser => "connections_per_user",
            Self::Streams => "streams",
            Self::StreamsPerUser => "streams_per_user",
            Self::StreamsPerConnection => "streams_per_connection",
            Self::Identities => "identities",
            Self::UnreadSeconds => "unread_s",
        }
    }

    /// What it is unless it is set, and the most that it may be.
    fn default_and_max(self) -> (u32, u32) {
        match self {
            Self::Connections => (limits::CONNECTIONS, limits::CONNECTIONS_MAX),
            Self::ConnectionsPerUser => (limits::CONNECTIONS_PER_USER, limits::CONNECTIONS_MAX),
            Self::Streams => (limits::STREAMS, limits::STREAMS_MAX),
            Self::StreamsPerUser => (limits::STREAMS_PER_USER, limits::STREAMS_MAX),
            Self::StreamsPerConnection => (limits::STREAMS_PER_CONNECTION, limits::STREAMS_PER_CONNECTION_MAX),
            Self::Identities => (limits::WORKLOADS, limits::WORKLOADS_MAX),
            Self::UnreadSeconds => (limits::UNREAD_SECONDS, limits::UNREAD_SECONDS_MAX),
        }
    }

    /// The value, when it lies in the range.
    pub(super) fn check(self, value: u64) -> Result<u32, String> {
        let (_, max) = self.default_and_max();
        match u32::try_from(value) {
            Ok(value) if (1..=max).contains(&value) => Ok(value),
            _ => Err(format!("limits.{} is {value}; use 1 to {max}", self.name())),
        }
    }
}

/// Every limit with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketLimits([u32; SocketLimit::ALL.len()]);

impl Default for SocketLimits {
    fn default() -> Self {
        Self(SocketLimit::ALL.map(|limit| limit.default_and_max().0))
    }
}

impl SocketLimits {
    /// The same with another value of one limit.
    ///
    /// # Errors
    /// Refuses 0, and more than the limit's own maximum.
    pub fn with(mut self, limit: SocketLimit, value: u64) -> Result<Self, AgentError> {
        self.set(limit, limit.check(value).map_err(AgentError::Config)?);
        Ok(self)
    }

    /// `value` has been checked.
    pub(super) fn set(&mut self, limit: SocketLimit, value: u32) {
        self.0[limit as usize] = value;
    }

    /// The value of one limit.
    pub fn get(&self, limit: SocketLimit) -> u32 {
        self.0[limit as usize]
    }

    /// The same as a count.
    pub(crate) fn count(&self, limit: SocketLimit) -> usize {
        self.get(limit) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_range_that_holds_its_default_and_a_place_of_its_own() {
        let mut all = SocketLimits::default();
        for (at, limit) in SocketLimit::ALL.into_iter().enumerate() {
            let (default, max) = limit.default_and_max();
            assert_eq!((limit as usize, all.get(limit)), (at, default), "{limit:?}");
            assert!((1..=max).contains(&default), "{limit:?}");
            for bad in [0, u64::from(max) + 1, u64::MAX] {
                let told = all.with(limit, bad).unwrap_err().to_string();
                assert!(
                    told.contains(&format!("limits.{} is {bad}; use 1 to {max}", limit.name())),
                    "{told}"
                );
            }
            all = all.with(limit, u64::from(max)).unwrap();
        }
        for limit in SocketLimit::ALL {
            assert_eq!(all.get(limit), limit.default_and_max().1, "{limit:?}");
        }
    }

    #[test]
    fn ten_thousand_streams_over_two_hundred_connections_can_be_allowed() {
        let limits = SocketLimits::default()
            .with(SocketLimit::ConnectionsPerUser, 200)
            .and_then(|limits| limits.with(SocketLimit::Streams, 10_000))
            .and_then(|limits| limits.with(SocketLimit::StreamsPerUser, 10_000))
            .unwrap();
        let of_one = limits.get(SocketLimit::StreamsPerConnection) * limits.get(SocketLimit::ConnectionsPerUser);
        assert!(of_one >= 10_000, "{of_one}");
    }
}
