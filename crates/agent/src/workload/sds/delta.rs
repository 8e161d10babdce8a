//! A stream whose responses say what changed (xDS, incremental), as a pure state machine.

use std::collections::{BTreeMap, BTreeSet};

use mintage_proto::sds::DeltaDiscoveryRequest;

use super::{
    offer::digest,
    state::{Catalogue, EVERYTHING, Heard, Nonces, Owed, Reply},
};
use crate::limits::SDS_VERSION_BYTES_MAX;

/// What one stream is subscribed to, and what its client was told.
#[derive(Debug, Default)]
pub(super) struct Delta {
    begun: bool,
    everything: bool,
    names: BTreeSet<String>,
    /// By name the version that the client has, or none where it was told that there is nothing.
    told: BTreeMap<String, Option<String>>,
    nonces: Nonces,
}

impl Delta {
    /// Takes a request; its names were checked.
    pub(super) fn hear(&mut self, request: &DeltaDiscoveryRequest) -> Heard {
        if !self.begun {
            self.begun = true;
            self.everything = request.resource_names_subscribe.is_empty();
            let held = request.initial_resource_versions.iter();
            let ours = |version: &String| match version.len() <= SDS_VERSION_BYTES_MAX {
                true => version.clone(),
                false => String::new(),
            };
            self.told
                .extend(held.map(|(name, version)| (name.clone(), Some(ours(version)))));
            self.subscribe(&request.resource_names_subscribe);
        } else {
            // Who subscribes again may have dropped what it had: it gets it again, changed or not.
            for name in &request.resource_names_subscribe {
                self.told.remove(name);
            }
            self.subscribe(&request.resource_names_subscribe);
        }
        self.unsubscribe(&request.resource_names_unsubscribe);
        let answers = !request.response_nonce.is_empty();
        match (
            &request.error_detail,
            answers && self.nonces.is_ours(&request.response_nonce),
        ) {
            (_, false) if answers => Heard::Stale,
            (Some(problem), true) => Heard::Refused(problem.message.clone()),
            _ => Heard::Taken,
        }
    }

    fn subscribe(&mut self, names: &[String]) {
        for name in names {
            match name.as_str() {
                EVERYTHING => self.everything = true,
                _ => drop(self.names.insert(name.clone())),
            }
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == EVERYTHING {
                self.everything = false;
            }
            self.names.remove(name);
        }
        if !self.everything {
            self.told.retain(|name, _| self.names.contains(name));
        }
    }

    /// The names that would be asked for after this request, before it takes some back.
    pub(super) fn names_after<'a>(&'a self, request: &'a DeltaDiscoveryRequest) -> impl Iterator<Item = &'a String> {
        let new = request.resource_names_subscribe.iter();
        self.names.iter().chain(new.filter(|name| !self.names.contains(*name)))
    }

    /// What is asked for by name.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether everything is asked for.
    pub(super) fn everything(&self) -> bool {
        self.everything
    }

    /// What the client is owed. A response that was refused is not sent again: only another content is.
    pub(super) fn owed(&mut self, catalogue: &impl Catalogue) -> Owed {
        let all = match self.everything {
            true => catalogue.everything(),
            false => Vec::new(),
        };
        let wanted: BTreeSet<String> = self.names.iter().cloned().chain(all).collect();
        let (mut send, mut removed) = (Vec::new(), Vec::new());
        let mut versions = BTreeMap::new();
        for name in &wanted {
            let now = catalogue.version(name);
            if self.told.get(name) != Some(&now) {
                match now.is_some() {
                    true => send.push(name.clone()),
                    false => removed.push(name.clone()),
                }
                self.told.insert(name.clone(), now.clone());
            }
            versions.insert(name.clone(), now.unwrap_or_default());
        }
        // What came with everything, in this stream or an earlier one, and is no more.
        let gone: Vec<String> = self
            .told
            .keys()
            .filter(|name| !wanted.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(Some(_)) = self.told.remove(&name) {
                removed.push(name);
            }
        }
        match send.is_empty() && removed.is_empty() {
            true => Owed::Nothing,
            false => Owed::Reply(Reply {
                nonce: self.nonces.next(),
                version: digest(
                    versions
                        .iter()
                        .flat_map(|(name, version)| [name.as_bytes(), version.as_bytes()]),
                ),
                send,
                removed,
            }),
        }
    }

    /// Takes back all that the client has; none when it has nothing.
    pub(super) fn withdraw(&mut self) -> Option<Reply> {
        let told = std::mem::take(&mut self.told);
        let removed: Vec<String> = told
            .into_iter()
            .filter_map(|(name, version)| version.map(|_| name))
            .collect();
        (!removed.is_empty()).then(|| Reply {
            nonce: self.nonces.next(),
            version: digest([]),
            send: Vec::new(),
            removed,
        })
    }
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
