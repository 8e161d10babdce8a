//! Every verdict against a plain model that looks at lists one by one: rules of every kind, many issuers, buckets with gaps and
//! of every span, fresh and stale, for a view by snapshot, one by deltas, and the node's map.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod publisher;

use mintage_identity::{IdPrefix, IssuerKeyId, Serial, SpkiHash, UnixTime};
use mintage_revocation::{
    IssuerCoverage, MapOwner, MapReader, MapWriter, Rule, RuleTarget, SerialKind, Verdict, View, Why,
};
use proptest::{prelude::*, sample::Index};
use publisher::{BY_SERIAL, Cert, FOREIGN, NATIVE, Publisher, START, STRANGER, domain, id, seconds, serial};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const WEEK: u64 = 7 * 24 * HOUR;
/// Held and struck, but not covered.
const UNCOVERED: IssuerKeyId = IssuerKeyId::new([0x44; 32]);
const IDS: [&str; 4] = [
    "spiffe://dev.test/web",
    "spiffe://dev.test/a/b",
    "spiffe://dev.test/a/b/c",
    "spiffe://dev.test/ab",
];
const PREFIXES: [&str; 3] = [
    "spiffe://dev.test/a/*",
    "spiffe://dev.test/a/b/*",
    "spiffe://dev.test/*",
];

/// A certificate of this number: its issuer, end and names follow from `pick`.
fn cert(number: u64, pick: (u8, u8, u8), left: u64) -> Cert {
    let issuers = [
        NATIVE,
        NATIVE,
        FOREIGN,
        STRANGER,
        UNCOVERED,
        more_issuer(2),
        more_issuer(5),
    ];
    let issuer = issuers[pick.0 as usize % issuers.len()];
    let serial = match issuer == FOREIGN {
        true => Serial::from_be_octets(&(number + 1).to_be_bytes()).unwrap(),
        false => serial(number),
    };
    Cert {
        issuer,
        serial,
        not_before: START.plus(seconds(u64::from(pick.1 % 5))),
        not_after: START.plus(seconds(left)),
        id: id(IDS[pick.1 as usize % IDS.len()]),
        spki: SpkiHash::new([pick.2 % 8; 32]),
    }
}

/// Issuers whose ids begin alike in pairs.
fn more_issuer(number: u8) -> IssuerKeyId {
    let mut octets = [0x55 + number / 2; 32];
    octets[31] = number;
    IssuerKeyId::new(octets)
}

fn target(pick: (u8, u8)) -> RuleTarget {
    match pick.0 % 4 {
        0 => RuleTarget::Identity(id(IDS[pick.1 as usize % IDS.len()])),
        1 => RuleTarget::Prefix(IdPrefix::parse(PREFIXES[pick.1 as usize % PREFIXES.len()]).unwrap()),
        2 => RuleTarget::Key(SpkiHash::new([pick.1 % 8; 32])),
        _ => RuleTarget::Issuer([NATIVE, STRANGER, more_issuer(2)][pick.1 as usize % 3]),
    }
}

fn left() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1..2 * HOUR,
        2 => 2 * HOUR..WEEK,
        2 => WEEK..30 * WEEK,
        // So far that its span cannot be laid out bucket by bucket, and beyond what a week number can say.
        1 => Just(250_000 * WEEK),
        1 => Just(1 << 53),
    ]
}

/// What one record revokes: certificates, and targets with the second of their cut.
type Step = (Vec<Index>, Vec<((u8, u8), Option<u64>)>);

fn step() -> impl Strategy<Value = Step> {
    let cut = prop_oneof![Just(None), (0_u64..5).prop_map(Some)];
    (
        prop::collection::vec(any::<Index>(), 0..12),
        prop::collection::vec((any::<(u8, u8)>(), cut), 0..2),
    )
}

struct Model {
    revoked: Vec<Cert>,
    rules: Vec<Rule>,
    covered: Vec<IssuerKeyId>,
    known: Vec<IssuerKeyId>,
}

impl Model {
    fn struck_by_rule(&self, cert: &Cert) -> Option<Why> {
        type Matches = fn(&RuleTarget, &Cert) -> bool;
        let kinds: [(Why, Matches); 4] = [
            (Why::Issuer, |t, c| *t == RuleTarget::Issuer(c.issuer)),
            (Why::Key, |t, c| *t == RuleTarget::Key(c.spki)),
            (Why::Identity, |t, c| *t == RuleTarget::Identity(c.id.clone())),
            (Why::Prefix, |t, c| match t {
                RuleTarget::Prefix(prefix) => {
                    let text = prefix.to_string();
                    c.id.as_str().starts_with(text.trim_end_matches('*'))
                }
                _ => false,
            }),
        ];
        let kills = |rule: &Rule, cert: &Cert| rule.cut.is_none_or(|cut| cert.not_before <= cut);
        let found = kinds.into_iter().find(|(_, matches)| {
            let mut rules = self.rules.iter();
            rules.any(|rule| matches(&rule.target, cert) && kills(rule, cert))
        });
        found.map(|(why, _)| why)
    }

    /// About a certificate that the horizon has not passed.
    fn verdict(&self, cert: &Cert, is_fresh: bool) -> Verdict {
        if let Some(why) = self.struck_by_rule(cert) {
            return Verdict::Revoked { why };
        }
        let is = |held: &&Cert| (held.issuer, held.serial) == (cert.issuer, cert.serial);
        match () {
            () if !self.known.contains(&cert.issuer) => Verdict::NotCovered,
            () if self.revoked.iter().any(|held| is(&held)) => BY_SERIAL,
            () if !self.covered.contains(&cert.issuer) => Verdict::NotCovered,
            () if is_fresh => Verdict::Good,
            () => Verdict::Stale,
        }
    }
}

fn compare(model: &Model, view: &View, certs: &[Cert], age: u64, which: &str) {
    let (now, is_fresh) = (START.plus(seconds(age)), age < 60);
    let queries: Vec<_> = certs.iter().map(Cert::query).collect();
    let mut many = vec![Verdict::Stale; queries.len()];
    view.check_batch(&queries, now, &mut many);
    for (at, cert) in certs.iter().enumerate() {
        let expected = model.verdict(cert, is_fresh);
        assert_eq!(view.check(&queries[at], now), expected, "{which}, {age} s: {cert:?}");
        assert_eq!(many[at], expected, "{which}, {age} s, in a batch: {cert:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_verdict_is_that_of_the_lists(
        picked in prop::collection::vec((any::<(u8, u8, u8)>(), left()), 1..60),
        steps in prop::collection::vec(step(), 1..6),
        many_issuers in any::<bool>(),
    ) {
        let mut publisher = Publisher::new();
        let mut model = Model {
            revoked: Vec::new(),
            rules: Vec::new(),
            covered: vec![NATIVE, FOREIGN],
            known: vec![NATIVE, FOREIGN],
        };
        for number in (0..10).filter(|_| many_issuers) {
            let covered = IssuerCoverage { id: more_issuer(number), serials: SerialKind::Native, until: None };
            publisher.set.cover_issuer(publisher.set.sequence() + 1, &covered).unwrap();
            model.covered.push(covered.id);
            model.known.push(covered.id);
        }
        let certs: Vec<Cert> = (0..).zip(&picked).map(|(number, (pick, left))| cert(number, *pick, *left)).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revocation.map");
        let mut writer = MapWriter::create(&path, &domain()).unwrap();
        let mut follower = publisher.current_follower();
        let reader = MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap();
        for (revoked, rules) in &steps {
            let revoked: Vec<Cert> = revoked.iter().map(|at| at.get(&certs).clone()).collect();
            let rules: Vec<Rule> = rules
                .iter()
                .map(|(pick, cut)| Rule { target: target(*pick), cut: cut.map(|cut| START.plus(seconds(cut))) })
                .collect();
            model.known.extend(revoked.iter().map(|cert| cert.issuer));
            publisher.revoke(revoked.iter().map(Cert::revoked).collect(), rules.clone());
            // A rule never kills less than one before it on the same target.
            model.rules.extend(rules);
            model.revoked.extend(revoked);
            publisher.bring_up(&mut follower);
            writer.publish(&follower.view(), START).unwrap();
        }
        let by_snapshot = publisher.current_follower().view();
        let mapped = reader.view(START);
        for age in [0, 59, 60] {
            compare(&model, &by_snapshot, &certs, age, "by snapshot");
            compare(&model, &follower.view(), &certs, age, "by deltas");
            compare(&model, &mapped, &certs, age, "by the map");
        }
    }
}

#[test]
fn what_ended_before_the_horizon_is_not_covered_whatever_the_buckets() {
    let mut publisher = Publisher::new();
    publisher.revoke_serial(&Cert::new(1));
    let view = publisher.current_follower().view();
    let ended = |not_after: UnixTime| Cert {
        not_after,
        ..Cert::new(2)
    };
    let horizon = view.horizon();
    assert_eq!(ended(horizon).check(&view, START), Verdict::Good);
    for not_after in [
        horizon.minus(seconds(1)),
        UnixTime::from_millis(-1),
        UnixTime::from_millis(i64::MIN),
    ] {
        assert_eq!(
            ended(not_after).check(&view, START),
            Verdict::NotCovered,
            "{not_after:?}"
        );
    }
}
