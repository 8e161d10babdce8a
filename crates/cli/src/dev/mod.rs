//! `mintage dev`: a CA and an agent in one process on loopback, and a tour through what they promise: identities on disk,
//! a mutual TLS call, rotation without a failed call, revocation that ends live connections, and an offline proof.

mod closing;
mod events;
mod party;
mod peers;
mod place;
mod report;
mod stage;
mod steps;
#[cfg(test)]
mod tests;
mod tour;

use std::path::PathBuf;

use clap::Args;

use self::{report::Report, stage::Stage, steps::Steps, tour::Tour};
use crate::{cli::Context, failure::Failure};

/// `dev`.
#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// A new or empty directory for CA, agent and identities [default: a temporary one, which is kept]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Ends after the tour.
    #[arg(long)]
    once: bool,
}

/// Runs the tour, then goes on until Ctrl-C unless told otherwise.
pub(crate) async fn run(context: &Context, dev: Dev) -> Result<(), Failure> {
    if std::env::var_os(mintage_agent::logs::LOG_VARIABLE).is_some() {
        mintage_agent::logs::init();
    }
    let dir = place::make(dev.dir.as_deref())?;
    let mut steps = Steps::begin(context.output);
    steps.tell(&format!("everything is in {}", dir.display()));
    let mut report = Report::new(&dir);
    let outcome = guided(&mut report, &mut steps, dev.once).await;
    report.finish(&mut steps);
    if !context.output.is_table() {
        context.output.object(&report, String::new)?;
    }
    let Some(stage) = outcome? else { return Ok(()) };
    closing::stay(stage, &report, &steps).await
}

/// The tour. What still runs afterwards comes back; with `once` that is nothing.
async fn guided(report: &mut Report, steps: &mut Steps, once: bool) -> Result<Option<Stage>, Failure> {
    let mut stage = Stage::raise(report, steps).await?;
    let toured = match Tour::new(&mut stage, steps, report).await {
        Ok(tour) => tour.walk(&mut stage, report, steps).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = toured {
        // Stopped in order, so that what was made can be looked at.
        stage.stop().await;
        return Err(failure);
    }
    match once {
        true => {
            stage.stop().await;
            report.audit(steps).await?;
            Ok(None)
        }
        false => {
            report.audit(steps).await?;
            Ok(Some(stage))
        }
    }
}
