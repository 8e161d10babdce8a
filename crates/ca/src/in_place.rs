//! Work that blocks, in one of few places. A place is given back when the work ends, not when somebody no longer waits for
//! it: a caller that hangs up cannot have more in work than there are places.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Waits for a place, and does the work there on a thread that may wait; `None` when it ended without an answer.
pub(crate) async fn in_place<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let place = places.clone().acquire_owned().await.ok()?;
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(place);
        done
    });
    done.await.ok()
}

/// Does work that may wait for files in the middle of a task that goes on right after; other tasks of this thread go on
/// elsewhere, where there is an elsewhere.
pub(crate) fn waiting<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_done_on_one_thread_too() {
        assert_eq!(waiting(|| 7), 7);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_while_one_waits() {
        let (say, said) = mpsc::channel();
        let waits = tokio::spawn(async move { waiting(|| said.recv_timeout(std::time::Duration::from_secs(60))) });
        tokio::spawn(async move { say.send(7) });
        assert_eq!(waits.await.unwrap(), Ok(7));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_place_is_taken_until_the_work_ends_though_nobody_waits_for_it() {
        let places = Arc::new(Semaphore::new(1));
        let ((begin, begun), (end, ended)) = (mpsc::channel(), mpsc::channel::<()>());
        let work = move || {
            begin.send(()).unwrap();
            ended.recv().unwrap();
        };
        let mut asked = Box::pin(in_place(&places, work));
        assert!((&mut asked).now_or_never().is_none());
        drop(asked);
        begun.recv().unwrap();
        assert_eq!(places.available_permits(), 0, "it goes on");
        end.send(()).unwrap();
        assert_eq!(in_place(&places, || 7).await, Some(7));
        assert_eq!(in_place::<()>(&places, || panic!("a mistake")).await, None);
        assert_eq!(places.available_permits(), 1);
    }
}
