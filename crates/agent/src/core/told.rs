//! Telling the CA what was seen in use: batches of bounded size, at a bounded pace, over the one stream.

use std::{sync::PoisonError, time::Duration};

use mintage_proto::v1::{self, agent_message};

use super::{Core, boot};

impl Core {
    /// When the next batch is due; nothing goes while there is no stream.
    pub(super) fn seen_wake_at(&self) -> Option<Duration> {
        self.upstream.as_ref()?;
        let pool = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        pool.wake_at()
    }

    /// Sends the batch that is due.
    pub(super) fn tell_seen(&mut self) {
        if self.upstream.is_none() {
            return;
        }
        let now = self.shared.deps.now();
        let mut pool = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = pool.take(boot(now), now.wall);
        if batch.is_empty() {
            return;
        }
        let uses = batch.iter().map(|seen| seen.to_wire()).collect();
        match self.send(agent_message::Message::Seen(v1::Seen { uses })) {
            true => pool.told(&batch, boot(now)),
            false => pool.put_back(batch, boot(now)),
        }
    }
}
