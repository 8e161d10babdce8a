//! The revocation formats before a reader that was written from their description alone, in another language: it takes what is
//! genuine, refuses what is not, and answers as ours does. And the two ways by which a revocation reaches who does not ask the
//! agent, with the time that each takes: the delivered lists before openssl, and the node's map behind a rustls server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

#[path = "../../../crates/revocation/tests/publisher/mod.rs"]
mod publisher;

use mintage_identity::{IdPrefix, UnixTime};
use mintage_proto::v1::revoke_request::Target;
use mintage_revocation::{Exception, MapOwner, MapReader, Replica, RuleTarget, Verdict};
use mintage_tests::kit::{
    client::provider,
    clock::Shifted,
    echo::serve,
    node::{Node, Pair, until},
    peers::peer,
    verifiers::Interpreter,
};
use mintage_verifier::{
    AllowedIds, ClientAuth, IdentitySource, RevocationCheck, TlsSettings, Trust, TrustStore, server_config,
};
use mintage_verifier_tokio::{Acceptor, Registry, RegistrySettings, follow_map};
use publisher::{Cert, FOREIGN, NATIVE, Publisher, START, STRANGER, domain, id, seconds, twin};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

/// Made once: both tests run in it.
fn python() -> Option<&'static Interpreter> {
    static MADE: OnceLock<Option<Interpreter>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
        fs::create_dir_all(&scratch).unwrap();
        Interpreter::python(&scratch)
    });
    made.as_ref()
}

/// Asks the other reader; what became of each step, and its answers.
fn ask(
    python: &Interpreter,
    publisher: &Publisher,
    steps: &[Value],
    questions: &[Value],
) -> (Vec<Option<String>>, Vec<String>) {
    let told = json!({
        "domain": domain().to_string(),
        "ca": hex::encode(&publisher.ca.spki),
        "steps": steps,
        "questions": questions,
    });
    let answer: Value = serde_json::from_slice(&python.run("revocation.py", told.to_string().as_bytes())).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let outcomes = answer["outcomes"].as_array().unwrap().iter().map(text).collect();
    (
        outcomes,
        answer["answers"].as_array().unwrap().iter().filter_map(text).collect(),
    )
}

fn step(what: &str, octets: &[u8], now: UnixTime) -> Value {
    json!({ "what": what, "octets": hex::encode(octets), "now": now.millis() })
}

fn question(cert: &Cert, now: UnixTime) -> Value {
    json!({
        "issuer": hex::encode(cert.issuer.as_bytes()),
        "serial": hex::encode(cert.serial.padded()),
        "not_before": cert.not_before.millis(),
        "not_after": cert.not_after.millis(),
        "id": cert.id.to_string(),
        "spki": hex::encode(cert.spki.as_bytes()),
        "now": now.millis(),
    })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "good",
        Verdict::Revoked { .. } => "revoked",
        Verdict::Stale => "stale",
        Verdict::NotCovered => "not covered",
    }
}

/// Certificates of every sort: three issuers, lives of minutes, hours and weeks, several names, and some that have ended.
fn certificates() -> Vec<Cert> {
    let sort = |(at, mut cert): (usize, Cert)| {
        cert.issuer = [NATIVE, NATIVE, FOREIGN, STRANGER][at % 4];
        let life = [600, 9_000, 900_000, 600, -5_000][at % 5];
        cert.not_after = UnixTime::from_seconds(START.seconds() + life);
        let name = ["web", "db/main", "db/copy/1", "batch"][at % 7 % 4];
        cert.id = id(&format!("spiffe://dev.test/{name}"));
        cert
    };
    (0..600).map(Cert::new).enumerate().map(sort).collect()
}

/// A history: what was sent, and the follower of ours that took it.
fn history(publisher: &mut Publisher, certs: &[Cert]) -> (Vec<Value>, Replica) {
    let chosen = |from: usize| {
        certs
            .iter()
            .skip(from)
            .step_by(5)
            .filter(|cert| cert.issuer != STRANGER)
            .map(Cert::revoked)
    };
    publisher.revoke(chosen(0).collect(), Vec::new());
    let struck = Cert::new(0);
    let exception = Exception {
        issuer: NATIVE,
        serial: twin(&struck.serial, 1),
    };
    publisher.exceptions = vec![exception];
    let mut ours = publisher.follower();
    let mut steps = vec![step("delegation", &delegation(publisher), publisher.now)];
    let snapshot = publisher.snapshot();
    ours.apply_snapshot(&snapshot, publisher.now).unwrap();
    steps.push(step("object", &snapshot, publisher.now));
    let rules = [
        (
            RuleTarget::Identity(id("spiffe://dev.test/web")),
            Some(START.minus(seconds(30))),
        ),
        (
            RuleTarget::Identity(id("spiffe://dev.test/batch")),
            Some(START.minus(seconds(31))),
        ),
        (
            RuleTarget::Prefix(IdPrefix::parse("spiffe://dev.test/db/copy/*").unwrap()),
            None,
        ),
        (RuleTarget::Key(certs[17].spki), None),
    ];
    for (at, (target, cut)) in rules.into_iter().enumerate() {
        publisher.now = publisher.now.plus(seconds(10));
        publisher.revoke_rule(target, cut);
        publisher.revoke(chosen(at + 1).take(20).collect(), Vec::new());
        let delta = publisher.delta(ours.position().unwrap().sequence);
        ours.apply_delta(&delta, publisher.now).unwrap();
        steps.push(step("object", &delta, publisher.now));
    }
    publisher.now = publisher.now.plus(seconds(30));
    let heartbeat = publisher.heartbeat();
    ours.heartbeat(&heartbeat, publisher.now).unwrap();
    steps.push(step("object", &heartbeat, publisher.now));
    (steps, ours)
}

/// The delegation as it travels.
fn delegation(publisher: &Publisher) -> Vec<u8> {
    let end = START.plus(seconds(86_400));
    let statement = mintage_revocation::DelegationStatement::new(
        &domain(),
        publisher.key.public_key(),
        publisher.epoch,
        end,
        publisher.ca.id(),
    );
    publisher.ca.sign(statement).encode()
}

#[test]
fn a_reader_in_another_language_answers_as_ours_does() {
    let Some(python) = python() else { return };
    let (mut publisher, certs) = (Publisher::new(), certificates());
    let (steps, ours) = history(&mut publisher, &certs);
    let twin = Cert {
        serial: twin(&Cert::new(0).serial, 1),
        ..certs[0].clone()
    };
    let moments = [
        publisher.now,
        publisher.now.plus(seconds(59)),
        publisher.now.plus(seconds(61)),
    ];
    let asked: Vec<(&Cert, UnixTime)> = certs
        .iter()
        .chain([&twin])
        .flat_map(|cert| moments.map(|now| (cert, now)))
        .collect();
    let questions: Vec<Value> = asked.iter().map(|(cert, now)| question(cert, *now)).collect();
    let (outcomes, theirs) = ask(python, &publisher, &steps, &questions);
    assert_eq!(outcomes, vec![None; steps.len()]);
    let view = ours.view();
    let mut seen = std::collections::BTreeSet::new();
    for ((cert, now), theirs) in asked.iter().zip(&theirs) {
        let verdict = word(view.check(&cert.query(), *now));
        assert_eq!(theirs, verdict, "{cert:?} at {now:?}");
        seen.insert(verdict);
    }
    assert_eq!(theirs.len(), asked.len());
    assert_eq!(seen.len(), 4, "every answer was given: {seen:?}");
}

#[test]
fn a_reader_in_another_language_refuses_what_ours_refuses() {
    let Some(python) = python() else { return };
    let (mut publisher, certs) = (Publisher::new(), certificates());
    let (steps, _) = history(&mut publisher, &certs);
    let genuine: Vec<Vec<u8>> = steps
        .iter()
        .map(|step| hex::decode(step["octets"].as_str().unwrap()).unwrap())
        .collect();
    let now = publisher.now;
    let mut altered = Vec::new();
    for octets in &genuine[1..] {
        // A bit in every field of the header, in the signature, and strewn over the body; and every sort of cut.
        let strewn = (0..320).step_by(7).chain((320..octets.len()).step_by(97));
        altered.extend(strewn.map(|at| {
            let mut octets = octets.clone();
            octets[at] ^= 1 << (at % 8);
            octets
        }));
        altered.extend([0, 100, 319, octets.len() - 1].map(|len| octets[..len.min(octets.len())].to_vec()));
        altered.push([&octets[..], &[0]].concat());
    }
    // Genuine, but out of place: a delta before its time, one again that was followed by others, another publisher's.
    altered.push(genuine[3].clone());
    altered.push(Publisher::new().snapshot());
    let mut all = steps[..2].to_vec();
    all.extend(altered.iter().map(|octets| step("object", octets, now)));
    let asked: Vec<Value> = certs.iter().map(|cert| question(cert, now)).collect();
    let (outcomes, after) = ask(python, &publisher, &all, &asked);
    let (_, before) = ask(python, &publisher, &steps[..2], &asked);
    assert!(outcomes[..2].iter().all(Option::is_none));
    for (at, outcome) in outcomes[2..].iter().enumerate() {
        assert!(outcome.is_some(), "altered object {at} was taken");
    }
    assert_eq!(after, before, "what is refused changes nothing");
}

#[test]
fn a_reader_in_another_language_mends_what_it_took_while_the_clock_was_ahead() {
    let Some(python) = python() else { return };
    let (mut publisher, certs) = (Publisher::new(), certificates());
    let chosen = certs.iter().step_by(4).map(Cert::revoked);
    publisher.revoke(chosen.collect(), Vec::new());
    let mut ours = publisher.follower();
    let mut steps = vec![step("delegation", &delegation(&publisher), START)];
    let mut refused = vec![false];
    let (ahead, back) = (START.plus(seconds(3_600)), START.plus(seconds(10)));
    for (now, is_snapshot) in [
        (START, true),
        (ahead, false),
        (back, false),
        (back, true),
        (back, false),
    ] {
        publisher.now = now;
        let (octets, outcome) = if is_snapshot {
            let octets = publisher.snapshot();
            let outcome = ours.apply_snapshot(&octets, now).map(drop);
            (octets, outcome)
        } else {
            let octets = publisher.heartbeat();
            let outcome = ours.heartbeat(&octets, now).map(drop);
            (octets, outcome)
        };
        steps.push(step("object", &octets, now));
        refused.push(outcome.is_err());
    }
    assert_eq!(refused, [false, false, false, true, false, false]);
    let questions: Vec<Value> = certs.iter().map(|cert| question(cert, back)).collect();
    let (outcomes, theirs) = ask(python, &publisher, &steps, &questions);
    assert_eq!(outcomes.iter().map(Option::is_some).collect::<Vec<_>>(), refused);
    for (cert, theirs) in certs.iter().zip(&theirs) {
        assert_eq!(theirs, word(ours.view().check(&cert.query(), back)), "{cert:?}");
    }
    assert!(theirs.iter().any(|answer| answer == "revoked") && theirs.iter().any(|answer| answer == "good"));
}

/// What `openssl verify -crl_check_all` says of the certificate in `client`, with the bundle and the lists in `delivered`.
fn openssl_says(openssl: &Path, client: &Path, delivered: &Path) -> String {
    let chain = client.join("svid.pem");
    let output = Command::new(openssl)
        .args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"])
        .arg(delivered.join("svid_bundle.pem"))
        .arg("-CRLfile")
        .arg(delivered.join("svid_crl.pem"))
        .arg("-untrusted")
        .args([&chain, &chain])
        .output()
        .unwrap();
    [output.stdout, output.stderr]
        .map(|octets| String::from_utf8_lossy(&octets).into_owned())
        .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_with_the_delivered_lists_refuses_what_is_revoked_and_accepts_the_one_after_it() {
    let Some(openssl) = peer("openssl") else { return };
    let mut node = Node::start(&["db", "web"], "crl = true\n").await;
    let delivered = node.place.join("web");
    let former = node.pair("db");
    let [client, newer] = ["former", "newer"].map(|name| node.beside(name));
    former.write(&client);
    let says = async |client: &Path, what: &str| openssl_says(&openssl, client, &delivered).contains(what);
    until(Instant::now(), "the lists of root and intermediate", async || {
        says(&client, ": OK").await
    })
    .await;

    let accepted = node.revoke(Target::Serial(former.serial())).await;
    let latency = until(accepted, "the refusal", async || {
        says(&client, "certificate revoked").await
    })
    .await;
    println!(
        "openssl with lists refuses {:.0} ms after the reply to the command to revoke",
        latency.as_secs_f64() * 1e3
    );
    node.after("db", &former).write(&newer);
    assert!(says(&newer, ": OK").await, "the one after it");
    assert!(says(&client, "certificate revoked").await, "it stays refused");
    node.stop();
}

/// Longest wait for an echo, or for the end of a connection.
const SOON: Duration = Duration::from_secs(60);

/// A rustls server of the identity `db`, which asks the node's map and follows it for its live connections; its port.
async fn server(node: &Node) -> (u16, Registry) {
    let path = node.place.join("node.map");
    let map = Arc::new(MapReader::open(&path, &domain(), MapOwner::RootOrSelf).unwrap());
    let clock = Shifted::behind(Duration::ZERO);
    let own = node.pair("db");
    let check = RevocationCheck::required(map.clone());
    let trust = Trust::builder(domain()).domain(domain(), own.roots.clone(), check);
    let store = TrustStore::new(trust.unwrap().build());
    let registry = Registry::start(store.clone(), clock.clone(), RegistrySettings::default());
    tokio::spawn(follow_map(registry.clone(), map, Duration::from_millis(5)));
    let chain = own.chain.iter().cloned().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key.clone()));
    let identity = IdentitySource::new(chain, key, &provider()).unwrap();
    let clients = ClientAuth::Mandatory(AllowedIds::OwnTrustDomain);
    let tls = TlsSettings::new(provider(), clock);
    let acceptor = Acceptor::new(server_config(store, identity, clients, &tls).unwrap(), registry.clone());
    let port = serve(acceptor).await.port();
    (port, registry)
}

/// A connection whose first octets came back; `None` for one that is refused.
async fn held(pair: &Pair, port: u16) -> Option<TlsStream<TcpStream>> {
    let mut stream = pair.connect(port).await.ok()?;
    echo(&mut stream).await.then_some(stream)
}

async fn echo(stream: &mut TlsStream<TcpStream>) -> bool {
    let mut back = [0; 5];
    let asked = async {
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        stream.read_exact(&mut back).await
    };
    timeout(SOON, asked).await.expect("an answer in time").is_ok() && back == *b"hello"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_connection_to_a_rustls_server_ends_once_the_nodes_map_has_the_revocation() {
    let mut node = Node::start(&["web", "db", "api"], "").await;
    let (port, registry) = server(&node).await;
    let (web, api) = (node.pair("web"), node.pair("api"));
    until(Instant::now(), "the map's first set", async || {
        held(&web, port).await.is_some()
    })
    .await;
    let mut revoked = held(&web, port).await.unwrap();
    let mut spared = held(&api, port).await.unwrap();

    let accepted = node.revoke(Target::Serial(web.serial())).await;
    let ended = timeout(SOON, revoked.read(&mut [0; 1])).await.expect("its end in time");
    let latency = accepted.elapsed();
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    println!(
        "a live connection to a rustls server ends {:.1} ms after the reply to the command to revoke",
        latency.as_secs_f64() * 1e3
    );
    assert!(registry.counts().closed_refused >= 1, "{:?}", registry.counts());
    assert!(echo(&mut spared).await, "another's lives on");
    assert!(held(&web, port).await.is_none(), "it is not let in again");
    let next = node.after("web", &web);
    assert!(held(&next, port).await.is_some(), "the one after it is");
    node.stop();
}
