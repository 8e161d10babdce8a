//! Places of users: what each may hold at once, taken or refused, and what each waits for behind its own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Counts what each user holds, up to a limit.
#[derive(Clone)]
pub(super) struct PerUid {
    counts: Arc<Mutex<HashMap<u32, usize>>>,
    each_max: usize,
    all_max: usize,
}

/// One place of a user's; given back on drop.
pub(super) struct Place {
    of: PerUid,
    uid: u32,
}

impl PerUid {
    pub(super) fn new(each_max: usize, all_max: usize) -> Self {
        Self {
            counts: Arc::default(),
            each_max,
            all_max,
        }
    }

    /// A place for `uid`; `None` when the user, or everybody together, has too many.
    pub(super) fn take(&self, uid: u32) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = counts.values().sum();
        let own = counts.get(&uid).copied().unwrap_or(0);
        if own >= self.each_max || all >= self.all_max {
            return None;
        }
        counts.insert(uid, own + 1);
        Some(Place { of: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = counts.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// Places that are waited for, each user's own first, so that whoever asks often waits for itself.
pub(super) struct Queue {
    of_users: Mutex<HashMap<u32, Arc<Semaphore>>>,
    each_max: usize,
    all: Arc<Semaphore>,
    wait: Duration,
}

/// A place; given back on drop.
pub(super) struct Turn {
    _of_user: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Queue {
    pub(super) fn new(each_max: usize, all_max: usize, wait: Duration) -> Self {
        Self {
            of_users: Mutex::default(),
            each_max,
            all: Arc::new(Semaphore::new(all_max)),
            wait,
        }
    }

    /// A turn of this user's; `None` when it does not come in time.
    pub(super) async fn turn(&self, uid: u32) -> Option<Turn> {
        timeout(self.wait, self.turn_at_last(uid)).await.ok()?
    }

    /// How long a turn is waited for, and how long it may take.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// `None` never: nobody closes these queues.
    async fn turn_at_last(&self, uid: u32) -> Option<Turn> {
        let of_user = {
            let mut of_users = self.of_users.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever holds or waits for a place holds its queue too.
            of_users.retain(|_, queue| Arc::strong_count(queue) > 1);
            let queue = of_users
                .entry(uid)
                .or_insert_with(|| Arc::new(Semaphore::new(self.each_max)));
            queue.clone()
        };
        let _of_user = of_user.acquire_owned().await.ok()?;
        let _of_all = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn { _of_user, _of_all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_the_places_of_all() {
        let places = PerUid::new(2, 3);
        let (a, _b) = (places.take(1).unwrap(), places.take(1).unwrap());
        assert!(places.take(1).is_none());
        let _c = places.take(2).unwrap();
        assert!(places.take(3).is_none(), "all together");
        drop(a);
        assert!(places.take(3).is_some());
        assert_eq!(places.counts.lock().unwrap().len(), 2, "who holds nothing is forgotten");
    }

    #[tokio::test]
    async fn a_user_waits_behind_its_own_and_no_longer_than_it_may() {
        let queue = Queue::new(1, 2, Duration::from_millis(50));
        let held = queue.turn(1).await.unwrap();
        assert!(queue.turn(1).await.is_none(), "its own place is taken");
        let other = queue.turn(2).await.unwrap();
        assert!(queue.turn(3).await.is_none(), "all are");
        drop((held, other));
        assert!(queue.turn(3).await.is_some());
        assert_eq!(
            queue.of_users.lock().unwrap().len(),
            1,
            "who holds nothing is forgotten"
        );
    }
}
