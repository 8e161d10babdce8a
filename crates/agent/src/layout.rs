//! How one generation of an identity looks as files: a closed list of layouts, so that a typo is refused and every
//! layout has a test.

use mintage_svid::pem::{encode_certificates, encode_private_key};
use zeroize::Zeroizing;

use crate::receipt::PROOF_FILE;

/// Names and contents of delivered files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// `svid.pem` (chain), `svid_key.pem`, `svid_bundle.pem`, and `svid_credential_bundle.pem`: the key first, then the
    /// chain, so that one read gets a matching pair.
    #[default]
    Split,
    /// `credential-bundle.private-key.pem` (key first, then the chain) and `<trust-domain>.spiffe-trust-bundle.pem`, as
    /// the SPIFFE Filesystem Delivery proposal names them.
    CredentialBundle,
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
    /// The proof that the leaf is in the CA's ledger (C2SP tlog-proof), where one is wanted and there: `svid.tlog-proof` in
    /// every layout.
    pub proof: Option<&'a [u8]>,
    /// The lists of revoked certificates in PEM, where they are wanted and there.
    pub crls: Option<&'a str>,
}

impl Layout {
    /// Every layout with the name a configuration gives it.
    pub const ALL: [(&'static str, Self); 2] = [("split", Self::Split), ("credential-bundle", Self::CredentialBundle)];

    /// The layout called `text`.
    ///
    /// # Errors
    /// The names that exist.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, layout)| *layout)
            .ok_or_else(|| {
                let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
                format!("layout {text:?} does not exist; layouts are {}", names.join(", "))
            })
    }

    /// The file of the lists of revoked certificates.
    const fn crl_file(self) -> &'static str {
        match self {
            Self::Split => "svid_crl.pem",
            Self::CredentialBundle => "crl.pem",
        }
    }

    /// The files of one generation.
    pub fn files(self, of: &Material<'_>) -> Vec<LayoutFile> {
        let chain = || encode_certificates(of.chain);
        let roots = encode_certificates(of.roots);
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
        let crls = of.crls.map(|text| public(self.crl_file(), text.to_owned()));
        let mut files = match self {
            Self::Split => vec![
                public("svid.pem", chain()),
                secret(
                    "svid_key.pem",
                    Zeroizing::new(encode_private_key(of.key).as_bytes().to_vec()),
                ),
                public("svid_bundle.pem", roots),
                secret("svid_credential_bundle.pem", key_first()),
            ],
            Self::CredentialBundle => vec![
                secret("credential-bundle.private-key.pem", key_first()),
                public(&format!("{}.spiffe-trust-bundle.pem", of.trust_domain), roots),
            ],
        };
        files.extend(crls);
        files.extend(proof);
        files
    }
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
            proof: Some(b"c2sp.org/tlog-proof@v1\n"),
            crls: Some("-----LIST-----\n"),
        };
        let text = |file: &LayoutFile| String::from_utf8(file.content.to_vec()).unwrap();
        layout
            .files(&material)
            .iter()
            .map(|f| (f.name.clone(), text(f), f.secret))
            .collect()
    }

    #[test]
    fn every_file_with_a_key_is_marked_secret_and_no_other() {
        for (name, layout) in Layout::ALL {
            assert_eq!(Layout::parse(name), Ok(layout));
            for (file, text, secret) in files(layout) {
                assert_eq!(text.contains("PRIVATE KEY"), secret, "{name}: {file}");
            }
        }
        assert!(Layout::parse("spilt").unwrap_err().contains("split"));
    }

    #[test]
    fn the_single_file_has_the_key_first_and_then_the_whole_chain() {
        for layout in [Layout::Split, Layout::CredentialBundle] {
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
    fn the_lists_lie_in_a_file_of_their_own_that_is_no_secret() {
        for (layout, name) in [(Layout::Split, "svid_crl.pem"), (Layout::CredentialBundle, "crl.pem")] {
            let all = files(layout);
            let with: Vec<_> = all.iter().filter(|(_, text, _)| text.contains("LIST")).collect();
            assert_eq!(with, [&(name.to_owned(), "-----LIST-----\n".to_owned(), false)]);
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
