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
use mintage_svid::pem::{encode_certificates, encode_private_key};
use prost::Message as _;
use ring::digest::{Context as Hasher, SHA256};

use super::{ask::SECRET_TYPE, state::Catalogue};
use crate::{
    bundle::Bundle,
    config::{Sds, Validator},
    crls::Crls,
    limits::SDS_CRLS_BYTES_MAX,
    workload::view::WorkloadSvid,
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
    pub(super) bundle: &'a Arc<Bundle>,
    pub(super) crls: &'a Arc<Crls>,
    pub(super) settings: &'a Sds,
    pub(super) validator: Validator,
    pub(super) contexts: &'a Contexts,
}

/// What a name stands for.
enum Found<'a> {
    Svid(&'a WorkloadSvid),
    Context,
}

impl Offer<'_> {
    fn find(&self, name: &str) -> Option<Found<'_>> {
        let settings = self.settings;
        if name == settings.svid_name() {
            return self.svids.first().map(Found::Svid);
        }
        // There is one trust domain, so that all bundles are its own.
        let bundles = [settings.bundle_name(), settings.all_bundles_name()];
        if bundles.contains(&name) || name == self.bundle.trust_domain().id().as_str() {
            return Some(Found::Context);
        }
        let svid = self.svids.iter().find(|svid| svid.held.id().as_str() == name);
        svid.map(Found::Svid)
    }

    fn context(&self, name: &str) -> Context {
        self.contexts.get(self.bundle, self.crls, name, self.validator)
    }

    /// The secret of this name, if the caller may have it.
    pub(super) fn secret(&self, name: &str) -> Option<Any> {
        let value = match self.find(name)? {
            Found::Svid(svid) => certificate(name, svid),
            Found::Context => self.context(name).octets,
        };
        Some(Any {
            type_url: SECRET_TYPE.to_owned(),
            value,
        })
    }

    /// Why a context that is asked for cannot be given yet.
    pub(super) fn lacks<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> Option<String> {
        let lists = self.crls.total_bytes();
        let fits = (1..=SDS_CRLS_BYTES_MAX).contains(&lists);
        if self.validator == Validator::Spiffe
            || fits
            || !names.any(|name| matches!(self.find(name), Some(Found::Context)))
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
            Found::Context => self.context(name).version,
        })
    }

    fn everything(&self) -> Vec<String> {
        let svids = self.svids.iter().map(|svid| svid.held.id().to_string());
        svids.chain([self.bundle.trust_domain().id().to_string()]).collect()
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

fn validation(bundle: &Bundle, crls: &Crls, validator: Validator) -> CertificateValidationContext {
    let roots = encode_certificates(bundle.roots());
    match validator {
        Validator::Plain => CertificateValidationContext {
            trusted_ca: inline(&roots),
            crl: crls.to_pem().as_deref().and_then(inline),
            // Otherwise one list that is missing or over, of whatever CA in the chain, refuses every peer.
            only_verify_leaf_cert_crl: true,
            custom_validator_config: None,
        },
        Validator::Spiffe => {
            let domain = TrustDomain {
                name: bundle.trust_domain().to_string(),
                trust_bundle: inline(&roots),
            };
            let config = SpiffeCertValidatorConfig {
                trust_domains: vec![domain],
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

struct Rendered {
    bundle: Arc<Bundle>,
    crls: Arc<Crls>,
    /// Three names at most, for each validator.
    made: HashMap<(String, Validator), Context>,
}

impl Contexts {
    fn get(&self, bundle: &Arc<Bundle>, crls: &Arc<Crls>, name: &str, validator: Validator) -> Context {
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
            let kind = Type::ValidationContext(validation(bundle, crls, validator));
            let octets = sealed(name, kind);
            Context {
                version: digest([&octets[..]]),
                octets,
            }
        };
        current
            .made
            .entry((name.to_owned(), validator))
            .or_insert_with(make)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use mintage_proto::v1;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

    use super::*;

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
        let get = |bundle: &Arc<Bundle>, name: &str, validator| contexts.get(bundle, &crls, name, validator);
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
        let offer = |validator| Offer {
            svids: &[],
            bundle: &bundle,
            crls: &crls,
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
