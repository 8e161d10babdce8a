//! Look-ups on the agent's socket, from the command to revoke to each of the three ways to ask: what is good is good, what is
//! revoked is refused, its successor is good again, and an agent without a set says so.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use mintage_identity::{IssuerKeyId, TrustDomain};
use mintage_proto::{
    envoy_auth::{
        AttributeContext, CheckRequest, attribute_context::Peer, authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
    v1::{
        RevocationAnswer, RevocationCause, RevocationCheckRequest, RevocationCheckResponse, RevocationQuestion,
        RevocationStatus, revocation_lookup_client::RevocationLookupClient, revoke_request::Target,
    },
};
use mintage_svid::CertInfo;
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    ca::{CaProcess, make, token},
    client::{admin, key_and_csr},
    node::{Node, Pair, ask, until},
};
use tonic::Code;

async fn checked(socket: &Path, questions: Vec<RevocationQuestion>) -> Result<RevocationCheckResponse, tonic::Status> {
    let channel = admin(socket).await.unwrap();
    let request = RevocationCheckRequest { questions };
    let response = RevocationLookupClient::new(channel).check(request).await?;
    Ok(response.into_inner())
}

fn by_certificate(pair: &Pair) -> RevocationQuestion {
    RevocationQuestion {
        certificates: pair.chain[..1].to_vec(),
        ..RevocationQuestion::default()
    }
}

fn issuer(pair: &Pair) -> IssuerKeyId {
    CertInfo::parse(&pair.chain[1]).unwrap().key_id()
}

/// As one who has the whole certificate, without showing it.
fn by_fields(pair: &Pair) -> RevocationQuestion {
    let leaf = pair.leaf();
    RevocationQuestion {
        spiffe_id: leaf.id().to_string(),
        public_key_sha256: leaf.spki_sha256().as_bytes().to_vec(),
        not_before_ms: Some(leaf.not_before().millis()),
        not_after_ms: Some(leaf.not_after().millis()),
        ..by_serial(pair)
    }
}

fn by_serial(pair: &Pair) -> RevocationQuestion {
    RevocationQuestion {
        issuer_key_id: issuer(pair).as_bytes().to_vec(),
        serial: pair.leaf().serial().octets().to_vec(),
        ..RevocationQuestion::default()
    }
}

fn path_of(pair: &Pair) -> String {
    format!("/v1/revocation/{}/{}", issuer(pair), pair.serial())
}

fn told(answer: &RevocationAnswer) -> (RevocationStatus, RevocationCause, &str) {
    (answer.status(), answer.cause(), &answer.revoked_by)
}

const GOOD: (RevocationStatus, RevocationCause, &str) = (RevocationStatus::Good, RevocationCause::Unspecified, "");

fn revoked(by: &str) -> (RevocationStatus, RevocationCause, &str) {
    (RevocationStatus::Revoked, RevocationCause::Unspecified, by)
}

fn unknown(cause: RevocationCause) -> (RevocationStatus, RevocationCause, &'static str) {
    (RevocationStatus::Unknown, cause, "")
}

async fn get(socket: &Path, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    ask(socket, &request).await.unwrap()
}

async fn auth(socket: &Path, certificate: &str) -> String {
    let request = format!(
        "GET /v1/revocation/auth HTTP/1.1\r\nhost: x\r\nconnection: close\r\nX-Client-Cert: {certificate}\r\n\r\n"
    );
    ask(socket, &request).await.unwrap()
}

/// The code of `status`, and that of the HTTP filter's refusal.
async fn ext_authz(socket: &Path, certificate: String, principal: &str) -> (i32, Option<i32>) {
    let request = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                principal: principal.to_owned(),
                certificate,
            }),
        }),
    };
    let channel = admin(socket).await.unwrap();
    let response = AuthorizationClient::new(channel)
        .check(request)
        .await
        .unwrap()
        .into_inner();
    let http = match response.http_response.unwrap() {
        HttpResponse::OkResponse(_) => None,
        HttpResponse::DeniedResponse(denied) => Some(denied.status.unwrap().code),
    };
    (response.status.unwrap().code, http)
}

/// Every way to ask about the whole certificate says that it is good.
async fn is_good(socket: &Path, pair: &Pair) {
    let response = checked(socket, vec![by_certificate(pair), by_fields(pair)])
        .await
        .unwrap();
    for answer in &response.answers {
        assert_eq!(told(answer), GOOD, "{answer:?}");
    }
    assert!(response.filter_age_ms.is_some_and(|age| age < 60_000));
    let answer = auth(socket, &pair.escaped()).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert_eq!(ext_authz(socket, pair.escaped(), "").await, (0, None));
}

/// Every way to ask about it says that it is revoked, by this.
async fn is_revoked(socket: &Path, pair: &Pair, by: &str) {
    let response = checked(socket, vec![by_certificate(pair), by_fields(pair)])
        .await
        .unwrap();
    for answer in &response.answers {
        assert_eq!(told(answer), revoked(by), "{answer:?}");
    }
    assert!(response.sequence > 0);
    let answer = auth(socket, &pair.escaped()).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("\r\nx-mintage-reason: revoked\r\n"), "{answer}");
    assert_eq!(ext_authz(socket, pair.escaped(), "").await, (7, Some(403)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_in_every_way_and_its_successor_is_good() {
    let mut node = Node::start(&["web", "db"], "").await;
    let socket = node.socket();
    let (web, db) = (node.pair("web"), node.pair("db"));
    let started = std::time::Instant::now();
    until(started, "a set", async || {
        let response = checked(&socket, vec![by_certificate(&web)]).await.unwrap();
        told(&response.answers[0]) == GOOD
    })
    .await;
    is_good(&socket, &web).await;
    is_good(&socket, &db).await;
    let answer = get(&socket, &path_of(&web)).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"status\":\"good\""),
        "{answer}"
    );

    let accepted = node.revoke(Target::Serial(web.serial())).await;
    let latency = until(accepted, "the refusal", async || {
        auth(&socket, &web.escaped()).await.starts_with("HTTP/1.1 403 ")
    })
    .await;
    println!(
        "refused on the socket {:.1} ms after the reply to the command",
        latency.as_secs_f64() * 1e3
    );
    is_revoked(&socket, &web, "serial").await;
    let answer = get(&socket, &path_of(&web)).await;
    assert!(
        answer.contains("\"status\":\"revoked\"") && answer.contains("\"revoked_by\":\"serial\""),
        "{answer}"
    );
    let next = node.after("web", &web);
    is_good(&socket, &next).await;
    is_good(&socket, &db).await;

    // A rule: who has the serial alone is told what would tell.
    node.revoke(Target::SpiffeId("spiffe://dev.test/db".to_owned())).await;
    let newer = node.after("db", &db);
    until(accepted, "the rule", async || {
        let response = checked(&socket, vec![by_certificate(&db)]).await.unwrap();
        response.answers[0].status() == RevocationStatus::Revoked
    })
    .await;
    assert_eq!(ext_authz(&socket, db.escaped(), "").await, (7, Some(403)));
    is_good(&socket, &newer).await;
    is_good(&socket, &next).await;
    with_the_serial_alone(&socket, [&web, &next, &newer]).await;
    hostile(&socket, &next).await;
    hostile_heads(&socket, &next).await;
    node.stop();
}

/// While a rule on an identity is in force: `revoked` is by its serial, `good` began before the rule's cut and `newer` after it.
async fn with_the_serial_alone(socket: &Path, [revoked, good, newer]: [&Pair; 3]) {
    let response = checked(socket, vec![by_serial(good)]).await.unwrap();
    assert_eq!(told(&response.answers[0]), unknown(RevocationCause::Incomplete));
    let answer = get(socket, &path_of(good)).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("spiffe_id"),
        "{answer}"
    );
    for told in [
        "\"cause\":\"incomplete\"",
        "\"missing\":[\"spiffe_id\"]",
        "ask again with it, in the query over HTTP",
    ] {
        assert!(answer.contains(told), "{told}: {answer}");
    }
    // What is missing, where it is given; and what no rule reaches, or is revoked by its serial, without it.
    let began = newer.leaf().not_before().millis();
    for (path, status) in [
        (format!("{}?spiffe_id=spiffe://dev.test/web", path_of(good)), "good"),
        (format!("{}?not_before_ms={began}", path_of(newer)), "good"),
        (path_of(revoked), "revoked"),
    ] {
        let answer = get(socket, &path).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains(&format!("\"status\":\"{status}\"")),
            "{path}: {answer}"
        );
    }
}

/// Questions that are none, and certificates of nobody.
async fn hostile(socket: &Path, good: &Pair) {
    let invalid = unknown(RevocationCause::Invalid);
    let question = |change: fn(&mut RevocationQuestion)| {
        let mut question = by_fields(good);
        change(&mut question);
        question
    };
    let mut flipped = good.chain[0].clone();
    *flipped.last_mut().unwrap() ^= 1;
    let foreign = rcgen::CertificateParams::new(Vec::new()).map(|mut params| {
        let uri = "spiffe://dev.test/web".try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params
            .self_signed(&rcgen::KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .to_vec()
    });
    for (question, wanted, names) in [
        (RevocationQuestion::default(), invalid, "issuer_key_id"),
        (question(|q| q.issuer_key_id.truncate(31)), invalid, "issuer_key_id"),
        (question(|q| q.serial.clear()), invalid, "serial"),
        (question(|q| q.spiffe_id = "x".to_owned()), invalid, "spiffe_id"),
        (
            question(|q| q.public_key_sha256 = vec![0; 33]),
            invalid,
            "public_key_sha256",
        ),
        (question(|q| q.certificates = vec![vec![1]]), invalid, "certificates"),
        (
            question(|q| q.issuer_key_id = vec![9; 32]),
            unknown(RevocationCause::NotCovered),
            "does not speak",
        ),
        (certificate(vec![0x30]), invalid, "leaf"),
        (certificate(flipped), invalid, ""),
        (
            certificate(foreign.unwrap()),
            unknown(RevocationCause::ForeignIssuer),
            "",
        ),
    ] {
        let response = checked(socket, vec![question.clone()]).await.unwrap();
        let answer = &response.answers[0];
        assert_eq!(told(answer), wanted, "{answer:?}");
        assert!(answer.problem.contains(names), "{answer:?}");
    }
    let many = checked(socket, vec![by_serial(good); 65]).await.unwrap_err();
    assert_eq!(many.code(), Code::InvalidArgument);
    assert!(
        many.message()
            .contains("questions: 65 are in one call, the limit is 64"),
        "{many}"
    );
}

/// The same over HTTP and for Envoy.
async fn hostile_heads(socket: &Path, good: &Pair) {
    assert!(auth(socket, "%zz").await.starts_with("HTTP/1.1 403 "));
    assert!(auth(socket, "").await.starts_with("HTTP/1.1 403 "));
    for (path, code) in [
        ("/", "404"),
        ("/v1/revocation/0/0", "400"),
        (&*format!("/{}", "a".repeat(9_000)), "414"),
    ] {
        let answer = get(socket, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
    }
    let post = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        path_of(good)
    );
    let answer = ask(socket, &post).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    let large = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    // It is ended while the rest is still being written, or answered.
    if let Ok(answer) = ask(socket, &large).await {
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert_eq!(ext_authz(socket, "%zz".to_owned(), "").await, (7, Some(403)));
    assert_eq!(
        ext_authz(socket, String::new(), "spiffe://dev.test/web").await,
        (7, Some(403))
    );
}

fn certificate(der: Vec<u8>) -> RevocationQuestion {
    RevocationQuestion {
        certificates: vec![der],
        ..RevocationQuestion::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_the_name_is_asked_for_where_the_configuration_says_so() {
    let mut node = Node::start(&["web"], "[lookup]\nwithout_certificate = \"principal\"\n").await;
    let (socket, web) = (node.socket(), node.pair("web"));
    let named = async |principal: &str| ext_authz(&socket, String::new(), principal).await;
    let started = std::time::Instant::now();
    until(started, "a set", async || {
        named("spiffe://dev.test/web").await == (0, None)
    })
    .await;
    assert_eq!(named("spiffe://other.test/web").await, (7, Some(403)));
    assert_eq!(named("web.example.org").await, (7, Some(403)));
    assert_eq!(named("").await, (7, Some(403)));
    let accepted = node.revoke(Target::SpiffeId("spiffe://dev.test/web".to_owned())).await;
    until(accepted, "the rule", async || {
        named("spiffe://dev.test/web").await == (7, Some(403))
    })
    .await;
    assert_eq!(named("spiffe://dev.test/db").await, (0, None));
    // Whoever shows the certificate is told more.
    let next = node.after("web", &web);
    assert_eq!(
        ext_authz(&socket, next.escaped(), "spiffe://dev.test/web").await,
        (0, None)
    );
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_set_says_that_it_knows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    make(&data);
    let ca = CaProcess::start(&data, 0);
    let token = token(&ca.admin_socket(), "n1").await;
    assert_eq!(ca.stop(), Some(0));
    let place = folder.path().join("n1");
    fs::create_dir(&place).unwrap();
    let file = config(&place, &[]);
    let socket = place.join("run/agent.sock");
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("socket = \"off\"", &format!("socket = {socket:?}"));
    fs::write(&file, format!("{text}[lookup]\nfreshness = \"open\"\n")).unwrap();
    // The CA is gone: it never joins.
    let mut agent = AgentProcess::start(&place, &file, Some(&token));
    agent.wait_for("the socket", || socket.exists().then_some(()));
    let (_, csr) = key_and_csr();
    assert_eq!(TrustDomain::parse("dev.test").unwrap(), *token.trust_domain());
    let questions = vec![
        certificate(csr),
        RevocationQuestion {
            issuer_key_id: vec![1; 32],
            serial: vec![7; 16],
            ..RevocationQuestion::default()
        },
    ];
    let response = checked(&socket, questions).await.unwrap();
    for answer in &response.answers {
        assert_eq!(told(answer), unknown(RevocationCause::NoSet), "{answer:?}");
    }
    assert_eq!((response.sequence, response.filter_age_ms), (0, None));
    let escaped = "-----BEGIN%20CERTIFICATE-----%0AMAA%3D%0A-----END%20CERTIFICATE-----%0A";
    for answer in [
        auth(&socket, escaped).await,
        get(&socket, &format!("/v1/revocation/{}/01", "11".repeat(32))).await,
    ] {
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.contains("\r\nretry-after: 5\r\n") && answer.contains("no_set"),
            "{answer}"
        );
    }
    assert_eq!(ext_authz(&socket, escaped.to_owned(), "").await, (7, Some(503)));
    assert_eq!(agent.stop(), Some(0));
}
