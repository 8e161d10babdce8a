//! Events of the Open Cybersecurity Schema Framework, version 1.6.0.
//!
//! Entries, tokens, agents, keys and certificates are managed entities (Entity Management, 3004); a node that proves what
//! it is logs on (Authentication, 3002); what an administrator did beside that is API Activity (6003); beginning and end of
//! a log are Application Lifecycle (6002). The whole record stands under `unmapped`.

use mintage_ledger::{Actor, Body, wire};
use serde_json::{Map, Value, json};

use super::{Encoder, certificate::Leaf, jsonl::push_line};
use crate::{
    audit::{
        describe,
        facts::{Cause, Facts, Placed, code_and_reason},
    },
    failure::Failure,
    text::rfc3339,
};

/// The version of the schema.
const VERSION: &str = "1.6.0";
/// `type_id` of what the schema has no number for.
const OTHER: u32 = 99;

/// The format.
pub(super) struct Ocsf;

impl Encoder for Ocsf {
    fn record(&mut self, placed: &Placed, out: &mut Vec<u8>) -> Result<(), Failure> {
        push_line(&event(placed)?, out)
    }
}

/// A class of events.
#[derive(Clone, Copy)]
struct Class {
    uid: u32,
    name: &'static str,
    category: (u32, &'static str),
}

const IAM: (u32, &str) = (3, "Identity & Access Management");
const APPLICATION: (u32, &str) = (6, "Application Activity");
const ENTITY: Class = Class {
    uid: 3004,
    name: "Entity Management",
    category: IAM,
};
const AUTHENTICATION: Class = Class {
    uid: 3002,
    name: "Authentication",
    category: IAM,
};
const API: Class = Class {
    uid: 6003,
    name: "API Activity",
    category: APPLICATION,
};
const LIFECYCLE: Class = Class {
    uid: 6002,
    name: "Application Lifecycle",
    category: APPLICATION,
};

/// Activities of Entity Management.
const CREATE: (u32, &str) = (1, "Create");
const UPDATE: (u32, &str) = (3, "Update");
const DELETE: (u32, &str) = (4, "Delete");
const UNENROLL: (u32, &str) = (7, "Unenroll");
const DISABLE: (u32, &str) = (9, "Disable");
const ACTIVATE: (u32, &str) = (10, "Activate");
const DEACTIVATE: (u32, &str) = (11, "Deactivate");

const INFORMATIONAL: (u32, &str) = (1, "Informational");
const LOW: (u32, &str) = (2, "Low");
const MEDIUM: (u32, &str) = (3, "Medium");
const HIGH: (u32, &str) = (4, "High");

/// What a record is in the schema's words.
struct Shape {
    class: Class,
    activity: (u32, &'static str),
    severity: (u32, &'static str),
    /// What is managed: type, name, id.
    entity: (&'static str, String, String),
}

/// Class, activity, severity, and what is managed.
type Parts = (
    Class,
    (u32, &'static str),
    (u32, &'static str),
    (&'static str, String, String),
);

fn managed(
    activity: (u32, &'static str),
    severity: (u32, &'static str),
    kind: &'static str,
    name: &str,
    uid: impl ToString,
) -> Parts {
    (ENTITY, activity, severity, (kind, name.to_owned(), uid.to_string()))
}

impl Shape {
    fn of(placed: &Placed, facts: &Facts) -> Self {
        let (class, activity, severity, entity) = parts(&placed.record.body, facts);
        Self {
            class,
            activity,
            severity,
            entity,
        }
    }
}

fn parts(body: &Body, facts: &Facts) -> Parts {
    let (id, agent) = (|octets: &[u8]| hex::encode(octets), facts.agent.as_str());
    match body {
        Body::Issue(_) => managed(CREATE, INFORMATIONAL, "X.509-SVID", &facts.spiffe_id, facts.serial()),
        Body::IssueJwt(issue) => managed(CREATE, INFORMATIONAL, "JWT-SVID", &facts.spiffe_id, &issue.jti),
        Body::Deny(_) => managed(CREATE, LOW, "X.509-SVID", &facts.spiffe_id, &facts.entry),
        Body::Revoke(revoke) => {
            let serial = revoke.serials.first().map(|one| id(&one.serial)).unwrap_or_default();
            managed(DISABLE, MEDIUM, "X.509-SVID", &revoke.scope, serial)
        }
        Body::EntryPut(put) => {
            let activity = if put.replaces_revision == 0 { CREATE } else { UPDATE };
            managed(activity, INFORMATIONAL, "registration entry", &put.name, &put.spiffe_id)
        }
        Body::EntryDelete(gone) => managed(DELETE, INFORMATIONAL, "registration entry", &gone.name, ""),
        Body::TokenCreate(new) => managed(CREATE, INFORMATIONAL, "join token", &new.agent, id(&new.token_hash)),
        Body::TokenDelete(gone) => managed(DELETE, INFORMATIONAL, "join token", &gone.agent, id(&gone.token_hash)),
        Body::AgentBan(_) => managed(DISABLE, MEDIUM, "agent", agent, facts.instance),
        Body::AgentEvict(_) => managed(UNENROLL, INFORMATIONAL, "agent", agent, facts.instance),
        Body::CaEvent(event) => {
            let (activity, severity) = key_event(event.event());
            managed(activity, severity, "CA key", &role_of(event), id(&event.key_id))
        }
        Body::TokenConsume(_) | Body::AgentAttest(_) => {
            let entity = ("agent", agent.to_owned(), facts.spiffe_id.clone());
            (AUTHENTICATION, (1, "Logon"), INFORMATIONAL, entity)
        }
        other => log_parts(other),
    }
}

fn log_parts(body: &Body) -> Parts {
    let log = || ("log", String::new(), String::new());
    match body {
        Body::BundleChange(bundle) => managed(UPDATE, MEDIUM, "trust bundle", "trust bundle", bundle.sequence),
        Body::BundleFederatedSet(set) => {
            let activity = if set.replaces_revision == 0 { CREATE } else { UPDATE };
            managed(activity, MEDIUM, "federated bundle", &set.trust_domain, set.sequence)
        }
        Body::BundleFederatedRemove(gone) => managed(DELETE, MEDIUM, "federated bundle", &gone.trust_domain, ""),
        Body::AdminEvent(event) => {
            let call = ("call", event.action.clone(), String::new());
            (API, (OTHER, "Other"), INFORMATIONAL, call)
        }
        Body::SeenReport(report) => {
            let unknown = report.certificates.iter().any(|seen| !seen.known);
            let severity = if unknown { HIGH } else { INFORMATIONAL };
            managed((2, "Read"), severity, "X.509-SVID", "certificates in use", "")
        }
        Body::RevocationSnapshot(snapshot) => {
            let uid = hex::encode(&snapshot.snapshot_sha256);
            managed(UPDATE, INFORMATIONAL, "revocation snapshot", "revocation snapshot", uid)
        }
        Body::WitnessEvent(event) => {
            let severity = if event.event == "conflict" { HIGH } else { INFORMATIONAL };
            managed(UPDATE, severity, "witness", &event.witness, "")
        }
        Body::LogOpen(_) => (LIFECYCLE, (3, "Start"), INFORMATIONAL, log()),
        Body::LogClose(_) => (LIFECYCLE, (4, "Stop"), INFORMATIONAL, log()),
        _ => managed((0, "Unknown"), INFORMATIONAL, "record", "record", ""),
    }
}

fn key_event(event: wire::CaEventKind) -> ((u32, &'static str), (u32, &'static str)) {
    match event {
        wire::CaEventKind::Prepare => (CREATE, LOW),
        wire::CaEventKind::Activate => (ACTIVATE, LOW),
        wire::CaEventKind::Retire => (DEACTIVATE, LOW),
        wire::CaEventKind::Taint | wire::CaEventKind::Revoke => (DISABLE, HIGH),
        wire::CaEventKind::Unspecified => ((0, "Unknown"), LOW),
    }
}

fn role_of(event: &wire::CaEvent) -> String {
    event
        .role()
        .as_str_name()
        .trim_start_matches("CA_ROLE_")
        .to_ascii_lowercase()
}

/// The event of a record.
pub(super) fn event(placed: &Placed) -> Result<Value, Failure> {
    let facts = placed.facts();
    let shape = Shape::of(placed, &facts);
    let mut event = base(placed, &shape)?;
    let entity = |data: Value| {
        let (kind, name, uid) = &shape.entity;
        let mut entity = Map::new();
        // One of both must be there; a caller who was refused something without a name has neither.
        let name = if name.is_empty() && uid.is_empty() {
            *kind
        } else {
            name.as_str()
        };
        put(&mut entity, "name", name);
        put(&mut entity, "uid", uid);
        entity.insert("type".into(), json!(kind));
        entity.insert("type_id".into(), json!(OTHER));
        if !data.is_null() {
            entity.insert("data".into(), data);
        }
        Value::Object(entity)
    };
    match shape.class.uid {
        3004 => {
            let leaf = Leaf::of(&placed.record.body)?;
            let data = leaf
                .as_ref()
                .map_or(Value::Null, |leaf| json!({"certificate": certificate(leaf)}));
            event.insert("entity".into(), entity(data));
            event.insert("actor".into(), actor(&placed.record.actor));
            put(&mut event, "comment", &code_and_reason(&placed.record.body).1);
        }
        3002 => {
            event.insert("user".into(), agent(&facts.agent, &facts.spiffe_id));
            event.insert("service".into(), json!({"name": "mintage-ca"}));
            event.insert("actor".into(), actor(&placed.record.actor));
            event.insert("auth_protocol_id".into(), json!(OTHER));
            let kind = placed
                .record
                .attestation
                .as_ref()
                .map_or("unknown", |proven| proven.kind.as_str());
            event.insert("auth_protocol".into(), json!(kind));
            event.insert("is_remote".into(), json!(true));
            event.insert("logon_type_id".into(), json!(3));
        }
        6003 => {
            event.insert("api".into(), json!({"operation": shape.entity.1}));
            event.insert("actor".into(), actor(&placed.record.actor));
            event.insert("src_endpoint".into(), json!({"name": address(&placed.record.actor)}));
        }
        _ => {
            event.insert("app".into(), product());
        }
    }
    Ok(Value::Object(event))
}

fn put(map: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        map.insert(name.to_owned(), json!(text));
    }
}

fn product() -> Value {
    json!({"name": "Mintage", "vendor_name": "Mintage", "version": env!("CARGO_PKG_VERSION")})
}

/// What every event has.
fn base(placed: &Placed, shape: &Shape) -> Result<Map<String, Value>, Failure> {
    let record = &placed.record;
    let (class, (activity, activity_name)) = (shape.class, shape.activity);
    let denied = matches!(record.body, Body::Deny(_));
    let mut metadata = Map::new();
    metadata.insert("version".into(), json!(VERSION));
    metadata.insert("product".into(), product());
    metadata.insert("log_name".into(), json!("ledger"));
    metadata.insert("log_provider".into(), json!(record.replica));
    metadata.insert("uid".into(), json!(hex::encode(placed.leaf_hash.as_bytes())));
    metadata.insert("event_code".into(), json!(placed.kind().name()));
    if let Ok(sequence) = i32::try_from(placed.index) {
        metadata.insert("sequence".into(), json!(sequence));
    }
    put(
        &mut metadata,
        "original_time",
        &rfc3339(record.time.millis()).unwrap_or_default(),
    );
    let request = record.request_id.map(|id| id.to_string()).unwrap_or_default();
    put(&mut metadata, "correlation_uid", &request);

    let mut event = Map::new();
    let name = |event: &mut Map<String, Value>, field: &str, (number, name): (u32, &str)| {
        event.insert(format!("{field}_id"), json!(number));
        event.insert(field.to_owned(), json!(name));
    };
    event.insert("metadata".into(), Value::Object(metadata));
    event.insert("category_uid".into(), json!(class.category.0));
    event.insert("category_name".into(), json!(class.category.1));
    event.insert("class_uid".into(), json!(class.uid));
    event.insert("class_name".into(), json!(class.name));
    event.insert("activity_id".into(), json!(activity));
    event.insert("activity_name".into(), json!(activity_name));
    event.insert("type_uid".into(), json!(class.uid * 100 + activity));
    event.insert("type_name".into(), json!(format!("{}: {activity_name}", class.name)));
    event.insert("time".into(), json!(record.time.millis()));
    name(&mut event, "severity", shape.severity);
    name(
        &mut event,
        "status",
        if denied { (2, "Failure") } else { (1, "Success") },
    );
    if let Body::Deny(deny) = &record.body {
        put(&mut event, "status_code", &deny.code);
        put(&mut event, "status_detail", &deny.why);
    }
    event.insert(
        "message".into(),
        json!(format!("{}: {}", placed.kind(), mintage_ca::line::what(record))),
    );
    let whole = json!({
        "index": placed.index,
        "cause": serde_json::to_value(describe::cause(record)).map_err(Failure::local)?,
        "body": serde_json::to_value(describe::body(&record.body)).map_err(Failure::local)?,
    });
    event.insert("unmapped".into(), whole);
    Ok(event)
}

fn agent(name: &str, id: &str) -> Value {
    json!({"name": name, "uid": id, "type": "agent", "type_id": OTHER})
}

fn actor(actor: &Actor) -> Value {
    let cause = Cause::of(actor);
    match actor {
        Actor::Agent { .. } => json!({"user": agent(&cause.name, &cause.id)}),
        Actor::Admin { uid, pid, .. } => {
            let name = if cause.name.is_empty() {
                format!("uid {uid}")
            } else {
                cause.name
            };
            json!({"user": {"name": name, "uid": cause.id, "type": "Admin", "type_id": 2}, "process": {"pid": pid}})
        }
        Actor::Replica { .. } => json!({"app_name": "mintage-ca", "app_uid": cause.id}),
        _ => json!({"user": {"name": cause.what, "uid": cause.id, "type": cause.what, "type_id": OTHER}}),
    }
}

fn address(actor: &Actor) -> &str {
    match actor {
        Actor::Admin { address, .. } if !address.is_empty() => address,
        _ => "localhost",
    }
}

/// The schema's object of a certificate.
fn certificate(leaf: &Leaf) -> Value {
    let mut names = vec![json!({"name": leaf.info.id().as_str(), "type": "URI"})];
    names.extend(
        leaf.info
            .dns_names()
            .iter()
            .map(|name| json!({"name": name, "type": "DNS"})),
    );
    let mut certificate = Map::new();
    certificate.insert("serial_number".into(), json!(leaf.info.serial().to_string()));
    certificate.insert("issuer".into(), json!(leaf.issuer));
    put(&mut certificate, "subject", &leaf.subject);
    certificate.insert("version".into(), json!("3"));
    certificate.insert("is_self_signed".into(), json!(false));
    certificate.insert("created_time".into(), json!(leaf.info.not_before().millis()));
    certificate.insert("expiration_time".into(), json!(leaf.info.not_after().millis()));
    let print = json!({"algorithm": "SHA-256", "algorithm_id": 3, "value": leaf.sha256});
    certificate.insert("fingerprints".into(), json!([print]));
    certificate.insert("sans".into(), json!(names));
    Value::Object(certificate)
}
