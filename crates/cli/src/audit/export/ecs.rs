//! Events of the Elastic Common Schema, version 8.17.0.
//!
//! `user` is who caused the record, `user.target` the identity it is about; a certificate stands under `file.x509`, for the
//! schema has no place for one by itself. What the schema has no field for stands under `mintage`.

use mintage_ledger::Body;
use serde_json::{Map, Value, json};

use super::{Encoder, certificate::Leaf, jsonl::push_line};
use crate::{
    audit::{
        describe,
        facts::{Cause, Placed, code_and_reason},
    },
    failure::Failure,
    text::rfc3339,
};

/// The version of the schema.
const VERSION: &str = "8.17.0";

/// The format.
pub(super) struct Ecs;

impl Encoder for Ecs {
    fn record(&mut self, placed: &Placed, out: &mut Vec<u8>) -> Result<(), Failure> {
        push_line(&event(placed)?, out)
    }
}

/// Category and type of a record.
fn kind_of(body: &Body) -> (&'static str, &'static str) {
    match body {
        Body::Issue(_) | Body::IssueJwt(_) | Body::Deny(_) | Body::TokenCreate(_) => ("iam", "creation"),
        Body::Revoke(_) | Body::TokenDelete(_) | Body::AgentEvict(_) => ("iam", "deletion"),
        Body::AgentBan(_) => ("iam", "change"),
        Body::TokenConsume(_) | Body::AgentAttest(_) => ("authentication", "start"),
        Body::EntryPut(put) if put.replaces_revision == 0 => ("configuration", "creation"),
        Body::BundleFederatedSet(set) if set.replaces_revision == 0 => ("configuration", "creation"),
        Body::EntryPut(_)
        | Body::CaEvent(_)
        | Body::BundleChange(_)
        | Body::BundleFederatedSet(_)
        | Body::RevocationSnapshot(_) => ("configuration", "change"),
        Body::EntryDelete(_) | Body::BundleFederatedRemove(_) => ("configuration", "deletion"),
        Body::AdminEvent(_) => ("iam", "admin"),
        Body::LogOpen(_) => ("process", "start"),
        Body::LogClose(_) => ("process", "end"),
        _ => ("configuration", "info"),
    }
}

fn text(map: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        map.insert(name.to_owned(), json!(text));
    }
}

/// The event of a record.
pub(super) fn event(placed: &Placed) -> Result<Value, Failure> {
    let record = &placed.record;
    let leaf = Leaf::of(&record.body)?;
    let hash = hex::encode(placed.leaf_hash.as_bytes());
    let mut event = Map::new();
    text(
        &mut event,
        "@timestamp",
        &rfc3339(record.time.millis()).unwrap_or_else(|| "1970-01-01T00:00:00.000Z".into()),
    );
    event.insert("message".into(), json!(mintage_ca::line::what(record)));
    event.insert("ecs".into(), json!({"version": VERSION}));
    event.insert("event".into(), what(placed, &hash));
    event.insert(
        "observer".into(),
        json!({
            "vendor": "Mintage", "product": "Mintage", "type": "ca", "name": record.replica,
            "version": env!("CARGO_PKG_VERSION"),
        }),
    );
    let cause = Cause::of(&record.actor);
    let facts = placed.facts();
    let mut user = Map::new();
    text(&mut user, "id", &cause.id);
    text(&mut user, "name", &cause.name);
    if !facts.spiffe_id.is_empty() {
        user.insert("target".into(), json!({"id": facts.spiffe_id}));
    }
    event.insert("user".into(), Value::Object(user));
    let users = [&cause.id, &cause.name, &facts.agent, &facts.spiffe_id];
    let mut hashes = vec![hash];
    if let Some(leaf) = &leaf {
        hashes.push(leaf.sha256.clone());
        event.insert("file".into(), file(leaf));
    }
    event.insert("related".into(), json!({"user": distinct(&users), "hash": hashes}));
    if let mintage_ledger::Actor::Admin { pid, .. } = &record.actor {
        event.insert("process".into(), json!({"pid": pid}));
    }
    let rule = match &record.body {
        Body::Issue(issue) => issue.rule.as_str(),
        Body::IssueJwt(issue) => issue.rule.as_str(),
        _ => "",
    };
    if !rule.is_empty() {
        event.insert("rule".into(), json!({"name": rule}));
    }
    let own = json!({
        "index": placed.index,
        "agent": facts.agent,
        "entry": facts.entry,
        "cause": serde_json::to_value(describe::cause(record)).map_err(Failure::local)?,
        "body": serde_json::to_value(describe::body(&record.body)).map_err(Failure::local)?,
    });
    event.insert("mintage".into(), own);
    Ok(Value::Object(event))
}

/// The names that are there, each once.
fn distinct(names: &[&String]) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for name in names {
        if !name.is_empty() && !distinct.contains(name) {
            distinct.push((*name).clone());
        }
    }
    distinct
}

fn what(placed: &Placed, hash: &str) -> Value {
    let body = &placed.record.body;
    let (category, kind) = kind_of(body);
    let outcome = if matches!(body, Body::Deny(_)) {
        "failure"
    } else {
        "success"
    };
    let (code, reason) = code_and_reason(body);
    let mut what = Map::new();
    what.insert("kind".into(), json!("event"));
    what.insert("category".into(), json!([category]));
    what.insert("type".into(), json!([kind]));
    what.insert("action".into(), json!(placed.kind().name()));
    what.insert("outcome".into(), json!(outcome));
    what.insert("module".into(), json!("mintage"));
    what.insert("dataset".into(), json!("mintage.ledger"));
    what.insert("provider".into(), json!("mintage-ca"));
    what.insert("sequence".into(), json!(placed.index));
    what.insert("id".into(), json!(hash));
    text(&mut what, "code", &code);
    text(&mut what, "reason", &reason);
    Value::Object(what)
}

fn file(leaf: &Leaf) -> Value {
    let mut names = vec![leaf.info.id().to_string()];
    names.extend(leaf.info.dns_names().iter().cloned());
    let mut x509 = Map::new();
    // The schema wants capitals and no colons.
    x509.insert(
        "serial_number".into(),
        json!(leaf.info.serial().to_string().to_ascii_uppercase()),
    );
    x509.insert("not_before".into(), json!(rfc3339(leaf.info.not_before().millis())));
    x509.insert("not_after".into(), json!(rfc3339(leaf.info.not_after().millis())));
    x509.insert("alternative_names".into(), json!(names));
    x509.insert("issuer".into(), json!({"distinguished_name": leaf.issuer}));
    x509.insert("version_number".into(), json!("3"));
    if let Some(name) = leaf.info.common_name() {
        x509.insert("subject".into(), json!({"common_name": [name]}));
    }
    json!({"x509": x509, "hash": {"sha256": leaf.sha256}})
}
