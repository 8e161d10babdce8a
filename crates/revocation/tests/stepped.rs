//! A clock that was ahead for a while, the publisher's with it: what was taken up meanwhile is mended as soon as it is right again,
//! and nothing is good that is not known to be.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod publisher;

use mintage_identity::UnixTime;
use mintage_revocation::{Beat, MapOwner, MapReader, MapWriter, Replica, RevocationError, Verdict};
use publisher::{BY_SERIAL, Cert, Publisher, START, domain, seconds};

const AHEAD: UnixTime = UnixTime::from_seconds(1_900_000_000 + 3_600);
const BACK: UnixTime = UnixTime::from_seconds(1_900_000_000 + 10);

fn beat(publisher: &mut Publisher, replica: &mut Replica, now: UnixTime) -> Result<Beat, RevocationError> {
    publisher.now = now;
    replica.heartbeat(&publisher.heartbeat(), now)
}

/// A certificate of two hours: it lives at [`AHEAD`] too.
fn long(seed: u64) -> Cert {
    Cert {
        not_after: START.plus(seconds(7_200)),
        ..Cert::new(seed)
    }
}

#[test]
fn a_follower_takes_the_set_anew_that_a_step_ahead_cut_short() {
    let mut publisher = Publisher::new();
    let (struck, good, longer) = (Cert::new(1), Cert::new(2), long(3));
    publisher.revoke_serial(&struck);
    let mut replica = publisher.current_follower();
    assert_eq!(beat(&mut publisher, &mut replica, AHEAD).unwrap(), Beat::Current);
    // Back in time: the heartbeat that came ahead is none, and what the horizon took is known to be missing.
    assert_eq!(longer.check(&replica.view(), BACK), Verdict::Stale);
    let error = beat(&mut publisher, &mut replica, BACK).unwrap_err();
    assert!(matches!(error, RevocationError::BrokenChain { .. }), "{error}");
    assert_eq!(longer.check(&replica.view(), BACK), Verdict::Good);
    for short in [&struck, &good] {
        assert_eq!(short.check(&replica.view(), BACK), Verdict::NotCovered);
    }
    // The same sequence again, whole.
    let applied = replica.apply_snapshot(&publisher.snapshot(), BACK).unwrap();
    assert!(applied.added.everything);
    assert_eq!(struck.check(&replica.view(), BACK), BY_SERIAL);
    assert_eq!(good.check(&replica.view(), BACK), Verdict::Good);
    assert_eq!(beat(&mut publisher, &mut replica, BACK).unwrap(), Beat::Current);
}

#[test]
fn a_horizon_within_the_skew_of_clocks_is_no_reason_for_a_snapshot() {
    let mut publisher = Publisher::new();
    let mut replica = publisher.current_follower();
    for now in [START.plus(seconds(60)), START] {
        assert_eq!(
            beat(&mut publisher, &mut replica, now).unwrap(),
            Beat::Current,
            "{now:?}"
        );
    }
}

#[test]
fn readers_of_the_map_see_the_right_time_again_across_a_restart_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revocation.map");
    for restarts in [false, true] {
        let mut publisher = Publisher::new();
        let longer = long(1);
        let mut replica = publisher.current_follower();
        let mut writer = MapWriter::create(&path, &domain()).unwrap();
        assert!(writer.publish(&replica.view(), START).unwrap());
        let reader = MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap();
        beat(&mut publisher, &mut replica, AHEAD).unwrap();
        assert!(writer.publish(&replica.view(), AHEAD).unwrap());
        assert_eq!(reader.check(&longer.query(), BACK), Verdict::Stale);
        if restarts {
            drop(writer);
            writer = MapWriter::create(&path, &domain()).unwrap();
            // The saved set is that of before.
            replica = publisher.follower();
            publisher.now = START;
            replica.restore_snapshot(&publisher.snapshot(), BACK).unwrap();
        } else {
            beat(&mut publisher, &mut replica, BACK).unwrap_err();
            replica.apply_snapshot(&publisher.snapshot(), BACK).unwrap();
        }
        assert!(writer.publish(&replica.view(), BACK).unwrap());
        beat(&mut publisher, &mut replica, BACK).unwrap();
        assert!(writer.publish(&replica.view(), BACK).unwrap());
        assert_eq!(reader.check(&longer.query(), BACK), Verdict::Good, "{restarts}");
        assert_eq!(reader.check(&longer.query(), BACK.plus(seconds(60))), Verdict::Stale);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_map_of_the_future_gives_way_to_a_fresh_word_and_to_no_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revocation.map");
    let mut publisher = Publisher::new();
    let mut behind = publisher.current_follower();
    publisher.revoke_serial(&long(1));
    publisher.now = AHEAD;
    let ahead = publisher.current_follower();
    let mut writer = MapWriter::create(&path, &domain()).unwrap();
    assert!(writer.publish(&ahead.view(), AHEAD).unwrap());
    drop(writer);

    let mut writer = MapWriter::create(&path, &domain()).unwrap();
    let later = START.plus(seconds(300));
    assert!(!writer.publish(&behind.view(), later).unwrap(), "it was saved long ago");
    // A CA that was made anew knows less, and says so now.
    let mut anew = Publisher {
        set: mintage_revocation::RevokedSet::new(&domain()),
        ..publisher
    };
    for (sequence, id) in [(1, publisher::NATIVE), (2, publisher::FOREIGN)] {
        let serials = mintage_revocation::SerialKind::Native;
        let coverage = mintage_revocation::IssuerCoverage {
            id,
            serials,
            until: None,
        };
        anew.set.cover_issuer(sequence, &coverage).unwrap();
    }
    anew.now = later;
    behind = anew.current_follower();
    assert!(writer.publish(&behind.view(), later).unwrap());
}
