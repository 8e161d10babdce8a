//! One lane for commands that take something away. Each moves the state under every other that was decided before it, so of
//! many that come at once all but one would be decided again, and again: in a lane each is decided once, in the order in which
//! they came.

use std::fmt;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tonic::Code;

use crate::{
    limits::{COMMAND_TURN_WAIT, COMMANDS_WAITING_MAX},
    status::Refusal,
};

/// The lane, and the places in front of it.
pub(crate) struct Turns {
    lane: Semaphore,
    places: Semaphore,
}

/// The one command that is decided and recorded now; the next one's turn comes when this is dropped.
pub(crate) struct Turn<'a> {
    _lane: SemaphorePermit<'a>,
    _place: SemaphorePermit<'a>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            lane: Semaphore::new(1),
            places: Semaphore::new(COMMANDS_WAITING_MAX),
        }
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

impl Turns {
    /// Waits for its turn, first come, first served.
    ///
    /// # Errors
    /// `commands-waiting` when as many wait as may, or the ones in front take too long.
    pub(crate) async fn take(&self) -> Result<Turn<'_>, Refusal> {
        let busy = |text: String| Refusal::new(Code::ResourceExhausted, "commands-waiting", text);
        let place = self.places.try_acquire().map_err(|_| {
            busy(format!(
                "there are as many commands under way as there may be, {COMMANDS_WAITING_MAX}; ask again later, or name \
                 more in one command"
            ))
        })?;
        match timeout(COMMAND_TURN_WAIT, self.lane.acquire()).await {
            Ok(Ok(lane)) => Ok(Turn {
                _lane: lane,
                _place: place,
            }),
            _ => Err(busy(format!(
                "the commands in front did not end within {COMMAND_TURN_WAIT:?}; look at `mintage ca status`, and ask again"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn turns_come_in_order_and_there_is_a_limit() {
        let turns = Turns::default();
        let first = turns.take().await.unwrap();
        let mut waiting = Box::pin(turns.take());
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        let second = waiting.await.unwrap();
        let mut queue: Vec<_> = (1..COMMANDS_WAITING_MAX).map(|_| Box::pin(turns.take())).collect();
        for waiting in &mut queue {
            assert!(waiting.now_or_never().is_none());
        }
        let refused = turns.take().await.err().unwrap();
        assert_eq!(refused.code, "commands-waiting");
        // Whoever gave up no longer stands in the way.
        queue.clear();
        drop(second);
        turns.take().await.unwrap();
    }
}
