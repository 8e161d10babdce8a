//! Looks at processes: few at once, so that no user holds another's up, and none that hangs holds up more than its own process.
//!
//! A look asks the file system of the executable, which may be a server that never answers, or a program of the process's own
//! user; a hash reads the whole file. Threads that wait for such a thing cannot be ended, so their number has a limit: each
//! user's first, then everybody's. A look that takes too long gives its place to others, while there are places for those.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mintage_attest::{
    AttestError,
    unix::{Hashing, UnixAttestor, WorkloadPeer},
};
use tokio::{task::spawn_blocking, time::timeout};

use super::places::{PerUid, Queue, Turn};
use crate::limits::{
    HASH_WAIT, HASHES_MAX, HASHES_PER_UID_MAX, LOOK_WAIT, LOOKS_MAX, LOOKS_OVERDUE_MAX, LOOKS_OVERDUE_PER_UID_MAX,
    LOOKS_PER_UID_MAX,
};

/// Whose look it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked {
    /// The user who has it made.
    pub(super) uid: u32,
    /// The process that is looked at.
    pub(super) pid: i32,
}

/// Why a process is not attested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotAttested {
    /// What it is speaks against it.
    Refused(String),
    /// Nothing is known of it: the look did not end in time. Another one may.
    Late(String),
}

/// All looks of one socket.
pub(super) struct Attesting {
    attestor: Arc<UnixAttestor>,
    looks: Queue,
    hashes: Queue,
    overdue: PerUid,
    /// Processes of which a look is overdue. No other is begun of them.
    hung: Arc<Mutex<HashSet<i32>>>,
}

impl Default for Attesting {
    fn default() -> Self {
        Self {
            attestor: Arc::default(),
            looks: Queue::new(LOOKS_PER_UID_MAX, LOOKS_MAX, LOOK_WAIT),
            hashes: Queue::new(HASHES_PER_UID_MAX, HASHES_MAX, HASH_WAIT),
            overdue: PerUid::new(LOOKS_OVERDUE_PER_UID_MAX, LOOKS_OVERDUE_MAX),
            hung: Arc::default(),
        }
    }
}

impl Attesting {
    /// The process at the other end of `socket`.
    pub(super) async fn attest(&self, socket: OwnedFd, looked: Looked) -> Result<WorkloadPeer, NotAttested> {
        let look = move |attestor: &UnixAttestor, hashing| attestor.attest_peer(socket.as_fd(), hashing);
        self.hashed_if_needed(looked, look).await
    }

    /// The process that has this number now; with `only_of`, only one of that user's.
    pub(super) async fn look_at(&self, looked: Looked, only_of: Option<u32>) -> Result<WorkloadPeer, NotAttested> {
        let look = move |attestor: &UnixAttestor, hashing| attestor.look_at(looked.pid, only_of, hashing);
        self.hashed_if_needed(looked, look).await
    }

    /// What a short look at an attested process says; `Late` when it does not end in time.
    pub(super) async fn again(
        &self,
        looked: Looked,
        look: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, NotAttested> {
        self.look(&self.looks, looked, look).await
    }

    async fn hashed_if_needed(
        &self,
        looked: Looked,
        look: impl Fn(&UnixAttestor, Hashing) -> Result<WorkloadPeer, AttestError> + Send + Sync + 'static,
    ) -> Result<WorkloadPeer, NotAttested> {
        let look = Arc::new(look);
        let with = |hashing| {
            let (attestor, look) = (self.attestor.clone(), look.clone());
            move || look(&attestor, hashing)
        };
        let known = self.look(&self.looks, looked, with(Hashing::Later)).await?;
        let seen = match known {
            Err(AttestError::HashNeeded) => self.look(&self.hashes, looked, with(Hashing::Now)).await?,
            known => known,
        };
        seen.map_err(|error| NotAttested::Refused(error.to_string()))
    }

    /// Runs `look` in a thread of its own, when it is this user's turn.
    async fn look<T: Send + 'static>(
        &self,
        queue: &Queue,
        looked: Looked,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotAttested> {
        let late = |why: &str| NotAttested::Late(format!("process {}: {why}", looked.pid));
        let Some(turn) = queue.turn(looked.uid).await else {
            return Err(late("too many looks at processes of its user are under way; try again"));
        };
        // Now, and not before the wait: what waited with it may hang since.
        if self.hung().contains(&looked.pid) {
            return Err(late(
                "an earlier look at it has not ended; does the file system of its executable answer?",
            ));
        }
        let held = Arc::new(Mutex::new(Held::Turn(turn)));
        let (thread, hung) = (held.clone(), self.hung.clone());
        let looking = spawn_blocking(move || {
            let seen = look();
            let overdue = matches!(std::mem::replace(&mut *locked(&thread), Held::Done), Held::Overdue(_));
            if overdue {
                locked(&hung).remove(&looked.pid);
            }
            seen
        });
        match timeout(queue.wait(), looking).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(_)) => Err(late("the agent is stopping")),
            Err(_) => {
                self.note_overdue(&held, looked);
                Err(late(&format!(
                    "a look at it did not end within {:?}; does the file system of its executable answer?",
                    queue.wait()
                )))
            }
        }
    }

    /// A look is overdue: its turn is somebody else's now, if there is a place for it.
    fn note_overdue(&self, held: &Mutex<Held>, looked: Looked) {
        let mut held = locked(held);
        *held = match std::mem::replace(&mut *held, Held::Done) {
            Held::Turn(turn) => {
                self.hung().insert(looked.pid);
                match self.overdue.take(looked.uid) {
                    Some(place) => Held::Overdue(Box::new(place)),
                    None => Held::Overdue(Box::new(turn)),
                }
            }
            ended => ended,
        };
    }

    fn hung(&self) -> MutexGuard<'_, HashSet<i32>> {
        locked(&self.hung)
    }
}

/// What the thread of a look holds.
enum Held {
    Turn(Turn),
    /// A place of those that are overdue; where there was none, its turn still.
    Overdue(#[expect(dead_code, reason = "held for its drop")] Box<dyn Send>),
    Done,
}

/// A panic elsewhere leaves what is locked here whole: each change is one call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, Sender, channel},
        time::Duration,
    };

    use tokio::task::JoinHandle;

    use super::*;

    const WAIT: Duration = Duration::from_secs(3600);

    fn attesting(each: usize, all: usize, wait: Duration, overdue: usize) -> Arc<Attesting> {
        Arc::new(Attesting {
            looks: Queue::new(each, all, wait),
            overdue: PerUid::new(overdue, overdue),
            ..Attesting::default()
        })
    }

    /// A look that has begun and ends when it is told to.
    struct Look {
        end: Sender<()>,
        begun: Receiver<()>,
        task: JoinHandle<Result<bool, NotAttested>>,
    }

    fn look(attesting: &Arc<Attesting>, uid: u32, pid: i32) -> Look {
        let (end, ended) = channel();
        let (begin, begun) = channel();
        let attesting = attesting.clone();
        let task = tokio::spawn(async move {
            let look = move || {
                begin.send(()).unwrap();
                // Whoever hangs up ends it as well.
                let _ = ended.recv();
                true
            };
            attesting.again(Looked { uid, pid }, look).await
        });
        Look { end, begun, task }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_user_with_many_looks_waits_for_itself_and_holds_nobody_up() {
        let attesting = attesting(1, 2, WAIT, 1);
        let own: Vec<Look> = (0..50).map(|pid| look(&attesting, 1, pid)).collect();
        let other = look(&attesting, 2, 100);
        other.begun.recv().unwrap();
        assert_eq!(own.iter().filter(|look| look.begun.try_recv().is_ok()).count(), 1);
        other.end.send(()).unwrap();
        assert_eq!(other.task.await.unwrap(), Ok(true));
        for look in own {
            drop(look.end);
            assert_eq!(look.task.await.unwrap(), Ok(true));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_look_that_hangs_is_given_up_and_costs_its_own_process_alone() {
        let attesting = attesting(1, 1, Duration::from_millis(500), 1);
        let hangs = look(&attesting, 1, 10);
        let late = hangs.task.await.unwrap().unwrap_err();
        assert!(
            matches!(&late, NotAttested::Late(why) if why.contains("process 10") && why.contains("500ms")),
            "{late:?}"
        );
        // No other thread is begun for that process, and the place is free for everybody else.
        let same = look(&attesting, 1, 10);
        assert!(matches!(same.task.await.unwrap(), Err(NotAttested::Late(why)) if why.contains("earlier look")));
        assert!(same.begun.recv().is_err());
        let beside = look(&attesting, 1, 11);
        beside.end.send(()).unwrap();
        assert_eq!(beside.task.await.unwrap(), Ok(true));

        // With the places of those that hang taken, the next one keeps its turn: threads have a limit.
        let second = look(&attesting, 1, 12);
        assert!(second.task.await.unwrap().is_err());
        let third = look(&attesting, 2, 13);
        assert!(matches!(third.task.await.unwrap(), Err(NotAttested::Late(why)) if why.contains("too many looks")));
        assert!(third.begun.recv().is_err());

        // What ends after all gives everything back.
        drop((hangs.end, second.end));
        while !attesting.hung().is_empty() {
            tokio::task::yield_now().await;
        }
        let again = look(&attesting, 2, 10);
        again.end.send(()).unwrap();
        assert_eq!(again.task.await.unwrap(), Ok(true));
    }

    #[tokio::test]
    async fn what_has_no_digest_is_hashed_in_the_other_queue_and_a_refusal_says_why() {
        let attesting = Attesting::default();
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let looked = Looked {
            uid: 1,
            pid: i32::try_from(std::process::id()).unwrap(),
        };
        let seen = attesting.attest(ours.into(), looked).await.unwrap();
        assert_eq!(seen.pid(), looked.pid);
        assert!(attesting.look_at(looked, None).await.is_ok());
        let gone = Looked { uid: 1, pid: i32::MAX };
        assert!(matches!(
            attesting.look_at(gone, None).await,
            Err(NotAttested::Refused(_))
        ));
    }
}
