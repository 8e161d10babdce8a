//! The published filter against a plain set, over random ledgers: nothing revoked and unexpired is missed, nothing issued
//! and unrevoked is struck, whether a follower came by deltas, by snapshot, or reads the node's map.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod publisher;

use std::collections::HashSet;

use mintage_identity::{Serial, UnixTime};
use mintage_revocation::{
    Decision, FreshnessPolicy, LiveSerial, MapOwner, MapReader, MapWriter, Replica, Verdict, View,
};
use proptest::prelude::*;
use publisher::{BY_SERIAL, Cert, FOREIGN, NATIVE, Publisher, START, STRANGER, domain, seconds, serial, twin};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Op {
    /// Issue certificates with so many seconds to live; foreign serials count up.
    Issue {
        foreign: bool,
        count: u8,
        ttl: u32,
    },
    /// Issue one whose fingerprint is that of an earlier certificate.
    IssueTwin {
        of: prop::sample::Index,
        step: u64,
    },
    Revoke(Vec<prop::sample::Index>),
    Wait {
        seconds: u32,
    },
    /// The follower takes the delta.
    Follow,
    /// The follower starts over from a snapshot.
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let lifetimes = prop_oneof![60_u32..7_000, 7_200_u32..600_000, 604_800_u32..8_000_000];
    let op = prop_oneof![
        4 => (any::<bool>(), 1_u8..40, lifetimes).prop_map(|(foreign, count, ttl)| Op::Issue { foreign, count, ttl }),
        2 => (any::<prop::sample::Index>(), 1_u64..4).prop_map(|(of, step)| Op::IssueTwin { of, step }),
        5 => prop::collection::vec(any::<prop::sample::Index>(), 1..30).prop_map(Op::Revoke),
        2 => prop_oneof![1_u32..90, 90_u32..4_000, 4_000_u32..700_000].prop_map(|seconds| Op::Wait { seconds }),
        4 => Just(Op::Follow),
        1 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 1..40)
}

struct World {
    publisher: Publisher,
    follower: Replica,
    writer: MapWriter,
    reader: MapReader,
    issued: Vec<Cert>,
    revoked: HashSet<(mintage_identity::IssuerKeyId, Serial)>,
    counter: u64,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let publisher = Publisher::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revocation.map");
        let mut world = Self {
            follower: publisher.current_follower(),
            writer: MapWriter::create(&path, &domain()).unwrap(),
            reader: MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap(),
            publisher,
            issued: Vec::new(),
            revoked: HashSet::new(),
            counter: 0,
            _dir: dir,
        };
        world.writer.publish(&world.follower.view(), START).unwrap();
        world
    }

    fn now(&self) -> UnixTime {
        self.publisher.now
    }

    fn cert(&mut self, foreign: bool, ttl: u32) -> Cert {
        self.counter += 1;
        let now = self.now();
        let (issuer, serial) = match foreign {
            true => (FOREIGN, Serial::from_be_octets(&self.counter.to_be_bytes()).unwrap()),
            false => (NATIVE, serial(self.counter)),
        };
        let not_after = now.plus(seconds(u64::from(ttl)));
        Cert {
            issuer,
            serial,
            not_before: now,
            not_after,
            ..Cert::new(self.counter)
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Issue { foreign, count, ttl } => {
                for _ in 0..*count {
                    let cert = self.cert(*foreign, *ttl);
                    self.issue(cert);
                }
            }
            Op::IssueTwin { of, step } => {
                let Some(of) = self.pick(of).filter(|of| of.issuer == NATIVE) else {
                    return;
                };
                self.issue(Cert {
                    serial: twin(&of.serial, *step),
                    ..of
                });
            }
            Op::Revoke(which) => {
                let certs: Vec<Cert> = which.iter().filter_map(|which| self.pick(which)).collect();
                let unexpired = certs.iter().filter(|cert| cert.not_after >= self.publisher.now);
                let serials: Vec<_> = unexpired.map(Cert::revoked).collect();
                self.revoked
                    .extend(serials.iter().map(|revoked| (revoked.issuer, revoked.serial)));
                self.publisher.revoke(serials, Vec::new());
            }
            Op::Wait { seconds: count } => {
                self.publisher.now = self.now().plus(seconds(u64::from(*count)));
                let now = self.now();
                self.publisher.set.prune(now);
            }
            Op::Follow => self.follow(),
            Op::Restart => self.follower = self.publisher.follower(),
        }
    }

    /// As the CA does: what the filter would strike is not issued.
    fn issue(&mut self, cert: Cert) {
        let good = self.publisher.set.check(&cert.query()) == Verdict::Good;
        if good
            && !self
                .issued
                .iter()
                .any(|held| (held.issuer, held.serial) == (cert.issuer, cert.serial))
        {
            self.issued.push(cert);
        }
    }

    fn pick(&self, which: &prop::sample::Index) -> Option<Cert> {
        (!self.issued.is_empty()).then(|| which.get(&self.issued).clone())
    }

    fn follow(&mut self) {
        let now = self.now();
        let live = self.issued.iter().filter(|cert| cert.not_after >= now);
        let live = live.map(|cert| LiveSerial {
            issuer: cert.issuer,
            serial: cert.serial,
            not_after: cert.not_after,
        });
        let live: Vec<LiveSerial> = live.collect();
        let exceptions = self.publisher.set.exceptions_for(live.iter().copied()).unwrap();
        if let Some(held) = self.follower.position() {
            let (set, prior) = (&self.publisher.set, &self.publisher.exceptions);
            let since = set.exceptions_since(held.sequence, prior, live.into_iter());
            assert_eq!(
                since.unwrap(),
                exceptions,
                "what came since is all that can have been added"
            );
        }
        self.publisher.exceptions = exceptions;
        match self.follower.position() {
            Some(held) if held.sequence < self.publisher.set.sequence() => self.publisher.bring_up(&mut self.follower),
            Some(_) => {}
            None => _ = self.follower.apply_snapshot(&self.publisher.snapshot(), now).unwrap(),
        }
        self.follower.heartbeat(&self.publisher.heartbeat(), now).unwrap();
        self.writer.publish(&self.follower.view(), now).unwrap();
        self.compare();
    }

    fn compare(&self) {
        let now = self.now();
        let by_snapshot = self.publisher.current_follower().view();
        let views = [self.follower.view(), by_snapshot, self.reader.view(now)];
        self.compare_doors(&views);
        for cert in self.issued.iter().filter(|cert| cert.not_after >= now) {
            let revoked = self.revoked.contains(&(cert.issuer, cert.serial));
            let expected = if revoked { BY_SERIAL } else { Verdict::Good };
            for (which, view) in views.iter().enumerate() {
                assert_eq!(cert.check(view, now), expected, "view {which} at {now:?}: {cert:?}");
            }
            assert_eq!(
                self.publisher.set.revoked(&cert.issuer, &cert.serial).is_some(),
                revoked,
                "{cert:?}"
            );
        }
        let held = self.publisher.set.serial_count();
        assert!(held <= self.revoked.len());
        assert_eq!(self.reader.sequence(), self.publisher.set.sequence());
    }
}

impl World {
    /// Every door of a view gives the same answer, about what has ended and what was never issued too, when the filter is fresh
    /// and when it is not.
    fn compare_doors(&self, views: &[std::sync::Arc<View>]) {
        let strange = (0..40).map(|seed| Cert {
            issuer: [NATIVE, FOREIGN, STRANGER][seed as usize % 3],
            not_after: self.now().plus(seconds(seed * 3_000)),
            ..Cert::new(seed | 1 << 40)
        });
        let certs: Vec<Cert> = self.issued.iter().cloned().chain(strange).collect();
        let queries: Vec<_> = certs.iter().map(Cert::query).collect();
        let policy = FreshnessPolicy::default();
        for (view, late) in views
            .iter()
            .flat_map(|view| [0, 59, 61, 4_000].map(|late| (view, late)))
        {
            let now = self.now().plus(seconds(late));
            let mut verdicts = vec![Verdict::Stale; queries.len()];
            view.check_batch(&queries, now, &mut verdicts);
            let mut decisions = vec![Decision::Refuse(Verdict::Stale); queries.len()];
            view.decide_batch(&queries, now, policy, &mut decisions);
            for (at, query) in queries.iter().enumerate() {
                let verdict = view.check(query, now);
                assert_eq!(verdicts[at], verdict, "{query:?}");
                assert_eq!(decisions[at], view.judge(verdict, now, policy), "{query:?}");
                assert_eq!(decisions[at], view.decide(query, now, policy), "{query:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_filter_answers_like_a_set(ops in ops()) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.apply(op));
        world.follow();
    }
}

#[test]
fn a_live_twin_of_a_revoked_serial_is_an_exception_until_it_is_revoked_itself() {
    let mut world = World::new();
    let first = world.cert(false, 600);
    let second = Cert {
        serial: twin(&first.serial, 1),
        ..first.clone()
    };
    world.issue(first.clone());
    world.issue(second.clone());
    world.publisher.revoke_serial(&first);
    world.revoked.insert((first.issuer, first.serial));
    world.follow();
    assert_eq!(world.publisher.exceptions.len(), 1);
    // A third twin would be struck: it is not issued.
    let third = Cert {
        serial: twin(&first.serial, 2),
        ..first.clone()
    };
    assert_eq!(world.publisher.set.check(&third.query()), BY_SERIAL);
    world.publisher.revoke_serial(&second);
    world.revoked.insert((second.issuer, second.serial));
    world.follow();
    assert!(world.publisher.exceptions.is_empty());
    assert_eq!(second.check(&world.follower.view(), START), BY_SERIAL);
}

#[test]
fn ten_thousand_in_one_record_reach_the_follower() {
    let mut world = World::new();
    for _ in 0..20_000 {
        let cert = world.cert(false, 600);
        world.issued.push(cert);
    }
    let half: Vec<_> = world.issued.iter().step_by(2).map(Cert::revoked).collect();
    world
        .revoked
        .extend(half.iter().map(|revoked| (revoked.issuer, revoked.serial)));
    world.publisher.revoke(half, Vec::new());
    world.follow();
    assert_eq!(world.follower.view().serial_count(), 10_000);
}
