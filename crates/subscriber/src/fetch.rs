//! Fetches the newest signed snapshot; its length is believed only as far as the limit.

use mintage_proto::v1::{SnapshotChunk, SnapshotRequest, revocation_client::RevocationClient};
use tonic::{Status, transport::Channel};

use crate::limits::{MESSAGE_BYTES_MAX, SNAPSHOT_BYTES_MAX};

/// Why a snapshot did not arrive whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The call failed.
    #[error("{}: {}", .0.code().description(), .0.message())]
    Call(Box<Status>),
    /// It is longer than any can be.
    #[error("has {bytes} bytes, the limit is {SNAPSHOT_BYTES_MAX}")]
    TooLong {
        /// Its length by its own word.
        bytes: u64,
    },
    /// A chunk is out of place.
    #[error("its chunks do not follow one another")]
    Gap,
    /// It goes on after its end, or ends before it.
    #[error("has another length than it says")]
    Length,
}

/// Fetches the newest snapshot over `channel`. The caller sets a limit of time, and verifies what came.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch_snapshot(channel: Channel) -> Result<Vec<u8>, FetchError> {
    let mut client = RevocationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let call = |status: Status| FetchError::Call(Box::new(status));
    let mut stream = client.snapshot(SnapshotRequest {}).await.map_err(call)?.into_inner();
    let mut parts = Parts::default();
    while let Some(chunk) = stream.message().await.map_err(call)? {
        parts.add(&chunk)?;
    }
    parts.whole()
}

/// The chunks that came so far.
#[derive(Debug, Default)]
struct Parts {
    bytes: Vec<u8>,
    total: Option<u64>,
}

impl Parts {
    fn add(&mut self, chunk: &SnapshotChunk) -> Result<(), FetchError> {
        if chunk.total > SNAPSHOT_BYTES_MAX as u64 {
            return Err(FetchError::TooLong { bytes: chunk.total });
        }
        if chunk.offset != self.bytes.len() as u64 || *self.total.get_or_insert(chunk.total) != chunk.total {
            return Err(FetchError::Gap);
        }
        if chunk.offset + chunk.data.len() as u64 > chunk.total {
            return Err(FetchError::Length);
        }
        self.bytes.extend_from_slice(&chunk.data);
        Ok(())
    }

    fn whole(self) -> Result<Vec<u8>, FetchError> {
        match self.total {
            Some(total) if total == self.bytes.len() as u64 => Ok(self.bytes),
            _ => Err(FetchError::Length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, total: u64, data: &'static [u8]) -> SnapshotChunk {
        SnapshotChunk {
            offset,
            total,
            data: data.into(),
        }
    }

    #[test]
    fn only_whole_snapshots_come_out() {
        let mut parts = Parts::default();
        parts.add(&chunk(0, 5, b"abc")).unwrap();
        assert!(matches!(parts.add(&chunk(4, 5, b"e")), Err(FetchError::Gap)));
        assert!(
            matches!(parts.add(&chunk(3, 6, b"de")), Err(FetchError::Gap)),
            "another total"
        );
        assert!(matches!(parts.add(&chunk(3, 5, b"def")), Err(FetchError::Length)));
        parts.add(&chunk(3, 5, b"de")).unwrap();
        assert_eq!(parts.whole().unwrap(), b"abcde");
        let mut short = Parts::default();
        short.add(&chunk(0, 5, b"abc")).unwrap();
        assert!(matches!(short.whole(), Err(FetchError::Length)));
        assert!(
            matches!(Parts::default().whole(), Err(FetchError::Length)),
            "nothing at all"
        );
        let long = chunk(0, SNAPSHOT_BYTES_MAX as u64 + 1, b"");
        assert!(matches!(Parts::default().add(&long), Err(FetchError::TooLong { .. })));
    }
}
