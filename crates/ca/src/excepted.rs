//! What lives while a set of revocations is published: none of it may be struck by a filter that takes it for something else.

use mintage_identity::UnixTime;
use mintage_ledger::LedgerError;
use mintage_revocation::LiveSerial;
use tracing::warn;

use crate::index::Index;

/// What lives when a set is published.
pub(crate) struct Live<I> {
    pub(crate) serials: I,
    /// Every certificate is among them that was recorded before the set's last revocation.
    pub(crate) is_whole: bool,
}

/// The certificates of the records before `end` that live at `now`, those too that the index has not come to: the filter could
/// strike them wrongly. Where they cannot be read either, the revocation goes out all the same, and the next one makes good
/// what was missed; whoever is struck wrongly meanwhile asks for another certificate.
pub(crate) fn live(
    index: &Index,
    end: u64,
    now: UnixTime,
) -> Result<Live<impl Iterator<Item = LiveSerial>>, LedgerError> {
    let to_come = index.serials_to_come(end);
    if let Err(error) = &to_come {
        warn!(%error, "a revocation goes on without certificates that the index lacks; the next one looks at them");
    }
    let is_whole = to_come.is_ok();
    let serials = index.live_serials(now)?.chain(to_come.unwrap_or_default());
    Ok(Live { serials, is_whole })
}

#[cfg(test)]
mod tests {
    use mintage_identity::{RevocationReason, Serial};
    use mintage_ledger::Search;
    use mintage_revocation::{Revocation, RevokedSerial, RevokedSet, Verdict, Why};
    use mintage_svid::LeafInfo;

    use super::*;
    use crate::{desk::Desk, limits::INDEX_LAG_READ_MAX, pusher::tests::told_anew, trial::Trial};

    /// Another serial with the same fingerprint: one more in the high half of what it is made of, the multiplier less in the low.
    fn twin(of: &Serial) -> Serial {
        const MASK: u64 = (1 << 48) - 1;
        let mut octets: [u8; 16] = of.padded()[4..].try_into().unwrap();
        let half = |at: usize| {
            octets[at..at + 6]
                .iter()
                .fold(0_u64, |value, &o| value << 8 | u64::from(o))
        };
        let high = half(4).wrapping_add(1) & MASK;
        let low = half(10).wrapping_sub(0x9e37_79b9_7f4b) & MASK;
        octets[4..10].copy_from_slice(&high.to_be_bytes()[2..]);
        octets[10..].copy_from_slice(&low.to_be_bytes()[2..]);
        Serial::from_random(octets)
    }

    /// Folds in the revocation of one more serial, which ends with `leaf`.
    fn strike(set: &mut RevokedSet, desk: &Desk, leaf: &LeafInfo, serial: Serial) {
        let (issuer, not_after) = (desk.issuer.key_id(), leaf.not_after());
        let revocation = Revocation {
            at: leaf.not_before(),
            serials: vec![RevokedSerial {
                issuer,
                serial,
                not_after,
            }],
            rules: Vec::new(),
            reason: RevocationReason::Unspecified,
        };
        set.apply_revocation(set.sequence() + 1_000, &revocation).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_certificate_that_the_index_lacks_is_struck_by_no_serial_that_looks_like_its_own() {
        let trial = Trial::open().await;
        let desk = &trial.desk;
        trial.entries(["a"]).await;
        let agent = trial.agent("n1").await;
        let leaf = trial.certificate(&agent, "a").await;
        // An index that has come to nothing yet.
        let lagging = Index::new(Search::new(), desk.journal.clone());
        let (end, now) = (desk.journal.size(), desk.clock.unguarded());
        assert_eq!(lagging.live_serials(now).unwrap().count(), 0);
        let known: Vec<LiveSerial> = live(&desk.index, end, now).unwrap().serials.collect();
        let mut set = desk.state.view().revoked().clone();
        strike(&mut set, desk, &leaf, twin(leaf.serial()));
        let of_ledger = live(&lagging, end, now).unwrap();
        assert!(of_ledger.is_whole);
        desk.publisher.advance(&set, of_ledger, now).unwrap().unwrap();
        assert_eq!(told_anew(desk, &leaf), Verdict::Good);
        let of_ledger = live(&lagging, end, now).unwrap().serials;
        let of_ledger: Vec<LiveSerial> = of_ledger.collect();
        assert!(known.iter().all(|live| of_ledger.contains(live)), "{of_ledger:?}");
        // What is too much to be read, or is not there, is told.
        for end in [end + 1, INDEX_LAG_READ_MAX + 1] {
            assert!(!live(&lagging, end, now).unwrap().is_whole, "{end}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_was_struck_wrongly_because_nobody_could_look_is_good_with_the_next_revocation() {
        let trial = Trial::open().await;
        let desk = &trial.desk;
        trial.entries(["a"]).await;
        let agent = trial.agent("n1").await;
        let leaf = trial.certificate(&agent, "a").await;
        let (end, now) = (desk.journal.size(), desk.clock.unguarded());
        let mut set = desk.state.view().revoked().clone();
        // Neither the index nor the ledger could be asked, twice.
        for serial in [twin(leaf.serial()), Serial::from_random([1; 16])] {
            strike(&mut set, desk, &leaf, serial);
            let none = Live {
                serials: std::iter::empty(),
                is_whole: false,
            };
            desk.publisher.advance(&set, none, now).unwrap().unwrap();
            assert_eq!(told_anew(desk, &leaf), Verdict::Revoked { why: Why::Serial });
        }
        strike(&mut set, desk, &leaf, Serial::from_random([2; 16]));
        let all = live(&desk.index, end, now).unwrap();
        desk.publisher.advance(&set, all, now).unwrap().unwrap();
        assert_eq!(told_anew(desk, &leaf), Verdict::Good);
    }
}
