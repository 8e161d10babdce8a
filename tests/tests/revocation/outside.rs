//! Connections that programs of others hold to a rustls server: `openssl s_client` and curl, each with a delivered certificate,
//! see them end when the certificate is revoked, and when it expires; another's connection lives on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use mintage_proto::v1::revoke_request::Target;
use mintage_subscriber::{News, Settings, Subscriber};
use mintage_tests::kit::{
    ca::domain,
    client::{provider, settings},
    clock::Shifted,
    node::{Node, Pair},
    peers::peer,
};
use mintage_verifier::{AllowedIds, ClientAuth, IdentitySource, TlsSettings, server_config};
use mintage_verifier_tokio::{Acceptor, Registry, RegistrySettings, Watched};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);
/// Between two octets of a slow body.
const DRIP: Duration = Duration::from_millis(20);

/// A server of the identity `db` that follows the CA without an agent.
struct Server {
    address: SocketAddr,
    registry: Registry,
    stop: CancellationToken,
}

impl Server {
    async fn start(node: &Node, clock: Arc<Shifted>) -> Self {
        let own = node.pair("db");
        let follows = Settings::new(domain(), own.roots.clone(), [node.ca.address.as_str()], settings());
        let subscriber = Subscriber::new(follows).unwrap();
        let (trust, mut status) = (subscriber.trust().clone(), subscriber.status());
        let registry = Registry::start(trust.clone(), clock.clone(), RegistrySettings::default());
        let (told, stop) = (registry.clone(), CancellationToken::new());
        let news = move |news: News<'_>| {
            match news {
                News::Revoked(added) => told.apply(added),
                News::Trust => told.trust_changed(),
            };
        };
        tokio::spawn(subscriber.run(news, stop.clone()));
        let known = status.wait_for(|status| status.sequence > 0);
        timeout(SOON, known).await.expect("a set in time").unwrap();

        let chain = own.chain.iter().cloned().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key.clone()));
        let identity = IdentitySource::new(chain, key, &provider()).unwrap();
        let clients = ClientAuth::Mandatory(AllowedIds::OwnTrustDomain);
        let config = server_config(trust, identity, clients, &TlsSettings::new(provider(), clock)).unwrap();
        let acceptor = Acceptor::new(config, registry.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        answer(stream).await;
                    }
                });
            }
        });
        Self {
            address,
            registry,
            stop,
        }
    }

    /// Waits until so many connections are live.
    async fn live(&self, wanted: usize) {
        let live = async {
            while self.registry.counts().live != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let counts = timeout(SOON, live).await;
        counts.unwrap_or_else(|_| panic!("{wanted} are wanted: {:?}", self.registry.counts()));
    }
}

/// To a GET a body that does not end; else every octet back.
async fn answer(mut stream: Watched<TlsStream<TcpStream>>) {
    let mut octets = [0; 1024];
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".as_slice();
    let mut next = match stream.read(&mut octets).await {
        Ok(count) if octets[..count].starts_with(b"GET ") => {
            let mut written = stream.write_all(head).await;
            while written.is_ok() {
                tokio::time::sleep(DRIP).await;
                written = async {
                    stream.write_all(b"x").await?;
                    stream.flush().await
                }
                .await;
            }
            Ok(0)
        }
        read => read,
    };
    while let Ok(count @ 1..) = next {
        if stream.write_all(&octets[..count]).await.is_err() || stream.flush().await.is_err() {
            break;
        }
        next = stream.read(&mut octets).await;
    }
    let _ = stream.shutdown().await;
}

/// `openssl s_client` as the owner of this folder's pair, with its standard input held open.
async fn s_client(openssl: &Path, folder: &Path, server: &Server) -> Child {
    let mut command = Command::new(openssl);
    command
        .args(["s_client", "-quiet", "-verify_return_error", "-connect"])
        .arg(server.address.to_string());
    for (word, file) in [
        ("-CAfile", "svid_bundle.pem"),
        ("-cert", "svid.pem"),
        ("-cert_chain", "svid.pem"),
        ("-key", "svid_key.pem"),
    ] {
        command.arg(word).arg(folder.join(file));
    }
    let mut child = started(command);
    let stdin = child.stdin.as_mut().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    let mut echo = [0; 6];
    let read = timeout(SOON, child.stdout.as_mut().unwrap().read_exact(&mut echo)).await;
    read.expect("an echo in time").unwrap();
    assert_eq!(&echo, b"hello\n");
    child
}

/// curl as the owner of this folder's pair, with a body under way; the server has no DNS name to be verified by.
async fn slow_get(curl: &Path, folder: &Path, server: &Server) -> Child {
    let mut command = Command::new(curl);
    command
        .args([
            "--silent",
            "--show-error",
            "--insecure",
            "--no-buffer",
            "--http1.1",
            "--cert",
        ])
        .arg(folder.join("svid.pem"))
        .arg("--key")
        .arg(folder.join("svid_key.pem"))
        .arg(format!("https://{}/", server.address));
    let mut child = started(command);
    let mut octets = [0; 3];
    let read = timeout(SOON, child.stdout.as_mut().unwrap().read_exact(&mut octets)).await;
    read.expect("a body in time").unwrap();
    assert_eq!(&octets, b"xxx");
    child
}

fn started(mut command: Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Waits for its end; what it said last.
async fn ended(mut child: Child, what: &str) -> Output {
    // Held, so that its end is not the end of its input.
    let _stdin = child.stdin.take();
    let output = timeout(SOON, child.wait_with_output()).await;
    output.unwrap_or_else(|_| panic!("{what} does not end")).unwrap()
}

/// A pair that no rotation changes.
fn frozen(node: &Node, entry: &str) -> (Pair, std::path::PathBuf) {
    let (pair, folder) = (node.pair(entry), node.beside(&format!("{entry}-frozen")));
    pair.write(&folder);
    (pair, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_others_see_their_connections_end_when_their_certificate_is_revoked() {
    let (Some(openssl), Some(curl)) = (peer("openssl"), peer("curl")) else {
        return;
    };
    let node = Node::start(&["web", "db"], "").await;
    let server = Server::start(&node, Shifted::behind(Duration::ZERO)).await;
    let (web, folder) = frozen(&node, "web");
    let (_, other) = frozen(&node, "db");
    let held = s_client(&openssl, &folder, &server).await;
    let slow = slow_get(&curl, &folder, &server).await;
    let mut spared = s_client(&openssl, &other, &server).await;
    server.live(3).await;

    let accepted = node.revoke(Target::Serial(web.serial())).await;
    let ends = async |child, what| (ended(child, what).await, accepted.elapsed());
    let ((held, held_after), (slow, slow_after)) = tokio::join!(ends(held, "s_client"), ends(slow, "curl"));
    println!(
        "openssl s_client ended {:.1} ms and curl {:.1} ms after the reply to the command",
        held_after.as_secs_f64() * 1e3,
        slow_after.as_secs_f64() * 1e3
    );
    // The body was cut, and curl says so (18: partial file, 56: failure in receiving).
    assert!(matches!(slow.status.code(), Some(18 | 56)), "{slow:?}");
    assert!(held.stdout.is_empty(), "{held:?}");
    server.live(1).await;
    assert_eq!(server.registry.counts().closed_refused, 2);

    // Whoever is not meant is still answered, and the revoked one is not let in again.
    spared.stdin.as_mut().unwrap().write_all(b"again\n").await.unwrap();
    let mut echo = [0; 6];
    let read = timeout(SOON, spared.stdout.as_mut().unwrap().read_exact(&mut echo)).await;
    read.expect("an echo in time").unwrap();
    let mut again = Command::new(&curl);
    again.args(["--silent", "--insecure", "--max-time", "20", "--cert"]);
    again
        .arg(folder.join("svid.pem"))
        .arg("--key")
        .arg(folder.join("svid_key.pem"));
    let output = again
        .arg(format!("https://{}/", server.address))
        .output()
        .await
        .unwrap();
    assert!(output.stdout.is_empty() && !output.status.success(), "{output:?}");
    drop(spared);
    server.stop.cancel();
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_others_see_their_connections_end_at_the_end_of_their_certificate() {
    let (Some(openssl), Some(curl)) = (peer("openssl"), peer("curl")) else {
        return;
    };
    let node = Node::start(&["web", "db"], "").await;
    let (web, folder) = frozen(&node, "web");
    let (clock, left) = (Shifted::behind(Duration::ZERO), Duration::from_secs(4));
    let server = Server::start(&node, clock.clone()).await;
    // The last seconds of ten minutes: the programs' own clocks do not matter, since only the server judges here.
    clock.move_to(web.leaf().not_after(), left);
    let moved = Instant::now();
    let held = s_client(&openssl, &folder, &server).await;
    let slow = slow_get(&curl, &folder, &server).await;
    let ends = async |child, what| (ended(child, what).await, moved.elapsed());
    let ((_, held_after), (slow, slow_after)) = tokio::join!(ends(held, "s_client"), ends(slow, "curl"));
    println!(
        "openssl s_client ended {:.1} s and curl {:.1} s after the clock stood at most {} s before notAfter",
        held_after.as_secs_f64(),
        slow_after.as_secs_f64(),
        left.as_secs()
    );
    assert!(matches!(slow.status.code(), Some(18 | 56)), "{slow:?}");
    server.live(0).await;
    let counts = server.registry.counts();
    assert_eq!((counts.closed_expired, counts.closed_refused), (2, 0));
    server.stop.cancel();
    node.stop();
}
