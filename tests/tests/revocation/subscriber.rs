//! Verifiers without an agent, through `mintage-subscriber`: a rustls server refuses who is revoked and ends the open
//! connection; a publisher that comes back, or another one, goes on where the last one ended.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use mintage_proto::v1::{RevokeRequest, revocation_client::RevocationClient, revoke_request::Target};
use mintage_subscriber::{News, Settings, SettingsError, Status, Subscriber};
use mintage_tests::kit::{
    ca::{CaProcess, TestCa, domain, entry, make, token},
    client::{Joined, admin, join, key_and_csr, provider, settings},
    echo::serve,
    folder::copied,
    stream::{Stream, ask_with},
};
use mintage_verifier::{
    AllowedIds, ClientAuth, IdentitySource, RevocationCheck, Trust, TrustStore, client_config, server_config,
};
use mintage_verifier_tokio::{Acceptor, Registry, RegistrySettings};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    time_provider::DefaultTimeProvider,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

fn identity(chain: &[Vec<u8>], key: &[u8]) -> Arc<IdentitySource> {
    let chain = chain.iter().cloned().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    IdentitySource::new(chain, key, &provider()).unwrap()
}

/// An agent, and through it the identity of an entry.
async fn identity_of(agent: &Joined, stream: &mut Stream, entry: &str) -> Arc<IdentitySource> {
    let (key, csr) = key_and_csr();
    let minted = stream.ask_one(ask_with(entry, csr)).await.unwrap();
    assert!(minted.refusal.is_none(), "{minted:?}");
    let chain = [&[minted.leaf][..], &agent.chain[1..]].concat();
    identity(&chain, &key)
}

/// A subscriber that shows the agent's identity to these publishers.
fn subscriber(agent: &Joined, publishers: &[&str]) -> Subscriber {
    let settings = Settings::new(domain(), agent.roots.clone(), publishers.iter().copied(), settings());
    Subscriber::new(settings.with_identity(identity(&agent.chain, &agent.key))).unwrap()
}

async fn stands(status: &mut watch::Receiver<Status>, what: &str, done: impl FnMut(&Status) -> bool) -> Status {
    let told = format!("{what} did not come: {:?}", *status.borrow());
    let found = timeout(SOON, status.wait_for(done)).await;
    found.unwrap_or_else(|_| panic!("{told}")).unwrap().clone()
}

async fn revoke(socket: &Path, target: Target) -> u64 {
    let request = RevokeRequest {
        target: Some(target),
        no_renew: true,
        ..RevokeRequest::default()
    };
    let mut client = RevocationClient::new(admin(socket).await.unwrap());
    client.revoke(request).await.unwrap().into_inner().sequence
}

fn key(number: u8) -> Target {
    Target::Key(format!("{number:02x}").repeat(32))
}

/// Connects and has one octet answered; none when it is refused.
async fn call(address: SocketAddr, client: &Arc<IdentitySource>, roots: &[Vec<u8>]) -> Option<TlsStream<TcpStream>> {
    // Revocation of the server is not what this client is about.
    let trust = Trust::builder(domain())
        .domain(domain(), roots.to_vec(), RevocationCheck::None)
        .unwrap()
        .build();
    let plain = settings().with_alpn([]);
    let config = client_config(
        TrustStore::new(trust),
        Some(client.clone()),
        AllowedIds::OwnTrustDomain,
        &plain,
    );
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("mintage.invalid").unwrap();
    let mut stream = TlsConnector::from(config.unwrap()).connect(name, tcp).await.ok()?;
    let mut octet = [0];
    stream.write_all(b"x").await.ok()?;
    stream.read_exact(&mut octet).await.ok()?;
    Some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_accepts_then_refuses_who_is_revoked_and_ends_its_open_connection() {
    let ca = TestCa::start().await;
    for name in ["web", "db"] {
        ca.entry(name, &format!("/{name}")).await;
    }
    let address = ca.ca.address().to_string();
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &address).await.unwrap();
    let web = identity_of(&agent, &mut stream, "web").await;
    let db = identity_of(&agent, &mut stream, "db").await;

    let subscriber = subscriber(&agent, &[&address]);
    let (trust, mut status) = (subscriber.trust().clone(), subscriber.status());
    let registry = Registry::start(
        trust.clone(),
        Arc::new(DefaultTimeProvider),
        RegistrySettings::default(),
    );
    let plain = settings().with_alpn([]);
    let config = server_config(trust, db, ClientAuth::Mandatory(AllowedIds::OwnTrustDomain), &plain).unwrap();
    let server = serve(Acceptor::new(config, registry.clone())).await;
    assert!(
        call(server, &web, &agent.roots).await.is_none(),
        "no set is no permission"
    );

    let stop = CancellationToken::new();
    let told = registry.clone();
    let running = tokio::spawn(subscriber.run(
        move |news| {
            match news {
                News::Revoked(added) => told.apply(added),
                News::Trust => told.trust_changed(),
            };
        },
        stop.clone(),
    ));
    let first = stands(&mut status, "the first set", |status| status.sequence > 0).await;
    assert_eq!(
        (first.snapshots, first.publisher.as_deref()),
        (1, Some(address.as_str()))
    );
    assert!(first.bundle > 0 && first.problem.is_none(), "{first:?}");
    let mut open = call(server, &web, &agent.roots).await.expect("web is good");

    let sequence = revoke(
        ca.ca.admin_socket(),
        Target::SpiffeId(format!("spiffe://{}/web", domain())),
    )
    .await;
    let mut rest = Vec::new();
    let ended = timeout(SOON, open.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the open connection goes on");
    assert!(rest.is_empty());
    assert!(call(server, &web, &agent.roots).await.is_none(), "web is revoked");
    let after = stands(&mut status, "the delta", |status| status.sequence >= sequence).await;
    assert_eq!((after.snapshots, after.deltas), (1, 1));
    assert_eq!(registry.counts().closed_refused, 1);
    // Who is not meant is let in as before.
    let agent_itself = identity(&agent.chain, &agent.key);
    assert!(call(server, &agent_itself, &agent.roots).await.is_some());
    stop.cancel();
    timeout(SOON, running).await.expect("it stops").unwrap();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_comes_back_is_followed_on_without_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    let address = ca.address.clone();
    let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let agent = join(&token(&ca.admin_socket(), "n1").await).await.unwrap();
    let subscriber = subscriber(&agent, &[&address]);
    let mut status = subscriber.status();
    let stop = CancellationToken::new();
    let running = tokio::spawn(subscriber.run(|_| {}, stop.clone()));
    let first = revoke(&ca.admin_socket(), key(1)).await;
    stands(&mut status, "the first set", |status| status.sequence >= first).await;

    assert_eq!(ca.stop(), Some(0));
    let gone = stands(&mut status, "the loss", |status| status.publisher.is_none()).await;
    assert!(gone.problem.is_some_and(|problem| problem.contains(&address)));
    let ca = CaProcess::start(&data, port);
    let second = revoke(&ca.admin_socket(), key(2)).await;
    let after = stands(&mut status, "the next set", |status| status.sequence >= second).await;
    assert_eq!(after.snapshots, 1, "{after:?}");
    assert!(
        after.deltas >= 1 && after.publisher.as_deref() == Some(address.as_str()),
        "{after:?}"
    );
    stop.cancel();
    timeout(SOON, running).await.expect("it stops").unwrap();
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_goes_from_one_of_two_publishers_to_the_other_in_mid_chain() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    make(&one);
    let ca = CaProcess::start(&one, 0);
    let agent = join(&token(&ca.admin_socket(), "n1").await).await.unwrap();
    for number in 1..4 {
        revoke(&ca.admin_socket(), key(number)).await;
    }
    assert_eq!(ca.stop(), Some(0));
    // Two processes that have the same ledger so far, as two replicas of a cell have.
    copied(&one, &two);
    let mut publishers = vec![CaProcess::start(&one, 0), CaProcess::start(&two, 0)];
    let addresses = publishers.iter().map(|ca| ca.address.clone()).collect::<Vec<_>>();
    let subscriber = subscriber(&agent, &[&addresses[0], &addresses[1]]);
    let mut status = subscriber.status();
    let stop = CancellationToken::new();
    let running = tokio::spawn(subscriber.run(|_| {}, stop.clone()));
    let first = stands(&mut status, "the first set", |status| status.sequence > 0).await;
    let followed = addresses
        .iter()
        .position(|address| Some(address) == first.publisher.as_ref());

    // Of these it hears nothing from the one that it follows, which has none of them.
    let left = publishers.remove(followed.expect("one of the two"));
    let mut last = 0;
    for number in 4..9 {
        last = revoke(&publishers[0].admin_socket(), key(number)).await;
    }
    assert!(last > first.sequence && status.borrow().sequence == first.sequence);
    left.kill();
    let after = stands(&mut status, "the other's set", |status| status.sequence >= last).await;
    assert_eq!(after.publisher.as_deref(), Some(publishers[0].address.as_str()));
    assert_eq!((after.snapshots, after.deltas), (1, 1), "{after:?}");
    stop.cancel();
    timeout(SOON, running).await.expect("it stops").unwrap();
    assert_eq!(publishers.remove(0).stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_work_are_told_with_their_remedy() {
    let ca = TestCa::start().await;
    entry(ca.ca.admin_socket(), "web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let made = |publishers: &[&str], roots: Vec<Vec<u8>>| {
        let settings = Settings::new(domain(), roots, publishers.iter().copied(), settings());
        Subscriber::new(settings).map(drop)
    };
    made(&["127.0.0.1:1"], agent.roots.clone()).unwrap();
    let none = made(&[], agent.roots.clone());
    assert!(matches!(none, Err(SettingsError::Publishers { found: 0 })));
    for bad in ["127.0.0.1", ":1", "host:port", "host:65536"] {
        let told = made(&[bad], agent.roots.clone()).unwrap_err().to_string();
        assert!(told.contains(bad) && told.contains("HOST:PORT"), "{told}");
    }
    for roots in [Vec::new(), vec![agent.chain[0].clone()]] {
        let told = made(&["127.0.0.1:1"], roots).unwrap_err().to_string();
        assert!(told.contains("bundle show"), "{told}");
    }
    ca.stop().await;
}
