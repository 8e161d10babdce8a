//! Whose hooks run now: a few deliveries at once, and hooks that hang hold up nobody else's.

use std::pin::pin;

use tokio::{sync::Semaphore, time::timeout};

use crate::limits::{HOOKS_ASIDE_MAX, HOOKS_AT_ONCE_MAX, HOOKS_WORK_MAX};

/// The places there are.
#[derive(Debug)]
pub(crate) struct Turns {
    work: Semaphore,
    aside: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            work: Semaphore::new(HOOKS_AT_ONCE_MAX),
            aside: Semaphore::new(HOOKS_ASIDE_MAX),
        }
    }
}

impl Turns {
    /// Lets the hooks of one delivery run to their end when it is their turn; none when the agent ends.
    pub(crate) async fn run<T>(&self, hooks: impl Future<Output = T>) -> Option<T> {
        let place = self.work.acquire().await.ok()?;
        let mut hooks = pin!(hooks);
        if let Ok(done) = timeout(HOOKS_WORK_MAX, &mut hooks).await {
            return Some(done);
        }
        // Without room aside the place is kept: there is a limit to what hangs at once.
        let aside = self.aside.try_acquire();
        let _place = aside.is_err().then_some(place);
        Some(hooks.await)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::{Duration, Instant},
    };

    use super::*;

    #[tokio::test]
    async fn hooks_that_hang_hold_up_nobody_elses() {
        let (turns, begun) = (Arc::new(Turns::default()), Arc::new(AtomicUsize::new(0)));
        let hang = |_| {
            let (turns, begun) = (turns.clone(), begun.clone());
            tokio::spawn(async move {
                turns
                    .run(async {
                        begun.fetch_add(1, Ordering::SeqCst);
                        pending::<()>().await;
                    })
                    .await
            })
        };
        let hanging: Vec<_> = (0..2 * HOOKS_AT_ONCE_MAX).map(hang).collect();
        while begun.load(Ordering::SeqCst) < HOOKS_AT_ONCE_MAX {
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        let healthy = timeout(Duration::from_secs(60), turns.run(async { 7 })).await;
        assert_eq!(healthy, Ok(Some(7)), "it waited for those that hang");
        assert!(began.elapsed() >= HOOKS_WORK_MAX, "all places were free");
        hanging.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn where_too_many_hang_places_are_kept() {
        let turns = Arc::new(Turns {
            work: Semaphore::new(1),
            aside: Semaphore::new(0),
        });
        let first = turns.clone();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn(async move { first.run(ended).await });
        while turns.work.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waited = timeout(HOOKS_WORK_MAX + Duration::from_millis(200), turns.run(async {})).await;
        assert!(waited.is_err(), "there is one place");
        end.send(()).unwrap();
        assert_eq!(turns.run(async { 7 }).await, Some(7));
        first.await.unwrap().unwrap().unwrap();
    }
}
