//! What an operator may revoke by, what goes with it, and what stays for good: keys, selectors, issuers, entries that are
//! disabled.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::Path, process::Command};

use mintage_proto::v1::{
    CaStatusRequest, Entry, ListAgentsRequest, ListRevocationsRequest, RevocationStatusRequest, RevokeRequest,
    RevokeResponse, revocation_client::RevocationClient, revoke_request::Target,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    bins::binary,
    ca::{TestCa, apply, domain},
    client::{admin, join, key_and_csr, registry},
    inventory::records,
    stream::{Stream, ask, ask_with, code},
};
use serde_json::Value;
use tonic::{Code, Status};

fn entry(name: &str, uid: u32, disabled: bool) -> Entry {
    let domain = domain();
    Entry {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://{domain}/{name}"),
        agents: vec![format!("spiffe://{domain}/mintage/agent/*")],
        selectors: vec![format!("unix:uid:{uid}")],
        disabled,
        ..Entry::default()
    }
}

/// A CA with entries `web` (uid 1) and `db` (uid 2), and an agent's stream.
async fn serving() -> (TestCa, Stream) {
    let ca = TestCa::start().await;
    let entries = vec![entry("web", 1, false), entry("db", 2, false)];
    apply(ca.ca.admin_socket(), entries).await.unwrap();
    let agent = join(&ca.token("n1").await).await.unwrap();
    let stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    (ca, stream)
}

async fn revoke(socket: &Path, request: RevokeRequest) -> Result<RevokeResponse, Status> {
    let mut revocation = RevocationClient::new(admin(socket).await.unwrap());
    Ok(revocation.revoke(request).await?.into_inner())
}

fn order(target: Target) -> RevokeRequest {
    RevokeRequest {
        target: Some(target),
        no_renew: true,
        ..RevokeRequest::default()
    }
}

/// The rules of the newest revocation.
async fn rules(socket: &Path) -> Vec<String> {
    let mut revocation = RevocationClient::new(admin(socket).await.unwrap());
    let request = ListRevocationsRequest { limit: 1, before: 0 };
    let mut items = revocation.list_revocations(request).await.unwrap().into_inner().items;
    items.pop().unwrap().rules
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compromised_key_is_blocked_and_a_new_one_is_not() {
    let (ca, mut stream) = serving().await;
    let socket = ca.ca.admin_socket();
    let (_, csr) = key_and_csr();
    let leaf = stream.ask_one(ask_with("web", csr.clone())).await.unwrap().leaf;
    let leaf = LeafInfo::parse(&leaf).unwrap();
    let compromised = |dry_run| RevokeRequest {
        reason: "key-compromise".to_owned(),
        dry_run,
        ..order(Target::SpiffeId("spiffe://dev.test/web".to_owned()))
    };
    let dry = revoke(socket, compromised(true)).await.unwrap();
    assert_eq!((dry.certificates, dry.blocked_keys, dry.sequence), (1, 1, 0));
    let done = revoke(socket, compromised(false)).await.unwrap();
    assert_eq!((done.certificates, done.blocked_keys), (1, 1));
    let blocked = format!("key {}, every one", leaf.spki_sha256());
    assert!(rules(socket).await.contains(&blocked), "{blocked}");

    let again = stream.ask_one(ask_with("web", csr)).await.unwrap();
    assert_eq!(code(&again), "key-blocked");
    assert!(stream.ask_one(ask("web")).await.unwrap().refusal.is_none());
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_reaches_what_holds_it_and_what_was_issued_with_it() {
    let (ca, mut stream) = serving().await;
    let socket = ca.ca.admin_socket();
    for name in ["web", "db"] {
        assert!(stream.ask_one(ask(name)).await.unwrap().refusal.is_none());
    }
    let by = |selector: &str| order(Target::Selector(selector.to_owned()));
    let dry = RevokeRequest {
        dry_run: true,
        ..by("unix:uid:1")
    };
    let now = revoke(socket, dry.clone()).await.unwrap();
    assert_eq!((now.certificates, now.entries), (1, vec!["web".to_owned()]));
    // The entry lets the selector go; what was issued with it is still found, and so is what holds the new one.
    apply(socket, vec![entry("web", 3, false)]).await.unwrap();
    for selector in ["unix:uid:1", "unix:uid:3"] {
        let found = revoke(
            socket,
            RevokeRequest {
                dry_run: true,
                ..by(selector)
            },
        )
        .await
        .unwrap();
        assert_eq!(
            (found.certificates, found.entries),
            (1, vec!["web".to_owned()]),
            "{selector}"
        );
    }
    assert_eq!(
        revoke(socket, by("unix:uid:4")).await.unwrap_err().code(),
        Code::NotFound
    );
    let done = revoke(socket, by("unix:uid:1")).await.unwrap();
    assert_eq!((done.certificates, done.left_without.len()), (1, 0));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_entry_gets_no_replacement_until_it_is_applied_as_enabled() {
    let (ca, mut stream) = serving().await;
    let socket = ca.ca.admin_socket();
    assert!(stream.ask_one(ask("web")).await.unwrap().refusal.is_none());
    let web = vec!["web".to_owned()];
    let id = || Target::SpiffeId("spiffe://dev.test/web".to_owned());
    for target in [
        id(),
        Target::Entry("web".to_owned()),
        Target::Selector("unix:uid:1".to_owned()),
    ] {
        let by = |dry_run| RevokeRequest {
            and_disable: true,
            dry_run,
            ..order(target.clone())
        };
        let dry = revoke(socket, by(true)).await.unwrap();
        assert_eq!((&dry.left_without, dry.sequence), (&web, 0));
        assert!(
            stream.ask_one(ask("web")).await.unwrap().refusal.is_none(),
            "a rehearsal changes nothing"
        );
        assert_eq!(revoke(socket, by(false)).await.unwrap().left_without, web);
        let refused = stream.ask_one(ask("web")).await.unwrap();
        assert_eq!(code(&refused), "entry-disabled");
        if target == id() {
            assert_eq!(rules(socket).await, ["spiffe-id spiffe://dev.test/web, every one"]);
        }
        apply(socket, vec![entry("web", 1, false)]).await.unwrap();
        let back = stream.ask_one(ask("web")).await.unwrap();
        assert!(back.refusal.is_none(), "{target:?}: {back:?}");
    }
    let idle = RevokeRequest {
        and_disable: true,
        ..order(Target::Entry("db".to_owned()))
    };
    let idle = revoke(socket, idle).await.unwrap();
    let mut revocation = RevocationClient::new(admin(socket).await.unwrap());
    let status = revocation
        .revocation_status(RevocationStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (idle.certificates, idle.sequence),
        (0, status.sequence),
        "it is what agents can reach"
    );
    apply(socket, vec![entry("db", 2, false)]).await.unwrap();
    let misplaced = RevokeRequest {
        and_disable: true,
        ..order(Target::Agent("n1".to_owned()))
    };
    let refused = revoke(socket, misplaced).await.unwrap_err();
    assert!(
        refused.code() == Code::InvalidArgument && refused.message().contains("and_disable"),
        "{refused:?}"
    );
    assert!(
        stream.ask_one(ask("db")).await.unwrap().refusal.is_none(),
        "nobody was banned"
    );
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_issuer_is_revoked_only_when_it_is_meant() {
    let (ca, mut stream) = serving().await;
    let socket = ca.ca.admin_socket();
    assert!(stream.ask_one(ask("web")).await.unwrap().refusal.is_none());
    let status = registry(socket)
        .await
        .ca_status(CaStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    let issuer = status.keys.iter().find(|key| key.role == "intermediate").unwrap();
    let by = |text: &str, dry_run| RevokeRequest {
        dry_run,
        ..order(Target::Issuer(text.to_owned()))
    };
    for dry_run in [true, false] {
        let refused = revoke(socket, by(&issuer.key_id, dry_run)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("--force-last"), "{refused:?}");
    }
    let unknown = revoke(socket, by(&"0a".repeat(32), false)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let meant = |dry_run| RevokeRequest {
        force_last: true,
        reason: "ca-compromise".to_owned(),
        ..by(&issuer.key_id, dry_run)
    };
    let dry = revoke(socket, meant(true)).await.unwrap();
    assert_eq!(
        (dry.left_without, dry.certificates),
        (vec!["web".to_owned()], 3),
        "the agent's and the CA's own too"
    );
    assert!(stream.ask_one(ask("web")).await.unwrap().refusal.is_none());
    revoke(socket, meant(false)).await.unwrap();
    assert_eq!(rules(socket).await, [format!("issuer {}, every one", issuer.key_id)]);
    ca.stop().await;
}

/// What the real `mintage` prints of an order.
async fn printed(ca: &TestCa, words: &[&str]) -> Value {
    let mut command = Command::new(binary("mintage"));
    command
        .arg("revoke")
        .args(words)
        .args(["--no-renew", "--wait", "0s", "-o", "json"]);
    command.env("MINTAGE_ADMIN_SOCKET", ca.ca.admin_socket());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let notices = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {notices}"))
}

/// What a rehearsal must not change: how many revocations there are, and who is banned.
async fn standing(socket: &Path) -> (usize, Vec<(String, String)>) {
    let mut registry = registry(socket).await;
    let agents = registry
        .list_agents(ListAgentsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .agents;
    let agents = agents.into_iter().map(|agent| (agent.name, agent.status)).collect();
    (records(socket, "revoke", "").await.len(), agents)
}

/// A rehearsal says what the deed does.
fn told_alike(option: &str, rehearsed: &Value, done: &Value) {
    let fields = [
        "certificates",
        "agents",
        "entries",
        "serials",
        "agent_count",
        "entry_count",
        "left_without",
    ];
    for field in fields {
        assert_eq!(rehearsed[field], done[field], "{option}: {field}");
    }
    assert_eq!(
        (&rehearsed["dry_run"], &rehearsed["sequence"]),
        (&true.into(), &0.into()),
        "{option}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_tells_what_each_target_strikes_and_changes_nothing() {
    let (ca, mut stream) = serving().await;
    let socket = ca.ca.admin_socket();
    let api = Entry {
        spiffe_id: "spiffe://dev.test/shop/api".to_owned(),
        ..entry("api", 3, false)
    };
    apply(socket, vec![api]).await.unwrap();
    let second = join(&ca.token("n2").await).await.unwrap();
    let mut other = Stream::open(&second, &ca.ca.address().to_string()).await.unwrap();
    let status = registry(socket).await.ca_status(CaStatusRequest::default()).await;
    let keys = status.unwrap().into_inner().keys;
    let issuer = &keys.iter().find(|key| key.role == "intermediate").unwrap().key_id;
    // Each comes with certificates of its own; the agent and the issuer last, since nothing comes after them.
    let targets = [
        ("--serial", "", 1, 1),
        ("--key", "", 1, 1),
        ("--spiffe-id", "spiffe://dev.test/web", 2, 1),
        ("--id-prefix", "spiffe://dev.test/shop/*", 1, 1),
        ("--entry", "web", 2, 1),
        ("--selector", "unix:uid:2", 1, 1),
        ("--agent", "n2", 2, 1),
        ("--issuer", issuer, 4, 3),
    ];
    for (option, given, certificates, entries) in targets {
        let leaf = stream.ask_one(ask("web")).await.unwrap().leaf;
        let leaf = LeafInfo::parse(&leaf).unwrap();
        let rest = [
            stream.ask_one(ask("db")).await,
            stream.ask_one(ask("api")).await,
            other.ask_one(ask("web")).await,
        ];
        assert!(
            rest.iter().all(|one| one.as_ref().unwrap().refusal.is_none()),
            "{option}"
        );
        let value = match option {
            "--serial" => leaf.serial().to_string(),
            "--key" => leaf.spki_sha256().to_string(),
            _ => given.to_owned(),
        };
        let mut words = vec![option, &value];
        if option == "--issuer" {
            words.push("--force-last");
        }
        let before = standing(socket).await;
        let rehearsed = printed(&ca, &[&words[..], &["--dry-run"]].concat()).await;
        assert_eq!(standing(socket).await, before, "{option}");
        let done = printed(&ca, &words).await;
        told_alike(option, &rehearsed, &done);
        assert!(done["certificates"].as_u64() >= Some(certificates), "{option}: {done}");
        assert_eq!(done["entry_count"], entries, "{option}: {done}");
        let (revocations, agents) = standing(socket).await;
        assert!(revocations > before.0, "{option}");
        assert_eq!(agents == before.1, option != "--agent", "{option}: {agents:?}");
        if option == "--agent" {
            // For the last target somebody has to speak.
            let third = join(&ca.token("n3").await).await.unwrap();
            other = Stream::open(&third, &ca.ca.address().to_string()).await.unwrap();
        }
    }
    ca.stop().await;
}
