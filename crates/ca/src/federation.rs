//! Bundles of other trust domains: an operator hands in the other side's document, which is read as strictly as our own, recorded,
//! and given to the agents. What an entry does not name, its workloads do not get.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mintage_identity::TrustDomain;
use mintage_ledger::Body;
use mintage_policy::Entry;
use mintage_proto::{
    limits::FEDERATED_DOCUMENT_BYTES_MAX,
    v1::{
        self, Federated, FederatedBundle, JwtKey, ListFederatedResponse, RemoveFederatedRequest,
        RemoveFederatedResponse, SetFederatedRequest, SetFederatedResponse,
    },
};
use mintage_state::{
    FederatedContent, FederatedRecord, View,
    command::{remove_federated, set_federated},
};
use mintage_svid::TrustBundle;
use mintage_verifier::{RevocationCheck, Trust};

use crate::{
    control::{Origin, command},
    desk::Desk,
    limits::{APPLY_WARNINGS_MAX, FEDERATED_MISSING_MAX},
    status::Refusal,
};

/// All that stand, as agents get them.
pub(crate) fn federated_message(view: &View) -> Federated {
    Federated {
        bundles: view.federated().map(wire).collect(),
    }
}

fn wire(record: &FederatedRecord) -> FederatedBundle {
    of_content(&record.domain, &record.content, record.revision)
}

fn of_content(domain: &TrustDomain, content: &FederatedContent, revision: u64) -> FederatedBundle {
    let jwt_keys = content.jwt_keys.iter().map(|(kid, spki)| JwtKey {
        kid: kid.clone(),
        spki: spki.clone(),
    });
    let bundle = v1::TrustBundle {
        trust_domain: domain.to_string(),
        sequence: content.sequence,
        roots: content.roots_der.clone(),
        refresh_hint_seconds: content.refresh_hint_seconds,
        jwt_keys: jwt_keys.collect(),
        ..v1::TrustBundle::default()
    };
    FederatedBundle {
        bundle: Some(bundle),
        revocation_unchecked: content.revocation_unchecked,
        revision,
    }
}

fn domain_of(text: &str) -> Result<TrustDomain, Refusal> {
    TrustDomain::parse(text).map_err(|error| Refusal::invalid(format!("trust_domain: {error}")))
}

/// Reads the other side's document: a JWK Set where it begins with a brace, certificates in PEM elsewhere.
fn read(domain: &TrustDomain, document: &str, revocation_unchecked: bool) -> Result<FederatedContent, Refusal> {
    if document.len() > FEDERATED_DOCUMENT_BYTES_MAX {
        return Err(Refusal::invalid(format!(
            "document: has {} bytes, the limit is {FEDERATED_DOCUMENT_BYTES_MAX}; have the other side take out roots and keys \
             that are out of use",
            document.len()
        )));
    }
    let bundle = match document.trim_start().starts_with('{') {
        true => TrustBundle::from_jwks_json(domain.clone(), document),
        false => TrustBundle::from_pem(domain.clone(), document),
    };
    let bundle = bundle.map_err(|error| {
        Refusal::invalid(format!(
            "document: {error}; give the SPIFFE bundle document of {domain}, or its root certificates in PEM"
        ))
    })?;
    // What verifiers cannot use is told to whoever hands it in, and not to the agents.
    Trust::builder(domain.clone())
        .bundle(&bundle, RevocationCheck::None)
        .map_err(|error| Refusal::invalid(format!("document: {error}; verifiers could not use it")))?;
    let jwt_keys = bundle.jwt_keys().iter();
    Ok(FederatedContent {
        sequence: bundle.sequence(),
        refresh_hint_seconds: bundle.refresh_hint_seconds().unwrap_or(0),
        roots_der: bundle.roots().to_vec(),
        jwt_keys: jwt_keys
            .map(|key| (key.kid().to_owned(), key.spki_der().to_vec()))
            .collect(),
        revocation_unchecked,
    })
}

/// Takes a bundle of another trust domain.
pub(crate) async fn set(
    desk: &Arc<Desk>,
    origin: &Origin,
    request: SetFederatedRequest,
) -> Result<SetFederatedResponse, Refusal> {
    let domain = domain_of(&request.trust_domain)?;
    let content = read(&domain, &request.document, request.revocation_unchecked)?;
    let draft = |view: &View| {
        let body = set_federated(view, &domain, &content)?;
        let changed = body.is_some();
        Ok((body.into_iter().collect::<Vec<Body>>(), changed))
    };
    let (changed, index) = match request.dry_run {
        true => (draft(&desk.state.view())?.1, None),
        false => command(desk, origin, draft).await?,
    };
    let view = desk.state.view();
    let bundle = match (index, view.federated_with(&domain)) {
        (None, standing) if changed => of_content(&domain, &content, standing.map_or(0, |standing| standing.revision)),
        (_, Some(standing)) => wire(standing),
        (index, None) => of_content(&domain, &content, index.unwrap_or(0)),
    };
    Ok(SetFederatedResponse {
        bundle: Some(bundle),
        changed,
        index: index.unwrap_or(0),
        entries: entries_with(&view, &domain),
    })
}

/// Trusts another trust domain no longer.
pub(crate) async fn remove(
    desk: &Arc<Desk>,
    origin: &Origin,
    request: RemoveFederatedRequest,
) -> Result<RemoveFederatedResponse, Refusal> {
    let domain = domain_of(&request.trust_domain)?;
    let draft = |view: &View| {
        let body = remove_federated(view, &domain)?;
        let stood = view.federated_with(&domain).map(wire);
        Ok((vec![body], (stood, entries_with(view, &domain))))
    };
    let ((bundle, entries), index) = match request.dry_run {
        true => (draft(&desk.state.view())?.1, None),
        false => command(desk, origin, draft).await?,
    };
    Ok(RemoveFederatedResponse {
        bundle,
        index: index.unwrap_or(0),
        entries,
    })
}

/// Everything that stands, and what entries wait for.
pub(crate) fn list(view: &View) -> ListFederatedResponse {
    let wanted = view.entries().flat_map(|standing| standing.entry.federates_with());
    let missing: BTreeSet<&TrustDomain> = wanted.filter(|domain| view.federated_with(domain).is_none()).collect();
    ListFederatedResponse {
        bundles: view.federated().map(wire).collect(),
        missing: missing
            .into_iter()
            .take(FEDERATED_MISSING_MAX)
            .map(ToString::to_string)
            .collect(),
    }
}

fn entries_with(view: &View, domain: &TrustDomain) -> u64 {
    let with = view
        .entries()
        .filter(|standing| standing.entry.federates_with().contains(domain));
    with.count() as u64
}

/// What of these entries does not work yet: trust domains whose bundles are not here. Each is told once.
pub(crate) fn warnings(view: &View, entries: &[Entry]) -> Vec<String> {
    let mut missing: BTreeMap<&TrustDomain, (&Entry, usize)> = BTreeMap::new();
    for entry in entries {
        for domain in entry.federates_with() {
            if view.federated_with(domain).is_none() {
                missing.entry(domain).or_insert((entry, 0)).1 += 1;
            }
        }
    }
    let told = missing.into_iter().take(APPLY_WARNINGS_MAX).map(|(domain, (first, count))| {
        let who = match count {
            1 => format!("entry {} federates", first.name()),
            _ => format!("entry {} and {} more federate", first.name(), count - 1),
        };
        format!(
            "{who} with {domain}, whose bundle is not here: it is delivered once there is one (mintage bundle federate \
             --trust-domain {domain} FILE)"
        )
    });
    told.collect()
}
