//! The end of the issuing CA, told before it comes: warnings while there is time to rotate, not ready once nothing can be
//! issued any more. Asks are refused by the mint itself; this is for the people who run the CA.

use std::sync::Arc;

use mintage_identity::UnixTime;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    desk::Desk,
    health::Trouble,
    limits::{ISSUER_LOOK_INTERVAL, ISSUER_WARNING, ISSUER_WARNING_INTERVAL},
};

/// Looks at the clock until told to stop.
pub(crate) async fn watch(desk: Arc<Desk>, stop: CancellationToken) {
    let mut look = tokio::time::interval(ISSUER_LOOK_INTERVAL);
    let mut warned: Option<UnixTime> = None;
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = desk.clock.unguarded();
        if let Err(problem) = desk.issuer.check_life(now) {
            if desk.health.trouble(Trouble::Issuer, problem.to_string()) {
                error!(%problem, "nothing is issued any more");
            }
            continue;
        }
        if desk.health.over(Trouble::Issuer) {
            info!("the issuing CA has life left again: the clock was wrong");
        }
        let left = desk.issuer.not_after().since(now);
        if left < ISSUER_WARNING && warned.is_none_or(|at| now.since(at) >= ISSUER_WARNING_INTERVAL) {
            warn!(hours = left.as_secs() / 3600, "the issuing CA ends soon: rotate it");
            warned = Some(now);
        }
    }
}
