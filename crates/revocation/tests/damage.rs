//! Damaged and hostile maps and heartbeats: an error, or the set that is held. Never a panic, and never a read past the end.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod publisher;

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use mintage_identity::IdPrefix;
use mintage_revocation::{Exception, MapOwner, MapReader, MapWriter, RuleTarget, Verdict};
use mintage_sys::{dir::Dir, map::WriteMap};
use proptest::{prelude::*, sample::Index};
use publisher::{BY_SERIAL, Cert, FOREIGN, NATIVE, Publisher, START, domain, seconds, twin};
use ring::digest::{SHA256, digest};

/// Octets of the header, of its fixed part, and of what moves (FORMAT.md, section 7).
const HEADER: usize = 512;
const FIXED: usize = 13 * 8;
const DIRECTORY_OCTETS: std::ops::Range<usize> = 32..40;
const DIRECTORY_SHA256: std::ops::Range<usize> = 40..72;
const STATE: usize = 16;
const SEQUENCE: usize = 17;
const HEARTBEAT: usize = 18;
const HORIZON: usize = 19;
const GENERATION: usize = 20;

/// A map with segments of three spans and two issuers, rules and an exception, and its revoked certificates.
fn map_in(dir: &Path) -> (Vec<u8>, Vec<Cert>) {
    let mut publisher = Publisher::new();
    let cert = |seed: u64| Cert {
        issuer: [NATIVE, FOREIGN][seed as usize % 2],
        not_after: START.plus(seconds([600, 100_000, 9_000_000][seed as usize % 3])),
        ..Cert::new(seed)
    };
    let certs: Vec<Cert> = (0..60).map(cert).collect();
    publisher.revoke(certs.iter().map(Cert::revoked).collect(), Vec::new());
    publisher.revoke_rule(
        RuleTarget::Prefix(IdPrefix::parse("spiffe://dev.test/x/*").unwrap()),
        None,
    );
    publisher.revoke_rule(RuleTarget::Key(certs[0].spki), Some(START.minus(seconds(900))));
    publisher.exceptions = vec![Exception {
        issuer: NATIVE,
        serial: twin(&certs[0].serial, 1),
    }];
    let path = dir.join("whole.map");
    MapWriter::create(&path, &domain())
        .unwrap()
        .publish(&publisher.current_follower().view(), publisher.now)
        .unwrap();
    (fs::read(path).unwrap(), certs)
}

fn directory(map: &[u8]) -> std::ops::Range<usize> {
    HEADER..HEADER + u64::from_ne_bytes(map[DIRECTORY_OCTETS].try_into().unwrap()) as usize
}

/// Makes the hash that of the directory as it is now, so that all behind it is reached.
fn rehash(map: &mut [u8]) {
    let hash = digest(&SHA256, map.get(directory(map)).unwrap_or_default());
    map[DIRECTORY_SHA256].copy_from_slice(hash.as_ref());
}

/// Opens `map` in both ways, and asks for all. Whether it was taken.
fn opens(path: &Path, map: &[u8], certs: &[Cert]) -> bool {
    fs::write(path, map).unwrap();
    let opened = [MapOwner::RootOrSelf, MapOwner::AnyByCopy].map(|owner| {
        let reader = MapReader::open(path, &domain(), owner).ok()?;
        let queries: Vec<_> = certs.iter().map(Cert::query).collect();
        let view = reader.view(START);
        let mut many = vec![Verdict::Stale; queries.len()];
        view.check_batch(&queries, START, &mut many);
        let single: Vec<Verdict> = queries.iter().map(|query| reader.check(query, START)).collect();
        assert_eq!(single, many);
        Some(single)
    });
    assert_eq!(opened[0], opened[1], "mapped and copied");
    opened[0].is_some()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_damaged_map_is_refused_or_answers_but_never_panics(
        changes in prop::collection::vec((any::<Index>(), any::<u8>(), any::<bool>()), 1..6),
        numbers in prop::collection::vec((any::<Index>(), prop_oneof![
            Just(0_u64), Just(u64::MAX), Just(1 << 32), Just(u64::MAX / 8), 0_u64..4_000, any::<u64>(),
        ]), 0..3),
        is_hashed in any::<bool>(),
        cut in prop::option::weighted(0.2, any::<Index>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (whole, certs) = map_in(dir.path());
        let path = dir.path().join("damaged.map");
        let mut map = whole.clone();
        for (at, octet, is_near) in &changes {
            // Half of the changes are where the tables are.
            let range = if *is_near { 0..directory(&whole).end } else { 0..map.len() };
            map[at.index(range.len())] ^= octet;
        }
        for (word, number) in &numbers {
            let at = 8 * word.index(directory(&whole).end / 8);
            map[at..at + 8].copy_from_slice(&number.to_ne_bytes());
        }
        let same_tables = |map: &[u8]| {
            map[..FIXED] == whole[..FIXED] && map[directory(&whole)] == whole[directory(&whole)]
        };
        if is_hashed && directory(&map).end <= map.len() {
            rehash(&mut map);
        }
        if let Some(cut) = cut {
            map.truncate(cut.index(map.len()));
            prop_assert!(!opens(&path, &map, &certs), "a map that ends early is taken");
        } else {
            let taken = opens(&path, &map, &certs);
            prop_assert!(taken || !same_tables(&map), "only the tables are a reason to refuse");
            prop_assert!(!taken || is_hashed || same_tables(&map), "a damaged table is taken");
        }
        prop_assert!(opens(&path, &whole, &certs));
    }

    #[test]
    fn a_pulse_of_any_numbers_is_read_as_what_it_says(
        state in prop_oneof![Just(1), Just(2), any::<u64>()],
        sequence in any::<u64>(),
        heartbeat in prop_oneof![(-70_000_i64..70_000).prop_map(|off| START.millis() + off), any::<i64>(), Just(i64::MIN)],
        horizon in prop_oneof![(-700_000_i64..700_000).prop_map(|off| START.millis() + off), any::<i64>(), Just(i64::MAX)],
        generation in any::<u64>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (whole, certs) = map_in(dir.path());
        // Words are stored while it is open, as its writer stores them.
        let name = "live.map";
        let open = Dir::open(dir.path()).unwrap();
        let writer = WriteMap::create(&open, name, whole.len() / 8, 0o644).unwrap();
        let store = |at: usize, value: u64| writer.as_words()[at].store(value, Ordering::Release);
        whole.chunks_exact(8).enumerate().for_each(|(at, word)| store(at, u64::from_ne_bytes(word.try_into().unwrap())));
        let reader = MapReader::open(&dir.path().join(name), &domain(), MapOwner::RootOrSelf).unwrap();
        let good = Cert::new(1_000);
        prop_assert_eq!(reader.check(&good.query(), START), Verdict::Good);
        for (at, value) in [
            (STATE, state), (SEQUENCE, sequence), (HEARTBEAT, heartbeat as u64), (HORIZON, horizon as u64), (GENERATION, generation),
        ] {
            store(at, value);
        }
        let age = i128::from(START.millis()) - i128::from(heartbeat);
        let expected = match () {
            () if good.not_after.millis() < horizon => Verdict::NotCovered,
            () if (-60_000..60_000).contains(&age) => Verdict::Good,
            () => Verdict::Stale,
        };
        prop_assert_eq!(reader.check(&good.query(), START), expected);
        prop_assert_eq!(reader.view(START).last_heartbeat().map(|at| at.millis()), Some(heartbeat));
        // What is held as revoked is revoked whatever the pulse says.
        prop_assert_eq!(reader.check(&certs[0].query(), START), BY_SERIAL);
        prop_assert_eq!(reader.generation(), generation);
    }

    #[test]
    fn a_damaged_heartbeat_changes_nothing(
        changes in prop::collection::vec((any::<Index>(), 1_u8..), 1..4),
        cut in prop::option::weighted(0.3, any::<Index>()),
        other in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut publisher = Publisher::new();
        publisher.revoke_serial(&Cert::new(1));
        let mut follower = publisher.current_follower();
        let (held, since) = (follower.position(), follower.view().last_heartbeat());
        publisher.now = START.plus(seconds(5));
        let whole = publisher.heartbeat();
        let mut beat = whole.clone();
        for (at, octet) in &changes {
            *at.get_mut(&mut beat) ^= octet;
        }
        if let Some(cut) = cut {
            beat.truncate(cut.index(beat.len()));
        }
        for bytes in [&beat, &other] {
            // Two changes may undo each other.
            if *bytes != whole {
                prop_assert!(follower.heartbeat(bytes, publisher.now).is_err());
                prop_assert_eq!((follower.position(), follower.view().last_heartbeat()), (held, since));
            }
        }
        follower.heartbeat(&whole, publisher.now).unwrap();
        prop_assert_eq!(follower.view().last_heartbeat(), Some(publisher.now));
    }
}

#[test]
fn a_reader_stays_with_its_set_when_what_is_put_in_the_place_of_its_map_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, certs) = map_in(dir.path());
    let path = dir.path().join("whole.map");
    let reader = MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap();
    let damaged = AtomicU64::new(0);
    for at in (0..directory(&whole).end)
        .step_by(5)
        .filter(|at| !(FIXED..HEADER).contains(at))
    {
        let mut map = whole.clone();
        map[at] ^= 1 << (at % 8);
        let beside = dir.path().join("beside");
        fs::write(&beside, &map).unwrap();
        fs::rename(&beside, &path).unwrap();
        // So late that the reader looks whether there is another file.
        let now = START.plus(seconds(11 + 2 * damaged.fetch_add(1, Ordering::Relaxed) % 40));
        assert_eq!(reader.check(&certs[0].query(), now), BY_SERIAL, "octet {at}");
        assert_eq!(
            reader.check(&Cert::new(1_000).query(), now),
            Verdict::Good,
            "octet {at}"
        );
        assert!(
            MapReader::open(&path, &domain(), MapOwner::RootOrSelf).is_err(),
            "octet {at}"
        );
    }
}
