//! The steps of a tour: timed, and told as they happen.

use std::time::Instant;

use serde::Serialize;

use crate::{
    failure::Failure,
    output::{Output, notice, write},
    text::{millis, printable},
};

/// One step that was taken.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    name: &'static str,
    ok: bool,
    ms: f64,
}

/// The steps so far.
#[derive(Debug)]
pub(super) struct Steps {
    /// People read on standard output; beside JSON they read on standard error.
    output: Output,
    begun: Instant,
    taken: Vec<Step>,
}

impl Steps {
    pub(super) fn begin(output: Output) -> Self {
        Self {
            output,
            begun: Instant::now(),
            taken: Vec::new(),
        }
    }

    /// A line for people.
    pub(super) fn tell(&self, line: &str) {
        if self.output.is_table() {
            // Whoever no longer reads does not stop the tour.
            let _ = write(&format!("{}\n", printable(line)));
        } else {
            notice(line);
        }
    }

    /// Takes a step: `work` gives its value and a line that tells what was done.
    pub(super) async fn take<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(T, String), Failure>>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        let outcome = work.await;
        let ms = millis(begun.elapsed());
        self.taken.push(Step {
            name,
            ok: outcome.is_ok(),
            ms,
        });
        let at = self.begun.elapsed().as_secs_f64();
        match outcome {
            Ok((value, line)) => {
                self.tell(&format!("{at:7.3} s  {name:8} {line} ({ms:.0} ms)"));
                Ok(value)
            }
            Err(failure) => {
                self.tell(&format!("{at:7.3} s  {name:8} failed after {ms:.0} ms"));
                Err(failure)
            }
        }
    }

    /// Everything that was taken.
    pub(super) fn taken(&self) -> Vec<Step> {
        self.taken.clone()
    }

    /// Seconds since the tour began.
    pub(super) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    #[tokio::test]
    async fn a_step_that_fails_is_kept_as_failed() {
        let mut steps = Steps::begin(Output::new(Format::Json));
        let good = steps.take("good", async { Ok((7, "fine".to_owned())) }).await;
        assert_eq!(good.unwrap(), 7);
        let bad = steps
            .take("bad", async { Err::<((), String), _>(Failure::local("no")) })
            .await;
        assert_eq!(bad.unwrap_err().code(), 1);
        let json = serde_json::to_value(steps.taken()).unwrap();
        assert_eq!(
            (json[0]["ok"].as_bool(), json[1]["ok"].as_bool()),
            (Some(true), Some(false))
        );
        assert_eq!(json[1]["name"], "bad");
    }
}
