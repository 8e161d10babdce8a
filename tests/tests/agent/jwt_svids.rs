//! JWT-SVIDs on their whole road: the real CA and agent, a workload at the socket, verifiers of ours and of Python, and what
//! the ledger says afterwards. Tests carry the rows of the SPIFFE standards that they hold.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use mintage_identity::{TrustDomain, UnixTime};
use mintage_proto::{
    v1::Entry,
    workload::{
        JwtBundlesRequest, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509svidRequest,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use mintage_svid::{JwtSvid, TrustBundle};
use mintage_tests::kit::{
    agent::{AgentProcess, config},
    bins::binary,
    blank,
    ca::{CaProcess, apply, domain, make, token},
    client::admin,
    verifiers::Interpreter,
};
use serde_json::{Value, json};
use tonic::{Code, Request, Status, transport::Channel};

/// Longest wait for something that happens by itself; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

/// CA, agent, and a workload's connection.
struct Scene {
    folder: tempfile::TempDir,
    channel: Channel,
    agent: AgentProcess,
    ca: CaProcess,
}

/// An entry for whoever has this process's user id.
fn entry(name: &str) -> Entry {
    Entry {
        name: name.to_owned(),
        spiffe_id: id(name),
        agents: vec![format!("spiffe://{}/mintage/agent/*", domain())],
        selectors: vec![format!("unix:uid:{}", rustix::process::geteuid().as_raw())],
        ..Entry::default()
    }
}

fn id(name: &str) -> String {
    format!("spiffe://{}/{name}", domain())
}

fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime::from_millis(i64::try_from(since.unwrap().as_millis()).unwrap())
}

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

impl Scene {
    async fn new(entries: Vec<Entry>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("ca");
        make(&data);
        let ca = CaProcess::start(&data, 0);
        apply(&ca.admin_socket(), entries).await.unwrap();
        let file = config(folder.path(), &[]);
        let socket = folder.path().join("agent.sock");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("socket = \"off\"", &format!("socket = {socket:?}"))).unwrap();
        let joining = token(&ca.admin_socket(), "n1").await;
        let mut agent = AgentProcess::start(folder.path(), &file, Some(&joining));
        agent.wait_for("the socket", || socket.exists().then_some(()));
        let log = folder.path().join("agent.log");
        agent.wait_for("the entries", || {
            let log = fs::read_to_string(&log).unwrap_or_default();
            log.contains("entries applied").then_some(())
        });
        Self {
            channel: admin(&socket).await.unwrap(),
            folder,
            agent,
            ca,
        }
    }

    fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel.clone())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    async fn fetch(&self, spiffe_id: &str, audience: &[&str]) -> Result<Vec<Jwtsvid>, Status> {
        let request = JwtsvidRequest {
            audience: audience.iter().map(|text| (*text).to_owned()).collect(),
            spiffe_id: spiffe_id.to_owned(),
        };
        Ok(self.client().fetch_jwtsvid(call(request)).await?.into_inner().svids)
    }

    async fn one(&self, name: &str, audience: &str) -> String {
        let mut svids = self.fetch(&id(name), &[audience]).await.unwrap();
        assert_eq!(svids.len(), 1);
        svids.remove(0).svid
    }

    async fn validate(&self, audience: &str, svid: &str) -> Result<ValidateJwtsvidResponse, Status> {
        let request = ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: svid.to_owned(),
        };
        self.client()
            .validate_jwtsvid(call(request))
            .await
            .map(tonic::Response::into_inner)
    }

    /// The JWK Set of the trust domain.
    async fn jwks(&self) -> String {
        let request = call(JwtBundlesRequest {});
        let mut stream = self.client().fetch_jwt_bundles(request).await.unwrap().into_inner();
        let mut bundles = stream.message().await.unwrap().unwrap().bundles;
        assert_eq!(bundles.len(), 1);
        String::from_utf8(bundles.remove(domain().id().as_str()).unwrap()).unwrap()
    }

    /// Stops everything and has the ledger's meaning verified.
    fn end(self) {
        let data = self.data();
        // Whoever is served still is waited for.
        drop(self.channel);
        assert_eq!(self.agent.stop(), Some(0));
        assert_eq!(self.ca.stop(), Some(0));
        mintage(&data, &["audit", "verify", "--signatures"]);
    }
}

/// Runs `mintage` on this CA's folder; what it said.
#[track_caller]
fn mintage(data: &Path, words: &[&str]) -> String {
    let mut command = Command::new(binary("mintage"));
    for variable in ["MINTAGE_FORMAT", "MINTAGE_ADMIN_SOCKET", "MINTAGE_LOG"] {
        command.env_remove(variable);
    }
    let output = command.arg("--data-dir").arg(data).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn bundle(jwks: &str) -> TrustBundle {
    TrustBundle::from_jwks_json(domain(), jwks).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w7_a_token_goes_from_the_ca_to_a_workload_and_is_verified_everywhere() {
    let scene = Scene::new(vec![entry("web")]).await;
    let token = scene.one("web", "https://db").await;
    // The other profile is served beside it.
    let mut stream = scene
        .client()
        .fetch_x509svid(call(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().svids.len(), 1);

    let jwks = scene.jwks().await;
    let svid = JwtSvid::parse(&token).unwrap();
    svid.verify_with(&bundle(&jwks)).unwrap();
    let now = now();
    svid.validate("https://db", now, 5).unwrap();
    assert_eq!(svid.id().as_str(), id("web"));
    let issued = svid.issued_at().unwrap();
    assert_eq!(svid.expires().since(issued), Duration::from_secs(300));

    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&scratch).unwrap();
    if let Some(python) = Interpreter::python(&scratch) {
        let ask = |token: &str, audience: &str| -> Value {
            let keys: Value = serde_json::from_str(&jwks).unwrap();
            let told = json!({"token": token, "jwks": keys, "audience": audience, "now": now.seconds()});
            serde_json::from_slice(&python.run("jwt_svid.py", told.to_string().as_bytes())).unwrap()
        };
        assert_eq!(ask(&token, "https://db")["claims"]["sub"], id("web"));
        assert!(ask(&token, "other")["refused"].is_string());
        let mut forged = token.clone().into_bytes();
        let at = token.rfind('.').unwrap() + 9;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert!(
            ask(&forged, "https://db")["refused"]
                .as_str()
                .unwrap()
                .contains("InvalidSignature")
        );
    }

    // The ledger knows the token by its claims and its hash, and does not have it.
    let found = mintage(
        &scene.data(),
        &["audit", "search", "--kind", "issue.jwt", "-o", "jsonl"],
    );
    let found: Vec<Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let index = found[0]["index"].as_u64().unwrap().to_string();
    let shown = mintage(&scene.data(), &["audit", "show", &index, "-o", "json"]);
    for held in [
        "https://db",
        "token_sha256",
        svid.header().kid.as_deref().unwrap(),
        &id("web"),
    ] {
        assert!(shown.contains(held), "{held} in {shown}");
    }
    assert!(!shown.contains(&token) && !shown.contains(token.rsplit('.').next().unwrap()));
    let by_id = mintage(
        &scene.data(),
        &["audit", "search", "--spiffe-id", &id("web"), "-o", "jsonl"],
    );
    assert!(by_id.contains("issue.jwt"), "{by_id}");
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w12_an_audience_is_needed_and_the_entry_says_which() {
    let only = Entry {
        jwt_audiences: vec!["db".to_owned(), "cache".to_owned()],
        ..entry("only")
    };
    let never = Entry {
        jwt_forbidden: true,
        ..entry("never")
    };
    let scene = Scene::new(vec![entry("any"), only, never]).await;
    for bad in [&[][..], &[""], &["a", ""], &["a\nb"]] {
        assert_eq!(
            scene.fetch("", bad).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{bad:?}"
        );
    }
    assert_eq!(
        scene.fetch("no-id", &["db"]).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let ids = |svids: Vec<Jwtsvid>| svids.into_iter().map(|svid| svid.spiffe_id).collect::<Vec<_>>();
    assert_eq!(
        ids(scene.fetch("", &["db"]).await.unwrap()),
        [id("any"), id("only")],
        "one per identity"
    );
    assert_eq!(ids(scene.fetch("", &["else"]).await.unwrap()), [id("any")]);
    assert_eq!(
        ids(scene.fetch(&id("only"), &["cache", "db"]).await.unwrap()),
        [id("only")]
    );
    for (name, audience, reason) in [
        (
            "only",
            "else",
            "no JWT-SVID for the audience \"else\", only for cache, db",
        ),
        ("never", "db", "jwt_forbidden"),
        ("stranger", "db", "no identity spiffe://dev.test/stranger"),
    ] {
        let refused = scene.fetch(&id(name), &[audience]).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{name}");
        assert!(refused.message().contains(reason), "{refused}");
    }
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_kept_for_each_audience_and_dropped_with_the_identity() {
    let scene = Scene::new(vec![entry("web")]).await;
    let token = scene.one("web", "db").await;
    assert_eq!(scene.one("web", "db").await, token, "from memory");
    assert_ne!(scene.one("web", "cache").await, token);
    let both = scene.fetch("", &["cache", "db"]).await.unwrap().remove(0).svid;
    let turned = scene.fetch("", &["db", "cache", "db"]).await.unwrap().remove(0).svid;
    assert_eq!(both, turned, "the order says nothing");

    mintage(
        &scene.data(),
        &["revoke", "--spiffe-id", &id("web"), "--reason", "superseded"],
    );
    let started = Instant::now();
    // The news is on its way for a moment.
    let refused = loop {
        match scene.validate("db", &token).await {
            Ok(_) => assert!(started.elapsed() < SOON, "the revocation did not come"),
            Err(refused) => break refused,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(refused.message().contains("was revoked"), "{refused}");
    let after = scene.one("web", "db").await;
    assert_ne!(after, token, "what was kept is not handed out");
    scene.validate("db", &after).await.unwrap();

    let off = Entry {
        jwt_forbidden: true,
        ..entry("web")
    };
    apply(&scene.ca.admin_socket(), vec![off]).await.unwrap();
    let started = Instant::now();
    let refused = loop {
        match scene.fetch("", &["db"]).await {
            Ok(_) => assert!(started.elapsed() < SOON, "the entry did not come"),
            Err(refused) => break refused,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(refused.code(), Code::PermissionDenied);
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w11_jwt_bundles_hold_the_own_domain_and_jwt_keys_alone() {
    let scene = Scene::new(vec![entry("web")]).await;
    let jwks = scene.jwks().await;
    let document: Value = serde_json::from_str(&jwks).unwrap();
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    assert!(
        keys.iter()
            .all(|key| key["use"] == "jwt-svid" && key["kid"].is_string()),
        "{jwks}"
    );
    assert_eq!(document["spiffe_sequence"], 2, "the key came after the first bundle");
    assert!(bundle(&jwks).roots().is_empty());
    // The CA's own document has the roots beside it.
    let whole = mintage(&scene.data(), &["bundle", "show", "-o", "jwks"]);
    let whole = bundle(&whole);
    assert_eq!((whole.roots().len(), whole.jwt_keys()), (1, bundle(&jwks).jwt_keys()));
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w13_validation_says_yes_with_id_and_claims_or_no_with_the_reason() {
    let scene = Scene::new(vec![entry("web")]).await;
    let token = scene.one("web", "db").await;
    let yes = scene.validate("db", &token).await.unwrap();
    assert_eq!(yes.spiffe_id, id("web"));
    let claims = yes.claims.unwrap().fields;
    assert_eq!(claims.len(), 5);
    assert!(format!("{:?}", claims["sub"]).contains(&id("web")) && format!("{:?}", claims["aud"]).contains("db"));
    let [head, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("{token}")
    };
    let other = scene.one("web", "cache").await;
    let other_payload = other.split('.').nth(1).unwrap();
    for (audience, svid, reason) in [
        ("", token.as_str(), "audience"),
        ("cache", &token, "another audience"),
        ("db", &format!("{head}.{other_payload}.{signature}"), "another audience"),
        (
            "cache",
            &format!("{head}.{other_payload}.{signature}"),
            "signature does not verify",
        ),
        ("db", &format!("{head}.{payload}."), "signature does not verify"),
        ("db", "x", "compact form"),
        ("db", "", "compact form"),
    ] {
        let refused = scene.validate(audience, svid).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{svid}");
        assert!(refused.message().contains(reason), "{refused}");
    }
    // A token of another trust domain is not tried with keys of this one.
    let foreign = TrustDomain::parse("other.test").unwrap();
    let (signer, _) = mintage_mint::JwtSigner::generate(&foreign).unwrap();
    let claims = mintage_svid::JwtClaims {
        id: &"spiffe://other.test/web".parse().unwrap(),
        audiences: &["db".to_owned()],
        issued: now().floor_to_second(),
        expires: now().plus(SOON).floor_to_second(),
        jti: "1",
    };
    let input = claims.signing_input(mintage_svid::JwtAlgorithm::Es256, signer.public().kid());
    let refused = scene
        .validate("db", &mintage_svid::compact(&input, &[0; 64]))
        .await
        .unwrap_err();
    assert!(refused.message().contains("no other bundle"), "{refused}");
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w14_wit_calls_are_unimplemented() {
    let scene = Scene::new(vec![entry("web")]).await;
    for method in ["FetchWITSVID", "FetchWITBundles", "ValidateWITSVID"] {
        let path = format!("/SpiffeWorkloadAPI/{method}");
        let refused = blank::call(&scene.channel, &path, call(())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{method}");
    }
    scene.end();
}
