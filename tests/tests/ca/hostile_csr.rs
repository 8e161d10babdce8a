//! Hostile signing requests over a real Sync stream: each is refused with its code or has no influence on what is
//! issued, the stream stays usable, and the ledger tells of them without growing with them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::Path, process::Command, time::Duration};

use mintage_ca::Config;
use mintage_mint::limits::CSR_BYTES_MAX;
use mintage_proto::v1::{MintResult, RevokeRequest, revocation_client::RevocationClient, revoke_request::Target};
use mintage_tests::kit::{
    ca::TestCa,
    client::{Joined, admin, join, join_with, random},
    csr::{EC_KEY, EXTENSION_REQUEST, NO_NAME, P256, Requester, alternative_names, extension, spki, tlv, uri},
    inventory::denials,
    peers::peer,
    stream::{Stream, ask, ask_with, code},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use tonic::Code;
use x509_parser::prelude::{FromDer, X509Certificate};

const ECDSA_SHA1: [u8; 11] = [0x30, 0x09, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
const SECP256K1: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
const P521: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
const RSA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED448: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x71];
const DSA: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01];
/// The extension whose value is the public key's own hash, and so differs between any two certificates.
const SUBJECT_KEY_ID: &str = "2.5.29.14";
/// A refusal of one caller and code is recorded once in this time.
const DENY_INTERVAL: Duration = Duration::from_secs(10);

/// An RSA key of this many octets; nobody has its private half, so it must be refused for what it is.
fn rsa<const OCTETS: usize>() -> Vec<u8> {
    let mut modulus = random::<OCTETS>();
    modulus[0] |= 0x80;
    modulus[OCTETS - 1] |= 1;
    let key = tlv(0x30, &[&tlv(2, &[&[0], &modulus]), &[2, 3, 1, 0, 1]]);
    spki(&[&RSA, &[5, 0]], &key)
}

/// What is sent, and a part of the reason that must come back.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let requester = Requester::new();
    let plain = requester.plain();
    let attribute = tlv(0x30, &[&EXTENSION_REQUEST, &tlv(0x31, &[&NO_NAME])]);
    let mut flipped = plain.clone();
    *flipped.last_mut().unwrap() ^= 1;
    // SEQUENCE 0x81 nn, its length written with one octet too many, and without any.
    let (long, indefinite) = (
        [&[0x30, 0x82, 0], &plain[2..]].concat(),
        [&[0x30, 0x80], &plain[3..], &[0, 0]].concat(),
    );
    let info = tlv(0x30, &[&[2, 1, 0], &NO_NAME, requester.spki(), &tlv(0xa0, &[])]);
    let point = requester.point();
    let mut off_curve = point.clone();
    off_curve[64] ^= 1;
    let compressed = [&[2 + (point[64] & 1)], &point[1..33]].concat();
    let p256 = |point: &[u8]| requester.with_key(&spki(&[&EC_KEY, &P256], point));
    let pem = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
    let dsa = tlv(0x30, &[&[2, 1, 23], &[2, 1, 11], &[2, 1, 4]]);
    vec![
        ("empty", Vec::new(), "empty"),
        ("random octets", random::<300>().to_vec(), "DER"),
        ("PEM", pem.into(), "PEM"),
        ("one octet short", plain[..plain.len() - 1].to_vec(), "DER"),
        ("half of it", plain[..plain.len() / 2].to_vec(), "DER"),
        ("trailing octets", [plain.as_slice(), &[0, 0]].concat(), "DER"),
        ("indefinite length", indefinite, "DER"),
        ("length in too many octets", long, "DER"),
        ("flipped signature", flipped, "proof of possession failed"),
        (
            "version 1",
            requester.request(1, &NO_NAME, requester.spki(), &[]),
            "version",
        ),
        (
            "attribute twice",
            requester.request(0, &NO_NAME, requester.spki(), &attribute.repeat(2)),
            "attribute",
        ),
        ("SHA-1", requester.signed(&info, &ECDSA_SHA1), "algorithm"),
        ("RSA-1024", requester.with_key(&rsa::<128>()), "key"),
        ("RSA-2048", requester.with_key(&rsa::<256>()), "RSA"),
        ("RSA-16384", requester.with_key(&rsa::<2048>()), "key"),
        (
            "secp256k1",
            requester.with_key(&spki(&[&EC_KEY, &SECP256K1], &point)),
            "key",
        ),
        (
            "P-521",
            requester.with_key(&spki(&[&EC_KEY, &P521], &[&[4], random::<132>().as_slice()].concat())),
            "key",
        ),
        ("Ed448", requester.with_key(&spki(&[&ED448], &random::<57>())), "key"),
        ("DSA", requester.with_key(&spki(&[&DSA, &dsa], &[2, 1, 8])), "key"),
        // Whether the point is looked at when the key is read or when its signature is checked is no matter.
        ("point off the curve", p256(&off_curve), ""),
        ("point at infinity", p256(&[0]), ""),
        ("compressed point", p256(&compressed), ""),
        (
            "another's public key",
            requester.with_key(Requester::new().spki()),
            "possession",
        ),
    ]
}

/// Requests beyond the limit of size. The last is no DER at all: a reason that speaks of its size shows that the size was
/// looked at before anything was parsed.
fn oversized() -> Vec<(&'static str, Vec<u8>)> {
    let requester = Requester::new();
    let names = vec![tlv(0x82, &[b"a"]); 10_000];
    vec![
        ("subject over the limit", requester.with_subject(1, CSR_BYTES_MAX)),
        ("subject of 48 kB", requester.with_subject(1, 48 * 1024)),
        ("700 organizational units", requester.with_subject(700, 2)),
        ("10,000 names", requester.with_extensions(&[alternative_names(&names)])),
        ("one octet over the limit", of_size(&requester, CSR_BYTES_MAX + 1)),
        ("no DER", vec![0xff; CSR_BYTES_MAX + 1]),
    ]
}

/// A good request of exactly this size.
fn of_size(requester: &Requester, size: usize) -> Vec<u8> {
    let mut octets = size / 2;
    // The signature's own length differs from one to the next by an octet or two.
    loop {
        let request = requester.with_subject(1, octets);
        if request.len() == size {
            return request;
        }
        octets = (octets + size).saturating_sub(request.len());
    }
}

async fn refused(stream: &mut Stream, entry: &str, csr: Vec<u8>) -> (String, i32, String) {
    let result = stream.ask_one(ask_with(entry, csr)).await.unwrap();
    assert!(result.leaf.is_empty() && result.receipt.is_none(), "{result:?}");
    let refusal = result.refusal.expect("a refusal");
    (refusal.code, refusal.grpc_code as i32, refusal.message)
}

fn leaf(result: &MintResult) -> X509Certificate<'_> {
    assert_eq!(code(result), "", "{result:?}");
    X509Certificate::from_der(&result.leaf).expect("a certificate").1
}

/// Sends every bad request; how many there were.
async fn each_is_refused(stream: &mut Stream) -> usize {
    let over = |(what, csr): (&'static str, Vec<u8>)| {
        let size = csr.len().to_string();
        (what, csr, vec!["limit".to_owned(), size])
    };
    let bad = hostile()
        .into_iter()
        .map(|(what, csr, why)| (what, csr, vec![why.to_owned()]));
    let mut attempts = 0;
    for (what, csr, parts) in bad.chain(oversized().into_iter().map(over)) {
        let (code, grpc, message) = refused(stream, "web", csr).await;
        assert_eq!(
            (code.as_str(), grpc),
            ("csr", Code::InvalidArgument as i32),
            "{what}: {message}"
        );
        for part in parts {
            assert!(message.contains(&part), "{what}: {message}");
        }
        attempts += 1;
    }
    attempts
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_request_is_refused_and_the_ledger_counts_rather_than_grows() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let started = tokio::time::Instant::now();
    let mut attempts = 0;
    for _ in 0..4 {
        attempts += each_is_refused(&mut stream).await;
        let good = stream.ask_one(ask("web")).await.unwrap();
        assert!(!leaf(&good).is_ca());
    }
    // All of a batch but the good one is refused, each under its own request id.
    let mut batch: Vec<_> = hostile().into_iter().map(|(_, csr, _)| ask_with("web", csr)).collect();
    attempts += batch.len();
    batch.push(ask("web"));
    let ids: Vec<_> = batch.iter().map(|ask| ask.request_id.clone()).collect();
    stream.ask(batch).await.unwrap();
    let results = stream.minted().await.unwrap();
    assert_eq!(
        results
            .iter()
            .map(|result| result.request_id.clone())
            .collect::<Vec<_>>(),
        ids
    );
    assert_eq!(
        results.iter().filter(|result| code(result) == "csr").count(),
        ids.len() - 1
    );
    let intervals = started.elapsed().as_secs() / DENY_INTERVAL.as_secs() + 1;
    let recorded = denials(ca.ca.admin_socket(), "csr").await.len() as u64;
    assert!(
        (1..=intervals).contains(&recorded),
        "{recorded} records in {intervals} intervals"
    );
    // The next record after the interval carries the count of those that were not recorded.
    tokio::time::sleep(DENY_INTERVAL + Duration::from_millis(500)).await;
    refused(&mut stream, "web", Vec::new()).await;
    attempts += 1;
    // A note is written beside the answer: it may be a moment behind it.
    let mut told = 0;
    for _ in 0..200 {
        told = denials(ca.ca.admin_socket(), "csr")
            .await
            .iter()
            .map(|(_, deny)| 1 + deny.suppressed as usize)
            .sum();
        if told == attempts {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(told, attempts);
    ca.stop().await;
}

/// CA:TRUE, keyCertSign, code signing, other people's names, name constraints and an unknown critical extension.
fn wishes() -> [(&'static str, Vec<u8>); 6] {
    let name = |tag: u8, text: &str| tlv(tag, &[text.as_bytes()]);
    let other = tlv(
        0xa0,
        &[&[6, 3, 0x2a, 3, 4], &tlv(0xa0, &[&name(0x0c, "root@dev.test")])],
    );
    let names = [
        uri(b"spiffe://dev.test/mintage/ca/ca-1"),
        uri(b"spiffe://dev.test/db"),
        name(0x82, "*.dev.test"),
        name(0x81, "root@dev.test"),
        tlv(0x87, &[&[127, 0, 0, 1]]),
        other,
    ];
    let subtree = tlv(0x30, &[&tlv(0xa0, &[&tlv(0x30, &[&name(0x82, "dev.test")])])]);
    let code_signing = tlv(0x30, &[&[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 3]]);
    [
        ("CA:TRUE", extension(&[0x55, 0x1d, 0x13], &tlv(0x30, &[&[1, 1, 0xff]]))),
        ("keyCertSign", extension(&[0x55, 0x1d, 0x0f], &[3, 2, 1, 6])),
        ("code signing", extension(&[0x55, 0x1d, 0x25], &code_signing)),
        ("names", alternative_names(&names)),
        ("name constraints", extension(&[0x55, 0x1d, 0x1e], &subtree)),
        ("an unknown extension", extension(&[0x2a, 3, 4, 5], &[5, 0])),
    ]
}

/// A common name to ask for.
fn subject() -> Vec<u8> {
    let name = tlv(0x30, &[&[6, 3, 0x55, 4, 3], &tlv(0x0c, &[b"dev.test root"])]);
    tlv(0x30, &[&tlv(0x31, &[&name])])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_ca_refuses_each_wish_and_takes_a_bare_request() {
    let strict = |config: Config| {
        let text = format!(
            "data_dir = {:?}\nlisten = \"127.0.0.1:0\"\n[ca]\nstrict_csr = true\n",
            config.data_dir()
        );
        Config::parse(Path::new("ca.toml"), &text).unwrap()
    };
    let ca = TestCa::start_with(strict).await;
    ca.entry("web", "/web").await;
    let agent = join_bare(&ca).await;
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let requester = Requester::new();
    let named = requester.request(0, &subject(), requester.spki(), &[]);
    let extended = wishes().map(|(what, wish)| (what, requester.with_extensions(&[wish])));
    for (what, csr) in extended.into_iter().chain([("a subject", named)]) {
        let (code, grpc, message) = refused(&mut stream, "web", csr).await;
        assert_eq!(
            (code.as_str(), grpc),
            ("csr", Code::InvalidArgument as i32),
            "{what}: {message}"
        );
        assert!(message.contains("strict policy"), "{what}: {message}");
    }
    let bare = stream.ask_one(ask_with("web", requester.plain())).await.unwrap();
    assert_eq!(leaf(&bare).public_key().raw, requester.spki());
    ca.stop().await;
}

/// Joins by a request that asks for nothing, which the kit's own client does not make.
async fn join_bare(ca: &TestCa) -> Joined {
    let token = ca.token("n1").await;
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
    let answer = join_with(&token, Requester::of(document.as_ref()).plain())
        .await
        .unwrap();
    Joined {
        key: document.as_ref().to_vec(),
        chain: answer.chain,
        roots: answer.bundle.unwrap().roots,
        domain: token.trust_domain().clone(),
        instance: answer.instance,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_exactly_the_limit_is_taken_and_one_over_it_costs_no_token() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let requester = Requester::new();
    let most = of_size(&requester, CSR_BYTES_MAX);
    let issued = stream.ask_one(ask_with("web", most)).await.unwrap();
    assert_eq!(leaf(&issued).public_key().raw, requester.spki());
    // A node that joins is refused by the same limit, before its token is looked at.
    let token = ca.token("n2").await;
    for (what, csr) in oversized() {
        let refused = join_with(&token, csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
        assert!(refused.message().contains("limit"), "{what}: {refused:?}");
    }
    join(&token).await.expect("the token is as good as new");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_wishes_for_beyond_its_key_changes_no_field_of_the_certificate() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let (plain, greedy) = (Requester::new(), Requester::new());
    let list = tlv(0x30, &[&wishes().map(|(_, wish)| wish).concat()]);
    let attribute = tlv(0x30, &[&EXTENSION_REQUEST, &tlv(0x31, &[&list])]);
    let asked = greedy.request(0, &subject(), greedy.spki(), &attribute);
    let results = [
        stream.ask_one(ask_with("web", plain.plain())).await.unwrap(),
        stream.ask_one(ask_with("web", asked)).await.unwrap(),
    ];
    let [one, two] = [leaf(&results[0]), leaf(&results[1])];
    assert_eq!(one.public_key().raw, plain.spki());
    assert_eq!(two.public_key().raw, greedy.spki());
    assert_ne!(one.raw_serial(), two.raw_serial());
    assert_eq!(one.version(), two.version());
    assert_eq!(one.subject().as_raw(), two.subject().as_raw());
    assert_eq!(one.issuer().as_raw(), two.issuer().as_raw());
    assert_eq!(one.signature_algorithm, two.signature_algorithm);
    assert_eq!((&one.issuer_uid, &one.subject_uid), (&two.issuer_uid, &two.subject_uid));
    let life =
        |leaf: &X509Certificate<'_>| leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(life(&one), life(&two));
    let extensions = |leaf: &X509Certificate<'_>| -> Vec<(String, bool, Vec<u8>)> {
        let each = leaf.extensions().iter().map(|extension| {
            let id = extension.oid.to_id_string();
            let value = if id == SUBJECT_KEY_ID {
                Vec::new()
            } else {
                extension.value.to_vec()
            };
            (id, extension.critical, value)
        });
        each.collect()
    };
    assert!(!extensions(&one).is_empty());
    assert_eq!(extensions(&one), extensions(&two));
    assert!(!two.is_ca());
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_nobody_elses_and_never_the_authoritys_own() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    ca.entry("db", "/db").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let requester = Requester::new();
    let issued = stream.ask_one(ask_with("web", requester.plain())).await.unwrap();
    assert_eq!(leaf(&issued).public_key().raw, requester.spki());
    let denied = Code::PermissionDenied as i32;
    let (why, grpc, _) = refused(&mut stream, "db", requester.plain()).await;
    assert_eq!((why.as_str(), grpc), ("key-under-other-id", denied));
    let (why, grpc, _) = refused(&mut stream, "web", requester.plain()).await;
    assert_eq!((why.as_str(), grpc), ("key-reused", Code::FailedPrecondition as i32));

    for name in ["intermediate.key", "root.key"] {
        let pem = std::fs::read_to_string(ca.data_dir().join("keys").join(name)).unwrap();
        let key = mintage_svid::pem::decode(mintage_svid::pem::Label::PrivateKey, &pem).unwrap();
        let (why, grpc, message) = refused(&mut stream, "web", Requester::of(&key).plain()).await;
        assert_eq!((why.as_str(), grpc), ("key-of-ca", denied), "{name}: {message}");
    }

    let blocked = Requester::new();
    let hash = ring::digest::digest(&ring::digest::SHA256, blocked.spki());
    let mut revocation = RevocationClient::new(admin(ca.ca.admin_socket()).await.unwrap());
    let request = RevokeRequest {
        target: Some(Target::Key(hex::encode(hash.as_ref()))),
        reason: "key-compromise".to_owned(),
        ..RevokeRequest::default()
    };
    revocation.revoke(request).await.unwrap();
    let (why, grpc, _) = refused(&mut stream, "web", blocked.plain()).await;
    assert_eq!((why.as_str(), grpc), ("key-blocked", denied));
    assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_curves_are_taken_and_the_certificate_carries_exactly_their_key() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let issued = stream.ask_one(ask_with("web", csr.der().to_vec())).await.unwrap();
        assert_eq!(
            leaf(&issued).public_key().raw,
            rcgen::PublicKeyData::subject_public_key_info(&key)
        );
    }
    if let Some(openssl) = peer("openssl") {
        let folder = ca.beside("openssl");
        std::fs::create_dir(&folder).unwrap();
        let run = |arguments: &str| {
            let mut command = Command::new(&openssl);
            command.current_dir(&folder).args(arguments.split(' '));
            let output = command.output().expect("openssl runs");
            assert!(output.status.success(), "openssl {arguments}: {output:?}");
        };
        run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out key.pem");
        run("pkey -in key.pem -pubout -outform DER -out key.der");
        run("req -new -key key.pem -subj /CN=x -sha256 -outform DER -out csr.der");
        let csr = std::fs::read(folder.join("csr.der")).unwrap();
        let issued = stream.ask_one(ask_with("web", csr)).await.unwrap();
        assert_eq!(
            leaf(&issued).public_key().raw,
            std::fs::read(folder.join("key.der")).unwrap()
        );
    }
    ca.stop().await;
}
