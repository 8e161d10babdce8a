//! Certificates that proxies show, one a request: their signatures are checked in few threads beside the runtime, and each
//! user's wait for its own. A proxy asks on its clients' path, so a burst waits its turn and only a flood is refused.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::places::{PerUid, Queue};
use crate::{
    limits::{CHECK_WAIT, CHECKS_PER_UID_MAX, CHECKS_RUNNING_MAX, CHECKS_RUNNING_PER_UID_MAX, CHECKS_WAITING_MAX},
    lookup::{Answer, Unknown},
    shared::Shared,
};

/// The checks of one socket.
pub(super) struct Checks {
    /// Under way, waiting or running.
    places: PerUid,
    running: Queue,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            places: PerUid::new(CHECKS_PER_UID_MAX, CHECKS_WAITING_MAX),
            running: Queue::new(CHECKS_RUNNING_PER_UID_MAX, CHECKS_RUNNING_MAX, CHECK_WAIT),
        }
    }
}

impl Checks {
    /// The answer for a chain (DER) that this user's program was shown.
    pub(super) async fn of_chain(&self, uid: u32, shared: &Arc<Shared>, chain: Vec<Vec<u8>>) -> Answer {
        let shared = shared.clone();
        // The time is that of the answer, not of the question: it may have waited.
        let check = move || shared.desk.of_chain(&chain, &shared.deps.provider, shared.wall());
        self.answer(uid, check).await
    }

    async fn answer(&self, uid: u32, check: impl FnOnce() -> Answer + Send + 'static) -> Answer {
        let busy = || Answer::Unknown(Unknown::Busy);
        let Some(place) = self.places.take(uid) else {
            return busy();
        };
        let Some(turn) = self.running.turn(uid).await else {
            return busy();
        };
        let checked = spawn_blocking(move || {
            let answer = check();
            // Both last until here though the proxy hangs up: the work is done all the same.
            drop((turn, place));
            answer
        });
        let failed = |_| Answer::Unknown(Unknown::Invalid("the certificate could not be looked at".to_owned()));
        checked.await.unwrap_or_else(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use tokio::{task::JoinHandle, time::timeout};

    use super::*;

    const GOOD: Answer = Answer::Good { tolerated: false };
    const BUSY: Answer = Answer::Unknown(Unknown::Busy);

    fn checks(each: usize, all: usize, running_each: usize, running: usize) -> Arc<Checks> {
        Arc::new(Checks {
            places: PerUid::new(each, all),
            running: Queue::new(running_each, running, CHECK_WAIT),
        })
    }

    /// A check that has begun, and ends when it is told to.
    async fn begun(checks: &Arc<Checks>, uid: u32) -> (Sender<()>, JoinHandle<Answer>) {
        let (end, ended) = channel::<()>();
        let (begin, has_begun) = tokio::sync::oneshot::channel();
        let checks = checks.clone();
        let task = tokio::spawn(async move {
            let check = move || {
                begin.send(()).unwrap();
                ended.recv().unwrap();
                GOOD
            };
            checks.answer(uid, check).await
        });
        has_begun.await.unwrap();
        (end, task)
    }

    #[tokio::test]
    async fn a_user_over_its_places_is_told_so_at_once_and_others_are_served() {
        let checks = checks(2, 4, 2, 3);
        let (first, one) = begun(&checks, 1).await;
        let (second, other) = begun(&checks, 1).await;
        assert_eq!(checks.answer(1, || panic!("there is no place for it")).await, BUSY);
        assert_eq!(checks.answer(2, || GOOD).await, GOOD);
        first.send(()).unwrap();
        assert_eq!(one.await.unwrap(), GOOD);
        assert_eq!(checks.answer(1, || GOOD).await, GOOD, "its place is free again");
        second.send(()).unwrap();
        assert_eq!(other.await.unwrap(), GOOD);
    }

    #[tokio::test]
    async fn a_user_that_waits_for_its_turn_holds_nobody_else_up() {
        let checks = checks(3, 6, 1, 2);
        let (end, running) = begun(&checks, 1).await;
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let checks = checks.clone();
                tokio::spawn(async move { checks.answer(1, || GOOD).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(checks.answer(2, || GOOD).await, GOOD);
        assert!(waiting.iter().all(|task| !task.is_finished()));
        end.send(()).unwrap();
        for task in waiting.into_iter().chain([running]) {
            assert_eq!(task.await.unwrap(), GOOD, "a burst waits, and is answered");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_hangs_up_keeps_its_place_until_the_work_is_done() {
        let checks = checks(1, 2, 1, 2);
        let (end, asking) = begun(&checks, 1).await;
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        assert_eq!(checks.answer(1, || GOOD).await, BUSY);
        end.send(()).unwrap();
        timeout(CHECK_WAIT * 20, async {
            while checks.answer(1, || GOOD).await == BUSY {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_check_that_panics_is_no_good_answer() {
        let answer = checks(1, 1, 1, 1).answer(1, || panic!("as a test wants it")).await;
        assert_eq!(answer.word(), "invalid");
    }
}
