//! Everything that is revoked now, in clear and in parts, from one view: what an operator compares with another system.

use std::sync::Arc;

use mintage_proto::v1::{RevokedCertificate, RevokedPart, RevokedRule};
use mintage_state::View;
use tokio::sync::mpsc::{Receiver, channel};
use tonic::Status;

use crate::limits::{EXPORT_PART_SERIALS, EXPORT_PARTS_QUEUE};

/// The parts, made on a thread of their own as fast as they are taken. A reader that goes away ends it.
pub(crate) fn parts(view: Arc<View>) -> Receiver<Result<RevokedPart, Status>> {
    let (queue, parts) = channel(EXPORT_PARTS_QUEUE);
    tokio::task::spawn_blocking(move || {
        for part in of(&view) {
            if queue.blocking_send(Ok(part)).is_err() {
                return;
            }
        }
    });
    parts
}

fn of(view: &View) -> impl Iterator<Item = RevokedPart> {
    let set = view.revoked();
    let empty = RevokedPart {
        sequence: set.sequence(),
        ..RevokedPart::default()
    };
    let mut serials = set.known_issuers().flat_map(|issuer| {
        set.serials_of(issuer).map(move |(serial, entry)| RevokedCertificate {
            issuer: issuer.to_string(),
            serial: serial.to_string(),
            reason: entry.reason.to_string(),
            time_ms: entry.at.millis(),
            index: entry.sequence,
        })
    });
    let mut rules = set.rules().map(|rule| {
        let mark = view.mark_of(&rule.target);
        RevokedRule {
            rule: rule.to_string(),
            reason: mark.map(|mark| mark.reason.to_string()).unwrap_or_default(),
            time_ms: mark.map_or(0, |mark| mark.at.millis()),
            index: mark.map_or(0, |mark| mark.index),
        }
    });
    let mut first = true;
    std::iter::from_fn(move || {
        let certificates: Vec<_> = serials.by_ref().take(EXPORT_PART_SERIALS).collect();
        let rules: Vec<_> = match certificates.len() {
            EXPORT_PART_SERIALS => Vec::new(),
            _ => rules.by_ref().take(RULES_PER_PART).collect(),
        };
        // Of an empty set there is one part too: it tells the sequence.
        let told = std::mem::take(&mut first) || !certificates.is_empty() || !rules.is_empty();
        told.then(|| RevokedPart {
            certificates,
            rules: rules.iter().map(|rule: &RevokedRule| rule.rule.clone()).collect(),
            rules_in_force: rules,
            ..empty.clone()
        })
    })
}

/// Rules in one part: each may name an ID of 2,048 bytes.
const RULES_PER_PART: usize = 200;
