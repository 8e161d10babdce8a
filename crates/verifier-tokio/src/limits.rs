//! Every limit of this crate, each with its reason.

use std::time::Duration;

/// Default of the most live connections one registry holds: at about 1 KB each, 100 MB at the limit.
pub const CONNECTIONS_MAX: usize = 100_000;

/// Default time for a handshake: two round trips at worst-case mobile latency, and a peer that dawdles holds a slot no
/// longer.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest sleep of the expiry task: after a step of the wall clock or a suspended machine, expired connections are
/// closed within this time.
pub const SLEEP_MAX: Duration = Duration::from_secs(10);

/// Step of the expiry task in the last second before an expiry: the clock tells whole seconds only, so this is how
/// late a connection may be closed.
pub const LAST_SECOND_STEP: Duration = Duration::from_millis(100);

/// While the clock cannot be read, it is tried again this often: what was revoked meanwhile lives no longer than that once
/// it can, and a look costs less than a microsecond.
pub const CLOCK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Accepted chains that wait for whoever reports them: at about 1.5 KB each, 400 KB.
pub const ACCEPTED_QUEUE_MAX: usize = 256;
