//! What lies in a folder, and what its servers were told of last: equal, and there is nothing for hooks to do.

use mintage_identity::{SpiffeId, UnixTime};
use mintage_svid::LeafInfo;
use mintage_verifier::{AllowedIds, Trust, Usage};
use ring::digest::{Context, SHA256};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;

use crate::{config::Delivery, held::Held};

/// Hashes of what was put into a folder and of what was to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    /// Of all files, whose they are, the hooks, and what is proven after them.
    pub(crate) all: [u8; 32],
    /// Of the lists of revoked certificates alone.
    pub(crate) lists: [u8; 32],
}

impl Content {
    /// Of these files of a delivery, by name, and the lists among them.
    pub(crate) fn of(delivery: &Delivery, files: &[(&str, &[u8])], lists: Option<&str>) -> Self {
        let mut all = Context::new(&SHA256);
        for number in [delivery.owner(), delivery.group(), delivery.mode()] {
            all.update(&number.to_be_bytes());
        }
        for (name, content) in files {
            add(&mut all, name.as_bytes());
            add(&mut all, content);
        }
        for part in delivery.hooks().iter().flat_map(|hook| hook.action.parts()) {
            add(&mut all, part.as_bytes());
        }
        for part in delivery.effect().iter().flat_map(|effect| effect.parts()) {
            add(&mut all, part.as_bytes());
        }
        let mut of_lists = Context::new(&SHA256);
        add(&mut of_lists, lists.unwrap_or_default().as_bytes());
        Self {
            all: octets(all),
            lists: octets(of_lists),
        }
    }
}

/// Each with its length before it, so that two of them never read as one.
fn add(to: &mut Context, bytes: &[u8]) {
    to.update(&(bytes.len() as u64).to_be_bytes());
    to.update(bytes);
}

fn octets(of: Context) -> [u8; 32] {
    let mut octets = [0; 32];
    octets.copy_from_slice(of.finish().as_ref());
    octets
}

/// What the servers read when their hooks last succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) content: Content,
    /// DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) id: SpiffeId,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

impl Served {
    /// This pair, of a folder with this content.
    pub(crate) fn of(held: &Held, content: Content) -> Self {
        Self {
            content,
            chain: held.chain().to_vec(),
            id: held.id().clone(),
            not_before: held.not_before(),
            not_after: held.not_after(),
        }
    }

    /// A chain that was kept.
    pub(crate) fn kept(chain: Vec<Vec<u8>>, content: Content) -> Result<Self, String> {
        let leaf = LeafInfo::parse(chain.first().ok_or("it has no certificate")?).map_err(|error| error.to_string())?;
        Ok(Self {
            content,
            id: leaf.id().clone(),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
            chain,
        })
    }

    /// Whether clients refuse it by now: it was revoked, or its root is no longer trusted.
    pub(crate) fn is_refused(&self, trust: &Trust, provider: &CryptoProvider, now: UnixTime) -> bool {
        let presented: Vec<CertificateDer<'_>> = self.chain.iter().map(|der| der.as_slice().into()).collect();
        let Ok(only) = AllowedIds::exact([self.id.clone()]) else {
            return true;
        };
        let algorithms = &provider.signature_verification_algorithms;
        trust.verify(&presented, Usage::Both, &only, algorithms, now).is_err()
    }
}

#[cfg(test)]
mod tests {
    use mintage_identity::EntryName;

    use super::*;
    use crate::config::{Effect, EffectProtocol};

    fn all(effect: Option<Effect>) -> [u8; 32] {
        let delivery = Delivery::new(EntryName::parse("web").unwrap(), "/run/web").unwrap();
        Content::of(&delivery.with_effect(effect), &[], None).all
    }

    #[test]
    fn another_effect_is_proven_anew_and_more_time_for_the_same_one_is_not() {
        let effect = Effect::new("127.0.0.1:443").unwrap();
        let known = all(Some(effect.clone()));
        let others = [
            None,
            Some(Effect::new("127.0.0.1:444").unwrap()),
            Some(Effect {
                protocol: EffectProtocol::Postgres,
                ..effect.clone()
            }),
            Some(Effect {
                server_name: Some("web.test".to_owned()),
                ..effect.clone()
            }),
        ];
        for other in others {
            assert_ne!(all(other.clone()), known, "{other:?}");
        }
        let patient = Effect {
            within: effect.within * 2,
            ..effect
        };
        assert_eq!(all(Some(patient)), known);
    }
}
