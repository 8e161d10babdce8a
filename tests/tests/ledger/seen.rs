//! Seen reconciliation with the real programs: a certificate made with a copy of the CA's issuing key, seen in use, becomes
//! an alarm record; what the CA issued does not, however recent it is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use mintage_identity::Serial;
use mintage_ledger::{Actor, Body, Record, wire::SeenReport};
use mintage_proto::v1::{
    GetRecordRequest, RecordSummary, ReportSeenRequest, SearchRequest, SeenChain, SeenResult, SeenUse,
    agent_local_client::AgentLocalClient, get_record_request::Key, ledger_client::LedgerClient,
};
use mintage_svid::{CertInfo, LeafInfo, cert_sha256, pem};
use mintage_tests::kit::{
    agent::AgentProcess,
    bins::binary,
    ca::{CaProcess, TestCa, entry, make, token, with_metrics},
    client::{admin, join, random},
    face::metric,
    forge::forged,
    stream::{Stream, ask},
};

const UNKNOWN: &str = "mintage_seen_unknown_total";
const KNOWN: &str = "mintage_seen_certificates_total{result=\"known\"}";

/// A CA and an agent as programs, in a folder.
struct Scene {
    ca: CaProcess,
    agent: AgentProcess,
    folder: tempfile::TempDir,
    face: SocketAddr,
}

impl Scene {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("ca");
        make(&data);
        let face = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = folder.path().join("ca.toml");
        fs::write(
            &file,
            format!("data_dir = {data:?}\nlisten = \"127.0.0.1:0\"\nmetrics = \"{face}\"\n"),
        )
        .unwrap();
        let mut command = Command::new(binary("mintage-ca"));
        command.arg("serve").arg("--config").arg(file);
        let ca = CaProcess::launch(&data, command);
        entry(&ca.admin_socket(), "web", "/web").await;
        let file = folder.path().join("agent.toml");
        let (dir, web, socket) = (
            folder.path().join("agent"),
            folder.path().join("web"),
            folder.path().join("run/agent.sock"),
        );
        fs::write(
            &file,
            format!("data_dir = {dir:?}\nsocket = {socket:?}\n[[delivery]]\nentry = \"web\"\ndirectory = {web:?}\n"),
        )
        .unwrap();
        let token = token(&ca.admin_socket(), "n1").await;
        let mut agent = AgentProcess::start(folder.path(), &file, Some(&token));
        agent.wait_for("the delivery", || web.join("svid.pem").exists().then_some(()));
        Self {
            ca,
            agent,
            folder,
            face,
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    fn delivered(&self) -> Vec<Vec<u8>> {
        let text = fs::read_to_string(self.folder.path().join("web/svid.pem")).unwrap();
        pem::decode_certificates(&text).unwrap()
    }

    /// Reports chains at the agent's socket, as a proxy of the node would.
    async fn report(&self, chains: Vec<Vec<Vec<u8>>>) -> Vec<SeenResult> {
        let channel = admin(&self.folder.path().join("run/agent.sock")).await.unwrap();
        let chains = chains
            .into_iter()
            .map(|certificates| SeenChain { certificates })
            .collect();
        let answer = AgentLocalClient::new(channel)
            .report_seen(ReportSeenRequest { chains })
            .await;
        answer.unwrap().into_inner().results
    }

    /// Reports chains as an operator does who has them in files.
    fn report_by_verb(&self, chains: &[&[Vec<u8>]]) -> String {
        let socket = self.folder.path().join("run/agent.sock");
        let files = chains.iter().enumerate().map(|(at, chain)| {
            let file = self.folder.path().join(format!("seen-{at}.pem"));
            fs::write(&file, pem::encode_certificates(*chain)).unwrap();
            file.to_str().unwrap().to_owned()
        });
        let files: Vec<String> = files.collect();
        let mut words = vec!["svid", "report", "-o", "json", "--socket", socket.to_str().unwrap()];
        words.extend(files.iter().map(String::as_str));
        self.mintage(&words)
    }

    async fn until(&mut self, line: &str, count: u64) {
        while metric(self.face, line).await < count {
            self.agent.runs();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn mintage(&self, words: &[&str]) -> String {
        let mut command = Command::new(binary("mintage"));
        for variable in ["MINTAGE_FORMAT", "MINTAGE_ADMIN_SOCKET", "MINTAGE_LOG"] {
            command.env_remove(variable);
        }
        let output = command.arg("--data-dir").arg(self.data()).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The alarm records, newest first.
async fn alarms(socket: &Path) -> Vec<RecordSummary> {
    let mut ledger = LedgerClient::new(admin(socket).await.unwrap());
    let request = SearchRequest {
        kinds: vec!["seen.report".to_owned()],
        ..SearchRequest::default()
    };
    ledger.search(request).await.unwrap().into_inner().records
}

async fn report_of(socket: &Path, index: u64) -> (Actor, SeenReport) {
    let mut ledger = LedgerClient::new(admin(socket).await.unwrap());
    let request = GetRecordRequest {
        key: Some(Key::Index(index)),
    };
    let answer = ledger.get_record(request).await.unwrap().into_inner();
    let record = Record::decode(&answer.record).unwrap();
    let Body::SeenReport(report) = record.body else {
        panic!("{:?}", record.body)
    };
    (record.actor, report)
}

fn new_serial() -> Serial {
    Serial::from_random(random())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_stolen_key_is_an_alarm_and_an_issued_one_is_none() {
    let mut scene = Scene::start().await;
    let socket = scene.ca.admin_socket();
    let genuine = scene.delivered();
    assert_eq!(scene.report(vec![genuine.clone()]).await, [SeenResult::default()]);
    scene.until(KNOWN, 1).await;
    assert!(alarms(&socket).await.is_empty(), "a false alarm");

    let results = scene.report(vec![vec![b"rubbish".to_vec()], genuine.clone()]).await;
    assert!(!results[0].problem.is_empty() && results[1].known, "{results:?}");

    // One that the ledger knows nothing of, and one under the serial of the genuine one.
    let genuine = LeafInfo::parse(&genuine[0]).unwrap();
    let admin_id = "spiffe://dev.test/admin";
    let unknown = forged(&scene.data(), admin_id, &new_serial());
    let twin = forged(&scene.data(), "spiffe://dev.test/web", genuine.serial());
    let told = scene.report_by_verb(&[&unknown, &twin]);
    assert!(
        told.contains(r#""taken": true"#) && !told.contains(r#""taken": false"#),
        "{told}"
    );
    scene.until(UNKNOWN, 2).await;
    let found = loop {
        let found = alarms(&socket).await;
        if !found.is_empty() {
            break found;
        }
        scene.agent.runs();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].agent, "n1");
    let (actor, report) = report_of(&socket, found[0].index).await;
    assert!(matches!(actor, Actor::Agent { id, .. } if id.as_str() == "spiffe://dev.test/mintage/agent/n1"));
    let [first, second] = report.certificates.as_slice() else {
        panic!("{report:?}")
    };
    let leaf = LeafInfo::parse(&unknown[0]).unwrap();
    assert_eq!(
        (first.spiffe_id.as_str(), first.known, first.recorded),
        (admin_id, false, None)
    );
    assert_eq!(first.serial, leaf.serial().octets());
    assert_eq!(first.certificate_sha256, cert_sha256(&unknown[0]).as_bytes());
    assert_eq!(
        first.issuer_key_id,
        CertInfo::parse(&unknown[1]).unwrap().key_id().as_bytes()
    );
    assert_eq!(second.certificate_sha256, cert_sha256(&twin[0]).as_bytes());
    assert!(!second.known && second.recorded.is_some(), "{second:?}");

    let (serial, index) = (leaf.serial().to_string(), found[0].index.to_string());
    assert!(
        scene
            .mintage(&["audit", "search", "--kind", "seen.report"])
            .contains(&serial)
    );
    let shown = scene.mintage(&["audit", "show", &index]);
    assert!(shown.contains(admin_id) && shown.contains(&serial), "{shown}");
    let status = scene.mintage(&["ca", "status"]);
    assert!(status.contains("2 certificates seen in use"), "{status}");
    let log = scene.ca.log();
    let errors = log
        .lines()
        .filter(|line| line.contains("the ledger does not hold") && line.contains("ERROR"));
    assert_eq!(errors.count(), 2, "{log}");
    assert_eq!(scene.agent.stop(), Some(0));
    assert_eq!(scene.ca.stop(), Some(0));
}

/// What an agent would tell of this certificate.
fn told(leaf: &[u8], issuer: &[u8]) -> SeenUse {
    let info = LeafInfo::parse(leaf).unwrap();
    SeenUse {
        issuer_key_id: CertInfo::parse(issuer).unwrap().key_id().as_bytes().to_vec(),
        serial: info.serial().octets().to_vec(),
        certificate_sha256: cert_sha256(leaf).as_bytes().to_vec(),
        spiffe_id: info.id().to_string(),
        not_before_s: info.not_before().seconds(),
        not_after_s: info.not_after().seconds(),
        seen_at_ms: 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_issued_a_moment_ago_or_has_expired_raises_no_alarm_and_a_storm_is_counted() {
    let ca = TestCa::start_with(with_metrics).await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let face = ca.ca.metrics_address().unwrap();
    let until = async |line: &str, count: u64| {
        while metric(face, line).await < count {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        metric(face, line).await
    };
    let mut last = Vec::new();
    for round in 1..=20 {
        last = stream.ask_one(ask("web")).await.unwrap().leaf;
        stream.tell_seen(vec![told(&last, &agent.chain[1])]).await.unwrap();
        assert_eq!(until(KNOWN, round).await, round);
    }
    let mut expired = told(&last, &agent.chain[1]);
    expired.serial = new_serial().octets().to_vec();
    expired.not_after_s = expired.not_before_s;
    stream.tell_seen(vec![expired]).await.unwrap();
    until("mintage_seen_certificates_total{result=\"expired\"}", 1).await;
    assert_eq!(metric(face, UNKNOWN).await, 0);
    assert!(alarms(ca.ca.admin_socket()).await.is_empty());

    // An agent that makes them up: one record now, the rest in the count that a stop records.
    for round in 1..=5_u64 {
        let uses = (0..64).map(|_| {
            let mut made_up = told(&last, &agent.chain[1]);
            made_up.serial = new_serial().octets().to_vec();
            made_up.certificate_sha256 = random::<32>().to_vec();
            made_up
        });
        stream.tell_seen(uses.collect()).await.unwrap();
        until(UNKNOWN, 64 * round).await;
    }
    stream.tell_seen(vec![told(&last, &agent.chain[1]); 65]).await.unwrap();
    let ended = stream.minted().await.unwrap_err();
    assert!(ended.message().contains("limit is 64"), "{ended:?}");
    let data = ca.stop().await;
    let again = CaProcess::start(&data.path().join("ca"), 0);
    let (mut recorded, mut counted) = (0, 0);
    for row in alarms(&again.admin_socket()).await {
        let (_, report) = report_of(&again.admin_socket(), row.index).await;
        assert!(report.certificates.len() <= 16, "{report:?}");
        recorded += report.certificates.len() as u64;
        counted += report.suppressed;
    }
    assert_eq!(
        recorded + counted,
        5 * 64,
        "each is recorded or counted, at the latest at the stop"
    );
    assert!(
        recorded >= 16 && counted >= 48,
        "{recorded} recorded, {counted} counted"
    );
    assert_eq!(again.stop(), Some(0));
}
