//! How one generation of an identity looks as files: a closed list of layouts, so that a typo is refused and every
//! layout has a test.

use mintage_svid::pem::{encode_certificates, encode_private_key};
use zeroize::Zeroizing;

use crate::receipt::PROOF_FILE;

mod pkcs12;

pub use pkcs12::StorePassword;

/// Names and contents of delivered files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// `svid.pem` (chain), `svid_key.pem`, `svid_bundle.pem`, and `svid_credential_bundle.pem`: the key first, then the
    /// chain, so that one read gets a matching pair.
    #[default]
    Split,
    /// `credential-bundle.private-key.pem` (key first, then the chain) and `<trust-domain>.spiffe-trust-bundle.pem`, as
    /// the SPIFFE Filesystem Delivery proposal names them.
    Spiffe,
    /// `tls.crt` (chain), `tls.key` and `ca.crt`, as Kubernetes TLS secrets and cert-manager name them.
    Kubernetes,
    /// `haproxy.pem` (chain, then the key) and `ca.pem`.
    Haproxy,
    /// `keystore.p12` (key and chain, alias `svid`) and `truststore.p12`, under a password.
    Pkcs12,
    /// The same octets as `keystore.jks` and `truststore.jks`: Java opens PKCS#12 as a store of type JKS too (its property
    /// `keystore.type.compat`), and JKS proper would guard the key by a cipher of its own on SHA-1.
    Jks,
}

/// One file of a generation.
pub struct LayoutFile {
    /// Its name in the folder.
    pub name: String,
    /// Its whole content.
    pub content: Zeroizing<Vec<u8>>,
    /// True when the private key is in it.
    pub secret: bool,
}

/// The roots of another trust domain, DER.
pub struct FederatedRoots<'a> {
    /// Its name: a letter or digit first.
    pub trust_domain: &'a str,
    /// Its roots; without any there is no file.
    pub roots: &'a [Vec<u8>],
}

/// What a generation is made of, all DER.
pub struct Material<'a> {
    /// The trust domain's name.
    pub trust_domain: &'a str,
    /// The private key, PKCS#8.
    pub key: &'a [u8],
    /// The certificates, leaf first, without the root.
    pub chain: &'a [Vec<u8>],
    /// The trust domain's roots.
    pub roots: &'a [Vec<u8>],
    /// The roots of each other trust domain that it federates with.
    pub federated: &'a [FederatedRoots<'a>],
    /// The proof that the leaf is in the CA's ledger (C2SP tlog-proof), where one is wanted and there: `svid.tlog-proof` in
    /// every layout.
    pub proof: Option<&'a [u8]>,
    /// What a store is opened with; a layout of stores has none without.
    pub password: Option<&'a StorePassword>,
}

/// The one file that HAProxy loads as a certificate.
pub(crate) const HAPROXY_FILE: &str = "haproxy.pem";
/// The roots beside it.
pub(crate) const HAPROXY_CA_FILE: &str = "ca.pem";

/// Chain and key in one text, as HAProxy's `crt` and `set ssl cert` take them.
pub(crate) fn haproxy_pem(chain: &[Vec<u8>], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut both = Zeroizing::new(Vec::with_capacity(8 * 1024));
    both.extend_from_slice(encode_certificates(chain).as_bytes());
    both.extend_from_slice(encode_private_key(key).as_bytes());
    both
}

impl Layout {
    /// Every layout with the name a configuration gives it.
    pub const ALL: [(&'static str, Self); 6] = [
        ("split", Self::Split),
        ("spiffe", Self::Spiffe),
        ("kubernetes", Self::Kubernetes),
        ("haproxy", Self::Haproxy),
        ("pkcs12", Self::Pkcs12),
        ("jks", Self::Jks),
    ];
    /// What the layout `spiffe` was called before; still read.
    const SPIFFE_BEFORE: &'static str = "credential-bundle";

    /// The layout called `text`.
    ///
    /// # Errors
    /// The names that exist.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == Self::SPIFFE_BEFORE {
            return Ok(Self::Spiffe);
        }
        Self::ALL
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, layout)| *layout)
            .ok_or_else(|| {
                let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
                format!("layout {text:?} does not exist; layouts are {}", names.join(", "))
            })
    }

    /// The file of the lists of revoked certificates, which lie in none of [`Self::files`]: they are the same in every folder,
    /// and so long that no folder makes a copy of its own.
    pub(crate) const fn crl_file(self) -> &'static str {
        match self {
            Self::Split => "svid_crl.pem",
            Self::Spiffe | Self::Haproxy | Self::Pkcs12 | Self::Jks => "crl.pem",
            Self::Kubernetes => "ca.crl",
        }
    }

    /// The file with the roots of another trust domain.
    fn federated_file(self, trust_domain: &str) -> String {
        match self {
            Self::Spiffe => spiffe_bundle_file(trust_domain),
            _ => format!("{trust_domain}.federated.pem"),
        }
    }

    /// Whether other trust domains' roots lie beside the own ones unless the delivery says otherwise: the one layout that has
    /// names for them.
    pub(crate) const fn is_federated(self) -> bool {
        matches!(self, Self::Spiffe)
    }

    /// Whether its files are stores under a password.
    pub const fn has_password(self) -> bool {
        matches!(self, Self::Pkcs12 | Self::Jks)
    }

    /// The files of one generation, all but that of the lists.
    ///
    /// # Errors
    /// Why a store cannot be made; that there is no password for it.
    pub fn files(self, of: &Material<'_>) -> Result<Vec<LayoutFile>, String> {
        let chain = || encode_certificates(of.chain);
        let roots = encode_certificates(of.roots);
        let key = || Zeroizing::new(encode_private_key(of.key).as_bytes().to_vec());
        let key_first = || {
            let mut both = Zeroizing::new(Vec::with_capacity(8 * 1024));
            both.extend_from_slice(encode_private_key(of.key).as_bytes());
            both.extend_from_slice(chain().as_bytes());
            both
        };
        let public = |name: &str, text: String| LayoutFile {
            name: name.to_owned(),
            content: Zeroizing::new(text.into_bytes()),
            secret: false,
        };
        let secret = |name: &str, content| LayoutFile {
            name: name.to_owned(),
            content,
            secret: true,
        };
        let proof = of.proof.map(|proof| LayoutFile {
            name: PROOF_FILE.to_owned(),
            content: Zeroizing::new(proof.to_vec()),
            secret: false,
        });
        let mut files = match self {
            Self::Split => vec![
                public("svid.pem", chain()),
                secret("svid_key.pem", key()),
                public("svid_bundle.pem", roots),
                secret("svid_credential_bundle.pem", key_first()),
            ],
            Self::Spiffe => vec![
                secret("credential-bundle.private-key.pem", key_first()),
                public(&spiffe_bundle_file(of.trust_domain), roots),
            ],
            Self::Kubernetes => vec![
                public("tls.crt", chain()),
                secret("tls.key", key()),
                public("ca.crt", roots),
            ],
            Self::Haproxy => vec![
                secret(HAPROXY_FILE, haproxy_pem(of.chain, of.key)),
                public(HAPROXY_CA_FILE, roots),
            ],
            Self::Pkcs12 => stores(of, "p12")?,
            Self::Jks => stores(of, "jks")?,
        };
        let foreign = of.federated.iter().filter(|foreign| !foreign.roots.is_empty());
        files.extend(foreign.map(|foreign| {
            public(
                &self.federated_file(foreign.trust_domain),
                encode_certificates(foreign.roots),
            )
        }));
        files.extend(proof);
        Ok(files)
    }
}

/// The SPIFFE Filesystem Delivery proposal's name of a trust bundle.
fn spiffe_bundle_file(trust_domain: &str) -> String {
    format!("{trust_domain}.spiffe-trust-bundle.pem")
}

/// Key store and trust store.
fn stores(of: &Material<'_>, extension: &str) -> Result<Vec<LayoutFile>, String> {
    let password = of.password.ok_or("a layout of stores needs password_file")?;
    let keys = LayoutFile {
        name: format!("keystore.{extension}"),
        content: pkcs12::key_store(of, password)?,
        secret: true,
    };
    let roots = LayoutFile {
        name: format!("truststore.{extension}"),
        content: Zeroizing::new(pkcs12::trust_store(of, password)),
        secret: false,
    };
    Ok(vec![keys, roots])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(layout: Layout) -> Vec<(String, String, bool)> {
        let material = Material {
            trust_domain: "dev.test",
            key: b"key",
            chain: &[b"leaf".to_vec(), b"ca".to_vec()],
            roots: &[b"root".to_vec()],
            federated: &[
                FederatedRoots {
                    trust_domain: "other.test",
                    roots: &[b"foreign".to_vec()],
                },
                FederatedRoots {
                    trust_domain: "tokens.test",
                    roots: &[],
                },
            ],
            proof: Some(b"c2sp.org/tlog-proof@v1\n"),
            password: Some(&StorePassword::parse("correct horse").unwrap()),
        };
        let text = |file: &LayoutFile| String::from_utf8_lossy(&file.content).into_owned();
        layout
            .files(&material)
            .unwrap()
            .iter()
            .map(|f| (f.name.clone(), text(f), f.secret))
            .collect()
    }

    #[test]
    fn every_file_with_a_key_is_marked_secret_and_no_other() {
        for (name, layout) in Layout::ALL {
            assert_eq!(Layout::parse(name), Ok(layout));
            for (file, text, secret) in files(layout) {
                let has_key = text.contains("PRIVATE KEY") || file.starts_with("keystore.");
                assert_eq!(has_key, secret, "{name}: {file}");
            }
        }
        assert!(Layout::parse("spilt").unwrap_err().contains("split"));
        assert_eq!(Layout::parse("credential-bundle"), Ok(Layout::Spiffe));
    }

    #[test]
    fn the_names_are_those_that_other_software_reads() {
        let names = |layout| -> Vec<String> { files(layout).into_iter().map(|(name, _, _)| name).take(3).collect() };
        assert_eq!(names(Layout::Kubernetes), ["tls.crt", "tls.key", "ca.crt"]);
        assert_eq!(
            names(Layout::Haproxy),
            ["haproxy.pem", "ca.pem", "other.test.federated.pem"]
        );
        assert_eq!(names(Layout::Spiffe)[0], "credential-bundle.private-key.pem");
        assert_eq!(names(Layout::Pkcs12)[..2], ["keystore.p12", "truststore.p12"]);
        assert_eq!(names(Layout::Jks)[..2], ["keystore.jks", "truststore.jks"]);
        let (_, one, _) = files(Layout::Haproxy).swap_remove(0);
        // HAProxy ends what its socket is given at the first empty line.
        assert!(!one.contains("\n\n") && one.find("CERTIFICATE") < one.find("PRIVATE KEY"));
    }

    #[test]
    fn the_single_file_has_the_key_first_and_then_the_whole_chain() {
        for layout in [Layout::Split, Layout::Spiffe] {
            let all = files(layout);
            let (_, text, _) = all
                .iter()
                .find(|(_, text, _)| text.matches("BEGIN").count() == 3)
                .unwrap();
            let order: Vec<&str> = text.lines().filter(|line| line.contains("BEGIN")).collect();
            assert!(order[0].contains("PRIVATE KEY") && order[1].contains("CERTIFICATE") && order[2] == order[1]);
        }
    }

    #[test]
    fn the_lists_have_a_file_of_their_own() {
        for (layout, name) in [
            (Layout::Split, "svid_crl.pem"),
            (Layout::Spiffe, "crl.pem"),
            (Layout::Kubernetes, "ca.crl"),
            (Layout::Haproxy, "crl.pem"),
            (Layout::Pkcs12, "crl.pem"),
            (Layout::Jks, "crl.pem"),
        ] {
            assert_eq!(layout.crl_file(), name);
            assert!(!files(layout).iter().any(|(file, ..)| file == name), "{name}");
        }
    }

    #[test]
    fn each_other_trust_domain_has_its_roots_in_a_file_of_its_own() {
        for (name, layout) in Layout::ALL {
            let all = files(layout);
            let foreign = encode_certificates([b"foreign"]);
            let with: Vec<_> = all.iter().filter(|(_, text, _)| *text == foreign).collect();
            let expected = match layout {
                Layout::Spiffe => "other.test.spiffe-trust-bundle.pem",
                _ => "other.test.federated.pem",
            };
            assert_eq!(with, [&(expected.to_owned(), foreign.clone(), false)], "{name}");
            assert!(
                !all.iter().any(|(file, ..)| file.starts_with("tokens.test")),
                "{name}: nothing to vouch by"
            );
        }
    }

    #[test]
    fn a_proof_lies_beside_the_certificate_in_every_layout() {
        for (name, layout) in Layout::ALL {
            let named =
                |files: Vec<(String, String, bool)>| files.iter().filter(|file| file.0 == "svid.tlog-proof").count();
            assert_eq!(named(files(layout)), 1, "{name}");
        }
    }
}
