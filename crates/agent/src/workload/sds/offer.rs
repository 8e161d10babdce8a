//! What one caller may have now as Envoy's secrets, by the names it can ask for. Contexts, which hold lists of revoked
//! certificates, are encoded once for all callers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use mintage_proto::sds::{
    Any, CertificateValidationContext, DataSource, Secret, SpiffeCertValidatorConfig, TlsCertificate,
    TypedExtensionConfig, data_source::Specifier, secret::Type, spiffe_cert_validator_config::TrustDomain,
};
use mintage_svid::{
    TrustBundle,
    pem::{encode_certificates, encode_private_key},
};
use prost::Message as _;
use ring::digest::{Context as Hasher, SHA256};

use super::{ask::SECRET_TYPE, state::Catalogue};
use crate::{
    bundle::Bundle,
    config::{Sds, Validator},
    crls::Crls,
    federation::{Foreign, same},
    limits::{SDS_CRLS_BYTES_MAX, SDS_VARIANTS_MAX},
    workload::view::{Trusted, WorkloadSvid},
};

const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const SPIFFE_VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// Octets of a version: two contents of one name never meet.
const VERSION_OCTETS: usize = 16;

/// One name for these parts in their order.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Hasher::new(&SHA256);
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex::encode(&hasher.finish().as_ref()[..VERSION_OCTETS])
}

/// What one caller may have.
pub(super) struct Offer<'a> {
    pub(super) svids: &'a [WorkloadSvid],
    pub(super) trust: &'a Trusted,
    pub(super) settings: &'a Sds,
    pub(super) validator: Validator,
    pub(super) contexts: &'a Contexts,
}

/// What a name stands for.
enum Found<'a> {
    Svid(&'a WorkloadSvid),
    Context(Whose<'a>),
}

/// Whose roots a context has.
#[derive(Clone, Copy)]
enum Whose<'a> {
    /// The own trust domain's.
    Own,
    /// Those of the own trust domain and of these.
    All(&'a [Arc<Foreign>]),
    /// Those of one other trust domain.
    Other(&'a Arc<Foreign>),
}

impl<'a> Whose<'a> {
    /// The other trust domains among them.
    fn others(self) -> &'a [Arc<Foreign>] {
        match self {
            Self::Own => &[],
            Self::All(others) => others,
            Self::Other(other) => std::slice::from_ref(other),
        }
    }
}

impl Offer<'_> {
    fn find(&self, name: &str) -> Option<Found<'_>> {
        let settings = self.settings;
        if name == settings.svid_name() {
            return self.svids.first().map(Found::Svid);
        }
        if name == settings.bundle_name() || name == self.trust.bundle.trust_domain().id().as_str() {
            return Some(Found::Context(Whose::Own));
        }
        if name == settings.all_bundles_name() {
            return Some(Found::Context(match self.validator {
                // It holds each trust domain to its own roots.
                Validator::Spiffe => Whose::All(&self.trust.federated),
                // In one list, the roots of one could vouch for the identities of another.
                Validator::Plain => Whose::Own,
            }));
        }
        let other = self.others().find(|other| other.domain().id().as_str() == name);
        if let Some(other) = other {
            return Some(Found::Context(Whose::Other(other)));
        }
        let svid = self.svids.iter().find(|svid| svid.held.id().as_str() == name);
        svid.map(Found::Svid)
    }

    /// The other trust domains that have a context of their own. The validator `plain` asks lists of revoked certificates, which
    /// are not there for them: it gets those alone about whom nothing is to be asked.
    fn others(&self) -> impl Iterator<Item = &Arc<Foreign>> {
        let usable = |other: &&Arc<Foreign>| {
            !other.roots().is_empty() && (self.validator == Validator::Spiffe || other.is_unchecked())
        };
        self.trust.federated.iter().filter(usable)
    }

    fn context(&self, name: &str, whose: Whose<'_>) -> Context {
        self.contexts.get(self.trust, whose, name, self.validator)
    }

    /// The secret of this name, if the caller may have it.
    pub(super) fn secret(&self, name: &str) -> Option<Any> {
        let value = match self.find(name)? {
            Found::Svid(svid) => certificate(name, svid),
            Found::Context(whose) => self.context(name, whose).octets,
        };
        Some(Any {
            type_url: SECRET_TYPE.to_owned(),
            value,
        })
    }

    /// Why a context that is asked for cannot be given yet.
    pub(super) fn lacks<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> Option<String> {
        let lists = self.trust.crls.total_bytes();
        let fits = (1..=SDS_CRLS_BYTES_MAX).contains(&lists);
        if self.validator == Validator::Spiffe
            || fits
            || !names.any(|name| matches!(self.find(name), Some(Found::Context(Whose::Own | Whose::All(_)))))
        {
            return None;
        }
        Some(match lists {
            0 => "there is no list of revoked certificates yet, without which everything revoked would be accepted; wait \
                  for it, or use the validator \"spiffe\""
                .to_owned(),
            _ => format!(
                "the lists of revoked certificates have {lists} bytes, the limit is {SDS_CRLS_BYTES_MAX}; use the validator \
                 \"spiffe\""
            ),
        })
    }

    /// The names that there are, for a message.
    pub(super) fn names(&self) -> Vec<String> {
        let settings = self.settings;
        let own = [settings.bundle_name(), settings.all_bundles_name()].map(str::to_owned);
        let first = self.svids.first().map(|_| settings.svid_name().to_owned());
        first.into_iter().chain(own).chain(self.everything()).collect()
    }
}

impl Catalogue for Offer<'_> {
    fn version(&self, name: &str) -> Option<String> {
        Some(match self.find(name)? {
            // The chain tells the key, which it certifies.
            Found::Svid(svid) => digest(svid.held.chain().iter().map(Vec::as_slice)),
            Found::Context(whose) => self.context(name, whose).version,
        })
    }

    fn everything(&self) -> Vec<String> {
        let svids = self.svids.iter().map(|svid| svid.held.id().to_string());
        let others = self.others().map(|other| other.domain().id().to_string());
        svids
            .chain([self.trust.bundle.trust_domain().id().to_string()])
            .chain(others)
            .collect()
    }
}

fn inline(text: &str) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())),
    })
}

fn certificate(name: &str, svid: &WorkloadSvid) -> Bytes {
    let certificate = TlsCertificate {
        certificate_chain: inline(&encode_certificates(svid.held.chain())),
        private_key: inline(&encode_private_key(svid.held.key())),
    };
    sealed(name, Type::TlsCertificate(certificate))
}

fn sealed(name: &str, kind: Type) -> Bytes {
    let secret = Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    };
    secret.encode_to_vec().into()
}

fn validation(trust: &Trusted, whose: Whose<'_>, validator: Validator) -> CertificateValidationContext {
    match (validator, whose) {
        (Validator::Plain, Whose::Other(other)) => CertificateValidationContext {
            trusted_ca: inline(&encode_certificates(other.roots())),
            ..CertificateValidationContext::default()
        },
        (Validator::Plain, Whose::Own | Whose::All(_)) => CertificateValidationContext {
            trusted_ca: inline(&encode_certificates(trust.bundle.roots())),
            crl: trust.crls.pem().and_then(inline),
            // Otherwise one list that is missing or over, of whatever CA in the chain, refuses every peer.
            only_verify_leaf_cert_crl: true,
            custom_validator_config: None,
        },
        (Validator::Spiffe, _) => {
            let own = (!matches!(whose, Whose::Other(_))).then(|| trust.bundle.document());
            let others = whose.others().iter().map(|other| other.document());
            // Envoy refuses a trust domain without roots.
            let others = others.filter(|document| !document.roots().is_empty());
            let domain = |document: &TrustBundle| TrustDomain {
                name: document.trust_domain().to_string(),
                trust_bundle: inline(&encode_certificates(document.roots())),
            };
            let config = SpiffeCertValidatorConfig {
                trust_domains: own.into_iter().chain(others).map(domain).collect(),
            };
            let typed_config = Any {
                type_url: SPIFFE_VALIDATOR_TYPE.to_owned(),
                value: config.encode_to_vec().into(),
            };
            CertificateValidationContext {
                custom_validator_config: Some(TypedExtensionConfig {
                    name: SPIFFE_VALIDATOR.to_owned(),
                    typed_config: Some(typed_config),
                }),
                ..CertificateValidationContext::default()
            }
        }
    }
}

/// A context as it is sent.
#[derive(Clone)]
struct Context {
    version: String,
    octets: Bytes,
}

/// The contexts of the bundle and the lists in force, each encoded once.
#[derive(Default)]
pub(super) struct Contexts(Mutex<Option<Rendered>>);

/// A context, and the other trust domains that are in it.
type Variant = (Vec<Arc<Foreign>>, Context);

struct Rendered {
    bundle: Arc<Bundle>,
    crls: Arc<Crls>,
    /// For each validator, three names at most and those of other trust domains; for each, one of every set of other trust domains
    /// that callers federate with, up to a limit.
    made: HashMap<(String, Validator), Vec<Variant>>,
}

impl Contexts {
    fn get(&self, trust: &Trusted, whose: Whose<'_>, name: &str, validator: Validator) -> Context {
        let (bundle, crls) = (&trust.bundle, &trust.crls);
        let mut rendered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = rendered.take().filter(|old| {
            // A caller who has not seen the newest yet makes the old one again, once.
            Arc::ptr_eq(&old.bundle, bundle) && Arc::ptr_eq(&old.crls, crls)
        });
        let current = rendered.insert(current.unwrap_or_else(|| Rendered {
            bundle: bundle.clone(),
            crls: crls.clone(),
            made: HashMap::new(),
        }));
        let make = || {
            let kind = Type::ValidationContext(validation(trust, whose, validator));
            let octets = sealed(name, kind);
            Context {
                version: digest([&octets[..]]),
                octets,
            }
        };
        let variants = current.made.entry((name.to_owned(), validator)).or_default();
        let others = whose.others();
        if let Some((_, context)) = variants.iter().find(|(of, _)| same(of, others)) {
            return context.clone();
        }
        if variants.len() >= SDS_VARIANTS_MAX {
            // Bundles that went away are among them, too.
            variants.clear();
        }
        let context = make();
        variants.push((others.to_vec(), context.clone()));
        context
    }
}

#[cfg(test)]
mod tests {
    use mintage_proto::v1;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

    use super::*;
    use crate::federation::{
        Federation,
        tests::{federation, root, wire},
    };

    fn trusted(bundle: &Arc<Bundle>, crls: &Arc<Crls>, federation: &Federation) -> Trusted {
        Trusted {
            bundle: bundle.clone(),
            federated: federation.iter().cloned().collect(),
            crls: crls.clone(),
        }
    }

    /// The trust domains of a context for the SPIFFE validator.
    fn domains_of(offer: &Offer<'_>, name: &str) -> Vec<String> {
        let secret = Secret::decode(&offer.secret(name).unwrap().value[..]).unwrap();
        let Some(Type::ValidationContext(context)) = secret.r#type else {
            panic!("{name} is no context")
        };
        let typed = context.custom_validator_config.unwrap().typed_config.unwrap();
        let config = SpiffeCertValidatorConfig::decode(&typed.value[..]).unwrap();
        config.trust_domains.into_iter().map(|domain| domain.name).collect()
    }

    #[test]
    fn other_trust_domains_are_apart_and_the_plain_validator_gets_only_those_it_need_not_ask_about() {
        let (contexts, crls, bundle, settings) = (Contexts::default(), Arc::default(), bundle(), Sds::default());
        let others = federation(&[
            wire("asked.test", &[root()], false),
            wire("unasked.test", &[root()], true),
        ]);
        let with = trusted(&bundle, &crls, &others);
        let without = trusted(&bundle, &crls, &Federation::default());
        let offer = |trust, validator| Offer {
            svids: &[],
            trust,
            settings: &settings,
            validator,
            contexts: &contexts,
        };
        let spiffe = offer(&with, Validator::Spiffe);
        assert_eq!(domains_of(&spiffe, "ALL"), ["dev.test", "asked.test", "unasked.test"]);
        assert_eq!(domains_of(&spiffe, "ROOTCA"), ["dev.test"]);
        assert_eq!(domains_of(&spiffe, "spiffe://asked.test"), ["asked.test"]);
        let names = ["spiffe://dev.test", "spiffe://asked.test", "spiffe://unasked.test"];
        assert_eq!(spiffe.everything(), names);
        let plain = offer(&with, Validator::Plain);
        assert_eq!(plain.everything(), ["spiffe://dev.test", "spiffe://unasked.test"]);
        assert!(plain.secret("spiffe://asked.test").is_none());
        assert_eq!(
            plain.lacks(["spiffe://unasked.test"].into_iter()),
            None,
            "it needs no list"
        );
        let alone = offer(&without, Validator::Spiffe);
        assert_eq!(
            domains_of(&alone, "ALL"),
            ["dev.test"],
            "two callers may have different ones"
        );
        assert!(alone.secret("spiffe://asked.test").is_none());
        assert_ne!(alone.version("ALL"), spiffe.version("ALL"));
    }

    fn bundle() -> Arc<Bundle> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let wire = v1::TrustBundle {
            trust_domain: "dev.test".to_owned(),
            sequence: 1,
            roots: vec![root.der().to_vec()],
            ..v1::TrustBundle::default()
        };
        Arc::new(Bundle::from_wire(&wire).unwrap())
    }

    #[test]
    fn a_context_is_encoded_once_for_all_and_anew_for_another_bundle() {
        let (contexts, crls) = (Contexts::default(), Arc::new(Crls::default()));
        let (one, other) = (bundle(), bundle());
        let get = |bundle: &Arc<Bundle>, name: &str, validator| {
            let trust = trusted(bundle, &crls, &Federation::default());
            contexts.get(&trust, Whose::Own, name, validator)
        };
        let first = get(&one, "ROOTCA", Validator::Plain);
        let again = get(&one, "ROOTCA", Validator::Plain);
        assert_eq!(first.octets.as_ptr(), again.octets.as_ptr(), "the same memory");
        assert_ne!(first.version, get(&one, "ROOTCA", Validator::Spiffe).version);
        assert_ne!(first.version, get(&one, "ALL", Validator::Plain).version);
        assert_ne!(first.version, get(&other, "ROOTCA", Validator::Plain).version);
        let back = get(&one, "ROOTCA", Validator::Plain);
        assert_eq!(first.version, back.version, "a version is its content's");
        let rendered = contexts.0.lock().unwrap();
        assert_eq!(
            rendered.as_ref().unwrap().made.len(),
            1,
            "what is of no use is not kept"
        );
    }

    #[test]
    fn without_a_list_the_plain_validator_gets_no_roots() {
        let (contexts, crls, bundle, settings) = (Contexts::default(), Arc::default(), bundle(), Sds::default());
        let trust = trusted(&bundle, &crls, &Federation::default());
        let offer = |validator| Offer {
            svids: &[],
            trust: &trust,
            settings: &settings,
            validator,
            contexts: &contexts,
        };
        let lacks = |validator, name| offer(validator).lacks([name].into_iter());
        for name in ["ROOTCA", "ALL", "spiffe://dev.test"] {
            assert!(lacks(Validator::Plain, name).unwrap().contains("no list"), "{name}");
            assert_eq!(lacks(Validator::Spiffe, name), None);
        }
        assert_eq!(lacks(Validator::Plain, "default"), None, "a certificate needs none");
        assert_eq!(offer(Validator::Plain).version("spiffe://other.test"), None);
    }
}
