//! A file that is written where blocking is allowed, from values that may come faster: of several the last one is written
//! last, and those before it may be left out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;

/// What waits to be written into one file.
pub(super) struct Saving<T> {
    latest: Mutex<Option<T>>,
    writing: Mutex<()>,
}

impl<T> Default for Saving<T> {
    fn default() -> Self {
        Self {
            latest: Mutex::new(None),
            writing: Mutex::new(()),
        }
    }
}

impl<T: Send + 'static> Saving<T> {
    /// Has `write` write this value, unless a later one comes before its turn.
    pub(super) fn save(self: &Arc<Self>, value: T, write: impl FnOnce(T) + Send + 'static) {
        *locked(&self.latest) = Some(value);
        let saving = self.clone();
        spawn_blocking(move || {
            let _one = locked(&saving.writing);
            let latest = locked(&saving.latest).take();
            if let Some(latest) = latest {
                write(latest);
            }
        });
    }
}

fn locked<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each is replaced whole.
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn the_last_value_is_written_last_however_slow_the_one_before_is() {
        let saving = Arc::<Saving<u32>>::default();
        let (begun, first_began) = mpsc::channel();
        let (go, first_may_end) = mpsc::channel::<()>();
        let (written, values) = mpsc::channel();
        let also = written.clone();
        saving.save(1, move |value| {
            begun.send(()).unwrap();
            first_may_end.recv().unwrap();
            also.send(value).unwrap();
        });
        first_began.recv().unwrap();
        for value in 2..10 {
            let written = written.clone();
            saving.save(value, move |value| written.send(value).unwrap());
        }
        drop(written);
        go.send(()).unwrap();
        assert_eq!(values.into_iter().collect::<Vec<_>>(), [1, 9]);
    }
}
