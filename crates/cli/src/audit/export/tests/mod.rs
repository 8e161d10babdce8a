//! Every kind of record in every format, held against the published schemas, with names that try to break out.

mod schema;

use mintage_ledger::{
    Body, Kind,
    wire::{self, CaEventKind},
};
use serde_json::Value;

use super::{Form, ecs, ocsf};
use crate::{
    audit::facts::Placed,
    meaning::tests::kit::{AGENT, Story, WEB, admin, agent, replica, web_entry},
};

/// A name that does what names should not.
const HOSTILE: &str = "=cmd|' /C calc'!A0\r\n\u{1b}[31m\",\u{202e}x";

fn ban() -> wire::AgentBan {
    wire::AgentBan {
        name: "n1".into(),
        instance: 9,
        reason: HOSTILE.into(),
    }
}

fn deny(spiffe_id: &str, entry: &str) -> Body {
    Body::Deny(wire::Deny {
        spiffe_id: spiffe_id.into(),
        entry: entry.into(),
        code: "entry-unknown".into(),
        why: HOSTILE.into(),
        suppressed: 3,
    })
}

/// What administrators do.
fn by_admins() -> Vec<Body> {
    vec![
        Body::EntryPut(wire::EntryPut {
            replaces_revision: 5,
            owner: HOSTILE.into(),
            ..web_entry()
        }),
        Body::EntryDelete(wire::EntryDelete {
            name: "web".into(),
            revision: 5,
        }),
        Body::TokenDelete(wire::TokenDelete {
            token_hash: vec![5; 32],
            agent: "n1".into(),
        }),
        Body::AgentBan(ban()),
        Body::AgentEvict(wire::AgentEvict {
            name: "n1".into(),
            instance: 9,
            reason: String::new(),
        }),
        Body::BundleFederatedSet(wire::BundleFederatedSet {
            trust_domain: "other.test".into(),
            sequence: 4,
            roots_der: vec![vec![1]],
            jwt_keys: vec![wire::BundleJwtKey {
                kid: HOSTILE.into(),
                spki_der: vec![2],
            }],
            ..wire::BundleFederatedSet::default()
        }),
        Body::BundleFederatedRemove(wire::BundleFederatedRemove {
            trust_domain: "other.test".into(),
            revision: 5,
        }),
        Body::AdminEvent(wire::AdminEvent {
            action: "login".into(),
            detail: HOSTILE.into(),
        }),
    ]
}

/// What agents do and are refused.
fn by_agents() -> Vec<Body> {
    let seen = wire::SeenCertificate {
        issuer_key_id: vec![1; 32],
        serial: vec![0x4f; 16],
        certificate_sha256: vec![2; 32],
        seen_at_ms: 1,
        known: false,
        ..wire::SeenCertificate::default()
    };
    let token = wire::IssueJwt {
        spiffe_id: WEB.into(),
        entry: "web".into(),
        entry_revision: 5,
        selectors: vec![HOSTILE.into()],
        rule: "entry".into(),
        audiences: vec![HOSTILE.into()],
        issued_s: 1_000_000,
        expires_s: 1_000_300,
        kid: "aa".into(),
        jti: "bb".into(),
        token_sha256: vec![7; 32],
    };
    vec![
        Body::IssueJwt(token),
        deny(WEB, "web"),
        deny("", ""),
        Body::AgentAttest(wire::AgentAttest {
            name: "n1".into(),
            spiffe_id: AGENT.into(),
            instance_of: 9,
            kind: "rejoin".into(),
            evidence_sha256: vec![3; 32],
            spki_sha256: vec![4; 32],
            rejoin: true,
        }),
        Body::SeenReport(wire::SeenReport {
            certificates: vec![seen],
            suppressed: 0,
        }),
    ]
}

/// Every kind of record there is.
fn every_kind() -> Vec<Placed> {
    let mut story = Story::honest();
    by_admins().into_iter().for_each(|body| story.push(admin(), body));
    by_agents().into_iter().for_each(|body| story.push(agent(9), body));
    let witness = wire::WitnessEvent {
        witness: "w1".into(),
        event: "conflict".into(),
        ..wire::WitnessEvent::default()
    };
    story.push(replica(), Body::WitnessEvent(witness));
    let snapshot = wire::RevocationSnapshot {
        epoch: 1,
        sequence: 2,
        set_hash: vec![1; 32],
        snapshot_sha256: vec![2; 32],
        key_id: vec![3; 32],
    };
    story.push(replica(), Body::RevocationSnapshot(snapshot));
    for event in [CaEventKind::Prepare, CaEventKind::Retire, CaEventKind::Taint] {
        let body = story.authority.event(event);
        story.push(replica(), body);
    }
    let placed = (0u64..).zip(&story.records).map(|(index, record)| Placed {
        index,
        leaf_hash: record.clone().encode().unwrap().leaf_hash(),
        record: record.clone(),
    });
    let placed: Vec<Placed> = placed.collect();
    for kind in Kind::ALL {
        assert!(placed.iter().any(|placed| placed.kind() == *kind), "no {kind}");
    }
    placed
}

#[test]
fn ocsf_events_are_what_the_schema_says() {
    let schema = schema::ocsf();
    let mut classes = std::collections::BTreeSet::new();
    for placed in every_kind() {
        let event = ocsf::event(&placed).unwrap();
        let mut wrong = schema::wrong_ocsf(&schema, &event);
        if let Some(certificate) = event["entity"]["data"].get("certificate") {
            schema::object(
                &schema,
                "certificate",
                &schema["objects"]["certificate"],
                certificate,
                &mut wrong,
            );
        }
        assert!(wrong.is_empty(), "{}: {wrong:#?}\n{event:#}", placed.kind());
        let failed = placed.kind() == Kind::Deny;
        assert_eq!(event["status_id"], if failed { 2 } else { 1 });
        assert_eq!(event["metadata"]["event_code"], placed.kind().name());
        assert_eq!(event["unmapped"]["index"], placed.index);
        classes.insert(event["class_uid"].as_u64().unwrap());
    }
    assert_eq!(classes, [3002, 3004, 6002, 6003].into());
}

#[test]
fn the_check_of_ocsf_events_finds_what_is_wrong() {
    let schema = schema::ocsf();
    let issue = every_kind()
        .into_iter()
        .find(|placed| placed.kind() == Kind::Issue)
        .unwrap();
    let good = ocsf::event(&issue).unwrap();
    let broken = |pointer: &str, value: Value| {
        let mut event = good.clone();
        *event.pointer_mut(pointer).unwrap() = value;
        assert!(!schema::wrong_ocsf(&schema, &event).is_empty(), "{pointer}");
    };
    broken("/time", "yesterday".into());
    broken("/activity_id", 42.into());
    broken("/severity_id", 7.into());
    broken("/type_uid", 300_402.into());
    broken("/class_uid", 1.into());
    broken("/metadata/product", Value::Null);
    broken("/metadata/version", "1.0.0".into());
    broken("/actor", serde_json::json!({"nobody": 1}));
    let mut event = good.clone();
    event.as_object_mut().unwrap().remove("metadata");
    assert!(!schema::wrong_ocsf(&schema, &event).is_empty());
}

#[test]
fn ecs_events_are_what_the_schema_says() {
    let schema = schema::ecs();
    for placed in every_kind() {
        let event = ecs::event(&placed).unwrap();
        let wrong = schema::wrong_ecs(&schema, &event);
        assert!(wrong.is_empty(), "{}: {wrong:#?}\n{event:#}", placed.kind());
        assert_eq!(event["event"]["action"], placed.kind().name());
        assert_eq!(event["event"]["sequence"], placed.index);
        if placed.kind() == Kind::Issue {
            let serial = event["file"]["x509"]["serial_number"].as_str().unwrap();
            assert_eq!(serial, serial.to_uppercase());
            let name = event["file"]["x509"]["issuer"]["distinguished_name"].as_str().unwrap();
            assert!(name.contains('='), "{name}");
        }
    }
    let mut event = ecs::event(&every_kind()[0]).unwrap();
    event["event"]["type"] = serde_json::json!(["denied"]);
    event["surprise"] = 1.into();
    assert_eq!(schema::wrong_ecs(&schema, &event).len(), 2);
}

fn encoded(form: Form, placed: &[Placed]) -> String {
    let mut encoder = form.encoder().unwrap();
    let mut out = Vec::new();
    encoder.head(&mut out).unwrap();
    placed
        .iter()
        .for_each(|placed| encoder.record(placed, &mut out).unwrap());
    encoder.end(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn every_record_is_one_line_without_control_characters() {
    let placed = every_kind();
    for form in [Form::Jsonl, Form::Ocsf, Form::Ecs, Form::Csv] {
        let text = encoded(form, &placed);
        let header = usize::from(matches!(form, Form::Csv));
        assert_eq!(text.lines().count(), placed.len() + header, "{form:?}");
        let bare = text.replace("\r\n", "").replace('\n', "");
        assert!(!bare.chars().any(mintage_ca::logging::steers), "{form:?}");
        if !matches!(form, Form::Csv) {
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            assert_eq!(lines.count(), placed.len());
        }
    }
}

#[test]
fn json_lines_tell_everything_and_csv_is_never_computed() {
    let placed = every_kind();
    let text = encoded(Form::Jsonl, &placed);
    for (line, placed) in text.lines().zip(&placed) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&line["index"], &line["schema_version"]),
            (&placed.index.into(), &1.into())
        );
        assert_eq!(line["leaf_hash"], hex::encode(placed.leaf_hash.as_bytes()));
        assert_eq!(line["certificate"].is_object(), placed.kind() == Kind::Issue);
        if let Body::Deny(deny) = &placed.record.body {
            assert_eq!(line["body"]["why"], deny.why.as_str(), "escaping changes no value");
        }
    }
    let csv = encoded(Form::Csv, &placed);
    let mut lines = csv.split("\r\n");
    assert_eq!(lines.next(), Some(super::csv::COLUMNS.join(",").as_str()));
    for line in lines.filter(|line| !line.is_empty()) {
        let cells = cells(line);
        assert_eq!(cells.len(), super::csv::COLUMNS.len(), "{line}");
        assert!(
            !cells.iter().any(|cell| cell.starts_with(['=', '+', '-', '@'])),
            "{line}"
        );
    }
    assert!(
        csv.contains("\"'=cmd|' /C calc'!A0\\r\\n\\u{1b}[31m\"\",\\u{202e}x\""),
        "{csv}"
    );
}

/// The cells of a line, read as RFC 4180 says.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, quoted) {
            ('"', true) if letters.peek() == Some(&'"') => cell.extend(letters.next()),
            ('"', _) => quoted = !quoted,
            (',', false) => cells.push(std::mem::take(&mut cell)),
            (letter, _) => cell.push(letter),
        }
    }
    cells.push(cell);
    cells
}

#[test]
#[cfg(not(feature = "parquet"))]
fn parquet_is_refused_with_the_name_of_its_feature() {
    let refused = Form::Parquet.encoder().err().unwrap();
    assert!(
        refused.to_string().contains("--features parquet") && refused.code() == 1,
        "{refused}"
    );
}
