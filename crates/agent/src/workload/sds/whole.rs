//! A stream whose every response is the whole of what is asked for (xDS, state of the world), as a pure state machine.

use std::collections::{BTreeMap, BTreeSet};

use mintage_proto::sds::DiscoveryRequest;

use super::{
    offer::digest,
    state::{Catalogue, EVERYTHING, Heard, Nonces, Owed, Reply},
};
use crate::limits::SDS_VERSION_BYTES_MAX;

/// What one stream asked for, and what it was sent.
#[derive(Debug, Default)]
pub(super) struct Whole {
    asked: Option<Asked>,
    /// Some request named something.
    named: bool,
    /// The version that the client brought from an earlier stream.
    brought: String,
    /// What the client has, by name and version; none before it was sent anything.
    has: Option<BTreeMap<String, String>>,
    nonces: Nonces,
}

#[derive(Debug, Default)]
struct Asked {
    everything: bool,
    names: BTreeSet<String>,
}

impl Whole {
    /// Takes a request; its names were checked.
    pub(super) fn hear(&mut self, request: &DiscoveryRequest) -> Heard {
        if self.nonces.none_yet() {
            let brought = Some(&request.version_info).filter(|version| version.len() <= SDS_VERSION_BYTES_MAX);
            self.brought = brought.cloned().unwrap_or_default();
        } else if !self.nonces.is_last(&request.response_nonce) {
            return Heard::Stale;
        }
        // Who has named something and now names nothing wants nothing; who never did wants everything.
        self.named |= !request.resource_names.is_empty();
        let everything = !self.named || request.resource_names.iter().any(|name| name == EVERYTHING);
        let names = request.resource_names.iter().filter(|name| *name != EVERYTHING);
        self.asked = Some(Asked {
            everything,
            names: names.cloned().collect(),
        });
        match &request.error_detail {
            Some(problem) if !self.nonces.none_yet() => Heard::Refused(problem.message.clone()),
            _ => Heard::Taken,
        }
    }

    /// What is asked for by name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.asked
            .iter()
            .flat_map(|asked| asked.names.iter().map(String::as_str))
    }

    /// Whether everything is asked for.
    pub(super) fn everything(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.everything)
    }

    /// What the client is owed. A response that was refused is not sent again: only another content is.
    pub(super) fn owed(&mut self, catalogue: &impl Catalogue) -> Owed {
        let Some(asked) = &self.asked else {
            return Owed::Nothing;
        };
        let all = match asked.everything {
            true => catalogue.everything(),
            false => Vec::new(),
        };
        let wanted: BTreeSet<&String> = asked.names.iter().chain(&all).collect();
        if wanted.is_empty() {
            self.has = self.has.take().map(|_| BTreeMap::new());
            return Owed::Nothing;
        }
        let there: BTreeMap<String, String> = wanted
            .iter()
            .filter_map(|name| Some(((*name).clone(), catalogue.version(name)?)))
            .collect();
        if there.is_empty() {
            return Owed::Unknown(wanted.into_iter().cloned().collect());
        }
        let version = version_of(&there);
        let changed = match &self.has {
            None => version != self.brought,
            Some(has) => {
                let new = there.iter().any(|(name, version)| has.get(name) != Some(version));
                new || has
                    .keys()
                    .any(|name| wanted.contains(name) && !there.contains_key(name))
            }
        };
        let send = there.keys().cloned().collect();
        self.has = Some(there);
        match changed {
            false => Owed::Nothing,
            true => Owed::Reply(Reply {
                nonce: self.nonces.next(),
                version,
                send,
                removed: Vec::new(),
            }),
        }
    }
}

/// One version for all of these.
fn version_of(there: &BTreeMap<String, String>) -> String {
    digest(
        there
            .iter()
            .flat_map(|(name, version)| [name.as_bytes(), version.as_bytes()]),
    )
}

#[cfg(test)]
#[path = "whole_tests.rs"]
mod tests;
