//! One look for many: whoever asks while a look is under way shares the next one with everybody else who waits, so that a
//! thousand streams of one process that are sent the same news cost two looks at it.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::{sync::Mutex, task::yield_now};

use super::attesting::NotAttested;

/// Whether the process is the same; or why that is not known.
type Seen = Result<bool, NotAttested>;

/// What was asked and what was seen.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// How often was asked.
    asked: AtomicU64,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    /// How often had been asked when it began: it answers all of those.
    answers: u64,
    seen: Seen,
}

impl Default for Last {
    fn default() -> Self {
        Self {
            answers: 0,
            seen: Ok(false),
        }
    }
}

impl Looks {
    /// What a look found that began after this call did.
    pub(super) async fn look<F: Future<Output = Seen>>(&self, look: impl FnOnce() -> F) -> Seen {
        let own = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.last.lock().await;
        if last.answers < own {
            // A look may come back at once: whoever was woken by the same news asks first.
            yield_now().await;
            let answers = self.asked.load(Ordering::SeqCst);
            let seen = look().await;
            *last = Last { answers, seen };
        }
        last.seen.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn many_who_ask_during_a_look_share_the_next_one_and_nobody_takes_an_older() {
        let (looks, made, may) = (
            Arc::<Looks>::default(),
            Arc::<AtomicUsize>::default(),
            Arc::new(Semaphore::new(0)),
        );
        let ask = |good: bool| {
            let (looks, made, may) = (looks.clone(), made.clone(), may.clone());
            tokio::spawn(async move {
                let look = async || {
                    made.fetch_add(1, Ordering::SeqCst);
                    may.acquire().await.unwrap().forget();
                    Ok(good)
                };
                looks.look(look).await.unwrap()
            })
        };
        let first = ask(true);
        while made.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // It changes now: whoever asks from here on must not be told what the look under way sees.
        let others: Vec<_> = (0..1_000).map(|_| ask(false)).collect();
        while looks.asked.load(Ordering::SeqCst) < 1_001 {
            tokio::task::yield_now().await;
        }
        may.add_permits(2);
        assert!(first.await.unwrap());
        for other in others {
            assert!(!other.await.unwrap());
        }
        assert_eq!(made.load(Ordering::SeqCst), 2);
    }
}
