//! A token's whole way, and the doors on it that must stay shut.

use std::sync::Arc;

use mintage_identity::{AgentInstance, Audiences, ReplicaName, RequestId, TrustDomain};
use mintage_ledger::{Actor, CommitError, Committer, CommitterLimits, Kind};
use mintage_svid::{TrustBundle, jwt_rule_date};

use super::*;
use crate::kit::{MemoryJournal, NOW, ca, domain, entry, jwt_grant_for, serial};

fn context(salt: u8) -> RecordContext {
    RecordContext {
        actor: Actor::Agent {
            id: SpiffeId::parse("spiffe://dev.test/mintage/agent/n1").unwrap(),
            instance: AgentInstance(4),
            serial: Some(serial(9)),
        },
        request_id: Some(RequestId::new([3; 16])),
        replica: ReplicaName::parse("r1").unwrap(),
        time: NOW,
        salt: [salt; 16],
    }
}

fn grant(floor: Option<UnixTime>) -> JwtGrant {
    jwt_grant_for(
        &entry(),
        floor,
        &Audiences::parse(&["db".into(), "cache".into()]).unwrap(),
    )
}

fn signer() -> JwtSigner {
    JwtSigner::generate(&domain()).unwrap().0
}

fn sealed(signer: &JwtSigner, salt: u8) -> (AwaitingJwt, EncodedRecord) {
    let prepared = prepare_jwt(grant(None), &[salt; 16], NOW, signer).unwrap();
    prepared.sign(signer).unwrap().seal(context(salt)).unwrap()
}

fn commit(records: Vec<(EncodedRecord, u64)>) -> Vec<Result<Receipt, CommitError>> {
    let journal: Arc<MemoryJournal> = MemoryJournal::new();
    let (committer, commits) = Committer::start(journal, CommitterLimits::default()).unwrap();
    let outcomes = commits.submit(records).wait();
    committer.stop();
    outcomes
}

#[test]
fn a_grant_becomes_a_token_that_says_exactly_that_and_verifies_against_the_bundle() {
    let signer = signer();
    let (waiting, record) = sealed(&signer, 1);
    assert_eq!((record.kind(), record.is_restricting()), (Kind::IssueJwt, false));
    let receipt = commit(vec![(record, 18)]).remove(0).unwrap();
    let issued = waiting.release(receipt).unwrap();

    let svid = JwtSvid::parse(issued.token()).unwrap();
    assert_eq!(svid.id().as_str(), "spiffe://dev.test/demo/web");
    assert_eq!(svid.audiences(), ["cache", "db"]);
    assert_eq!(svid.issued_at(), Some(NOW.floor_to_second()));
    assert_eq!(svid.expires(), NOW.floor_to_second().plus(Duration::from_secs(300)));
    assert_eq!((issued.expires(), issued.spiffe_id()), (svid.expires(), svid.id()));
    let bundle = |key| {
        let root = ca().root.certificate_der().to_vec();
        TrustBundle::new(domain(), vec![root], vec![key], 2, None).unwrap()
    };
    svid.verify_with(&bundle(signer.public().clone())).unwrap();
    svid.validate("db", NOW, 0).unwrap();
    let other = JwtSigner::generate(&domain()).unwrap().0;
    assert!(svid.verify_with(&bundle(other.public().clone())).is_err());
}

#[test]
fn a_token_of_an_rsa_key_says_rs256_and_verifies_against_the_bundle_as_it_is_published() {
    let Some(pkcs8) = crate::kit::rsa_pkcs8(2048) else {
        return;
    };
    let signer = JwtSigner::from_pkcs8(&domain(), &pkcs8).unwrap();
    let sealed = prepare_jwt(grant(None), &[1; 16], NOW, &signer)
        .unwrap()
        .sign(&signer)
        .unwrap();
    let svid = JwtSvid::parse(&sealed.token).unwrap();
    assert_eq!(svid.header().algorithm, mintage_svid::JwtAlgorithm::Rs256);
    let root = ca().root.certificate_der().to_vec();
    let bundle = TrustBundle::new(domain(), vec![root], vec![signer.public().clone()], 2, None).unwrap();
    let published = TrustBundle::from_jwks_json(domain(), &bundle.to_jwks_json()).unwrap();
    svid.verify_with(&published).unwrap();
}

#[test]
fn the_record_has_claims_and_hash_and_never_the_token() {
    let signer = signer();
    let sealed = prepare_jwt(grant(None), &[1; 16], NOW, &signer)
        .unwrap()
        .sign(&signer)
        .unwrap();
    let record = sealed.record(context(1));
    let whole = format!("{record:?}");
    let Body::IssueJwt(body) = record.body else {
        panic!("another kind")
    };
    assert_eq!(
        (body.entry.as_str(), body.entry_revision, body.rule.as_str()),
        ("web", 17, "entry")
    );
    assert_eq!(
        (body.audiences, body.selectors.len()),
        (vec!["cache".to_owned(), "db".to_owned()], 1)
    );
    assert_eq!((body.kid.as_str(), body.jti.len()), (signer.public().kid(), 32));
    assert_eq!(body.token_sha256, sha256(&sealed.token));
    let signature = sealed.token.rsplit('.').next().unwrap();
    assert!(!whole.contains(signature), "{whole}");
    assert!(!format!("{sealed:?}").contains(signature), "nor does a log line");
}

#[test]
fn only_the_receipt_of_its_own_record_opens_a_token() {
    let signer = signer();
    let (one, record) = sealed(&signer, 1);
    let (two, other) = sealed(&signer, 2);
    let mut receipts = commit(vec![(record, 18), (other, 18)]);
    let of_other = receipts.remove(1).unwrap();
    assert!(matches!(one.release(of_other), Err(MintError::OtherReceipt)));
    let of_one = receipts.remove(0).unwrap();
    assert!(matches!(two.release(of_one), Err(MintError::OtherReceipt)));
}

#[test]
fn a_token_after_a_rule_is_not_struck_by_it_and_one_before_is() {
    let signer = signer();
    // A rule made now has its cut 28 s ago, rounded up to the second.
    let cut = NOW.minus(JWT_RULE_SHIFT);
    let cut = cut.floor_to_second().plus(Duration::from_secs(1));
    let struck = |issued: UnixTime| jwt_rule_date(issued) <= cut;
    let before = prepare_jwt(grant(None), &[1; 16], NOW, &signer).unwrap();
    assert!(struck(before.issued));
    let after = prepare_jwt(grant(Some(cut)), &[1; 16], NOW, &signer).unwrap();
    assert!(!struck(after.issued));
    assert!(
        after.issued <= NOW.plus(Duration::from_secs(2)),
        "and it need not wait for long"
    );
    assert_eq!(
        after.expires,
        after.issued.plus(Duration::from_secs(300)),
        "nor lose lifetime"
    );
    let old = NOW.minus(Duration::from_secs(3600));
    let late = prepare_jwt(grant(Some(old)), &[1; 16], NOW, &signer).unwrap();
    assert_eq!(late.issued, NOW.floor_to_second(), "an old rule changes nothing");
}

#[test]
fn another_trust_domain_or_another_key_signs_nothing() {
    let signer = signer();
    let other = JwtSigner::generate(&domain()).unwrap().0;
    let prepared = prepare_jwt(grant(None), &[1; 16], NOW, &signer).unwrap();
    assert!(matches!(prepared.sign(&other), Err(MintError::JwtLint("key"))));
    let foreign = JwtSigner::generate(&TrustDomain::parse("other.test").unwrap())
        .unwrap()
        .0;
    let refused = prepare_jwt(grant(None), &[1; 16], NOW, &foreign).unwrap_err();
    assert!(matches!(refused, MintError::OtherTrustDomain { .. }));
}
