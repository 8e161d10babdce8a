//! What one piece of news does to the set that is held, and what it asks for next. Pure.

use mintage_identity::UnixTime;
use mintage_proto::v1::watch_news::News;
use mintage_revocation::{Applied, Beat, Replica, RevocationError};

/// What became of it.
#[derive(Debug)]
pub(crate) enum Step {
    /// Taken up.
    Took(Applied),
    /// The held set is the publisher's latest, or holds this already.
    Current,
    /// The snapshot has to be fetched.
    Fetch,
    /// The publisher is behind what is held.
    PublisherBehind,
    /// Whoever looked at it ended early; nothing is known of it.
    Lost,
}

/// Takes up one piece of news.
///
/// # Errors
/// What does not verify; the held set stays as it is.
pub(crate) fn step(replica: &mut Replica, news: &News, now: UnixTime) -> Result<Step, RevocationError> {
    let taken = match news {
        News::SnapshotRef(_) => return Ok(Step::Fetch),
        News::Snapshot(bytes) => replica.apply_snapshot(bytes, now).map(Step::Took),
        News::Delta(bytes) => match replica.apply_delta(bytes, now) {
            // What comes while the stream opens comes twice rather than never.
            Err(RevocationError::Rollback { epoch, held_epoch, .. }) if epoch == held_epoch => Ok(Step::Current),
            taken => taken.map(Step::Took),
        },
        News::Heartbeat(bytes) => replica.heartbeat(bytes, now).map(|beat| match beat {
            Beat::Current => Step::Current,
            Beat::Behind { .. } => Step::Fetch,
            Beat::PublisherBehind => Step::PublisherBehind,
        }),
    };
    match taken {
        Err(RevocationError::BrokenChain { .. }) => Ok(Step::Fetch),
        Err(RevocationError::Rollback { .. }) => Ok(Step::PublisherBehind),
        taken => taken,
    }
}
