//! Whatever bytes a peer sends: no panic, and nothing accepted that differs from a good chain by a single bit.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use mintage_verifier::{AllowedIds, RevocationCheck, Trust, Usage, VerifiedPeer, VerifyError};
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use support::{Ca, FakeView, now, provider, trust};

struct Good {
    chain: Vec<Vec<u8>>,
    trust: Trust,
}

thread_local! {
    static GOOD: Good = {
        let root = Ca::root("root");
        let leaf = root.intermediate("cell").intermediate("issuing").good_leaf("spiffe://a.test/web");
        Good {
            chain: leaf.chain.iter().map(|der| der.to_vec()).collect(),
            trust: trust("a.test", &root, RevocationCheck::required(FakeView::fresh())),
        }
    };
}

fn verify(trust: &Trust, chain: &[Vec<u8>]) -> Result<VerifiedPeer, VerifyError> {
    let presented: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let algorithms = provider().signature_verification_algorithms;
    trust.verify(&presented, Usage::Both, &AllowedIds::OwnTrustDomain, &algorithms, now())
}

#[test]
fn the_good_chain_is_good() {
    GOOD.with(|good| assert!(verify(&good.trust, &good.chain).is_ok()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn one_flipped_bit_anywhere_is_refused(which in 0..3usize, at in any::<prop::sample::Index>(), bit in 0..8u8) {
        GOOD.with(|good| {
            let mut chain = good.chain.clone();
            let place = at.index(chain[which].len());
            chain[which][place] ^= 1 << bit;
            prop_assert!(verify(&good.trust, &chain).is_err());
            Ok(())
        })?;
    }

    #[test]
    fn a_byte_more_or_less_is_refused(which in 0..3usize, at in any::<prop::sample::Index>(), more in any::<Option<u8>>()) {
        GOOD.with(|good| {
            let mut chain = good.chain.clone();
            match more {
                Some(octet) => chain[which].insert(at.index(good.chain[which].len() + 1), octet),
                None => { chain[which].remove(at.index(good.chain[which].len())); }
            }
            // Doubling an octet inside a run of equal ones is the same insertion at several places, never a good chain.
            prop_assert!(verify(&good.trust, &chain).is_err());
            Ok(())
        })?;
    }

    #[test]
    fn any_bytes_are_answered_without_panic(chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..12)) {
        GOOD.with(|good| {
            prop_assert!(verify(&good.trust, &chain).is_err());
            Ok(())
        })?;
    }

    #[test]
    fn any_order_of_the_issuers_is_answered(order in Just(vec![1usize, 2]).prop_shuffle(), extra in 0..3usize) {
        GOOD.with(|good| {
            let mut chain = vec![good.chain[0].clone()];
            chain.extend(order.iter().map(|&place| good.chain[place].clone()));
            chain.insert(1, good.chain[extra].clone());
            // Issuers in order pass whatever stands between them; out of order they need not, and nothing panics.
            let in_order = order == [1, 2];
            let outcome = verify(&good.trust, &chain);
            prop_assert!(outcome.is_ok() || !in_order, "{:?}", outcome.err());
            Ok(())
        })?;
    }
}
