//! What the agent tells, awaited one thing at a time; a wait that ends in vain names the last problem.

use std::time::Duration;

use mintage_agent::AgentEvent;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, timeout_at},
};

use crate::failure::Failure;

/// Nothing on one machine takes longer, unless it never comes.
pub(super) const WAIT: Duration = Duration::from_secs(15);

/// The agent's events from its start on.
#[derive(Debug)]
pub(super) struct Events {
    receiver: Receiver<AgentEvent>,
    last_problem: Option<String>,
    wait: Duration,
}

impl Events {
    pub(super) fn new(receiver: Receiver<AgentEvent>) -> Self {
        Self {
            receiver,
            last_problem: None,
            wait: WAIT,
        }
    }

    /// The next event; `None` when the agent has ended.
    pub(super) async fn next(&mut self) -> Option<AgentEvent> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => {
                    if let AgentEvent::Problem {
                        stage,
                        subject,
                        message,
                    } = &event
                    {
                        self.last_problem = Some(format!("{stage} {subject}: {message}"));
                    }
                    return Some(event);
                }
                // Lost news: what is awaited may still come.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Waits until `is_done` says so of an event; every event before is shown to it.
    ///
    /// # Errors
    /// When it does not come in time, or the agent ends; with the last problem the agent told.
    pub(super) async fn until(
        &mut self,
        what: &str,
        mut is_done: impl FnMut(&AgentEvent) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + self.wait;
        loop {
            match timeout_at(deadline, self.next()).await {
                Ok(Some(event)) => {
                    if is_done(&event)? {
                        return Ok(());
                    }
                }
                Ok(None) => return Err(self.vain(&format!("the agent ended before {what}"))),
                Err(_) => return Err(self.vain(&format!("{what} did not come about within {} s", self.wait.as_secs()))),
            }
        }
    }

    fn vain(&self, text: &str) -> Failure {
        match &self.last_problem {
            Some(problem) => Failure::local(format!("{text}; the agent's last problem: {problem}")),
            None => Failure::local(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;

    #[tokio::test]
    async fn a_wait_in_vain_names_the_last_problem() {
        let (sender, receiver) = broadcast::channel(4);
        let mut events = Events::new(receiver);
        events.wait = Duration::from_millis(20);
        let problem = AgentEvent::Problem {
            stage: "join",
            subject: "127.0.0.1:1".into(),
            message: "refused".into(),
        };
        sender.send(problem).unwrap();
        let told = events.until("joining", |_| Ok(false)).await.unwrap_err().to_string();
        assert!(
            told.contains("joining did not come about") && told.contains("join 127.0.0.1:1: refused"),
            "{told}"
        );
        drop(sender);
        let told = events.until("joining", |_| Ok(false)).await.unwrap_err().to_string();
        assert!(told.contains("ended before joining"), "{told}");
    }
}
