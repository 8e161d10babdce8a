//! Keeps the issuing key's list current: a new one after each change of what is revoked, at most one a second, and one
//! before half of the validity of the last is over.

use std::sync::Arc;

use mintage_identity::UnixTime;
use mintage_mint::{limits::BACKDATE, sign_crl};
use mintage_state::View;
use mintage_svid::{CertInfo, Crl};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    SignedList,
    entries::entries,
    root::{RootList, number_at},
};
use crate::{
    data_dir::{DataDir, ROOT},
    desk::Desk,
    error::CaError,
    limits::{CRL_LOOK_INTERVAL, CRL_PACE},
};

/// What was signed last.
struct Signed {
    sequence: u64,
    number: u64,
    at: UnixTime,
}

/// Follows the state until told to stop.
pub(crate) async fn keep(desk: Arc<Desk>, stop: CancellationToken) {
    let mut views = desk.state.subscribe();
    let mut look = tokio::time::interval(CRL_LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut signed: Option<Signed> = None;
    if let Some(root) = desk.crls.root.load().as_ref() {
        note(&desk, "root", root);
    }
    loop {
        let view = views.borrow_and_update().clone();
        if is_due(&desk, signed.as_ref(), &view) {
            let pause = match next(&desk, view, signed.as_ref()).await {
                Ok(new) => {
                    signed = Some(new);
                    CRL_PACE
                }
                Err(problem) => {
                    error!(%problem, "the list of revoked certificates could not be signed; the former one stays");
                    CRL_LOOK_INTERVAL
                }
            };
            // Whatever is revoked meanwhile comes into one list.
            tokio::select! {
                () = tokio::time::sleep(pause) => continue,
                () = stop.cancelled() => return,
            }
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
    }
}

fn is_due(desk: &Desk, signed: Option<&Signed>, view: &View) -> bool {
    let Some(signed) = signed else { return true };
    let now = desk.clock.unguarded();
    // A clock that was set back makes it due too: the list would begin in the future.
    let aged = now.since(signed.at) >= desk.crls.settings.validity / 2 || now < signed.at.minus(BACKDATE);
    aged || view.revoked().sequence() > signed.sequence
}

/// Signs the list of what this view says, and publishes it.
async fn next(desk: &Arc<Desk>, view: Arc<View>, last: Option<&Signed>) -> Result<Signed, String> {
    // A certificate that was recorded before its revocation has to be in the index, or the list would lack it.
    if let Some(index) = view.applied().checked_sub(1) {
        let stopped = || "the index follows the ledger no longer".to_owned();
        desk.index.wait_applied(index).await.ok_or_else(stopped)?;
    }
    let sequence = view.revoked().sequence();
    let number = last.map_or_else(|| desk.crls.number.first(), |last| last.number + 1);
    let worker = desk.clone();
    let made = tokio::task::spawn_blocking(move || sign(&worker, &view, number));
    let (list, at) = made.await.map_err(|error| error.to_string())??;
    let number = list.list.number();
    debug!(
        sequence,
        number,
        entries = list.list.entries(),
        "list of revoked certificates signed"
    );
    desk.metrics.crl_signed();
    note(desk, "issuer", &list);
    desk.crls.publish(list);
    Ok(Signed { sequence, number, at })
}

/// Blocks while it walks through the live certificates and signs. The number is the time, or `least` when that is more.
fn sign(desk: &Desk, view: &View, least: u64) -> Result<(SignedList, UnixTime), String> {
    let now = desk.clock.unguarded();
    let issuer = desk.issuer.key_id();
    let listed = entries(&desk.index, view, issuer, now);
    let mut listed = listed.map_err(|error| error.to_string())?;
    if !desk.crls.settings.reasons {
        listed.iter_mut().for_each(|entry| entry.reason = None);
    }
    let (begin, end) = (now.minus(BACKDATE), now.plus(desk.crls.settings.validity));
    let number = number_at(now).max(least);
    let der = sign_crl(&desk.issuer, number, begin, end, &listed);
    let list = der.map_err(|error| error.to_string())?;
    let list = Crl::parse(&list).map_err(|error| error.to_string())?;
    desk.crls.number.keep(number);
    Ok((SignedList::new(issuer, list), now))
}

/// Takes up the root's list that lies in the data directory now, when it is newer than the one that is served.
///
/// # Errors
/// It cannot be read, or is not the list of the root.
pub(crate) fn take_root(desk: &Desk, data: &DataDir) -> Result<(), CaError> {
    let root = data.certificate(ROOT)?;
    let info = CertInfo::parse_signing(&root).map_err(|error| data.problem(format!("{ROOT}: {error}")))?;
    let is_other = info.key_id() != desk.issuer.key_id();
    let Some(new) = RootList::read(data, &info)?.filter(|_| is_other) else {
        return Ok(());
    };
    let held = desk.crls.root.load().as_ref().map_or(0, |held| held.list.number());
    if new.0.list.number() > held {
        note(desk, "root", &new.0);
        info!(
            number = new.0.list.number(),
            "the root's list of revoked certificates was renewed"
        );
        desk.crls.publish_root(new.0);
    }
    Ok(())
}

/// Tells the metrics of a list, and warns of one that is over.
fn note(desk: &Desk, ca: &'static str, of: &SignedList) {
    let end = of.list.next_update();
    desk.metrics.crl(ca, end.seconds(), of.list.entries());
    if end < desk.clock.unguarded() {
        warn!(
            ca,
            "this list of revoked certificates is over; whoever checks lists refuses the chains below it"
        );
    }
}
