//! Standard output for a program that goes on: a thread of its own writes, so that a reader who pauses stops nothing else.

#[cfg(test)]
pub(crate) use at_once::Lines;
#[cfg(not(test))]
pub(crate) use by_thread::Lines;

/// Whether anybody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// More may be written.
    Stays,
    /// It has closed its end, which is no failure: there is nobody to write for.
    Left,
}

#[cfg(not(test))]
mod by_thread {
    use std::io;

    use tokio::sync::{mpsc, oneshot};

    use super::Reader;
    use crate::{failure::Failure, limits::LINES_QUEUE, output::sink};

    /// Standard output, written in the order of the calls.
    pub(crate) struct Lines {
        queue: mpsc::Sender<Vec<u8>>,
        /// Taken when the thread has said its last word.
        ended: Option<oneshot::Receiver<io::Result<()>>>,
    }

    impl Lines {
        /// Starts the thread, which ends with this value.
        ///
        /// # Errors
        /// When the system gives none.
        pub(crate) fn start() -> Result<Self, Failure> {
            let (queue, mut waiting) = mpsc::channel::<Vec<u8>>(LINES_QUEUE);
            let (told, ended) = oneshot::channel();
            let write = move || {
                let mut outcome = Ok(());
                while outcome.is_ok() {
                    let Some(data) = waiting.blocking_recv() else { break };
                    outcome = sink::data(&data);
                }
                let _ = told.send(outcome);
            };
            let thread = std::thread::Builder::new().name("stdout".into()).spawn(write);
            thread.map_err(|error| Failure::local(format!("the system gives no thread: {error}")))?;
            Ok(Self {
                queue,
                ended: Some(ended),
            })
        }

        /// Hands data to the thread; waits when the reader is slow.
        ///
        /// # Errors
        /// When standard output cannot be written.
        pub(crate) async fn write(&mut self, data: Vec<u8>) -> Result<Reader, Failure> {
            match self.queue.send(data).await {
                Ok(()) => Ok(Reader::Stays),
                Err(_) => last_word(self.ended.take()).await,
            }
        }

        /// Waits until everything is written.
        ///
        /// # Errors
        /// When standard output cannot be written.
        pub(crate) async fn finish(self) -> Result<(), Failure> {
            drop(self.queue);
            last_word(self.ended).await.map(|_| ())
        }
    }

    async fn last_word(ended: Option<oneshot::Receiver<io::Result<()>>>) -> Result<Reader, Failure> {
        let Some(ended) = ended else { return Ok(Reader::Left) };
        match ended.await {
            Ok(Ok(())) => Ok(Reader::Stays),
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Left),
            Ok(Err(error)) => Err(Failure::local(format!("standard output cannot be written: {error}"))),
            Err(_) => Err(Failure::local("the thread that writes standard output has failed")),
        }
    }
}

/// In tests everything goes to the thread that printed, at once.
#[cfg(test)]
mod at_once {
    use super::Reader;
    use crate::{failure::Failure, output::sink};

    pub(crate) struct Lines;

    impl Lines {
        pub(crate) fn start() -> Result<Self, Failure> {
            Ok(Self)
        }

        pub(crate) async fn write(&mut self, data: Vec<u8>) -> Result<Reader, Failure> {
            sink::data(&data).map_err(Failure::local)?;
            Ok(Reader::Stays)
        }

        pub(crate) async fn finish(self) -> Result<(), Failure> {
            Ok(())
        }
    }
}
