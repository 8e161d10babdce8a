//! The index against a plain filter over all records.

use std::{sync::Arc, time::Duration};

use mintage_identity::{AgentInstance, IdPrefix, IssuerKeyId, RequestId, SpiffeId, UnixTime};
use proptest::prelude::*;
use tempfile::TempDir;

use super::kit::{Place, few_cases, options};
use crate::{
    Body, Cursor, Follower, Hit, Journal, Kind, LiveQuery, LiveSerial, Query, Record, Search, Stored,
    facts::agent_of,
    limits::SEGMENT_RECORDS,
    samples,
    seg::{index::SealedIndex, index_writer::IndexWriter, seal::Segments},
};

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// Records of all kinds; issues end their validity at different times.
fn records(count: u64) -> Vec<Record> {
    (0..count)
        .map(|i| match i % 5 {
            0 => samples::record_of(Kind::ALL[(i / 5) as usize % Kind::ALL.len()], i),
            _ => samples::issue_until(
                i,
                &format!("spiffe://dev.test/team-{}/app-{}", i % 3, i % 7),
                &format!("node-{}", i % 4),
                1_000_000 + (i as i64 * 37) % 2000,
            ),
        })
        .collect()
}

fn stored(records: &[Record]) -> Vec<Stored> {
    (0..)
        .zip(records)
        .map(|(i, record)| Stored::new(i, record.clone().encode().unwrap().bytes(), None))
        .collect()
}

pub(super) fn indexed(records: &[Record]) -> Arc<Search> {
    let search = Search::new();
    let mut sink = search.sink();
    for part in stored(records).chunks(4096) {
        sink.apply(part[0].index(), part).unwrap();
    }
    search
}

/// An index whose records up to each of `cuts` are sealed in a segment of their own.
fn partly_sealed(records: &[Record], cuts: &[usize]) -> (TempDir, Arc<Search>) {
    let dir = tempfile::tempdir().unwrap();
    let (stored, mut first, mut indexes) = (stored(records), 0, Vec::new());
    for cut in cuts {
        let mut writer = IndexWriter::default();
        stored[first..*cut].iter().for_each(|stored| writer.push(stored));
        let path = dir.path().join(format!("{first}.idx"));
        std::fs::write(&path, writer.finish([1; 32], first as u64)).unwrap();
        let index = SealedIndex::open_part(path, [1; 32], first as u64).unwrap();
        indexes.push(Arc::new(index));
        first = *cut;
    }
    let search = Search::over(Arc::new(Segments::new(0, indexes, Arc::new(crate::LocalDisk)))).unwrap();
    let mut sink = search.sink();
    assert_eq!(sink.next(), first as u64);
    for part in stored[first..].chunks(4096) {
        sink.apply(part[0].index(), part).unwrap();
    }
    (dir, search)
}

/// All in memory, and partly sealed.
pub(super) fn forms(records: &[Record]) -> [(TempDir, Arc<Search>); 3] {
    let count = records.len();
    [
        (tempfile::tempdir().unwrap(), indexed(records)),
        partly_sealed(records, &[count / 3, count / 2]),
        partly_sealed(records, &[1, count]),
    ]
}

pub(super) fn all(search: &Search, query: &Query, limit: usize) -> Vec<Hit> {
    let (mut rows, mut from): (Vec<Hit>, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = search.query(query, from, limit).unwrap();
        assert!(page.rows.len() <= limit);
        rows.extend(page.rows);
        match page.next {
            None => return rows,
            next => from = next,
        }
    }
}

fn matches(record: &Record, query: &Query) -> bool {
    let encoded = record.clone().encode().unwrap();
    let facts = crate::facts::Facts::read(encoded.bytes());
    let kind_fits = query.kinds.is_empty() || query.kinds.contains(&record.kind());
    let id_fits = query.spiffe_id.as_ref().is_none_or(|id| id.as_str() == facts.spiffe_id)
        && query
            .id_prefix
            .as_ref()
            .is_none_or(|prefix| SpiffeId::parse(facts.spiffe_id).is_ok_and(|id| prefix.matches(&id)));
    let agent_fits = query.agent.as_ref().is_none_or(|name| name == facts.agent);
    let entry_fits = query.entry.as_ref().is_none_or(|name| name == facts.entry);
    let time_fits =
        query.since.is_none_or(|since| record.time >= since) && query.until.is_none_or(|until| record.time <= until);
    kind_fits && id_fits && agent_fits && entry_fits && time_fits
}

fn queries() -> impl Strategy<Value = Query> {
    let head = 1_000_000_000i64;
    (
        proptest::option::of((0..4u8, 0..8u8)),
        proptest::option::of(0..4u8),
        proptest::option::of(0..5u8),
        proptest::option::of(0..8u8),
        proptest::collection::vec(0..Kind::ALL.len(), 0..3),
        proptest::option::of(0..700i64),
        proptest::option::of(0..700i64),
        any::<bool>(),
    )
        .prop_map(
            move |(full, prefix, agent, entry, kinds, since, until, oldest_first)| Query {
                spiffe_id: full.map(|(team, app)| id(&format!("spiffe://dev.test/team-{team}/app-{app}"))),
                id_prefix: prefix.map(|team| IdPrefix::parse(&format!("spiffe://dev.test/team-{team}/*")).unwrap()),
                agent: agent.map(|node| format!("node-{node}")),
                entry: entry.map(|app| format!("app-{app}")),
                serial: None,
                kinds: kinds.into_iter().map(|at| Kind::ALL[at]).collect(),
                since: since.map(|ms| UnixTime::from_millis(head + ms)),
                until: until.map(|ms| UnixTime::from_millis(head + ms)),
                oldest_first,
            },
        )
}

proptest! {
    #![proptest_config(few_cases())]

    #[test]
    fn any_query_and_page_size_finds_what_a_filter_finds(query in queries(), limit in 1usize..60) {
        let records = records(600);
        let mut expected: Vec<u64> =
            (0..).zip(&records).filter(|(_, record)| matches(record, &query)).map(|(i, _)| i).collect();
        if !query.oldest_first {
            expected.reverse();
        }
        let whole = all(&indexed(&records), &query, 1000);
        for (_dir, search) in forms(&records) {
            let found = all(&search, &query, limit);
            prop_assert_eq!(&found, &whole, "every form shows the same");
            prop_assert_eq!(found.into_iter().map(|hit| hit.index).collect::<Vec<_>>(), expected.clone());
        }
    }
}

#[test]
fn sealed_chunks_answer_as_the_open_one() {
    let count = SEGMENT_RECORDS as u64 + 3000;
    let records = records(count);
    let search = indexed(&records);
    assert_eq!(search.applied(), count);
    for query in [
        Query {
            spiffe_id: Some(id("spiffe://dev.test/team-1/app-4")),
            ..Query::default()
        },
        Query {
            agent: Some("node-3".into()),
            entry: Some("app-2".into()),
            oldest_first: true,
            ..Query::default()
        },
        Query {
            kinds: vec![Kind::Revoke],
            ..Query::default()
        },
    ] {
        let found: Vec<u64> = all(&search, &query, 1000).into_iter().map(|hit| hit.index).collect();
        let mut expected: Vec<u64> = (0..)
            .zip(&records)
            .filter(|(_, record)| matches(record, &query))
            .map(|(i, _)| i)
            .collect();
        if !query.oldest_first {
            expected.reverse();
        }
        assert!(!expected.is_empty());
        assert_eq!(found, expected);
    }
    for i in [1, 65_534, 65_536, 65_537, count - 2] {
        let query = Query {
            serial: Some(samples::serial(i)),
            ..Query::default()
        };
        let hits = all(&search, &query, 10);
        assert_eq!(hits.iter().map(|hit| hit.index).collect::<Vec<_>>(), [i]);
        assert_eq!(hits[0].serial, Some(samples::serial(i)));
    }
    let nothing = Query {
        agent: Some("nobody".into()),
        ..Query::default()
    };
    assert!(all(&search, &nothing, 10).is_empty());
}

fn expected_live(records: &[Record], now: UnixTime, fits: impl Fn(&Record, &crate::wire::Issue) -> bool) -> Vec<u64> {
    let mut found = Vec::new();
    for (i, record) in (0..).zip(records) {
        if let Body::Issue(issue) = &record.body {
            let end = crate::LeafFacts::read(&issue.certificate_der).unwrap().not_after;
            if end >= now && fits(record, issue) {
                found.push(i);
            }
        }
    }
    found.reverse();
    found
}

/// The places of the live certificates that match: listed at once, in pages and counted.
fn live_indices(search: &Search, query: &LiveQuery, now: UnixTime) -> Vec<u64> {
    let listed = search.live_all(query, now).unwrap();
    assert!(listed.iter().all(|certificate| certificate.not_after >= now));
    assert_eq!(search.live_count(query, now).unwrap(), listed.len() as u64);
    let (mut paged, mut from) = (Vec::new(), None);
    loop {
        let page = search.live(query, now, from, 70).unwrap();
        assert!(page.rows.len() <= 70);
        paged.extend(page.rows);
        match page.next {
            None => break,
            next => from = next,
        }
    }
    assert_eq!(paged, listed, "pages have the same rows, each once");
    listed.into_iter().map(|certificate| certificate.index).collect()
}

/// What a filter is held against names the certificates that are listed.
fn named_as_listed(search: &Search, now: UnixTime) {
    let listed = search.live_all(&LiveQuery::default(), now).unwrap();
    let listed = listed.iter().map(|row| LiveSerial {
        issuer: row.issuer,
        serial: row.serial,
        not_after: row.not_after,
    });
    let named: Vec<_> = search.live_serials(now).unwrap().collect();
    assert_eq!(named, listed.collect::<Vec<_>>());
}

#[test]
fn live_certificates_are_listed_by_identity_agent_entry_and_key() {
    // More than are read one by one.
    let records = records(2_600);
    for ((_dir, search), now) in forms(&records)
        .iter()
        .flat_map(|form| [1_000_000, 1_000_500, 1_001_999, 1_002_001].map(|now| (form, now)))
    {
        let now = UnixTime::from_seconds(now);
        let live = |query: &LiveQuery| live_indices(search, query, now);
        assert_eq!(live(&LiveQuery::default()), expected_live(&records, now, |_, _| true));
        named_as_listed(search, now);
        let identity = "spiffe://dev.test/team-1/app-4";
        let query = LiveQuery {
            spiffe_id: Some(id(identity)),
            ..LiveQuery::default()
        };
        assert_eq!(
            live(&query),
            expected_live(&records, now, |_, issue| issue.spiffe_id == identity)
        );
        let query = LiveQuery {
            agent: Some("spiffe://dev.test/mintage/agent/node-2".into()),
            instance: Some(AgentInstance(3)),
            ..LiveQuery::default()
        };
        let of_agent = |record: &Record, _: &crate::wire::Issue| match &record.actor {
            crate::Actor::Agent { id, .. } => agent_of(id.as_str()) == "node-2",
            _ => false,
        };
        assert_eq!(live(&query), expected_live(&records, now, of_agent));
        let query = LiveQuery {
            instance: Some(AgentInstance(4)),
            ..query
        };
        assert!(live(&query).is_empty());
        let query = LiveQuery {
            entry: Some("app-5".into()),
            issuer: Some(IssuerKeyId::new([8; 32])),
            ..LiveQuery::default()
        };
        assert_eq!(
            live(&query),
            expected_live(&records, now, |_, issue| issue.entry == "app-5")
        );
        let query = LiveQuery {
            spki_sha256: Some(samples::spki(7)),
            ..LiveQuery::default()
        };
        let one = expected_live(&records, now, |record, _| record.salt[7] == 7 && record.salt[6] == 0);
        assert_eq!(live(&query), one);
    }
}

#[test]
fn the_questions_of_an_issuance_are_answered_for_what_is_live_alone() {
    // Ends of validity spread over two thousand seconds, one record each ten.
    let records: Vec<Record> = (0..9000u64)
        .map(|i| {
            let mut record = samples::issue_until(
                i,
                "spiffe://dev.test/web",
                "web-1",
                1_000_000 + (i as i64 * 211) % 20_000,
            );
            record.time = UnixTime::from_seconds(1_000_000 + i as i64 * 2);
            record
        })
        .collect();
    let forms = forms(&records);
    let end = |i: u64| UnixTime::from_seconds(1_000_000 + (i as i64 * 211) % 20_000);
    for ((_dir, search), now) in forms
        .iter()
        .flat_map(|form| [1_017_500, 1_018_000, 1_019_000, 1_020_000, 1_000_500].map(|now| (form, now)))
    {
        let now = UnixTime::from_seconds(now);
        for i in (0..9010).step_by(7) {
            let live = i < 9000 && end(i) >= now;
            assert_eq!(search.is_live(&samples::serial(i), now), live, "{i} {now:?}");
            let query = LiveQuery {
                spki_sha256: Some(samples::spki(i)),
                ..LiveQuery::default()
            };
            assert_eq!(
                search.live_all(&query, now).unwrap().len(),
                usize::from(live),
                "{i} {now:?}"
            );
        }
    }
}

#[test]
fn a_serial_or_a_request_leads_to_its_record() {
    let place = Place::new();
    let journal = Arc::new(place.create(options()));
    let search = Search::new();
    let follower = Follower::start(
        "search",
        Arc::clone(&journal) as Arc<dyn Journal>,
        vec![search.sink()],
        Duration::ZERO,
    )
    .unwrap();
    let encoded: Vec<_> = records(60)[1..]
        .iter()
        .map(|record| record.clone().encode().unwrap())
        .collect();
    journal.append(&encoded, 0).unwrap();
    follower.stop();
    assert_eq!(search.applied(), 60);
    let found = search
        .certificate(&*journal, &samples::serial(13), None)
        .unwrap()
        .unwrap();
    assert_eq!(found.stored.index(), 13);
    assert_eq!(found.facts.spki_sha256, samples::spki(13));
    let ours = IssuerKeyId::new([8; 32]);
    assert!(
        search
            .certificate(&*journal, &samples::serial(13), Some(&ours))
            .unwrap()
            .is_some()
    );
    let other = IssuerKeyId::new([9; 32]);
    assert!(
        search
            .certificate(&*journal, &samples::serial(13), Some(&other))
            .unwrap()
            .is_none()
    );
    assert!(
        search
            .certificate(&*journal, &samples::serial(999), None)
            .unwrap()
            .is_none()
    );

    let mut request = [0; 16];
    request[7] = 13;
    let request = RequestId::new(request);
    let now = UnixTime::from_seconds(1_000_000);
    let answered = search.answered(&*journal, "node-1", &request, now).unwrap().unwrap();
    assert_eq!(answered.stored.index(), 13);
    let by_id = search
        .answered(&*journal, "spiffe://dev.test/mintage/agent/node-1", &request, now)
        .unwrap();
    assert_eq!(by_id.unwrap().stored.index(), 13);
    // Another agent's request of the same id, and one whose certificate is over, are none.
    assert!(search.answered(&*journal, "node-2", &request, now).unwrap().is_none());
    let late = UnixTime::from_seconds(1_003_000);
    assert!(search.answered(&*journal, "node-1", &request, late).unwrap().is_none());
}

#[test]
fn a_record_costs_about_ninety_bytes() {
    // Counted from the columns: kind, time, instance, serial, validity, key, issuer, six searched values, their order.
    let columns = 1 + 8 + 8 + 20 + 8 + 8 + 2 + 6 * 4;
    assert!(columns + 6 * 2 <= 100, "{columns}");
}
