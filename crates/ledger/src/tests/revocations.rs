//! Revocations are found by what they name, in memory and sealed, as a plain filter over all records finds them.

use mintage_identity::{IdPrefix, Serial, SpiffeId, UnixTime};
use proptest::prelude::*;

use super::{
    kit::few_cases,
    search::{all, forms, indexed},
};
use crate::{
    Body, Kind, Query, Record, RevocationScope, is_about_identity, is_about_prefix, limits::SEGMENT_RECORDS, samples,
    wire,
};

const SCOPES: [&str; 9] = [
    "spiffe-id spiffe://dev.test/db/main",
    "spiffe-id spiffe://dev.test/web",
    "prefix spiffe://dev.test/db/*",
    "prefix spiffe://dev.test/*",
    "agent web-1",
    "entry main",
    "selector unix:uid:1",
    "serial 4f",
    "",
];

/// A revocation of that scope which names the certificates of these numbers.
fn revocation(seed: u64, scope: &str, struck: &[u64]) -> Record {
    let mut record = samples::record_of(Kind::Revoke, seed);
    if let Body::Revoke(revoke) = &mut record.body {
        scope.clone_into(&mut revoke.scope);
        let one = |seed: &u64| wire::RevokedSerial {
            issuer_key_id: vec![8; 32],
            serial: samples::serial(*seed).octets().to_vec(),
            not_after_s: 1_000_600,
        };
        revoke.serials = struck.iter().map(one).collect();
    }
    // Operators revoke, not agents.
    record.actor = crate::Actor::Admin {
        uid: 0,
        pid: 1,
        name: "root".into(),
        address: "admin.sock".into(),
    };
    record
}

fn records(revocations: &[(usize, Vec<u64>)]) -> Vec<Record> {
    let issues = ["db/main", "db/other", "web"];
    let mut records = Vec::new();
    for (at, (scope, struck)) in (0u64..).zip(revocations) {
        let id = format!("spiffe://dev.test/{}", issues[at as usize % 3]);
        records.push(samples::issue(at, &id, &format!("web-{}", at % 2)));
        records.push(revocation(1000 + at, SCOPES[*scope], struck));
    }
    records
}

/// The plain filter, over the decoded record.
fn is_meant(record: &Record, query: &Query) -> bool {
    let (mut id, mut agent, mut entry, mut serials) = (String::new(), String::new(), String::new(), Vec::new());
    match &record.body {
        Body::Issue(issue) => {
            let crate::Actor::Agent { id: by, .. } = &record.actor else {
                return false;
            };
            (id, entry) = (issue.spiffe_id.clone(), issue.entry.clone());
            agent = by.as_str().rsplit('/').next().unwrap_or_default().to_owned();
            serials.push(crate::LeafFacts::read(&issue.certificate_der).unwrap().serial);
        }
        Body::Revoke(revoke) => {
            match RevocationScope::parse(&revoke.scope) {
                RevocationScope::Identity(text) => id = text.to_owned(),
                RevocationScope::Agent(name) => agent = name.to_owned(),
                RevocationScope::Entry(name) => entry = name.to_owned(),
                RevocationScope::Other => {}
            }
            let struck = revoke.serials.iter();
            serials.extend(struck.map(|struck| Serial::from_be_octets(&struck.serial).unwrap()));
        }
        _ => return false,
    }
    query
        .spiffe_id
        .as_ref()
        .is_none_or(|wanted| is_about_identity(&id, wanted))
        && query
            .id_prefix
            .as_ref()
            .is_none_or(|wanted| is_about_prefix(&id, wanted))
        && query.agent.as_ref().is_none_or(|wanted| *wanted == agent)
        && query.entry.as_ref().is_none_or(|wanted| *wanted == entry)
        && query.serial.as_ref().is_none_or(|wanted| serials.contains(wanted))
}

fn queries() -> Vec<Query> {
    let id = |text: &str| Some(SpiffeId::parse(text).unwrap());
    let below = |text: &str| Some(IdPrefix::parse(text).unwrap());
    let any = Query::default;
    let mut queries = vec![
        Query {
            spiffe_id: id("spiffe://dev.test/db/main"),
            ..any()
        },
        Query {
            spiffe_id: id("spiffe://dev.test/web"),
            ..any()
        },
        Query {
            spiffe_id: id("spiffe://dev.test/db"),
            kinds: vec![Kind::Revoke],
            ..any()
        },
        Query {
            spiffe_id: id("spiffe://dev.test/db/main"),
            kinds: vec![Kind::Issue],
            ..any()
        },
        Query {
            id_prefix: below("spiffe://dev.test/db/*"),
            oldest_first: true,
            ..any()
        },
        Query {
            id_prefix: below("spiffe://dev.test/db/main/*"),
            ..any()
        },
        Query {
            agent: Some("web-1".into()),
            ..any()
        },
        Query {
            entry: Some("main".into()),
            ..any()
        },
        Query {
            entry: Some("main".into()),
            spiffe_id: id("spiffe://dev.test/db/main"),
            ..any()
        },
    ];
    queries.extend((0..24).map(|seed| Query {
        serial: Some(samples::serial(seed)),
        ..any()
    }));
    queries.push(Query {
        serial: Some(samples::serial(3)),
        spiffe_id: id("spiffe://dev.test/db/main"),
        ..any()
    });
    queries
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn every_form_of_the_index_finds_what_revocations_name(
        revocations in proptest::collection::vec((0..SCOPES.len(), proptest::collection::vec(0..20u64, 0..6)), 3..40),
        limit in 1usize..8,
    ) {
        let records = records(&revocations);
        for query in queries() {
            let meant = |(_, record): &(u64, &Record)| {
                is_meant(record, &query) && (query.kinds.is_empty() || query.kinds.contains(&record.kind()))
            };
            let mut expected: Vec<u64> = (0..).zip(&records).filter(meant).map(|(at, _)| at).collect();
            if !query.oldest_first {
                expected.reverse();
            }
            for (_dir, search) in forms(&records) {
                let found: Vec<u64> = all(&search, &query, limit).into_iter().map(|hit| hit.index).collect();
                prop_assert_eq!(&found, &expected, "{:?}", query);
            }
        }
    }
}

#[test]
fn the_last_record_of_a_full_chunk_may_be_a_revocation() {
    let last = SEGMENT_RECORDS as u64 - 1;
    let mut records: Vec<Record> = (0..last)
        .map(|at| samples::issue(at, "spiffe://dev.test/web", "web-1"))
        .collect();
    records.push(revocation(last, "entry web", &[7, last - 1]));
    records.push(revocation(last + 1, "", &[7]));
    let search = indexed(&records);
    let found = |seed| {
        let query = Query {
            serial: Some(samples::serial(seed)),
            ..Query::default()
        };
        all(&search, &query, 10).iter().map(|hit| hit.index).collect::<Vec<_>>()
    };
    assert_eq!(found(7), [last + 1, last, 7]);
    assert_eq!(found(last - 1), [last, last - 1]);
    assert_eq!(found(8), [8]);
}

#[test]
fn a_serial_that_a_revocation_names_is_not_taken_for_a_live_certificate() {
    let records = records(&[(7, vec![0, 1, 2]), (7, vec![1])]);
    for (_dir, search) in forms(&records) {
        let now = UnixTime::from_seconds(1_000_000);
        assert!(search.is_live(&samples::serial(1), now));
        assert!(
            !search.is_live(&samples::serial(2), now),
            "it is named, and was never issued"
        );
    }
}
