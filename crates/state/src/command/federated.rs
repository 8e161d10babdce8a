//! Bundles of other trust domains: taken, replaced by newer ones, removed.

use mintage_identity::TrustDomain;
use mintage_ledger::{Body, wire};

use crate::command::{Refusal, within};
use crate::limits::{FEDERATED_MAX, FEDERATED_NAME_BYTES_MAX, FEDERATED_OCTETS_MAX, FEDERATED_OCTETS_SUM_MAX};
use crate::model::FederatedContent;
use crate::stored::federated_to_set;
use crate::view::View;

/// Drafts that `content`, whose certificates and keys the caller has checked, is the bundle of `domain`; `None` when the same
/// stands already.
///
/// # Errors
/// The own trust domain, a bundle that vouches for nothing, one that is older than what stands or differs from it under the same
/// sequence, and what is over a limit.
pub fn set_federated(view: &View, domain: &TrustDomain, content: &FederatedContent) -> Result<Option<Body>, Refusal> {
    if domain == view.domain() {
        return Err(Refusal::OwnDomain(domain.clone()));
    }
    let name = domain.as_str();
    if name.len() > FEDERATED_NAME_BYTES_MAX || !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Err(Refusal::NoFileName(domain.clone()));
    }
    if content.roots_der.is_empty() && content.jwt_keys.is_empty() {
        return Err(Refusal::EmptyBundle(domain.clone()));
    }
    let standing = view.federated_with(domain);
    if standing.is_some_and(|standing| standing.content == *content) {
        return Ok(None);
    }
    if let Some(standing) = standing {
        follows(domain, &standing.content, content)?;
    }
    fits(view, domain, content)?;
    let replaces = standing.map_or(0, |standing| standing.revision);
    Ok(Some(Body::BundleFederatedSet(federated_to_set(
        domain, content, replaces,
    ))))
}

/// A document without a sequence, such as PEM, says nothing about its age.
fn follows(domain: &TrustDomain, held: &FederatedContent, offered: &FederatedContent) -> Result<(), Refusal> {
    if held.sequence == 0 || offered.sequence == 0 || offered.sequence > held.sequence {
        return Ok(());
    }
    if offered.sequence < held.sequence {
        return Err(Refusal::FederatedOlder {
            domain: domain.clone(),
            offered: offered.sequence,
            held: held.sequence,
        });
    }
    match (&held.roots_der, &held.jwt_keys) == (&offered.roots_der, &offered.jwt_keys) {
        // What the operator says about it may change.
        true => Ok(()),
        false => Err(Refusal::FederatedDiffers {
            domain: domain.clone(),
            sequence: held.sequence,
        }),
    }
}

fn fits(view: &View, domain: &TrustDomain, content: &FederatedContent) -> Result<(), Refusal> {
    let others = || view.federated().filter(|other| other.domain != *domain);
    within(
        "federated trust domains",
        others().count() + 1,
        FEDERATED_MAX,
        "remove one with `mintage bundle federated remove`",
    )?;
    within(
        "octets of one federated bundle",
        content.octets(),
        FEDERATED_OCTETS_MAX,
        "have the other side take out roots and keys that are out of use",
    )?;
    let sum: usize = others().map(|other| other.content.octets()).sum();
    within(
        "octets of all federated bundles",
        sum + content.octets(),
        FEDERATED_OCTETS_SUM_MAX,
        "they go to each agent in one message: remove one with `mintage bundle federated remove`, or roots that are out of use",
    )
}

/// Drafts that the bundle of `domain` is not trusted any longer.
///
/// # Errors
/// There is none.
pub fn remove_federated(view: &View, domain: &TrustDomain) -> Result<Body, Refusal> {
    let standing = view
        .federated_with(domain)
        .ok_or_else(|| Refusal::NoFederated(domain.clone()))?;
    Ok(Body::BundleFederatedRemove(wire::BundleFederatedRemove {
        trust_domain: domain.to_string(),
        revision: standing.revision,
    }))
}
