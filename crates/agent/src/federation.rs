//! Bundles of other trust domains that this one federates with, as the CA vouches for them, and the file that keeps them over a
//! restart. Which of them a workload gets is said by its entry. Pure, but for what the store reads and writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use mintage_identity::{EntryName, TrustDomain};
use mintage_proto::v1;
use mintage_revocation::ViewHandle;
use mintage_svid::{JwtKey, TrustBundle};
use mintage_verifier::{RevocationCheck, Trust, TrustBuilder, TrustError};
use serde::{Deserialize, Serialize};

use crate::limits::{FEDERATED_FILE_BYTES_MAX, FEDERATED_MAX, FEDERATED_NAME_BYTES_MAX};

/// Version of the file; a newer one is not read.
const VERSION: u32 = 1;

/// The bundle of one other trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    document: TrustBundle,
    unchecked: bool,
}

impl Foreign {
    /// Reads what the CA sent, or what was stored.
    fn from_wire(wire: &v1::FederatedBundle, own: &TrustDomain) -> Result<Self, String> {
        let bundle = wire.bundle.as_ref().ok_or("a federated bundle is missing")?;
        let domain = TrustDomain::parse(&bundle.trust_domain).map_err(|error| error.to_string())?;
        if domain == *own {
            return Err(format!(
                "{domain} is the own trust domain, whose bundle comes by itself"
            ));
        }
        if !is_file_name(&domain) {
            return Err(format!("the name of trust domain {domain} cannot be that of a file"));
        }
        let keys = bundle
            .jwt_keys
            .iter()
            .map(|key| JwtKey::new(&key.kid, key.spki.clone()));
        let hint = (bundle.refresh_hint_seconds > 0).then_some(bundle.refresh_hint_seconds);
        let document = keys
            .collect::<Result<Vec<_>, _>>()
            .and_then(|keys| TrustBundle::new(domain.clone(), bundle.roots.clone(), keys, bundle.sequence, hint))
            .map_err(|error| format!("the bundle of {domain}: {error}"))?;
        // One that verifiers cannot use must not keep the others from them.
        Trust::builder(domain.clone())
            .bundle(&document, RevocationCheck::None)
            .map_err(|error| format!("the bundle of {domain}: {error}"))?;
        match document.roots().is_empty() && document.jwt_keys().is_empty() {
            true => Err(format!("the bundle of {domain} vouches for nothing")),
            false => Ok(Self {
                document,
                unchecked: wire.revocation_unchecked,
            }),
        }
    }

    /// The bundle as the SPIFFE standard has it.
    pub(crate) fn document(&self) -> &TrustBundle {
        &self.document
    }

    pub(crate) fn domain(&self) -> &TrustDomain {
        self.document.trust_domain()
    }

    pub(crate) fn roots(&self) -> &[Vec<u8>] {
        self.document.roots()
    }

    /// True when its certificates are accepted although nothing here tells which of them were revoked.
    pub(crate) fn is_unchecked(&self) -> bool {
        self.unchecked
    }
}

/// A letter or digit first, and room for an ending: what a delivery can write.
fn is_file_name(domain: &TrustDomain) -> bool {
    let name = domain.as_str();
    name.len() <= FEDERATED_NAME_BYTES_MAX && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Federation(BTreeMap<TrustDomain, Arc<Foreign>>);

impl Federation {
    /// What the CA says in the place of `self`, and what of it is not taken: of those nothing is trusted. What did not change is
    /// the same object, so that views made of it stay the same.
    pub(crate) fn after(&self, message: &v1::Federated, own: &TrustDomain) -> (Self, Vec<String>) {
        let (mut next, mut problems) = (BTreeMap::new(), Vec::new());
        for wire in &message.bundles {
            let foreign = match Foreign::from_wire(wire, own) {
                Ok(foreign) => foreign,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            let domain = foreign.domain().clone();
            if next.len() >= FEDERATED_MAX || next.contains_key(&domain) {
                problems.push(format!(
                    "the bundle of {domain} comes twice, or after {FEDERATED_MAX} others"
                ));
                continue;
            }
            let held = self.0.get(&domain).filter(|held| ***held == foreign).cloned();
            next.insert(domain, held.unwrap_or_else(|| Arc::new(foreign)));
        }
        (Self(next), problems)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Ordered by trust domain.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Foreign>> {
        self.0.values()
    }

    /// Those of these trust domains that are here, in order.
    pub(crate) fn of<'a>(&self, names: impl IntoIterator<Item = &'a TrustDomain>) -> Vec<Arc<Foreign>> {
        let names: BTreeSet<&TrustDomain> = names.into_iter().collect();
        names.into_iter().filter_map(|name| self.0.get(name).cloned()).collect()
    }

    /// Adds them to a snapshot for verifiers. The own revoked set speaks of no other trust domain's certificates, so that those
    /// are refused unless the operator said that nothing is asked.
    pub(crate) fn extend(&self, builder: TrustBuilder, view: &ViewHandle) -> Result<TrustBuilder, TrustError> {
        self.iter().try_fold(builder, |builder, foreign| {
            let check = match foreign.is_unchecked() {
                true => RevocationCheck::None,
                false => RevocationCheck::required(view.clone()),
            };
            builder.bundle(foreign.document(), check)
        })
    }
}

/// True when both hold the same bundles: the same objects.
pub(crate) fn same(one: &[Arc<Foreign>], other: &[Arc<Foreign>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other))
}

/// What delivered entries federated with when the CA was last heard.
pub(crate) type Remembered = BTreeMap<EntryName, BTreeSet<TrustDomain>>;

#[derive(Serialize, Deserialize)]
struct SavedFile {
    version: u32,
    bundles: Vec<SavedBundle>,
    /// For deliveries, which are put into their folders again before the CA is heard.
    entries: BTreeMap<String, Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct SavedBundle {
    trust_domain: String,
    sequence: u64,
    refresh_hint_seconds: u32,
    roots: Vec<String>,
    /// Key id and SubjectPublicKeyInfo.
    jwt_keys: Vec<(String, String)>,
    revocation_unchecked: bool,
}

/// The file's content. Where the entries' names do not fit, they are left out: after a restart those folders wait for the CA.
pub(crate) fn to_file(federation: &Federation, entries: &Remembered) -> Vec<u8> {
    let bundle = |foreign: &Arc<Foreign>| SavedBundle {
        trust_domain: foreign.domain().to_string(),
        sequence: foreign.document.sequence(),
        refresh_hint_seconds: foreign.document.refresh_hint_seconds().unwrap_or(0),
        roots: foreign.roots().iter().map(|der| STANDARD.encode(der)).collect(),
        jwt_keys: foreign
            .document
            .jwt_keys()
            .iter()
            .map(|key| (key.kid().to_owned(), STANDARD.encode(key.spki_der())))
            .collect(),
        revocation_unchecked: foreign.unchecked,
    };
    let named = entries
        .iter()
        .map(|(name, domains)| (name.to_string(), domains.iter().map(ToString::to_string).collect()));
    let mut file = SavedFile {
        version: VERSION,
        bundles: federation.iter().map(bundle).collect(),
        entries: named.collect(),
    };
    // Only texts and numbers: there is nothing that could fail to be written.
    let written = serde_json::to_vec_pretty(&file).unwrap_or_default();
    if written.len() <= FEDERATED_FILE_BYTES_MAX {
        return written;
    }
    file.entries.clear();
    serde_json::to_vec_pretty(&file).unwrap_or_default()
}

/// Reads the file's content.
///
/// # Errors
/// Why it is not used.
pub(crate) fn from_file(bytes: &[u8], own: &TrustDomain) -> Result<(Federation, Remembered), String> {
    let file: SavedFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!(
            "has version {}, this program knows version {VERSION}",
            file.version
        ));
    }
    let decode = |text: &String| STANDARD.decode(text).map_err(|error| error.to_string());
    let bundle = |saved: SavedBundle| -> Result<v1::FederatedBundle, String> {
        let keys = saved.jwt_keys.into_iter().map(|(kid, spki)| {
            let spki = decode(&spki)?;
            Ok(v1::JwtKey { kid, spki })
        });
        let bundle = v1::TrustBundle {
            trust_domain: saved.trust_domain,
            sequence: saved.sequence,
            roots: saved.roots.iter().map(decode).collect::<Result<_, _>>()?,
            refresh_hint_seconds: saved.refresh_hint_seconds,
            jwt_keys: keys.collect::<Result<_, String>>()?,
            ..v1::TrustBundle::default()
        };
        Ok(v1::FederatedBundle {
            bundle: Some(bundle),
            revocation_unchecked: saved.revocation_unchecked,
            revision: 0,
        })
    };
    let bundles = file.bundles.into_iter().map(bundle).collect::<Result<_, _>>()?;
    let (federation, problems) = Federation::default().after(&v1::Federated { bundles }, own);
    if let Some(problem) = problems.into_iter().next() {
        return Err(problem);
    }
    let named = file.entries.iter().map(|(name, domains)| {
        let name = EntryName::parse(name)?;
        let domains = domains.iter().map(|domain| TrustDomain::parse(domain));
        Ok((name, domains.collect::<Result<_, _>>()?))
    });
    let named = named.collect::<Result<_, mintage_identity::NameError>>();
    Ok((federation, named.map_err(|error| error.to_string())?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn root() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    pub(crate) fn wire(domain: &str, roots: &[Vec<u8>], unchecked: bool) -> v1::FederatedBundle {
        let bundle = v1::TrustBundle {
            trust_domain: domain.to_owned(),
            sequence: 3,
            roots: roots.to_vec(),
            ..v1::TrustBundle::default()
        };
        v1::FederatedBundle {
            bundle: Some(bundle),
            revocation_unchecked: unchecked,
            revision: 9,
        }
    }

    pub(crate) fn federation(bundles: &[v1::FederatedBundle]) -> Federation {
        let message = v1::Federated {
            bundles: bundles.to_vec(),
        };
        let (federation, problems) = Federation::default().after(&message, &own());
        assert_eq!(problems, [""; 0]);
        federation
    }

    fn own() -> TrustDomain {
        TrustDomain::parse("dev.test").unwrap()
    }

    fn names(federation: &Federation) -> Vec<String> {
        federation.iter().map(|foreign| foreign.domain().to_string()).collect()
    }

    #[test]
    fn a_change_keeps_what_is_the_same_and_drops_what_is_not_named() {
        let (a, b, c) = (
            wire("a.test", &[root()], false),
            wire("b.test", &[root()], true),
            root(),
        );
        let held = federation(&[a.clone(), b]);
        let message = v1::Federated {
            bundles: vec![a, wire("c.test", &[c], false)],
        };
        let (next, problems) = held.after(&message, &own());
        assert_eq!(
            (names(&next), problems),
            (vec!["a.test".to_owned(), "c.test".to_owned()], vec![])
        );
        let all = |federation: &Federation| federation.iter().cloned().collect::<Vec<_>>();
        assert!(same(&all(&held)[..1], &all(&next)[..1]), "the same object");
        assert!(!same(&all(&held), &all(&next)));
        let wanted = ["c.test", "z.test", "a.test"].map(|name| TrustDomain::parse(name).unwrap());
        assert!(same(&next.of(&wanted), &all(&next)));
    }

    #[test]
    fn hostile_bundles_are_not_taken_and_the_others_are() {
        let leaf = {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::default();
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let good = wire("good.test", &[root()], false);
        for bad in [
            wire("dev.test", &[root()], false),
            wire("Bad.test", &[root()], false),
            wire("..", &[root()], false),
            wire(&"a".repeat(201), &[root()], false),
            wire("bad.test", &[leaf], false),
            wire("bad.test", &[], false),
            wire("bad.test", &[b"junk".to_vec()], false),
            wire("good.test", &[root()], false),
            v1::FederatedBundle::default(),
        ] {
            let message = v1::Federated {
                bundles: vec![good.clone(), bad.clone()],
            };
            let (taken, problems) = Federation::default().after(&message, &own());
            assert_eq!(
                (names(&taken), problems.len()),
                (vec!["good.test".to_owned()], 1),
                "{bad:?}"
            );
        }
        let many: Vec<_> = (0..=FEDERATED_MAX)
            .map(|n| wire(&format!("d{n}"), &[root()], false))
            .collect();
        let (taken, problems) = Federation::default().after(&v1::Federated { bundles: many }, &own());
        assert_eq!((taken.len(), problems.len()), (FEDERATED_MAX, 1));
    }

    #[test]
    fn the_file_gives_back_what_was_saved_and_refuses_the_rest() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut tokens = wire("b.test", &[], true);
        tokens.bundle.as_mut().unwrap().jwt_keys = vec![v1::JwtKey {
            kid: "k".to_owned(),
            spki: rcgen::PublicKeyData::subject_public_key_info(&key),
        }];
        let held = federation(&[wire("a.test", &[root()], false), tokens]);
        let entries = Remembered::from([(
            EntryName::parse("web").unwrap(),
            BTreeSet::from([TrustDomain::parse("a.test").unwrap()]),
        )]);
        let bytes = to_file(&held, &entries);
        assert_eq!(from_file(&bytes, &own()).unwrap(), (held.clone(), entries));
        assert!(from_file(&bytes, &TrustDomain::parse("a.test").unwrap()).is_err());
        for end in (0..bytes.len() - 1).step_by(11) {
            assert!(from_file(&bytes[..end], &own()).is_err());
        }
        let newer = String::from_utf8(bytes)
            .unwrap()
            .replace("\"version\": 1", "\"version\": 2");
        assert!(from_file(newer.as_bytes(), &own()).unwrap_err().contains("version 2"));
        let long = |n: usize| EntryName::parse(&format!("{}{n}", "e".repeat(100))).unwrap();
        let domains: BTreeSet<_> = (0..64)
            .map(|n| TrustDomain::parse(&format!("d{n}.{}", "x".repeat(190))).unwrap())
            .collect();
        let too_many: Remembered = (0..400).map(|n| (long(n), domains.clone())).collect();
        let (kept, named) = from_file(&to_file(&held, &too_many), &own()).unwrap();
        assert!(
            kept == held && named.is_empty(),
            "the bundles are kept, the names are not"
        );
    }

    #[test]
    fn verifiers_get_each_domain_apart() {
        let held = federation(&[wire("a.test", &[root()], false), wire("b.test", &[root()], true)]);
        let view = mintage_revocation::Replica::new(&own()).handle();
        let trust = held.extend(Trust::builder(own()), &view).unwrap().build();
        assert_eq!(trust.domains().count(), 2);
        for foreign in held.iter() {
            let roots = trust.roots(foreign.domain()).unwrap();
            assert!(roots.map(|root| root.to_vec()).eq(foreign.roots().iter().cloned()));
        }
    }
}
