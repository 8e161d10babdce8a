//! The ends of the CA's keys and of the root's CRL, told before they come: a gauge for each, warnings while there is time to
//! act, and not ready once the issuing CA can give nothing away any more. Asks are refused by the mint itself; this is for
//! the people who run the CA.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mintage_identity::UnixTime;
use mintage_ledger::wire::{CaEventKind, CaRole};
use mintage_state::View;
use mintage_svid::LeafInfo;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    crls::ROOT_CRL_REMEDY,
    desk::Desk,
    health::Trouble,
    limits::{CRL_END_WARNING, KEY_END_LOOK_INTERVAL, KEY_END_WARNING, OWN_END_WARNING, ROOT_END_WARNING},
};

/// Warnings of one key between the first and its end.
const WARNINGS: u32 = 14;

/// A key whose end is watched; its word is the label of its gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Watched {
    Root,
    Issuer,
    Revocation,
    Replica,
    /// No key: the root's list of revoked certificates, which ends like one.
    RootList,
}

impl Watched {
    const fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuer => "issuer",
            Self::Revocation => "revocation",
            Self::Replica => "replica",
            Self::RootList => "root-crl",
        }
    }

    /// How long before its end it is warned of.
    const fn warned_before(self) -> Duration {
        match self {
            Self::Root => ROOT_END_WARNING,
            Self::Issuer | Self::Revocation => KEY_END_WARNING,
            Self::Replica => OWN_END_WARNING,
            Self::RootList => CRL_END_WARNING,
        }
    }

    const fn what_to_do(self) -> &'static str {
        match self {
            Self::Root => "plan a new root: every verifier has to trust it before this one ends",
            Self::Issuer => "rotate it: nothing is issued after it",
            Self::Revocation => "delegate to a new one: verifiers take no revocation news signed after it",
            Self::Replica => "its renewal keeps failing: the lines about it tell why; nobody can connect after it",
            Self::RootList => ROOT_CRL_REMEDY,
        }
    }
}

/// Every end that is known now; of several active keys of one kind the first end.
fn ends(desk: &Desk) -> BTreeMap<Watched, UnixTime> {
    let view = desk.state.view();
    let own = desk
        .own_certificate
        .load_full()
        .and_then(|der| LeafInfo::parse(&der).ok())
        .map(|leaf| leaf.not_after());
    let known = [
        (Watched::Root, first_end(&view, CaRole::Root)),
        (Watched::Issuer, Some(desk.issuer.not_after())),
        (Watched::Revocation, first_end(&view, CaRole::Revocation)),
        (Watched::Replica, own),
        (Watched::RootList, desk.crls.root_end()),
    ];
    known.into_iter().filter_map(|(key, end)| Some((key, end?))).collect()
}

fn first_end(view: &View, role: CaRole) -> Option<UnixTime> {
    let active = view
        .ca_keys()
        .filter(|key| key.role == role && key.stage == CaEventKind::Activate);
    active.filter_map(|key| key.not_after).min()
}

/// Brings the gauges up to date.
pub(crate) fn measure(desk: &Desk) {
    // A list has a gauge of its own.
    for (key, end) in ends(desk).into_iter().filter(|(key, _)| *key != Watched::RootList) {
        desk.metrics.ca_expires(key.word(), end.seconds());
    }
}

/// What was warned of, and when.
#[derive(Debug, Default)]
struct Warned(BTreeMap<Watched, (UnixTime, UnixTime)>);

impl Warned {
    /// The keys that are to be warned of now, with the life that is left: within the time before their end, and not too
    /// soon after the last warning of the same end.
    fn due(&mut self, ends: &BTreeMap<Watched, UnixTime>, now: UnixTime) -> Vec<(Watched, Duration)> {
        let mut due = Vec::new();
        for (&key, &end) in ends {
            let left = end.since(now);
            let pause = key.warned_before() / WARNINGS;
            let told = self.0.get(&key).filter(|(of, _)| *of == end);
            if left < key.warned_before() && told.is_none_or(|(_, at)| now.since(*at) >= pause) {
                self.0.insert(key, (end, now));
                due.push((key, left));
            }
        }
        due
    }
}

/// Looks at the clock until told to stop.
pub(crate) async fn watch(desk: Arc<Desk>, stop: CancellationToken) {
    let mut look = tokio::time::interval(KEY_END_LOOK_INTERVAL);
    let mut warned = Warned::default();
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = desk.clock.unguarded();
        readiness(&desk, now);
        for (key, left) in warned.due(&ends(&desk), now) {
            let (ca, todo) = (key.word(), key.what_to_do());
            let minutes = left.as_secs() / 60;
            match (key, left.is_zero()) {
                (Watched::RootList, true) => error!(ca, todo, "the root's list of revoked certificates has ended"),
                (Watched::RootList, false) => {
                    warn!(ca, todo, minutes, "the root's list of revoked certificates ends soon");
                }
                (_, true) => error!(ca, todo, "a key of the CA has ended"),
                (_, false) => warn!(ca, todo, minutes, "a key of the CA ends soon"),
            }
        }
    }
}

/// Not ready while the issuing CA has nothing to give away.
fn readiness(desk: &Desk, now: UnixTime) {
    match desk.issuer.check_life(now) {
        Err(problem) => {
            if desk.health.trouble(Trouble::Issuer, problem.to_string()) {
                error!(%problem, "nothing is issued any more");
            }
        }
        Ok(()) => {
            if desk.health.over(Trouble::Issuer) {
                info!("the issuing CA has life left again: the clock was wrong");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn each_key_is_warned_of_in_its_own_time_and_not_without_end() {
        let now = UnixTime::from_seconds(1_800_000_000);
        let ends = BTreeMap::from([
            (Watched::Root, now.plus(DAY * 200)),
            (Watched::Issuer, now.plus(DAY * 13)),
            (Watched::Revocation, now.plus(DAY * 15)),
            (Watched::Replica, now.plus(Duration::from_secs(1800))),
            (Watched::RootList, now.plus(DAY * 30)),
        ]);
        let mut warned = Warned::default();
        let mut due =
            |ends: &_, now| -> Vec<Watched> { warned.due(ends, now).into_iter().map(|(key, _)| key).collect() };
        assert_eq!(due(&ends, now), [Watched::Issuer]);
        assert_eq!(due(&ends, now), [], "told already");
        assert_eq!(
            due(&ends, now.plus(DAY / 2)),
            [Watched::Replica],
            "a daily warning is not due yet"
        );
        assert_eq!(
            due(&ends, now.plus(DAY * 2)),
            [Watched::Issuer, Watched::Revocation, Watched::Replica]
        );
        assert_eq!(
            due(&ends, now.plus(DAY * 21)),
            [
                Watched::Root,
                Watched::Issuer,
                Watched::Revocation,
                Watched::Replica,
                Watched::RootList
            ],
            "also past the end"
        );
        let renewed = BTreeMap::from([(Watched::Replica, now.plus(DAY * 21 + OWN_END_WARNING / 2))]);
        assert_eq!(
            due(&renewed, now.plus(DAY * 21)),
            [Watched::Replica],
            "another end is news"
        );
    }

    #[test]
    fn the_life_that_is_left_is_told_and_never_below_nothing() {
        let now = UnixTime::from_seconds(1_800_000_000);
        let ends = BTreeMap::from([(Watched::Issuer, now.minus(DAY)), (Watched::Revocation, now.plus(DAY))]);
        let due = Warned::default().due(&ends, now);
        assert_eq!(due, [(Watched::Issuer, Duration::ZERO), (Watched::Revocation, DAY)]);
    }
}
