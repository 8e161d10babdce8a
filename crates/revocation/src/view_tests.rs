//! A batch that has the memory fetch ahead, without the large filter for which it does so.

use mintage_identity::SpkiHash;

use super::*;
use crate::{
    SerialKind,
    body::{BodyIssuer, BodySegment},
    bucket::Bucket,
};

#[test]
fn a_batch_that_fetches_ahead_answers_like_single_questions() {
    let (id, now) = (IssuerKeyId::new([7; 32]), UnixTime::from_seconds(1_900_000_000));
    let serial = |n: u128| Serial::from_random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes());
    let serials: Vec<Serial> = (1..=300).map(serial).collect();
    let revoked = serials.iter().step_by(2);
    let mut fingerprints: Vec<u64> = revoked.map(|s| fingerprint(SerialKind::Native, &id, s)).collect();
    fingerprints.sort_unstable();
    let body = Body {
        issuers: vec![BodyIssuer {
            id,
            covered: true,
            kind: SerialKind::Native,
            until: UnixTime::from_millis(i64::MAX),
        }],
        segments: vec![BodySegment {
            issuer: 0,
            bucket: Bucket::FOREVER,
            fingerprints,
        }],
        ..Body::default()
    };
    let mut view = View::of_body(1, &body, Pulse::new(now, now));
    assert!(!view.is_large);
    view.is_large = true;
    let query = |serial| Query {
        issuer: id,
        serial,
        not_before: now,
        not_after: now.plus(Duration::from_secs(600)),
        spiffe_id: None,
        spki_sha256: SpkiHash::new([1; 32]),
    };
    let queries: Vec<Query<'_>> = serials.iter().map(query).collect();
    let mut verdicts = vec![Verdict::Stale; queries.len()];
    view.check_batch(&queries, now, &mut verdicts);
    for (at, query) in queries.iter().enumerate() {
        let expected = match at % 2 {
            0 => Verdict::Revoked { why: Why::Serial },
            _ => Verdict::Good,
        };
        assert_eq!((verdicts[at], view.check(query, now)), (expected, expected), "{at}");
    }
}
