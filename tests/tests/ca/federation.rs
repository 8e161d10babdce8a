//! What an operator may hand in as the bundle of another trust domain: hostile ones leave what stands, the same again records
//! nothing, and the ledger's meaning holds afterwards.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use mintage_proto::v1::{SetFederatedRequest, SetFederatedResponse};
use mintage_svid::{TrustBundle, pem};
use mintage_tests::kit::{
    ca::{TestCa, apply, domain},
    federation::{document, federate, federated, federating_entry, other_domain, unfederate},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// A certificate that may sign, or not, with this SPIFFE ID where one is named.
fn certificate(ca: bool, id: Option<&str>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
    params.subject_alt_names = id.map(|id| SanType::URI(id.try_into().unwrap())).into_iter().collect();
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

/// The document of `other.test` with these roots.
fn written(roots: Vec<Vec<u8>>, sequence: u64) -> String {
    TrustBundle::new(other_domain(), roots, Vec::new(), sequence, Some(60))
        .unwrap()
        .to_jwks_json()
}

fn request(name: &str, document: &str) -> SetFederatedRequest {
    SetFederatedRequest {
        trust_domain: name.to_owned(),
        document: document.to_owned(),
        ..SetFederatedRequest::default()
    }
}

async fn set(ca: &TestCa, name: &str, document: &str) -> Result<SetFederatedResponse, Status> {
    federate(ca.ca.admin_socket(), request(name, document)).await
}

#[tokio::test]
async fn hostile_bundles_are_refused_and_the_old_one_stays() {
    let ca = TestCa::start().await;
    let root = certificate(true, None);
    let good = written(vec![root.clone()], 5);
    let taken = set(&ca, "other.test", &good).await.unwrap();
    assert!(taken.changed && taken.index > 0);
    let stands = taken.bundle.unwrap();
    assert!(!stands.revocation_unchecked, "what is not said is asked");

    let twice: Value = serde_json::from_str(&good).unwrap();
    let twice = json!({"keys": [twice["keys"][0], twice["keys"][0]], "spiffe_sequence": 6}).to_string();
    let pem = |der: &[u8]| pem::encode_certificates([der]);
    let invalid = [
        ("other.test", String::new()),
        ("other.test", "{}".to_owned()),
        ("other.test", "{\"keys\": []}".to_owned()),
        ("other.test", "[".repeat(50_000)),
        ("other.test", " ".repeat(60 * 1024 + 1)),
        ("other.test", twice),
        ("other.test", pem(&certificate(false, None))),
        ("other.test", pem(&certificate(true, Some("spiffe://other.test/web")))),
        ("other.test", pem(b"junk")),
        ("Other.test", good.clone()),
        ("spiffe://other.test", good.clone()),
        ("..", good.clone()),
        ("", good.clone()),
        (domain().as_str(), good.clone()),
    ]
    .map(|(name, document)| (name.to_owned(), document, Code::InvalidArgument));
    let out_of_order = [
        (
            "other.test".to_owned(),
            written(vec![certificate(true, None)], 4),
            Code::FailedPrecondition,
        ),
        (
            "other.test".to_owned(),
            written(vec![certificate(true, None)], 5),
            Code::FailedPrecondition,
        ),
    ];
    for (name, document, code) in invalid.into_iter().chain(out_of_order) {
        let refused = set(&ca, &name, &document).await.unwrap_err();
        let short: String = document.chars().take(60).collect();
        assert_eq!(refused.code(), code, "{name}: {short}: {refused}");
        assert!(
            refused.message().len() < 600 && !refused.message().contains('\n'),
            "{refused}"
        );
    }
    let listed = federated(ca.ca.admin_socket()).await;
    assert_eq!(listed.bundles, [stands]);
    ca.stop().await;
}

#[tokio::test]
async fn the_same_again_records_nothing_and_a_rehearsal_neither() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket();
    let waiting = federating_entry(&domain(), "web", &other_domain());
    let applied = apply(socket, vec![waiting.clone()]).await.unwrap();
    assert!(
        applied.warnings[0].contains("mintage bundle federate"),
        "{:?}",
        applied.warnings
    );
    let listed = federated(socket).await;
    assert_eq!(
        (listed.bundles.len(), listed.missing),
        (0, vec!["other.test".to_owned()])
    );

    let (old, new) = (certificate(true, None), certificate(true, None));
    let rehearsed = SetFederatedRequest {
        dry_run: true,
        ..request("other.test", &written(vec![old.clone()], 1))
    };
    let rehearsed = federate(socket, rehearsed).await.unwrap();
    assert!(
        rehearsed.changed && rehearsed.index == 0 && rehearsed.entries == 1,
        "{rehearsed:?}"
    );
    assert!(federated(socket).await.bundles.is_empty());

    let first = set(&ca, "other.test", &written(vec![old.clone()], 1)).await.unwrap();
    let again = set(&ca, "other.test", &written(vec![old.clone()], 1)).await.unwrap();
    assert!(
        !again.changed && again.index == 0 && again.bundle == first.bundle,
        "{again:?}"
    );
    // The old root stays beside the new one for a while, as a rotation goes; then PEM, which has no sequence.
    let both = set(&ca, "other.test", &written(vec![old, new.clone()], 2))
        .await
        .unwrap();
    assert_eq!(both.bundle.unwrap().bundle.unwrap().roots.len(), 2);
    set(&ca, "other.test", &pem::encode_certificates([&new])).await.unwrap();
    let listed = federated(socket).await;
    assert_eq!(listed.bundles[0].bundle.as_ref().unwrap().roots, [new]);
    assert!(listed.missing.is_empty());
    assert!(apply(socket, vec![waiting]).await.unwrap().warnings.is_empty());
    // The document of a real CA, with its JWT keys.
    let theirs = TestCa::start_of(&other_domain()).await;
    let whole = document(theirs.ca.admin_socket()).await;
    let taken = set(&ca, "third.test", &whole).await.unwrap();
    assert!(!taken.bundle.unwrap().bundle.unwrap().jwt_keys.is_empty());
    theirs.stop().await;

    unfederate(socket, &other_domain()).await;
    assert_eq!(federated(socket).await.bundles.len(), 1);
    let folder = ca.stop().await;
    let mut verify = std::process::Command::new(mintage_tests::kit::bins::binary("mintage"));
    verify
        .args(["audit", "verify", "--data-dir"])
        .arg(folder.path().join("ca"));
    let told = verify.output().unwrap();
    assert!(told.status.success(), "{told:?}");
}
