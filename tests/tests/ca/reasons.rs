//! Why and since when a certificate is revoked, told alike by the CA's answers and by its list, whether its serial was named or a
//! rule strikes it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use mintage_ca::{Ca, Deps};
use mintage_identity::RevocationReason;
use mintage_proto::v1::{
    ExportRevocationsRequest, GetRecordRequest, GetRecordResponse, ListRevocationsRequest, RevocationItem,
    RevokeRequest, RevokedRule, WatchCrlsRequest, crls_client::CrlsClient, get_record_request::Key,
    ledger_client::LedgerClient, revocation_client::RevocationClient, revoke_request::Target,
};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    ca::{domain, entry, make, token},
    client::{admin, join},
    stream::{Stream, ask},
};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

async fn revoke(socket: &Path, target: Target, reason: &str) {
    let request = RevokeRequest {
        target: Some(target),
        reason: reason.to_owned(),
        note: "because".to_owned(),
        no_renew: true,
        ..RevokeRequest::default()
    };
    let mut client = RevocationClient::new(admin(socket).await.unwrap());
    client.revoke(request).await.unwrap();
}

async fn newest(socket: &Path) -> RevocationItem {
    let mut client = RevocationClient::new(admin(socket).await.unwrap());
    let request = ListRevocationsRequest { limit: 1, before: 0 };
    let mut items = client.list_revocations(request).await.unwrap().into_inner().items;
    items.pop().unwrap()
}

async fn shown(socket: &Path, serial: &str) -> GetRecordResponse {
    let key = Some(Key::Serial(serial.to_owned()));
    let mut ledger = LedgerClient::new(admin(socket).await.unwrap());
    ledger.get_record(GetRecordRequest { key }).await.unwrap().into_inner()
}

/// Date in seconds and reason of each of these serials, once the lists name them all.
async fn listed(socket: &Path, serials: &[&str]) -> Vec<(i64, Option<u8>)> {
    let began = Instant::now();
    loop {
        let mut client = CrlsClient::new(admin(socket).await.unwrap());
        let request = WatchCrlsRequest { once: true };
        let mut chunks = client.watch(request).await.unwrap().into_inner();
        let mut lists = std::collections::BTreeMap::<Vec<u8>, Vec<u8>>::new();
        while let Some(chunk) = chunks.message().await.unwrap() {
            lists
                .entry(chunk.issuer_key_id)
                .or_default()
                .extend_from_slice(&chunk.data);
        }
        let mut found = std::collections::BTreeMap::new();
        for der in lists.values() {
            let (_, list) = CertificateRevocationList::from_der(der).unwrap();
            for revoked in list.iter_revoked_certificates() {
                let reason = revoked.reason_code().map(|(_, code)| code.0);
                found.insert(
                    hex::encode(revoked.raw_serial()),
                    (revoked.revocation_date.timestamp(), reason),
                );
            }
        }
        let told: Vec<_> = serials
            .iter()
            .filter_map(|serial| found.get(*serial).copied())
            .collect();
        if told.len() == serials.len() {
            return told;
        }
        assert!(began.elapsed() < SOON, "{serials:?} are not in {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The rules that an export tells, in the order of their records.
async fn exported(socket: &Path) -> Vec<RevokedRule> {
    let mut client = RevocationClient::new(admin(socket).await.unwrap());
    let mut parts = client
        .export_revocations(ExportRevocationsRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut rules = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        assert_eq!(part.rules.len(), part.rules_in_force.len());
        rules.extend(part.rules_in_force);
    }
    rules.sort_by_key(|rule| rule.index);
    rules
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_tells_its_reason_and_its_date_wherever_a_serial_does() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("ca"), folder.path().join("ca.toml"));
    make(&data);
    let text = format!(
        "trust_domain = \"dev.test\"\ndata_dir = {data:?}\nlisten = \"127.0.0.1:0\"\n[ca]\ncrl_reasons = true\n"
    );
    std::fs::write(&file, text).unwrap();
    let ca = Ca::start(mintage_ca::Config::load(&file).unwrap(), Deps::system())
        .await
        .unwrap();
    let socket = ca.admin_socket().to_owned();
    let agent = join(&token(&socket, "n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
    let mut serials = Vec::new();
    for name in ["web", "db", "cache"] {
        entry(&socket, name, &format!("/shop/{name}")).await;
        let minted = stream.ask_one(ask(name)).await.unwrap();
        serials.push(LeafInfo::parse(&minted.leaf).unwrap().serial().to_string());
    }
    let cases = [
        (
            Target::Serial(serials[0].clone()),
            "superseded",
            RevocationReason::Superseded,
        ),
        (
            Target::SpiffeId(format!("spiffe://{}/shop/db", domain())),
            "affiliation-changed",
            RevocationReason::AffiliationChanged,
        ),
        (
            Target::IdPrefix(format!("spiffe://{}/shop/*", domain())),
            "privilege-withdrawn",
            RevocationReason::PrivilegeWithdrawn,
        ),
    ];
    let mut dates = Vec::new();
    for ((target, word, _), serial) in cases.iter().zip(&serials) {
        revoke(&socket, target.clone(), word).await;
        let (item, answer) = (newest(&socket).await, shown(&socket, serial).await);
        assert_eq!((item.reason.as_str(), item.note.as_str()), (*word, "because"));
        dates.push(item.time_ms);
        let summary = answer.summary.unwrap();
        assert_eq!(
            (summary.state.as_str(), summary.revoked_for.as_str(), summary.revoked_ms),
            ("revoked", *word, item.time_ms)
        );
        let striker = answer.strikers.last().unwrap();
        assert_eq!(
            (striker.index, striker.reason.as_str(), striker.scope.as_str()),
            (item.index, *word, item.scope.as_str())
        );
        assert_eq!(answer.revoked_by.last(), Some(&item.index));
    }
    // The prefix strikes the others as well, but they were struck before.
    for (at, (_, word, _)) in cases.iter().enumerate() {
        let answer = shown(&socket, &serials[at]).await;
        assert_eq!(answer.summary.unwrap().revoked_for, *word);
        assert_eq!(answer.strikers.len(), if at == 2 { 1 } else { 2 });
    }
    let wanted: Vec<&str> = serials.iter().map(String::as_str).collect();
    for (told, ((_, _, reason), date)) in listed(&socket, &wanted).await.into_iter().zip(cases.iter().zip(&dates)) {
        assert_eq!(told, (date / 1_000, Some(reason.code())));
    }
    let rules = exported(&socket).await;
    let told: Vec<(&str, i64)> = rules.iter().map(|rule| (rule.reason.as_str(), rule.time_ms)).collect();
    assert_eq!(told, [(cases[1].1, dates[1]), (cases[2].1, dates[2])]);
    ca.stop().await;
}
